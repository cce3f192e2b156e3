//! Reading a held SYN and making its answers: the SYN itself once the peer is ready, a RST, or an ICMP error.
//!
//! The packets travel over `lo` inside the workload's namespace only.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

const TCP: u8 = 6;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
const V4_HEADER: usize = 20;
const V6_HEADER: usize = 40;
const TCP_HEADER: usize = 20;
const FLAG_RST_ACK: u8 = 0x14;

/// A captured connection's first packet, kept back until the peer's answer is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldSyn {
    /// The application's end.
    pub source: SocketAddr,
    /// The daemon's listener that connect() was turned to.
    pub listener: SocketAddr,
    sequence: u32,
    packet: Vec<u8>,
}

/// What an ICMP error says; the kernel turns it into the errno of connect() (`icmp_err_convert`,
/// `tab_unreach`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unreachable {
    /// EHOSTUNREACH.
    Host,
    /// ENETUNREACH.
    Network,
    /// Administratively prohibited: EACCES with IPv6, EHOSTUNREACH with IPv4, which has no EACCES.
    Prohibited,
}

impl HeldSyn {
    /// Takes a packet from its IP header on, as the egress program copied it.
    /// `None` when it is not a whole TCP SYN.
    #[must_use]
    pub fn parse(packet: &[u8]) -> Option<Self> {
        let (source, destination, tcp_at) = match packet.first()? >> 4 {
            4 => {
                let header = usize::from(packet.first()? & 0xf) * 4;
                (header >= V4_HEADER && *packet.get(9)? == TCP).then_some(())?;
                (IpAddr::from(array::<4>(packet, 12)?), IpAddr::from(array::<4>(packet, 16)?), header)
            }
            6 => {
                (*packet.get(6)? == TCP).then_some(())?;
                (IpAddr::from(array::<16>(packet, 8)?), IpAddr::from(array::<16>(packet, 24)?), V6_HEADER)
            }
            _ => return None,
        };
        let port = |at| array::<2>(packet, tcp_at + at).map(u16::from_be_bytes);
        let header = usize::from(packet.get(tcp_at + 12)? >> 4) * 4;
        (header >= TCP_HEADER && packet.len() == tcp_at + header).then_some(())?;
        Some(Self {
            source: SocketAddr::new(source, port(0)?),
            listener: SocketAddr::new(destination, port(2)?),
            sequence: u32::from_be_bytes(array::<4>(packet, tcp_at + 4)?),
            packet: packet.to_vec(),
        })
    }

    /// The SYN again, to be sent to the listener.
    #[must_use]
    pub fn release(&self) -> Vec<u8> {
        let tcp_at = self.packet.len() - self.tcp().len();
        let mut tcp = self.tcp().to_vec();
        set_checksum(&mut tcp, 16, self.source.ip(), self.listener.ip(), TCP);
        let mut packet = self.packet.get(..tcp_at).unwrap_or_default().to_vec();
        set_length(&mut packet, tcp.len());
        packet.extend(tcp);
        packet
    }

