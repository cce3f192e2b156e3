//! A TCP segment over IPv4 or IPv6 that can be changed and made into a frame again.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// TCP's flags.
pub mod flag {
    #![allow(missing_docs)]
    pub const FIN: u8 = 1;
    pub const SYN: u8 = 2;
    pub const RST: u8 = 4;
    pub const PSH: u8 = 8;
    pub const ACK: u8 = 16;
}

/// The headers of Ethernet, IPv4, IPv6 and TCP, without options.
const ETHERNET: usize = 14;
const IPV4: usize = 20;
const IPV6: usize = 40;
const TCP: usize = 20;

/// One segment, with what an attacker on the path may change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// Sender.
    pub from: SocketAddr,
    /// Receiver.
    pub to: SocketAddr,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledged: u32,
    /// See [`flag`].
    pub flags: u8,
    /// As it is in the header.
    pub window: u16,
    /// TCP's options, padded to whole words.
    pub options: Vec<u8>,
    /// What it carries.
    pub payload: Vec<u8>,
}

impl Segment {
    /// Whether it has all of these flags.
    pub fn has(&self, flags: u8) -> bool {
        self.flags & flags == flags
    }

    /// How far it moves its sender's sequence number.
    pub fn length(&self) -> u32 {
        let length = u32::try_from(self.payload.len()).expect("frames are small");
        length + u32::from(self.has(flag::SYN)) + u32::from(self.has(flag::FIN))
    }

    /// The same in segments of at most so many bytes.
    pub fn pieces(&self, most: usize) -> Vec<Self> {
        if self.payload.len() <= most {
            return vec![self.clone()];
        }
        let mut pieces = Vec::new();
        let mut sequence = self.sequence;
        for payload in self.payload.chunks(most) {
            // Only the last one ends anything.
            let flags = self.flags & !(flag::FIN | flag::PSH);
            let piece = Self { sequence, flags, payload: payload.to_vec(), ..self.clone() };
            sequence = sequence.wrapping_add(piece.length());
            pieces.push(piece);
        }
        if let Some(last) = pieces.last_mut() {
            last.flags = self.flags;
        }
        pieces
    }

    /// The segment in an Ethernet frame; `None` if that holds anything else.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let packet = frame.get(ETHERNET..)?;
        let (from, to, segment) = match frame.get(12..14)? {
            [8, 0] => ipv4(packet)?,
            [0x86, 0xdd] => ipv6(packet)?,
            _ => return None,
        };
        let end = usize::from(segment.get(12)? >> 4) * 4;
        Some(Self {
            from: SocketAddr::new(from, short(segment, 0)?),
            to: SocketAddr::new(to, short(segment, 2)?),
            sequence: word(segment, 4)?,
            acknowledged: word(segment, 8)?,
            flags: *segment.get(13)?,
            window: short(segment, 14)?,
            options: segment.get(TCP..end)?.to_vec(),
            payload: segment.get(end..)?.to_vec(),
        })
    }

    /// The frame between these two hardware addresses. All checksums are made here: between virtual interfaces the kernel
    /// leaves them out.
    pub fn frame(&self, from: [u8; 6], to: [u8; 6]) -> Vec<u8> {
        let mut tcp = [self.from.port().to_be_bytes(), self.to.port().to_be_bytes()].concat();
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledged.to_be_bytes());
        let words = u8::try_from((TCP + self.options.len()) / 4).expect("at most 40 bytes of options");
        tcp.extend([words << 4, self.flags]);
        tcp.extend(self.window.to_be_bytes());
        tcp.extend([0; 4]);
        tcp.extend(&self.options);
        tcp.extend(&self.payload);
        let length = u16::try_from(tcp.len()).expect("frames are small");
        let (addresses, v4) = self.addresses();
        let pseudo = [&addresses[..], &[0, 6], &length.to_be_bytes()].concat();
        let sum = checksum(&[&pseudo, &tcp]);
        tcp[16..18].copy_from_slice(&sum.to_be_bytes());
        let (kind, ip) = if v4 {
            ([8, 0], ipv4_header(length + 20, &addresses))
        } else {
            // No flow; TCP; 64 hops.
            let start = [&[0x60, 0, 0, 0][..], &length.to_be_bytes(), &[6, 64]].concat();
            ([0x86, 0xdd], [start, addresses].concat())
        };
        [&to[..], &from, &kind, &ip, &tcp].concat()
    }

    /// One after the other, and whether they are IPv4's.
    fn addresses(&self) -> (Vec<u8>, bool) {
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ([from.octets(), to.octets()].concat(), true),
            (IpAddr::V6(from), IpAddr::V6(to)) => ([from.octets(), to.octets()].concat(), false),
            (from, to) => panic!("from {from} to {to}"),
        }
    }
}

