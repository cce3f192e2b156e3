//! A replay of what was recorded under one policy changes nothing by the same policy, and by another exactly what the
//! reference decides otherwise.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::super::replay::replay;
use super::*;
use crate::config::{DirectoryEntry, Mode, Rule};
use crate::policy::tests::properties::{ADDRESSES, attributes, naive, name, rule};
use crate::policy::{OutboundQuery, Peer, Query};

const IDS: [&str; 4] =
    ["spiffe://a/x", "spiffe://a/ns/shop/sa/cart", "spiffe://b/ns/shop/sa/cart", "spiffe://ab/x"];

/// Two permissive or strict workloads, a directory in which everybody is everywhere, and these rules for both directions.
fn site(mode: Mode, mut rules: Vec<Rule>) -> Config {
    (0..).zip(&mut rules).for_each(|(number, rule): (u32, _)| rule.name = format!("r{number}"));
    let mut config = config(&format!(
        "workloads:\n- {{ name: w, select: {{ netns: w }}, mode: {mode} }}\n- {{ name: v, select: {{ netns: v }}, mode: {mode} }}\n"
    ));
    config.policy.clone_from(&rules);
    config.outbound_policy = rules;
    config.directory = vec![DirectoryEntry {
        name: "all".into(),
        addresses: vec!["0.0.0.0/0".parse().unwrap(), "::/0".parse().unwrap()],
        ports: None,
        spiffe_ids: IDS.iter().map(|id| id.parse().unwrap()).collect(),
        dns_names: Vec::new(),
        node: None,
        left_alone: std::collections::BTreeSet::new(),
    }];
    config
}

fn mode() -> impl Strategy<Value = Mode> {
    select(vec![Mode::Strict, Mode::Permissive])
}

type Seen = (Option<PeerName>, CertificateAttributes, &'static str, &'static str, u16, bool);

fn seen() -> impl Strategy<Value = Seen> {
    let workload = select(vec!["w", "v"]);
    let peer = prop_oneof![name(), select(IDS.to_vec()).prop_map(|id| Some(spiffe(id)))];
    (peer, attributes(), select(ADDRESSES.to_vec()), workload, 1..4_u16, any::<bool>()).prop_map(
        |(name, attributes, address, workload, port, outbound)| {
            // Who proved nothing has no attributes, and a server is one that the directory expects.
            let attributes = if name.is_none() { CertificateAttributes::default() } else { attributes };
            let outbound =
                outbound && name.as_ref().is_some_and(|name| IDS.contains(&name.to_string().as_str()));
            (name, attributes, address, workload, port, outbound)
        },
    )
}

/// What the reference says: allowed or not.
fn reference(config: &Config, seen: &Seen) -> bool {
    let (name, attributes, address, workload, port, outbound) = seen;
    let peer =
        Peer { name: name.as_ref(), attributes: Some(attributes), address: Some(address.parse().unwrap()) };
    let workload = config.workload(workload).unwrap();
    let query = Query::to(workload, *port, peer);
    if *outbound {
        let allowed_by_default = workload.allows_outbound_by_default();
        return naive(&config.outbound_policy, &Query { allowed_by_default, ..query }, false).allow;
    }
    if name.is_none() && query.mode == Mode::Strict {
        return false;
    }
    naive(&config.policy, &query, false).allow
}

/// Records it as the datapath does.
fn record(flows: &Flows, compiled: &Compiled, seen: &Seen) {
    let (name, attributes, address, workload, port, outbound) = seen;
    let address: IpAddr = address.parse().unwrap();
    let peer = Peer { name: name.as_ref(), attributes: Some(attributes), address: Some(address) };
    let settings = compiled.config.workload(workload).unwrap();
    let (direction, decision, default) = if *outbound {
        let query = OutboundQuery::from(settings, *port, peer);
        let default = settings.outbound_default_name().to_owned();
        (Direction::Outbound, compiled.policy.decide_outbound(&query), default)
    } else {
        let default = settings.default_name(*port).into_owned();
        (Direction::Inbound, compiled.policy.decide(&Query::to(settings, *port, peer)), default)
    };
    let channel = if name.is_some() { Channel::MutualTls } else { Channel::Plaintext };
    let rule = decision.verdict.rule.unwrap_or(&default);
    let outcome = match decision.verdict.allow {
        true => Outcome::allowed(rule),
        false => Outcome::refused(rule, decision.verdict.refusal_reason()),
    };
    let tuple = Tuple::unproven(direction, workload, *port, address, channel);
    flows.note_at(&Tuple { name: name.as_ref(), attributes, ..tuple }, &outcome, NOON);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn a_replay_changes_what_the_reference_decides_otherwise_and_nothing_else(
        before in (mode(), vec(rule(), 0..6)),
        after in (mode(), vec(rule(), 0..6)),
        connections in vec(seen(), 1..20),
    ) {
        let before = Compiled::new(site(before.0, before.1));
        let after = Compiled::new(site(after.0, after.1));
        let flows = flows(1000);
        connections.iter().for_each(|seen| record(&flows, &before, seen));
        let written = serde_json::to_vec(&flows.record_at(Moment::default(), NOON)).unwrap();
        let kept: Record = serde_json::from_slice(&written).unwrap();

        let same = replay(&kept, &before.ground(), Moment::default());
        prop_assert!(same.changes.is_empty() && same.not_judged.is_empty() && same.holds(), "{:?}", same);

        let other = replay(&kept, &after.ground(), Moment::default());
        let changes: std::collections::BTreeSet<_> = other
            .changes
            .iter()
            .map(|c| (c.direction, c.workload.to_string(), c.port, c.address, c.peer.clone(), c.after.allow))
            .collect();
        // Flows that differ in their attributes only are several here, and maybe one of them changes.
        let wanted: std::collections::BTreeSet<_> = connections
            .iter()
            .filter(|seen| reference(&before.config, seen) != reference(&after.config, seen))
            .map(|seen| {
                let (name, _, address, workload, port, outbound) = seen;
                let direction = if *outbound { Direction::Outbound } else { Direction::Inbound };
                let address: IpAddr = address.parse().unwrap();
                let name = name.as_ref().map(ToString::to_string);
                let allow = reference(&after.config, seen);
                (direction, (*workload).to_owned(), *port, address.to_canonical(), name, allow)
            })
            .collect();
        prop_assert_eq!(changes, wanted);
    }
}
