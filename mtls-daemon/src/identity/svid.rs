//! An X.509 SVID: a SPIFFE ID, the chain that states it and the key that proves it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls::{Error as TlsError, InconsistentKeys};

use super::leaf::{Leaf, Unreadable, show};
use super::{SpiffeId, SpiffeIdError, when};

/// Most certificates in a chain of our own.
pub const MAX_OWN_CHAIN: usize = 10;
/// Largest chain of our own, in bytes; the limit that peers have by default.
pub const MAX_OWN_CHAIN_BYTES: usize = 65_536;

/// Why a chain and a key are not a usable SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// No certificate at all.
    #[error("there is no certificate")]
    NoCertificate,
    /// More than [`MAX_OWN_CHAIN`] certificates or [`MAX_OWN_CHAIN_BYTES`] bytes.
    #[error(
        "the chain has {certificates} certificates and {bytes} bytes; at most {MAX_OWN_CHAIN} and {MAX_OWN_CHAIN_BYTES} are sent: keep only the leaf and its intermediates"
    )]
    ChainTooLarge {
        /// Certificates in the chain.
        certificates: usize,
        /// Their DER bytes together.
        bytes: usize,
    },
    /// A certificate that cannot be parsed.
    #[error("certificate {number} of the chain cannot be parsed: {reason}; issue it again")]
    Unreadable {
        /// Which certificate, counted from 1.
        number: usize,
        /// What the parser said.
        reason: String,
    },
    /// A key of a kind that rustls cannot sign with.
    #[error("the private key cannot be used: {0}; use an ECDSA (P-256, P-384), Ed25519 or RSA key")]
    UnusableKey(String),
    /// The key is that of another certificate.
    #[error(
        "the private key does not belong to certificate {serial}; write the pair that was issued together"
    )]
    KeyMismatch {
        /// The leaf's serial.
        serial: String,
    },
    /// No URI SAN.
    #[error(
        "certificate {serial} carries no SPIFFE ID; issue it with one URI SAN spiffe://<trust domain>/<path>"
    )]
    NoSpiffeId {
        /// The leaf's serial.
        serial: String,
    },
    /// More than one URI SAN.
    #[error("certificate {serial} carries {count} URI SANs; issue it with exactly one")]
    SeveralSpiffeIds {
        /// The leaf's serial.
        serial: String,
        /// How many there are.
        count: usize,
    },
    /// A URI SAN that is not a SPIFFE ID.
    #[error("certificate {serial} carries {uri:?}, which is not a SPIFFE ID: {reason}")]
    MalformedSpiffeId {
        /// The leaf's serial.
        serial: String,
        /// What is there.
        uri: String,
        /// What is wrong with it.
        reason: SpiffeIdError,
    },
    /// A URI SAN that is not even text.
    #[error("certificate {serial} carries a URI SAN that is not text; issue it again")]
    BinarySpiffeId {
        /// The leaf's serial.
        serial: String,
    },
    /// The ID of the trust domain itself, which only signing certificates may have.
    #[error(
        "certificate {serial} carries {id}, which names a whole trust domain; a workload's ID has a path"
    )]
    NoPath {
        /// The leaf's serial.
        serial: String,
        /// The ID.
        id: SpiffeId,
    },
    /// Not usable as a TLS client and server.
    #[error(
        "certificate {serial} ({id}) may not be used by a workload: {reason}; issue it with digitalSignature, serverAuth and clientAuth"
    )]
    Usage {
        /// The leaf's serial.
        serial: String,
        /// The ID.
        id: SpiffeId,
        /// What stands in the way.
        reason: &'static str,
    },
    /// `notAfter` is in the past.
    #[error("certificate {serial} ({id}) {when}; renew it, or check this node's clock")]
    Expired {
        /// The leaf's serial.
        serial: String,
        /// The ID.
        id: SpiffeId,
        /// How long ago.
        when: String,
    },
    /// `notBefore` is in the future.
    #[error("certificate {serial} ({id}) is {when}; check this node's clock")]
    NotYetValid {
        /// The leaf's serial.
        serial: String,
        /// The ID.
        id: SpiffeId,
        /// How much longer.
        when: String,
    },
}

/// What ends first of a chain: from then on peers refuse it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FirstEnd {
    /// The earliest `notAfter` of the leaf and its intermediates.
    pub not_after: SystemTime,
    /// CN or serial of the intermediate whose it is; `None`: the leaf's.
    pub intermediate: Option<String>,
}

/// A workload's own identity, ready for a handshake.
#[derive(Clone)]
pub struct X509Svid {
    /// The SPIFFE ID in the leaf.
    pub id: SpiffeId,
    /// The leaf, then its intermediates; not the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// Signs with the leaf's key; never gives it out.
    pub key: Arc<dyn SigningKey>,
    /// The leaf's serial in lower-case hex.
    pub serial: String,
    /// The leaf's `notBefore`.
    pub not_before: SystemTime,
    /// The leaf's `notAfter`.
    pub not_after: SystemTime,
    /// The end of the chain, which may be before that of the leaf.
    pub first_end: FirstEnd,
}

impl X509Svid {
    /// Checks that a chain and a key make a usable SVID at `now`.
    pub fn from_der(
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'_>,
        now: SystemTime,
    ) -> Result<Self, SvidError> {
        Self::new(chain, now, || {
            rustls::crypto::aws_lc_rs::sign::any_supported_type(key)
                .map_err(|error| SvidError::UnusableKey(show(&error.to_string())))
        })
    }

