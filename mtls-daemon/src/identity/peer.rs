//! Who a verified peer is.

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Serialize, Serializer};

use crate::observe::chain::PeerChain;

use super::{CertificateAttributes, ChainMarks, SpiffeId};

/// The name that a verified certificate proves.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerName {
    /// The one URI SAN, a SPIFFE ID.
    Spiffe(SpiffeId),
    /// A DNS SAN in lower case; only where the configuration accepts it for legacy peers.
    Dns(String),
    /// The subject's common name; only where the configuration accepts it for legacy peers.
    CommonName(String),
}

impl PeerName {
    /// The SPIFFE ID, if that is what the peer proved.
    #[must_use]
    pub fn spiffe_id(&self) -> Option<&SpiffeId> {
        match self {
            Self::Spiffe(id) => Some(id),
            Self::Dns(_) | Self::CommonName(_) => None,
        }
    }
}

impl fmt::Display for PeerName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spiffe(id) => f.write_str(id.as_str()),
            Self::Dns(name) => write!(f, "dns:{name}"),
            Self::CommonName(name) => write!(f, "cn:{name}"),
        }
    }
}

impl Serialize for PeerName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A peer whose chain, key and name were verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerIdentity {
    /// The name that was proved.
    pub name: PeerName,
    /// The leaf's serial number in lower-case hex.
    pub serial: String,
    /// The leaf's `notBefore`.
    pub not_before: SystemTime,
    /// The leaf's `notAfter`: the identity is good up to and including this instant.
    pub not_after: SystemTime,
    /// Certificates that the peer sent, the leaf included.
    pub chain_len: usize,
    /// What else its leaf says.
    pub attributes: Arc<CertificateAttributes>,
    /// What its chain can be revoked by.
    pub marks: Arc<ChainMarks>,
    /// Its path from leaf to root, for people; shared like `marks`.
    pub chain: Arc<PeerChain>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_name_is_told_apart_in_text_and_in_json() {
        let id: SpiffeId = "spiffe://example.org/web".parse().unwrap();
        for (name, want) in [
            (PeerName::Spiffe(id), "spiffe://example.org/web"),
            (PeerName::Dns("db.example".into()), "dns:db.example"),
            (PeerName::CommonName("db".into()), "cn:db"),
        ] {
            assert_eq!(name.to_string(), want);
            assert_eq!(serde_json::to_string(&name).unwrap(), format!("{want:?}"));
        }
    }
}
