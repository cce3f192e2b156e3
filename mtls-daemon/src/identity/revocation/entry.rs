//! What an operator revoked, and the list of it that a handshake asks.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::marks::{CertificateMarks, ChainMarks, DistinguishedName, Serial, Sha256};
use super::{MAX_SECONDS, RevocationError};
use crate::identity::{SpiffeId, when};

/// What is revoked.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Target {
    /// Every certificate with this serial number.
    Serial {
        /// The number.
        serial: Serial,
        /// Only those of this issuer; null: of any.
        #[serde(default)]
        issuer: Option<DistinguishedName>,
    },
    /// Every leaf with this SPIFFE ID.
    SpiffeId {
        /// The ID.
        id: SpiffeId,
    },
    /// Every certificate of this key.
    Key {
        /// Of its SubjectPublicKeyInfo in DER.
        sha256: Sha256,
    },
}

impl Target {
    /// Does it name this chain, or a certificate in it?
    #[must_use]
    pub fn names(&self, chain: &ChainMarks) -> bool {
        match self {
            Self::SpiffeId { id } => chain.id.as_ref() == Some(id),
            Self::Serial { .. } | Self::Key { .. } => {
                chain.certificates.iter().any(|certificate| self.names_certificate(certificate))
            }
        }
    }

    /// Is everything that `other` names named by this one, going by what they say?
    pub(super) fn covers(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Serial { serial, issuer: None }, Self::Serial { serial: theirs, .. }) => serial == theirs,
            _ => self == other,
        }
    }

    fn names_certificate(&self, certificate: &CertificateMarks) -> bool {
        match self {
            Self::Serial { serial, issuer } => {
                certificate.serial == *serial
                    && issuer.as_ref().is_none_or(|issuer| issuer.sha256 == certificate.issuer)
            }
            Self::Key { sha256 } => certificate.key == *sha256,
            Self::SpiffeId { .. } => false,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial { serial, issuer: None } => write!(f, "serial {serial}"),
            Self::Serial { serial, issuer: Some(issuer) } => {
                write!(f, "serial {serial} of {:?}", issuer.name)
            }
            Self::SpiffeId { id } => f.write_str(id.as_str()),
            Self::Key { sha256 } => write!(f, "key {sha256}"),
        }
    }
}

/// One line of the deny list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// What is revoked.
    pub target: Target,
    /// Why, in the words of whoever did it; may be empty.
    pub reason: String,
    /// Who did it, as the admin socket knows: `uid 0`.
    pub by: String,
    /// Since when.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Up to and including when; null: until somebody takes it back.
    #[serde(with = "time::serde::rfc3339::option")]
    pub until: Option<OffsetDateTime>,
}

impl Entry {
    /// As of now.
    ///
    /// # Errors
    /// [`RevocationError::TooLong`].
    pub fn new(
        target: Target,
        reason: String,
        by: String,
        seconds: Option<u64>,
        now: SystemTime,
    ) -> Result<Self, RevocationError> {
        let at = OffsetDateTime::from(now);
        let until = |seconds| {
            let allowed = Some(seconds).filter(|seconds| *seconds <= MAX_SECONDS);
            allowed.and_then(|seconds| at.checked_add(time::Duration::seconds(i64::try_from(seconds).ok()?)))
        };
        let until =
            seconds.map(|seconds| until(seconds).ok_or(RevocationError::TooLong(seconds))).transpose()?;
        Ok(Self { target, reason, by, at, until })
    }

    /// Is it in force?
    #[must_use]
    pub fn holds_at(&self, now: SystemTime) -> bool {
        self.until.is_none_or(|until| now <= SystemTime::from(until))
    }
}

impl fmt::Display for Entry {
    /// What a refusal says.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = when::rfc3339(self.at.into());
        write!(f, "{} is on the deny list of this node since {at} (by {})", self.target, self.by)?;
        if let Some(until) = self.until {
            write!(f, " until {}", when::rfc3339(until.into()))?;
        }
        if self.reason.is_empty() { Ok(()) } else { write!(f, ": {}", self.reason) }
    }
}

/// Entries, found by what they name.
#[derive(Debug, Clone, Default)]
pub(super) struct DenyList {
    entries: Vec<Arc<Entry>>,
    serials: HashMap<Serial, Vec<Arc<Entry>>>,
    ids: HashMap<SpiffeId, Arc<Entry>>,
    keys: HashMap<Sha256, Arc<Entry>>,
}

impl DenyList {
    /// Of two entries with one target the later one counts.
    pub(super) fn new(entries: Vec<Arc<Entry>>) -> Self {
        let mut list = Self::default();
        for entry in &entries {
            match &entry.target {
                Target::Serial { serial, .. } => {
                    list.serials.entry(serial.clone()).or_default().push(Arc::clone(entry));
                }
                Target::SpiffeId { id } => drop(list.ids.insert(id.clone(), Arc::clone(entry))),
                Target::Key { sha256 } => drop(list.keys.insert(*sha256, Arc::clone(entry))),
            }
        }
        list.entries = entries;
        list
    }

    pub(super) fn entries(&self) -> &[Arc<Entry>] {
        &self.entries
    }

    /// The entry in force that names the chain.
    pub(super) fn find(&self, chain: &ChainMarks, now: SystemTime) -> Option<&Entry> {
        if self.entries.is_empty() {
            return None;
        }
        let by_id = chain.id.as_ref().and_then(|id| self.ids.get(id));
        let by_certificate = || {
            chain.certificates.iter().find_map(|certificate| {
                let by_key = self.keys.get(&certificate.key).into_iter();
                let by_serial = self.serials.get(&certificate.serial).into_iter().flatten();
                by_key
                    .chain(by_serial)
                    .find(|entry| entry.target.names_certificate(certificate) && entry.holds_at(now))
            })
        };
        by_id.filter(|entry| entry.holds_at(now)).or_else(by_certificate).map(AsRef::as_ref)
    }
}
