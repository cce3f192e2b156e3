//! What a certificate says about its holder before, or without, anything of it being proven: for the record
//! of a refusal, never for a decision.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use super::verify::listed;
use crate::identity::leaf::{Leaf, serial, show, shown_name};
use crate::identity::{PeerIdentity, SpiffeId};
use crate::observe::chain::{ChainCertificate, MAX_CERTIFICATES, PeerChain};

/// A presented certificate as a record shows it. Every text is bounded and safe to print.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Every URI SAN, else (`dns:`) every DNS SAN, else (`cn:`) the common name; `None` if it names nobody.
    pub name: Option<String>,
    /// Serial number in lower-case hex.
    pub serial: String,
    /// `notBefore`.
    pub not_before: SystemTime,
    /// `notAfter`.
    pub not_after: SystemTime,
}

impl Claim {
    /// Reads a leaf of at most `max_bytes`; `None` if it is larger or cannot be parsed.
    #[must_use]
    pub fn read(der: &CertificateDer<'_>, max_bytes: usize) -> Option<Self> {
        if der.len() > max_bytes {
            return None;
        }
        let leaf = Leaf::read(der).ok()?;
        Some(Self {
            name: claimed_name(&leaf),
            serial: leaf.serial,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
        })
    }
}

impl From<&PeerIdentity> for Claim {
    fn from(peer: &PeerIdentity) -> Self {
        Self {
            name: Some(peer.name.to_string()),
            serial: peer.serial.clone(),
            not_before: peer.not_before,
            not_after: peer.not_after,
        }
    }
}

/// Certificates for people, leaf first, as far as they can be read; the caller bounds their size.
pub(super) fn shown_chain<'a, 'c: 'a>(
    certificates: impl Iterator<Item = &'a CertificateDer<'c>>,
    verified: bool,
) -> PeerChain {
    let mut chain = PeerChain { verified, ..PeerChain::default() };
    for der in certificates {
        match x509_parser::parse_x509_certificate(der) {
            // In order and without a gap.
            Ok((_, certificate)) if chain.left_out == 0 && chain.certificates.len() < MAX_CERTIFICATES => {
                chain.certificates.push(shown_certificate(&certificate));
            }
            _ => chain.left_out += 1,
        }
    }
    chain
}

fn shown_certificate(certificate: &X509Certificate<'_>) -> ChainCertificate {
    let uri = || {
        let names = &certificate.subject_alternative_name().ok()??.value.general_names;
        names.iter().find_map(|name| match name {
            GeneralName::URI(uri) => Some(show(uri)),
            _ => None,
        })
    };
    // What has no subject is called by its SAN (RFC 5280, section 4.1.2.6).
    let subject = Some(shown_name(certificate.subject())).filter(|subject| !subject.is_empty());
    let name = subject.or_else(uri).unwrap_or_else(|| "(no name)".to_owned());
    let (from, until) = (certificate.validity().not_before, certificate.validity().not_after);
    ChainCertificate::new(&name, &serial(certificate), from.to_datetime(), until.to_datetime())
}

/// The certificates that an unproven peer presented, as far as the limits on a chain let them be read.
pub(super) fn presented(
    chain: &[CertificateDer<'_>],
    max_certificates: usize,
    max_bytes: usize,
) -> PeerChain {
    let mut bytes = 0_usize;
    let within = |der: &&CertificateDer<'_>| {
        bytes = bytes.saturating_add(der.len());
        bytes <= max_bytes
    };
    let within: Vec<_> =
        chain.iter().take(max_certificates.min(MAX_CERTIFICATES)).take_while(within).collect();
    // What claims nothing (`Claim::read`) is not shown either.
    let readable = within.first().is_some_and(|der| Leaf::read(der).is_ok());
    let read = if readable { within } else { Vec::new() };
    let unread = chain.len().saturating_sub(read.len());
    let mut shown = shown_chain(read.into_iter(), false);
    shown.left_out += unread;
    shown
}

