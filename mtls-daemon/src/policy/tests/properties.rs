//! The compiled rules decide as the plain reference does, and what is said early comes true.

use proptest::collection::{btree_map, btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::super::check::{self, FindingKind};
use super::super::{coverage, reference};
use super::*;
use crate::config::{Action, LocalMatch, PeerMatch, PeerTrait, PeerTraits, Rule, TextPattern};

const IDS: [&str; 9] = [
    "spiffe://a",
    "spiffe://a/x",
    "spiffe://a/x/y",
    "spiffe://a/xy",
    "spiffe://a/ns/shop/sa/cart",
    "spiffe://a/ns/shop/sa/web",
    "spiffe://b/ns/shop/sa/cart",
    "spiffe://b/ns/shopping/sa/x",
    "spiffe://ab/x",
];
const WORDS: [&str; 4] = ["Shop", "Shopping", "Other", "hex:00"];
const OIDS: [&str; 2] = ["1.2.3", "1.2.3.4"];
const NETWORKS: [&str; 6] = ["10.0.0.0/8", "10.1.0.0/16", "10.1.0.1/32", "0.0.0.0/0", "::/0", "fd00::/8"];
pub(crate) const ADDRESSES: [&str; 5] = ["10.1.0.1", "10.2.0.1", "192.0.2.1", "fd00::1", "::ffff:10.1.0.1"];
const WORKLOADS: [&str; 3] = ["w", "v", "unknown"];

fn pattern(texts: &'static [&'static str]) -> impl Strategy<Value = TextPattern> {
    let cut = |text: &str, at: usize, front: bool| {
        let (head, tail) = text.split_at(at.min(text.len()));
        if front { TextPattern::Prefix(head.into()) } else { TextPattern::Suffix(tail.into()) }
    };
    prop_oneof![
        4 => select(texts).prop_map(|text| TextPattern::Exact(text.into())),
        3 => (select(texts), 0..20_usize, any::<bool>()).prop_map(move |(text, at, front)| cut(text, at, front)),
        1 => Just(TextPattern::Present),
    ]
}

fn some_trait() -> impl Strategy<Value = (PeerTrait, TextPattern)> {
    const DOMAINS: &[&str] = &["a", "b", "ab"];
    const SPACES: &[&str] = &["shop", "shopping"];
    const ACCOUNTS: &[&str] = &["shop/cart", "shop/web", "shopping/x"];
    let of = |kind: PeerTrait, texts| pattern(texts).prop_map(move |pattern| (kind.clone(), pattern));
    prop_oneof![
        3 => of(PeerTrait::SpiffeId, &IDS),
        1 => of(PeerTrait::TrustDomain, DOMAINS),
        1 => of(PeerTrait::Namespace, SPACES),
        1 => of(PeerTrait::ServiceAccount, ACCOUNTS),
        1 => of(PeerTrait::Organization, &WORDS),
        1 => of(PeerTrait::OrganizationalUnit, &WORDS),
        1 => (select(&OIDS[..]), pattern(&WORDS))
            .prop_map(|(oid, pattern)| (PeerTrait::Extension(oid.parse().unwrap()), pattern)),
    ]
}

fn traits(most: usize) -> impl Strategy<Value = PeerTraits> {
    let networks = subsequence(NETWORKS.to_vec(), 0..=most.min(2));
    (vec(some_trait(), 0..=most), networks).prop_map(|(list, networks)| {
        let mut traits = PeerTraits::default();
        for (kind, pattern) in list {
            traits.texts.entry(kind).or_default().insert(pattern);
        }
        traits.networks = networks.into_iter().map(|network| network.parse().unwrap()).collect();
        traits
    })
}

pub(crate) fn rule() -> impl Strategy<Value = Rule> {
    let names = || btree_set(select(WORKLOADS.to_vec()).prop_map(str::to_owned), 0..3);
    let local = (
        option::of(names()),
        option::weighted(0.2, names()),
        option::of(btree_set(1..4_u16, 0..3)),
        btree_set(1..4_u16, 0..2),
    );
    let peer = (traits(2), traits(1)).prop_map(|(is, not)| PeerMatch { is, not });
    let action = select(vec![Action::Allow, Action::Allow, Action::Deny, Action::Audit]);
    (action, any::<bool>(), local, option::weighted(0.9, vec(peer, 1..3))).prop_map(
        |(action, dry_run, (workloads, not_workloads, ports, not_ports), peers)| Rule {
            name: String::new(),
            action,
            dry_run: dry_run && action != Action::Audit,
            local: LocalMatch {
                workloads,
                not_workloads: not_workloads.unwrap_or_default(),
                ports,
                not_ports,
            },
            peers,
        },
    )
}

pub(crate) fn attributes() -> impl Strategy<Value = CertificateAttributes> {
    let words = || subsequence(WORDS.to_vec(), 0..3);
    (words(), words(), btree_map(select(OIDS.to_vec()), select(WORDS.to_vec()), 0..3)).prop_map(
        |(organizations, units, extensions)| CertificateAttributes {
            organizations: organizations.into_iter().map(Into::into).collect(),
            organizational_units: units.into_iter().map(Into::into).collect(),
            extensions: extensions.into_iter().map(|(oid, word)| (oid.into(), word.into())).collect(),
        },
    )
}

pub(crate) fn name() -> impl Strategy<Value = Option<PeerName>> {
    prop_oneof![
        8 => select(IDS.to_vec()).prop_map(|id| Some(spiffe(id))),
        1 => Just(Some(PeerName::Dns("a".into()))),
        1 => Just(None),
    ]
}

