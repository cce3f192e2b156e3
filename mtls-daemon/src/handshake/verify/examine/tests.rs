//! Each way a server's chain can be wrong stops at its own question, and the answer as a whole is that of `verify_peer`.

use std::sync::Arc;

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};

use super::super::verify_peer;
use super::*;
use crate::handshake::tests::{SERVER, expected, trust};
use crate::identity::revocation::{CertificateMarks, Entry, Target};
use crate::identity::testing::{HOUR, LeafSpec, TestCa, TestLeaf};

const ORDER: [Asked; 6] =
    [Asked::Presented, Asked::Usage, Asked::Trusted, Asked::Valid, Asked::NotRevoked, Asked::Named];

fn examine(leaf: &TestLeaf, trust: &Trust) -> Vec<Finding> {
    let (now, wanted) = (SystemTime::now(), expected(SERVER));
    let findings = examine_server(&leaf.chain, &[], trust, &wanted, now);
    for (finding, asked) in findings.iter().zip(ORDER) {
        assert_eq!(finding.asked, asked, "{findings:#?}");
    }
    let failed = findings.iter().filter(|finding| matches!(finding.found, Found::Fails(_))).count();
    let verified = verify_peer(&leaf.chain, PeerRole::Server, trust, Some(&wanted), now);
    assert_eq!(verified.is_ok(), failed == 0, "{verified:?} {findings:#?}");
    if verified.is_ok() {
        assert_eq!(findings.len(), ORDER.len(), "{findings:#?}");
    }
    findings
}

/// Stops at this question for this reason; everything before holds.
#[track_caller]
fn fails(leaf: &TestLeaf, trust: &Trust, asked: Asked, reason: Reason, part: &str) -> Vec<Finding> {
    let findings = examine(leaf, trust);
    let Some((last, before)) = findings.split_last() else { panic!("nothing was asked") };
    assert!(before.iter().all(|finding| matches!(finding.found, Found::Holds(_))), "{findings:#?}");
    let Found::Fails(refusal) = &last.found else { panic!("{findings:#?}") };
    assert_eq!((last.asked, refusal.reason), (asked, reason), "{findings:#?}");
    assert!(refusal.detail.contains(part), "{part:?} is not in {:?}", refusal.detail);
    findings
}

#[test]
fn of_a_good_chain_every_question_holds_with_its_evidence() {
    let root = TestCa::root("root");
    let leaf = root.intermediate("between").leaf(&LeafSpec::id(SERVER));
    let findings = examine(&leaf, &trust(&root));
    let text = format!("{findings:#?}");
    for part in [
        "a chain whose first certificate says that it is spiffe://example.org/db",
        "our root \\\"root\\\" vouches for it through 1 intermediate",
        "the whole chain is valid now",
        "the deny list is empty",
        "no CRL is configured",
        "no OCSP responder is configured",
        "as expected",
        "2: \\\"between\\\", serial ",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
}

#[test]
fn each_fault_stops_at_its_question() {
    let root = TestCa::root("root");
    let trust = trust(&root);
    let good = LeafSpec::id(SERVER);
    let now = SystemTime::now();
    let client_only = LeafSpec { extended: vec![ExtendedKeyUsagePurpose::ClientAuth], ..good.clone() };
    let signs = LeafSpec {
        usage: vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature],
        ..good.clone()
    };
    let a_ca = LeafSpec { is_ca: IsCa::Ca(BasicConstraints::Unconstrained), ..good.clone() };
    let nameless = LeafSpec { uris: vec![], ..good.clone() };
    let expired = LeafSpec { not_before: now - 3 * HOUR, not_after: now - HOUR, ..good.clone() };
    let early = LeafSpec { not_before: now + HOUR, not_after: now + 2 * HOUR, ..good.clone() };
    let foreign = LeafSpec::id("spiffe://partner.example/db");
    let other = LeafSpec::id("spiffe://example.org/other");
    for (spec, asked, reason, part) in [
        (nameless, Asked::Presented, Reason::NoSpiffeId, "no URI SAN"),
        (client_only, Asked::Usage, Reason::CertificateUsage, "lacks serverAuth"),
        (signs, Asked::Usage, Reason::CertificateUsage, "signing certificates"),
        (a_ca, Asked::Usage, Reason::CertificateUsage, "CA certificate"),
        (foreign, Asked::Trusted, Reason::TrustDomain, "accepted here: example.org"),
        (expired.clone(), Asked::Valid, Reason::CertificateExpired, "expired 1 h ago"),
        (early.clone(), Asked::Valid, Reason::CertificateNotYetValid, "trust.clock_skew"),
        (other, Asked::Named, Reason::UnexpectedServer, "expected spiffe://example.org/db"),
    ] {
        fails(&root.leaf(&spec), &trust, asked, reason, part);
    }
    // Of another CA too: that is asked first.
    let stranger = TestCa::root("stranger");
    for spec in [good, expired, early] {
        let trusted = "trusted roots: root";
        fails(&stranger.leaf(&spec), &trust, Asked::Trusted, Reason::UnknownIssuer, trusted);
    }
}

