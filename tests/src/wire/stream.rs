//! TCP streams put together again, one direction at a time.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;

use super::packet::Segment;

/// One direction of one connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Sender.
    pub from: SocketAddr,
    /// Receiver.
    pub to: SocketAddr,
    /// What was sent, in order, up to the first gap.
    pub bytes: Vec<u8>,
    /// Bytes that were captured beyond a gap.
    pub beyond_gap: usize,
    /// Whether its beginning (the SYN) was captured.
    pub from_start: bool,
    /// Whether it ended (FIN, or RST by either end).
    pub ended: bool,
}

/// A direction while segments still come in. Offsets count from the first byte after the SYN.
#[derive(Debug)]
struct Open {
    base: u32,
    from_start: bool,
    ended: bool,
    pieces: BTreeMap<u64, Vec<u8>>,
}

/// Collects segments.
#[derive(Debug, Default)]
pub struct Reassembler {
    open: HashMap<(SocketAddr, SocketAddr), Open>,
    done: Vec<Stream>,
}

impl Reassembler {
    /// Takes the next segment, in the order in which they were captured.
    pub fn add(&mut self, segment: &Segment<'_>) {
        let key = (segment.from, segment.to);
        if segment.syn {
            let base = segment.sequence.wrapping_add(1);
            // A SYN with another number is a new connection on the same ports; with the same one, a retransmission.
            if self.open.get(&key).is_some_and(|o| !o.from_start || o.base != base) {
                self.close(key);
            }
            self.open.entry(key).or_insert_with(|| Open::new(base, true));
        }
        if segment.rst {
            if let Some(other) = self.open.get_mut(&(segment.to, segment.from)) {
                other.ended = true;
            }
            if let Some(own) = self.open.get_mut(&key) {
                own.ended = true;
            }
            return;
        }
        // Data in a SYN (TCP Fast Open) begins one after its number.
        let first = segment.sequence.wrapping_add(u32::from(segment.syn));
        if segment.payload.is_empty() && !segment.fin {
            return;
        }
        let open = self.open.entry(key).or_insert_with(|| Open::new(first, false));
        open.ended |= segment.fin;
        open.put(first, segment.payload);
    }

    /// Every stream, in no particular order.
    pub fn finish(mut self) -> Vec<Stream> {
        let keys: Vec<_> = self.open.keys().copied().collect();
        for key in keys {
            self.close(key);
        }
        self.done
    }

    fn close(&mut self, key: (SocketAddr, SocketAddr)) {
        if let Some(open) = self.open.remove(&key) {
            self.done.push(open.into_stream(key.0, key.1));
        }
    }
}

impl Open {
    fn new(base: u32, from_start: bool) -> Self {
        Self { base, from_start, ended: false, pieces: BTreeMap::new() }
    }

    fn put(&mut self, first: u32, payload: &[u8]) {
        // The nearest offset to what is already there, as the number wraps every 4 GiB.
        let end = self.pieces.last_key_value().map_or(0, |(at, p)| at + p.len() as u64);
        let wrapped = first.wrapping_sub(self.base);
        let ahead = wrapped.wrapping_sub((end & 0xffff_ffff) as u32).cast_signed();
        let Some(offset) = end.checked_add_signed(i64::from(ahead)) else {
            // Before the first byte: a keepalive probe, or older than a capture that began in the middle.
            return;
        };
        if payload.is_empty() {
            return;
        }
        let place = self.pieces.entry(offset).or_default();
        if place.len() < payload.len() {
            *place = payload.to_vec();
        }
    }

    fn into_stream(self, from: SocketAddr, to: SocketAddr) -> Stream {
        let Self { from_start, ended, pieces, .. } = self;
        let mut bytes: Vec<u8> = Vec::new();
        let mut beyond_gap = 0;
        for (at, piece) in pieces {
            match usize::try_from(at).ok().and_then(|at| bytes.len().checked_sub(at)) {
                Some(known) => bytes.extend(piece.get(known..).unwrap_or_default()),
                None => beyond_gap += piece.len(),
            }
        }
        Stream { from, to, bytes, beyond_gap, from_start, ended }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(sequence: u32, payload: &[u8]) -> Segment<'_> {
        let (from, to) = ("10.0.0.1:1000".parse().unwrap(), "10.0.0.2:80".parse().unwrap());
        Segment { from, to, sequence, syn: false, fin: false, rst: false, payload }
    }

    fn syn(sequence: u32) -> Segment<'static> {
        Segment { syn: true, ..segment(sequence, b"") }
    }

    fn put(segments: &[Segment<'_>]) -> Vec<Stream> {
        let mut all = Reassembler::default();
        segments.iter().for_each(|s| all.add(s));
        let mut streams = all.finish();
        streams.sort_by(|a, b| a.bytes.cmp(&b.bytes));
        streams
    }

    #[test]
    fn disorder_retransmissions_and_wrapping_numbers_do_not_matter() {
        let start = u32::MAX - 2;
        let streams = put(&[
            syn(start),
            syn(start),
            segment(start.wrapping_add(4), b"defg"),
            segment(start.wrapping_add(1), b"ab"),
            segment(start.wrapping_add(2), b"bcd"),
            segment(start, b""),
            Segment { fin: true, ..segment(start.wrapping_add(8), b"hi") },
        ]);
        assert_eq!(streams.len(), 1);
        assert_eq!(streams[0].bytes, b"abcdefghi");
        assert!(streams[0].from_start && streams[0].ended && streams[0].beyond_gap == 0);
    }

    #[test]
    fn a_gap_is_reported_and_nothing_is_joined_over_it() {
        let streams = put(&[syn(0), segment(1, b"ab"), segment(9, b"xyz")]);
        assert_eq!((streams[0].bytes.as_slice(), streams[0].beyond_gap), (&b"ab"[..], 3));
        assert!(!streams[0].ended);
    }

    #[test]
    fn ports_used_again_make_a_new_stream() {
        let streams = put(&[syn(0), segment(1, b"one"), syn(5000), segment(5001, b"two")]);
        assert_eq!(streams.len(), 2);
        assert_eq!((streams[0].bytes.as_slice(), streams[1].bytes.as_slice()), (&b"one"[..], &b"two"[..]));
    }

    #[test]
    fn a_reset_ends_both_directions_and_a_stream_without_its_syn_says_so() {
        let back = |s: Segment<'static>| Segment { from: s.to, to: s.from, ..s };
        let streams = put(&[segment(77, b"mid"), back(Segment { rst: true, ..segment(0, b"") })]);
        assert_eq!(streams.len(), 1);
        assert!(!streams[0].from_start && streams[0].ended);
        assert_eq!(streams[0].bytes, b"mid");
    }

    #[test]
    fn data_in_a_syn_belongs_to_the_stream() {
        let streams = put(&[Segment { payload: b"fast", ..syn(9) }, segment(14, b"open")]);
        assert_eq!(streams[0].bytes, b"fastopen");
    }
}
