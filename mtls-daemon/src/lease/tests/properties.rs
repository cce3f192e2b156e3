//! However the rules change, exactly those connections end that the rules deny, each asked afresh.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::config::{Config, Mode, Rule};
use crate::identity::{CertificateAttributes, PeerIdentity, PeerName};
use crate::observe::connection::Direction;
use crate::policy::tests::properties::{ADDRESSES, attributes, naive, name, rule};
use crate::policy::{Peer, Query};
use crate::snapshot::Snapshot;
use crate::snapshot::testing;

const WORKLOADS: [&str; 2] = ["w", "v"];

fn config(mut rules: Vec<Option<Rule>>, modes: &[&str; 2], defaults: &[&str; 2]) -> Config {
    let workload = |at: usize| {
        let (name, mode, default) = (WORKLOADS[at], modes[at], defaults[at]);
        let (inbound, outbound) = match default {
            "allow" | "deny" => (default, default),
            other => (other, "allow"),
        };
        format!(
            "{{ name: {name}, select: {{ netns: {name} }}, mode: {mode}, ports: {{ 2: permissive }}, \
             policy_default: {inbound}, outbound_default: {outbound} }}"
        )
    };
    let mut config = testing::config(&format!("workloads: [{}, {}]", workload(0), workload(1)));
    for (number, rule) in (0..).zip(&mut rules) {
        if let Some(rule) = rule {
            rule.name = format!("r{number}");
        }
    }
    let (inbound, outbound): (Vec<_>, Vec<_>) =
        (0..).zip(rules).partition(|(number, _): &(u32, _)| number % 3 != 0);
    config.policy = inbound.into_iter().filter_map(|(_, rule)| rule).collect();
    config.outbound_policy = outbound.into_iter().filter_map(|(_, rule)| rule).collect();
    config
}

fn allowed(snapshot: &Snapshot, parties: &Parties) -> bool {
    let workload = &snapshot.by_name(&parties.workload).unwrap().settings;
    let peer = match &parties.peer {
        Some(peer) => Peer::proven(peer, parties.address),
        None => Peer::unproven(parties.address),
    };
    let mode = workload.mode_of_port(parties.port);
    let (rules, allowed_by_default) = match parties.direction {
        Direction::Inbound if peer.name.is_none() && mode == Mode::Strict => return false,
        Direction::Inbound => (&snapshot.config.policy, workload.allows_by_default(parties.port)),
        Direction::Outbound => (&snapshot.config.outbound_policy, workload.allows_outbound_by_default()),
    };
    let query = Query { peer, workload: &workload.name, port: parties.port, mode, allowed_by_default };
    naive(rules, &query, false).allow
}

fn parties() -> impl Strategy<Value = Parties> {
    let inbound = any::<bool>();
    (name(), attributes(), select(ADDRESSES.to_vec()), select(WORKLOADS.to_vec()), 1..4_u16, inbound)
        .prop_map(|(name, attributes, address, workload, port, inbound)| {
            let peer = name.map(|name| Arc::new(identity(name, attributes)));
            let direction = match inbound || peer.is_none() {
                true => Direction::Inbound,
                false => Direction::Outbound,
            };
            let address = address.parse().unwrap();
            Parties { workload: workload.into(), own: None, peer, direction, port, address }
        })
}

fn identity(name: PeerName, attributes: CertificateAttributes) -> PeerIdentity {
    let bytes = format!("{name} {attributes:?}").into_bytes();
    let marks = ChainMarks {
        fingerprint: Fingerprint::of(1, &[bytes.into()]),
        id: name.spiffe_id().cloned(),
        certificates: [].into(),
        rooted: false,
        question: None,
    };
    let bare = Parties::of_peer("w", Some(Arc::new(marks)));
    PeerIdentity { name, attributes: Arc::new(attributes), ..PeerIdentity::clone(&bare.peer.unwrap()) }
}

/// How a rule is in the next configuration: as it was, gone, or another one.
fn next(before: Vec<Option<Rule>>) -> impl Strategy<Value = Vec<Option<Rule>>> {
    let one = |same: Option<Rule>| prop_oneof![4 => Just(same), 1 => Just(None), 1 => rule().prop_map(Some)];
    before.into_iter().map(one).collect::<Vec<_>>()
}

fn settings() -> impl Strategy<Value = ([&'static str; 2], [&'static str; 2])> {
    let mode = || select(vec!["strict", "permissive"]);
    let default = || select(vec!["mode", "mode", "allow", "deny"]);
    ([mode(), mode()], [default(), default()])
}

fn history() -> impl Strategy<Value = Vec<Config>> {
    let first = vec(proptest::option::weighted(0.8, rule()), 1..8);
    let three = first.prop_flat_map(|first| {
        next(first.clone()).prop_flat_map(move |second| {
            let first = first.clone();
            next(second.clone()).prop_map(move |third| [first.clone(), second.clone(), third])
        })
    });
    // Modes and defaults change less often than rules.
    (three, settings(), settings(), any::<bool>()).prop_map(|(rules, before, after, change)| {
        let last = if change { after } else { before };
        let mut configs = Vec::new();
        for (rules, (modes, defaults)) in rules.into_iter().zip([before, before, last]) {
            configs.push(config(rules, &modes, &defaults));
        }
        configs
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn after_any_change_exactly_those_end_that_are_denied_now(
        configs in history(),
        connections in vec(parties(), 1..24),
    ) {
        let leases = Arc::new(Leases::default());
        let snapshots: Vec<Snapshot> = configs.into_iter().map(testing::snapshot).collect();
        let now = Now::read();
        let mut live = Vec::new();
        for parties in connections {
            let lease = leases.join(parties.clone());
            let settled = leases.settle(&lease, |p, renewed| judge(&snapshots[0], p, renewed, now.wall));
            prop_assert_eq!(settled.is_ok(), allowed(&snapshots[0], &parties), "{:?}", parties);
            if settled.is_ok() {
                live.push((parties, lease));
            }
        }
        for pair in snapshots.windows(2) {
            let [old, new] = pair else { unreachable!() };
            let judge = |p: &Parties, renewed: Option<&_>| judge(new, p, renewed, now.wall);
            let ended = leases.judge_again(&change::between(old, new), judge, now);
            let over = live.iter().filter(|(_, lease)| lease.refusal().is_some()).count();
            prop_assert_eq!(ended.connections, over);
            for (parties, lease) in &live {
                prop_assert_eq!(lease.refusal().is_none(), allowed(new, parties), "{:?}", parties);
            }
            live.retain(|(_, lease)| lease.refusal().is_none());
        }
        drop(live);
        prop_assert!(leases.is_empty());
    }
}
