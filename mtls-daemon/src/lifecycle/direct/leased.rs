//! The leases of direct connections: one task waits for each group of them, not one for each connection.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use crate::lease::{GroupId, Lease};
use crate::lifecycle::daemon::lock;

/// Who has a lease that is waited for, by group.
pub(super) struct Leased<M> {
    members: Arc<Mutex<HashMap<GroupId, HashSet<M>>>>,
}

impl<M> Default for Leased<M> {
    fn default() -> Self {
        Self { members: Arc::default() }
    }
}

impl<M: Copy + Eq + Hash + Send + 'static> Leased<M> {
    /// From now on `tell` hears when the lease's group is over. Whether the lease itself is over by now is to be asked after this.
    pub fn watch(&self, lease: &Lease, member: M, tell: impl Fn(M) + Send + 'static) {
        let group = lease.group();
        let mut members = lock(&self.members);
        let of_group = members.entry(group).or_default();
        let first = of_group.is_empty();
        of_group.insert(member);
        drop(members);
        if !first {
            return;
        }
        let (members, over) = (Arc::downgrade(&self.members), lease.group_over());
        tokio::spawn(async move {
            over.await;
            let gone = members.upgrade().and_then(|members| lock(&members).remove(&group));
            gone.into_iter().flatten().for_each(tell);
        });
    }

    /// Nobody hears of anything any more: the daemon stops, and what flows goes on.
    pub fn forget_all(&self) {
        lock(&self.members).clear();
    }

    /// A member whose connection has ended.
    pub fn forget(&self, lease: &Lease, member: M) {
        let mut members = lock(&self.members);
        if let Some(of_group) = members.get_mut(&lease.group()) {
            of_group.remove(&member);
            if of_group.is_empty() {
                members.remove(&lease.group());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::lease::{Leases, Mark, Parties};
    use crate::observe::{Reason, Refusal};

    #[tokio::test]
    async fn all_of_a_group_hear_of_its_end_and_those_that_left_do_not() {
        let leases = Arc::new(Leases::default());
        let (said, mut heard) = mpsc::unbounded_channel();
        let leased = Leased::default();
        let held: Vec<_> = (0..3).map(|_| leases.join(Parties::of_peer("web", None))).collect();
        let other = leases.join(Parties::of_peer("db", None));
        for (lease, member) in held.iter().chain([&other]).zip(1..) {
            let said = said.clone();
            leased.watch(lease, member, move |member| said.send(member).unwrap());
        }
        leased.forget(&held[1], 2);
        leases.end(Mark::Workload("web"), |_| Some(Refusal::from(Reason::Revoked)));
        let mut told = [heard.recv().await.unwrap(), heard.recv().await.unwrap()];
        told.sort_unstable();
        assert_eq!(told, [1, 3]);
        leases.end(Mark::Workload("db"), |_| Some(Refusal::from(Reason::Revoked)));
        assert_eq!(heard.recv().await, Some(4), "and nobody else in between");
        assert!(lock(&leased.members).is_empty());
    }

    #[tokio::test]
    async fn who_was_forgotten_with_all_hears_of_no_end() {
        let leases = Arc::new(Leases::default());
        let (said, mut heard) = mpsc::unbounded_channel();
        let leased = Leased::default();
        let lease = leases.join(Parties::of_peer("web", None));
        leased.watch(&lease, 1, move |member| said.send(member).unwrap());
        leased.forget_all();
        // The last member: its group is over with it.
        drop(lease);
        assert_eq!(heard.recv().await, None);
    }

    #[tokio::test]
    async fn a_group_whose_last_member_left_tells_nobody() {
        let leases = Arc::new(Leases::default());
        let (said, mut heard) = mpsc::unbounded_channel();
        let leased = Leased::default();
        let lease = leases.join(Parties::of_peer("web", None));
        leased.watch(&lease, 1, move |member| said.send(member).unwrap());
        leased.forget(&lease, 1);
        drop(lease);
        assert_eq!(heard.recv().await, None, "its task is over");
        assert!(lock(&leased.members).is_empty());
    }
}
