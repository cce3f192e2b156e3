//! Each way a peer's chain can be wrong has its own reason, and the detail names what was seen.

use std::time::Duration;

use rcgen::{BasicConstraints, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};

use super::*;
use crate::identity::revocation::{CertificateMarks, Entry, Target};
use crate::identity::testing::{HOUR, LeafSpec, TestCa, TestLeaf};

const WEB: &str = "spiffe://example.org/web";

fn trust_of(bundles: &[(&str, Bundle)]) -> Trust {
    Trust {
        bundles: Arc::new(bundles.iter().map(|(domain, b)| (domain.parse().unwrap(), b.clone())).collect()),
        trust_domain: "example.org".parse().unwrap(),
        names: PeerNameSettings::default(),
        max_certificates: 10,
        max_bytes: 65_536,
        revocations: Arc::new(Revocations::in_memory()),
        clock_skew: Duration::ZERO,
    }
}

/// A root, an intermediate, and trust in the root for example.org.
fn world() -> (TestCa, TestCa, Trust) {
    let root = TestCa::root("root");
    let intermediate = root.intermediate("intermediate");
    let trust = trust_of(&[("example.org", root.bundle())]);
    (root, intermediate, trust)
}

fn verify(leaf: &TestLeaf, trust: &Trust) -> Result<PeerIdentity, Refusal> {
    verify_peer(&leaf.chain, PeerRole::Client, trust, None, SystemTime::now())
}

#[track_caller]
fn refused(result: Result<PeerIdentity, Refusal>, reason: Reason, evidence: &[&str]) {
    let refusal = result.expect_err("the peer must be refused");
    assert_eq!(refusal.reason, reason, "{refusal}");
    for piece in evidence {
        assert!(refusal.detail.contains(piece), "{piece:?} is not in {:?}", refusal.detail);
    }
    assert!(refusal.detail.len() < 4_096, "{} bytes of detail", refusal.detail.len());
}

fn serial_of(leaf: &TestLeaf) -> String {
    Leaf::read(&leaf.chain[0]).unwrap().serial
}

#[test]
fn a_good_chain_proves_its_spiffe_id_in_both_roles() {
    let (_, intermediate, trust) = world();
    let spec = LeafSpec::default();
    let leaf = intermediate.leaf(&spec);
    let expected = ExpectedServer { ids: vec![WEB.parse().unwrap()], dns_names: vec![] };
    for (role, expected) in [(PeerRole::Client, None), (PeerRole::Server, Some(&expected))] {
        let peer = verify_peer(&leaf.chain, role, &trust, expected, SystemTime::now()).unwrap();
        assert_eq!(peer.name.to_string(), WEB);
        assert_eq!(peer.serial, serial_of(&leaf));
        assert_eq!(peer.chain_len, 2);
        let wanted = spec.not_after.duration_since(peer.not_after).unwrap();
        assert!(wanted < Duration::from_secs(1), "not_after is the leaf's");
    }
}

#[test]
fn a_leaf_directly_under_the_root_is_good_too() {
    let (root, _, trust) = world();
    assert_eq!(verify(&root.leaf(&LeafSpec::default()), &trust).unwrap().chain_len, 1);
}

#[test]
fn a_root_sent_along_does_no_harm() {
    let (root, intermediate, trust) = world();
    let mut leaf = intermediate.leaf(&LeafSpec::default());
    leaf.chain.push(root.der.clone());
    assert_eq!(verify(&leaf, &trust).unwrap().chain_len, 3);
}

#[test]
fn no_certificate_is_a_reason_of_its_own() {
    let (_, _, trust) = world();
    refused(verify_peer(&[], PeerRole::Client, &trust, None, SystemTime::now()), Reason::NoCertificate, &[]);
}

#[test]
fn a_certificate_of_another_ca_has_an_unknown_issuer() {
    let (_, _, trust) = world();
    let leaf = TestCa::root("their root").intermediate("theirs").leaf(&LeafSpec::default());
    let serial = serial_of(&leaf);
    refused(verify(&leaf, &trust), Reason::UnknownIssuer, &[WEB, &serial, "theirs", "trusted roots: root"]);
}

