//! Live connections after a change: judged by what is in force now.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use super::daemon::Daemon;
use crate::lease::{Cover, Ended, Mark, Now, Terms, change, judge};
use crate::snapshot::{Snapshot, WorkloadState};

/// How often it is looked whose time is over. What is promised is a second.
const TICK: Duration = Duration::from_millis(250);

/// Looks at what the clock brings until the daemon ends.
pub(super) async fn keep(daemon: Arc<Daemon>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let (snapshot, now) = (daemon.relay.snapshot.load_full(), Now::read());
        let judge = |parties: &_, renewed: Option<&_>| judge(&snapshot, parties, renewed, now.wall);
        tell("time is over", daemon.relay.leases.judge_due(judge, now));
    }
}

/// What each workload wants for its live connections.
pub(super) fn terms(snapshot: &Snapshot) -> HashMap<Arc<str>, Terms> {
    let of = |state: &Arc<WorkloadState>| {
        let (settings, metrics) = (state.settings.lease, Arc::clone(&state.metrics));
        (Arc::clone(metrics.name()), Terms { settings, metrics })
    };
    snapshot.workloads.values().map(of).collect()
}

impl Daemon {
    /// Puts a snapshot in force, for connections that are open too.
    pub(super) fn put_in_force(&self, new: Snapshot) {
        self.relay.leases.set_terms(terms(&new));
        let new = Arc::new(new);
        let old = self.relay.snapshot.swap(Arc::clone(&new));
        self.judge_again("what is allowed has changed", &change::between(&old, &new));
        self.follow_for_direct(&old, &new);
    }

    /// What is revoked has become less: what was over may not be any more.
    pub(super) fn judge_overdue(&self) {
        self.judge_again("what is revoked has changed", &[Mark::Overdue.into()]);
    }

    fn judge_again(&self, why: &str, covers: &[Cover<'_>]) {
        let (snapshot, now) = (self.relay.snapshot.load_full(), Now::read());
        let judge = |parties: &_, renewed: Option<&_>| judge(&snapshot, parties, renewed, now.wall);
        tell(why, self.relay.leases.judge_again(covers, judge, now));
    }

    /// Tells the metrics how many connections go on though they would not be allowed any more.
    pub(super) fn count_overdue(&self) {
        let overdue = self.relay.leases.overdue();
        for workload in self.relay.snapshot.load().workloads.values() {
            let counts = overdue.get(workload.metrics.name()).copied().unwrap_or_default();
            workload.metrics.set_overdue(counts.kept, counts.draining);
        }
    }
}

fn tell(why: &str, ended: Ended) {
    if !ended.is_nothing() {
        let Ended { connections, draining, kept, looked_at } = ended;
        tracing::warn!(cut = connections, draining, kept, looked_at, "live connections are over: {why}");
    }
}