fn ipv4_header(total: u16, addresses: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x45, 0];
    ip.extend(total.to_be_bytes());
    // Not to be fragmented; 64 hops; TCP.
    ip.extend([0, 0, 0x40, 0, 64, 6, 0, 0]);
    ip.extend(addresses);
    let sum = checksum(&[&ip]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    ip
}

/// Sender, receiver and the TCP segment.
type Packet<'a> = (IpAddr, IpAddr, &'a [u8]);

fn ipv4(packet: &[u8]) -> Option<Packet<'_>> {
    if packet.first()? != &0x45 || packet.get(9)? != &6 {
        return None;
    }
    let address = |at: usize| Some(Ipv4Addr::from(word(packet, at)?).into());
    Some((address(12)?, address(16)?, packet.get(IPV4..usize::from(short(packet, 2)?))?))
}

fn ipv6(packet: &[u8]) -> Option<Packet<'_>> {
    if packet.get(6)? != &6 {
        return None;
    }
    let address = |at: usize| Some(Ipv6Addr::from(*packet.get(at..)?.first_chunk::<16>()?).into());
    Some((address(8)?, address(24)?, packet.get(IPV6..IPV6 + usize::from(short(packet, 4)?))?))
}

/// RFC 1071. Every part but the last has an even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0_u32;
    for part in parts {
        for pair in part.chunks(2) {
            let low = pair.get(1).copied().unwrap_or_default();
            sum += u32::from(u16::from_be_bytes([pair[0], low]));
        }
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded")
}

fn short(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_is_the_same_after_a_frame_and_its_checksums_come_out_even() {
        let ends = [("10.77.0.10:40000", "10.77.0.11:80"), ("[fd00:77::a]:40000", "[fd00:77::b]:80")];
        for ((from, to), payload) in
            ends.into_iter().flat_map(|ends| [(ends, &b""[..]), (ends, b"odd"), (ends, b"even")])
        {
            let segment = Segment {
                from: from.parse().unwrap(),
                to: to.parse().unwrap(),
                sequence: 0xffff_fffe,
                acknowledged: 7,
                flags: flag::PSH | flag::ACK,
                window: 500,
                options: vec![1, 1, 1, 0],
                payload: payload.to_vec(),
            };
            let frame = segment.frame([1; 6], [2; 6]);
            assert_eq!(Segment::read(&frame).as_ref(), Some(&segment));
            // A sum over what holds its own checksum is 0.
            let (addresses, tcp) = if from.starts_with('[') { (22, 54) } else { (26, 34) };
            assert!(tcp == 54 || checksum(&[&frame[14..34]]) == 0);
            let length = u16::try_from(frame.len() - tcp).unwrap().to_be_bytes();
            assert_eq!(checksum(&[&frame[addresses..tcp], &[0, 6], &length, &frame[tcp..]]), 0);
            for end in 0..frame.len() {
                assert_eq!(Segment::read(&frame[..end]), None);
            }
        }
    }

    #[test]
    fn syn_and_fin_take_a_number_each() {
        let segment = Segment::read(
            &Segment {
                from: "10.77.0.10:1".parse().unwrap(),
                to: "10.77.0.11:2".parse().unwrap(),
                sequence: 0,
                acknowledged: 0,
                flags: flag::SYN | flag::FIN,
                window: 0,
                options: Vec::new(),
                payload: b"ab".to_vec(),
            }
            .frame([0; 6], [0; 6]),
        )
        .unwrap();
        assert_eq!(segment.length(), 4);
        assert!(segment.has(flag::SYN) && !segment.has(flag::RST | flag::SYN));
    }

    #[test]
    fn pieces_are_the_whole_and_only_the_last_one_ends_it() {
        let whole = Segment {
            from: "10.77.0.10:1".parse().unwrap(),
            to: "10.77.0.11:2".parse().unwrap(),
            sequence: u32::MAX,
            acknowledged: 0,
            flags: flag::ACK | flag::FIN,
            window: 0,
            options: Vec::new(),
            payload: b"abcdefg".to_vec(),
        };
        let pieces = whole.pieces(3);
        let shown: Vec<_> = pieces.iter().map(|p| (p.sequence, &p.payload[..], p.has(flag::FIN))).collect();
        assert_eq!(shown, [(u32::MAX, &b"abc"[..], false), (2, b"def", false), (5, b"g", true)]);
        assert_eq!(whole.pieces(7), [whole]);
    }
}
