//! A peer's certificates as `mtlsd explain` shows them: names, serials, validity, leaf first.

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

/// Most certificates of a chain that a record keeps.
pub const MAX_CERTIFICATES: usize = 8;
/// Longest name of a certificate that a record keeps, in bytes.
pub const MAX_NAME: usize = 256;

/// The chain of a peer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerChain {
    /// The chain was accepted: the last certificate is the root of this node that vouches for it. Else these are the
    /// certificates as they were presented, of which nothing is proven.
    pub verified: bool,
    /// Leaf first, at most [`MAX_CERTIFICATES`].
    pub certificates: Vec<ChainCertificate>,
    /// Certificates that are not shown: beyond the limit, or not to be read.
    pub left_out: usize,
}

/// One certificate of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChainCertificate {
    /// Common name, or the whole subject, or the URI SAN of a leaf without a subject; escaped, at most [`MAX_NAME`] bytes.
    pub name: String,
    /// Serial number in lower-case hexadecimal.
    pub serial: String,
    /// Begin of validity.
    #[serde(with = "time::serde::rfc3339")]
    pub not_before: OffsetDateTime,
    /// End of validity.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
}

impl ChainCertificate {
    /// A certificate; cuts what is too long.
    #[must_use]
    pub fn new(name: &str, serial: &str, not_before: OffsetDateTime, not_after: OffsetDateTime) -> Self {
        Self { name: bounded(name), serial: bounded(serial), not_before, not_after }
    }
}

/// At most [`MAX_NAME`] bytes, cut between two characters.
fn bounded(text: &str) -> String {
    match text.get(..text.floor_char_boundary(MAX_NAME - '…'.len_utf8())) {
        Some(head) if text.len() > MAX_NAME => format!("{head}…"),
        _ => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cut_between_two_characters() {
        let then = OffsetDateTime::UNIX_EPOCH;
        let long = ChainCertificate::new(&"é".repeat(1_000), &"ab".repeat(1_000), then, then);
        assert!(long.name.len() <= MAX_NAME && long.name.ends_with('…'));
        assert!(long.serial.len() <= MAX_NAME);
        let exact = "x".repeat(MAX_NAME);
        assert_eq!(ChainCertificate::new(&exact, "0a", then, then).name, exact);
    }
}
