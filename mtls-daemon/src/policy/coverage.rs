//! Whether a rule matches all that another one does, and whether it can match anything.
//!
//! Both answers are certain where they are yes; where patterns make it hard to say, they are no.

use std::collections::BTreeSet;
use std::hash::Hash;

use ipnet::IpNet;

use crate::config::{LocalMatch, PeerMatch, PeerTrait, PeerTraits, Rule, TextPattern};
use crate::identity::SpiffeId;

/// Every connection that `inner` matches is matched by `outer`.
#[must_use]
pub fn covers(outer: &Rule, inner: &Rule) -> bool {
    local_covers(&outer.local, &inner.local)
        && match (&outer.peers, &inner.peers) {
            (None, _) => true,
            (Some(outer), None) => outer.iter().any(|outer| peer_covers(outer, &PeerMatch::default())),
            (Some(outer), Some(inner)) => {
                inner.iter().all(|inner| outer.iter().any(|outer| peer_covers(outer, inner)))
            }
        }
}

/// Why a rule can match no connection at all, as far as it is plain from itself.
#[must_use]
pub fn matches_nothing(rule: &Rule) -> Option<&'static str> {
    let local = &rule.local;
    if effective(local.workloads.as_ref(), &local.not_workloads).is_some_and(|left| left.is_empty()) {
        return Some("it is for no workload of this node");
    }
    if effective(local.ports.as_ref(), &local.not_ports).is_some_and(|left| left.is_empty()) {
        return Some("its ports are all excluded");
    }
    let peers = rule.peers.as_ref()?;
    peers.iter().all(is_impossible).then_some("no peer can have all that it asks for")
}

fn local_covers(outer: &LocalMatch, inner: &LocalMatch) -> bool {
    part_covers(
        (outer.workloads.as_ref(), &outer.not_workloads),
        (inner.workloads.as_ref(), &inner.not_workloads),
    ) && part_covers((outer.ports.as_ref(), &outer.not_ports), (inner.ports.as_ref(), &inner.not_ports))
}

/// Values that are wanted, `None` for any, and that are not.
type Part<'a, T> = (Option<&'a BTreeSet<T>>, &'a BTreeSet<T>);

fn part_covers<T: Ord + Hash + Clone>(outer: Part<'_, T>, inner: Part<'_, T>) -> bool {
    match (effective(outer.0, outer.1), effective(inner.0, inner.1)) {
        (Some(outer), Some(inner)) => inner.is_subset(&outer),
        (Some(_), None) => false,
        (None, Some(inner)) => inner.is_disjoint(outer.1),
        (None, None) => outer.1.is_subset(inner.1),
    }
}

fn effective<T: Ord + Clone>(wanted: Option<&BTreeSet<T>>, not: &BTreeSet<T>) -> Option<BTreeSet<T>> {
    wanted.map(|wanted| wanted.difference(not).cloned().collect())
}

fn peer_covers(outer: &PeerMatch, inner: &PeerMatch) -> bool {
    let wanted = outer.is.texts.iter().all(|(kind, patterns)| {
        values(&inner.is, kind).is_some_and(|values| {
            values.iter().all(|value| patterns.iter().any(|pattern| pattern_covers(pattern, value)))
        })
    });
    let near = outer.is.networks.is_empty()
        || (!inner.is.networks.is_empty()
            && inner.is.networks.iter().all(|network| within(network, &outer.is.networks)));
    let not = outer
        .not
        .texts
        .iter()
        .all(|(kind, patterns)| patterns.iter().all(|pattern| never_has(inner, kind, pattern)));
    let not_near = outer.not.networks.iter().all(|network| {
        within(network, &inner.not.networks)
            || (!inner.is.networks.is_empty() && inner.is.networks.iter().all(|own| apart(own, network)))
    });
    wanted && near && not && not_near
}

/// What a peer with these traits has of a kind: one of these; `None`: anything, or nothing.
fn values(traits: &PeerTraits, kind: &PeerTrait) -> Option<BTreeSet<TextPattern>> {
    if let Some(patterns) = traits.texts.get(kind) {
        return Some(patterns.clone());
    }
    // Whole IDs say the rest.
    let ids = traits.texts.get(&PeerTrait::SpiffeId)?;
    ids.iter().map(|pattern| implied(pattern, kind)).collect()
}

