//! What the kernel answers, message by message.

use std::io;
use std::net::SocketAddr;

use netlink_packet_core::{NetlinkBuffer, NlaBuffer, NlasIterator, Parseable};
use netlink_packet_sock_diag::SOCK_DIAG_BY_FAMILY;
use netlink_packet_sock_diag::inet::{InetResponseBuffer, InetResponseHeader, Timer};

use super::TcpSocket;

/// `NLMSG_ERROR` and `NLMSG_DONE`: both begin with a negative errno, or 0.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `INET_DIAG_SK_BPF_STORAGES`, in it `SK_DIAG_BPF_STORAGE`, in that `SK_DIAG_BPF_STORAGE_MAP_VALUE`.
const STORAGES: u16 = 20;
const STORAGE: u16 = 1;
const MAP_VALUE: u16 = 3;
/// `INET_DIAG_CGROUP_ID`.
const CGROUP: u16 = 21;

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply<'a> {
    Socket(TcpSocket<'a>),
    /// The list is complete.
    Done,
    /// Nothing that was asked for: the rest of a connection whose socket is gone (TIME_WAIT).
    Other,
}

fn invalid(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("a message of sock_diag: {what}"))
}

/// The first message of `bytes`, and what is behind it.
///
/// # Errors
/// `InvalidData`, or the error that the kernel reports.
pub fn next(bytes: &[u8]) -> io::Result<(Reply<'_>, &[u8])> {
    let message = NetlinkBuffer::new_checked(bytes).map_err(invalid)?;
    let length = usize::try_from(message.length()).map_err(invalid)?;
    let behind = bytes.get(length.next_multiple_of(4)..).unwrap_or_default();
    let payload = bytes.get(16..length).ok_or_else(|| invalid("shorter than its header"))?;
    let reply = match message.message_type() {
        SOCK_DIAG_BY_FAMILY => socket(payload)?,
        ERROR | DONE => match payload.first_chunk().map_or(0, |errno| i32::from_ne_bytes(*errno)) {
            0 => Reply::Done,
            errno => return Err(io::Error::from_raw_os_error(errno.saturating_neg())),
        },
        _ => Reply::Other,
    };
    Ok((reply, behind))
}

fn socket(payload: &[u8]) -> io::Result<Reply<'_>> {
    let header = InetResponseHeader::parse(payload).map_err(invalid)?;
    if header.timer == Some(Timer::TimeWait) {
        return Ok(Reply::Other);
    }
    let id = &header.socket_id;
    let mut socket = TcpSocket {
        local: SocketAddr::new(id.source_address.to_canonical(), id.source_port),
        remote: SocketAddr::new(id.destination_address.to_canonical(), id.destination_port),
        state: header.state,
        cookie: cookie(id.cookie),
        inode: header.inode,
        uid: header.uid,
        cgroup: None,
        storage: None,
    };
    let attributes = payload.get(size_of::<InetResponseBuffer>()..).unwrap_or_default();
    for (kind, value) in each(attributes) {
        match kind {
            STORAGES => socket.storage = value_of(value),
            CGROUP => socket.cgroup = value.first_chunk().map(|id| u64::from_ne_bytes(*id)),
            _ => {}
        }
    }
    Ok(Reply::Socket(socket))
}

/// Two words, the low one first, each in the machine's own order.
fn cookie([a, b, c, d, e, f, g, h]: [u8; 8]) -> u64 {
    let (low, high) = (u32::from_ne_bytes([a, b, c, d]), u32::from_ne_bytes([e, f, g, h]));
    u64::from(high) << 32 | u64::from(low)
}

/// The attributes up to the first one that is none.
fn each(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut at = 0;
    NlasIterator::new(bytes).map_while(move |attribute: Result<NlaBuffer<&[u8]>, _>| {
        let attribute = attribute.ok()?;
        let value = bytes.get(at + 4..at + usize::from(attribute.length()))?;
        at += usize::from(attribute.length()).next_multiple_of(4);
        Some((attribute.kind(), value))
    })
}

