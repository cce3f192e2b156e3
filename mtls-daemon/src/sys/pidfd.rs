//! A duplicate of another process's socket (`pidfd_open`, `pidfd_getfd`, Linux 5.6).

use std::os::fd::{OwnedFd, RawFd};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::SockRef;

/// Why there is no duplicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TakeError {
    /// The process is over.
    #[error("process {pid} is gone, and so is its socket")]
    Gone {
        /// The process.
        pid: u32,
    },
    /// The application has closed it, or it never was there.
    #[error("process {pid} has no descriptor {number}: the application closed it")]
    NoDescriptor {
        /// The process.
        pid: u32,
        /// The descriptor's number there.
        number: RawFd,
    },
    /// The kernel does not let us look into the process.
    #[error(
        "process {pid} may not be looked into (EPERM): mtlsd needs CAP_SYS_PTRACE, and no security module against it"
    )]
    Denied {
        /// The process.
        pid: u32,
    },
    /// The number stands for something else by now.
    #[error(
        "descriptor {number} of process {pid} is not the socket with cookie {expected}: the application closed that one"
    )]
    Other {
        /// The process.
        pid: u32,
        /// The descriptor's number there.
        number: RawFd,
        /// `SO_COOKIE` of the socket that is wanted.
        expected: u64,
        /// `SO_COOKIE` of the one that is there; `None`: it is no socket.
        found: Option<u64>,
    },
    /// Something else.
    #[error("descriptor {number} of process {pid} cannot be duplicated: {errno}")]
    Failed {
        /// The process.
        pid: u32,
        /// The descriptor's number there.
        number: RawFd,
        /// What the kernel said; ENOSYS before Linux 5.6.
        errno: Errno,
    },
}

/// A duplicate of the descriptor `number` of the process `pid`, if it is the socket with this `SO_COOKIE`. It is closed on exec.
///
/// # Errors
/// When the process, the descriptor or the right to it is not there, or the number has another socket by now.
pub fn take(pid: u32, number: RawFd, expected: u64) -> Result<OwnedFd, TakeError> {
    let failed = |errno| match errno {
        Errno::SRCH => TakeError::Gone { pid },
        Errno::BADF => TakeError::NoDescriptor { pid, number },
        Errno::PERM | Errno::ACCESS => TakeError::Denied { pid },
        errno => TakeError::Failed { pid, number, errno },
    };
    let process = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(TakeError::Gone { pid })?;
    let process = pidfd_open(process, PidfdFlags::empty()).map_err(failed)?;
    let duplicate = pidfd_getfd(process, number, PidfdGetfdFlags::empty()).map_err(failed)?;
    // Numbers come again, also process ids; cookies do not.
    match SockRef::from(&duplicate).cookie().ok() {
        Some(found) if found == expected => Ok(duplicate),
        found => Err(TakeError::Other { pid, number, expected, found }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsRawFd;
    use std::process::{Command, Stdio};

    use super::*;

    fn cookie(socket: &TcpStream) -> u64 {
        SockRef::from(socket).cookie().unwrap()
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn another_processs_socket_can_be_used_after_that_process_is_over() {
        let (near, mut far) = pair();
        let expected = cookie(&near);
        let mut child = Command::new("sleep")
            .arg("60")
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(near)))
            .spawn()
            .unwrap();
        let taken = take(child.id(), 0, expected);
        child.kill().unwrap();
        child.wait().unwrap();
        TcpStream::from(taken.unwrap()).write_all(b"hello").unwrap();
        let mut text = String::new();
        far.read_to_string(&mut text).unwrap();
        assert_eq!(text, "hello");
        assert_eq!(take(child.id(), 0, expected).unwrap_err(), TakeError::Gone { pid: child.id() });
    }

    #[test]
    fn another_socket_under_the_number_and_what_is_no_socket_are_told_apart() {
        let (near, far) = pair();
        let (pid, number) = (std::process::id(), near.as_raw_fd());
        assert!(take(pid, number, cookie(&near)).is_ok());
        let (expected, found) = (cookie(&far), Some(cookie(&near)));
        assert_eq!(
            take(pid, number, expected).unwrap_err(),
            TakeError::Other { pid, number, expected, found }
        );
        let file = std::fs::File::open("/dev/null").unwrap();
        let number = file.as_raw_fd();
        let error = take(pid, number, expected).unwrap_err();
        assert_eq!(error, TakeError::Other { pid, number, expected, found: None });
    }

    #[test]
    fn a_number_that_is_closed_and_a_process_that_never_was_are_errors() {
        let (pid, number) = (std::process::id(), 1 << 20);
        assert_eq!(take(pid, number, 1).unwrap_err(), TakeError::NoDescriptor { pid, number });
        for pid in [0, i32::MAX.cast_unsigned(), u32::MAX] {
            assert_eq!(take(pid, 0, 1).unwrap_err(), TakeError::Gone { pid });
        }
    }
}
