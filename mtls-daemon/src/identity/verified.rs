//! Chains whose signatures were found good under the roots of one bundle.
//!
//! A workload shows the same chain on each of its connections, and checking the signatures in it is a third of what a
//! handshake costs. Only the path is remembered, never who may do what: names, usages, the directory and policy are asked
//! each time, and so are revocation and the time. A bundle with other roots begins with nothing.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256};
use rustls::pki_types::CertificateDer;

use super::revocation::ChainMarks;
use crate::observe::chain::PeerChain;

/// Most chains that one bundle remembers; then it begins anew. Only verified peers get in.
const MAX_CHAINS: usize = 4_096;

/// A chain and what it was verified for, as a SHA-256.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint([u8; 32]);

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fingerprint(..)")
    }
}

impl Fingerprint {
    /// `purpose`: what it is verified for; two purposes are two fingerprints.
    pub(crate) fn of(purpose: u8, chain: &[CertificateDer<'_>]) -> Self {
        let mut context = Context::new(&SHA256);
        context.update(&[purpose]);
        for der in chain {
            // Lengths, so that no two lists of certificates are the same bytes.
            context.update(&u64::try_from(der.len()).unwrap_or(u64::MAX).to_be_bytes());
            context.update(der);
        }
        let mut bytes = [0; 32];
        bytes.iter_mut().zip(context.finish().as_ref()).for_each(|(place, byte)| *place = *byte);
        Self(bytes)
    }
}

/// When every certificate of a path is valid; both ends belong to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Validity {
    pub(crate) from: SystemTime,
    pub(crate) until: SystemTime,
}

impl Validity {
    pub(crate) fn holds_at(self, now: SystemTime) -> bool {
        self.from <= now && now <= self.until
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self { from: self.from.max(other.from), until: self.until.min(other.until) }
    }
}

/// What a verified chain is remembered by.
#[derive(Debug, Clone)]
pub(crate) struct Path {
    /// What it can be revoked by.
    pub(crate) marks: Arc<ChainMarks>,
    /// What people are shown of it.
    pub(crate) shown: Arc<PeerChain>,
}

/// The chains.
#[derive(Default)]
pub(crate) struct VerifiedChains(Mutex<HashMap<Fingerprint, (Validity, Path)>>);

impl fmt::Debug for VerifiedChains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifiedChains(..)")
    }
}

impl VerifiedChains {
    /// The path, if it was verified and is valid now.
    pub(crate) fn find(&self, chain: &Fingerprint, now: SystemTime) -> Option<Path> {
        let chains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (validity, path) = chains.get(chain)?;
        validity.holds_at(now).then(|| path.clone())
    }

    /// It was verified now.
    pub(crate) fn remember(&self, path: &Path, validity: Validity) {
        let mut chains = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if chains.len() >= MAX_CHAINS {
            chains.clear();
        }
        chains.insert(path.marks.fingerprint, (validity, path.clone()));
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn chain(parts: &[&[u8]]) -> Vec<CertificateDer<'static>> {
        parts.iter().map(|part| CertificateDer::from(part.to_vec())).collect()
    }

    fn path(fingerprint: Fingerprint) -> Path {
        let marks =
            ChainMarks { fingerprint, id: None, certificates: [].into(), rooted: false, question: None };
        Path { marks: Arc::new(marks), shown: Arc::default() }
    }

    fn holds(chains: &VerifiedChains, chain: &Fingerprint, now: SystemTime) -> bool {
        chains.find(chain, now).is_some_and(|path| path.marks.fingerprint == *chain)
    }

    #[test]
    fn another_purpose_order_or_cut_is_another_chain() {
        let all = [
            Fingerprint::of(1, &chain(&[b"ab", b"c"])),
            Fingerprint::of(2, &chain(&[b"ab", b"c"])),
            Fingerprint::of(1, &chain(&[b"a", b"bc"])),
            Fingerprint::of(1, &chain(&[b"c", b"ab"])),
            Fingerprint::of(1, &chain(&[b"abc"])),
            Fingerprint::of(1, &chain(&[b"ab", b"c", b""])),
        ];
        for (at, one) in all.iter().enumerate() {
            assert!(all.iter().skip(at + 1).all(|other| other.0 != one.0), "{at}");
        }
    }

    #[test]
    fn a_chain_holds_only_while_all_of_it_is_valid() {
        let (from, until) = (SystemTime::UNIX_EPOCH + 10 * SECOND, SystemTime::UNIX_EPOCH + 20 * SECOND);
        let (chains, one) = (VerifiedChains::default(), Fingerprint::of(1, &chain(&[b"one"])));
        assert!(!holds(&chains, &one, from));
        let wide = Validity { from: SystemTime::UNIX_EPOCH, until: until + SECOND };
        chains.remember(&path(one), Validity { from, until }.and(wide));
        assert!(holds(&chains, &one, from) && holds(&chains, &one, until));
        assert!(!holds(&chains, &one, from - SECOND / 2) && !holds(&chains, &one, until + SECOND / 2));
        assert!(!holds(&chains, &Fingerprint::of(2, &chain(&[b"one"])), from));
    }

    #[test]
    fn their_number_is_bounded() {
        let (chains, now) = (VerifiedChains::default(), SystemTime::now());
        for number in 0..=MAX_CHAINS {
            let one = Fingerprint::of(1, &chain(&[&number.to_be_bytes()]));
            chains.remember(&path(one), Validity { from: now, until: now });
            assert!(chains.len() <= MAX_CHAINS && holds(&chains, &one, now));
        }
    }
}