fn value_of(storages: &[u8]) -> Option<&[u8]> {
    // One map was asked for, so there is one storage at most.
    let (_, storage) = each(storages).find(|(kind, _)| *kind == STORAGE)?;
    each(storage).find(|(kind, _)| *kind == MAP_VALUE).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
        let length = u16::try_from(value.len() + 4).unwrap();
        let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
        bytes.extend(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    fn message(kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len() + 16).unwrap();
        let mut bytes = length.to_ne_bytes().to_vec();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend([0; 10]);
        bytes.extend(payload);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes
    }

    /// `struct inet_diag_msg` of 10.0.0.1:4660 to 10.0.0.2:80.
    fn header(timer: u8) -> Vec<u8> {
        let mut bytes = vec![2, 1, timer, 0, 0x12, 0x34, 0, 80, 10, 0, 0, 1];
        bytes.extend([0; 12]);
        bytes.extend([10, 0, 0, 2]);
        bytes.extend([0; 12]);
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend(1u32.to_ne_bytes());
        bytes.extend([0; 12]);
        bytes.extend(1000u32.to_ne_bytes());
        bytes.extend(4242u32.to_ne_bytes());
        assert_eq!(bytes.len(), 72);
        bytes
    }

    fn whole() -> Vec<u8> {
        let value = attribute(MAP_VALUE, b"twelve bytes");
        let storage = attribute(STORAGE, &[attribute(2, &9u32.to_ne_bytes()), value].concat());
        let attributes = [
            attribute(8, &[0]),
            attribute(CGROUP, &77u64.to_ne_bytes()),
            attribute(STORAGES, &storage),
            attribute(999, b"of a newer kernel"),
        ];
        message(SOCK_DIAG_BY_FAMILY, &[header(0), attributes.concat()].concat())
    }

    #[test]
    fn a_socket_has_its_addresses_cookie_inode_cgroup_and_storage() {
        let bytes = [whole(), message(DONE, &0i32.to_ne_bytes())].concat();
        let (reply, behind) = next(&bytes).unwrap();
        let wanted = TcpSocket {
            local: "10.0.0.1:4660".parse().unwrap(),
            remote: "10.0.0.2:80".parse().unwrap(),
            state: 1,
            cookie: 1 << 32 | 7,
            inode: 4242,
            uid: 1000,
            cgroup: Some(77),
            storage: Some(b"twelve bytes"),
        };
        assert_eq!(reply, Reply::Socket(wanted));
        assert_eq!(next(behind).unwrap(), (Reply::Done, &[][..]));
    }

    #[test]
    fn without_attributes_there_is_neither_cgroup_nor_storage() {
        let bytes = message(SOCK_DIAG_BY_FAMILY, &header(0));
        let Reply::Socket(socket) = next(&bytes).unwrap().0 else { panic!("a socket") };
        assert_eq!((socket.cgroup, socket.storage), (None, None));
    }

    #[test]
    fn what_is_left_of_a_closed_connection_is_no_socket() {
        let bytes = message(SOCK_DIAG_BY_FAMILY, &header(3));
        assert_eq!(next(&bytes).unwrap().0, Reply::Other);
    }

    #[test]
    fn the_kernels_refusal_is_an_error_wherever_it_stands() {
        for kind in [ERROR, DONE] {
            let error = next(&message(kind, &(-2i32).to_ne_bytes())).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(2), "ENOENT: there is no tcp_diag");
        }
    }

    #[test]
    fn every_cut_and_every_flipped_byte_is_an_error_or_a_reply_and_never_a_panic() {
        let bytes = whole();
        for length in 0..bytes.len() {
            assert!(next(&bytes[..length]).is_err() || length >= bytes.len() - 3, "{length}");
        }
        for at in 0..bytes.len() {
            for value in [0, 1, 3, 0x7f, 0xff] {
                let mut bytes = bytes.clone();
                bytes[at] = value;
                let _ = next(&bytes);
            }
        }
    }
}