#[test]
fn an_intermediate_or_a_root_that_has_expired_fails_the_question_of_validity() {
    let now = SystemTime::now();
    let root = TestCa::root("root");
    let old = root.intermediate_valid("old", now - 3 * HOUR, now - 2 * HOUR);
    // No time at which both are valid: what is wrong is still said.
    let findings = examine(&old.leaf(&LeafSpec::id(SERVER)), &trust(&root));
    let [_, _, trusted, valid] = findings.as_slice() else { panic!("{findings:#?}") };
    assert!(matches!(trusted.found, Found::Open(_)), "{findings:#?}");
    let Found::Fails(refusal) = &valid.found else { panic!("{findings:#?}") };
    assert_eq!(refusal.reason, Reason::CertificateExpired);

    let ended = TestCa::root_valid("ended", now - 3 * HOUR, now - HOUR / 2);
    let leaf = ended.leaf(&LeafSpec { not_before: now - 2 * HOUR, ..LeafSpec::id(SERVER) });
    fails(&leaf, &trust(&ended), Asked::Valid, Reason::CertificateExpired, "the trusted root is not valid");
}

#[test]
fn what_is_revoked_fails_with_the_entry_and_the_rest_of_what_is_known() {
    let root = TestCa::root("root");
    let leaf = root.leaf(&LeafSpec::id(SERVER));
    let trust = trust(&root);
    let now = SystemTime::now();
    let key = CertificateMarks::read(&leaf.chain[0]).unwrap().key;
    let entry = Entry::new(Target::Key { sha256: key }, "stolen".into(), "test".into(), None, now);
    trust.revocations.revoke(entry.unwrap(), now).unwrap();
    let findings = fails(&leaf, &trust, Asked::NotRevoked, Reason::Revoked, "stolen");
    let evidence = &findings.last().unwrap().evidence;
    assert!(evidence.iter().any(|text| text.contains("no CRL is configured")), "{evidence:?}");
}

#[test]
fn a_chain_beyond_the_limits_and_none_at_all_stop_before_anything_is_read() {
    let root = TestCa::root("root");
    let leaf = root.leaf(&LeafSpec::id(SERVER));
    let small = Trust { max_bytes: 10, ..Trust::clone(&trust(&root)) };
    fails(&leaf, &small, Asked::Presented, Reason::ChainTooLarge, "at most 10 and 10");
    let (wanted, now) = (ExpectedServer::default(), SystemTime::now());
    let none = examine_server(&[], &[], &trust(&root), &wanted, now);
    assert_eq!(none.len(), 1);
    assert!(matches!(&none[0].found, Found::Fails(refusal) if refusal.reason == Reason::NoCertificate));
    let garbage = [CertificateDer::from(vec![0x30, 0x80])];
    let none = examine_server(&garbage, &[], &trust(&root), &wanted, now);
    assert!(
        matches!(&none[0].found, Found::Fails(refusal) if refusal.reason == Reason::MalformedCertificate)
    );
    assert_eq!(none[0].evidence, ["1 more that cannot be shown"]);
}

#[test]
fn an_issuer_whose_clock_is_ahead_within_the_tolerance_is_told() {
    let root = TestCa::root("root");
    let skewed = Trust { clock_skew: HOUR, ..Trust::clone(&trust(&root)) };
    let early = LeafSpec { not_before: SystemTime::now() + HOUR / 2, ..LeafSpec::id(SERVER) };
    let findings = examine(&root.leaf(&early), &Arc::new(skewed));
    assert!(format!("{findings:?}").contains("which trust.clock_skew (1 h) allows"), "{findings:#?}");
}
