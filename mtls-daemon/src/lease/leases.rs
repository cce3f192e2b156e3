//! All live connections, and what one of them holds.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use time::OffsetDateTime;
use tokio::sync::watch;

use super::fate::{Ended, Fate, Now, Overdue, Terms};
use super::groups::{End, GroupId, Groups};
use super::judge::{Held, Renewed};
use super::parties::{Cover, Mark, Parties};
use crate::config::LeaseSettings;
use crate::observe::cause::Cause;
use crate::observe::standing::Standing;
use crate::observe::{Reason, Refusal};

/// All live connections.
#[derive(Debug, Default)]
pub struct Leases {
    groups: Mutex<Groups>,
    terms: ArcSwap<HashMap<Arc<str>, Terms>>,
}

/// Connections of a workload that go on though they would not be allowed any more.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OverdueCounts {
    /// Until they end by themselves.
    pub kept: u64,
    /// Until their time is over.
    pub draining: u64,
}

impl Leases {
    /// What each workload wants; for one that is not among them, the defaults hold.
    pub fn set_terms(&self, terms: HashMap<Arc<str>, Terms>) {
        self.terms.store(Arc::new(terms));
    }

    /// A connection begins. It is [settled](Self::settle) next, or nothing but [`Self::end`] ends it.
    #[must_use]
    pub fn join(self: &Arc<Self>, parties: Parties) -> Lease {
        let (group, ended) = self.lock().join(parties);
        Lease { leases: Arc::clone(self), group, ended }
    }

    /// Judges a connection that has joined, and with it its group.
    ///
    /// # Errors
    /// Why it may not be. What becomes of the others of its group is for the settings to say.
    pub fn settle(
        &self,
        lease: &Lease,
        judge: impl Fn(&Parties, Option<&Renewed>) -> Result<Held, Refusal>,
    ) -> Result<(), Refusal> {
        let mut look = Look::new(self, Now::read());
        match look.ask(lease.group, &judge) {
            // Its group was ended a moment ago, and it with it.
            None => Ok(()),
            Some(Ok(held)) => {
                look.groups.hold(lease.group, held);
                Ok(())
            }
            Some(Err(refusal)) => {
                // The others are what was let in before.
                if look.groups.by_id.get(&lease.group).is_some_and(|group| group.members > 1) {
                    look.conclude(lease.group, refusal.clone(), false);
                    look.finish();
                }
                Err(refusal)
            }
        }
    }

    /// Ends the connections that `mark` leads to and for which `judge` has a reason; or what the settings say instead.
    pub fn end(&self, mark: Mark<'_>, judge: impl Fn(&Parties) -> Option<Refusal>) -> Ended {
        let mut look = Look::new(self, Now::read());
        for id in look.groups.of(mark) {
            look.ended.looked_at += 1;
            let refusal = look.groups.by_id.get(&id).and_then(|group| judge(&group.parties));
            if let Some(refusal) = refusal {
                look.conclude(id, refusal, false);
            }
        }
        look.finish()
    }

