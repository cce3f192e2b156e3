//! Whether a stream is nothing but TLS records (RFC 8446, 5.1; RFC 5246, 6.2).

use std::fmt;

use super::stream::Stream;

/// Plaintext of 2^14 bytes and at most 256 bytes of expansion (RFC 8446, 5.2).
const MAX_RECORD: usize = 16_384 + 256;

/// Why a stream is not a sequence of TLS records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TlsFault {
    /// Segments are missing from the capture: nothing can be said.
    Gap,
    /// The beginning was not captured.
    NoStart,
    /// At this offset stand these bytes instead of a record header.
    NotARecord(usize, Vec<u8>),
    /// The last record is not whole although the stream goes on.
    Unfinished(usize),
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gap => f.write_str("segments are missing from the capture"),
            Self::NoStart => f.write_str("the beginning of the stream was not captured"),
            Self::NotARecord(at, bytes) => {
                write!(f, "not a TLS record at byte {at}: {:?}", String::from_utf8_lossy(bytes))
            }
            Self::Unfinished(at) => {
                write!(f, "the record at byte {at} is not whole, and the stream has not ended")
            }
        }
    }
}

/// Checks a stream; gives the number of records.
pub fn check(stream: &Stream) -> Result<usize, TlsFault> {
    if stream.beyond_gap > 0 {
        return Err(TlsFault::Gap);
    }
    if !stream.from_start && !stream.bytes.is_empty() {
        return Err(TlsFault::NoStart);
    }
    let mut rest = stream.bytes.as_slice();
    let mut records = 0;
    while !rest.is_empty() {
        let at = stream.bytes.len() - rest.len();
        if !begins_like_a_record(rest) {
            return Err(TlsFault::NotARecord(at, rest.iter().take(48).copied().collect()));
        }
        let whole = match rest {
            [_, _, _, high, low, body @ ..] => body.get(usize::from(u16::from_be_bytes([*high, *low]))..),
            _ => None,
        };
        match whole {
            Some(next) => rest = next,
            // A reset or a killed process cuts a stream anywhere.
            None if stream.ended => return Ok(records),
            None => return Err(TlsFault::Unfinished(at)),
        }
        records += 1;
    }
    Ok(records)
}

/// Whether the header is one, as far as it goes.
fn begins_like_a_record(bytes: &[u8]) -> bool {
    let kind = bytes.first().is_none_or(|kind| (20..=24).contains(kind));
    let major = bytes.get(1).is_none_or(|major| *major == 3);
    let minor = bytes.get(2).is_none_or(|minor| matches!(minor, 1 | 3));
    let length = match bytes.get(3..5) {
        Some(&[high, low]) => usize::from(u16::from_be_bytes([high, low])),
        _ => 0,
    };
    kind && major && minor && length <= MAX_RECORD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(bytes: &[u8], ended: bool) -> Stream {
        Stream {
            from: "10.0.0.1:1".parse().unwrap(),
            to: "10.0.0.2:2".parse().unwrap(),
            bytes: bytes.to_vec(),
            beyond_gap: 0,
            from_start: true,
            ended,
        }
    }

    #[test]
    fn whole_records_pass_and_are_counted() {
        assert_eq!(check(&stream(b"\x16\x03\x01\0\x02ab\x17\x03\x03\0\0\x15\x03\x03\0\x01x", false)), Ok(3));
        assert_eq!(check(&stream(b"", false)), Ok(0));
    }

    #[test]
    fn a_cut_record_passes_only_at_the_end_of_an_ended_stream() {
        for cut in [&b"\x17\x03\x03\0\x05abc"[..], b"\x17\x03", b"\x17"] {
            assert_eq!(check(&stream(cut, true)), Ok(0));
            assert_eq!(check(&stream(cut, false)), Err(TlsFault::Unfinished(0)));
        }
    }

    #[test]
    fn plain_bytes_are_found_at_the_start_and_between_records() {
        assert!(matches!(check(&stream(b"GET / HTTP/1.1", true)), Err(TlsFault::NotARecord(0, _))));
        assert!(matches!(check(&stream(b"\x17\x03\x03\0\x01aGET", true)), Err(TlsFault::NotARecord(6, _))));
        for bad in
            [&b"\x19\x03\x03\0\x01a"[..], b"\x17\x02\0\0\x01a", b"\x17\x03\x04\0\x01a", b"\x17\x03\x03\x42\0"]
        {
            assert!(matches!(check(&stream(bad, true)), Err(TlsFault::NotARecord(0, _))), "{bad:?}");
        }
    }

    #[test]
    fn a_capture_that_is_not_whole_proves_nothing() {
        let whole = stream(b"\x17\x03\x03\0\x01a", true);
        assert_eq!(check(&Stream { beyond_gap: 1, ..whole.clone() }), Err(TlsFault::Gap));
        assert_eq!(check(&Stream { from_start: false, ..whole }), Err(TlsFault::NoStart));
    }
}
