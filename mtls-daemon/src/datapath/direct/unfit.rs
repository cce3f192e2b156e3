//! For whom `direct` proved unfit, so that a relay carries their connections for a time.
//!
//! Asked before each connection of a workload with `direct: auto`. What the caller has to know of time it says itself,
//! so that nothing here depends on a clock.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mtls_direct::Reason;

use crate::config::{DirectChoice, UnfitSettings};

/// The other half of a [`Pair`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// The workload connects to this destination.
    Outbound(SocketAddr),
    /// The workload's own port takes connections.
    Inbound(u16),
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Outbound(to) => write!(f, "to {to}"),
            Self::Inbound(port) => write!(f, "to its port {port}"),
        }
    }
}

/// What is remembered together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Pair {
    /// Name of the workload of this node.
    pub workload: Arc<str>,
    /// Its destination, or its port.
    pub side: Side,
}

/// Why a pair is left to a relay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// What happened last.
    pub reason: Reason,
    /// How many attempts in a row failed, at least 1.
    pub failures: u32,
    /// Until `direct` is tried again; more than zero.
    pub left: Duration,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { reason, failures, left } = self;
        write!(f, "{reason} (failures in a row: {failures}; tried again in {} s)", left.as_secs().max(1))
    }
}

/// The memory: at most [`UnfitSettings::entries`] pairs.
#[derive(Debug)]
pub struct Memory {
    settings: UnfitSettings,
    known: HashMap<Pair, Entry>,
    /// By when they were used last, oldest first; has exactly the pairs of `known`.
    order: BTreeMap<u64, Pair>,
    uses: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    reason: Reason,
    failures: u32,
    /// When the last counted failure was.
    since: Instant,
    /// For how long from then on a relay is used.
    span: Duration,
    used: u64,
}

impl Entry {
    fn left(&self, now: Instant) -> Duration {
        self.span.saturating_sub(now.saturating_duration_since(self.since))
    }

    /// Of an application that ended early once, nothing follows; when the next connection ends so, too, it is its way.
    fn is_doubt(&self) -> bool {
        self.reason == Reason::NotEstablished && self.failures == 1
    }

    fn unfit(&self, now: Instant) -> Option<Unfit> {
        if self.is_doubt() {
            return None;
        }
        let left = self.left(now);
        (!left.is_zero()).then_some(Unfit { reason: self.reason, failures: self.failures, left })
    }
}

/// Connections of an application that was killed end together.
const TOGETHER: Duration = Duration::from_secs(1);

impl Memory {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(settings: UnfitSettings) -> Self {
        Self { settings, known: HashMap::new(), order: BTreeMap::new(), uses: 0 }
    }

    /// Other settings, after a reload: they count for what fails from now on; what has no room any more is forgotten.
    pub fn configure(&mut self, settings: UnfitSettings) {
        self.settings = settings;
        self.make_room();
    }

    /// Why a connection of this pair is to go by a relay; `None`: nothing speaks against `direct`.
    /// With [`DirectChoice::Require`] nothing ever does: a relay is not allowed, and a failure is the application's to see.
    pub fn why_not(&mut self, choice: DirectChoice, pair: &Pair, now: Instant) -> Option<Unfit> {
        if choice == DirectChoice::Require {
            return None;
        }
        let used = self.next_use();
        let entry = self.known.get_mut(pair)?;
        let before = std::mem::replace(&mut entry.used, used);
        let answer = entry.unfit(now);
        if let Some(pair) = self.order.remove(&before) {
            self.order.insert(used, pair);
        }
        answer
    }

    /// Notes an attempt that failed. A reason that says nothing of the next attempt is not remembered
    /// ([`Reason::speaks_against_direct`]), and attempts that began before the first of them had failed count as one.
    /// Whether a relay carries the pair from now on.
    pub fn failed(&mut self, pair: Pair, reason: Reason, now: Instant) -> bool {
        if !reason.speaks_against_direct() {
            return false;
        }
        let UnfitSettings { retry, retry_limit, .. } = self.settings;
        let used = self.next_use();
        let mut entry = Entry { reason, failures: 1, since: now, span: retry, used };
        if entry.is_doubt() {
            entry.span = TOGETHER;
        }
        if let Some(before) = self.known.get(&pair) {
            self.order.remove(&before.used);
            let age = now.saturating_duration_since(before.since);
            if !before.left(now).is_zero() {
                // A doubt stays one; what is worse than a doubt counts from now.
                if !before.is_doubt() || entry.is_doubt() {
                    let reason = if entry.is_doubt() { before.reason } else { reason };
                    entry = Entry { reason, used, ..*before };
                }
            } else if age < before.span.saturating_add(retry_limit) {
                entry.failures = before.failures.saturating_add(1);
                entry.span = before.span.saturating_mul(2).max(retry).min(retry_limit);
            }
        }
        self.order.insert(used, pair.clone());
        self.known.insert(pair, entry);
        self.make_room();
        entry.unfit(now).is_some()
    }

    /// Forgets a pair, since a connection of it became direct.
    pub fn succeeded(&mut self, pair: &Pair) {
        if let Some(entry) = self.known.remove(pair) {
            self.order.remove(&entry.used);
        }
    }

    /// The pairs that a relay carries now, in order, for `mtlsd status` and `mtlsd explain`.
    #[must_use]
    pub fn list(&self, now: Instant) -> Vec<(Pair, Unfit)> {
        let unfit = |(pair, entry): (&Pair, &Entry)| Some((pair.clone(), entry.unfit(now)?));
        let mut list: Vec<_> = self.known.iter().filter_map(unfit).collect();
        list.sort_by(|(one, _), (other, _)| one.cmp(other));
        list
    }

    fn next_use(&mut self) -> u64 {
        self.uses = self.uses.wrapping_add(1);
        self.uses
    }

    fn make_room(&mut self) {
        let most = usize::try_from(self.settings.entries).unwrap_or(usize::MAX);
        while self.known.len() > most
            && let Some((_, pair)) = self.order.pop_first()
        {
            self.known.remove(&pair);
        }
    }
}

#[cfg(test)]
mod tests;