    /// A RST from the listener: connect() fails with ECONNREFUSED.
    #[must_use]
    pub fn refuse(&self) -> Vec<u8> {
        let mut tcp = Vec::with_capacity(TCP_HEADER);
        tcp.extend(self.listener.port().to_be_bytes());
        tcp.extend(self.source.port().to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(self.sequence.wrapping_add(1).to_be_bytes());
        tcp.extend([5 << 4, FLAG_RST_ACK, 0, 0, 0, 0, 0, 0]);
        set_checksum(&mut tcp, 16, self.listener.ip(), self.source.ip(), TCP);
        self.answer(TCP, tcp)
    }

    /// An ICMP error from the listener's address, about this SYN.
    #[must_use]
    pub fn unreachable(&self, what: Unreachable) -> Vec<u8> {
        let v4 = self.source.is_ipv4();
        // Type 3 of RFC 792 and RFC 1812; type 1 of RFC 4443.
        let (kind, code) = match (v4, what) {
            (true, Unreachable::Network) => (3, 0),
            (true, Unreachable::Host) => (3, 1),
            (true, Unreachable::Prohibited) => (3, 13),
            (false, Unreachable::Network) => (1, 0),
            (false, Unreachable::Prohibited) => (1, 1),
            (false, Unreachable::Host) => (1, 3),
        };
        let mut icmp = vec![kind, code, 0, 0, 0, 0, 0, 0];
        icmp.extend(&self.packet);
        if v4 {
            let sum = finish(add(0, &icmp));
            put(&mut icmp, 2, sum);
            self.answer(ICMP, icmp)
        } else {
            set_checksum(&mut icmp, 2, self.listener.ip(), self.source.ip(), ICMPV6);
            self.answer(ICMPV6, icmp)
        }
    }

    fn tcp(&self) -> &[u8] {
        let at = if self.source.is_ipv4() {
            usize::from(self.packet.first().copied().unwrap_or(0x45) & 0xf) * 4
        } else {
            V6_HEADER
        };
        self.packet.get(at..).unwrap_or_default()
    }

    fn answer(&self, protocol: u8, payload: Vec<u8>) -> Vec<u8> {
        let mut packet = match (self.listener.ip(), self.source.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => v4_header(protocol, from, to),
            (IpAddr::V6(from), IpAddr::V6(to)) => v6_header(protocol, from, to),
            _ => return Vec::new(),
        };
        set_length(&mut packet, payload.len());
        packet.extend(payload);
        packet
    }
}

fn v4_header(protocol: u8, from: Ipv4Addr, to: Ipv4Addr) -> Vec<u8> {
    let mut header = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0];
    header.extend(from.octets());
    header.extend(to.octets());
    header
}

fn v6_header(protocol: u8, from: Ipv6Addr, to: Ipv6Addr) -> Vec<u8> {
    let mut header = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
    header.extend(from.octets());
    header.extend(to.octets());
    header
}

/// Writes the length into an IP header that stands alone; the kernel fills in the IPv4 checksum of a raw
/// packet (raw(7)).
fn set_length(header: &mut [u8], payload: usize) {
    let v4 = header.first().is_some_and(|first| first >> 4 == 4);
    let (at, length) = if v4 { (2, header.len() + payload) } else { (4, payload) };
    put(header, at, u16::try_from(length).unwrap_or(u16::MAX));
}

/// Computes the checksum at `at` over the pseudo-header and `message` (RFC 9293 section 3.1, RFC 8200
/// section 8.1).
fn set_checksum(message: &mut [u8], at: usize, from: IpAddr, to: IpAddr, protocol: u8) {
    put(message, at, 0);
    let mut sum = u32::try_from(message.len()).unwrap_or(0) + u32::from(protocol);
    for address in [from, to] {
        sum = match address {
            IpAddr::V4(address) => add(sum, &address.octets()),
            IpAddr::V6(address) => add(sum, &address.octets()),
        };
    }
    put(message, at, finish(add(sum, message)));
}

fn add(mut sum: u32, bytes: &[u8]) -> u32 {
    for pair in bytes.chunks(2) {
        let high = pair.first().copied().unwrap_or(0);
        let low = pair.get(1).copied().unwrap_or(0);
        sum += u32::from(u16::from_be_bytes([high, low]));
    }
    sum
}

fn finish(mut sum: u32) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

