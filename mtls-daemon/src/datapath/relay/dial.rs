//! Connecting from inside a workload's namespace with a socket that is the daemon's own.

use std::io;
use std::net::SocketAddr;

use nix::libc;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::IpBindAddressNoPort;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpSocket, TcpStream};

use crate::capture::Capture;
use crate::observe::{Reason, Refusal};
use crate::sys::netns::Netns;

/// Connects to `to` from inside `netns`.
///
/// `from`: the local address that the application chose, if it did. `client`: for a delivery, the address
/// that the application at `to` shall see as its peer.
///
/// # Errors
/// What connect() says; see [`refusal`].
pub async fn dial(
    capture: &Capture,
    netns: &Netns,
    to: SocketAddr,
    from: Option<SocketAddr>,
    client: Option<SocketAddr>,
) -> io::Result<TcpStream> {
    let socket = netns.run(|| Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP)))?;
    capture.mark_own(&socket, client).map_err(io::Error::other)?;
    socket.set_nonblocking(true)?;
    if let Some(from) = from {
        // The port is the kernel's to choose: the application's own is taken by its socket. At connect(), when
        // it has only to differ among connections to the same destination.
        setsockopt(&socket, IpBindAddressNoPort, &true)?;
        socket.bind(&SocketAddr::new(from.ip(), 0).into())?;
    }
    TcpSocket::from_std_stream(socket.into()).connect(to).await
}

/// What a failed dial of the peer means.
#[must_use]
pub fn refusal(to: SocketAddr, error: &io::Error) -> Refusal {
    let reason = match error.raw_os_error() {
        Some(libc::ECONNREFUSED) => Reason::DialRefused,
        Some(libc::ETIMEDOUT) => Reason::DialTimeout,
        Some(libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EHOSTDOWN | libc::ENETDOWN | libc::EACCES) => {
            Reason::DialUnreachable
        }
        Some(libc::ECONNRESET) => Reason::Reset,
        _ => Reason::Internal,
    };
    Refusal::new(reason, format!("connecting to {to}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_errno_has_its_reason() {
        let to = "10.0.0.2:80".parse().unwrap();
        for (errno, reason) in [
            (libc::ECONNREFUSED, Reason::DialRefused),
            (libc::ETIMEDOUT, Reason::DialTimeout),
            (libc::EHOSTUNREACH, Reason::DialUnreachable),
            (libc::ENETUNREACH, Reason::DialUnreachable),
            (libc::EMFILE, Reason::Internal),
        ] {
            let refusal = refusal(to, &io::Error::from_raw_os_error(errno));
            assert_eq!(refusal.reason, reason);
            assert!(refusal.detail.contains("10.0.0.2:80"));
        }
    }
}
