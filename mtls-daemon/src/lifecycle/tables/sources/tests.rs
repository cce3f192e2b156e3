//! The table of sources against policy, at the edges of every network.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::identity::{CertificateAttributes, PeerName};
use crate::policy::{Peer, Query};
use crate::snapshot::testing::{config, snapshot};

const NETWORKS: [&str; 12] = [
    "0.0.0.0/0",
    "0.0.0.0/1",
    "128.0.0.0/1",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.1.0/24",
    "10.1.1.1/32",
    "255.255.255.255/32",
    "::/0",
    "8000::/1",
    "fd00::/8",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128",
];
const ADDRESSES: [&str; 14] = [
    "0.0.0.1",
    "9.255.255.255",
    "10.0.0.0",
    "10.1.0.255",
    "10.1.1.0",
    "10.1.1.1",
    "10.1.1.2",
    "10.2.0.0",
    "200.0.0.1",
    "255.255.255.255",
    "2001:db8::1",
    "fd00::1",
    "ffff::1",
    "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
];
const PORTS: [u16; 4] = [80, 443, 5432, 9000];

/// `is_denied` of mtls-ebpf/src/sk_lookup.rs, on what the kernel's table would hold.
fn kernel(tables: &Tables, workload: u32, port: u16, from: IpAddr) -> bool {
    let bits = u128::from_be_bytes(octets(from));
    let at = |port| {
        (0..=128u32).rev().find_map(|length| {
            let mask = u128::MAX.checked_shl(128 - length).unwrap_or(0);
            let key = SourceKey::new(workload, port, (bits & mask).to_be_bytes());
            tables.sources.get(&(SourceKey::FIXED_BITS + length, key))
        })
    };
    at(port).or_else(|| at(0)) == Some(&VERDICT_DENY)
}

fn networks() -> impl Strategy<Value = String> {
    let some = subsequence(NETWORKS.to_vec(), 1..4);
    some.prop_map(|some| {
        format!("[{}]", some.iter().map(|n| format!("'{n}'")).collect::<Vec<_>>().join(", "))
    })
}

