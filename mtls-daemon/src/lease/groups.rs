//! The groups, and everything that leads to them.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::watch;

use super::fate::Overdue;
use super::judge::{Held, Renewed};
use super::parties::{Cover, Key, Mark, Parties};
use crate::identity::SpiffeId;
use crate::observe::Refusal;
use crate::observe::standing::Standing;

pub(super) type End = Option<Arc<Refusal>>;
/// Names a group; never used again.
pub type GroupId = u64;

#[derive(Debug)]
pub(super) struct Group {
    pub parties: Parties,
    pub members: usize,
    pub end: watch::Sender<End>,
    pub overdue: Option<Overdue>,
    /// The same for those who show connections.
    pub standing: Arc<Standing>,
    /// What let it be when it was last judged; once that has run out, without its end.
    held: Held,
}

/// See [`Group`].
#[derive(Debug, Default)]
pub(super) struct Groups {
    pub by_id: HashMap<GroupId, Group>,
    pub by_key: HashMap<Key, GroupId>,
    /// The hash of each mark of each group; two marks of one hash only make a group be looked at in vain.
    pub by_mark: BTreeSet<(u64, GroupId)>,
    /// What the clock brings, next first.
    ends: BTreeSet<(SystemTime, GroupId)>,
    drains: BTreeSet<(Instant, GroupId)>,
    /// The peers that have groups.
    pub renewed: HashMap<SpiffeId, (Renewed, usize)>,
    next: GroupId,
    // With keys of its own: a peer cannot choose serials whose hashes are equal.
    hashes: RandomState,
}

impl Groups {
    /// The group of these parties, which has one member more from now on.
    pub fn join(&mut self, parties: Parties) -> (GroupId, watch::Receiver<End>) {
        self.learn_of(&parties);
        let key = parties.key();
        if let Some(id) = self.by_key.get(&key)
            && let Some(group) = self.by_id.get_mut(id)
        {
            group.members += 1;
            return (*id, group.end.subscribe());
        }
        let id = self.next;
        self.next += 1;
        self.by_key.insert(key, id);
        let marks = parties.marks().map(|mark| (self.hashes.hash_one(mark), id));
        self.by_mark.extend(marks);
        if let Some((_, groups)) = parties.peer_id().and_then(|peer| self.renewed.get_mut(peer)) {
            *groups += 1;
        }
        let (end, ended) = watch::channel(None);
        let group = Group {
            parties,
            members: 1,
            end,
            overdue: None,
            standing: Arc::default(),
            held: Held::default(),
        };
        self.by_id.insert(id, group);
        (id, ended)
    }

    /// A certificate of the peer was verified: it may be a newer one.
    fn learn_of(&mut self, parties: &Parties) {
        let (Some(peer), Some(id)) = (&parties.peer, parties.peer_id()) else { return };
        let verified = Renewed::of(peer);
        match self.renewed.get_mut(id) {
            None => drop(self.renewed.insert(id.clone(), (verified, 0))),
            Some((known, _)) if known.until < verified.until => {
                *known = verified;
                // Those that were thought to have run out.
                for id in self.of(Mark::Id(id.as_str())) {
                    if let Some(group) = self.by_id.get(&id).filter(|group| group.overdue.is_some()) {
                        let held = Held { until: Some(SystemTime::UNIX_EPOCH), ..group.held.clone() };
                        self.set_held(id, held);
                    }
                }
            }
            Some(_) => {}
        }
    }

    pub fn leave(&mut self, id: GroupId) {
        // A group that was ended is not here any more.
        let Some(group) = self.by_id.get_mut(&id) else { return };
        group.members = group.members.saturating_sub(1);
        if group.members == 0 {
            self.remove(id);
        }
    }

    pub fn remove(&mut self, id: GroupId) -> Option<Group> {
        self.hold(id, Held::default());
        let group = self.by_id.remove(&id)?;
        self.by_key.remove(&group.parties.key());
        for mark in group.parties.marks() {
            self.by_mark.remove(&(self.hashes.hash_one(mark), id));
        }
        if let Some(peer) = group.parties.peer_id()
            && let Some((_, groups)) = self.renewed.get_mut(peer)
        {
            *groups -= 1;
            if *groups == 0 {
                self.renewed.remove(peer);
            }
        }
        Some(group)
    }

    /// Those that a mark leads to.
    pub fn of(&self, mark: Mark<'_>) -> Vec<GroupId> {
        self.each(mark).collect()
    }

    fn each(&self, mark: Mark<'_>) -> impl Iterator<Item = GroupId> {
        let hash = self.hashes.hash_one(mark);
        self.by_mark.range((hash, GroupId::MIN)..=(hash, GroupId::MAX)).map(|(_, id)| *id)
    }

    /// Those that the shortest way leads to.
    pub fn within(&self, cover: &Cover<'_>) -> Vec<GroupId> {
        let mut fewest: Option<Vec<GroupId>> = None;
        for marks in &cover.0 {
            let most = fewest.as_ref().map_or(usize::MAX, Vec::len);
            let found: Vec<_> = marks.iter().flat_map(|mark| self.each(*mark)).take(most).collect();
            if found.len() < most {
                fewest = Some(found);
            }
        }
        fewest.unwrap_or_default()
    }

    /// Those whose certificate has run out, and those whose time is over; no longer due afterwards.
    pub fn take_due(&mut self, wall: SystemTime, now: Instant) -> Vec<(GroupId, bool)> {
        let mut due = Vec::new();
        while let Some((until, id)) = self.ends.first().copied().filter(|(until, _)| *until < wall) {
            self.ends.remove(&(until, id));
            if let Some(group) = self.by_id.get_mut(&id) {
                group.held.until = None;
            }
            due.push((id, false));
        }
        while let Some(entry) = self.drains.first().copied().filter(|(until, _)| *until <= now) {
            self.drains.remove(&entry);
            due.push((entry.1, true));
        }
        due
    }

    /// The group is held by this now, and not overdue.
    pub fn hold(&mut self, id: GroupId, held: Held) {
        self.set_held(id, held);
        self.set_overdue(id, None);
    }

    fn set_held(&mut self, id: GroupId, held: Held) {
        let Some(group) = self.by_id.get_mut(&id) else { return };
        if group.held == held {
            return;
        }
        for mark in group.held.marks() {
            self.by_mark.remove(&(self.hashes.hash_one(mark), id));
        }
        if let Some(until) = group.held.until {
            self.ends.remove(&(until, id));
        }
        self.by_mark.extend(held.marks().map(|mark| (self.hashes.hash_one(mark), id)));
        self.ends.extend(held.until.map(|until| (until, id)));
        group.held = held;
    }

    pub fn set_overdue(&mut self, id: GroupId, overdue: Option<Overdue>) {
        let Some(group) = self.by_id.get_mut(&id) else { return };
        let mark = (self.hashes.hash_one(Mark::Overdue), id);
        if group.overdue.is_some() {
            self.by_mark.remove(&mark);
        }
        if let Some(Overdue::Until(before)) = group.overdue {
            self.drains.remove(&(before, id));
        }
        if overdue.is_some() {
            self.by_mark.insert(mark);
        }
        if let Some(Overdue::Until(until)) = overdue {
            self.drains.insert((until, id));
        }
        if overdue.is_none() && group.overdue.is_some() {
            group.standing.clear();
        }
        group.overdue = overdue;
    }

    /// Nothing was left behind.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        (self.by_id.is_empty(), self.by_key.is_empty(), self.by_mark.is_empty()) == (true, true, true)
            && (self.ends.is_empty(), self.drains.is_empty(), self.renewed.is_empty()) == (true, true, true)
    }
}
