//! An application's socket in our hands.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use super::holders;
use crate::sys::pidfd::{TakeError, take};

/// A duplicate of an application's socket, with where it was found. The application's own end of it sends its FIN only
/// when this is dropped, too.
#[derive(Debug)]
pub struct Taken {
    duplicate: OwnedFd,
    pid: u32,
    number: RawFd,
    cgroup: Option<PathBuf>,
}

impl Taken {
    /// Duplicates the descriptor `number` of the process `pid`, which must be the socket with this `SO_COOKIE`.
    /// `mount`: of cgroup v2.
    ///
    /// # Errors
    /// As [`take`].
    pub fn take(pid: u32, number: RawFd, cookie: u64, mount: &Path) -> Result<Self, TakeError> {
        let duplicate = take(pid, number, cookie)?;
        // Now, since the process may be gone when its children are looked for.
        let cgroup = holders::cgroup_of(pid, mount);
        Ok(Self { duplicate, pid, number, cgroup })
    }

    /// The process it was taken from.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its number there.
    #[must_use]
    pub fn number(&self) -> RawFd {
        self.number
    }

    /// The cgroup directory of that process; `None` where it could not be read.
    #[must_use]
    pub fn cgroup(&self) -> Option<&Path> {
        self.cgroup.as_deref()
    }
}

impl AsFd for Taken {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.duplicate.as_fd()
    }
}
