//! What is revoked is found by each of its marks, outlives a restart, and is never forgotten silently.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use time::OffsetDateTime;

use super::*;
use crate::identity::testing::{LeafSpec, TestCa, TestLeaf};
use crate::identity::verified::Fingerprint;

const WEB: &str = "spiffe://example.org/web";

fn marks(leaf: &TestLeaf) -> ChainMarks {
    ChainMarks::of(Fingerprint::of(1, &leaf.chain), Some(WEB.parse().unwrap()), &leaf.chain, false).unwrap()
}

fn entry(target: Target) -> Entry {
    let at = OffsetDateTime::UNIX_EPOCH + Duration::from_secs(1_795_345_357);
    Entry { target, reason: "laptop stolen".into(), by: "uid 0".into(), at, until: None }
}

fn id(text: &str) -> Target {
    Target::SpiffeId { id: text.parse().unwrap() }
}

#[test]
fn a_chain_is_found_by_each_mark_of_each_of_its_certificates_and_a_neighbour_is_not() {
    let now = SystemTime::now();
    let issuer = TestCa::root("root").intermediate("between");
    let chain = marks(&issuer.leaf(&LeafSpec::default()));
    let other = marks(&TestCa::root("root").intermediate("between").leaf(&LeafSpec::default()));
    let mut targets = vec![];
    for certificate in &chain.certificates {
        let serial = certificate.serial.clone();
        let of = |sha256| Some(DistinguishedName { sha256, name: "x".into() });
        targets.push(Target::Serial { serial: serial.clone(), issuer: None });
        targets.push(Target::Serial { serial: serial.clone(), issuer: of(certificate.issuer) });
        targets.push(Target::Key { sha256: certificate.key });
        let elsewhere = Target::Serial { serial, issuer: of(Sha256::of(b"another")) };
        let revocations = Revocations::in_memory();
        revocations.revoke(entry(elsewhere), now).unwrap();
        assert_eq!(revocations.refusal_of(&chain, now), None, "the serial of another issuer");
    }
    assert_eq!(targets.len(), 6);
    for target in targets {
        let revocations = Revocations::in_memory();
        revocations.revoke(entry(target.clone()), now).unwrap();
        let refusal = revocations.refusal_of(&chain, now).unwrap();
        assert_eq!(refusal.reason, Reason::Revoked);
        for part in [target.to_string().as_str(), "2026-11-22", "uid 0", "laptop stolen"] {
            assert!(refusal.detail.contains(part), "{part} is not in {}", refusal.detail);
        }
        assert_eq!(revocations.refusal_of(&other, now), None, "{target}");
        revocations.unrevoke(&target, now).unwrap();
        assert_eq!(revocations.refusal_of(&chain, now), None);
    }
    let revocations = Revocations::in_memory();
    revocations.revoke(entry(id(WEB)), now).unwrap();
    assert!(revocations.refusal_of(&chain, now).is_some() && revocations.refusal_of(&other, now).is_some());
    let nameless = ChainMarks { id: None, ..chain };
    assert_eq!(revocations.refusal_of(&nameless, now), None);
}

#[test]
fn an_entry_holds_no_longer_than_it_was_made_for() {
    let now = SystemTime::now();
    let chain = marks(&TestCa::root("root").leaf(&LeafSpec::default()));
    let revocations = Revocations::in_memory();
    let until = OffsetDateTime::from(now) + Duration::from_secs(60);
    revocations.revoke(Entry { until: Some(until), ..entry(id(WEB)) }, now).unwrap();
    let refusal = revocations.refusal_of(&chain, now + Duration::from_secs(60)).unwrap();
    assert!(refusal.detail.contains("until"), "{}", refusal.detail);
    let later = now + Duration::from_secs(61);
    assert_eq!(revocations.refusal_of(&chain, later), None);
    assert!(revocations.entries(later).is_empty());
    // It does not hide another one that names the same chain.
    let key = Target::Key { sha256: chain.certificates[0].key };
    revocations.revoke(entry(key), now).unwrap();
    assert!(revocations.refusal_of(&chain, later).is_some());
}

