//! One rule, and all of them, where not everything of the peer is known.

use crate::config::{Action, PeerMatch, PeerTraits, Rule};
use crate::policy::Peer;
use crate::policy::reference::{Miss, misses};

/// Most kinds of peers that one answer goes through, over all rules.
pub const MAX_CLAUSES: usize = 10_000;

/// Whether a rule matches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// It does.
    Yes,
    /// It does not.
    No {
        /// Because of these.
        misses: Vec<Miss>,
        /// These are all: no question was left out for want of an answer.
        all: bool,
    },
    /// It depends on this, which is not known.
    Perhaps(String),
}

/// Asks one rule. What the peer does not say (its attributes, its address) is unknown and not a no.
#[must_use]
pub fn judge(rule: &Rule, peer: &Peer<'_>, workload: &str, port: u16) -> Match {
    let Some(unknown) = unknown_of(rule, peer) else {
        let misses = misses(rule, peer, workload, port);
        return if misses.is_empty() { Match::Yes } else { Match::No { misses, all: true } };
    };
    // Each kind of peer with only those questions that can be answered.
    let mut closest: Option<(Vec<Miss>, bool)> = None;
    let mut perhaps = false;
    for wanted in rule.peers.iter().flatten() {
        let (known, whole) = answerable(wanted, peer);
        let one = Rule { peers: Some(vec![known]), ..bare(rule) };
        let misses = misses(&one, peer, workload, port);
        match (misses.is_empty(), whole) {
            (true, true) => return Match::Yes,
            (true, false) => perhaps = true,
            (false, _) => {
                if closest.as_ref().is_none_or(|(closest, _)| misses.len() < closest.len()) {
                    closest = Some((misses, whole));
                }
            }
        }
    }
    match closest {
        _ if perhaps => Match::Perhaps(unknown),
        Some((misses, all)) => Match::No { misses, all },
        None => Match::Perhaps(unknown),
    }
}

/// The rule without its peers.
fn bare(rule: &Rule) -> Rule {
    Rule {
        name: String::new(),
        action: rule.action,
        dry_run: rule.dry_run,
        local: rule.local.clone(),
        peers: None,
    }
}

/// What the rule asks for that is not known, in words; `None`: everything is known.
fn unknown_of(rule: &Rule, peer: &Peer<'_>) -> Option<String> {
    let traits = || rule.peers.iter().flatten().flat_map(|wanted| [&wanted.is, &wanted.not]);
    let mut unknown: Vec<String> = Vec::new();
    for kind in traits().flat_map(|traits| traits.texts.keys()).filter(|kind| !peer.knows(kind)) {
        let text = kind.to_string();
        if !unknown.contains(&text) {
            unknown.push(text);
        }
    }
    if peer.address.is_none() && traits().any(|traits| !traits.networks.is_empty()) {
        unknown.push("address".to_owned());
    }
    (!unknown.is_empty()).then(|| format!("the peer's {}", unknown.join(", ")))
}

/// A kind of peer without the questions that cannot be answered, and whether that is all of it.
fn answerable(wanted: &PeerMatch, peer: &Peer<'_>) -> (PeerMatch, bool) {
    let mut whole = true;
    let mut keep = |traits: &PeerTraits| {
        let texts = traits.texts.iter().filter(|(kind, _)| peer.knows(kind));
        let networks = if peer.address.is_some() { traits.networks.clone() } else { Default::default() };
        let kept = PeerTraits {
            texts: texts.map(|(kind, texts)| (kind.clone(), texts.clone())).collect(),
            networks,
        };
        whole &= kept.texts.len() == traits.texts.len() && kept.networks.len() == traits.networks.len();
        kept
    };
    let known = PeerMatch { is: keep(&wanted.is), not: keep(&wanted.not) };
    (known, whole)
}

/// The rules that one answer goes through: those that are in force, up to [`MAX_CLAUSES`] kinds of peers.
pub(super) fn bounded(rules: &[Rule]) -> &[Rule] {
    let mut clauses = 0_usize;
    let within = rules.iter().take_while(|rule| {
        clauses = clauses.saturating_add(rule.peers.as_ref().map_or(1, Vec::len).max(1));
        clauses <= MAX_CLAUSES
    });
    let count = within.count();
    rules.get(..count).unwrap_or_default()
}

/// What the rules say of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    /// It may be, by this rule, or by the default.
    Allowed(Option<String>),
    /// It may not be, by this rule, or by the default.
    Denied(Option<String>),
    /// It depends on this, which is not known.
    Unknown(String),
}

/// Deny, then allow, then the default; where something is not known and matters, so is the answer.
#[must_use]
pub fn rule_on(rules: &[Rule], peer: &Peer<'_>, workload: &str, port: u16, default: bool) -> Ruling {
    let seen = bounded(rules);
    let ask = |action| {
        let mut perhaps = None;
        for rule in seen.iter().filter(|rule| rule.action == action && !rule.dry_run) {
            match judge(rule, peer, workload, port) {
                Match::Yes => return Some(Ok(rule.name.clone())),
                Match::Perhaps(what) if perhaps.is_none() => {
                    perhaps = Some(format!("{what} for rule {}", rule.name));
                }
                Match::Perhaps(_) | Match::No { .. } => {}
            }
        }
        perhaps.map(Err)
    };
    let unseen = (seen.len() < rules.len())
        .then(|| format!("what the rules after the first {} of {} say", seen.len(), rules.len()));
    match (ask(Action::Deny), ask(Action::Allow)) {
        (Some(Ok(rule)), _) => Ruling::Denied(Some(rule)),
        (Some(Err(what)), _) => Ruling::Unknown(what),
        (None, _) if unseen.is_some() => Ruling::Unknown(unseen.unwrap_or_default()),
        (None, Some(Ok(rule))) => Ruling::Allowed(Some(rule)),
        (None, _) if default => Ruling::Allowed(None),
        (None, Some(Err(what))) => Ruling::Unknown(what),
        (None, None) => Ruling::Denied(None),
    }
}