fn put(bytes: &mut [u8], at: usize, value: u16) {
    if let Some(slot) = bytes.get_mut(at..at + 2) {
        slot.copy_from_slice(&value.to_be_bytes());
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::capture) fn syn_v4() -> Vec<u8> {
        let mut packet = v4_header(TCP, Ipv4Addr::LOCALHOST, Ipv4Addr::LOCALHOST);
        packet.extend(40000u16.to_be_bytes());
        packet.extend(15001u16.to_be_bytes());
        packet.extend(0x01020304u32.to_be_bytes());
        packet.extend([0, 0, 0, 0, 6 << 4, 0x02, 0xff, 0xff, 0, 0, 0, 0, 2, 4, 0xff, 0xd7]);
        packet
    }

    fn checksum_is_right(packet: &[u8], protocol: u8) {
        let (at, from, to) = if packet[0] >> 4 == 4 {
            (20, IpAddr::from(array::<4>(packet, 12).unwrap()), IpAddr::from(array::<4>(packet, 16).unwrap()))
        } else {
            (
                40,
                IpAddr::from(array::<16>(packet, 8).unwrap()),
                IpAddr::from(array::<16>(packet, 24).unwrap()),
            )
        };
        let message = &packet[at..];
        let mut sum = u32::try_from(message.len()).unwrap() + u32::from(protocol);
        for address in [from, to] {
            sum = match address {
                IpAddr::V4(a) => add(sum, &a.octets()),
                IpAddr::V6(a) => add(sum, &a.octets()),
            };
        }
        assert_eq!(finish(add(sum, message)), 0, "a right checksum makes the sum zero");
    }

    #[test]
    fn a_held_syn_is_read_and_sent_again_with_a_right_checksum() {
        let held = HeldSyn::parse(&syn_v4()).unwrap();
        assert_eq!(held.source, "127.0.0.1:40000".parse().unwrap());
        assert_eq!(held.listener, "127.0.0.1:15001".parse().unwrap());
        let again = held.release();
        assert_eq!(again.len(), 44);
        assert_eq!(&again[24..28], &[1, 2, 3, 4]);
        assert_eq!(&again[40..], &[2, 4, 0xff, 0xd7], "options are kept");
        checksum_is_right(&again, TCP);
    }

    #[test]
    fn a_refusal_acknowledges_the_syn() {
        let refusal = HeldSyn::parse(&syn_v4()).unwrap().refuse();
        assert_eq!(&refusal[28..32], &0x01020305u32.to_be_bytes());
        assert_eq!(refusal[33], FLAG_RST_ACK);
        assert_eq!(u16::from_be_bytes([refusal[22], refusal[23]]), 40000);
        checksum_is_right(&refusal, TCP);
    }

    #[test]
    fn icmp_errors_quote_the_syn() {
        let held = HeldSyn::parse(&syn_v4()).unwrap();
        for (what, code) in [(Unreachable::Network, 0), (Unreachable::Host, 1), (Unreachable::Prohibited, 13)]
        {
            let error = held.unreachable(what);
            assert_eq!((error[9], error[20], error[21]), (ICMP, 3, code));
            assert_eq!(finish(add(0, &error[20..])), 0);
            assert_eq!(&error[28..48], &syn_v4()[..20]);
        }
    }

    #[test]
    fn ipv6_answers_have_right_checksums() {
        let mut packet = v6_header(TCP, Ipv6Addr::LOCALHOST, Ipv6Addr::LOCALHOST);
        packet.extend(&syn_v4()[20..]);
        let held = HeldSyn::parse(&packet).unwrap();
        checksum_is_right(&held.release(), TCP);
        checksum_is_right(&held.refuse(), TCP);
        for (what, code) in [(Unreachable::Network, 0), (Unreachable::Prohibited, 1), (Unreachable::Host, 3)]
        {
            let error = held.unreachable(what);
            assert_eq!((error[6], error[40], error[41]), (ICMPV6, 1, code));
            checksum_is_right(&error, ICMPV6);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_parser_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..160)) {
            if let Some(held) = HeldSyn::parse(&bytes) {
                let _ = (held.release(), held.refuse(), held.unreachable(Unreachable::Prohibited));
            }
        }

        #[test]
        fn no_cut_or_flip_of_a_syn_makes_the_parser_panic(at in 0usize..44, to in 0u8.., keep in 0usize..45) {
            let mut packet = syn_v4();
            packet[at] = to;
            packet.truncate(keep);
            if let Some(held) = HeldSyn::parse(&packet) {
                let _ = (held.release(), held.refuse(), held.unreachable(Unreachable::Host));
            }
        }
    }
}