/// First in the file.
fn find<'r>(rules: &'r [Rule], query: &Query<'_>, of: impl Fn(&Rule) -> bool) -> Option<&'r str> {
    let matches = |rule: &&Rule| reference::matches(rule, &query.peer, query.workload, query.port);
    rules.iter().filter(|rule| of(rule)).find(matches).map(|rule| rule.name.as_str())
}

pub(crate) fn naive<'r>(rules: &'r [Rule], query: &Query<'_>, with_dry_run: bool) -> Verdict<'r> {
    let in_force = |rule: &Rule, action| rule.action == action && (with_dry_run || !rule.dry_run);
    if let Some(rule) = find(rules, query, |rule| in_force(rule, Action::Deny)) {
        return Verdict { allow: false, rule: Some(rule) };
    }
    if let Some(rule) = find(rules, query, |rule| in_force(rule, Action::Allow)) {
        return Verdict { allow: true, rule: Some(rule) };
    }
    Verdict { allow: query.allowed_by_default, rule: None }
}

/// Rules that decide, numbered.
fn deciding_rules() -> impl Strategy<Value = Vec<Rule>> {
    vec(rule(), 1..6).prop_map(|rules| {
        let mut rules: Vec<Rule> =
            rules.into_iter().filter(|rule| rule.action != Action::Audit && !rule.dry_run).collect();
        (0..).zip(&mut rules).for_each(|(number, rule): (u32, _)| rule.name = format!("r{number}"));
        rules
    })
}

type Asked = (Option<PeerName>, CertificateAttributes, &'static str, &'static str, u16);

fn asked() -> impl Strategy<Value = Asked> {
    (name(), attributes(), select(ADDRESSES.to_vec()), select(WORKLOADS.to_vec()), 1..5_u16)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn the_compiled_rules_decide_as_the_reference_does(
        rules in prop_oneof![3 => vec(rule(), 0..8), 1 => vec(rule(), 100..200)],
        queries in vec(
            (name(), attributes(), select(ADDRESSES.to_vec()), select(WORKLOADS.to_vec()), 1..5_u16, any::<bool>()),
            1..12,
        ),
    ) {
        let mut rules = rules;
        (0..).zip(&mut rules).for_each(|(number, rule): (u32, _)| rule.name = format!("r{number}"));
        let mut config = config("");
        config.policy = rules.clone();
        config.outbound_policy = rules.clone();
        let policy = Policy::from_config(&config);
        for (name, attributes, address, workload, port, default) in &queries {
            let address = address.parse().unwrap();
            let attributes = if name.is_none() { CertificateAttributes::NONE } else { attributes };
            let peer = Peer { name: name.as_ref(), attributes: Some(attributes), address: Some(address) };
            let query = Query { peer, workload, port: *port, mode: Mode::Permissive, allowed_by_default: *default };
            let decision = policy.decide(&query);
            let want = naive(&rules, &query, false);
            prop_assert_eq!(decision.verdict, want, "{:?}", query);
            let dry = naive(&rules, &query, true);
            prop_assert_eq!(decision.dry_run, (dry != want).then_some(dry), "{:?}", query);
            let audits = |rule: &&Rule| rule.action == Action::Audit
                && reference::matches(rule, &query.peer, workload, *port);
            let audited: Vec<&str> = rules.iter().filter(audits).take(MAX_AUDITED).map(|rule| rule.name.as_str()).collect();
            prop_assert_eq!(&decision.audited, &audited);

            let outbound = OutboundQuery { peer, workload, port: *port, allowed_by_default: *default };
            prop_assert_eq!(policy.decide_outbound(&outbound).verdict, want);
            for attributes in [None, Some(attributes)] {
                for address in [None, Some(address)] {
                    let peer = Peer { attributes, address, ..peer };
                    let early = policy.denied_early(&Query { peer, ..query });
                    prop_assert!(early.is_none() || !want.allow, "{:?} said {:?}", peer, early);
                    if attributes.is_some() && address.is_some() {
                        prop_assert_eq!(early, (!want.allow).then_some(want), "all is known");
                    }
                    let early = policy.outbound_denied_early(&OutboundQuery { peer, ..outbound });
                    prop_assert!(early.is_none() || !want.allow);
                }
            }
        }
    }

    #[test]
    fn a_rule_that_is_said_to_be_covered_or_to_match_nothing_never_decides(
        rules in deciding_rules(),
        queries in vec(asked(), 1..40),
    ) {
        let mut config = config("");
        config.policy = rules.clone();
        let useless: Vec<String> = check::check(&config)
            .into_iter()
            .filter(|finding| matches!(
                finding.kind,
                FindingKind::Shadowed | FindingKind::Contradiction | FindingKind::MatchesNothing
            ))
            .map(|finding| finding.rule)
            .collect();
        for (name, attributes, address, workload, port) in &queries {
            let attributes = if name.is_none() { CertificateAttributes::NONE } else { attributes };
            let peer = Peer {
                name: name.as_ref(), attributes: Some(attributes), address: Some(address.parse().unwrap()),
            };
            let matching = |rule: &&Rule| reference::matches(rule, &peer, workload, *port);
            for (place, outer) in rules.iter().enumerate() {
                for inner in rules.iter().skip(place + 1) {
                    if coverage::covers(outer, inner) && matching(&inner) {
                        prop_assert!(matching(&outer), "{:?} covers {:?}: {:?}", outer, inner, peer);
                    }
                }
            }
            let query = Query { peer, workload, port: *port, mode: Mode::Permissive, allowed_by_default: false };
            let verdict = naive(&rules, &query, false);
            let by_useless = verdict.rule.filter(|rule| useless.iter().any(|name| name == rule));
            prop_assert_eq!(by_useless, None, "{:?}", query);
        }
    }
}
