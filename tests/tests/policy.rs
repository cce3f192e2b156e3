//! Who may connect to whom, on real connections: by what a certificate says, by address, outbound, dry.

use std::net::SocketAddr;

use mtls_tests::certs::{Authority, Leaf};
use mtls_tests::lab::{Output, Record};
use mtls_tests::programs::{Identity, s_client};
use mtls_tests::scenario::{HTTP, two_nodes_with};
use mtls_tests::{Pair, STRICT_PAIR};

const GUEST: &str = "spiffe://example.org/guest";

/// The strict pair with these rules instead of the one that lets everybody in.
fn rules(rules: &str) -> String {
    let (workloads, _) = STRICT_PAIR.split_once("policy:").expect("a policy");
    format!(
        "{workloads}policy:\n  - {{ name: web, action: allow, from: {{ spiffe_ids: [\"spiffe://example.org/web\"] }} }}\n{rules}\n"
    )
}

#[track_caller]
fn asks(pair: &Pair, to: SocketAddr, identity: &Identity) -> Output {
    s_client(pair.out(), to, &pair.root(), Some(identity)).run()
}

#[test]
fn what_a_certificate_says_besides_its_name_lets_a_peer_in_or_not() {
    let lab = Pair::lab();
    let authority = Authority::new(lab.dir(), "site");
    let trust = format!(
        "trust: {{ bundles: [ {{ trust_domain: example.org, file: {} }} ] }}",
        authority.root.display()
    );
    let yaml = rules(
        "  - { name: shop, action: allow, from: [{ organizations: [\"Shop*\"], not: { extensions: [{ oid: 1.3.6.1.4.1.99999.1, values: [test] }] } }] }",
    );
    let pair = Pair::configured(lab, &format!("{yaml}{trust}\n"));
    let leaf = |organization: &str| Leaf { organization: Some(organization.to_owned()), ..Leaf::good(GUEST) };
    let marked = |text: &str| {
        let der = [&[0x0c, u8::try_from(text.len()).expect("short")], text.as_bytes()].concat();
        Leaf { extension: Some((vec![1, 3, 6, 1, 4, 1, 99_999, 1], der)), ..leaf("Shop 2") }
    };
    let identity = |name: &str, leaf: &Leaf| Identity::from(&authority.issue(name, leaf));
    for (name, leaf) in [("shop", leaf("Shop 2")), ("live", marked("live"))] {
        let answer = asks(&pair, pair.db().at(HTTP), &identity(name, &leaf)).ok();
        assert!(answer.text().contains("hello from db"), "{name}: {answer}");
    }
    for (name, leaf) in [("bakery", leaf("Bakery")), ("test", marked("test"))] {
        let identity = identity(name, &leaf);
        let record = pair.refuses("policy_default", |to| asks(&pair, to, &identity).fails());
        assert_eq!((record.peer(), record.peer_proven()), (GUEST, true), "{name}");
    }
}

#[test]
fn an_address_lets_a_proven_peer_in_only_where_the_rule_says_so() {
    let lab = Pair::lab();
    let near = lab.pod("out").at(0).ip();
    let yaml = rules(&format!(
        "  - {{ name: near, action: allow, to: {{ ports: [{HTTP}] }}, from: [{{ cidrs: [{near}] }}] }}"
    ));
    let pair = Pair::configured(lab, &yaml);
    let identity = pair.issue("guest");
    let answer = asks(&pair, pair.db().at(HTTP), &identity).ok();
    assert!(answer.text().contains("hello from db"), "{answer}");
    asks(&pair, pair.db().at6(HTTP), &identity).fails();
    let record = pair.daemon.wait_for_log("the refusal", |r| r.inbound() && r.refused());
    assert_eq!((record.reason(), record.peer()), ("policy_default", GUEST), "another address, the same peer");
}

