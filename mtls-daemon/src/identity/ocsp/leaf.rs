//! What is known of one leaf, and what that means for its peer.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::response::{Answer, OcspError, Status};
use super::{Question, Responder};
use crate::identity::revocation::Sha256;
use crate::identity::{TrustDomain, when};
use crate::observe::{Reason, Refusal};

/// Largest answer that is stapled, in bytes. It shares a handshake message with the chain, whose most is 64 KiB, and anybody on
/// the way from the responder can make it larger: the certificates in it are not signed.
pub(super) const MAX_STAPLE: usize = 16 * 1024;

/// An answer in force.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) answer: Answer,
    source: Arc<str>,
}

/// One leaf.
#[derive(Debug)]
pub(super) struct Leaf {
    pub(super) question: Arc<Question>,
    pub(super) domain: TrustDomain,
    pub(super) known: Option<Known>,
    /// Is it the leaf of a workload of this node?
    pub(super) own: bool,
    /// For an own leaf, the last good answer as it came.
    pub(super) der: Option<Arc<[u8]>>,
    /// Why the last question was not answered.
    pub(super) failure: Option<String>,
    pub(super) failures: u32,
    /// What the peer stapled last, which need not be read again.
    pub(super) stapled: Option<Sha256>,
    pub(super) complained: Option<OcspError>,
    pub(super) used: Instant,
    /// When it is asked next; `None`: it is being asked.
    pub(super) due: Option<Instant>,
}

impl Leaf {
    /// One of which nothing is known, to be asked about now.
    pub(super) fn new(question: Arc<Question>, domain: TrustDomain, now: Instant) -> Self {
        Self {
            question,
            domain,
            known: None,
            own: false,
            der: None,
            failure: None,
            failures: 0,
            stapled: None,
            complained: None,
            used: now,
            due: Some(now),
        }
    }

    /// Takes an answer into force.
    pub(super) fn accept(&mut self, answer: Answer, source: Arc<str>) -> Result<(), OcspError> {
        if let Some(Known { answer: old, .. }) = &self.known {
            // Of the same second, `revoked` is the later one.
            let back =
                answer.this_update == old.this_update && answer.status == Status::Good && self.is_revoked();
            if back || answer.this_update < old.this_update {
                return Err(OcspError::Older(
                    when::rfc3339(answer.this_update),
                    when::rfc3339(old.this_update),
                ));
            }
        }
        self.known = Some(Known { answer, source });
        self.failure = None;
        self.failures = 0;
        self.complained = None;
        Ok(())
    }

    /// Keeps the bytes of the answer in force, for an own leaf.
    pub(super) fn keep(&mut self, der: Vec<u8>) {
        self.der = (self.own && der.len() <= MAX_STAPLE).then(|| der.into());
    }

    /// After half of the time that the answer counts, or the configured one if that is shorter.
    pub(super) fn refresh_at(&self, responder: &Responder, now: SystemTime) -> Instant {
        let left =
            self.known.as_ref().map(|known| when::between(now, known.answer.until)).unwrap_or_default();
        Instant::now() + (left / 2).min(responder.refresh).max(super::due::SOONEST)
    }

    pub(super) fn is_revoked(&self) -> bool {
        matches!(&self.known, Some(Known { answer: Answer { status: Status::Revoked(_), .. }, .. }))
    }

    pub(super) fn is_known(&self, now: SystemTime) -> bool {
        let counts = |answer: &Answer| answer.status != Status::Unknown && answer.is_fresh(now);
        self.known.as_ref().is_some_and(|known| counts(&known.answer))
    }

    /// What is known, for people.
    pub(super) fn told(&self, now: SystemTime) -> String {
        match (&self.known, &self.failure) {
            (Some(Known { answer, source }), _) if answer.is_fresh(now) => {
                let status = match answer.status {
                    Status::Good => "good",
                    Status::Revoked(_) => "revoked",
                    Status::Unknown => "unknown",
                };
                format!("OCSP says {status}, until {} ({source})", when::rfc3339(answer.until))
            }
            (Some(Known { answer, source }), _) => {
                format!("the OCSP answer {} ({source})", when::expired(answer.until, now))
            }
            (None, Some(failure)) => format!("OCSP gave no answer: {failure}"),
            (None, None) => "OCSP has not answered yet; it is being asked".to_owned(),
        }
    }

    pub(super) fn refusal(&self, responder: &Responder, required: bool, now: SystemTime) -> Option<Refusal> {
        let serial = self.question.serial();
        // Stale, it still revokes.
        if let Some(Known { answer: Answer { status: Status::Revoked(at), this_update, .. }, source }) =
            &self.known
        {
            let (at, of) = (when::rfc3339(*at), when::rfc3339(*this_update));
            let detail =
                format!("serial {serial} was revoked at {at}, says the OCSP answer of {of} ({source})");
            return Some(Refusal::new(Reason::Revoked, detail));
        }
        if !required || self.is_known(now) {
            return None;
        }
        let Some(url) = responder.url_for(&self.question) else {
            return Some(unknown(
                "no OCSP responder is configured, and the certificate names none (authorityInfoAccess)",
            ));
        };
        let what = match &self.known {
            None => format!("there is no OCSP answer about serial {serial} yet"),
            Some(Known { answer, source }) if answer.is_fresh(now) => {
                format!(
                    "its issuer's OCSP responder does not know serial {serial} (certStatus unknown, {source})"
                )
            }
            Some(Known { answer, source }) => {
                format!(
                    "the OCSP answer about serial {serial} {} ({source})",
                    when::expired(answer.until, now)
                )
            }
        };
        Some(unknown(&match &self.failure {
            Some(failure) => format!("{what}: {failure}; it is asked for again in the background"),
            None => format!(
                "{what}; {url} is being asked in the background, and a retry succeeds once it has said good"
            ),
        }))
    }
}

pub(super) fn unknown(why: &str) -> Refusal {
    Refusal::new(Reason::RevocationUnknown, why.to_owned())
}
