//! Prometheus metrics. docs/reference/metrics.md is made of them, and docs/metrics.md says what to watch; tests hold them together.
//!
//! A workload's series live in one [`WorkloadMetrics`], plain atomics found once per connection; they are turned
//! into text only when somebody scrapes, and they are gone when the workload is. What a peer can choose (its
//! identity, its address) is never a label.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use crate::identity::alarm::Level;

mod encode_node;
mod encode_workloads;
mod example;
mod external;
#[cfg(test)]
mod tests;
mod workload;

pub use encode_node::REPAIRS;
pub use external::{ExternalMetrics, ExternalResult};
pub use workload::{OpenConnection, Side, WorkloadMetrics};

use encode_node::{encode_ca, encode_cluster, encode_crls, encode_flows, encode_ocsp, encode_roots};
use encode_workloads::{
    encode_handshakes, encode_identities, encode_leases, encode_traffic, encode_verdicts,
};
use workload::Counts;

/// The roots of one trust domain, for the metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootsSample {
    /// The trust domain.
    pub trust_domain: String,
    /// How near the end the longest of them is.
    pub level: Level,
    /// Its end, in seconds since 1970.
    pub not_after: Option<i64>,
}

/// A certificate of the embedded CA, for the metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaSample {
    /// `root` or `intermediate`.
    pub certificate: &'static str,
    /// CN of its subject.
    pub name: String,
    /// How near its end is.
    pub level: Level,
    /// Its end, in seconds since 1970.
    pub not_after: Option<i64>,
}

type Labels<const N: usize> = [(&'static str, &'static str); N];

/// All metrics of the daemon.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    shared: Arc<Shared>,
    access_log_lost: Counter,
    reloads: Family<Labels<1>, Counter>,
}

#[derive(Debug, Default)]
struct Shared {
    workloads: RwLock<BTreeMap<Arc<str>, Arc<WorkloadMetrics>>>,
    ebpf: Mutex<BTreeMap<&'static str, u64>>,
    roots: Mutex<Vec<RootsSample>>,
    ca: Mutex<Vec<CaSample>>,
    crls: Mutex<Vec<CrlHealth>>,
    cluster: Mutex<Option<ClusterHealth>>,
    ocsp: Mutex<Vec<OcspHealth>>,
    external: Arc<ExternalMetrics>,
    /// How many there are, and how many were forgotten.
    flows: Mutex<(usize, u64)>,
    verify_failed: Mutex<BTreeMap<&'static str, bool>>,
    repairs: Mutex<BTreeMap<&'static str, u64>>,
}

/// How a trust domain's OCSP responder does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OcspHealth {
    /// The trust domain of the configuration.
    pub trust_domain: String,
    /// Questions that were answered.
    pub answered: u64,
    /// Questions that were not, or not so that the answer counts.
    pub failed: u64,
    /// Certificates in use that no answer calls good or revoked now.
    pub stale: usize,
    /// Since the oldest answer in force was made; `None`: there is none.
    pub age: Option<Duration>,
}

/// How what is known of the cluster is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClusterHealth {
    /// Each resource that is followed.
    pub sources: Vec<SourceHealth>,
    /// Services whose address is no destination.
    pub mixed_services: usize,
    /// Policy objects of which this version is not in force.
    pub policies_refused: usize,
}

/// How a resource of the cluster is that is followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceHealth {
    /// As RBAC writes it: `pods`.
    pub source: String,
    /// Since the API server last said what is; `None`: never.
    pub age: Option<Duration>,
    /// Was nothing heard for too long?
    pub stale: bool,
    /// How many objects are known.
    pub objects: usize,
    /// How many cannot be read.
    pub refused: usize,
}

/// How a source of CRLs is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CrlHealth {
    /// The trust domain that it is about.
    pub trust_domain: String,
    /// The file or URL of the configuration.
    pub source: String,
    /// Since the list in force was made; `None`: there is none.
    pub age: Option<Duration>,
    /// Is there none, or is the next one overdue?
    pub stale: bool,
}

impl Metrics {
    /// The content type of [`Metrics::encode`]'s text.
    pub const CONTENT_TYPE: &'static str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

    /// Metrics of a daemon of the given version, all at zero.
    #[must_use]
    pub fn new(version: &'static str) -> Self {
        let mut registry = Registry::with_prefix("mtlsd");
        registry.register("build", "The version that is running", Info::new([("version", version)]));
        let access_log_lost = Counter::default();
        registry.register(
            "access_log_lost",
            "Access log lines that could not be written",
            access_log_lost.clone(),
        );
        let reloads = Family::default();
        for result in ["applied", "refused"] {
            // Present from the start, so that rate() sees the first one.
            drop(reloads.get_or_create(&[("result", result)]));
        }
        registry.register(
            "config_reloads",
            "Attempts to load the configuration while running, by result",
            reloads.clone(),
        );
        let shared = Arc::new(Shared::default());
        registry.register_collector(Box::new(Arc::clone(&shared)));
        Self { registry, shared, access_log_lost, reloads }
    }

