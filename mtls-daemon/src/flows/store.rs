//! The flows while the daemon runs: one short lock for a flow that is known, and a bound on their number and bytes.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::Notify;

use super::flow::{Decision, Flow, MAX_NAME};
use super::key::{AsTuple, Key, Tuple};
use super::moment::Moment;
use super::record::{Absence, MAX_ABSENCES, Record, Watched};
use crate::config::{self, Config, Mode};
use crate::observe::Reason;

/// Most flows that can be configured.
pub const MAX_FLOWS: u32 = 262_144;
/// Bytes that all flows together may take, for each that may be kept. A flow with a SPIFFE ID takes about 300.
pub const BYTES_PER_FLOW: usize = 1024;
/// However few are kept, one with a large certificate has room.
const MIN_BYTES: usize = 128 << 10;
/// What is forgotten at a time when there is no room: a sixteenth, so that it is seldom looked for.
const SHARE: usize = 16;

/// What was decided on a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome<'a> {
    /// It was let through.
    pub allow: bool,
    /// The rule or the default that decided; empty where policy was not asked.
    pub rule: &'a str,
    /// Why it was refused.
    pub reason: Option<Reason>,
}

impl<'a> Outcome<'a> {
    /// Let through by that rule or default.
    #[must_use]
    pub fn allowed(rule: &'a str) -> Self {
        Self { allow: true, rule, reason: None }
    }

    /// Refused by that rule or default.
    #[must_use]
    pub fn refused(rule: &'a str, reason: Reason) -> Self {
        Self { allow: false, rule, reason: Some(reason) }
    }
}

/// What changes of a flow.
#[derive(Debug, Clone)]
struct Tally {
    decision: Decision,
    allowed: u64,
    refused: u64,
    first: Moment,
    last: Moment,
    longest_pause: Duration,
}

impl Tally {
    fn first(outcome: &Outcome<'_>, now: Moment) -> Self {
        let decision = Decision { allow: outcome.allow, rule: bounded(outcome.rule), reason: outcome.reason };
        let mut tally =
            Self { decision, allowed: 0, refused: 0, first: now, last: now, longest_pause: Duration::ZERO };
        tally.count(outcome.allow);
        tally
    }

    fn count(&mut self, allow: bool) {
        let counter = if allow { &mut self.allowed } else { &mut self.refused };
        *counter = counter.saturating_add(1);
    }

    /// One more connection; true if it was decided otherwise than the last.
    fn see(&mut self, outcome: &Outcome<'_>, now: Moment) -> bool {
        self.longest_pause = self.longest_pause.max(now.since(self.last));
        self.last = self.last.max(now);
        self.count(outcome.allow);
        let decision = &mut self.decision;
        let same = decision.allow == outcome.allow && *decision.rule == *outcome.rule;
        if !same {
            decision.rule = bounded(outcome.rule);
        }
        (decision.allow, decision.reason) = (outcome.allow, outcome.reason);
        !same
    }
}

#[derive(Debug, Default)]
struct Held {
    flows: HashMap<Key, Arc<Mutex<Tally>>>,
    bytes: usize,
    begun: Moment,
    absences: Vec<Absence>,
    evicted: u64,
    last_evicted: Option<Moment>,
}

/// The flows of a daemon.
#[derive(Debug)]
pub struct Flows {
    /// `None`: nothing is kept.
    keep: Option<Duration>,
    capacity: usize,
    held: RwLock<Held>,
    watched: Mutex<BTreeMap<String, Watched>>,
    /// Something is not on disk.
    dirty: AtomicBool,
    /// Something new is not on disk: another flow, or another decision.
    news: Notify,
}

impl Flows {
    /// What was kept goes on; of more than there is room for, what was seen last.
    #[must_use]
    pub fn new(settings: config::Flows, record: Option<Record>) -> Self {
        Self::at(settings, record, Moment::now())
    }

    pub(super) fn at(settings: config::Flows, record: Option<Record>, now: Moment) -> Self {
        let flows = Self {
            keep: settings.keep,
            capacity: usize::try_from(settings.entries).unwrap_or(1),
            held: RwLock::new(Held { begun: now, ..Held::default() }),
            watched: Mutex::default(),
            dirty: AtomicBool::new(true),
            news: Notify::new(),
        };
        if let (Some(record), true) = (record, flows.is_on()) {
            flows.restore(record, now);
        }
        flows
    }

    /// A store that keeps nothing.
    #[must_use]
    pub fn off() -> Self {
        Self::new(config::Flows { entries: 1, keep: None }, None)
    }