#[test]
fn another_ca_of_the_same_names_is_an_unknown_issuer_and_not_tampering() {
    let (_, _, trust) = world();
    let leaf = TestCa::root("root").intermediate("intermediate").leaf(&LeafSpec::default());
    refused(verify(&leaf, &trust), Reason::UnknownIssuer, &[WEB]);
}

#[test]
fn a_missing_intermediate_leaves_the_issuer_unknown() {
    let (_, intermediate, trust) = world();
    let mut leaf = intermediate.leaf(&LeafSpec::default());
    leaf.chain.truncate(1);
    refused(verify(&leaf, &trust), Reason::UnknownIssuer, &["0 intermediates sent", "\"intermediate\""]);
}

#[test]
fn a_trust_domain_without_a_bundle_is_refused_even_from_a_known_ca() {
    let (_, intermediate, trust) = world();
    let leaf = intermediate.leaf(&LeafSpec::id("spiffe://partner.example/web"));
    refused(
        verify(&leaf, &trust),
        Reason::TrustDomain,
        &["spiffe://partner.example/web", "accepted here: example.org"],
    );
}

#[test]
fn a_ca_vouches_only_for_its_own_trust_domain() {
    let (root, intermediate, _) = world();
    let partner = TestCa::root("partner root");
    let trust = trust_of(&[("example.org", root.bundle()), ("partner.example", partner.bundle())]);
    let forged = partner.leaf(&LeafSpec::default());
    refused(verify(&forged, &trust), Reason::UnknownIssuer, &[WEB, "partner root", "trusted roots: root"]);
    let forged = intermediate.leaf(&LeafSpec::id("spiffe://partner.example/web"));
    refused(verify(&forged, &trust), Reason::UnknownIssuer, &["trusted roots: partner root"]);
    let honest = partner.leaf(&LeafSpec::id("spiffe://partner.example/web"));
    assert_eq!(verify(&honest, &trust).unwrap().name.to_string(), "spiffe://partner.example/web");
}

#[test]
fn an_expired_certificate_is_told_with_how_long_ago() {
    let (_, intermediate, trust) = world();
    let not_after = SystemTime::now() - Duration::from_secs(200);
    let leaf = intermediate.leaf(&LeafSpec { not_after, ..LeafSpec::default() });
    let serial = serial_of(&leaf);
    let at = when::rfc3339(not_after);
    refused(verify(&leaf, &trust), Reason::CertificateExpired, &[WEB, &serial, "expired 3 min ago", &at]);
}

#[test]
fn a_certificate_of_the_future_is_told_with_how_much_longer() {
    let (_, intermediate, trust) = world();
    let not_before = SystemTime::now() + HOUR / 2;
    let leaf = intermediate.leaf(&LeafSpec { not_before, ..LeafSpec::default() });
    let at = when::rfc3339(not_before);
    refused(
        verify(&leaf, &trust),
        Reason::CertificateNotYetValid,
        &[WEB, "not yet valid by", "check the clocks of both nodes", &at],
    );
}

#[test]
fn validity_has_its_edges_where_the_certificate_says() {
    let (_, intermediate, trust) = world();
    let spec = LeafSpec::default();
    let leaf = intermediate.leaf(&spec);
    let peer = verify(&leaf, &trust).unwrap();
    let at = |time| verify_peer(&leaf.chain, PeerRole::Client, &trust, None, time);
    let second = Duration::from_secs(1);
    assert!(at(peer.not_before).is_ok());
    assert!(at(peer.not_after).is_ok());
    refused(at(peer.not_after + second), Reason::CertificateExpired, &["expired 1 s ago"]);
    refused(at(peer.not_before - second), Reason::CertificateNotYetValid, &["by 1 s"]);
    refused(at(SystemTime::UNIX_EPOCH - second), Reason::CertificateNotYetValid, &[]);
}

/// A leaf and its intermediate, both valid from `ahead` on.
fn ahead(now: SystemTime, ahead: Duration, life: Duration) -> (TestLeaf, Trust) {
    let root = TestCa::root("root");
    let intermediate = root.intermediate_valid("intermediate", now + ahead, now + 24 * HOUR);
    let spec = LeafSpec { not_before: now + ahead, not_after: now + ahead + life, ..LeafSpec::default() };
    let leaf = intermediate.leaf(&spec);
    (leaf, Trust { clock_skew: Trust::CLOCK_SKEW, ..trust_of(&[("example.org", root.bundle())]) })
}

