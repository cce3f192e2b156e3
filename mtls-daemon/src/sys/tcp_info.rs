//! What the kernel says of one TCP connection (`struct tcp_info`, include/uapi/linux/tcp.h): by getsockopt, or by sock_diag.

use std::io;
use std::os::fd::AsFd;

use nix::libc;

use super::ktls;

/// Room for the fields below (up to Linux 5.4's).
const LENGTH: usize = 232;
/// States in which the peer's FIN has come: CLOSE_WAIT, LAST_ACK, CLOSING (include/net/tcp_states.h).
const PEER_HAS_ENDED: [u8; 3] = [8, 9, 11];
/// `TCP_CLOSE` of a socket that was connected: nothing will come or go any more.
const CLOSE: u8 = 7;

/// A part of `struct tcp_info`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpInfo {
    /// `TCP_ESTABLISHED` and so on.
    pub state: u8,
    /// `tcpi_snd_mss`: payload of a segment that is sent, bytes.
    pub mss: u32,
    /// `tcpi_snd_wnd`: the window that the peer shows now, bytes.
    pub window: u32,
    bytes_received: u64,
    bytes_sent: u64,
    bytes_retransmitted: u64,
}

/// Bytes of payload that one socket carried; of TLS records, where it is armed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// Put on the wire, each byte once.
    pub sent: u64,
    /// Arrived, in order.
    pub received: u64,
}

impl TcpInfo {
    /// Of a socket of ours.
    ///
    /// # Errors
    /// When it is no TCP socket.
    pub fn of(socket: &impl AsFd) -> io::Result<Self> {
        let mut room = [0; LENGTH];
        let length = ktls::get(socket, libc::IPPROTO_TCP, libc::TCP_INFO, &mut room)?;
        room.get(..length).and_then(Self::parse).ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    /// As the kernel lays it out; `None` if it is shorter than Linux 5.4's.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let long = |at: usize| Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        Some(Self {
            state: *bytes.first()?,
            mss: word(16)?,
            bytes_received: long(128)?,
            bytes_sent: long(200)?,
            bytes_retransmitted: long(208)?,
            window: word(228)?,
        })
    }

    /// Whether the connection has ended on this side, in whatever way.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.state == CLOSE
    }

    /// What to compare with the other end's.
    ///
    /// Sent: `tcpi_bytes_sent` without `tcpi_bytes_retrans`, which are payload alone. `tcpi_bytes_acked` counts the SYN of the side
    /// that connected and an acknowledged FIN as bytes, and says nothing of what was lost. Received: `tcpi_bytes_received` without
    /// the peer's FIN, which it counts too, as long as the state tells that one came.
    #[must_use]
    pub fn carried(&self) -> Carried {
        let fin = u64::from(PEER_HAS_ENDED.contains(&self.state));
        Carried {
            sent: self.bytes_sent.saturating_sub(self.bytes_retransmitted),
            received: self.bytes_received.saturating_sub(fin),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn both_ends_count_the_same_before_and_after_a_fin() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let mut far = listener.accept().unwrap().0;
        let carried = |end: &TcpStream| TcpInfo::of(end).unwrap().carried();
        assert_eq!([carried(&near), carried(&far)], [Carried::default(); 2], "no SYN is counted");
        near.write_all(&[1; 70_000]).unwrap();
        far.read_exact(&mut [0; 70_000]).unwrap();
        far.write_all(b"12345").unwrap();
        near.read_exact(&mut [0; 5]).unwrap();
        let expected = [Carried { sent: 70_000, received: 5 }, Carried { sent: 5, received: 70_000 }];
        assert_eq!([carried(&near), carried(&far)], expected);
        near.shutdown(Shutdown::Write).unwrap();
        assert_eq!(far.read(&mut [0; 1]).unwrap(), 0, "the FIN is here");
        assert_eq!([carried(&near), carried(&far)], expected, "no FIN is counted");
        assert_eq!(TcpInfo::of(&far).unwrap().state, 8);
        assert!(!TcpInfo::of(&far).unwrap().is_over());
        far.shutdown(Shutdown::Write).unwrap();
        crate::testing::eventually(|| TcpInfo::of(&far).unwrap().is_over());
    }

    #[test]
    fn the_window_and_the_segment_are_those_of_the_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let info = TcpInfo::of(&near).unwrap();
        assert_eq!(info.state, 1);
        assert_eq!(info.mss, socket2::SockRef::from(&near).tcp_mss().unwrap());
        assert!((10_000..1 << 20).contains(&info.window), "{info:?}");
    }

    #[test]
    fn what_is_too_short_or_no_socket_is_none() {
        assert!(TcpInfo::parse(&[0; LENGTH]).is_some());
        for length in 0..LENGTH {
            assert_eq!(TcpInfo::parse(&vec![0; length]), None);
        }
        assert!(TcpInfo::of(&std::fs::File::open("/dev/null").unwrap()).is_err());
        assert!(TcpInfo::of(&std::net::UdpSocket::bind("127.0.0.1:0").unwrap()).is_err());
    }
}
