//! The request: the crate's fixed part, and behind it the map whose values are wanted.

use std::os::fd::{AsRawFd, BorrowedFd};

use std::net::SocketAddr;

use netlink_packet_core::{
    DefaultNla, Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload, NetlinkSerializable,
};
use netlink_packet_sock_diag::SOCK_DIAG_BY_FAMILY;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, SocketId, StateFlags};

/// `INET_DIAG_REQ_SK_BPF_STORAGES` and, in it, `SK_DIAG_BPF_STORAGE_REQ_MAP_FD`.
const STORAGES: u16 = 2;
const MAP_FD: u16 = 1;
/// `NLA_F_NESTED`.
const NESTED: u16 = 1 << 15;

/// `SOCK_DESTROY` (`linux/sock_diag.h`).
const DESTROY: u16 = 21;

#[derive(Debug)]
struct Request {
    kind: u16,
    inet: InetRequest,
    storages: Vec<DefaultNla>,
}

impl NetlinkSerializable for Request {
    fn message_type(&self) -> u16 {
        self.kind
    }

    fn buffer_len(&self) -> usize {
        self.inet.buffer_len() + self.storages.as_slice().buffer_len()
    }

    fn serialize(&self, buffer: &mut [u8]) {
        if let Some((fixed, attributes)) = buffer.split_at_mut_checked(self.inet.buffer_len()) {
            self.inet.emit(fixed);
            self.storages.as_slice().emit(attributes);
        }
    }
}

/// Asks for every TCP socket of `family` in one of these states.
pub fn dump(family: u8, states: StateFlags, storage: Option<BorrowedFd<'_>>) -> Vec<u8> {
    let inet = InetRequest {
        family,
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states,
        socket_id: if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() },
    };
    let storages = storage.into_iter().map(|map| {
        let map = DefaultNla::new(MAP_FD, map.as_raw_fd().to_ne_bytes().to_vec());
        let mut value = vec![0; map.buffer_len()];
        map.emit(&mut value);
        DefaultNla::new(STORAGES | NESTED, value)
    });
    let request = Request { kind: SOCK_DIAG_BY_FAMILY, inet, storages: storages.collect() };
    message(request, NLM_F_REQUEST | NLM_F_DUMP)
}

/// Asks for the end of the socket with these ends and this cookie.
pub fn destroy(local: SocketAddr, remote: SocketAddr, cookie: u64) -> Vec<u8> {
    message(of_one(DESTROY, local, remote, cookie), NLM_F_REQUEST | NLM_F_ACK)
}

/// Asks for the socket with these ends and this cookie.
pub fn one(local: SocketAddr, remote: SocketAddr, cookie: u64) -> Vec<u8> {
    message(of_one(SOCK_DIAG_BY_FAMILY, local, remote, cookie), NLM_F_REQUEST)
}

fn of_one(kind: u16, local: SocketAddr, remote: SocketAddr, cookie: u64) -> Request {
    // Two words, the low one first, each in the machine's own order.
    let word = |word: u64| u32::try_from(word & u64::from(u32::MAX)).unwrap_or_default().to_ne_bytes();
    let ([a, b, c, d], [e, f, g, h]) = (word(cookie), word(cookie >> 32));
    let socket_id = SocketId {
        source_address: local.ip(),
        source_port: local.port(),
        destination_address: remote.ip(),
        destination_port: remote.port(),
        interface_id: 0,
        // Without it the kernel would take the listener where there is no such connection.
        cookie: [a, b, c, d, e, f, g, h],
    };
    let inet = InetRequest {
        family: if local.is_ipv4() { AF_INET } else { AF_INET6 },
        protocol: IPPROTO_TCP,
        extensions: ExtensionFlags::empty(),
        states: StateFlags::all(),
        socket_id,
    };
    Request { kind, inet, storages: Vec::new() }
}

fn message(request: Request, flags: u16) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    header.flags = flags;
    let mut message = NetlinkMessage::new(header, NetlinkPayload::InnerMessage(request));
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;
    use crate::sys::sock_diag::CONNECTED;

    /// `struct nlmsghdr` is 16 bytes, `struct inet_diag_req_v2` 56 (`linux/inet_diag.h`).
    #[test]
    fn a_request_is_laid_out_as_the_kernel_reads_it() {
        let plain = dump(AF_INET, CONNECTED, None);
        assert_eq!(plain.len(), 16 + 56);
        assert_eq!(plain[..4], 72u32.to_ne_bytes(), "the length is the header's first word");
        assert_eq!(plain[4..8], [20, 0, 1, 3], "SOCK_DIAG_BY_FAMILY, REQUEST | DUMP");
        assert_eq!(plain[16..20], [2, 6, 0, 0], "AF_INET, IPPROTO_TCP, no extension");
        assert_eq!(plain[20..24], 0b1011_0011_0010u32.to_ne_bytes());

        let end = destroy("10.0.0.1:258".parse().unwrap(), "10.0.0.2:80".parse().unwrap(), 7 << 32 | 9);
        assert_eq!(end.len(), 16 + 56);
        assert_eq!(end[4..8], [21, 0, 5, 0], "SOCK_DESTROY, REQUEST | ACK");
        assert_eq!(end[24..28], [1, 2, 0, 80], "ports in network byte order");
        assert_eq!((&end[28..32], &end[44..48]), (&[10, 0, 0, 1][..], &[10, 0, 0, 2][..]));
        assert_eq!(
            end[64..72],
            [9u32.to_ne_bytes(), 7u32.to_ne_bytes()].concat()[..],
            "the cookie, low word first"
        );

        let one = one("10.0.0.1:258".parse().unwrap(), "10.0.0.2:80".parse().unwrap(), 7 << 32 | 9);
        assert_eq!(one[4..8], [20, 0, 1, 0], "SOCK_DIAG_BY_FAMILY, REQUEST");
        assert_eq!(one[16..], end[16..]);

        let file = std::fs::File::open("/dev/null").unwrap();
        let with_map = dump(10, StateFlags::LISTEN, Some(file.as_fd()));
        assert_eq!(with_map.len(), 72 + 12);
        assert_eq!(with_map[72..80], [12, 0, 2, 0x80, 8, 0, 1, 0]);
        assert_eq!(with_map[80..], file.as_raw_fd().to_ne_bytes());
    }
}
