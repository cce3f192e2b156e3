//! Socket options without a safe wrapper elsewhere.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use mtls_common::LetGo;
use nix::libc;

use super::ktls::set;

/// The cookie of the network namespace that a socket lives in (`SO_NETNS_COOKIE`, Linux 5.14).
///
/// # Errors
/// `ENOPROTOOPT` on an older kernel.
pub fn netns_cookie(socket: &impl AsFd) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length = libc::socklen_t::try_from(size_of::<u64>()).unwrap_or(8);
    // SAFETY: the value and its length are on our stack, and the length says how large the value is.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Sets TCP_NOTSENT_LOWAT, and says to mtlsd's program at setsockopt(), where it is attached, that it is the daemon who does.
///
/// # Errors
/// The kernel's.
pub fn let_go(socket: &impl AsFd, order: LetGo) -> io::Result<()> {
    let bytes = order.to_bytes();
    set(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_program_the_first_word_is_the_value() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let_go(&socket, LetGo::new(700, 15_000)).unwrap();
        assert_eq!(socket2::SockRef::from(&socket).tcp_notsent_lowat().unwrap(), 700);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert_eq!(let_go(&file, LetGo::new(1, 1)).unwrap_err().raw_os_error(), Some(libc::ENOTSOCK));
    }

    #[test]
    fn two_sockets_of_one_namespace_have_one_cookie() {
        let a = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let b = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(netns_cookie(&a).unwrap(), netns_cookie(&b).unwrap());
        assert_eq!(
            netns_cookie(&std::fs::File::open("/dev/null").unwrap()).unwrap_err().raw_os_error(),
            Some(libc::ENOTSOCK)
        );
    }
}
