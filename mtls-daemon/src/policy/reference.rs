//! What policy means, said as plainly as possible: rule by rule, question by question.
//!
//! Slow, and therefore not what connections are decided by. It is what the compiled form is tested against, and it
//! explains: [`misses`] says what kept a rule from matching.

use std::fmt;
use std::net::IpAddr;

use super::Peer;
use crate::config::{LocalMatch, PeerMatch, PeerTrait, PeerTraits, Rule};

/// A question of a rule whose answer is no.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// It is for other workloads.
    Workload,
    /// It is for other ports.
    Port,
    /// The peer has no such trait as is wanted.
    Trait(PeerTrait),
    /// The peer has a trait that is excluded.
    Excluded(PeerTrait),
    /// The peer is elsewhere.
    Network,
    /// The peer is in a network that is excluded.
    ExcludedNetwork,
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload => f.write_str("it is for other workloads"),
            Self::Port => f.write_str("it is for other ports"),
            Self::Trait(kind) => write!(f, "the peer's {kind} is not one that it names"),
            Self::Excluded(kind) => write!(f, "the peer's {kind} is one that it excludes"),
            Self::Network => f.write_str("the peer's address is in none of its networks"),
            Self::ExcludedNetwork => f.write_str("the peer's address is in a network that it excludes"),
        }
    }
}

/// What keeps the rule from matching; of its peers the one that comes closest. Empty: it matches.
#[must_use]
pub fn misses(rule: &Rule, peer: &Peer<'_>, workload: &str, port: u16) -> Vec<Miss> {
    let mut misses = local_misses(&rule.local, workload, port);
    let closest = rule.peers.iter().flatten().map(|wanted| peer_misses(wanted, peer)).min_by_key(Vec::len);
    misses.extend(closest.unwrap_or_default());
    misses
}

/// Whether the rule matches.
#[must_use]
pub fn matches(rule: &Rule, peer: &Peer<'_>, workload: &str, port: u16) -> bool {
    misses(rule, peer, workload, port).is_empty()
}

/// Whether the rule is for this workload and port, whoever the peer is.
#[must_use]
pub fn is_for(rule: &Rule, workload: &str, port: u16) -> bool {
    local_misses(&rule.local, workload, port).is_empty()
}

fn local_misses(local: &LocalMatch, workload: &str, port: u16) -> Vec<Miss> {
    let mut misses = Vec::new();
    let named = local.workloads.as_ref().is_none_or(|names| names.contains(workload));
    if !named || local.not_workloads.contains(workload) {
        misses.push(Miss::Workload);
    }
    let listed = local.ports.as_ref().is_none_or(|ports| ports.contains(&port));
    if !listed || local.not_ports.contains(&port) {
        misses.push(Miss::Port);
    }
    misses
}

fn peer_misses(wanted: &PeerMatch, peer: &Peer<'_>) -> Vec<Miss> {
    let address = peer.address.as_ref().map(IpAddr::to_canonical);
    let within = |traits: &PeerTraits| {
        address.is_some_and(|address| traits.networks.iter().any(|network| network.contains(&address)))
    };
    let mut misses = Vec::new();
    for (kind, _) in wanted.is.texts.iter().filter(|(kind, _)| !has(peer, &wanted.is, kind)) {
        misses.push(Miss::Trait(kind.clone()));
    }
    for (kind, _) in wanted.not.texts.iter().filter(|(kind, _)| has(peer, &wanted.not, kind)) {
        misses.push(Miss::Excluded(kind.clone()));
    }
    if !wanted.is.networks.is_empty() && !within(&wanted.is) {
        misses.push(Miss::Network);
    }
    if within(&wanted.not) {
        misses.push(Miss::ExcludedNetwork);
    }
    misses
}

/// Whether the peer has one of the traits of this kind.
fn has(peer: &Peer<'_>, traits: &PeerTraits, kind: &PeerTrait) -> bool {
    let mut has = false;
    peer.each(kind, &mut |value| {
        has |= traits
            .texts
            .get(kind)
            .is_some_and(|patterns| patterns.iter().any(|pattern| pattern.matches(value)));
    });
    has
}