#[test]
fn an_issuer_whose_clock_is_a_little_ahead_is_believed_and_one_far_ahead_is_told_by_how_much() {
    let now = SystemTime::now();
    let second = Duration::from_secs(1);
    for (ahead_by, life) in [(37 * second, HOUR), (59 * second, 10 * second)] {
        let (leaf, trust) = ahead(now, ahead_by, life);
        let verified = |trust: &Trust| verify_peer(&leaf.chain, PeerRole::Client, trust, None, now);
        assert_eq!(verified(&trust).unwrap().name.to_string(), WEB);
        let strict = Trust { clock_skew: Duration::ZERO, ..trust };
        refused(verified(&strict), Reason::CertificateNotYetValid, &["0 s are allowed for"]);
        let bundle = strict.bundles.get(&strict.trust_domain).unwrap();
        assert_eq!(bundle.verified().len(), 1, "it is remembered for when it is valid, not for now");
    }
    let (leaf, trust) = ahead(now, 97 * second, HOUR);
    let refusal = verify_peer(&leaf.chain, PeerRole::Client, &trust, None, now);
    refused(
        refusal,
        Reason::CertificateNotYetValid,
        &["by 1 min", "check the clocks of both nodes, 1 min are allowed for"],
    );
    // It is enough that one certificate of the chain is too early.
    let root = TestCa::root("root");
    let early =
        root.intermediate_valid("intermediate", now + HOUR, now + 24 * HOUR).leaf(&LeafSpec::default());
    let trust = Trust { clock_skew: Trust::CLOCK_SKEW, ..trust_of(&[("example.org", root.bundle())]) };
    refused(
        verify_peer(&early.chain, PeerRole::Client, &trust, None, now),
        Reason::CertificateNotYetValid,
        &["an intermediate of its chain is not yet valid by 59 min", "check the clocks"],
    );
}

#[test]
fn the_tolerance_is_none_for_what_has_expired() {
    let (_, intermediate, trust) = world();
    let trust = Trust { clock_skew: Trust::CLOCK_SKEW, ..trust };
    let now = SystemTime::now();
    let leaf =
        intermediate.leaf(&LeafSpec { not_after: now - Duration::from_secs(37), ..LeafSpec::default() });
    refused(verify(&leaf, &trust), Reason::CertificateExpired, &["expired 37 s ago"]);
    // Nor does one that begins too early make another that ends too early valid.
    let root = TestCa::root("root");
    let ends = root.intermediate_valid("intermediate", now - HOUR, now + Duration::from_secs(5));
    let spec = LeafSpec { not_before: now + Duration::from_secs(30), ..LeafSpec::default() };
    let trust = Trust { clock_skew: Trust::CLOCK_SKEW, ..trust_of(&[("example.org", root.bundle())]) };
    refused(
        verify_peer(&ends.leaf(&spec).chain, PeerRole::Client, &trust, None, now),
        Reason::CertificateExpired,
        &[],
    );
}

#[test]
fn an_expired_or_future_intermediate_is_named_as_such() {
    let (root, _, trust) = world();
    let now = SystemTime::now();
    let old = root.intermediate_valid("old", now - 3 * HOUR, now - HOUR);
    refused(
        verify(&old.leaf(&LeafSpec::default()), &trust),
        Reason::CertificateExpired,
        &["an intermediate of its chain expired"],
    );
    let new = root.intermediate_valid("new", now + HOUR, now + 3 * HOUR);
    refused(
        verify(&new.leaf(&LeafSpec::default()), &trust),
        Reason::CertificateNotYetValid,
        &["an intermediate of its chain is not yet valid"],
    );
}

#[test]
fn an_expired_root_vouches_for_nobody() {
    let now = SystemTime::now();
    let root = TestCa::root_valid("old root", now - 3 * HOUR, now - HOUR);
    let trust = trust_of(&[("example.org", root.bundle())]);
    refused(
        verify(&root.leaf(&LeafSpec::default()), &trust),
        Reason::CertificateExpired,
        &["the trusted root is not valid now: old root until"],
    );
}

