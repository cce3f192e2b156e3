//! What outlives a change of the configuration: of each workload its count of live connections, its metrics and the
//! switch that ends its connections; of the node what is revoked.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use tokio::sync::watch;

use crate::identity::Revocations;
use crate::lease::{Leases, Mark};
use crate::observe::Reason;
use crate::observe::metrics::{Metrics, WorkloadMetrics};

/// The lasting part of one workload.
#[derive(Clone)]
pub struct Lasting {
    /// Live connections.
    pub live: Arc<AtomicU64>,
    /// Counters.
    pub metrics: Arc<WorkloadMetrics>,
    /// True ends every connection that is being opened; those that are open have leases.
    pub stop: watch::Sender<bool>,
}

/// All of it.
pub struct Registry {
    workloads: HashMap<String, Lasting>,
    revocations: Arc<Revocations>,
    leases: Arc<Leases>,
}

impl Registry {
    /// No workload yet.
    #[must_use]
    pub fn new(revocations: Arc<Revocations>, leases: Arc<Leases>) -> Self {
        Self { workloads: HashMap::new(), revocations, leases }
    }

    /// What is revoked.
    #[must_use]
    pub fn revocations(&self) -> &Arc<Revocations> {
        &self.revocations
    }

    /// The lasting part of a workload; made when it is new.
    pub fn of(&mut self, name: &str, metrics: &Metrics) -> Lasting {
        let make = || Lasting {
            live: Arc::default(),
            metrics: metrics.workload(name),
            stop: watch::channel(false).0,
        };
        self.workloads.entry(name.to_owned()).or_insert_with(make).clone()
    }

    /// Ends the connections of every workload that is not among `wanted`, and forgets it.
    pub fn keep_only(&mut self, wanted: impl Fn(&str) -> bool, metrics: &Metrics) {
        self.workloads.retain(|name, lasting| {
            let keep = wanted(name);
            if !keep {
                stop(name, lasting, &self.leases);
                metrics.remove_workload(name);
            }
            keep
        });
    }

    /// Ends every connection.
    pub fn stop_all(&self) {
        for (name, lasting) in &self.workloads {
            stop(name, lasting, &self.leases);
        }
    }
}

/// Those that are being opened, and then those that are open.
fn stop(name: &str, lasting: &Lasting, leases: &Leases) {
    lasting.stop.send_replace(true);
    leases.end(Mark::Workload(name), |_| Some(Reason::ShuttingDown.into()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_removed_workload_ends_its_connections_and_a_kept_one_keeps_its_counts() {
        let metrics = Metrics::new("0");
        let mut registry = Registry::new(Arc::default(), Arc::default());
        let web = registry.of("web", &metrics);
        let db = registry.of("db", &metrics);
        assert!(Arc::ptr_eq(&web.live, &registry.of("web", &metrics).live));
        registry.keep_only(|name| name == "web", &metrics);
        assert!(!*web.stop.borrow());
        assert!(*db.stop.borrow());
        registry.stop_all();
        assert!(*web.stop.borrow());
    }
}
