//! A policy decision among few and many rules: half of the rules name an exact ID, half a prefix.

use std::collections::BTreeSet;
use std::path::PathBuf;

use mtls_daemon::config::{Action, Config, Mode, Rule, RuleFrom, RuleTo, Source};
use mtls_daemon::identity::PeerName;
use mtls_daemon::policy::{Policy, Query};

use crate::suite::Suite;

const COUNTED: u32 = 10_000;
const RULES: [usize; 3] = [10, 1_000, 10_000];
const PORT: u16 = 5432;

pub fn add(suite: &mut Suite) {
    for rules in RULES {
        let count = rules / 2;
        suite.bench(&format!("policy/allow-exact/{rules}"), COUNTED, || decide(count, exact, true));
        suite.bench(&format!("policy/allow-prefix/{rules}"), COUNTED, || {
            decide(count, |n| format!("{}web", prefix(n)), true)
        });
        suite.bench(&format!("policy/deny-by-default/{rules}"), COUNTED, || {
            decide(count, |n| format!("spiffe://example.org/none/{n:05}/web"), false)
        });
    }
}

// As long for the first as for the last, so that the count of rules is the only difference.
fn exact(n: usize) -> String {
    format!("spiffe://example.org/app/{n:05}/web")
}

fn prefix(n: usize) -> String {
    format!("spiffe://example.org/team/{n:05}/")
}

/// Every peer asks in turn.
fn decide(count: usize, peer: impl Fn(usize) -> String, want: bool) -> impl FnMut() -> bool {
    let policy = policy(count);
    let peers: Vec<_> = (0..count).map(|n| PeerName::Spiffe(peer(n).parse().unwrap())).collect();
    let decide = move |peer: &PeerName| {
        let query = Query { peer: Some(peer), workload: "db", port: PORT, mode: Mode::Strict };
        let decision = policy.decide(&query);
        assert!(decision.allow == decision.rule.is_some(), "nothing but a rule allows");
        decision.allow
    };
    assert!(peers.iter().all(|peer| decide(peer) == want));
    let mut next = 0;
    move || {
        let peer = &peers[next];
        next = (next + 1) % peers.len();
        decide(peer)
    }
}

/// `count` rules for exact IDs and `count` for prefixes.
fn policy(count: usize) -> Policy {
    let text = "trust_domain: example.org\n".to_owned();
    let mut config = Config::parse(&Source { path: PathBuf::from("bench"), text }, &[]).unwrap();
    let to =
        RuleTo { workloads: Some(BTreeSet::from(["db".to_owned()])), ports: Some(BTreeSet::from([PORT])) };
    let rule =
        |name: String, from: RuleFrom| Rule { name, action: Action::Allow, to: to.clone(), from: Some(from) };
    for n in 0..count {
        let from = RuleFrom { spiffe_ids: vec![exact(n).parse().unwrap()], ..RuleFrom::default() };
        config.policy.push(rule(format!("exact-{n}"), from));
        let from = RuleFrom { spiffe_id_prefixes: vec![prefix(n).parse().unwrap()], ..RuleFrom::default() };
        config.policy.push(rule(format!("prefix-{n}"), from));
    }
    Policy::from_config(&config)
}