#[test]
fn the_names_must_be_exactly_one_well_formed_spiffe_id() {
    let (_, intermediate, trust) = world();
    let with = |uris: &[&str]| {
        let uris = uris.iter().map(|uri| (*uri).to_owned()).collect();
        verify(&intermediate.leaf(&LeafSpec { uris, ..LeafSpec::default() }), &trust)
    };
    refused(with(&[]), Reason::NoSpiffeId, &["no URI SAN (DNS SANs: none; common name: none)"]);
    refused(with(&[WEB, "spiffe://example.org/db"]), Reason::SeveralSpiffeIds, &["2 URI SANs", WEB, "/db"]);
    refused(with(&[WEB, WEB]), Reason::SeveralSpiffeIds, &[]);
    refused(with(&[WEB, "https://example.org/"]), Reason::SeveralSpiffeIds, &[]);
    for (uri, why) in [
        ("https://example.org/web", "does not start with spiffe://"),
        ("spiffe://example.org/a//b", "empty segment"),
        ("spiffe://Example.org/web", "'E'"),
        ("spiffe://example.org", "names a whole trust domain"),
        ("spiffe://example.org/we\nb", "\\n"),
        ("", "it is empty"),
    ] {
        refused(with(&[uri]), Reason::MalformedSpiffeId, &[why]);
    }
    let many: Vec<String> = (0..200).map(|n| format!("spiffe://example.org/{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    refused(with(&many), Reason::SeveralSpiffeIds, &["200 URI SANs", "and 196 more"]);
    let long = format!("spiffe://example.org/{}", "x".repeat(30_000));
    refused(with(&[&long]), Reason::MalformedSpiffeId, &["…"]);
}

#[test]
fn a_uri_that_is_not_text_counts_as_a_uri() {
    let (_, intermediate, trust) = world();
    // GeneralNames of one uniformResourceIdentifier [6] of the bytes ff fe, without and with a good URI.
    let san = |content: &[u8]| {
        let mut der = vec![0x30, u8::try_from(content.len()).unwrap()];
        der.extend_from_slice(content);
        let extensions = vec![CustomExtension::from_oid_content(&[2, 5, 29, 17], der)];
        intermediate.leaf(&LeafSpec { uris: vec![], extensions, ..LeafSpec::default() })
    };
    let bad = [0x86, 2, 0xff, 0xfe];
    refused(verify(&san(&bad), &trust), Reason::MalformedSpiffeId, &["not text"]);
    let mut two = vec![0x86, u8::try_from(WEB.len()).unwrap()];
    two.extend_from_slice(WEB.as_bytes());
    two.extend_from_slice(&bad);
    refused(verify(&san(&two), &trust), Reason::SeveralSpiffeIds, &["2 URI SANs", "(not text)"]);
}

#[test]
fn the_usages_must_allow_the_role() {
    let (_, intermediate, trust) = world();
    let with = |spec: LeafSpec, role| {
        let leaf = intermediate.leaf(&spec);
        verify_peer(&leaf.chain, role, &trust, None, SystemTime::now())
    };
    let extended = |purpose| LeafSpec { extended: vec![purpose], ..LeafSpec::default() };
    use ExtendedKeyUsagePurpose as E;
    refused(with(extended(E::ServerAuth), PeerRole::Client), Reason::CertificateUsage, &[WEB, "extended"]);
    refused(with(extended(E::ClientAuth), PeerRole::Server), Reason::CertificateUsage, &["extended"]);
    refused(with(extended(E::CodeSigning), PeerRole::Client), Reason::CertificateUsage, &["extended"]);
    assert!(with(extended(E::ClientAuth), PeerRole::Client).is_ok());
    let none = LeafSpec { extended: vec![], usage: vec![], ..LeafSpec::default() };
    assert!(with(none, PeerRole::Client).is_ok(), "absent usages allow everything");
    use KeyUsagePurpose as K;
    for (usage, why) in [
        (vec![K::KeyEncipherment], "lacks digitalSignature"),
        (vec![K::DigitalSignature, K::KeyCertSign], "signing certificates"),
        (vec![K::DigitalSignature, K::CrlSign], "signing certificates or CRLs"),
    ] {
        let spec = LeafSpec { usage, ..LeafSpec::default() };
        refused(with(spec, PeerRole::Client), Reason::CertificateUsage, &[WEB, why]);
    }
}

#[test]
fn a_ca_certificate_is_no_leaf() {
    let (_, intermediate, trust) = world();
    let is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let leaf = intermediate.leaf(&LeafSpec { is_ca, ..LeafSpec::default() });
    refused(verify(&leaf, &trust), Reason::CertificateUsage, &[WEB, "it is a CA certificate"]);
}

#[test]
fn a_leaf_is_no_ca() {
    let (_, intermediate, trust) = world();
    let mut params = TestCa::params("a leaf that signs");
    params.is_ca = IsCa::ExplicitNoCa;
    let leaf = intermediate.intermediate_with(params).leaf(&LeafSpec::default());
    refused(verify(&leaf, &trust), Reason::CertificateUsage, &["EndEntityUsedAsCa"]);
}

#[test]
fn a_path_longer_than_allowed_is_unsupported() {
    let (root, _, trust) = world();
    let mut params = TestCa::params("last");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let leaf = root.intermediate_with(params).intermediate("one too many").leaf(&LeafSpec::default());
    refused(verify(&leaf, &trust), Reason::CertificateUnsupported, &["PathLenConstraintViolated"]);
}

#[test]
fn an_unknown_critical_extension_is_unsupported() {
    let (_, intermediate, trust) = world();
    let mut extension = CustomExtension::from_oid_content(&[1, 2, 3, 4], vec![5, 0]);
    extension.set_criticality(true);
    let leaf = intermediate.leaf(&LeafSpec { extensions: vec![extension], ..LeafSpec::default() });
    refused(verify(&leaf, &trust), Reason::CertificateUnsupported, &["UnsupportedCriticalExtension"]);
}

#[test]
fn an_altered_leaf_has_a_bad_signature() {
    let (_, intermediate, trust) = world();
    let mut leaf = intermediate.leaf(&LeafSpec::default());
    let mut der = leaf.chain[0].to_vec();
    // Another ID of the same length, which the CA never signed.
    let at = der.windows(WEB.len()).position(|window| window == WEB.as_bytes()).unwrap();
    der[at..at + WEB.len()].copy_from_slice(b"spiffe://example.org/adm");
    leaf.chain[0] = der.into();
    refused(verify(&leaf, &trust), Reason::BadSignature, &["spiffe://example.org/adm"]);
}

#[test]
fn garbage_is_malformed_wherever_it_stands() {
    let (_, intermediate, trust) = world();
    let good = intermediate.leaf(&LeafSpec::default());
    let truncated = good.chain[0][..good.chain[0].len() / 2].to_vec();
    for garbage in [vec![], vec![0], b"not DER at all".to_vec(), vec![0x30; 5_000], truncated] {
        let chain = [CertificateDer::from(garbage.clone())];
        let result = verify_peer(&chain, PeerRole::Client, &trust, None, SystemTime::now());
        refused(result, Reason::MalformedCertificate, &["certificate 1"]);
        let chain = [good.chain[0].clone(), CertificateDer::from(garbage)];
        let result = verify_peer(&chain, PeerRole::Client, &trust, None, SystemTime::now());
        refused(result, Reason::MalformedCertificate, &["certificate 2"]);
    }
}

#[test]
fn no_single_altered_byte_makes_a_panic_or_another_identity() {
    let (_, intermediate, trust) = world();
    let good = intermediate.leaf(&LeafSpec::default());
    for at in 0..good.chain[0].len() {
        let mut der = good.chain[0].to_vec();
        der[at] ^= 0x55;
        let chain = [CertificateDer::from(der), good.chain[1].clone()];
        assert!(verify_peer(&chain, PeerRole::Client, &trust, None, SystemTime::now()).is_err(), "byte {at}");
    }
}

#[test]
fn a_chain_beyond_either_limit_is_refused_before_it_is_parsed() {
    let (_, intermediate, trust) = world();
    let leaf = intermediate.leaf(&LeafSpec::default());
    let many: Vec<_> = std::iter::repeat_n(leaf.chain[0].clone(), 11).collect();
    let result = verify_peer(&many, PeerRole::Client, &trust, None, SystemTime::now());
    refused(result, Reason::ChainTooLarge, &["11 certificates", "at most 10"]);
    let large = [leaf.chain[0].clone(), CertificateDer::from(vec![0; 70_000])];
    let result = verify_peer(&large, PeerRole::Client, &trust, None, SystemTime::now());
    refused(result, Reason::ChainTooLarge, &["at most 10 and 65536"]);
}

#[test]
fn issuers_of_one_name_cannot_multiply_the_paths() {
    let (root, _, trust) = world();
    // Nine CAs with one name: 9·8·7·6·5·4 orders to try, were they tried.
    let twins: Vec<_> = (0..9).map(|_| root.intermediate("twin").der).collect();
    let leaf = root.intermediate("twin").leaf(&LeafSpec::default());
    let chain: Vec<_> = std::iter::once(leaf.chain[0].clone()).chain(twins).collect();
    let result = verify_peer(&chain, PeerRole::Client, &trust, None, SystemTime::now());
    refused(result, Reason::ChainTooLarge, &["share one subject name"]);
}

#[test]
fn a_ca_certified_by_an_old_and_a_new_root_is_accepted() {
    let (old, new) = (TestCa::root("old"), TestCa::root("new"));
    let mut intermediate = old.intermediate("both");
    let issuer = rcgen::Issuer::from_params(&new.params, &new.key);
    let cross = intermediate.params.signed_by(&intermediate.key, &issuer).unwrap().into();
    intermediate.path.push(cross);
    let leaf = intermediate.leaf(&LeafSpec::default());
    for root in [&old, &new] {
        assert!(verify(&leaf, &trust_of(&[("example.org", root.bundle())])).is_ok());
    }
}

#[test]
fn the_server_must_be_the_expected_workload() {
    let (_, intermediate, trust) = world();
    let leaf = intermediate.leaf(&LeafSpec::default());
    let expect = |ids: &[&str]| {
        let ids = ids.iter().map(|id| id.parse().unwrap()).collect();
        let expected = ExpectedServer { ids, dns_names: vec![] };
        verify_peer(&leaf.chain, PeerRole::Server, &trust, Some(&expected), SystemTime::now())
    };
    assert!(expect(&["spiffe://example.org/db", WEB]).is_ok());
    let serial = serial_of(&leaf);
    refused(
        expect(&["spiffe://example.org/db"]),
        Reason::UnexpectedServer,
        &[WEB, &serial, "expected spiffe://example.org/db"],
    );
    refused(expect(&["spiffe://example.org/web/"[..23].trim()]), Reason::UnexpectedServer, &[]);
    refused(expect(&[]), Reason::UnexpectedServer, &["expected nothing"]);
}

#[test]
fn a_dns_name_is_an_identity_only_where_it_is_switched_on() {
    let (_, intermediate, mut trust) = world();
    let leaf = intermediate.leaf(&LeafSpec::dns_only("DB.Legacy.example"));
    refused(verify(&leaf, &trust), Reason::NoSpiffeId, &["DNS SANs: DB.Legacy.example"]);
    trust.names.common_name = true;
    refused(verify(&leaf, &trust), Reason::NoSpiffeId, &[]);
    trust.names.dns = true;
    assert_eq!(verify(&leaf, &trust).unwrap().name, PeerName::Dns("db.legacy.example".into()));

    let wildcard = intermediate.leaf(&LeafSpec::dns_only("*.legacy.example"));
    refused(verify(&wildcard, &trust), Reason::NoSpiffeId, &["no DNS SAN that names one host"]);
    let both = LeafSpec { dns: vec!["db.legacy.example".into()], ..LeafSpec::default() };
    assert_eq!(verify(&intermediate.leaf(&both), &trust).unwrap().name.to_string(), WEB, "the URI SAN wins");
    let bad = LeafSpec { uris: vec!["spiffe:///".into()], ..both };
    refused(verify(&intermediate.leaf(&bad), &trust), Reason::MalformedSpiffeId, &[]);
}

#[test]
fn a_common_name_is_an_identity_only_where_it_is_switched_on_and_there_is_no_dns_name() {
    let (_, intermediate, mut trust) = world();
    let spec = LeafSpec { uris: vec![], common_name: Some("db".into()), ..LeafSpec::default() };
    let leaf = intermediate.leaf(&spec);
    refused(verify(&leaf, &trust), Reason::NoSpiffeId, &["common name: db"]);
    trust.names.dns = true;
    refused(verify(&leaf, &trust), Reason::NoSpiffeId, &[]);
    trust.names.common_name = true;
    assert_eq!(verify(&leaf, &trust).unwrap().name, PeerName::CommonName("db".into()));
    let with_dns = LeafSpec { dns: vec!["*.x.example".into()], ..spec.clone() };
    refused(verify(&intermediate.leaf(&with_dns), &trust), Reason::NoSpiffeId, &[]);
    for name in ["line\nbreak".to_owned(), "x".repeat(65)] {
        let spec = LeafSpec { common_name: Some(name), ..spec.clone() };
        refused(verify(&intermediate.leaf(&spec), &trust), Reason::NoSpiffeId, &[]);
    }
}

#[test]
fn only_the_own_trust_domain_vouches_for_legacy_names() {
    let (root, _, _) = world();
    let partner = TestCa::root("partner root");
    let mut trust = trust_of(&[("example.org", root.bundle()), ("partner.example", partner.bundle())]);
    trust.names.dns = true;
    let leaf = partner.leaf(&LeafSpec::dns_only("db.example.org"));
    refused(verify(&leaf, &trust), Reason::UnknownIssuer, &["dns:db.example.org", "partner root"]);
    assert!(verify(&root.leaf(&LeafSpec::dns_only("db.example.org")), &trust).is_ok());
}

#[test]
fn a_legacy_server_may_prove_any_of_its_dns_names() {
    let (_, intermediate, mut trust) = world();
    trust.names.dns = true;
    let mut spec = LeafSpec::dns_only("first.example");
    spec.dns.push("db.legacy.example".into());
    let leaf = intermediate.leaf(&spec);
    let expect = |name: &str| {
        let expected = ExpectedServer { ids: vec![WEB.parse().unwrap()], dns_names: vec![name.into()] };
        verify_peer(&leaf.chain, PeerRole::Server, &trust, Some(&expected), SystemTime::now())
    };
    assert_eq!(expect("DB.legacy.example").unwrap().name, PeerName::Dns("db.legacy.example".into()));
    refused(expect("other.example"), Reason::UnexpectedServer, &["dns:first.example", "other.example"]);
}

#[test]
fn a_chain_is_remembered_for_its_role_and_roots_and_no_longer_than_all_of_it_is_valid() {
    let (_, intermediate, trust) = world();
    let (short, long) = (HOUR / 2, HOUR);
    let leaf = intermediate.leaf(&LeafSpec { not_after: SystemTime::now() + short, ..LeafSpec::default() });
    let domain = "example.org".parse().unwrap();
    let bundle = trust.bundles.get(&domain).unwrap();
    assert_eq!(bundle.verified().len(), 0);
    let shown: Vec<_> = (0..3).map(|_| verify(&leaf, &trust).unwrap().chain).collect();
    assert_eq!(bundle.verified().len(), 1);
    // Leaf to root, once in memory however many connections show it.
    assert!(shown[0].verified && Arc::ptr_eq(&shown[0], &shown[2]));
    let root = bundle.roots()[0].subject();
    assert_eq!(shown[0].certificates.last().unwrap().name, root);
    assert_eq!(shown[0].certificates.len(), leaf.chain.len() + 1);
    let now = SystemTime::now();
    let remembered =
        |role: PeerRole| bundle.verified().find(&Fingerprint::of(role.purpose(), &leaf.chain), now);
    assert!(remembered(PeerRole::Client).is_some() && remembered(PeerRole::Server).is_none());
    // Afterwards it is as expired as it would be without.
    let later = verify_peer(&leaf.chain, PeerRole::Client, &trust, None, now + long);
    refused(later, Reason::CertificateExpired, &[]);
    let earlier = verify_peer(&leaf.chain, PeerRole::Client, &trust, None, now - 2 * HOUR);
    refused(earlier, Reason::CertificateNotYetValid, &[]);
}

#[test]
fn a_remembered_chain_is_still_asked_for_names_and_its_neighbours_are_verified() {
    let (_, intermediate, trust) = world();
    let leaf = intermediate.leaf(&LeafSpec::default());
    let expected = ExpectedServer { ids: vec![WEB.parse().unwrap()], dns_names: vec![] };
    let other = ExpectedServer { ids: vec!["spiffe://example.org/db".parse().unwrap()], dns_names: vec![] };
    let server = |chain: &[CertificateDer<'_>], expected| {
        verify_peer(chain, PeerRole::Server, &trust, Some(expected), SystemTime::now())
    };
    server(&leaf.chain, &expected).unwrap();
    refused(server(&leaf.chain, &other), Reason::UnexpectedServer, &["expected"]);
    // One bit of the leaf's signature.
    let mut altered = leaf.chain[0].to_vec();
    *altered.last_mut().unwrap() ^= 1;
    let altered = [CertificateDer::from(altered), leaf.chain[1].clone()];
    refused(server(&altered, &expected), Reason::BadSignature, &[]);
    refused(server(&leaf.chain[..1], &expected), Reason::UnknownIssuer, &[]);
}

#[test]
fn a_chain_that_other_roots_vouched_for_is_not_remembered_where_they_are_missing() {
    let (root, intermediate, trust) = world();
    let leaf = intermediate.leaf(&LeafSpec::default());
    let both = trust_of(&[("example.org", TestCa::root("another").bundle().merged(&root.bundle()))]);
    verify(&leaf, &both).unwrap();
    let without = trust_of(&[("example.org", TestCa::root("another").bundle())]);
    refused(verify(&leaf, &without), Reason::UnknownIssuer, &[]);
    let alone = TestCa::root("another").bundle();
    let grown = trust_of(&[("example.org", alone.clone().merged(&root.bundle()))]);
    verify(&leaf, &grown).unwrap();
    refused(verify(&leaf, &trust_of(&[("example.org", alone)])), Reason::UnknownIssuer, &[]);
    drop(trust);
}

fn revoke(trust: &Trust, target: Target) {
    let at = time::OffsetDateTime::UNIX_EPOCH;
    let entry = Entry { target, reason: "stolen".to_owned(), by: "uid 0".to_owned(), at, until: None };
    trust.revocations.revoke(entry, SystemTime::now()).unwrap();
}

#[test]
fn a_revoked_certificate_is_refused_in_both_roles_also_where_its_chain_is_remembered() {
    let (root, intermediate, trust) = world();
    let leaf = intermediate.leaf(&LeafSpec::default());
    let expected = ExpectedServer { ids: vec![WEB.parse().unwrap()], dns_names: vec![] };
    let marks = |der: &CertificateDer<'_>| CertificateMarks::read(der).unwrap();
    let mut targets = vec![Target::SpiffeId { id: WEB.parse().unwrap() }];
    for der in leaf.chain.iter().chain([&root.der]) {
        targets.push(Target::Serial { serial: marks(der).serial, issuer: None });
        targets.push(Target::Key { sha256: marks(der).key });
    }
    for target in targets {
        for remembered in [false, true] {
            let bundles = Arc::new([("example.org".parse().unwrap(), root.bundle())].into_iter().collect());
            let trust = Trust { bundles, revocations: Arc::default(), ..trust.clone() };
            let both = || {
                let now = SystemTime::now();
                let server = verify_peer(&leaf.chain, PeerRole::Server, &trust, Some(&expected), now);
                [verify(&leaf, &trust), server]
            };
            if remembered {
                assert!(both().iter().all(Result::is_ok));
            }
            revoke(&trust, target.clone());
            for result in both() {
                refused(result, Reason::Revoked, &[WEB, &serial_of(&leaf), &target.to_string(), "stolen"]);
            }
            trust.revocations.unrevoke(&target, SystemTime::now()).unwrap();
            assert!(both().iter().all(Result::is_ok));
        }
    }
}

#[test]
fn what_is_revoked_of_a_certificate_that_the_path_does_without_does_no_harm() {
    let (_, intermediate, trust) = world();
    let stranger = TestCa::root("old root");
    let mut leaf = intermediate.leaf(&LeafSpec::default());
    leaf.chain.push(stranger.der.clone());
    revoke(&trust, Target::Key { sha256: CertificateMarks::read(&stranger.der).unwrap().key });
    verify(&leaf, &trust).unwrap();
}
