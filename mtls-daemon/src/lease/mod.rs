//! How long a verified identity keeps a live connection alive.
//!
//! Connections of one workload whose two ends proved the same identities stand and fall together: they are a *group*,
//! with one switch that ends them all. Groups are found by their [`Mark`]s, so that a change looks at those that it may concern
//! and at no other, and a connection costs no more than its place in a group.
//!
//! Whoever ends connections first changes what decides (the deny list, the stop of a workload) and then looks here;
//! whoever opens one first joins and then asks again what decides. So one of the two sees the other.

#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;

use crate::identity::revocation::{CertificateMarks, Serial, Sha256, Target};
use crate::identity::verified::Fingerprint;
use crate::identity::{ChainMarks, Revocations, SpiffeId};
use crate::observe::{Reason, Refusal};

/// Who is connected.
#[derive(Debug, Clone)]
pub struct Parties {
    /// The workload's name.
    pub workload: Arc<str>,
    /// What the workload's own chain can be revoked by; `None` where it was not used.
    pub own: Option<Arc<ChainMarks>>,
    /// What the peer's chain can be revoked by; `None` where it proved nothing.
    pub peer: Option<Arc<ChainMarks>>,
}

impl Parties {
    /// Why the connection may not go on.
    #[must_use]
    pub fn revoked(&self, revocations: &Revocations, now: SystemTime) -> Option<Refusal> {
        [("the peer", &self.peer), ("the workload itself", &self.own)].into_iter().find_map(|(who, chain)| {
            let refusal = revocations.refusal_of(chain.as_ref()?, now)?;
            Some(Refusal::new(refusal.reason, format!("of {who}: {}", refusal.detail)))
        })
    }

    fn key(&self) -> Key {
        let of = |chain: &Option<Arc<ChainMarks>>| chain.as_ref().map(|chain| chain.fingerprint);
        (Arc::clone(&self.workload), of(&self.own), of(&self.peer))
    }

    fn marks(&self) -> impl Iterator<Item = Mark<'_>> {
        let chains = || self.own.iter().chain(&self.peer);
        let ids = chains().filter_map(|chain| chain.id.as_ref()).map(Mark::Id);
        let certificates = chains().flat_map(|chain| &chain.certificates).flat_map(
            |CertificateMarks { serial, issuer, key }| {
                [Mark::Serial(serial), Mark::Issuer(issuer), Mark::Key(key)]
            },
        );
        std::iter::once(Mark::Workload(&self.workload)).chain(ids).chain(certificates)
    }
}

