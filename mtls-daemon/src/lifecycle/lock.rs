//! One daemon per runtime directory.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::error::DaemonError;

/// Holds the directory until dropped; the kernel lets go when the process dies.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

/// Makes a directory, readable by its owner only, with its parents.
///
/// # Errors
/// What the kernel said, with the path.
pub fn make_directory(path: &Path) -> Result<(), DaemonError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| DaemonError::Directory { path: path.to_owned(), source })
}

impl Lock {
    /// Takes the lock of a runtime directory, which is made if it is missing.
    ///
    /// # Errors
    /// [`DaemonError::AlreadyRunning`] with the pid of the other daemon.
    pub fn take(runtime: &Path) -> Result<Self, DaemonError> {
        make_directory(runtime)?;
        let path = runtime.join("lock");
        let failed = |source| DaemonError::Directory { path: path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(failed)?;
        if let Err(error) = file.try_lock() {
            if let TryLockError::Error(source) = error {
                return Err(failed(source));
            }
            let mut pid = String::new();
            let _ = file.read_to_string(&mut pid);
            return Err(DaemonError::AlreadyRunning { path, pid: pid.trim().to_owned() });
        }
        file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_daemon_is_told_who_is_first() {
        let directory = tempfile::tempdir().unwrap();
        let first = Lock::take(directory.path()).unwrap();
        let error = Lock::take(directory.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        drop(first);
        Lock::take(directory.path()).unwrap();
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = Lock::take(Path::new("/proc/mtlsd-no-such")).unwrap_err().to_string();
        assert!(error.contains("/proc/mtlsd-no-such"), "{error}");
    }

    #[test]
    fn the_lock_is_for_its_owner_and_outlives_a_dead_daemon_s_leftovers() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let runtime = directory.path().join("run/mtlsd");
        make_directory(&runtime).unwrap();
        std::fs::write(runtime.join("lock"), "4194305 and more than that\n").unwrap();
        let _lock = Lock::take(&runtime).unwrap();
        let text = std::fs::read_to_string(runtime.join("lock")).unwrap();
        assert_eq!(text, format!("{}\n", std::process::id()));
        let mode = std::fs::metadata(&runtime).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
    }
}