fn implied(id: &TextPattern, kind: &PeerTrait) -> Option<TextPattern> {
    let exact = |text: &str| Some(TextPattern::Exact(text.into()));
    match (id, kind) {
        (TextPattern::Exact(text), kind) => {
            let id: SpiffeId = text.parse().ok()?;
            match kind {
                PeerTrait::TrustDomain => exact(id.trust_domain().as_str()),
                PeerTrait::Namespace => exact(id.service_account()?.0),
                PeerTrait::ServiceAccount => {
                    id.service_account().and_then(|(namespace, name)| exact(&format!("{namespace}/{name}")))
                }
                _ => None,
            }
        }
        (TextPattern::Prefix(text), PeerTrait::TrustDomain) => {
            text.strip_prefix("spiffe://")?.split_once('/').and_then(|(domain, _)| exact(domain))
        }
        _ => None,
    }
}

/// No peer that `peer` matches has something of this kind that the pattern matches.
fn never_has(peer: &PeerMatch, kind: &PeerTrait, pattern: &TextPattern) -> bool {
    let excluded = peer.not.texts.get(kind).into_iter().flatten().any(|own| pattern_covers(own, pattern));
    // Of these a peer has one at most; of the others it may have a second one.
    let single = matches!(
        kind,
        PeerTrait::SpiffeId | PeerTrait::TrustDomain | PeerTrait::Namespace | PeerTrait::ServiceAccount
    );
    excluded
        || (single
            && values(&peer.is, kind)
                .is_some_and(|values| values.iter().all(|value| disjoint(value, pattern))))
}

/// No peer at all.
fn is_impossible(peer: &PeerMatch) -> bool {
    let excluded = peer.not.texts.iter().any(|(kind, excluded)| {
        values(&peer.is, kind).is_some_and(|values| {
            values.iter().all(|value| excluded.iter().any(|pattern| pattern_covers(pattern, value)))
        })
    });
    let networks = !peer.is.networks.is_empty()
        && peer.is.networks.iter().all(|network| within(network, &peer.not.networks));
    excluded || networks || ids_contradict(&peer.is) || namespaces_contradict(&peer.is)
}

/// `spiffe_ids: [spiffe://a/x]` with `trust_domains: [b]`, and the like.
fn ids_contradict(traits: &PeerTraits) -> bool {
    let Some(ids) = traits.texts.get(&PeerTrait::SpiffeId) else { return false };
    [PeerTrait::TrustDomain, PeerTrait::Namespace, PeerTrait::ServiceAccount].iter().any(|kind| {
        let Some(wanted) = traits.texts.get(kind) else { return false };
        ids.iter().all(|id| {
            implied(id, kind).is_some_and(|value| wanted.iter().all(|pattern| disjoint(&value, pattern)))
        })
    })
}

/// `namespaces: [a]` with `service_accounts: [b/x]`.
fn namespaces_contradict(traits: &PeerTraits) -> bool {
    let of = |kind| traits.texts.get(&kind);
    let (Some(namespaces), Some(accounts)) = (of(PeerTrait::Namespace), of(PeerTrait::ServiceAccount)) else {
        return false;
    };
    accounts.iter().all(|account| match account {
        TextPattern::Exact(text) | TextPattern::Prefix(text) => text
            .split_once('/')
            .is_some_and(|(namespace, _)| !namespaces.iter().any(|pattern| pattern.matches(namespace))),
        TextPattern::Suffix(_) | TextPattern::Present => false,
    })
}

fn pattern_covers(outer: &TextPattern, inner: &TextPattern) -> bool {
    match (outer, inner) {
        (TextPattern::Present, _) => true,
        (outer, TextPattern::Exact(text)) => outer.matches(text),
        (TextPattern::Prefix(outer), TextPattern::Prefix(inner)) => inner.starts_with(&**outer),
        (TextPattern::Suffix(outer), TextPattern::Suffix(inner)) => inner.ends_with(&**outer),
        _ => false,
    }
}

fn disjoint(one: &TextPattern, other: &TextPattern) -> bool {
    match (one, other) {
        (TextPattern::Exact(text), pattern) | (pattern, TextPattern::Exact(text)) => !pattern.matches(text),
        (TextPattern::Prefix(a), TextPattern::Prefix(b)) => !a.starts_with(&**b) && !b.starts_with(&**a),
        (TextPattern::Suffix(a), TextPattern::Suffix(b)) => !a.ends_with(&**b) && !b.ends_with(&**a),
        _ => false,
    }
}

fn within(network: &IpNet, some: &BTreeSet<IpNet>) -> bool {
    some.iter().any(|outer| outer.contains(network))
}

fn apart(one: &IpNet, other: &IpNet) -> bool {
    !one.contains(other) && !other.contains(one)
}
