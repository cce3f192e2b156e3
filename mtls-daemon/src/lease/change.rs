//! Which connections a new snapshot may concern.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::parties::{Cover, Mark};
use crate::config::{Action, PeerMatch, PeerTrait, Rule, TextPattern, Workload};
use crate::identity::revocation::Sha256;
use crate::observe::connection::Direction;
use crate::snapshot::{Snapshot, WorkloadState};

/// What leads to every connection that the old snapshot lets be and the new one does not.
///
/// A connection is held by the rule that it is marked with, or by the default of its workload; so it can only be over if
/// that rule is another one now, the default or the mode is, a deny rule is new, or its root is gone. Those that
/// are overdue are always among them: they may be no longer.
#[must_use]
pub fn between<'a>(old: &'a Snapshot, new: &'a Snapshot) -> Vec<Cover<'a>> {
    let mut covers = vec![Cover::from(Mark::Overdue)];
    if !Arc::ptr_eq(&old.config, &new.config) {
        for (direction, was, is) in [
            (Direction::Inbound, &old.config.policy, &new.config.policy),
            (Direction::Outbound, &old.config.outbound_policy, &new.config.outbound_policy),
        ] {
            covers.extend(other_than(was, is, Action::Allow).map(|rule| Cover::from(Mark::Rule(&rule.name))));
            covers.extend(other_than(is, was, Action::Deny).map(|rule| denied(new, direction, rule)));
        }
    }
    let mut roots = BTreeSet::new();
    for state in new.workloads.values() {
        let Some(before) = old.workloads.get(&state.number) else { continue };
        covers.extend(defaults(&before.settings, &state.settings));
        match (&before.identity, &state.identity) {
            (Ok(_), Ok(_)) => roots.extend(removed_roots(before, state)),
            // Nothing could be asked of the snapshots in between.
            (Err(_), Ok(_)) => covers.push(Mark::Workload(&state.settings.name).into()),
            (_, Err(_)) => {}
        }
    }
    covers.extend(roots.into_iter().map(|root| Cover(vec![vec![Mark::Key(root), Mark::RenewedRoot(root)]])));
    covers
}

/// The rules of this action that are in force and are not so among the others.
fn other_than<'a>(rules: &'a [Rule], others: &[Rule], action: Action) -> impl Iterator<Item = &'a Rule> {
    let others: HashMap<&str, &Rule> = others.iter().map(|rule| (rule.name.as_str(), rule)).collect();
    let in_force = rules.iter().filter(move |rule| rule.action == action && !rule.dry_run);
    let other: Vec<_> = in_force.filter(|rule| others.get(rule.name.as_str()) != Some(rule)).collect();
    other.into_iter()
}

/// The ways to all that a deny rule may match.
fn denied<'a>(snapshot: &'a Snapshot, direction: Direction, rule: &'a Rule) -> Cover<'a> {
    let every = || snapshot.workloads.values().map(|state| state.settings.name.as_str()).collect();
    let workloads: Vec<&str> = match &rule.local.workloads {
        Some(names) => names.iter().map(String::as_str).collect(),
        None => every(),
    };
    let marks = match &rule.local.ports {
        Some(ports) if direction == Direction::Inbound => {
            workloads.iter().flat_map(|name| ports.iter().map(|port| Mark::Port(name, *port))).collect()
        }
        _ => workloads.into_iter().map(Mark::Workload).collect(),
    };
    let peers = rule.peers.as_deref().and_then(|peers| {
        let marks: Option<Vec<Vec<_>>> = peers.iter().map(peer_marks).collect();
        Some(marks?.concat())
    });
    Cover(peers.into_iter().chain([marks]).collect())
}

/// `None`: what the peer is cannot be looked up.
fn peer_marks(wanted: &PeerMatch) -> Option<Vec<Mark<'_>>> {
    let exact = |kind: &PeerTrait| {
        let patterns = wanted.is.texts.get(kind)?;
        patterns
            .iter()
            .map(|pattern| match pattern {
                TextPattern::Exact(text) => Some(&**text),
                _ => None,
            })
            .collect::<Option<Vec<&str>>>()
    };
    let ids = exact(&PeerTrait::SpiffeId).map(|ids| ids.into_iter().map(Mark::Id).collect());
    ids.or_else(|| Some(exact(&PeerTrait::TrustDomain)?.into_iter().map(Mark::TrustDomain).collect()))
}

/// What leads to connections that another default or mode may concern.
fn defaults<'a>(old: &Workload, new: &'a Workload) -> Vec<Cover<'a>> {
    let name = new.name.as_str();
    let of = |w: &Workload| (w.mode, w.policy_default, w.outbound_default);
    if of(old) != of(new) {
        return vec![Mark::Workload(name).into()];
    }
    let ports: BTreeSet<u16> = old.ports.keys().chain(new.ports.keys()).copied().collect();
    let changed = ports.into_iter().filter(|port| old.mode_of_port(*port) != new.mode_of_port(*port));
    changed.map(|port| Mark::Port(name, port).into()).collect()
}

/// The keys of roots that a workload trusted for some trust domain and does not any more.
fn removed_roots<'a>(old: &'a WorkloadState, new: &WorkloadState) -> Vec<&'a Sha256> {
    let (Ok(old), Ok(new)) = (&old.identity, &new.identity) else { return Vec::new() };
    if old.bundles == new.bundles {
        return Vec::new();
    }
    let mut removed = Vec::new();
    for (domain, bundle) in old.bundles.iter() {
        let left = new.bundles.get(domain).map(|bundle| bundle.roots()).unwrap_or_default();
        let is_gone = |key: &&Sha256| !left.iter().any(|root| root.key() == *key);
        removed.extend(bundle.roots().iter().map(|root| root.key()).filter(is_gone));
    }
    removed
}