    /// Judges everything again that the covers lead to.
    pub fn judge_again(
        &self,
        covers: &[Cover<'_>],
        judge: impl Fn(&Parties, Option<&Renewed>) -> Result<Held, Refusal>,
        now: Now,
    ) -> Ended {
        let mut look = Look::new(self, now);
        let found: BTreeSet<GroupId> = covers.iter().flat_map(|cover| look.groups.within(cover)).collect();
        for id in found {
            look.judge(id, &judge, false);
        }
        look.finish()
    }

    /// Judges everything again that the clock has brought.
    pub fn judge_due(
        &self,
        judge: impl Fn(&Parties, Option<&Renewed>) -> Result<Held, Refusal>,
        now: Now,
    ) -> Ended {
        let mut look = Look::new(self, now);
        for (id, drained) in look.groups.take_due(now.wall, now.monotonic) {
            look.judge(id, &judge, drained);
        }
        look.finish()
    }

    /// Has a connection that `mark` leads to what `wanted` looks for?
    #[must_use]
    pub fn any(&self, mark: Mark<'_>, wanted: impl Fn(&Parties) -> bool) -> bool {
        let groups = self.lock();
        groups.of(mark).iter().any(|id| groups.by_id.get(id).is_some_and(|group| wanted(&group.parties)))
    }

    /// Those that go on though they would not be allowed any more, by workload.
    #[must_use]
    pub fn overdue(&self) -> BTreeMap<Arc<str>, OverdueCounts> {
        let groups = self.lock();
        let mut all: BTreeMap<Arc<str>, OverdueCounts> = BTreeMap::new();
        for group in groups.of(Mark::Overdue).iter().filter_map(|id| groups.by_id.get(id)) {
            let Some(overdue) = group.overdue else { continue };
            let counts = all.entry(Arc::clone(&group.parties.workload)).or_default();
            let count = match overdue {
                Overdue::Kept => &mut counts.kept,
                Overdue::Until(_) => &mut counts.draining,
            };
            *count += u64::try_from(group.members).unwrap_or(u64::MAX);
        }
        all
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, Groups> {
        // Nothing in here panics half way.
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One look at groups; while it lasts, nobody else looks.
struct Look<'a> {
    groups: MutexGuard<'a, Groups>,
    terms: Arc<HashMap<Arc<str>, Terms>>,
    now: Instant,
    ended: Ended,
    alarms: Vec<Alarm>,
}

/// Connections that go on.
struct Alarm {
    workload: Arc<str>,
    peer: String,
    connections: usize,
    refusal: Refusal,
    /// For so long.
    drain: Option<Duration>,
}

impl<'a> Look<'a> {
    fn new(leases: &'a Leases, now: Now) -> Self {
        // In this order: what was asked for before the look counts.
        let groups = leases.lock();
        let terms = leases.terms.load_full();
        let now = now.monotonic;
        Self { groups, terms, now, ended: Ended::default(), alarms: Vec::new() }
    }

    /// Tells the log, when nobody waits for the groups any more.
    fn finish(self) -> Ended {
        drop(self.groups);
        for Alarm { workload, peer, connections, refusal, drain } in self.alarms {
            let (reason, detail) = (refusal.reason.code(), refusal.detail);
            match drain {
                None => {
                    tracing::warn!(%workload, peer, connections, reason, detail, "connections go on that would not be allowed any more");
                }
                Some(drain) => {
                    tracing::warn!(%workload, peer, connections, reason, detail, ?drain, "connections that would not be allowed any more have some time to end");
                }
            }
        }
        self.ended
    }

    fn ask(
        &self,
        id: GroupId,
        judge: &impl Fn(&Parties, Option<&Renewed>) -> Result<Held, Refusal>,
    ) -> Option<Result<Held, Refusal>> {
        let parties = &self.groups.by_id.get(&id)?.parties;
        let renewed = parties.peer_id().and_then(|peer| self.groups.renewed.get(peer));
        Some(judge(parties, renewed.map(|(renewed, _)| renewed)))
    }

    fn judge(
        &mut self,
        id: GroupId,
        judge: &impl Fn(&Parties, Option<&Renewed>) -> Result<Held, Refusal>,
        drained: bool,
    ) {
        let Some(judged) = self.ask(id, judge) else { return };
        self.ended.looked_at += 1;
        match judged {
            Ok(held) => self.groups.hold(id, held),
            Err(refusal) => self.conclude(id, refusal, drained),
        }
    }

    /// The group is over. `drained`: it had its time.
    fn conclude(&mut self, id: GroupId, refusal: Refusal, drained: bool) {
        let Some(group) = self.groups.by_id.get(&id) else { return };
        let terms = self.terms.get(&group.parties.workload);
        let settings = terms.map_or(LeaseSettings::DEFAULT, |terms| terms.settings);
        let overdue = match (Fate::of(&settings, refusal.reason), group.overdue) {
            (Fate::Cut, _) => return self.cut(id, refusal),
            (Fate::Drain(time), _) if drained => {
                let detail = format!("{}; it had {time:?} to end", refusal.detail);
                return self.cut(id, Refusal::new(refusal.reason, detail));
            }
            // Its time runs from when it was first over.
            (Fate::Drain(_), Some(Overdue::Until(_))) => return,
            (Fate::Drain(time), _) => Overdue::Until(self.now + time),
            (Fate::Keep, Some(_)) if !drained => return,
            (Fate::Keep, _) => Overdue::Kept,
        };
        let drain = matches!(overdue, Overdue::Until(_)).then_some(settings.drain);
        let (workload, peer) = (Arc::clone(&group.parties.workload), group.parties.peer_name());
        let count = if drain.is_some() { &mut self.ended.draining } else { &mut self.ended.kept };
        *count += group.members;
        let until = drain.and_then(|drain| OffsetDateTime::now_utc().checked_add(drain.try_into().ok()?));
        group.standing.overdue(&refusal, until);
        self.alarms.push(Alarm { workload, peer, connections: group.members, refusal, drain });
        self.groups.set_overdue(id, Some(overdue));
    }

    fn cut(&mut self, id: GroupId, refusal: Refusal) {
        let Some(group) = self.groups.remove(id) else { return };
        self.ended.connections += group.members;
        if let (Some(cause), Some(terms)) =
            (Cause::of(refusal.reason), self.terms.get(&group.parties.workload))
        {
            terms.metrics.leases_ended(cause, group.members);
        }
        group.end.send_replace(Some(Arc::new(refusal)));
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

    /// How its group stands from now on, for those who show connections; `None`: it was ended a moment ago.
    #[must_use]
    pub fn standing(&self) -> Option<Arc<Standing>> {
        Some(Arc::clone(&self.leases.lock().by_id.get(&self.group)?.standing))
    }

    /// Why the connection may not go on; `None`: it may. Whoever was reset by another that was just ended hears the
    /// same reason: while a look is under way, this waits for it.
    #[must_use]
    pub fn refusal(&self) -> Option<Arc<Refusal>> {
        let _nobody_is_ending = self.leases.lock();
        self.ended.borrow().clone()
    }

    /// Until the connection may not go on, with the reason.
    pub async fn over(&mut self) -> Arc<Refusal> {
        self.group_over().await
    }

    /// The connections that are in the same group end together.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// As [`Self::over`], for somebody who waits for the whole group and is no member of it. A group that its last member has
    /// left is over as well.
    pub fn group_over(&self) -> impl Future<Output = Arc<Refusal>> + Send + use<> {
        let mut ended = self.ended.clone();
        async move {
            match ended.wait_for(Option::is_some).await.as_deref() {
                Ok(Some(refusal)) => Arc::clone(refusal),
                // Without its group nobody would ever end it.
                Ok(None) | Err(_) => Arc::new(Reason::Internal.into()),
            }
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.leases.lock().leave(self.group);
    }
}
