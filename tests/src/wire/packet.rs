//! From a frame to a TCP segment.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::pcap::Link;

/// One TCP segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Sender.
    pub from: SocketAddr,
    /// Receiver.
    pub to: SocketAddr,
    /// Sequence number of the first byte (of the SYN itself, if it is one).
    pub sequence: u32,
    /// SYN.
    pub syn: bool,
    /// FIN.
    pub fin: bool,
    /// RST.
    pub rst: bool,
    /// The bytes it carries.
    pub payload: &'a [u8],
}

/// The TCP segment in a frame; `None` if it holds anything else, or a fragment.
pub fn tcp(link: Link, frame: &[u8]) -> Option<Segment<'_>> {
    let (kind, mut packet) = match link {
        Link::Ethernet => (short(frame, 12)?, frame.get(14..)?),
        Link::Sll2 => (short(frame, 0)?, frame.get(20..)?),
    };
    let mut kind = kind;
    // At most two VLAN tags.
    for _ in 0..2 {
        if matches!(kind, 0x8100 | 0x88a8) {
            kind = short(packet, 2)?;
            packet = packet.get(4..)?;
        }
    }
    let (from, to, segment) = match kind {
        0x0800 => ipv4(packet)?,
        0x86dd => ipv6(packet)?,
        _ => return None,
    };
    let offset = usize::from(*segment.get(12)? >> 4) * 4;
    let flags = *segment.get(13)?;
    if offset < 20 {
        return None;
    }
    Some(Segment {
        from: SocketAddr::new(from, short(segment, 0)?),
        to: SocketAddr::new(to, short(segment, 2)?),
        sequence: u32::from_be_bytes(segment.get(4..8)?.try_into().ok()?),
        syn: flags & 0x02 != 0,
        fin: flags & 0x01 != 0,
        rst: flags & 0x04 != 0,
        payload: segment.get(offset..)?,
    })
}

type Ends<'a> = (IpAddr, IpAddr, &'a [u8]);

fn ipv4(packet: &[u8]) -> Option<Ends<'_>> {
    let header = usize::from(packet.first()? & 0x0f) * 4;
    let fragment = short(packet, 6)? & 0x3fff;
    if packet.first()? >> 4 != 4 || header < 20 || fragment != 0 || *packet.get(9)? != 6 {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> {
        let four: [u8; 4] = packet.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(four).into())
    };
    // Short frames are padded by Ethernet, so the length in the header counts; 0 stands for a large TSO packet.
    let total = match usize::from(short(packet, 2)?) {
        0 => packet.len(),
        total => total,
    };
    Some((address(12)?, address(16)?, packet.get(header..total)?))
}

fn ipv6(packet: &[u8]) -> Option<Ends<'_>> {
    if packet.first()? >> 4 != 6 {
        return None;
    }
    let address = |at: usize| -> Option<IpAddr> {
        let sixteen: [u8; 16] = packet.get(at..at + 16)?.try_into().ok()?;
        Some(Ipv6Addr::from(sixteen).into())
    };
    let mut rest = match usize::from(short(packet, 4)?) {
        0 => packet.get(40..)?,
        length => packet.get(40..40 + length)?,
    };
    let mut next = *packet.get(6)?;
    // Hop-by-hop, routing and destination options; a fragment (44) is not put together here.
    for _ in 0..8 {
        match next {
            6 => return Some((address(8)?, address(24)?, rest)),
            0 | 43 | 60 => {
                let length = (usize::from(*rest.get(1)?) + 1) * 8;
                next = *rest.first()?;
                rest = rest.get(length..)?;
            }
            _ => return None,
        }
    }
    None
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// Flag bits for [`frame`].
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;

    /// An Ethernet frame with a TCP segment.
    pub fn frame(from: SocketAddr, to: SocketAddr, sequence: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut tcp = [from.port().to_be_bytes(), to.port().to_be_bytes()].concat();
        tcp.extend(sequence.to_be_bytes());
        tcp.extend([0, 0, 0, 0, 5 << 4, flags, 0, 0, 0, 0, 0, 0]);
        tcp.extend(payload);
        let length = u16::try_from(tcp.len()).unwrap();
        let mut out = vec![0; 12];
        match (from.ip(), to.ip()) {
            (IpAddr::V4(a), IpAddr::V4(b)) => {
                out.extend([0x08, 0x00, 0x45, 0]);
                out.extend((length + 20).to_be_bytes());
                out.extend([0, 0, 0, 0, 64, 6, 0, 0]);
                out.extend([a.octets(), b.octets()].concat());
            }
            (IpAddr::V6(a), IpAddr::V6(b)) => {
                out.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
                out.extend((length + 8).to_be_bytes());
                out.extend([60, 64]);
                out.extend([a.octets(), b.octets()].concat());
                out.extend([6, 0, 0, 0, 0, 0, 0, 0]);
            }
            _ => panic!("one family"),
        }
        out.extend(tcp);
        out
    }

    #[test]
    fn a_segment_comes_out_of_ipv4_ipv6_and_padding() {
        for (from, to) in [("10.0.0.1:1000", "10.0.0.2:80"), ("[fd00::1]:1000", "[fd00::2]:80")] {
            let (from, to) = (from.parse().unwrap(), to.parse().unwrap());
            let mut bytes = frame(from, to, 7, SYN | FIN, b"hello");
            bytes.extend([0; 30]);
            let segment = tcp(Link::Ethernet, &bytes).unwrap();
            assert_eq!((segment.from, segment.to, segment.sequence), (from, to, 7));
            assert_eq!((segment.syn, segment.fin, segment.rst), (true, true, false));
            assert_eq!(segment.payload, b"hello");
            let sll2 = [&bytes[12..14], &[0; 18], &bytes[14..]].concat();
            assert_eq!(tcp(Link::Sll2, &sll2), Some(segment));
        }
    }

    #[test]
    fn every_torn_or_altered_frame_is_survived() {
        let whole = frame("[fd00::1]:1".parse().unwrap(), "[fd00::2]:2".parse().unwrap(), 1, SYN, b"x");
        for end in 0..whole.len() {
            assert_eq!(tcp(Link::Ethernet, &whole[..end]), None, "{end}");
        }
        for at in 0..whole.len() {
            for value in [0, 0xff, 0x7f] {
                let mut altered = whole.clone();
                altered[at] = value;
                let _ = tcp(Link::Ethernet, &altered);
            }
        }
        assert_eq!(tcp(Link::Ethernet, &[0; 60]), None);
    }
}
