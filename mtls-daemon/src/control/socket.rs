//! The admin socket in the file system: only its owner can open it, and it replaces only a dead daemon's.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use socket2::{Domain, SockAddr, Socket, Type};
use tokio::net::UnixListener;

/// Where the admin socket is unless `--socket` or `paths.runtime` says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/mtlsd/admin.sock";
/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Why the admin socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Another daemon answers there.
    #[error(
        "another mtlsd{} serves {path}; stop it first, or give this one another paths.runtime",
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    Living {
        /// The socket.
        path: PathBuf,
        /// The process behind it, where the kernel tells.
        pid: Option<i32>,
    },
    /// Something that is not a socket is in the way.
    #[error("{0} is not a socket, so it is not replaced; remove it or set another paths.runtime")]
    NotASocket(PathBuf),
    /// A system call failed.
    #[error("cannot {action} the admin socket {path}: {source}; {mend}")]
    System {
        /// What was tried.
        action: &'static str,
        /// The socket.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
        /// What to do.
        mend: &'static str,
    },
}

/// A listening admin socket; its file is removed when this is dropped.
#[derive(Debug)]
pub struct AdminSocket {
    listener: UnixListener,
    file: SocketFile,
}

impl AdminSocket {
    /// Listens at a path whose directory exists, with mode 0600. Needs a tokio runtime.
    ///
    /// Two daemons that start at the same instant are told apart by the lock on the runtime directory, not here.
    ///
    /// # Errors
    /// When a living daemon, or something other than a socket, is there, or when the kernel refuses.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed =
            |action, mend| move |source| SocketError::System { action, path: path.to_owned(), source, mend };
        refuse_occupied(path)?;
        let mut fresh = path.as_os_str().to_owned();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        match std::fs::remove_file(&fresh) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("prepare", "look at the permissions of its directory")(error));
            }
            _ => {}
        }

        let mend = "create its directory, check its permissions, and keep the path below 104 bytes";
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(failed("create", mend))?;
        let address = SockAddr::unix(&fresh).map_err(failed("bind", mend))?;
        socket.bind(&address).map_err(failed("bind", mend))?;
        // Nobody can connect before listen(), and nobody else after it.
        std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(0o600))
            .map_err(failed("protect", "look at the file system of its directory"))?;
        let mend = "look at the limits of the process";
        socket.listen(BACKLOG).map_err(failed("listen on", mend))?;
        socket.set_nonblocking(true).map_err(failed("set up", mend))?;
        let listener =
            UnixListener::from_std(OwnedFd::from(socket).into()).map_err(failed("set up", mend))?;
        let file = SocketFile::put_in_place(&fresh, path)
            .map_err(failed("put in place", "look at the permissions of its directory"))?;
        Ok(Self { listener, file })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    pub(super) fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

/// The socket's name in the file system, removed on drop unless another daemon's has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    device: u64,
    inode: u64,
}

impl SocketFile {
    fn put_in_place(fresh: &Path, path: &Path) -> io::Result<Self> {
        let metadata = fresh.symlink_metadata()?;
        std::fs::rename(fresh, path)?;
        Ok(Self { path: path.to_owned(), device: metadata.dev(), inode: metadata.ino() })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        let ours = |m: std::fs::Metadata| (m.dev(), m.ino()) == (self.device, self.inode);
        if self.path.symlink_metadata().is_ok_and(ours) {
            // A socket that stays behind is replaced by the next daemon.
            let _left_behind = std::fs::remove_file(&self.path);
        }
    }
}

fn refuse_occupied(path: &Path) -> Result<(), SocketError> {
    let failed = |action, source| SocketError::System {
        action,
        path: path.to_owned(),
        source,
        mend: "look at the permissions of the path; the daemon runs as root",
    };
    match path.symlink_metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", error)),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            return Err(SocketError::NotASocket(path.to_owned()));
        }
        Ok(_) => {}
    }
    let address = SockAddr::unix(path).map_err(|e| failed("look at", e))?;
    let probe = Socket::new(Domain::UNIX, Type::STREAM, None).map_err(|e| failed("probe", e))?;
    // Non-blocking: a daemon that is stopped with a full backlog must not stop us as well.
    probe.set_nonblocking(true).map_err(|e| failed("probe", e))?;
    match probe.connect(&address) {
        Ok(()) => {
            let credentials = nix::sys::socket::sockopt::PeerCredentials;
            let pid = nix::sys::socket::getsockopt(&probe, credentials).map(|c| c.pid()).ok();
            Err(SocketError::Living { path: path.to_owned(), pid })
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(SocketError::Living { path: path.to_owned(), pid: None })
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound) => {
            Ok(())
        }
        Err(error) => Err(failed("probe", error)),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A socket file that nobody listens behind.
    ///
    /// It never listened: a process that another test forks at the same time holds a copy until its exec, so a
    /// listener that is closed here may live, and accept connections, a moment longer.
    pub(in crate::control) fn leave_dead_socket(path: &Path) {
        let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
        socket.bind(&SockAddr::unix(path).unwrap()).unwrap();
    }

    #[tokio::test]
    async fn only_the_owner_may_open_it_and_it_goes_away_with_the_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let socket = AdminSocket::bind(&path).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        drop(socket);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn the_socket_of_a_dead_daemon_is_replaced_and_so_is_a_half_made_one() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        leave_dead_socket(&path);
        std::fs::write(directory.path().join("admin.sock.new"), "").unwrap();
        let socket = AdminSocket::bind(&path).unwrap();
        assert!(std::os::unix::net::UnixStream::connect(socket.path()).is_ok());
    }

    #[tokio::test]
    async fn a_living_daemon_is_left_alone_and_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let first = AdminSocket::bind(&path).unwrap();
        let error = AdminSocket::bind(&path).unwrap_err();
        assert!(matches!(error, SocketError::Living { .. }));
        let text = error.to_string();
        assert!(text.contains(&std::process::id().to_string()) && text.contains("paths.runtime"), "{text}");
        assert!(std::os::unix::net::UnixStream::connect(first.path()).is_ok());
    }

    #[tokio::test]
    async fn a_living_daemon_whose_backlog_is_full_is_not_taken_for_dead() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let _living = AdminSocket::bind(&path).unwrap();
        let mut waiting = Vec::new();
        loop {
            let client = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
            client.set_nonblocking(true).unwrap();
            match client.connect(&SockAddr::unix(&path).unwrap()) {
                Ok(()) => waiting.push(client),
                Err(error) => break assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        }
        assert!(matches!(AdminSocket::bind(&path).unwrap_err(), SocketError::Living { pid: None, .. }));
    }

    #[tokio::test]
    async fn a_file_that_is_not_a_socket_is_never_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        std::fs::write(&path, "precious").unwrap();
        assert!(matches!(AdminSocket::bind(&path).unwrap_err(), SocketError::NotASocket(_)));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    }

    #[tokio::test]
    async fn a_missing_directory_and_a_path_that_is_too_long_are_named_with_the_mend() {
        let long = PathBuf::from("/tmp").join("x".repeat(200));
        for path in [Path::new("/nonexistent/admin.sock"), &long] {
            let text = AdminSocket::bind(path).unwrap_err().to_string();
            assert!(text.contains(path.to_str().unwrap()) && text.contains("create its directory"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_daemon_that_ends_late_does_not_remove_its_successors_socket() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("admin.sock");
        let old = AdminSocket::bind(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        let _new = AdminSocket::bind(&path).unwrap();
        drop(old);
        assert!(path.exists());
    }
}