#[test]
fn an_outbound_rule_refuses_at_connect_and_no_packet_leaves() {
    let outbound = "outbound_policy: [ { name: never-far, action: deny, from: { workloads: [web] }, to: { spiffe_ids: [\"spiffe://example.org/far\"] } } ]\n";
    let (lab, _nginx, here, there) = two_nodes_with("", outbound);
    for to in [lab.pod("far").at(HTTP), lab.pod("far").at6(HTTP)] {
        let said = lab.pod("web").own("probe").args(["connect", &to.to_string()]).run().ok().text();
        assert!(said.contains("EACCES"), "{said}");
        let record = here.wait_for_log("web's record", |r| r.refused() && r.destination() == to.to_string());
        assert_eq!((record.reason(), record.policy()), ("policy_denied", "never-far"), "{record:?}");
        assert!(record.detail().contains("at connect()"), "{record:?}");
    }
    assert!(there.access_log().is_empty(), "the other node saw nothing");
}

#[test]
fn what_a_server_proves_can_still_be_denied_and_it_gets_no_byte() {
    // Not known before the handshake: what the server's certificate says.
    let outbound = "outbound_policy: [ { name: only-shop, action: allow, to: [{ spiffe_ids: [\"spiffe://example.org/far\"], organizations: [Shop] }] } ]\n";
    let (lab, _nginx, here, there) = two_nodes_with(", outbound_default: deny", outbound);
    let to = lab.pod("far").at(HTTP);
    lab.pod("web").run(&["curl", "-sS", "--max-time", "20", &format!("http://{to}/")]).fails();
    let record = here.wait_for_log("web's record", |r| r.refused() && !r.inbound());
    assert_eq!(
        (record.reason(), record.policy()),
        ("policy_default", "outbound_default: deny"),
        "{record:?}"
    );
    assert_eq!((record.peer(), record.peer_proven()), ("spiffe://example.org/far", true));
    let there = there.wait_for_log("far's record", Record::inbound);
    assert_eq!(there.bytes(), 0, "{there:?}");
}

#[test]
fn an_outbound_allow_rule_opens_what_the_default_closes() {
    let outbound = "outbound_policy: [ { name: far, action: allow, from: { ports: [80] }, to: { spiffe_ids: [\"spiffe://example.org/far\"] } } ]\n";
    let (lab, _nginx, here, _there) = two_nodes_with(", outbound_default: deny", outbound);
    let curl =
        |to: SocketAddr| lab.pod("web").run(&["curl", "-sS", "--max-time", "20", &format!("http://{to}/")]);
    assert_eq!(curl(lab.pod("far").at(HTTP)).ok().text(), "hello from far");
    let record = here.wait_for_log("web's record", |r| !r.inbound());
    assert_eq!((record.refused(), record.policy()), (false, "far"), "{record:?}");
}

#[test]
fn what_no_outbound_rule_matches_is_recorded_as_let_out_by_the_default() {
    let outbound = "outbound_policy: [ { name: not-81, action: deny, from: { ports: [81] } } ]\n";
    let (lab, _nginx, here, _there) = two_nodes_with("", outbound);
    let to = lab.pod("far").at(HTTP);
    lab.pod("web").run(&["curl", "-sS", "--max-time", "20", &format!("http://{to}/")]).ok();
    let record = here.wait_for_log("web's record", |r| !r.inbound());
    assert_eq!((record.refused(), record.policy()), (false, "outbound_default: allow"), "{record:?}");
}

#[test]
fn dry_run_and_audit_rules_are_recorded_and_decide_nothing() {
    let yaml = format!(
        "{STRICT_PAIR}  - {{ name: closed, action: deny, dry_run: true, from: {{ spiffe_ids: [\"spiffe://example.org/web\"] }} }}\n\
         \x20 - {{ name: seen, action: audit, to: {{ ports: [{HTTP}] }} }}\n"
    );
    let pair = Pair::configured(Pair::lab(), &yaml);
    pair.works();
    let record = pair.daemon.wait_for_log("db's record", |r| r.inbound() && !r.refused());
    assert_eq!(record.policy(), "everyone-here");
    assert_eq!(record.0["dry_run"], serde_json::json!({ "allow": false, "rule": "closed" }), "{record:?}");
    assert_eq!(record.0["audit"], serde_json::json!(["seen"]));
    let guest = pair.issue("guest");
    asks(&pair, pair.db().at(HTTP), &guest).ok();
    let record = pair.daemon.wait_for_log("the guest's record", |r| r.inbound() && r.peer() == GUEST);
    assert!(record.0.get("dry_run").is_none(), "nothing would change for it: {record:?}");
}

