//! From (peer, workload, port) to the first rule of each kind, by hash lookups alone.
//!
//! A peer is turned into the few keys under which rules may know it (its ID, the paths above it, its trust domain,
//! anyone), the workload into two (itself, any), the port into two. Each combination has at most one answer.

use std::collections::HashMap;
use std::hash::Hash;

use crate::config::{Rule, SpiffeIdPrefix};
use crate::identity::{SpiffeId, TrustDomain};

/// The first rule of each kind, by its place in the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Best {
    pub deny: Option<u32>,
    pub allow: Option<u32>,
}

impl Best {
    fn merge(&mut self, other: Self) {
        let first = |a: Option<u32>, b: Option<u32>| a.into_iter().chain(b).min();
        self.deny = first(self.deny, other.deny);
        self.allow = first(self.allow, other.allow);
    }
}

/// Peers that a rule may name; a small number stands for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct PeerKey(u32);

const ANYONE: PeerKey = PeerKey(0);

/// `None`: any.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    peer: PeerKey,
    workload: Option<u32>,
    port: Option<u16>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    rules: HashMap<Key, Best>,
    workloads: HashMap<String, u32>,
    peers: u32,
    ids: HashMap<SpiffeId, PeerKey>,
    trust_domains: HashMap<TrustDomain, PeerKey>,
    /// Roots of the prefixes by trust domain, then by segment: walking down costs the length of the ID, once.
    prefixes: HashMap<TrustDomain, Segment>,
}

#[derive(Clone, Debug, Default)]
struct Segment {
    key: Option<PeerKey>,
    below: HashMap<String, Segment>,
}

impl Index {
    pub fn add(&mut self, rule: &Rule, best: Best) {
        let peers = self.peer_keys(rule);
        let workloads: Vec<Option<u32>> = match &rule.to.workloads {
            None => vec![None],
            Some(names) => names.iter().map(|name| Some(self.workload_key(name))).collect(),
        };
        let ports: Vec<Option<u16>> = match &rule.to.ports {
            None => vec![None],
            Some(ports) => ports.iter().copied().map(Some).collect(),
        };
        for &peer in &peers {
            for &workload in &workloads {
                for &port in &ports {
                    self.rules.entry(Key { peer, workload, port }).or_default().merge(best);
                }
            }
        }
    }

    /// The first rules that match. `None`: a peer without a SPIFFE ID, whom only rules without `from` match.
    pub fn best(&self, peer: Option<&SpiffeId>, workload: &str, port: u16) -> Best {
        let mut best = Best::default();
        let workload = self.workloads.get(workload).copied();
        let mut visit = |peer: PeerKey| {
            let own = workload.map(Some);
            for workload in own.into_iter().chain([None]) {
                for port in [Some(port), None] {
                    if let Some(found) = self.rules.get(&Key { peer, workload, port }) {
                        best.merge(*found);
                    }
                }
            }
        };
        visit(ANYONE);
        if let Some(id) = peer {
            self.ids.get(id).copied().into_iter().for_each(&mut visit);
            self.trust_domains.get(id.trust_domain()).copied().into_iter().for_each(&mut visit);
            self.prefixes_of(id, visit);
        }
        best
    }

    fn prefixes_of(&self, id: &SpiffeId, mut visit: impl FnMut(PeerKey)) {
        let Some(mut segment) = self.prefixes.get(id.trust_domain()) else { return };
        for name in segments(id) {
            // A prefix ends with '/': there must be something below it, and `name` is.
            segment.key.into_iter().for_each(&mut visit);
            match segment.below.get(name) {
                Some(below) => segment = below,
                None => return,
            }
        }
    }

    fn peer_keys(&mut self, rule: &Rule) -> Vec<PeerKey> {
        let Some(from) = &rule.from else { return vec![ANYONE] };
        let mut keys = Vec::new();
        for id in &from.spiffe_ids {
            keys.push(number(&mut self.ids, id, &mut self.peers));
        }
        for domain in &from.trust_domains {
            keys.push(number(&mut self.trust_domains, domain, &mut self.peers));
        }
        for prefix in &from.spiffe_id_prefixes {
            keys.push(self.prefix_key(prefix));
        }
        keys
    }

    fn prefix_key(&mut self, prefix: &SpiffeIdPrefix) -> PeerKey {
        let parent = prefix.parent();
        let root = self.prefixes.entry(parent.trust_domain().clone()).or_default();
        let last =
            segments(parent).fold(root, |segment, name| segment.below.entry(name.to_owned()).or_default());
        *last.key.get_or_insert_with(|| next(&mut self.peers))
    }

    fn workload_key(&mut self, name: &str) -> u32 {
        // Bounded by config::check to a million, so that the count never saturates.
        let count = u32::try_from(self.workloads.len()).unwrap_or(u32::MAX);
        *self.workloads.entry(name.to_owned()).or_insert(count)
    }
}

/// The segments of the path, none for the ID of the trust domain itself.
fn segments(id: &SpiffeId) -> impl Iterator<Item = &str> {
    id.path().split('/').skip(1)
}

fn number<T: Eq + Hash + Clone>(known: &mut HashMap<T, PeerKey>, value: &T, peers: &mut u32) -> PeerKey {
    match known.get(value) {
        Some(key) => *key,
        None => {
            let key = next(peers);
            known.insert(value.clone(), key);
            key
        }
    }
}

/// The next number after [`ANYONE`].
fn next(peers: &mut u32) -> PeerKey {
    *peers = peers.saturating_add(1);
    PeerKey(*peers)
}
