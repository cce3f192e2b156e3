use std::time::{Duration, Instant};

use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::config::{Rule, RuleFrom, RuleTo, Source};

fn policy(rules: &str) -> Policy {
    let text = format!("trust_domain: a\npolicy:\n{rules}");
    Policy::from_config(&Config::parse(&Source { path: "F".into(), text }, &[]).unwrap())
}

fn spiffe(id: &str) -> PeerName {
    PeerName::Spiffe(id.parse().unwrap())
}

fn decide<'a>(
    policy: &'a Policy,
    peer: Option<&PeerName>,
    workload: &str,
    port: u16,
    mode: Mode,
) -> (bool, Option<&'a str>) {
    let decision = policy.decide(&Query { peer, workload, port, mode });
    (decision.allow, decision.rule)
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
fn a_legacy_name_matches_only_rules_for_anyone() {
    let policy = policy(
        "- { name: domain, action: allow, to: { ports: [1] }, from: { trust_domains: [a] } }\n\
         - { name: anyone, action: allow, to: { ports: [2] } }\n",
    );
    for peer in [PeerName::Dns("a".into()), PeerName::CommonName("spiffe://a/x".into())] {
        assert_eq!(peer.spiffe_id(), None);
        assert_eq!(decide(&policy, Some(&peer), "w", 1, Mode::Strict), (false, None));
        assert_eq!(decide(&policy, Some(&peer), "w", 2, Mode::Strict), (true, Some("anyone")));
    }
    assert_eq!(PeerName::Dns("x.y".into()).to_string(), "dns:x.y");
    assert_eq!(PeerName::CommonName("x".into()).to_string(), "cn:x");
    assert_eq!(spiffe("spiffe://a/x").to_string(), "spiffe://a/x");
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
}

#[test]
fn what_connect_can_know_is_what_the_server_would_say() {
    let policy = policy(
        "- { name: no, action: deny, to: { workloads: [db] }, from: { spiffe_ids: ['spiffe://a/x'] } }\n",
    );
    let x = "spiffe://a/x".parse().unwrap();
    let no = Decision { allow: false, rule: Some("no") };
    let by_default = Decision { allow: false, rule: None };
    assert_eq!(policy.denied_early(&x, "db", 1, Mode::Permissive), Some(no));
    assert_eq!(policy.denied_early(&x, "web", 1, Mode::Strict), Some(by_default));
    assert_eq!(policy.denied_early(&x, "web", 1, Mode::Permissive), None);
}

#[test]
fn a_decision_among_ten_thousand_rules_scans_none() {
    let mut rules = String::new();
    for n in 0..10_000 {
        rules += &format!("- {{ name: r{n}, action: allow, to: {{ ports: [{}] }}, ", n + 1);
        rules += &format!(
            "from: {{ spiffe_ids: ['spiffe://a/x'], spiffe_id_prefixes: ['spiffe://a/{n}/'] }} }}\n"
        );
    }
    let policy = policy(&rules);
    let peer = spiffe("spiffe://a/x");
    let deep = PeerName::Spiffe(format!("spiffe://a/9999{}", "/x".repeat(1000)).parse().unwrap());
    let start = Instant::now();
    for _ in 0..10_000 {
        assert_eq!(decide(&policy, Some(&peer), "w", 10_000, Mode::Strict), (true, Some("r9999")));
        assert_eq!(decide(&policy, Some(&deep), "w", 10_000, Mode::Strict), (true, Some("r9999")));
    }
    // A scan would cost 10,000 × 20,000 comparisons. Generous: this machine is shared.
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
}

const IDS: [&str; 8] = [
    "spiffe://a",
    "spiffe://a/x",
    "spiffe://a/x/y",
    "spiffe://a/xy",
    "spiffe://a/x/y/z",
    "spiffe://b/x",
    "spiffe://ab/x",
    "spiffe://b/x/y",
];

fn peer() -> impl Strategy<Value = Option<PeerName>> {
    prop_oneof![
        8 => select(IDS.to_vec()).prop_map(|id| Some(spiffe(id))),
        1 => Just(Some(PeerName::Dns("a".into()))),
        1 => Just(Some(PeerName::CommonName("a".into()))),
        1 => Just(None),
    ]
}

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let from = (
        vec(select(IDS.to_vec()), 0..3),
        vec(
            select(vec!["spiffe://a/", "spiffe://a/x/", "spiffe://a/x/y/", "spiffe://b/", "spiffe://ab/"]),
            0..2,
        ),
        vec(select(vec!["a", "b", "ab"]), 0..2),
    )
        .prop_map(|(ids, prefixes, domains)| RuleFrom {
            spiffe_ids: ids.iter().map(|id| id.parse().unwrap()).collect(),
            spiffe_id_prefixes: prefixes.iter().map(|prefix| prefix.parse().unwrap()).collect(),
            trust_domains: domains.iter().map(|domain| domain.parse().unwrap()).collect(),
        });
    let workloads = btree_set(select(vec!["w".to_owned(), "v".to_owned(), "u".to_owned()]), 1..3);
    let to = (option::of(workloads), option::of(btree_set(1..4_u16, 1..3)))
        .prop_map(|(workloads, ports)| RuleTo { workloads, ports });
    let action = select(vec![Action::Allow, Action::Allow, Action::Deny]);
    vec((action, to, option::weighted(0.8, from)), 0..8).prop_map(|rules| {
        let rule = |(n, (action, to, from))| Rule { name: format!("r{n}"), action, to, from };
        rules.into_iter().enumerate().map(rule).collect()
    })
}

