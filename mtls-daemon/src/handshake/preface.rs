//! The first record of a server that speaks ALPN `mtlsd/1`: is the application there, and if not, why not.
//!
//! A TLS 1.3 client is done before the server has judged its certificate (RFC 8446, section 2), so without
//! an answer it would report as connected what is about to be refused.
//!
//! ```text
//! version (1)   1
//! status (1)    0: ready; else a reason's number
//! length (2)    of the detail, big endian
//! detail        UTF-8, for people
//! ```

use crate::observe::Refusal;
use crate::observe::connection::RecordedReason;

const VERSION: u8 = 1;
const READY: u8 = 0;
const HEADER: usize = 4;
/// Longest detail in bytes.
pub const MAX_DETAIL: usize = 1024;

/// What a preface says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Preface {
    /// Bytes for the application follow.
    Ready,
    /// The server closes: its reason's number, and the detail.
    Refused(u8, String),
}

/// A preface that does not follow the format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the peer's mtlsd speaks an unknown version of mtlsd/1; upgrade the older of the two")]
pub struct UnknownPreface;

impl Preface {
    /// What the wire carries.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (status, detail) = match self {
            Self::Ready => (READY, ""),
            Self::Refused(number, detail) => (*number, truncated(detail, MAX_DETAIL)),
        };
        let length = u16::try_from(detail.len()).unwrap_or(0);
        let mut bytes = vec![VERSION, status];
        bytes.extend(length.to_be_bytes());
        bytes.extend(detail.as_bytes());
        bytes
    }

    /// Takes a preface off the front of `bytes`: the preface and its length, or `None` when bytes are missing.
    ///
    /// # Errors
    /// For another version, or a detail longer than [`MAX_DETAIL`].
    pub fn decode(bytes: &[u8]) -> Result<Option<(Self, usize)>, UnknownPreface> {
        match bytes.first() {
            None => return Ok(None),
            Some(&VERSION) => {}
            Some(_) => return Err(UnknownPreface),
        }
        let Some(&[_, status, high, low]) = bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let end = HEADER + usize::from(u16::from_be_bytes([high, low]));
        if end > HEADER + MAX_DETAIL {
            return Err(UnknownPreface);
        }
        let Some(detail) = bytes.get(HEADER..end) else {
            return Ok(None);
        };
        let preface = match status {
            READY => Self::Ready,
            number => Self::Refused(number, String::from_utf8_lossy(detail).into_owned()),
        };
        Ok(Some((preface, end)))
    }

    /// For a refusal of ours.
    #[must_use]
    pub fn refusing(refusal: &Refusal) -> Self {
        Self::Refused(refusal.reason.number(), refusal.detail.clone())
    }

    /// The reason as the log shows it; `None` when ready.
    #[must_use]
    pub fn remote_reason(&self) -> Option<RecordedReason> {
        match self {
            Self::Ready => None,
            Self::Refused(number, detail) => Some(RecordedReason::from_peer(*number, detail)),
        }
    }
}

fn truncated(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::Reason;

    #[test]
    fn prefaces_come_back_as_they_went() {
        let refusal = Refusal::new(Reason::PolicyDenied, "rule web-to-db");
        for preface in [Preface::Ready, Preface::refusing(&refusal)] {
            let mut bytes = preface.encode();
            for short in 0..bytes.len() {
                assert_eq!(Preface::decode(&bytes[..short]), Ok(None), "{short} bytes are not enough");
            }
            let length = bytes.len();
            bytes.extend(b"application");
            assert_eq!(Preface::decode(&bytes), Ok(Some((preface, length))));
        }
        let long = Preface::Refused(9, "é".repeat(MAX_DETAIL));
        let (back, _) = Preface::decode(&long.encode()).unwrap().unwrap();
        assert!(matches!(back, Preface::Refused(9, detail) if detail.len() <= MAX_DETAIL));
    }

    #[test]
    fn other_versions_and_overlong_details_are_refused() {
        assert_eq!(Preface::decode(&[2, 0, 0, 0]), Err(UnknownPreface));
        assert_eq!(Preface::decode(&[VERSION, 1, 0xff, 0xff]), Err(UnknownPreface));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_the_decoder_panic(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)) {
            let _ = Preface::decode(&bytes);
        }
    }
}