    /// The same for a key that signs elsewhere, and says what its public key is.
    pub fn with_key(
        chain: Vec<CertificateDer<'static>>,
        key: Arc<dyn SigningKey>,
        now: SystemTime,
    ) -> Result<Self, SvidError> {
        Self::new(chain, now, || Ok(key))
    }

    fn new(
        chain: Vec<CertificateDer<'static>>,
        now: SystemTime,
        key: impl FnOnce() -> Result<Arc<dyn SigningKey>, SvidError>,
    ) -> Result<Self, SvidError> {
        let bytes = chain.iter().map(|der| der.len()).sum();
        if chain.len() > MAX_OWN_CHAIN || bytes > MAX_OWN_CHAIN_BYTES {
            return Err(SvidError::ChainTooLarge { certificates: chain.len(), bytes });
        }
        let first = chain.first().ok_or(SvidError::NoCertificate)?;
        let unreadable = |number| move |Unreadable(reason)| SvidError::Unreadable { number, reason };
        let leaf = Leaf::read(first).map_err(unreadable(1))?;
        let mut first_end = FirstEnd { not_after: leaf.not_after, intermediate: None };
        for (der, number) in chain.iter().zip(1..).skip(1) {
            let above = Leaf::read(der).map_err(unreadable(number))?;
            if above.not_after < first_end.not_after {
                let name = above.common_name.map_or(above.serial, |name| show(&name));
                first_end = FirstEnd { not_after: above.not_after, intermediate: Some(name) };
            }
        }
        let key = matching(&chain, key()?, &leaf)?;
        let id = own_id(&leaf)?;
        check_usage(&leaf, &id)?;
        let svid = Self {
            id,
            chain,
            key,
            serial: leaf.serial,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            first_end,
        };
        svid.check_validity(now)?;
        Ok(svid)
    }

    /// Is `now` within the validity of the leaf, or at most 60 s before it? The error says by how much it is not. Without
    /// the tolerance no certificate of an issuer whose clock is ahead would be taken: each is as fresh as the one before.
    pub fn check_validity(&self, now: SystemTime) -> Result<(), SvidError> {
        let (serial, id) = (self.serial.clone(), self.id.clone());
        if now > self.not_after {
            return Err(SvidError::Expired { serial, id, when: when::expired(self.not_after, now) });
        }
        if when::between(now, self.not_before) > when::CLOCK_SKEW {
            return Err(SvidError::NotYetValid { serial, id, when: when::not_yet(self.not_before, now) });
        }
        Ok(())
    }

    /// When half of its life is over.
    #[must_use]
    pub fn renew_at(&self) -> SystemTime {
        self.not_before.checked_add(self.lifetime() / 2).unwrap_or(self.not_after)
    }

    /// From `notBefore` to `notAfter`.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        when::between(self.not_before, self.not_after)
    }

    /// The chain and key as rustls takes them.
    #[must_use]
    pub fn certified_key(&self) -> CertifiedKey {
        CertifiedKey::new(self.chain.clone(), Arc::clone(&self.key))
    }
}

impl fmt::Debug for X509Svid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("X509Svid")
            .field("id", &self.id)
            .field("serial", &self.serial)
            .field("not_before", &when::rfc3339(self.not_before))
            .field("not_after", &when::rfc3339(self.not_after))
            .field("chain_len", &self.chain.len())
            .finish_non_exhaustive()
    }
}

fn matching(
    chain: &[CertificateDer<'static>],
    key: Arc<dyn SigningKey>,
    leaf: &Leaf,
) -> Result<Arc<dyn SigningKey>, SvidError> {
    match CertifiedKey::new(chain.to_vec(), Arc::clone(&key)).keys_match() {
        Ok(()) => Ok(key),
        Err(TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
            Err(SvidError::KeyMismatch { serial: leaf.serial.clone() })
        }
        Err(TlsError::InconsistentKeys(_)) => {
            Err(SvidError::UnusableKey("its public key cannot be derived".to_owned()))
        }
        Err(error) => Err(SvidError::Unreadable { number: 1, reason: show(&error.to_string()) }),
    }
}

fn own_id(leaf: &Leaf) -> Result<SpiffeId, SvidError> {
    let serial = leaf.serial.clone();
    let uri = match leaf.uris.as_slice() {
        [] => return Err(SvidError::NoSpiffeId { serial }),
        [None] => return Err(SvidError::BinarySpiffeId { serial }),
        [Some(uri)] => uri,
        several => return Err(SvidError::SeveralSpiffeIds { serial, count: several.len() }),
    };
    let id: SpiffeId = match uri.parse() {
        Ok(id) => id,
        Err(reason) => return Err(SvidError::MalformedSpiffeId { serial, uri: show(uri), reason }),
    };
    if id.path().is_empty() {
        return Err(SvidError::NoPath { serial, id });
    }
    Ok(id)
}

fn check_usage(leaf: &Leaf, id: &SpiffeId) -> Result<(), SvidError> {
    // A workload is both: one certificate serves its inbound and its outbound connections.
    let extended = match leaf.extended_usage {
        Some(usage) if !usage.server => Some("its extended key usage lacks serverAuth"),
        Some(usage) if !usage.client => Some("its extended key usage lacks clientAuth"),
        _ => None,
    };
    match leaf.wrong_usage().or(extended) {
        Some(reason) => Err(SvidError::Usage { serial: leaf.serial.clone(), id: id.clone(), reason }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
