//! One server's chain, question by question, for `mtlsd diagnose`: what [`verify_peer`](super::verify_peer) decides at once is
//! answered here in the order in which people ask, each with its evidence, up to the first that fails. It decides nothing.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use webpki::{EndEntityCert, Error as PkiError};

use super::super::claim::presented;
use super::{
    Described, ExpectedServer, Parsed, PeerRole, Trust, judged_at, listed, parse, peer_name, validity_of,
    verify_path,
};
use crate::identity::bundle::Root;
use crate::identity::leaf::{Leaf, Unreadable};
use crate::identity::verified::Fingerprint;
use crate::identity::{Bundle, ChainMarks, SpiffeId, when};
use crate::observe::chain::PeerChain;
use crate::observe::{Reason, Refusal};

/// A question about a server's chain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Is there a chain that can be read, and does it name somebody?
    Presented,
    /// May the leaf be a server's?
    Usage,
    /// Does a root of this node vouch for it?
    Trusted,
    /// Is all of it valid now?
    Valid,
    /// Is nothing of it revoked?
    NotRevoked,
    /// Is it the server that is expected?
    Named,
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// It holds; why.
    Holds(String),
    /// It does not; nothing after it was asked.
    Fails(Refusal),
    /// It cannot be said.
    Open(String),
}

/// A question, its answer, and what was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What.
    pub asked: Asked,
    /// The answer.
    pub found: Found,
    /// Each in a sentence or less; foreign text in it is bounded and safe to show.
    pub evidence: Vec<String>,
}

/// Examines a chain, leaf first, with the OCSP answer that came along (or empty). The proof that the server holds the key is
/// the handshake's.
#[must_use]
pub fn examine_server(
    chain: &[CertificateDer<'_>],
    staple: &[u8],
    trust: &Trust,
    expected: &ExpectedServer,
    now: SystemTime,
) -> Vec<Finding> {
    let mut findings = Findings::default();
    let shown = presented(chain, trust.max_certificates, trust.max_bytes);
    let read = findings.ask(Asked::Presented, sentences(&shown), || read(chain, trust, expected));
    let Some((end_entity, leaf, name)) = read else { return findings.0 };
    let intermediates = chain.get(1..).unwrap_or_default();
    let peer = Described { name: &name, leaf: &leaf, now };
    let server = Server { chain, end_entity, leaf: &leaf, intermediates, peer: &peer, trust };
    // What cannot fail any more has left what the next question needs.
    let _stopped =
        server.examine(&mut findings, staple, name.spiffe_id(), || match expected.matches(&name) {
            true => Ok(format!("it is {name}, as expected")),
            false => Err(peer.refuse(Reason::UnexpectedServer, format!("expected {}", expected.listed()))),
        });
    findings.0
}

#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    /// Notes an answer; `None` if it fails.
    fn ask<T>(
        &mut self,
        asked: Asked,
        evidence: Vec<String>,
        answer: impl FnOnce() -> Result<(String, T), Refusal>,
    ) -> Option<T> {
        let (found, value) = match answer() {
            Ok((why, value)) => (Found::Holds(why), Some(value)),
            Err(refusal) => (Found::Fails(refusal), None),
        };
        self.0.push(Finding { asked, found, evidence });
        value
    }
}

type Read<'a> = (EndEntityCert<'a>, Leaf, crate::identity::PeerName);

fn read<'a>(
    chain: &'a [CertificateDer<'a>],
    trust: &Trust,
    expected: &ExpectedServer,
) -> Result<(String, Read<'a>), Refusal> {
    let Parsed { end_entity, leaf, .. } = parse(chain, trust)?;
    let name = peer_name(&leaf, trust.names, Some(expected))?;
    let count = chain.len();
    let what = if count == 1 { "1 certificate, which says" } else { "a chain whose first certificate says" };
    Ok((format!("it presents {what} that it is {name}"), (end_entity, leaf, name)))
}

struct Server<'a> {
    chain: &'a [CertificateDer<'a>],
    end_entity: EndEntityCert<'a>,
    leaf: &'a Leaf,
    intermediates: &'a [CertificateDer<'a>],
    peer: &'a Described<'a>,
    trust: &'a Trust,
}