/// What leads to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mark<'a> {
    /// The workload's name.
    Workload(&'a str),
    /// The SPIFFE ID of either end.
    Id(&'a SpiffeId),
    /// The serial of a certificate of either chain.
    Serial(&'a Serial),
    /// The issuer's name of a certificate of either chain.
    Issuer(&'a Sha256),
    /// The key of a certificate of either chain.
    Key(&'a Sha256),
}

impl<'a> From<&'a Target> for Mark<'a> {
    fn from(target: &'a Target) -> Self {
        match target {
            Target::Serial { serial, .. } => Self::Serial(serial),
            Target::SpiffeId { id } => Self::Id(id),
            Target::Key { sha256 } => Self::Key(sha256),
        }
    }
}

/// What came of looking for connections to end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// Connections that were ended.
    pub connections: usize,
    /// Groups that were looked at.
    pub looked_at: usize,
}

type Key = (Arc<str>, Option<Fingerprint>, Option<Fingerprint>);
type End = Option<Arc<Refusal>>;
type GroupId = u64;

#[derive(Debug)]
struct Group {
    parties: Parties,
    members: usize,
    end: watch::Sender<End>,
}

#[derive(Debug, Default)]
struct Groups {
    next: GroupId,
    by_key: HashMap<Key, GroupId>,
    by_id: HashMap<GroupId, Group>,
    /// The hash of each mark of each group; two marks of one hash only make a group be looked at in vain.
    by_mark: BTreeSet<(u64, GroupId)>,
}

/// All live connections.
#[derive(Debug, Default)]
pub struct Leases {
    groups: Mutex<Groups>,
    // With keys of its own: a peer cannot choose serials whose hashes are equal.
    hashes: RandomState,
}

impl Leases {
    /// A connection begins.
    #[must_use]
    pub fn join(self: &Arc<Self>, parties: Parties) -> Lease {
        let groups = &mut *self.lock();
        let key = parties.key();
        let id = *groups.by_key.entry(key).or_insert_with(|| {
            let id = groups.next;
            groups.next += 1;
            groups.by_mark.extend(parties.marks().map(|mark| (self.hashes.hash_one(mark), id)));
            groups.by_id.insert(id, Group { parties, members: 0, end: watch::channel(None).0 });
            id
        });
        let ended = match groups.by_id.get_mut(&id) {
            Some(group) => {
                group.members += 1;
                group.end.subscribe()
            }
            // Both maps have the same groups; a connection that nobody could end does not begin.
            None => ended(Reason::Internal.into()),
        };
        Lease { leases: Arc::clone(self), group: id, ended }
    }

    /// Ends the connections that `mark` leads to and for which `judge` has a reason.
    pub fn end(&self, mark: Mark<'_>, judge: impl Fn(&Parties) -> Option<Refusal>) -> Ended {
        let mut groups = self.lock();
        let hash = self.hashes.hash_one(mark);
        let found = groups.by_mark.range((hash, GroupId::MIN)..=(hash, GroupId::MAX));
        let found: Vec<GroupId> = found.map(|(_, id)| *id).collect();
        let mut outcome = Ended { connections: 0, looked_at: found.len() };
        for id in found {
            let Some(refusal) = groups.by_id.get(&id).and_then(|group| judge(&group.parties)) else {
                continue;
            };
            if let Some(group) = self.remove(&mut groups, id) {
                outcome.connections += group.members;
                group.end.send_replace(Some(Arc::new(refusal)));
            }
        }
        outcome
    }

    /// Has a connection that `mark` leads to what `wanted` looks for?
    #[must_use]
    pub fn any(&self, mark: Mark<'_>, wanted: impl Fn(&Parties) -> bool) -> bool {
        let groups = self.lock();
        let hash = self.hashes.hash_one(mark);
        let mut found = groups.by_mark.range((hash, GroupId::MIN)..=(hash, GroupId::MAX));
        found.any(|(_, id)| groups.by_id.get(id).is_some_and(|group| wanted(&group.parties)))
    }

    fn leave(&self, id: GroupId) {
        let mut groups = self.lock();
        // A group that was ended is not here any more.
        let Some(group) = groups.by_id.get_mut(&id) else { return };
        group.members = group.members.saturating_sub(1);
        if group.members == 0 {
            self.remove(&mut groups, id);
        }
    }

    fn remove(&self, groups: &mut Groups, id: GroupId) -> Option<Group> {
        let group = groups.by_id.remove(&id)?;
        groups.by_key.remove(&group.parties.key());
        for mark in group.parties.marks() {
            groups.by_mark.remove(&(self.hashes.hash_one(mark), id));
        }
        Some(group)
    }

    fn lock(&self) -> MutexGuard<'_, Groups> {
        // Nothing in here panics half way.
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn ended(refusal: Refusal) -> watch::Receiver<End> {
    watch::channel(Some(Arc::new(refusal))).1
}

/// What one connection holds while it lives.
#[derive(Debug)]
pub struct Lease {
    leases: Arc<Leases>,
    group: GroupId,
    ended: watch::Receiver<End>,
}

impl Lease {
    /// Ends this connection only.
    pub fn end(&mut self, refusal: Refusal) {
        self.ended = ended(refusal);
    }

    /// Why the connection may not go on; `None`: it may. Whoever was reset by another that was just ended hears the
    /// same reason: while [`Leases::end`] is at work, this waits for it.
    #[must_use]
    pub fn refusal(&self) -> Option<Arc<Refusal>> {
        let _nobody_is_ending = self.leases.lock();
        self.ended.borrow().clone()
    }

    /// Until the connection may not go on, with the reason.
    pub async fn over(&mut self) -> Arc<Refusal> {
        match self.ended.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(refusal)) => Arc::clone(refusal),
            // Without its group nobody would ever end it.
            Ok(None) | Err(_) => Arc::new(Reason::Internal.into()),
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.leave(self.group);
    }
}
