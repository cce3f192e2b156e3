//! An application's socket in our hands.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use super::holders;
use crate::sys::pidfd::{TakeError, take};

/// So many sockets are looked at where the number is not the one that accept() gave.
const MOST_SOCKETS: usize = 4_096;

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
    /// Duplicates the descriptor `number` of the process `pid`, which must be the socket with this `SO_COOKIE`; or where that
    /// is closed already, the same socket under another number there, or in another process of its cgroup. `mount`: of
    /// cgroup v2.
    ///
    /// # Errors
    /// As [`take`].
    pub fn take(pid: u32, number: RawFd, cookie: u64, mount: &Path) -> Result<Self, TakeError> {
        // First, since the process may be gone when its children are looked for.
        let cgroup = holders::cgroup_of(pid, mount);
        match take(pid, number, cookie) {
            Ok(duplicate) => Ok(Self { duplicate, pid, number, cgroup }),
            Err(why @ (TakeError::NoDescriptor { .. } | TakeError::Other { .. })) => {
                let gone = || if holders::is_gone(pid) { TakeError::Gone { pid } } else { why };
                Self::search(pid, cookie, cgroup).ok_or_else(gone)
            }
            Err(why) => Err(why),
        }
    }

    fn search(pid: u32, cookie: u64, cgroup: Option<PathBuf>) -> Option<Self> {
        let others = cgroup.as_deref().and_then(|cgroup| holders::processes(cgroup).ok()).unwrap_or_default();
        let processes = std::iter::once(pid).chain(others.into_iter().filter(|other| *other != pid));
        let (pid, number, duplicate) = processes
            .flat_map(|pid| holders::sockets(pid).into_iter().map(move |number| (pid, number)))
            .take(MOST_SOCKETS)
            .find_map(|(pid, number)| Some((pid, number, take(pid, number, cookie).ok()?)))?;
        Some(Self { duplicate, pid, number, cgroup })
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

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd as _;

    use socket2::SockRef;

    use super::*;

    #[test]
    fn a_socket_whose_number_was_closed_is_found_under_another_one_and_one_that_is_closed_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let socket = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let cookie = SockRef::from(&socket).cookie().unwrap();
        let (pid, closed, mount) = (std::process::id(), 1 << 20, Path::new("/"));
        let taken = Taken::take(pid, closed, cookie, mount).unwrap();
        assert_eq!((taken.pid(), taken.number()), (pid, socket.as_raw_fd()));
        drop((taken, socket));
        assert_eq!(
            Taken::take(pid, closed, cookie, mount).unwrap_err(),
            TakeError::NoDescriptor { pid, number: closed }
        );
    }

    #[test]
    fn of_a_process_that_was_killed_it_is_said_that_it_is_gone() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let (pid, mount) = (child.id(), Path::new("/"));
        assert_eq!(
            Taken::take(pid, 1 << 20, 1, mount).unwrap_err(),
            TakeError::NoDescriptor { pid, number: 1 << 20 }
        );
        child.kill().unwrap();
        let mut left = 500;
        // A zombie, until it is waited for.
        while !holders::is_gone(pid) && left > 0 {
            std::thread::sleep(std::time::Duration::from_millis(10));
            left -= 1;
        }
        assert_eq!(Taken::take(pid, 1 << 20, 1, mount).unwrap_err(), TakeError::Gone { pid });
        child.wait().unwrap();
        assert!(holders::is_gone(pid));
    }
}