    /// Whether flows are kept at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.keep.is_some()
    }

    /// A connection was decided on. Takes no memory if its flow is known and was decided by the same rule before.
    pub fn note(&self, tuple: &Tuple<'_>, outcome: &Outcome<'_>) {
        if self.is_on() {
            self.note_at(tuple, outcome, Moment::now());
        }
    }

    pub(super) fn note_at(&self, tuple: &Tuple<'_>, outcome: &Outcome<'_>, now: Moment) {
        self.dirty.store(true, Ordering::Relaxed);
        let known = self.read().flows.get(tuple as &dyn AsTuple).map(Arc::clone);
        let news = match known {
            Some(tally) => lock(&tally).see(outcome, now),
            None => {
                let key = Key::new(tuple);
                let mut held = self.write();
                let Some(key) = key else { return lose(&mut held, now) };
                // Another task may have been quicker.
                match held.flows.get(&key).map(Arc::clone) {
                    Some(tally) => lock(&tally).see(outcome, now),
                    None => {
                        self.insert(&mut held, key, Tally::first(outcome, now));
                        true
                    }
                }
            }
        };
        if news {
            self.news.notify_one();
        }
    }

    /// The workloads whose connections are seen from now on; another set of ports that are not seen begins anew.
    pub fn watch(&self, config: &Config) {
        self.watch_at(config, Moment::now());
    }

    pub(super) fn watch_at(&self, config: &Config, now: Moment) {
        let mut watched = lock(&self.watched);
        let mut before = std::mem::take(&mut *watched);
        for workload in config.workloads.iter().filter(|workload| !workload.is_left_alone()) {
            let unseen = unseen(config, workload);
            let since = match before.remove(&workload.name) {
                Some(known) if known.unseen == unseen => known.since,
                _ => now,
            };
            watched.insert(workload.name.clone(), Watched { since, unseen });
        }
        self.dirty.store(true, Ordering::Relaxed);
        self.news.notify_one();
    }

    /// Everything that was seen since then.
    #[must_use]
    pub fn record(&self, since: Moment) -> Record {
        self.record_at(since, Moment::now())
    }

    pub(super) fn record_at(&self, since: Moment, now: Moment) -> Record {
        let oldest = now.before(self.keep.unwrap_or_default());
        let since = since.max(oldest);
        let held = self.read();
        let flow = |(key, tally): (&Key, &Arc<Mutex<Tally>>)| {
            let tally = lock(tally);
            (tally.last >= since).then(|| Flow {
                direction: key.direction,
                workload: Arc::clone(&key.workload),
                port: key.port,
                address: key.address,
                channel: key.channel,
                peer: key.peer.clone(),
                decision: tally.decision.clone(),
                allowed: tally.allowed,
                refused: tally.refused,
                first_seen: tally.first,
                last_seen: tally.last,
                longest_pause: tally.longest_pause,
            })
        };
        Record {
            taken: now,
            begun: held.begun.max(oldest),
            absences: held.absences.iter().filter(|absence| absence.to > oldest).copied().collect(),
            watched: lock(&self.watched).clone(),
            evicted: held.evicted,
            last_evicted: held.last_evicted,
            flows: held.flows.iter().filter_map(flow).collect(),
        }
    }

    /// How many flows are kept, and how many were forgotten for want of room.
    #[must_use]
    pub fn counts(&self) -> (usize, u64) {
        let held = self.read();
        (held.flows.len(), held.evicted)
    }

    /// Forgets what was not seen for `flows.keep`.
    pub fn expire(&self) {
        self.expire_at(Moment::now());
    }

    pub(super) fn expire_at(&self, now: Moment) {
        let Some(keep) = self.keep else { return };
        let oldest = now.before(keep);
        forget(&mut self.write(), |_, tally| tally.last < oldest);
    }

    /// Waits for a flow, or a decision, that was not there before.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Whether something changed since the last call.
    pub fn take_dirty(&self) -> bool {
        self.dirty.swap(false, Ordering::Relaxed)
    }

    /// What was taken for written is not.
    pub fn set_dirty(&self) {
        self.dirty.store(true, Ordering::Relaxed);
    }

    fn restore(&self, record: Record, now: Moment) {
        let Record { taken, begun, mut absences, watched, evicted, last_evicted, mut flows } = record;
        *lock(&self.watched) = watched;
        let mut held = self.write();
        // A clock that was set back: nothing was seen later than now.
        (held.begun, held.evicted) = (begun.min(now), evicted);
        absences.push(Absence { from: taken.min(now), to: now });
        while absences.len() > MAX_ABSENCES {
            held.begun = held.begun.max(absences.remove(0).to.min(now));
        }
        held.absences = absences;
        held.last_evicted = last_evicted.map(|last| last.min(now));
        flows.sort_unstable_by_key(|flow| flow.last_seen);
        for flow in flows {
            let Flow { direction, workload, port, address, channel, peer, decision, .. } = flow;
            let tally = Tally {
                decision,
                allowed: flow.allowed,
                refused: flow.refused,
                first: flow.first_seen.min(now),
                last: flow.last_seen.min(now),
                longest_pause: flow.longest_pause,
            };
            let key = Key { direction, workload, port, address, channel, peer };
            if !held.flows.contains_key(&key) {
                self.insert(&mut held, key, tally);
            }
        }
    }

    fn insert(&self, held: &mut Held, key: Key, tally: Tally) {
        let cost = size_of::<Key>() + size_of::<Tally>() + key.bytes();
        let most = self.capacity.saturating_mul(BYTES_PER_FLOW).max(MIN_BYTES);
        while !held.flows.is_empty() && (held.flows.len() >= self.capacity || held.bytes + cost > most) {
            evict(held);
        }
        if cost > most {
            return lose(held, tally.last);
        }
        held.bytes += cost;
        held.flows.insert(key, Arc::new(Mutex::new(tally)));
    }

    fn read(&self) -> RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Held> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// As much of a rule's name as can be read again.
