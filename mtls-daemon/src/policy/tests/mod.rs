mod check;
mod expect;
mod mutation;
pub(crate) mod properties;

use std::net::IpAddr;

use super::*;
use crate::config::Source;
use crate::identity::{CertificateAttributes, PeerName};

fn config(rules: &str) -> Config {
    let text = format!("trust_domain: a\n{rules}");
    Config::parse(&Source { path: "F".into(), text }, &[]).unwrap()
}

fn policy(rules: &str) -> Policy {
    Policy::from_config(&config(&format!("policy:\n{rules}")))
}

fn spiffe(id: &str) -> PeerName {
    PeerName::Spiffe(id.parse().unwrap())
}

const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

fn known<'a>(name: Option<&'a PeerName>, attributes: &'a CertificateAttributes) -> Peer<'a> {
    Peer { name, attributes: Some(attributes), address: Some(HERE) }
}

fn query<'a>(peer: Peer<'a>, workload: &'a str, port: u16, mode: Mode) -> Query<'a> {
    Query { peer, workload, port, mode, allowed_by_default: mode != Mode::Strict }
}

fn decide<'a>(
    policy: &'a Policy,
    peer: Option<&PeerName>,
    workload: &str,
    port: u16,
    mode: Mode,
) -> (bool, Option<&'a str>) {
    let verdict =
        policy.decide(&query(known(peer, CertificateAttributes::NONE), workload, port, mode)).verdict;
    (verdict.allow, verdict.rule)
}

#[test]
fn deny_wins_then_allow_then_the_default_of_the_mode() {
    let policy = policy(
        "- { name: all, action: allow, to: { workloads: [db] }, from: { trust_domains: [a] } }\n\
         - { name: not-bad, action: deny, to: { workloads: [db] }, from: { spiffe_ids: ['spiffe://a/bad'] } }\n",
    );
    let (good, bad, other) = (spiffe("spiffe://a/good"), spiffe("spiffe://a/bad"), spiffe("spiffe://b/good"));
    assert_eq!(decide(&policy, Some(&good), "db", 1, Mode::Strict), (true, Some("all")));
    assert_eq!(decide(&policy, Some(&bad), "db", 1, Mode::Strict), (false, Some("not-bad")));
    assert_eq!(decide(&policy, Some(&bad), "db", 1, Mode::Permissive), (false, Some("not-bad")));
    assert_eq!(decide(&policy, Some(&other), "db", 1, Mode::Strict), (false, None));
    assert_eq!(decide(&policy, Some(&other), "db", 1, Mode::Permissive), (true, None));
    assert_eq!(
        decide(&policy, Some(&good), "web", 1, Mode::Strict),
        (false, None),
        "the rule is for db only"
    );
}

#[test]
fn a_prefix_matches_what_lies_below_it_and_nothing_that_merely_starts_alike() {
    let policy = policy(
        "- { name: shop, action: allow, from: { spiffe_id_prefixes: ['spiffe://a/shop/'] } }\n\
         - { name: all-of-b, action: allow, from: { spiffe_id_prefixes: ['spiffe://b/'] } }\n",
    );
    for (id, want) in [
        ("spiffe://a/shop/cart", Some("shop")),
        ("spiffe://a/shop/cart/deep", Some("shop")),
        ("spiffe://a/shop", None),
        ("spiffe://a/shopping", None),
        ("spiffe://a/other/shop/cart", None),
        ("spiffe://aa/shop/cart", None),
        ("spiffe://b/x", Some("all-of-b")),
        ("spiffe://b", None),
        ("spiffe://bb/x", None),
    ] {
        let got = decide(&policy, Some(&spiffe(id)), "w", 1, Mode::Strict);
        assert_eq!(got, (want.is_some(), want), "{id}");
    }
}

