//! A policy decision among few and many rules, told apart by one question or another, and the hardest cases: all rules differ
//! in the network only, or in exceptions only.

use std::net::IpAddr;
use std::path::PathBuf;

use mtls_daemon::config::{
    Action, Config, LocalMatch, Mode, PeerMatch, PeerTrait, PeerTraits, Rule, Source, TextPattern,
};
use mtls_daemon::identity::{CertificateAttributes, PeerName};
use mtls_daemon::policy::{Peer, Policy, Query};

use crate::suite::Suite;

const COUNTED: u32 = 10_000;
const RULES: [usize; 3] = [10, 1_000, 10_000];
const PORT: u16 = 5432;

pub fn add(suite: &mut Suite) {
    for count in RULES {
        let mut bench = |name: &str, rules: fn(usize) -> PeerMatch, who: fn(usize) -> Who, want: bool| {
            suite.bench(&format!("policy/{name}/{count}"), COUNTED, || decide(count, rules, who, want));
        };
        bench("allow-exact", |n| id(TextPattern::Exact, &exact(n)), |n| Who::new(exact(n)), true);
        bench("allow-prefix", |n| id(TextPattern::Prefix, &prefix(n)), |n| Who::new(prefix(n) + "web"), true);
        bench("allow-network", network, Who::at, true);
        bench("all-but-one", all_but_one, |n| Who::new(exact(n)), true);
        let nobody = |n| Who::new(format!("spiffe://example.org/none/{n:05}/web"));
        bench("deny-by-default", |n| id(TextPattern::Exact, &exact(n)), nobody, false);
    }
}

/// Who asks.
struct Who {
    name: PeerName,
    address: IpAddr,
}

impl Who {
    fn new(id: String) -> Self {
        Self { name: PeerName::Spiffe(id.parse().unwrap()), address: [192, 0, 2, 1].into() }
    }

    fn at(n: usize) -> Self {
        let [.., high, low] = n.to_be_bytes();
        Self { address: [10, high, low, 7].into(), ..Self::new("spiffe://example.org/web".to_owned()) }
    }
}

// As long for the first as for the last, so that the count of rules is the only difference.
fn exact(n: usize) -> String {
    format!("spiffe://example.org/app/{n:05}/web")
}

fn prefix(n: usize) -> String {
    format!("spiffe://example.org/team/{n:05}/")
}

fn id(pattern: fn(Box<str>) -> TextPattern, text: &str) -> PeerMatch {
    let mut is = PeerTraits::default();
    is.texts.insert(PeerTrait::SpiffeId, [pattern(text.into())].into());
    PeerMatch { is, not: PeerTraits::default() }
}

fn network(n: usize) -> PeerMatch {
    let [.., high, low] = n.to_be_bytes();
    let networks = [format!("10.{high}.{low}.0/24").parse().unwrap()].into();
    PeerMatch { is: PeerTraits { networks, ..PeerTraits::default() }, not: PeerTraits::default() }
}

/// Every rule but one matches any peer.
fn all_but_one(n: usize) -> PeerMatch {
    PeerMatch { is: PeerTraits::default(), not: id(TextPattern::Exact, &exact(n)).is }
}

/// Every peer asks in turn.
fn decide(
    count: usize,
    rules: fn(usize) -> PeerMatch,
    who: fn(usize) -> Who,
    want: bool,
) -> impl FnMut() -> bool {
    let policy = policy(count, rules);
    let peers: Vec<_> = (0..count).map(who).collect();
    let decide = move |who: &Who| {
        let attributes = Some(CertificateAttributes::NONE);
        let peer = Peer { name: Some(&who.name), attributes, address: Some(who.address) };
        let query = Query { peer, workload: "db", port: PORT, mode: Mode::Strict, allowed_by_default: false };
        let verdict = policy.decide(&query).verdict;
        assert!(verdict.allow == verdict.rule.is_some(), "nothing but a rule allows");
        verdict.allow
    };
    assert!(peers.iter().all(|peer| decide(peer) == want));
    let mut next = 0;
    move || {
        let peer = &peers[next];
        next = (next + 1) % peers.len();
        decide(peer)
    }
}

fn policy(count: usize, rules: fn(usize) -> PeerMatch) -> Policy {
    let text = "trust_domain: example.org\n".to_owned();
    let mut config = Config::parse(&Source { path: PathBuf::from("bench"), text }, &[]).unwrap();
    let local = LocalMatch {
        workloads: Some(["db".to_owned()].into()),
        ports: Some([PORT].into()),
        ..LocalMatch::default()
    };
    config.policy = (0..count)
        .map(|n| Rule {
            name: format!("rule-{n}"),
            action: Action::Allow,
            dry_run: false,
            local: local.clone(),
            peers: Some(vec![rules(n)]),
        })
        .collect();
    Policy::from_config(&config)
}