impl Server<'_> {
    fn examine(
        &self,
        findings: &mut Findings,
        staple: &[u8],
        id: Option<&SpiffeId>,
        named: impl FnOnce() -> Result<String, Refusal>,
    ) -> Option<()> {
        findings.ask(Asked::Usage, Vec::new(), || Ok((self.usage()?, ())))?;
        let domain = id.map_or(&self.trust.trust_domain, SpiffeId::trust_domain);
        let Some(bundle) = self.trust.bundles.get(domain) else {
            let foreign = self.peer.foreign(domain, self.trust);
            return findings.ask(Asked::Trusted, Vec::new(), || Err(foreign));
        };
        let roots = listed(bundle.roots().iter().map(Root::subject));
        let evidence = vec![format!("the bundle of {domain} holds {roots}")];
        match self.trusted(bundle) {
            Found::Fails(refusal) => return findings.ask(Asked::Trusted, evidence, || Err(refusal)),
            found => findings.0.push(Finding { asked: Asked::Trusted, found, evidence }),
        }
        let (root, used) = findings.ask(Asked::Valid, self.clocks(), || self.valid(bundle))?;
        let first = self.chain.first()?;
        let path = std::iter::once(first).chain(&used).chain([root.der()]);
        let print = Fingerprint::of(PeerRole::Server.purpose(), self.chain);
        let marks = ChainMarks::of(print, id.cloned(), path, true);
        let now = self.peer.now;
        let known = marks.as_ref().map(|marks| self.trust.revocations.known_of(marks, now));
        findings.ask(Asked::NotRevoked, known.unwrap_or_default(), || {
            let marks =
                marks.map_err(|Unreadable(why)| self.peer.refuse(Reason::MalformedCertificate, why))?;
            self.peer.not_revoked(&marks, staple, self.trust)?;
            Ok(("nothing is known against it".to_owned(), ()))
        })?;
        findings.ask(Asked::Named, Vec::new(), || Ok((named()?, ())))
    }

    fn usage(&self) -> Result<String, Refusal> {
        if let Some(why) = self.leaf.wrong_usage() {
            return Err(self.peer.refuse(Reason::CertificateUsage, why));
        }
        match self.leaf.extended_usage {
            Some(usage) if !usage.server => {
                let why = "its extended key usage lacks serverAuth";
                Err(self.peer.refuse(Reason::CertificateUsage, why))
            }
            Some(_) => Ok("its key usages allow a server (digitalSignature, serverAuth)".to_owned()),
            None => Ok("it has no extended key usage, which limits nothing".to_owned()),
        }
    }

    fn verify_at<'b>(&self, bundle: &'b Bundle, at: SystemTime) -> Result<Path<'b>, PkiError> {
        verify_path(&self.end_entity, self.intermediates, bundle, PeerRole::Server, at)
    }

    /// Whatever the time is: asked at some at which perhaps all of it is valid.
    fn trusted(&self, bundle: &Bundle) -> Found {
        let now = self.peer.now;
        let begins = judged_at(self.leaf, self.intermediates, now, std::time::Duration::MAX);
        for at in [now, begins, self.leaf.not_after, self.leaf.not_before] {
            match self.verify_at(bundle, at) {
                Ok((root, used)) => {
                    let between = match used.len() {
                        0 => String::new(),
                        1 => " through 1 intermediate".to_owned(),
                        many => format!(" through {many} intermediates"),
                    };
                    return Found::Holds(format!("our root {:?} vouches for it{between}", root.subject()));
                }
                Err(PkiError::CertExpired { .. } | PkiError::CertNotValidYet { .. }) => {}
                Err(PkiError::CertDistrusted) if bundle.roots().iter().any(|root| !root.is_valid_at(at)) => {}
                Err(error) => {
                    let skew = self.trust.clock_skew;
                    let peer = Described { now: at, ..*self.peer };
                    return Found::Fails(peer.path_refusal(
                        &error,
                        &self.end_entity,
                        self.intermediates,
                        bundle,
                        skew,
                    ));
                }
            }
        }
        Found::Open("there is no time at which all of it would be valid, so this cannot be told apart".into())
    }

    fn valid<'b>(&self, bundle: &'b Bundle) -> Result<(String, Path<'b>), Refusal> {
        let (now, skew) = (self.peer.now, self.trust.clock_skew);
        let path =
            self.peer.path_now(&self.end_entity, self.intermediates, bundle, PeerRole::Server, skew)?;
        let until = validity_of(self.leaf, self.intermediates, path.0).map(|validity| validity.until);
        let left = until.map(|until| {
            format!("; the first of its certificates ends in {}", when::span(when::between(now, until)))
        });
        let early = when::between(now, self.leaf.not_before);
        let early = (!early.is_zero()).then(|| {
            format!(", early by {}, which trust.clock_skew ({}) allows", when::span(early), when::span(skew))
        });
        let (early, left) = (early.unwrap_or_default(), left.unwrap_or_default());
        Ok((format!("the whole chain is valid now{early}{left}"), path))
    }

    fn clocks(&self) -> Vec<String> {
        let (leaf, now) = (self.leaf, self.peer.now);
        vec![
            format!(
                "certificate {} is valid from {} to {}",
                leaf.serial,
                when::rfc3339(leaf.not_before),
                when::rfc3339(leaf.not_after)
            ),
            format!("this node's clock says {}", when::rfc3339(now)),
        ]
    }
}

type Path<'b> = (&'b Root, Vec<CertificateDer<'static>>);

/// Each certificate as it was presented.
fn sentences(chain: &PeerChain) -> Vec<String> {
    let date = |time: time::OffsetDateTime| when::rfc3339(time.into());
    let one = |(certificate, number): (&crate::observe::chain::ChainCertificate, usize)| {
        let (from, until) = (date(certificate.not_before), date(certificate.not_after));
        format!("{number}: {:?}, serial {}, valid {from} to {until}", certificate.name, certificate.serial)
    };
    let mut sentences: Vec<_> = chain.certificates.iter().zip(1..).map(one).collect();
    if chain.left_out > 0 {
        sentences.push(format!("{} more that cannot be shown", chain.left_out));
    }
    sentences
}

#[cfg(test)]
mod tests;