#[test]
fn a_legacy_name_matches_only_rules_that_ask_for_no_identity() {
    let policy = policy(
        "- { name: domain, action: allow, to: { ports: [1] }, from: { trust_domains: [a] } }\n\
         - { name: anyone, action: allow, to: { ports: [2] } }\n\
         - { name: near, action: allow, to: { ports: [3] }, from: { cidrs: [10.0.0.0/8] } }\n",
    );
    for peer in [PeerName::Dns("a".into()), PeerName::CommonName("spiffe://a/x".into())] {
        assert_eq!(peer.spiffe_id(), None);
        assert_eq!(decide(&policy, Some(&peer), "w", 1, Mode::Strict), (false, None));
        assert_eq!(decide(&policy, Some(&peer), "w", 2, Mode::Strict), (true, Some("anyone")));
        assert_eq!(decide(&policy, Some(&peer), "w", 3, Mode::Strict), (true, Some("near")));
    }
}

#[test]
fn an_unauthenticated_client_never_passes_a_strict_port() {
    let policy = policy(
        "- { name: anyone, action: allow, to: { ports: [1] } }\n- { name: nobody, action: deny, to: { ports: [2] } }\n",
    );
    assert_eq!(decide(&policy, None, "w", 1, Mode::Strict), (false, None));
    assert_eq!(decide(&policy, None, "w", 1, Mode::Permissive), (true, Some("anyone")));
    assert_eq!(decide(&policy, None, "w", 2, Mode::Permissive), (false, Some("nobody")));
    assert_eq!(decide(&policy, None, "w", 3, Mode::Permissive), (true, None));
    let open = Query { allowed_by_default: true, ..query(Peer::unproven(HERE), "w", 3, Mode::Strict) };
    assert!(!policy.decide(&open).verdict.allow, "whatever the default is");
}

#[test]
fn the_parts_of_one_peer_must_all_match_and_any_one_peer_of_a_list() {
    let policy = policy(
        "- name: r\n  action: allow\n  from:\n\
         \x20 - { namespaces: [shop], cidrs: [10.0.0.0/24] }\n\
         \x20 - { organizations: [Partner*], not: { organizational_units: [Test] } }\n",
    );
    let shop = spiffe("spiffe://a/ns/shop/sa/cart");
    let other = spiffe("spiffe://a/ns/other/sa/cart");
    let of = |organization: &str, unit: &str| CertificateAttributes {
        organizations: vec![organization.into()],
        organizational_units: vec![unit.into()],
        extensions: Vec::new(),
    };
    for (name, attributes, address, want) in [
        (&shop, of("", ""), "10.0.0.9", true),
        (&shop, of("", ""), "::ffff:10.0.0.9", true),
        (&shop, of("", ""), "10.0.1.9", false),
        (&other, of("", ""), "10.0.0.9", false),
        (&other, of("Partner 7", "Live"), "10.9.9.9", true),
        (&other, of("Partner 7", "Test"), "10.9.9.9", false),
        (&other, of("The Partner", "Live"), "10.9.9.9", false),
    ] {
        let address = Some(address.parse().unwrap());
        let peer = Peer { name: Some(name), attributes: Some(&attributes), address };
        let verdict = policy.decide(&query(peer, "w", 1, Mode::Strict)).verdict;
        assert_eq!(verdict.allow, want, "{name} {attributes:?} {address:?}");
    }
}

#[test]
fn a_dry_run_rule_decides_nothing_and_says_what_it_would_have_done() {
    let policy = policy(
        "- { name: in, action: allow, from: { trust_domains: [a] } }\n\
         - { name: closed, action: deny, dry_run: true, from: { spiffe_ids: ['spiffe://a/x'] } }\n\
         - { name: partner, action: allow, dry_run: true, from: { trust_domains: [b] } }\n",
    );
    let decide = |id: &str| {
        let name = spiffe(id);
        let decision =
            policy.decide(&query(known(Some(&name), CertificateAttributes::NONE), "w", 1, Mode::Strict));
        (decision.verdict, decision.dry_run)
    };
    let verdict = |allow, rule| Verdict { allow, rule };
    assert_eq!(decide("spiffe://a/y"), (verdict(true, Some("in")), None));
    assert_eq!(decide("spiffe://a/x"), (verdict(true, Some("in")), Some(verdict(false, Some("closed")))));
    assert_eq!(decide("spiffe://b/x"), (verdict(false, None), Some(verdict(true, Some("partner")))));
    assert_eq!(decide("spiffe://c/x"), (verdict(false, None), None));
}

