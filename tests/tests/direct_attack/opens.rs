//! `Open` of those who may not, and of addresses that another one has.

use mtls_tests::direct::{entries, records, wait_empty};
use mtls_tests::hold::why_not_direct;
use mtls_tests::rogue::{Id, Rogue, kind, reason};
use mtls_tests::{could_not_run, eventually, slow};

use super::{Attack, SECRET, at};

/// A client's port that nobody has.
const CLIENT: u16 = 50_001;

#[test]
fn an_open_of_an_identity_without_rights_is_refused_and_its_syn_is_not_expected() {
    let test = an_open_of_an_identity_without_rights_is_refused_and_its_syn_is_not_expected;
    if let Some(why) = why_not_direct() {
        return could_not_run(test, why);
    }
    let attack = Attack::new();
    let identity = attack.world.there.issue("spiffe://example.org/other", "other").into();
    // Who it is was proved; what it may is asked for each connection.
    let mut session = Rogue::session(attack.world.node(), attack.to, &identity).expect("a session");
    let client = at(attack.world.web(), CLIENT);
    let (kind, why) = session.open(&Id::new(client, attack.to, 1));
    assert_eq!((kind, why), (kind::REFUSE, vec![reason::DENIED]));
    assert_eq!(entries(&attack.world.lab, &attack.world.there, "EXPECTED"), 0);
    let record = eventually(slow::limit(20), "the refusal", || {
        records(&attack.world.there, "far").into_iter().find(|r| r.source() == client.to_string())
    });
    assert!(record.refused() && record.reason() == "policy_default", "{record:?}");
    assert_eq!((record.peer(), record.peer_proven()), ("spiffe://example.org/other", true), "{record:?}");
    attack.ends();
}

#[test]
fn a_workload_whose_identity_loses_its_rights_is_refused_at_connect() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_workload_whose_identity_loses_its_rights_is_refused_at_connect, why);
    }
    let attack = Attack::new();
    let file = attack.world.there.config();
    let right = std::fs::read_to_string(&file).expect("a configuration");
    let other = right.replace(
        "from: { spiffe_ids: [\"spiffe://example.org/web\"] }",
        "from: { spiffe_ids: [\"spiffe://example.org/other\"] }",
    );
    assert_ne!(right, other);
    std::fs::write(&file, other).expect("writable");
    assert_eq!(attack.world.there.cli(&["reload"]).0, Some(0));
    let accepting = attack.far.tell("acceptor", "accept x l");
    // The word of a firewall for what is prohibited (docs/errno.md).
    let prohibited = if attack.to.is_ipv6() { "EACCES" } else { "EHOSTUNREACH" };
    attack.web.does("main", &format!("connect x {}", attack.to), prohibited);
    for (daemon, workload) in [(&attack.world.here, "web"), (&attack.world.there, "far")] {
        eventually(slow::limit(20), "the refusal", || {
            let all = records(daemon, workload);
            all.into_iter().find(|r| r.refused() && ["policy_denied", "policy_default"].contains(&r.reason()))
        });
    }
    assert_eq!(attack.far.answered(&accepting), None, "the application was given a client without rights");
    std::fs::write(&file, right).expect("writable");
    assert_eq!(attack.world.there.cli(&["reload"]).0, Some(0));
    attack.web.does("main", &format!("connect y {}", attack.to), "ok");
    assert_eq!(attack.far.answer(&accepting), "ok");
    attack.web.does("main", &format!("send y {SECRET}"), "10");
    attack.far.does("main", "recv x", &format!("10 {SECRET}"));
    attack.ends();
}

#[test]
fn an_open_of_addresses_that_are_expected_already_is_refused() {
    if let Some(why) = why_not_direct() {
        return could_not_run(an_open_of_addresses_that_are_expected_already_is_refused, why);
    }
    let attack = Attack::new();
    let identity = attack.world.there.issue("spiffe://example.org/web", "twice").into();
    let session = || Rogue::session(attack.world.node(), attack.to, &identity).expect("a session");
    let (mut first, mut second) = (session(), session());
    let client = at(attack.world.web(), CLIENT);
    let (kind, nonce) = first.open(&Id::new(client, attack.to, 1));
    assert_eq!((kind, nonce.len()), (kind::ACCEPT, 16));
    for (session, nonce) in [(&mut second, 2), (&mut first, 3)] {
        let (kind, why) = session.open(&Id::new(client, attack.to, nonce));
        assert_eq!((kind, why), (kind::REFUSE, vec![reason::BUSY]));
    }
    // Nor is the first one's entry gone with that; it goes with the first one's session.
    assert_eq!(entries(&attack.world.lab, &attack.world.there, "EXPECTED"), 2);
    drop(first);
    wait_empty(&attack.world.lab, &attack.world.there, "EXPECTED");
    let mut refused = records(&attack.world.there, "far");
    refused.retain(|record| record.source() == client.to_string() && record.refused());
    let told =
        |record: &mtls_tests::Record| record.reason() == "direct_failed" && !record.detail().is_empty();
    assert!(refused.len() >= 2 && refused.iter().all(told), "{refused:?}");
    attack.ends();
}
