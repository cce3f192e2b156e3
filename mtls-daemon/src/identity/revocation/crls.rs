//! The lists in force, and what they say about a chain.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use super::crl::Crl;
use super::marks::{ChainMarks, Sha256};
use crate::identity::{TrustDomain, when};
use crate::observe::{Reason, Refusal};

/// All lists, found by the issuer that they are about.
#[derive(Debug, Default)]
pub struct Crls {
    by_issuer: HashMap<Sha256, Vec<Arc<Crl>>>,
    /// In these trust domains a certificate without a fresh list is refused.
    required: BTreeSet<TrustDomain>,
}

impl Crls {
    /// These lists; `required`: where a certificate needs one.
    #[must_use]
    pub fn new(crls: impl IntoIterator<Item = Arc<Crl>>, required: BTreeSet<TrustDomain>) -> Self {
        let mut by_issuer: HashMap<_, Vec<_>> = HashMap::new();
        for crl in crls {
            by_issuer.entry(crl.issuer.sha256).or_default().push(crl);
        }
        Self { by_issuer, required }
    }

    /// The issuers that there are lists of.
    pub fn issuers(&self) -> impl Iterator<Item = &Sha256> {
        self.by_issuer.keys()
    }

    pub(super) fn refusal_of(&self, chain: &ChainMarks, now: SystemTime) -> Option<Refusal> {
        if self.by_issuer.is_empty() && self.required.is_empty() {
            return None;
        }
        // A root is trusted because it is in the bundle; whoever does not want it takes it out there.
        let below = chain.certificates.len().saturating_sub(usize::from(chain.rooted));
        let mut unknown = None;
        for (at, certificate) in chain.certificates.iter().take(below).enumerate() {
            let covering = self.covering(chain, at);
            if let Some(crl) = covering.iter().find(|crl| crl.serials.contains(&certificate.serial)) {
                let (serial, issuer, source) = (&certificate.serial, &crl.issuer.name, &crl.source);
                let of = when::rfc3339(crl.this_update);
                let detail = format!("serial {serial} is on the CRL of {issuer:?} of {of} ({source})");
                return Some(Refusal::new(Reason::Revoked, detail));
            }
            let last = covering.into_iter().max_by_key(|crl| crl.next_update);
            let fresh = last.is_some_and(|crl| !crl.is_stale(now));
            if !fresh && unknown.is_none() {
                unknown = Some(self.without_fresh(at + 1, last, now));
            }
        }
        // Peers only: what is not known of an own certificate is for its peers to judge.
        unknown.filter(|_| chain.rooted && self.is_required(chain))
    }

    /// The lists that would name this certificate of a chain.
    fn covering(&self, chain: &ChainMarks, at: usize) -> Vec<&Arc<Crl>> {
        let Some(certificate) = chain.certificates.get(at) else { return Vec::new() };
        let signer = chain.certificates.get(at + 1).map(|issuer| issuer.key);
        let of_issuer = self.by_issuer.get(&certificate.issuer).into_iter().flatten();
        // Another issuer may have the same name: the list counts that the certificate's own issuer has signed.
        of_issuer
            .filter(|crl| signer.is_none_or(|signer| signer == crl.signer))
            .filter(|crl| if at == 0 { crl.leaves } else { crl.authorities })
            .collect()
    }

    /// What the lists know of a chain that none of them names, for people.
    pub(super) fn known_of(&self, chain: &ChainMarks, now: SystemTime) -> Vec<String> {
        if self.by_issuer.is_empty() {
            return vec!["no CRL is configured (trust.crls)".to_owned()];
        }
        let below = chain.certificates.len().saturating_sub(usize::from(chain.rooted));
        let of = |at: usize| match self.covering(chain, at).into_iter().max_by_key(|crl| crl.next_update) {
            Some(crl) if crl.is_stale(now) => {
                format!(
                    "the CRL of {:?} {} and does not name it",
                    crl.issuer.name,
                    when::expired(crl.next_update, now)
                )
            }
            Some(crl) => {
                let (issuer, source, of) = (&crl.issuer.name, &crl.source, when::rfc3339(crl.this_update));
                format!("the CRL of {issuer:?} of {of} ({source}) does not name it")
            }
            None => "there is no CRL of its issuer".to_owned(),
        };
        (0..below).map(|at| format!("certificate {}: {}", at + 1, of(at))).collect()
    }

    /// A peer without a SPIFFE ID belongs to no trust domain by name: then one that requires is enough.
    fn is_required(&self, chain: &ChainMarks) -> bool {
        match &chain.id {
            Some(id) => self.required.contains(id.trust_domain()),
            None => !self.required.is_empty(),
        }
    }

    fn without_fresh(&self, number: usize, last: Option<&Arc<Crl>>, now: SystemTime) -> Refusal {
        let detail = match last {
            None => format!("there is no CRL of the issuer of certificate {number} of its chain"),
            Some(crl) => {
                let (issuer, source) = (&crl.issuer.name, &crl.source);
                let expired = when::expired(crl.next_update, now);
                format!("the CRL of {issuer:?} for certificate {number} of its chain {expired} ({source})")
            }
        };
        Refusal::new(Reason::RevocationUnknown, detail)
    }
}
