//! The armer: it takes an application's descriptor, makes it a TLS socket, and lets it go.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{TcpTlsRx, TcpTlsTx, TcpUlp, TlsCryptoInfo};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use socket2::SockRef;

/// A released socket's TCP_NOTSENT_LOWAT, bytes: as good as none.
pub const RELEASED: u32 = i32::MAX.cast_unsigned();

/// A duplicate of a descriptor of another process.
#[derive(Debug)]
pub struct Taken(OwnedFd);

impl Taken {
    /// pidfd_open and pidfd_getfd.
    ///
    /// # Errors
    /// Those of the two calls.
    pub fn new(pid: u32, fd: i32) -> io::Result<Self> {
        let pid = Pid::from_raw(pid.cast_signed()).ok_or(io::ErrorKind::InvalidInput)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
        Ok(Self(pidfd_getfd(pidfd, fd, PidfdGetfdFlags::empty())?))
    }
}

impl AsFd for Taken {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// The key of one direction: TLS 1.3, AES-128-GCM, from record 0 on.
#[derive(Debug, Clone, Copy)]
pub struct Key(pub u8);

impl Key {
    fn info(self) -> TlsCryptoInfo {
        TlsCryptoInfo::Aes128Gcm(libc::tls12_crypto_info_aes_gcm_128 {
            info: libc::tls_crypto_info {
                version: libc::TLS_1_3_VERSION,
                cipher_type: libc::TLS_CIPHER_AES_GCM_128,
            },
            iv: [self.0; 8],
            key: [self.0; 16],
            salt: [self.0; 4],
            rec_seq: [0; 8],
        })
    }
}

/// TCP_ULP "tls".
///
/// # Errors
/// As setsockopt(2).
pub fn ulp(socket: impl AsFd) -> Result<(), Errno> {
    setsockopt(&socket, TcpUlp::default(), b"tls")
}

/// TLS_RX.
///
/// # Errors
/// As setsockopt(2).
pub fn receive_with(socket: impl AsFd, key: Key) -> Result<(), Errno> {
    setsockopt(&socket, TcpTlsRx, &key.info())
}

/// TLS_TX.
///
/// # Errors
/// As setsockopt(2).
pub fn send_with(socket: impl AsFd, key: Key) -> Result<(), Errno> {
    setsockopt(&socket, TcpTlsTx, &key.info())
}

/// All three, receiving first.
///
/// # Errors
/// Those of the first that fails.
pub fn install(socket: impl AsFd, receive: Key, send: Key) -> Result<(), Errno> {
    ulp(socket.as_fd())?;
    receive_with(socket.as_fd(), receive)?;
    send_with(socket.as_fd(), send)
}

/// Ends the hold: TCP_NOTSENT_LOWAT as large as it can be.
///
/// # Errors
/// As setsockopt(2).
pub fn release(socket: impl AsFd) -> io::Result<()> {
    release_to(socket, RELEASED)
}

/// Ends the hold: so many bytes may wait unsent before the socket takes no more.
///
/// # Errors
/// As setsockopt(2).
pub fn release_to(socket: impl AsFd, lowat: u32) -> io::Result<()> {
    SockRef::from(&socket.as_fd()).set_tcp_notsent_lowat(lowat)
}