fn bounded(rule: &str) -> Arc<str> {
    rule.get(..rule.floor_char_boundary(MAX_NAME)).unwrap_or_default().into()
}

/// Something was seen that cannot be kept.
fn lose(held: &mut Held, seen: Moment) {
    held.evicted = held.evicted.saturating_add(1);
    held.last_evicted = held.last_evicted.max(Some(seen));
}

/// Forgets the sixteenth that was not seen for longest. While more than half are of clients that proved nothing, only
/// such: whoever can send plain bytes from many addresses cannot make the daemon forget those who proved who they are.
fn evict(held: &mut Held) {
    let unproven = held.flows.keys().filter(|key| key.peer.is_none()).count();
    let only_unproven = unproven * 2 > held.flows.len();
    let candidate = |key: &Key| !only_unproven || key.peer.is_none();
    let mut times: Vec<Moment> =
        held.flows.iter().filter(|(key, _)| candidate(key)).map(|(_, tally)| lock(tally).last).collect();
    let mut left = (held.flows.len() / SHARE).clamp(1, times.len().max(1));
    let Some(place) = left.checked_sub(1).filter(|place| *place < times.len()) else { return };
    let (_, latest, _) = times.select_nth_unstable(place);
    let latest = *latest;
    let mut newest = held.last_evicted;
    let gone = forget(held, |key, tally| {
        let go = left > 0 && candidate(key) && tally.last <= latest;
        if go {
            left -= 1;
            newest = newest.max(Some(tally.last));
        }
        go
    });
    held.last_evicted = newest;
    held.evicted = held.evicted.saturating_add(u64::try_from(gone).unwrap_or(u64::MAX));
}

/// Removes flows; gives how many.
fn forget(held: &mut Held, mut go: impl FnMut(&Key, &Tally) -> bool) -> usize {
    let (before, mut freed) = (held.flows.len(), 0);
    held.flows.retain(|key, tally| {
        let go = go(key, &lock(tally));
        if go {
            freed += size_of::<Key>() + size_of::<Tally>() + key.bytes();
        }
        !go
    });
    held.bytes = held.bytes.saturating_sub(freed);
    before - held.flows.len()
}

fn unseen(config: &Config, workload: &config::Workload) -> String {
    let disabled = workload.ports.iter().filter(|(_, mode)| **mode == Mode::Disabled).map(|(port, _)| port);
    let excluded = config.exclude.ports.iter().chain(&workload.exclude.ports);
    let ports: std::collections::BTreeSet<_> = disabled.chain(excluded).collect();
    let ports: Vec<_> = ports.into_iter().map(ToString::to_string).collect();
    let rest = if workload.mode == Mode::Disabled {
        let seen = workload.ports.iter().filter(|(_, mode)| **mode != Mode::Disabled);
        let seen: Vec<_> = seen.map(|(port, _)| port.to_string()).collect();
        format!("all but {}; ", seen.join(","))
    } else {
        String::new()
    };
    format!("{rest}{}", ports.join(","))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
