//! Random rules, and what says the same.

use std::collections::BTreeSet;

use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::super::*;
use super::generate::{given, some_ports, strings, word};

fn local() -> impl Strategy<Value = LocalMatch> {
    let names = || option::of(btree_set("[a-z]{1,8}", 1..3));
    (names(), names(), option::of(some_ports()), option::of(some_ports())).prop_map(
        |(workloads, not_workloads, ports, not_ports)| LocalMatch {
            workloads,
            not_workloads: not_workloads.unwrap_or_default(),
            ports,
            not_ports: not_ports.unwrap_or_default(),
        },
    )
}

fn one_trait() -> impl Strategy<Value = (PeerTrait, TextPattern)> {
    let pattern = |texts: &'static str| texts.prop_map(|text: String| text.parse::<TextPattern>().unwrap());
    let free = select(vec![
        PeerTrait::Namespace,
        PeerTrait::Organization,
        PeerTrait::OrganizationalUnit,
        PeerTrait::Extension("1.2.3".parse().unwrap()),
        PeerTrait::Extension("1.2.4".parse().unwrap()),
    ]);
    prop_oneof![
        "[a-z]{1,5}"
            .prop_map(|id| (PeerTrait::SpiffeId, TextPattern::Exact(format!("spiffe://own/{id}").into()))),
        "[a-z]{1,5}"
            .prop_map(|id| (PeerTrait::SpiffeId, TextPattern::Prefix(format!("spiffe://own/{id}/").into()))),
        "[a-z]{1,5}".prop_map(|domain| (PeerTrait::TrustDomain, TextPattern::Exact(domain.into()))),
        pattern("[a-z]{1,3}/[a-z]{1,3}").prop_map(|pattern| (PeerTrait::ServiceAccount, pattern)),
        (free, pattern(r"[*]?[a-zA-Zé ,:]{1,6}|[a-z]{1,3}[*]|[*]")),
    ]
}

fn traits(least: usize) -> impl Strategy<Value = PeerTraits> {
    let network = (any::<[u8; 4]>(), 0..=32_u8)
        .prop_map(|(address, length)| ipnet::IpNet::new(address.into(), length).unwrap().trunc());
    (vec(one_trait(), least..4), btree_set(network, 0..3)).prop_map(|(list, networks)| {
        let mut traits = PeerTraits { networks, ..PeerTraits::default() };
        for (kind, pattern) in list {
            traits.texts.entry(kind).or_default().insert(pattern);
        }
        traits
    })
}

pub(super) fn rule(name: String) -> impl Strategy<Value = Rule> {
    let action = select(vec![Action::Allow, Action::Deny, Action::Audit]);
    let peer = (traits(1), traits(0)).prop_map(|(is, not)| PeerMatch { is, not });
    (action, any::<bool>(), local(), option::of(vec(peer, 1..3))).prop_map(
        move |(action, dry, local, peers)| Rule {
            name: name.clone(),
            action,
            dry_run: dry && action != Action::Audit,
            local,
            peers,
        },
    )
}

/// `local` and `peers`: the keys under which those stand.
pub(super) fn document(rule: &Rule, local: &str, peers: &str) -> Value {
    let mut document =
        json!({ "name": rule.name, "action": word(rule.action), local: local_document(&rule.local) });
    if rule.dry_run {
        document["dry_run"] = json!(true);
    }
    if let Some(list) = &rule.peers {
        document[peers] = list
            .iter()
            .map(|peer| {
                let mut document = traits_document(&peer.is);
                if !peer.not.is_empty() {
                    document["not"] = traits_document(&peer.not);
                }
                document
            })
            .collect();
    }
    document
}

fn local_document(local: &LocalMatch) -> Value {
    let not = given(json!({
        "workloads": (!local.not_workloads.is_empty()).then_some(&local.not_workloads),
        "ports": (!local.not_ports.is_empty()).then_some(&local.not_ports),
    }));
    let not = (not != json!({})).then_some(not);
    given(json!({ "workloads": local.workloads, "ports": local.ports, "not": not }))
}

fn traits_document(traits: &PeerTraits) -> Value {
    let of = |kind: &PeerTrait| traits.texts.get(kind);
    let list = |kind: PeerTrait| of(&kind).map(strings);
    let ids = |prefixes: bool| {
        let ids = of(&PeerTrait::SpiffeId).into_iter().flatten();
        let wanted: Vec<&str> = ids
            .filter_map(|pattern| match pattern {
                TextPattern::Exact(text) if !prefixes => Some(&**text),
                TextPattern::Prefix(text) if prefixes => Some(&**text),
                _ => None,
            })
            .collect();
        (!wanted.is_empty()).then_some(wanted)
    };
    let extension = |(kind, patterns): (&PeerTrait, &BTreeSet<TextPattern>)| match kind {
        PeerTrait::Extension(oid) => Some(json!({ "oid": oid.as_str(), "values": strings(patterns) })),
        _ => None,
    };
    let extensions: Vec<Value> = traits.texts.iter().filter_map(extension).collect();
    given(json!({
        "spiffe_ids": ids(false),
        "spiffe_id_prefixes": ids(true),
        "trust_domains": list(PeerTrait::TrustDomain),
        "namespaces": list(PeerTrait::Namespace),
        "service_accounts": list(PeerTrait::ServiceAccount),
        "organizations": list(PeerTrait::Organization),
        "organizational_units": list(PeerTrait::OrganizationalUnit),
        "extensions": (!extensions.is_empty()).then_some(extensions),
        "cidrs": (!traits.networks.is_empty()).then(|| strings(&traits.networks)),
    }))
}
