//! All rules of one direction, taken apart into clauses, and the search among them.
//!
//! A clause is one peer of one rule: a conjunction of questions (which SPIFFE ID, which network, which port). Each question
//! leaves a set of clauses; what is in all of these sets matches. Clauses of one kind stand together, in the order of
//! their rules, so that the first that is found is of the first rule.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Range;

use smallvec::SmallVec;

use super::bits::{Bits, Clause, WORD};
use super::dimension::{Dimension, Selection};
use super::lookup::{Exact, Networks, Texts};
use super::peer::Peer;
use crate::config::{Action, PeerMatch, PeerTrait, Rule, TextPattern};

/// What a clause does when it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Deny,
    DryDeny,
    Allow,
    DryAllow,
    Audit,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Deny, Self::DryDeny, Self::Allow, Self::DryAllow, Self::Audit];

    fn of(rule: &Rule) -> Self {
        match (rule.action, rule.dry_run) {
            (Action::Deny, false) => Self::Deny,
            (Action::Deny, true) => Self::DryDeny,
            (Action::Allow, false) => Self::Allow,
            (Action::Allow, true) => Self::DryAllow,
            (Action::Audit, _) => Self::Audit,
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Index {
    /// The rule's number, by clause; where kinds meet there are clauses without a rule.
    rules: Vec<Option<u32>>,
    /// Words of each kind.
    kinds: [Range<u32>; Kind::ALL.len()],
    all: Bits,
    texts: Vec<(PeerTrait, Dimension<Texts>)>,
    networks: Dimension<Networks>,
    workloads: Dimension<Exact<String, str>>,
    ports: Dimension<Exact<u16>>,
}

impl Index {
    pub fn new(rules: &[Rule]) -> Self {
        let asked: BTreeSet<&PeerTrait> = rules
            .iter()
            .flat_map(|rule| rule.peers.iter().flatten())
            .flat_map(|peer| peer.is.texts.keys().chain(peer.not.texts.keys()))
            .collect();
        let texts = asked.into_iter().map(|kind| (kind.clone(), Dimension::default())).collect();
        let mut index = Self { texts, ..Self::default() };
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            let start = index.word();
            for (number, rule) in (0..).zip(rules).filter(|(_, rule)| Kind::of(rule) == kind) {
                match &rule.peers {
                    None => index.add(number, rule, &PeerMatch::default()),
                    Some(peers) => peers.iter().for_each(|peer| index.add(number, rule, peer)),
                }
            }
            while !index.rules.len().is_multiple_of(WORD as usize) {
                index.rules.push(None);
            }
            let end = index.word();
            if let Some(range) = index.kinds.get_mut(place) {
                *range = start..end;
            }
        }
        index.texts.iter_mut().for_each(|(_, dimension)| dimension.finish());
        index.networks.finish();
        index.workloads.finish();
        index.ports.finish();
        index
    }

    /// The word that begins with the next clause.
    fn word(&self) -> u32 {
        self.clause() / WORD
    }

    fn clause(&self) -> Clause {
        // Bounded by config::check to a million.
        u32::try_from(self.rules.len()).unwrap_or(u32::MAX)
    }

    fn add(&mut self, number: u32, rule: &Rule, peer: &PeerMatch) {
        let clause = self.clause();
        self.rules.push(Some(number));
        self.all.push(clause);
        for (kind, dimension) in &mut self.texts {
            dimension.add(clause, peer.is.texts.get(kind), excluded(&peer.not.texts, kind));
        }
        let networks = (!peer.is.networks.is_empty()).then_some(&peer.is.networks);
        self.networks.add(clause, networks, &peer.not.networks);
        let local = &rule.local;
        self.workloads.add(clause, local.workloads.as_ref(), &local.not_workloads);
        self.ports.add(clause, local.ports.as_ref(), &local.not_ports);
    }

    /// What the connection matches for sure.
    pub fn search<'a>(&'a self, peer: &Peer<'_>, workload: &str, port: u16) -> Search<'a> {
        self.selected(peer, workload, port, false)
    }

    /// As [`Self::search`], and what it may match, depending on what is not known yet.
    pub fn search_possible<'a>(&'a self, peer: &Peer<'_>, workload: &str, port: u16) -> Search<'a> {
        self.selected(peer, workload, port, true)
    }

    fn selected<'a>(&'a self, peer: &Peer<'_>, workload: &str, port: u16, possible: bool) -> Search<'a> {
        let mut selections: Selections<'a> = SmallVec::new();
        selections.push(Selection::from(&self.all));
        if self.workloads.is_asked() {
            selections.push(self.workloads.select(|value| value(workload)));
        }
        if self.ports.is_asked() {
            selections.push(self.ports.select(|value| value(&port)));
        }
        for (kind, dimension) in &self.texts {
            if peer.knows(kind) {
                selections.push(dimension.select(|value| peer.each(kind, value)));
            } else if !possible {
                selections.push(dimension.certain());
            }
        }
        if self.networks.is_asked() {
            match peer.address.as_ref().map(IpAddr::to_canonical) {
                Some(address) => selections.push(self.networks.select(|value| value(&address))),
                None if possible => {}
                None => selections.push(self.networks.certain()),
            }
        }
        Search { index: self, selections }
    }
}

fn excluded<'a>(
    not: &'a BTreeMap<PeerTrait, BTreeSet<TextPattern>>,
    kind: &PeerTrait,
) -> impl Iterator<Item = &'a TextPattern> {
    not.get(kind).into_iter().flatten()
}

type Selections<'a> = SmallVec<[Selection<'a>; 6]>;

/// The clauses that a connection matches.
pub(super) struct Search<'a> {
    index: &'a Index,
    selections: Selections<'a>,
}

impl Search<'_> {
    /// The first rule of a kind.
    pub fn first(&self, kind: Kind) -> Option<u32> {
        let mut first = None;
        self.each(kind, |rule| {
            first = Some(rule);
            false
        });
        first
    }

    /// Each rule of a kind, in order, until `more` says no. A rule with several clauses may come several times.
    pub fn each(&self, kind: Kind, mut more: impl FnMut(u32) -> bool) {
        let Some(words) = self.index.kinds.get(kind as usize) else { return };
        if words.is_empty() {
            return;
        }
        for block in words.start / WORD..=(words.end - 1) / WORD {
            let begin = block * WORD;
            let within = |summary: u64| {
                summary & between(words.start.max(begin) - begin, words.end.min(begin + WORD) - begin)
            };
            let mut summary = within(self.selections.iter().fold(u64::MAX, |all, s| all & s.summary(block)));
            while summary != 0 {
                let word = begin + summary.trailing_zeros();
                summary &= summary - 1;
                let mut found = self
                    .selections
                    .iter()
                    .fold(u64::MAX, |all, s| if all == 0 { 0 } else { all & s.word(word) });
                while found != 0 {
                    let clause = word * WORD + found.trailing_zeros();
                    found &= found - 1;
                    let rule = usize::try_from(clause).ok().and_then(|clause| self.index.rules.get(clause));
                    if let Some(rule) = rule.copied().flatten()
                        && !more(rule)
                    {
                        return;
                    }
                }
            }
        }
    }
}

/// Bits from `start` to before `end`, at most 64.
fn between(start: u32, end: u32) -> u64 {
    let below = |n: u32| 1_u64.checked_shl(n).map_or(u64::MAX, |bit| bit - 1);
    below(end) & !below(start)
}
