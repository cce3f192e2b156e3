//! A diagnosis on the running daemon: from the workload's own namespace, with the workload's own key, which stays here.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::{Semaphore, SemaphorePermit};

use super::daemon::{Daemon, lock};
use crate::config::Config;
use crate::datapath::relay::dial;
use crate::diagnose::live::Dialling;
use crate::diagnose::{self, Ground, Live, LiveError, LiveReport, LiveRequest};
use crate::snapshot::WorkloadState;
use crate::sys::netns::Netns;
use crate::workload::{Hierarchy, Presence, find};

/// Most diagnoses at one time.
const MAX_AT_ONCE: usize = 4;
static AT_ONCE: Semaphore = Semaphore::const_new(MAX_AT_ONCE);

impl Daemon {
    /// Asks every question about a connection, up to the first that fails. `by`: who asks, for the log.
    pub(super) async fn diagnose_live(
        &self,
        request: LiveRequest,
        by: String,
    ) -> Result<LiveReport, LiveError> {
        let _place = place()?;
        let snapshot = self.relay.snapshot.load_full();
        let (client, limit) = (request.client(&snapshot)?, request.limit()?);
        let netns = Arc::new(namespace(&client, &snapshot.config)?);
        let dial = |to: SocketAddr| -> Dialling {
            let (relay, netns) = (Arc::clone(&self.relay), Arc::clone(&netns));
            Box::pin(async move { dial::dial(&relay.capture, &netns, to, None, None).await })
        };
        let now = SystemTime::now();
        let live = Live {
            ground: Ground {
                snapshot: &snapshot,
                now,
                presence: &|workload| lock(&self.node).presence(workload).cloned(),
                revoked: &|id| self.denied(id, now),
                datapath: &|workload| self.expected_datapath(&snapshot, workload, None),
            },
            client: Arc::clone(&client),
            expect: request.expect.as_ref(),
            limit,
            dial: &dial,
            datapath: &|workload, suite| self.expected_datapath(&snapshot, workload, suite),
        };
        let report = diagnose::live(&live, &request.to).await?;
        let (workload, to, answer) = (&client.settings.name, &request.to, report.answer);
        tracing::info!(%by, %workload, to, ?answer, "a connection was diagnosed");
        Ok(report)
    }
}

/// Leave to diagnose, given back when it is dropped.
fn place() -> Result<SemaphorePermit<'static>, LiveError> {
    AT_ONCE.try_acquire().map_err(|_| LiveError::Busy(MAX_AT_ONCE))
}

/// Where to connect from: any of the workload's namespaces.
fn namespace(client: &WorkloadState, config: &Config) -> Result<Netns, LiveError> {
    let nowhere = |why: String| LiveError::Nowhere { workload: client.settings.name.clone(), why };
    match find(&client.settings.select, Hierarchy::of(config).as_ref()) {
        Ok(here) => {
            let first = here.namespaces.into_iter().next();
            first.ok_or_else(|| nowhere("its cgroup has no process".to_owned()))
        }
        Err(Presence::Absent(why) | Presence::Failed(why)) => Err(nowhere(why)),
        Err(Presence::Enrolled) => Err(nowhere("it was not found".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::testing::{config, snapshot};

    #[test]
    fn more_than_so_many_at_one_time_are_refused() {
        let places: Vec<_> = (0..MAX_AT_ONCE).map(|_| place().unwrap()).collect();
        assert_eq!(place().unwrap_err(), LiveError::Busy(4));
        drop(places);
        assert!(place().is_ok());
    }

    #[test]
    fn a_workload_that_is_not_there_has_nowhere_to_connect_from() {
        let yaml = "workloads: [ { name: web, select: { netns: mtlsd-no-such } }, { name: db, select: { cgroup: /mtlsd/no/such } } ]\n";
        let snapshot = snapshot(config(yaml));
        for (name, part) in [("web", "/run/netns/mtlsd-no-such"), ("db", "/mtlsd/no/such does not exist")] {
            let error = namespace(snapshot.by_name(name).unwrap(), &snapshot.config).unwrap_err();
            assert!(
                error.to_string().contains(part) && error.to_string().contains("start it first"),
                "{error}"
            );
        }
    }
}