#[test]
fn audit_rules_are_named_once_each_and_no_more_than_a_few() {
    let mut rules = String::from(
        "- { name: two, action: audit, from: [{ trust_domains: [a] }, { spiffe_ids: ['spiffe://a/x'] }] }\n",
    );
    for number in 0..20 {
        rules += &format!("- {{ name: r{number}, action: audit }}\n");
    }
    let policy = policy(&rules);
    let name = spiffe("spiffe://a/x");
    let decision =
        policy.decide(&query(known(Some(&name), CertificateAttributes::NONE), "w", 1, Mode::Strict));
    assert_eq!(decision.verdict, Verdict { allow: false, rule: None }, "they decide nothing");
    assert_eq!(decision.audited, ["two", "r0", "r1", "r2", "r3", "r4", "r5", "r6"]);
}

#[test]
fn outbound_rules_say_to_whom_a_workload_may_connect() {
    let config = config(
        "outbound_policy:\n\
         - { name: to-db, action: allow, from: { workloads: [web], ports: [5432] }, to: { spiffe_ids: ['spiffe://a/db'] } }\n\
         - { name: never, action: deny, to: { trust_domains: [evil] } }\n",
    );
    let policy = Policy::from_config(&config);
    let decide = |id: &str, port, allowed_by_default| {
        let name = spiffe(id);
        let peer = known(Some(&name), CertificateAttributes::NONE);
        let query = OutboundQuery { peer, workload: "web", port, allowed_by_default };
        let decision = policy.decide_outbound(&query).verdict;
        assert_eq!(policy.outbound_denied_early(&query).is_some(), !decision.allow);
        (decision.allow, decision.rule.map(str::to_owned))
    };
    assert_eq!(decide("spiffe://a/db", 5432, false), (true, Some("to-db".to_owned())));
    assert_eq!(decide("spiffe://a/db", 5433, false), (false, None));
    assert_eq!(decide("spiffe://a/db", 5433, true), (true, None));
    assert_eq!(decide("spiffe://evil/db", 5432, true), (false, Some("never".to_owned())));
    let name = spiffe("spiffe://evil/x");
    let inbound = query(known(Some(&name), CertificateAttributes::NONE), "web", 1, Mode::Permissive);
    assert!(policy.decide(&inbound).verdict.allow, "they say nothing of inbound connections");
}

#[test]
fn what_is_not_known_yet_neither_denies_nor_allows_early() {
    let policy = policy(
        "- { name: no, action: deny, to: { ports: [1] }, from: { organizations: [Bad] } }\n\
         - { name: not-here, action: deny, to: { ports: [2] }, from: [{ trust_domains: [a], not: { cidrs: [10.0.0.0/8] } }] }\n\
         - { name: yes, action: allow, to: { ports: [3] }, from: [{ trust_domains: [a], organizations: [Good] }] }\n\
         - { name: plain, action: deny, to: { ports: [4] }, from: { spiffe_ids: ['spiffe://a/x'] } }\n",
    );
    let name = spiffe("spiffe://a/x");
    let early = |port, mode| {
        policy.denied_early(&query(Peer::expected(&name, None), "w", port, mode)).map(|verdict| verdict.rule)
    };
    for port in [1, 2] {
        assert_eq!(early(port, Mode::Permissive), None, "{port}");
        assert_eq!(early(port, Mode::Strict), Some(None), "by default, whatever is learned");
    }
    assert_eq!(early(3, Mode::Strict), None, "it may be of that organization");
    assert_eq!(early(4, Mode::Permissive), Some(Some("plain")));
}
