//! Whom is asked about what, and what happens without an answer.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::Question;
use crate::identity::{ChainMarks, TrustDomain};

/// The responder of one trust domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Responder {
    /// With its scheme; `None`: the one that each certificate names.
    pub url: Option<String>,
    /// PEM file with the roots for HTTPS; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// An answer is asked for again after it at the latest.
    pub refresh: Duration,
}

impl Responder {
    /// Where this question is asked.
    pub(super) fn url_for<'a>(&'a self, question: &'a Question) -> Option<&'a str> {
        self.url.as_deref().or_else(|| question.responder())
    }
}

/// All responders. Without any, nobody is asked and nothing is looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rules {
    /// By the trust domain whose certificates they know.
    pub responders: BTreeMap<TrustDomain, Responder>,
    /// That of peers without a SPIFFE ID.
    pub own: Option<TrustDomain>,
    /// Is a peer refused about whom there is no good answer?
    pub required: bool,
}

impl Rules {
    /// Who is asked about this chain's leaf.
    pub(super) fn of(&self, chain: &ChainMarks) -> Option<(&TrustDomain, &Responder)> {
        if self.responders.is_empty() {
            return None;
        }
        let domain = chain.id.as_ref().map(|id| id.trust_domain()).or(self.own.as_ref())?;
        self.responders.get_key_value(domain)
    }
}
