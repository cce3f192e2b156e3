//! What TCP knows of a connection (`struct tcp_info` of include/uapi/linux/tcp.h).

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// Where `tcpi_snd_mss` and, from Linux 5.4 on, `tcpi_snd_wnd` are.
const SEND_MSS: usize = 16;
const SEND_WINDOW: usize = 228;
const ROOM: usize = 232;

/// What is used of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpInfo {
    /// Payload of a segment, bytes.
    pub send_mss: u32,
    /// The window that the peer shows, bytes.
    pub send_window: u32,
}

impl TcpInfo {
    /// Of a TCP socket.
    ///
    /// # Errors
    /// When it is none; `Unsupported` before Linux 5.4.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let mut info = [0_u8; ROOM];
        let mut length = libc::socklen_t::try_from(ROOM).unwrap_or(0);
        // SAFETY: `length` says how much room there is at `info`, and the kernel writes back how much it used.
        let result = unsafe {
            libc::getsockopt(
                socket.as_fd().as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        if usize::try_from(length) != Ok(ROOM) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let word = |at: usize| info.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
        let (mss, window) = word(SEND_MSS).zip(word(SEND_WINDOW)).ok_or(io::ErrorKind::InvalidData)?;
        Ok(Self { send_mss: mss, send_window: window })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_over_lo_has_large_segments_and_a_window() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let near = std::net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let info = TcpInfo::of(&near).unwrap();
        assert!((500..=65_536).contains(&info.send_mss), "{info:?}");
        assert!(info.send_window >= info.send_mss / 2, "{info:?}");
        assert!(TcpInfo::of(&std::fs::File::open("/dev/null").unwrap()).is_err());
    }
}