#[test]
fn the_list_outlives_a_restart_and_only_its_owner_reads_it() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let chain = marks(&TestCa::root("root").leaf(&LeafSpec::default()));
    let first = &chain.certificates[0];
    let issuer = DistinguishedName { sha256: first.issuer, name: "root".into() };
    let all = [
        id(WEB),
        Target::Key { sha256: first.key },
        Target::Serial { serial: first.serial.clone(), issuer: Some(issuer) },
        Target::Serial { serial: first.serial.clone(), issuer: None },
    ];
    let revocations = Revocations::open(directory.path()).unwrap();
    assert!(revocations.entries(now).is_empty() && !directory.path().join("revoked.json").exists());
    for target in &all {
        revocations.revoke(entry(target.clone()), now).unwrap();
    }
    // The same once more is one entry still, with the later words.
    revocations.revoke(Entry { reason: "again".into(), ..entry(id(WEB)) }, now).unwrap();
    let path = directory.path().join("revoked.json");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(!directory.path().join("revoked.json.new").exists());

    let again = Revocations::open(directory.path()).unwrap();
    assert_eq!(again.entries(now), revocations.entries(now));
    assert_eq!(again.entries(now).len(), all.len());
    assert!(again.refusal_of(&chain, now).unwrap().detail.ends_with(": again"));
    // The serial of one issuer, and then, without an issuer, what is left of that serial.
    for target in &all {
        assert_eq!(again.unrevoke(target, now).unwrap().len(), 1);
    }
    let gone = again.unrevoke(&all[0], now).unwrap_err();
    assert!(gone.to_string().contains(WEB) && gone.to_string().contains("--list"), "{gone}");
    assert_eq!(Revocations::open(directory.path()).unwrap().refusal_of(&chain, now), None);
}

#[test]
fn a_broken_list_is_refused_with_its_reason_and_stays_where_it_is() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("revoked.json");
    for (text, part) in [
        ("", "EOF"),
        ("{}", "version"),
        (r#"{"version":2,"entries":[]}"#, "version 2"),
        (r#"{"version":1,"entries":[],"more":1}"#, "more"),
        (r#"{"version":1,"entries":[{"target":{"kind":"key","sha256":"ab"}}]}"#, "64 hex digits"),
        (r#"{"version":1,"entries":[{"target":{"kind":"spiffe_id","id":"http://x"}}]}"#, "spiffe://"),
        (r#"{"version":1,"entries":[{"target":{"kind":"colour","id":"red"}}]}"#, "colour"),
        ("\u{1b}[31m", "expected value"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = Revocations::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("revoked.json"), "{text}: {error}");
        assert!(error.contains("does not start") && !error.contains('\u{1b}'), "{error}");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
    }
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    assert!(matches!(Revocations::open(directory.path()), Err(RevocationError::Io { .. })));
}

#[test]
fn what_cannot_be_kept_is_not_in_force() {
    let directory = tempfile::tempdir().unwrap();
    let now = SystemTime::now();
    let state = directory.path().join("state");
    std::fs::create_dir(&state).unwrap();
    let revocations = Revocations::open(&state).unwrap();
    revocations.revoke(entry(id(WEB)), now).unwrap();
    std::fs::remove_dir_all(&state).unwrap();
    let other = revocations.revoke(entry(id("spiffe://example.org/db")), now).unwrap_err();
    assert!(matches!(&other, RevocationError::Io { .. }), "{other}");
    assert!(matches!(revocations.unrevoke(&id(WEB), now), Err(RevocationError::Io { .. })));
    assert_eq!(revocations.entries(now).len(), 1);

    let long = Entry { reason: "é".repeat(MAX_REASON + 1), ..entry(id(WEB)) };
    assert!(matches!(revocations.revoke(long, now), Err(RevocationError::LongReason(257))));
}

#[test]
fn the_list_has_a_most_and_a_full_one_still_takes_back() {
    let now = SystemTime::now();
    let numbered = |number: usize| {
        Arc::new(entry(Target::Serial { serial: format!("{number:08x}").parse().unwrap(), issuer: None }))
    };
    let full = DenyList::new((0..MAX_ENTRIES).map(numbered).collect());
    let revocations = Revocations::in_memory();
    revocations.denied.store(Arc::new(full));
    assert!(matches!(revocations.revoke(entry(id(WEB)), now), Err(RevocationError::Full)));
    revocations.unrevoke(&numbered(7).target, now).unwrap();
    revocations.revoke(entry(id(WEB)), now).unwrap();
}

#[test]
fn a_serial_without_an_issuer_takes_back_those_of_all_and_one_with_an_issuer_only_its_own() {
    let now = SystemTime::now();
    let revocations = Revocations::in_memory();
    let of = |issuer: Option<&str>| Target::Serial {
        serial: "0a".parse().unwrap(),
        issuer: issuer
            .map(|name| DistinguishedName { sha256: Sha256::of(name.as_bytes()), name: name.into() }),
    };
    for issuer in [Some("a"), Some("b"), Some("c")] {
        revocations.revoke(entry(of(issuer)), now).unwrap();
    }
    assert_eq!(revocations.unrevoke(&of(Some("a")), now).unwrap().len(), 1);
    assert_eq!(revocations.unrevoke(&of(None), now).unwrap().len(), 2);
    assert!(revocations.entries(now).is_empty());
}