/// The configuration's words about a rule, read literally.
fn matches(rule: &Rule, query: &Query<'_>) -> bool {
    let to = rule.to.workloads.as_ref().is_none_or(|names| names.iter().any(|name| name == query.workload))
        && rule.to.ports.as_ref().is_none_or(|ports| ports.contains(&query.port));
    let from = match (&rule.from, query.peer) {
        (None, _) => true,
        (Some(from), Some(PeerName::Spiffe(id))) => {
            from.spiffe_ids.contains(id)
                || from.spiffe_id_prefixes.iter().any(|prefix| id.as_str().starts_with(prefix.as_str()))
                || from.trust_domains.contains(id.trust_domain())
        }
        (Some(_), _) => false,
    };
    to && from
}

fn naive(rules: &[Rule], query: &Query<'_>) -> (bool, Option<String>) {
    if query.peer.is_none() && query.mode == Mode::Strict {
        return (false, None);
    }
    for (action, allow) in [(Action::Deny, false), (Action::Allow, true)] {
        if let Some(rule) = rules.iter().find(|rule| rule.action == action && matches(rule, query)) {
            return (allow, Some(rule.name.clone()));
        }
    }
    (query.mode != Mode::Strict, None)
}

proptest! {
    #[test]
    fn the_index_decides_as_the_naive_model_does(
        rules in rules(),
        queries in vec((peer(), select(vec!["w", "v", "unknown"]), 1..5_u16, any::<bool>()), 1..20),
    ) {
        let empty = Source { path: "F".into(), text: "trust_domain: a".to_owned() };
        let mut config = Config::parse(&empty, &[]).unwrap();
        config.policy = rules;
        let policy = Policy::from_config(&config);
        for (peer, workload, port, strict) in &queries {
            let mode = if *strict { Mode::Strict } else { Mode::Permissive };
            let query = Query { peer: peer.as_ref(), workload, port: *port, mode };
            let decision = policy.decide(&query);
            let want = naive(&config.policy, &query);
            prop_assert_eq!((decision.allow, decision.rule.map(str::to_owned)), want.clone(), "{:?}", query);
            if let Some(PeerName::Spiffe(id)) = peer {
                let early = policy.denied_early(id, workload, *port, mode);
                prop_assert_eq!(early, (!decision.allow).then_some(decision));
            }
        }
    }
}
