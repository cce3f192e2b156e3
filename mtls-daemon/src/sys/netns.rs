//! Being in a network namespace for as long as it takes to make a socket there.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use nix::sched::{CloneFlags, setns};

/// The namespace that the daemon was started in.
static HOME: OnceLock<Netns> = OnceLock::new();

/// An open network namespace. Holding it keeps the namespace alive.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl Netns {
    /// Opens the namespace file at `path` (below /run/netns, or /proc/PID/ns/net).
    ///
    /// # Errors
    /// `ENOENT` when it does not exist, `EINVAL` when the file is not a network namespace.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let metadata = file.metadata()?;
        let kind = nix::sys::statfs::fstatfs(&file)?;
        if kind.filesystem_type() != nix::sys::statfs::NSFS_MAGIC {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the file is not a network namespace"));
        }
        Ok(Self { file, path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() })
    }

    /// The namespace of the calling thread when it was first asked for: the daemon's own.
    ///
    /// # Errors
    /// When /proc is not mounted.
    pub fn home() -> io::Result<&'static Self> {
        if let Some(home) = HOME.get() {
            return Ok(home);
        }
        let opened = Self::open(Path::new("/proc/self/ns/net"))?;
        Ok(HOME.get_or_init(|| opened))
    }

    /// The same namespace once more.
    ///
    /// # Errors
    /// When there are no descriptors left.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { file: self.file.try_clone()?, path: self.path.clone(), ..*self })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode: what makes two namespace files the same namespace.
    #[must_use]
    pub fn identity(&self) -> (u64, u64) {
        (self.device, self.inode)
    }

    /// Runs `f` with the calling thread in this namespace, and brings the thread back.
    ///
    /// `f` must not block for long and must not await: the thread belongs to the async runtime.
    /// If the thread cannot be brought back, the process is aborted: a worker thread left in a
    /// workload's namespace would open the next socket in the wrong place.
    ///
    /// # Errors
    /// `EPERM` without CAP_SYS_ADMIN, or what `f` returns.
    pub fn run<T>(&self, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let home = Self::home()?;
        if home.identity() == self.identity() {
            return f();
        }
        setns(&self.file, CloneFlags::CLONE_NEWNET)?;
        let back = ComeBack(home);
        let result = f();
        drop(back);
        result
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Returns to the daemon's namespace also when `f` panics.
struct ComeBack(&'static Netns);

impl Drop for ComeBack {
    fn drop(&mut self) {
        if let Err(error) = setns(&self.0.file, CloneFlags::CLONE_NEWNET) {
            tracing::error!(%error, "cannot return to the daemon's own network namespace");
            std::process::abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_namespace_is_refused() {
        assert_eq!(Netns::open(Path::new("/dev/null")).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(Netns::open(Path::new("/run/netns/no-such")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn the_own_namespace_needs_no_rights() {
        let own = Netns::open(Path::new("/proc/self/ns/net")).unwrap();
        assert_eq!(own.run(|| Ok(7)).unwrap(), 7);
        let again = own.try_clone().unwrap();
        assert_eq!((again.identity(), again.path()), (own.identity(), own.path()));
    }
}