    /// The series of a workload, made at the first call.
    pub fn workload(&self, name: &str) -> Arc<WorkloadMetrics> {
        let found = self.shared.workloads.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        found.unwrap_or_else(|| {
            let mut workloads = self.shared.workloads.write().unwrap_or_else(PoisonError::into_inner);
            let name: Arc<str> = name.into();
            let made =
                workloads.entry(Arc::clone(&name)).or_insert_with(|| Arc::new(WorkloadMetrics::new(name)));
            Arc::clone(made)
        })
    }

    /// Forgets a removed workload's series. Connections that still hold its handle count into nothing.
    pub fn remove_workload(&self, name: &str) {
        self.shared.workloads.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    /// The counter of lost access log lines, for the access log.
    #[must_use]
    pub fn access_log_lost(&self) -> Counter {
        self.access_log_lost.clone()
    }

    /// An attempt to load the configuration anew.
    pub fn config_reloaded(&self, applied: bool) {
        self.reloads.get_or_create(&[("result", if applied { "applied" } else { "refused" })]).inc();
    }

    /// The present value of a counter that the eBPF programs keep, summed over processors.
    pub fn set_ebpf_counter(&self, event: &'static str, value: u64) {
        lock(&self.shared.ebpf).insert(event, value);
    }

    /// How the roots of every trust domain stand; those that are not in it are forgotten.
    pub fn set_roots(&self, roots: Vec<RootsSample>) {
        *lock(&self.shared.roots) = roots;
    }

    /// How every certificate of the embedded CA stands; those that are not in it are forgotten.
    pub fn set_ca(&self, certificates: Vec<CaSample>) {
        *lock(&self.shared.ca) = certificates;
    }

    /// The sources of CRLs now.
    pub fn set_cluster(&self, cluster: Option<ClusterHealth>) {
        *lock(&self.shared.cluster) = cluster;
    }

    /// How each source of CRLs is.
    pub fn set_crls(&self, crls: Vec<CrlHealth>) {
        *lock(&self.shared.crls) = crls;
    }

    /// The OCSP responders now.
    pub fn set_ocsp(&self, ocsp: Vec<OcspHealth>) {
        *lock(&self.shared.ocsp) = ocsp;
    }

    /// What is counted of the policy engine.
    #[must_use]
    pub fn external(&self) -> &Arc<ExternalMetrics> {
        &self.shared.external
    }

    /// How many flows are remembered, and how many were forgotten for want of room.
    pub fn set_flows(&self, flows: usize, evicted: u64) {
        *lock(&self.shared.flows) = (flows, evicted);
    }

    /// Whether a part of the check of the coverage failed at its last look.
    pub fn set_verify_failed(&self, check: &'static str, failed: bool) {
        lock(&self.shared.verify_failed).insert(check, failed);
    }

    /// Something that was not as the daemon made it was put back.
    pub fn repaired(&self, what: &'static str) {
        *lock(&self.shared.repairs).entry(what).or_default() += 1;
    }

    /// All metrics in the OpenMetrics text format.
    ///
    /// # Errors
    /// Never in practice: writing to a string does not fail.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut out = String::new();
        text::encode(&mut out, &self.registry)?;
        Ok(out)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn counter(encoder: &mut MetricEncoder<'_>, labels: &impl EncodeLabelSet, value: u64) -> fmt::Result {
    ConstCounter::new(value).encode(encoder.encode_family(labels)?)
}

impl Collector for Shared {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let workloads: Vec<Arc<WorkloadMetrics>> =
            self.workloads.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
        encode_handshakes(&mut encoder, &workloads)?;
        encode_traffic(&mut encoder, &workloads)?;
        encode_verdicts(&mut encoder, &workloads)?;
        encode_identities(&mut encoder, &workloads)?;
        encode_leases(&mut encoder, &workloads)?;
        encode_roots(&mut encoder, &lock(&self.roots))?;
        encode_ca(&mut encoder, &lock(&self.ca))?;

        encode_crls(&mut encoder, &lock(&self.crls))?;
        if let Some(cluster) = &*lock(&self.cluster) {
            encode_cluster(&mut encoder, cluster)?;
        }
        encode_ocsp(&mut encoder, &lock(&self.ocsp))?;
        self.external.encode(&mut encoder)?;

        encode_flows(&mut encoder, *lock(&self.flows))?;
        self.encode_coverage(&mut encoder, &workloads)?;

        let help = "Events counted by the eBPF programs";
        let mut metric = encoder.encode_descriptor("ebpf_events", help, None, MetricType::Counter)?;
        for (event, value) in lock(&self.ebpf).iter() {
            counter(&mut metric, &[("event", *event)], *value)?;
        }
        Ok(())
    }
}