#[test]
fn modes_of_a_label_are_the_modes_of_its_workloads() {
    let (workloads, _) = STRICT_PAIR.split_once("policy:").expect("a policy");
    let workloads = workloads.replace("name: db,", "name: db, labels: { tier: data },");
    let yaml = format!(
        "{workloads}modes:\n  - {{ mode: strict }}\n  - {{ labels: {{ tier: data }}, mode: permissive }}\n"
    );
    let pair = Pair::configured(Pair::lab(), &yaml);
    let to = pair.db().at(HTTP);
    let plain = pair.out().run(&["curl", "-sS", "--max-time", "20", &format!("http://{to}/")]).ok();
    assert_eq!(plain.text(), "hello from db");
    let shown = pair.daemon.ask(&["workloads"]);
    let mode = |name: &str| {
        let list = shown.as_array().expect("a list");
        list.iter().find(|w| w["name"] == name).expect("the workload")["mode"].clone()
    };
    assert_eq!((mode("db"), mode("web")), ("permissive".into(), "strict".into()));
}

#[test]
fn a_client_from_a_denied_network_is_refused_at_the_syn() {
    let lab = Pair::lab();
    let (far, far6) = (lab.pod("out").at(0).ip(), lab.pod("out").at6(0).ip());
    let yaml = rules(&format!(
        "  - {{ name: all, action: allow, from: {{ trust_domains: [example.org] }} }}\n\
         \x20 - {{ name: no-far, action: deny, from: [{{ cidrs: [{far}, {far6}] }}] }}"
    ));
    let pair = Pair::configured(lab, &yaml);
    let identity = pair.issue("guest");
    for to in pair.http() {
        let before = pair.daemon.metric("mtlsd_ebpf_events_total", &[("event", "steered")]);
        asks(&pair, to, &identity).fails();
        let record = pair
            .daemon
            .wait_for_log("the refusal", |r| r.inbound() && r.refused() && r.destination() == to.to_string());
        assert_eq!((record.reason(), record.policy()), ("policy_denied", "no-far"), "{record:?}");
        assert!(record.detail().contains("at the SYN"), "{record:?}");
        assert!(
            record.source().starts_with(&pair.out().at(0).ip().to_string()) || to.is_ipv6(),
            "{record:?}"
        );
        let after = pair.daemon.metric("mtlsd_ebpf_events_total", &[("event", "steered")]);
        assert!((after - before).abs() < 0.5, "the daemon was not asked");
        let (code, text) = pair.daemon.cli(&["explain", record.id()]);
        assert!(code == Some(0) && text.contains("no-far"), "{text}");
    }
    assert!(pair.daemon.metric("mtlsd_ebpf_events_total", &[("event", "denied_source")]) > 1.5);
    // Whoever is elsewhere is asked who it is, as before.
    pair.works();
}

#[test]
fn an_address_that_no_rule_lets_in_is_refused_at_the_syn_and_a_reload_opens_it() {
    let lab = Pair::lab();
    let near = format!("{}, {}", lab.pod("web").at(0).ip(), lab.pod("web").at6(0).ip());
    let only = |networks: &str| {
        rules("").replace(
            "from: { spiffe_ids: [\"spiffe://example.org/web\"] }",
            &format!("from: {{ cidrs: [{networks}] }}"),
        )
    };
    let pair = Pair::configured(lab, &only(&near));
    let identity = pair.issue("guest");
    asks(&pair, pair.db().at(HTTP), &identity).fails();
    let record = pair.daemon.wait_for_log("the refusal", |r| r.inbound() && r.refused());
    assert_eq!((record.reason(), record.policy()), ("policy_default", "default of strict"), "{record:?}");
    assert!(record.detail().contains("at the SYN"), "{record:?}");
    pair.works();
    pair.daemon.configure(&pair.lab.expand(&only(&format!("{near}, {}", pair.out().at(0).ip()))));
    let (code, text) = pair.daemon.cli(&["reload"]);
    assert_eq!(code, Some(0), "{text}");
    asks(&pair, pair.db().at(HTTP), &identity).ok();
}