fn rules() -> impl Strategy<Value = String> {
    let peer = prop_oneof![
        1 => Just(String::new()),
        2 => Just(", from: { trust_domains: [example.org] }".to_owned()),
        4 => networks().prop_map(|is| format!(", from: {{ cidrs: {is} }}")),
        2 => networks().prop_map(|not| format!(", from: {{ not: {{ cidrs: {not} }} }}")),
        2 => (networks(), networks()).prop_map(|(is, not)| format!(", from: {{ cidrs: {is}, not: {{ cidrs: {not} }} }}")),
        2 => networks().prop_map(|is| format!(", from: {{ trust_domains: [example.org], cidrs: {is} }}")),
    ];
    let to =
        (subsequence(PORTS.to_vec(), 0..3), any::<bool>(), any::<bool>()).prop_map(|(ports, not, db)| {
            let mut to: Vec<String> = Vec::new();
            if !ports.is_empty() {
                to.push(if not {
                    format!("not: {{ ports: {ports:?} }}")
                } else {
                    format!("ports: {ports:?}")
                });
            }
            to.extend(db.then(|| "workloads: [db]".to_owned()));
            to.join(", ")
        });
    let rule = (select(vec!["allow", "deny", "deny", "audit"]), any::<bool>(), to, peer);
    vec(rule, 0..6).prop_map(|rules| {
        let mut text = String::new();
        for (n, (action, dry, to, from)) in rules.into_iter().enumerate() {
            let dry = if dry && action != "audit" { ", dry_run: true" } else { "" };
            text += &format!("- {{ name: r{n}, action: {action}{dry}, to: {{ {to} }}{from} }}\n");
        }
        if text.is_empty() { text } else { format!("policy:\n{text}") }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_kernel_refuses_a_source_exactly_when_policy_denies_whoever_comes_from_it(
        mode in select(vec!["strict", "permissive"]),
        default in select(vec!["allow", "deny"]),
        rules in rules(),
    ) {
        let text = format!(
            "workloads:\n- {{ name: db, select: {{ netns: db }}, mode: {mode}, policy_default: {default}, ports: {{ 9000: disabled }} }}\n\
             - {{ name: web, select: {{ netns: web }} }}\n{rules}"
        );
        let snapshot = snapshot(config(&text));
        let mut tables = Tables::default();
        add(&mut tables, &snapshot);
        let ours = PeerName::Spiffe("spiffe://example.org/a".parse().unwrap());
        let theirs = PeerName::Spiffe("spiffe://other/a".parse().unwrap());
        for workload in snapshot.workloads.values() {
            for (port, from) in PORTS.iter().chain(&[1, u16::MAX]).flat_map(|port| ADDRESSES.map(|from| (*port, from))) {
                let from: IpAddr = from.parse().unwrap();
                let denied = kernel(&tables, workload.number, port, from);
                let settings = &workload.settings;
                if settings.mode_of_port(port) == Mode::Disabled {
                    prop_assert!(!denied, "a disabled port has no entry");
                    continue;
                }
                prop_assert_eq!(denied, snapshot.denied_source(workload, port, from).is_some(), "{} {}", port, from);
                for name in [None, Some(&ours), Some(&theirs)] {
                    let peer = Peer { name, attributes: Some(CertificateAttributes::NONE), address: Some(from) };
                    let allowed = snapshot.policy.decide(&Query::to(settings, port, peer)).verdict.allow;
                    prop_assert!(!(denied && allowed), "{} {} {:?}", port, from, name);
                }
            }
        }
    }
}

fn made_of(text: &str) -> (Snapshot, Tables) {
    let snapshot = snapshot(config(text));
    let mut tables = Tables::default();
    add(&mut tables, &snapshot);
    (snapshot, tables)
}

const DB: &str = "workloads: [{ name: db, select: { netns: db } }]\n";

#[test]
fn what_depends_on_who_it_is_waits_for_the_handshake() {
    for rules in [
        "",
        "policy: [{ name: web, action: allow, from: { trust_domains: [a] } }]",
        "policy: [{ name: no-b, action: deny, from: { trust_domains: [b] } }]",
        "policy: [{ name: no-b, action: deny, from: { trust_domains: [b], cidrs: [10.0.0.0/8] } }]",
        "policy: [{ name: dry, action: deny, dry_run: true, from: { cidrs: [10.0.0.0/8] } }]",
    ] {
        let (_, tables) = made_of(&format!("{DB}{rules}"));
        assert_eq!(tables.sources.len(), 0, "{rules}");
    }
}

#[test]
fn the_addresses_that_no_rule_lets_in_are_refused_with_the_default() {
    let (snapshot, tables) =
        made_of(&format!("{DB}policy: [{{ name: near, action: allow, from: {{ cidrs: [10.0.0.0/8] }} }}]"));
    let db = snapshot.by_name("db").unwrap();
    let refused = |from: &str| kernel(&tables, db.number, 5432, from.parse().unwrap());
    assert!(!refused("10.1.2.3"));
    assert!(refused("11.0.0.1") && refused("2001:db8::1"));
    let denial = snapshot.denied_source(db, 5432, "11.0.0.1".parse().unwrap()).unwrap();
    assert_eq!(denial.verdict.rule, None);
    assert_eq!(denial.rule(), "default of strict");
}

#[test]
fn more_networks_than_the_table_takes_are_left_to_the_daemon() {
    for (count, expected) in [(1_000, 1_002), (60_000, 0)] {
        let networks: Vec<_> =
            (0..count).map(|n| format!("{}.{}.{}.0/24", 1 + n % 100, n / 100 % 250, n / 25_000)).collect();
        let rule =
            format!("policy: [{{ name: bad, action: deny, from: {{ cidrs: [{}] }} }}]", networks.join(", "));
        let (_, tables) = made_of(&format!("{DB}{rule}"));
        assert_eq!(tables.sources.len(), expected, "{count}");
    }
}
