//! A chain and a key that a workload could not use are refused before they replace anything.

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose};
use rustls::pki_types::PrivatePkcs8KeyDer;

use super::*;
use crate::identity::testing::{HOUR, LeafSpec, TestCa, TestLeaf};

fn make(leaf: &TestLeaf) -> Result<X509Svid, SvidError> {
    X509Svid::from_der(leaf.chain.clone(), &leaf.private_key(), SystemTime::now())
}

fn make_spec(spec: &LeafSpec) -> Result<X509Svid, SvidError> {
    make(&TestCa::root("root").intermediate("intermediate").leaf(spec))
}

#[test]
fn a_good_pair_is_an_svid_that_is_renewed_at_half_of_its_life() {
    let now = SystemTime::now();
    let spec = LeafSpec { not_before: now - HOUR, not_after: now + 3 * HOUR, ..LeafSpec::default() };
    let svid = make_spec(&spec).unwrap();
    assert_eq!(svid.id.as_str(), "spiffe://example.org/web");
    assert_eq!(svid.chain.len(), 2);
    assert_eq!(svid.lifetime(), 4 * HOUR);
    assert_eq!(svid.renew_at(), svid.not_before + 2 * HOUR);
    assert!(svid.certified_key().keys_match().is_ok());
}

#[test]
fn the_debug_form_shows_no_key() {
    let leaf = TestCa::root("root").leaf(&LeafSpec::default());
    let svid = make(&leaf).unwrap();
    let text = format!("{svid:?}");
    assert!(text.contains("spiffe://example.org/web") && text.contains(&svid.serial));
    assert!(!text.contains("key") && text.len() < 300, "{text}");
}

#[test]
fn each_unusable_pair_has_its_own_error() {
    use SvidError as E;
    let spec = LeafSpec::default();
    let ca = TestCa::root("root");
    let mut other_key = ca.leaf(&spec);
    other_key.key = KeyPair::generate().unwrap();
    assert!(matches!(make(&other_key).unwrap_err(), E::KeyMismatch { .. }));

    let leaf = ca.leaf(&spec);
    let no_key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(vec![1, 2, 3]));
    let now = SystemTime::now();
    let with = |chain: Vec<CertificateDer<'static>>| X509Svid::from_der(chain, &leaf.private_key(), now);
    assert!(matches!(X509Svid::from_der(leaf.chain.clone(), &no_key, now).unwrap_err(), E::UnusableKey(_)));
    assert_eq!(with(vec![]).unwrap_err(), E::NoCertificate);
    let first = leaf.chain[0].clone();
    assert!(matches!(with(vec![vec![9].into()]).unwrap_err(), E::Unreadable { number: 1, .. }));
    assert!(matches!(
        with(vec![first.clone(), vec![9].into()]).unwrap_err(),
        E::Unreadable { number: 2, .. }
    ));
    assert!(matches!(with(vec![first.clone(); 11]).unwrap_err(), E::ChainTooLarge { certificates: 11, .. }));
    assert!(matches!(with(vec![first, vec![0; 65_536].into()]).unwrap_err(), E::ChainTooLarge { .. }));

    let uris = |uris: &[&str]| {
        let uris = uris.iter().map(|uri| (*uri).to_owned()).collect();
        make_spec(&LeafSpec { uris, ..spec.clone() }).unwrap_err()
    };
    assert!(matches!(uris(&[]), E::NoSpiffeId { .. }));
    assert!(matches!(uris(&["spiffe://a/b", "spiffe://a/c"]), E::SeveralSpiffeIds { count: 2, .. }));
    assert!(matches!(uris(&["https://a/b"]), E::MalformedSpiffeId { reason: SpiffeIdError::Scheme, .. }));
    assert!(matches!(uris(&["spiffe://a"]), E::NoPath { .. }));
}

#[test]
fn the_validity_error_says_by_how_much() {
    let now = SystemTime::now();
    let minutes = |n: u64| Duration::from_secs(60 * n);
    let old = LeafSpec { not_after: now - minutes(5), ..LeafSpec::default() };
    let text = make_spec(&old).unwrap_err().to_string();
    assert!(text.contains("expired 5 min ago"), "{text}");
    let new = LeafSpec { not_before: now + minutes(10), ..LeafSpec::default() };
    let text = make_spec(&new).unwrap_err().to_string();
    assert!(text.contains("not yet valid by 9 min"), "{text}");
    let early = LeafSpec { not_before: now + Duration::from_secs(37), ..LeafSpec::default() };
    assert!(make_spec(&early).is_ok(), "its issuer's clock may be ahead");
}

#[test]
fn a_workload_needs_a_certificate_for_both_roles() {
    use ExtendedKeyUsagePurpose as X;
    let usage = |spec: LeafSpec| match make_spec(&spec).unwrap_err() {
        SvidError::Usage { reason, .. } => reason,
        other => panic!("{other}"),
    };
    let base = LeafSpec::default;
    assert!(usage(LeafSpec { extended: vec![X::ServerAuth], ..base() }).contains("lacks clientAuth"));
    assert!(usage(LeafSpec { extended: vec![X::ClientAuth], ..base() }).contains("lacks serverAuth"));
    let encipher = vec![KeyUsagePurpose::KeyEncipherment];
    assert!(usage(LeafSpec { usage: encipher, ..base() }).contains("digitalSignature"));
    let ca = IsCa::Ca(BasicConstraints::Unconstrained);
    assert!(usage(LeafSpec { is_ca: ca, ..base() }).contains("CA certificate"));
    assert!(make_spec(&LeafSpec { extended: vec![], usage: vec![], ..base() }).is_ok());
}

#[test]
fn the_first_end_of_a_chain_is_that_of_whatever_ends_first() {
    let now = SystemTime::now();
    let root = TestCa::root("root");
    let long = root.intermediate_valid("long", now - HOUR, now + 20 * HOUR);
    let short = long.intermediate_valid("short", now - HOUR, now + HOUR / 2);
    let of = |ca: &TestCa| make(&ca.leaf(&LeafSpec::default())).unwrap().first_end;
    assert_eq!(of(&root).intermediate, None);
    assert_eq!(of(&long).intermediate, None);
    let first = of(&short);
    assert_eq!(first.intermediate.as_deref(), Some("short"));
    assert!(first.not_after <= now + HOUR / 2 && first.not_after > now);
}