/// In the order in which [`super::verify_peer`] looks for a name, but regardless of what is accepted.
fn claimed_name(leaf: &Leaf) -> Option<String> {
    let uris = || leaf.uris.iter().map(|uri| uri.as_deref().unwrap_or("(not text)"));
    match (leaf.uris.as_slice(), leaf.dns.as_slice(), leaf.common_name.as_deref()) {
        // A whole SPIFFE ID is safe to show and longer than what other text is cut to.
        ([Some(uri)], _, _) => Some(uri.parse::<SpiffeId>().map_or_else(|_| show(uri), |id| id.to_string())),
        ([_, ..], _, _) => Some(listed(uris())),
        ([], [_, ..], _) => Some(format!("dns:{}", listed(leaf.dns.iter()))),
        ([], [], common_name) => common_name.map(|name| format!("cn:{}", show(name))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::{LeafSpec, TestCa};

    const WEB: &str = "spiffe://example.org/web";

    fn claim(spec: &LeafSpec) -> Claim {
        let leaf = TestCa::root("root").leaf(spec);
        Claim::read(&leaf.chain[0], 65_536).unwrap()
    }

    #[test]
    fn whatever_name_is_there_is_shown() {
        let good = LeafSpec::id(WEB);
        let uris = |uris: &[&str]| LeafSpec {
            uris: uris.iter().map(|uri| (*uri).to_owned()).collect(),
            ..good.clone()
        };
        let many: Vec<_> = (0..6).map(|n| format!("spiffe://example.org/{n}")).collect();
        for (spec, want) in [
            (good.clone(), WEB),
            (uris(&["spiffe://example.org/a//b"]), "spiffe://example.org/a//b"),
            (uris(&[WEB, "spiffe://example.org/db"]), "spiffe://example.org/web, spiffe://example.org/db"),
            (
                LeafSpec { uris: many, ..good.clone() },
                "spiffe://example.org/0, spiffe://example.org/1, spiffe://example.org/2, \
                 spiffe://example.org/3 and 2 more",
            ),
        ] {
            assert_eq!(claim(&spec).name.as_deref(), Some(want));
        }
        let dns = LeafSpec { uris: vec![], dns: vec!["*.example.org".into()], ..good.clone() };
        assert_eq!(claim(&dns).name.as_deref(), Some("dns:*.example.org"));
        let nameless =
            LeafSpec { uris: vec![], dns: vec![], common_name: Some("web\u{1b}[31m".into()), ..good };
        assert_eq!(claim(&nameless).name.as_deref(), Some("cn:web\\u{1b}[31m"));
    }

    #[test]
    fn serial_and_validity_are_those_of_the_leaf() {
        let leaf = TestCa::root("root").leaf(&LeafSpec::id(WEB));
        let read = Leaf::read(&leaf.chain[0]).unwrap();
        let claim = Claim::read(&leaf.chain[0], 65_536).unwrap();
        assert_eq!(
            (claim.serial, claim.not_before, claim.not_after),
            (read.serial, read.not_before, read.not_after)
        );
    }

    #[test]
    fn what_is_too_large_or_not_a_certificate_claims_nothing() {
        let leaf = TestCa::root("root").leaf(&LeafSpec::id(WEB));
        assert_eq!(Claim::read(&leaf.chain[0], leaf.chain[0].len() - 1), None);
        assert!(Claim::read(&leaf.chain[0], leaf.chain[0].len()).is_some());
        assert_eq!(Claim::read(&CertificateDer::from(vec![0x30, 0x80]), 65_536), None);
    }

    #[test]
    fn a_presented_chain_is_shown_leaf_first_within_the_limits() {
        let root = TestCa::root("root");
        let leaf = root.intermediate("between").leaf(&LeafSpec::id(WEB));
        let chain = presented(&leaf.chain, 10, 65_536);
        assert!(!chain.verified && chain.left_out == 0, "{chain:?}");
        assert_eq!(chain.certificates.len(), leaf.chain.len());
        assert_eq!(chain.certificates[1].name, "between");
        let first = Leaf::read(&leaf.chain[0]).unwrap();
        assert_eq!(chain.certificates[0].serial, first.serial);
        assert_eq!(chain.certificates[0].not_after, first.not_after);
        let cut = presented(&leaf.chain, 1, 65_536);
        assert_eq!((cut.certificates.len(), cut.left_out), (1, leaf.chain.len() - 1));
        let large = presented(&leaf.chain, 10, leaf.chain[0].len() - 1);
        assert_eq!((large.certificates.len(), large.left_out), (0, leaf.chain.len()));
        let many = vec![leaf.chain[0].clone(); 30];
        let many = presented(&many, 100, 1 << 20);
        assert_eq!((many.certificates.len(), many.left_out), (MAX_CERTIFICATES, 30 - MAX_CERTIFICATES));
        let broken = [CertificateDer::from(vec![0x30, 0x80]), leaf.chain[0].clone()];
        let broken = presented(&broken, 10, 65_536);
        assert_eq!((broken.certificates.len(), broken.left_out), (0, 2));
    }

    #[test]
    fn a_huge_name_is_cut() {
        let uri = format!("https://example.org/{}", "x".repeat(10_000));
        let claim = claim(&LeafSpec::id(&uri));
        assert!(claim.name.unwrap().len() < 300);
    }
}
