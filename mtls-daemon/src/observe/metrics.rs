//! Prometheus metrics. docs/metrics.md describes each; a test holds the two together.
//!
//! A workload's series live in one [`WorkloadMetrics`], plain atomics found once per connection; they are turned
//! into text only when somebody scrapes, and they are gone when the workload is. What a peer can choose (its
//! identity, its address) is never a label.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};

use super::cause::Cause;
use super::connection::{Datapath, Direction};
use super::reason::Reason;
use crate::identity::alarm::Level;

mod external;
pub use external::{ExternalMetrics, ExternalResult};

const REASONS: usize = Reason::ALL.len();
const DATAPATHS: usize = Datapath::ALL.len();

/// Which role the local workload has in a handshake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The local workload connects.
    Client,
    /// The local workload accepts.
    Server,
}

impl Side {
    /// Both sides.
    pub const ALL: [Self; 2] = [Self::Client, Self::Server];

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

impl From<Direction> for Side {
    fn from(direction: Direction) -> Self {
        match direction {
            Direction::Outbound => Self::Client,
            Direction::Inbound => Self::Server,
        }
    }
}

#[derive(Debug)]
struct Counts<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const N: usize> Counts<N> {
    fn add(&self, index: usize, by: u64) {
        if let Some(count) = self.0.get(index) {
            count.fetch_add(by, Ordering::Relaxed);
        }
    }

    fn get(&self, index: usize) -> u64 {
        self.0.get(index).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

/// Connections of one workload in one direction over one datapath.
#[derive(Debug, Default)]
struct Traffic {
    opened: AtomicU64,
    closed: AtomicU64,
    /// Live ones that came from another datapath, less those that left for one.
    moved: AtomicI64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// The series of one workload: look it up once ([`Metrics::workload`]), then count without locks or hashing.
#[derive(Debug)]
pub struct WorkloadMetrics {
    name: Arc<str>,
    handshakes_ok: Counts<2>,
    handshakes_failed: [Counts<REASONS>; 2],
    handshake_seconds: [Histogram; 2],
    traffic: [[Traffic; DATAPATHS]; 2],
    refused: Counts<REASONS>,
    plaintext_accepted: AtomicU64,
    // Rule names come from the configuration, so their number is bounded by it. Denials are off the hot path.
    denials: Mutex<BTreeMap<Arc<str>, u64>>,
    certificate_expiry: AtomicI64,
    identity_alarm: AtomicUsize,
    identity_failures: AtomicU64,
    leases_ended: Counts<{ Cause::ALL.len() }>,
    /// Kept, and draining.
    leases_overdue: Counts<2>,
    unaccounted: AtomicU64,
}

/// No certificate: the gauge is absent, rather than a lie.
const NO_CERTIFICATE: i64 = i64::MIN;

impl WorkloadMetrics {
    fn new(name: Arc<str>) -> Self {
        // 0.5 ms to 16.4 s: below a handshake on one machine, above timeouts.handshake.
        let histogram = || Histogram::new(exponential_buckets(0.0005, 2.0, 16));
        Self {
            name,
            handshakes_ok: Counts::default(),
            handshakes_failed: Default::default(),
            handshake_seconds: [histogram(), histogram()],
            traffic: Default::default(),
            refused: Counts::default(),
            plaintext_accepted: AtomicU64::new(0),
            denials: Mutex::default(),
            certificate_expiry: AtomicI64::new(NO_CERTIFICATE),
            identity_alarm: AtomicUsize::new(0),
            identity_failures: AtomicU64::new(0),
            leases_ended: Counts::default(),
            leases_overdue: Counts::default(),
            unaccounted: AtomicU64::new(0),
        }
    }

    /// The workload's name.
    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// A handshake in which both sides accepted each other, and how long it took.
    pub fn handshake_ok(&self, side: Side, took: Duration) {
        self.handshakes_ok.add(side as usize, 1);
        if let Some(histogram) = self.handshake_seconds.get(side as usize) {
            histogram.observe(took.as_secs_f64());
        }
    }

    /// A handshake that failed.
    pub fn handshake_failed(&self, side: Side, reason: Reason) {
        if let Some(counts) = self.handshakes_failed.get(side as usize) {
            counts.add(reason as usize, 1);
        }
    }

    /// A connection that was refused, before or after the handshake.
    pub fn refused(&self, reason: Reason) {
        self.refused.add(reason as usize, 1);
    }

    /// A connection that a policy rule (or "default of MODE") denied.
    pub fn denied(&self, rule: &str) {
        let mut denials = lock(&self.denials);
        match denials.get_mut(rule) {
            Some(count) => *count += 1,
            None => {
                denials.insert(rule.into(), 1);
            }
        }
    }

    /// A plaintext connection that a permissive port accepted.
    pub fn plaintext_accepted(&self) {
        self.plaintext_accepted.fetch_add(1, Ordering::Relaxed);
    }

    /// The end of validity of the certificate in use, in seconds since 1970; `None` when there is none.
    pub fn set_certificate_expiry(&self, not_after: Option<i64>) {
        self.certificate_expiry.store(not_after.unwrap_or(NO_CERTIFICATE), Ordering::Relaxed);
    }

    /// How near the end the identity is, and how many attempts to renew it failed since the last one that did not.
    pub fn set_identity(&self, alarm: Level, failures: u32) {
        self.identity_alarm.store(alarm as usize, Ordering::Relaxed);
        self.identity_failures.store(failures.into(), Ordering::Relaxed);
    }

    /// Live connections that were cut because they would not be allowed any more.
    pub fn leases_ended(&self, cause: Cause, connections: usize) {
        self.leases_ended.add(cause as usize, u64::try_from(connections).unwrap_or(u64::MAX));
    }

    /// Live connections that go on though they would not be allowed any more: for good, and for a time.
    pub fn set_overdue(&self, kept: u64, draining: u64) {
        for (place, value) in self.leases_overdue.0.iter().zip([kept, draining]) {
            place.store(value, Ordering::Relaxed);
        }
    }

    /// Connections that nothing accounts for, by the kernel's list.
    pub fn set_unaccounted(&self, connections: u64) {
        self.unaccounted.store(connections, Ordering::Relaxed);
    }

    /// What [`Self::set_overdue`] said last, in all.
    #[must_use]
    pub fn overdue(&self) -> u64 {
        self.leases_overdue.get(0) + self.leases_overdue.get(1)
    }

    /// A connection whose datapath is established; it counts as live until the guard is dropped.
    #[must_use]
    pub fn opened(self: &Arc<Self>, direction: Direction, datapath: Datapath) -> OpenConnection {
        if let Some(traffic) = self.traffic(direction, datapath as usize) {
            traffic.opened.fetch_add(1, Ordering::Relaxed);
        }
        OpenConnection {
            workload: Arc::clone(self),
            direction,
            datapath: AtomicUsize::new(datapath as usize),
        }
    }

    /// Connections established so far.
    #[must_use]
    pub fn opened_total(&self) -> u64 {
        self.traffic.iter().flatten().map(|t| t.opened.load(Ordering::Relaxed)).sum()
    }

    /// Connections refused so far.
    #[must_use]
    pub fn refused_total(&self) -> u64 {
        self.refused.0.iter().map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Plaintext connections that were accepted so far.
    #[must_use]
    pub fn plaintext_total(&self) -> u64 {
        self.plaintext_accepted.load(Ordering::Relaxed)
    }

    /// Connections that are live now.
    #[must_use]
    pub fn live(&self) -> u64 {
        self.traffic.iter().flatten().map(Traffic::live).sum()
    }

    fn traffic(&self, direction: Direction, datapath: usize) -> Option<&Traffic> {
        self.traffic.get(direction as usize)?.get(datapath)
    }
}

impl Traffic {
    /// A connection was opened here, or moved here.
    fn was_used(&self) -> bool {
        self.opened.load(Ordering::Relaxed) > 0 || self.moved.load(Ordering::Relaxed) > 0
    }

    fn live(&self) -> u64 {
        // Read in this order, a connection that opens in between can only be missed, never counted negative.
        let closed = self.closed.load(Ordering::Acquire);
        let moved = self.moved.load(Ordering::Relaxed);
        self.opened.load(Ordering::Relaxed).saturating_add_signed(moved).saturating_sub(closed)
    }
}

/// One live connection in the metrics; dropping it ends it there.
#[derive(Debug)]
pub struct OpenConnection {
    workload: Arc<WorkloadMetrics>,
    direction: Direction,
    datapath: AtomicUsize,
}

impl OpenConnection {
    /// It goes on over another datapath: live there from now on, opened where it was.
    pub fn move_to(&self, datapath: Datapath) {
        if let Some(traffic) = self.workload.traffic(self.direction, datapath as usize) {
            traffic.moved.fetch_add(1, Ordering::Relaxed);
        }
        let before = self.datapath.swap(datapath as usize, Ordering::Relaxed);
        if let Some(traffic) = self.workload.traffic(self.direction, before) {
            traffic.moved.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn traffic(&self) -> Option<&Traffic> {
        self.workload.traffic(self.direction, self.datapath.load(Ordering::Relaxed))
    }

    /// Bytes that went from the local workload to the peer.
    pub fn add_sent(&self, bytes: u64) {
        if let Some(traffic) = self.traffic() {
            traffic.sent.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Bytes that went from the peer to the local workload.
    pub fn add_received(&self, bytes: u64) {
        if let Some(traffic) = self.traffic() {
            traffic.received.fetch_add(bytes, Ordering::Relaxed);
        }
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        if let Some(traffic) = self.traffic() {
            traffic.closed.fetch_add(1, Ordering::Release);
        }
    }
}

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

fn encode_flows(encoder: &mut DescriptorEncoder<'_>, (flows, evicted): (usize, u64)) -> fmt::Result {
    let help = "Distinct flows that are remembered for rollout status and policy replay";
    let flows = ConstGauge::new(i64::try_from(flows).unwrap_or(i64::MAX));
    flows.encode(encoder.encode_descriptor("flows", help, None, MetricType::Gauge)?)?;
    let help = "Flows that were forgotten for want of room";
    let evicted = ConstCounter::new(evicted);
    evicted.encode(encoder.encode_descriptor("flows_evicted", help, None, MetricType::Counter)?)
}

/// What the daemon puts back; present from the start, so that rate() sees the first one.
const REPAIRS: [&str; 4] = ["program", "pin", "table", "listener"];

impl Shared {
    fn encode_coverage(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        workloads: &[Arc<WorkloadMetrics>],
    ) -> fmt::Result {
        let help = "Connections of the workload that nothing accounts for, by the kernel's list of sockets";
        let mut metric =
            encoder.encode_descriptor("unaccounted_connections", help, None, MetricType::Gauge)?;
        for workload in workloads {
            let count = workload.unaccounted.load(Ordering::Relaxed);
            ConstGauge::new(count).encode(metric.encode_family(&[("workload", &*workload.name)])?)?;
        }
        let help = "1 if this part of the check of the coverage failed at its last look";
        let mut metric = encoder.encode_descriptor("verify_failed", help, None, MetricType::Gauge)?;
        for (check, failed) in lock(&self.verify_failed).iter() {
            ConstGauge::new(i64::from(*failed)).encode(metric.encode_family(&[("check", *check)])?)?;
        }
        let help = "Things that were not as the daemon made them and were put back";
        let mut metric = encoder.encode_descriptor("repairs", help, None, MetricType::Counter)?;
        let repairs = lock(&self.repairs);
        for what in REPAIRS {
            counter(&mut metric, &[("what", what)], repairs.get(what).copied().unwrap_or(0))?;
        }
        Ok(())
    }
}

fn encode_crls(encoder: &mut DescriptorEncoder<'_>, crls: &[CrlHealth]) -> fmt::Result {
    let labels =
        |crl: &CrlHealth| [("trust_domain", crl.trust_domain.clone()), ("source", crl.source.clone())];
    let help = "Time since the CRL in force was made (its thisUpdate)";
    let mut metric = encoder.encode_descriptor("crl_age", help, Some(&Unit::Seconds), MetricType::Gauge)?;
    for crl in crls {
        if let Some(age) = crl.age {
            let seconds = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
            ConstGauge::new(seconds).encode(metric.encode_family(&labels(crl))?)?;
        }
    }
    let help = "1 if a source of CRLs has given none, or its next one is overdue";
    let mut metric = encoder.encode_descriptor("crl_stale", help, None, MetricType::Gauge)?;
    for crl in crls {
        ConstGauge::new(i64::from(crl.stale)).encode(metric.encode_family(&labels(crl))?)?;
    }
    Ok(())
}

fn encode_ocsp(encoder: &mut DescriptorEncoder<'_>, ocsp: &[OcspHealth]) -> fmt::Result {
    let label = |health: &OcspHealth| ("trust_domain", health.trust_domain.clone());
    let help = "Questions to OCSP responders";
    let mut metric = encoder.encode_descriptor("ocsp_questions", help, None, MetricType::Counter)?;
    for health in ocsp {
        for (result, value) in [("answered", health.answered), ("failed", health.failed)] {
            counter(&mut metric, &[label(health), ("result", result.to_owned())], value)?;
        }
    }
    let help = "Certificates in use that no OCSP answer calls good or revoked now";
    let mut metric = encoder.encode_descriptor("ocsp_stale", help, None, MetricType::Gauge)?;
    for health in ocsp {
        let stale = i64::try_from(health.stale).unwrap_or(i64::MAX);
        ConstGauge::new(stale).encode(metric.encode_family(&[label(health)])?)?;
    }
    let help = "Time since the oldest OCSP answer in force was made (its thisUpdate)";
    let mut metric = encoder.encode_descriptor("ocsp_age", help, Some(&Unit::Seconds), MetricType::Gauge)?;
    for health in ocsp {
        if let Some(age) = health.age {
            let seconds = i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
            ConstGauge::new(seconds).encode(metric.encode_family(&[label(health)])?)?;
        }
    }
    Ok(())
}

fn encode_handshakes(encoder: &mut DescriptorEncoder<'_>, workloads: &[Arc<WorkloadMetrics>]) -> fmt::Result {
    let help = "TLS handshakes, by the local workload's side, result and reason of failure";
    let mut metric = encoder.encode_descriptor("handshakes", help, None, MetricType::Counter)?;
    for workload in workloads {
        for side in Side::ALL {
            let labels = |result, reason| {
                [
                    ("workload", &*workload.name),
                    ("side", side.as_str()),
                    ("result", result),
                    ("reason", reason),
                ]
            };
            counter(&mut metric, &labels("ok", "none"), workload.handshakes_ok.get(side as usize))?;
            let Some(failed) = workload.handshakes_failed.get(side as usize) else { continue };
            for reason in Reason::ALL {
                let value = failed.get(*reason as usize);
                if value > 0 {
                    counter(&mut metric, &labels("failed", reason.code()), value)?;
                }
            }
        }
    }

    let help = "Time from the first byte of a handshake until both sides accepted each other";
    let mut metric =
        encoder.encode_descriptor("handshake_duration", help, Some(&Unit::Seconds), MetricType::Histogram)?;
    for workload in workloads {
        for (side, histogram) in Side::ALL.into_iter().zip(&workload.handshake_seconds) {
            if workload.handshakes_ok.get(side as usize) > 0 {
                let labels = [("workload", &*workload.name), ("side", side.as_str())];
                histogram.encode(metric.encode_family(&labels)?)?;
            }
        }
    }
    Ok(())
}

fn encode_traffic(encoder: &mut DescriptorEncoder<'_>, workloads: &[Arc<WorkloadMetrics>]) -> fmt::Result {
    let used = || {
        workloads.iter().flat_map(|workload| {
            Direction::ALL.into_iter().zip(&workload.traffic).flat_map(move |(direction, by_datapath)| {
                Datapath::ALL.into_iter().zip(by_datapath).filter_map(move |(datapath, traffic)| {
                    let labels = [
                        ("workload", &*workload.name),
                        ("direction", direction.as_str()),
                        ("datapath", datapath.as_str()),
                    ];
                    traffic.was_used().then_some((labels, traffic))
                })
            })
        })
    };

    let help = "Connections established";
    let mut metric = encoder.encode_descriptor("connections_opened", help, None, MetricType::Counter)?;
    for (labels, traffic) in used() {
        counter(&mut metric, &labels, traffic.opened.load(Ordering::Relaxed))?;
    }

    let mut metric =
        encoder.encode_descriptor("connections_live", "Connections open now", None, MetricType::Gauge)?;
    for (labels, traffic) in used() {
        ConstGauge::new(traffic.live()).encode(metric.encode_family(&labels)?)?;
    }

    let help = "Bytes of the applications, without TLS overhead";
    let mut metric =
        encoder.encode_descriptor("connection", help, Some(&Unit::Bytes), MetricType::Counter)?;
    for ([workload, direction, datapath], traffic) in used() {
        for (flow, count) in [("sent", &traffic.sent), ("received", &traffic.received)] {
            let labels = [workload, direction, datapath, ("flow", flow)];
            counter(&mut metric, &labels, count.load(Ordering::Relaxed))?;
        }
    }
    Ok(())
}

fn encode_verdicts(encoder: &mut DescriptorEncoder<'_>, workloads: &[Arc<WorkloadMetrics>]) -> fmt::Result {
    let help = "Connections refused, by reason";
    let mut metric = encoder.encode_descriptor("connections_refused", help, None, MetricType::Counter)?;
    for workload in workloads {
        for reason in Reason::ALL {
            let value = workload.refused.get(*reason as usize);
            if value > 0 {
                let labels = [("workload", &*workload.name), ("reason", reason.code())];
                counter(&mut metric, &labels, value)?;
            }
        }
    }

    let help = "Connections denied by policy, by rule";
    let mut metric = encoder.encode_descriptor("policy_denials", help, None, MetricType::Counter)?;
    for workload in workloads {
        for (rule, value) in lock(&workload.denials).iter() {
            counter(&mut metric, &[("workload", &*workload.name), ("rule", &**rule)], *value)?;
        }
    }

    let help = "Plaintext connections that a permissive port accepted";
    let mut metric = encoder.encode_descriptor("plaintext_accepted", help, None, MetricType::Counter)?;
    for workload in workloads {
        counter(&mut metric, &[("workload", &*workload.name)], workload.plaintext_total())?;
    }

    let help = "End of validity of the workload's certificate, in seconds since 1970";
    let mut metric = encoder.encode_descriptor(
        "certificate_expiry_timestamp",
        help,
        Some(&Unit::Seconds),
        MetricType::Gauge,
    )?;
    for workload in workloads {
        let expiry = workload.certificate_expiry.load(Ordering::Relaxed);
        if expiry != NO_CERTIFICATE {
            ConstGauge::new(expiry).encode(metric.encode_family(&[("workload", &*workload.name)])?)?;
        }
    }
    Ok(())
}

fn encode_identities(encoder: &mut DescriptorEncoder<'_>, workloads: &[Arc<WorkloadMetrics>]) -> fmt::Result {
    let help = "How near its end the workload's identity is: 0 ok, 1 warning, 2 critical, 3 expired or none";
    let mut metric = encoder.encode_descriptor("identity_alarm", help, None, MetricType::Gauge)?;
    for workload in workloads {
        let level = u64::try_from(workload.identity_alarm.load(Ordering::Relaxed)).unwrap_or(u64::MAX);
        ConstGauge::new(level).encode(metric.encode_family(&[("workload", &*workload.name)])?)?;
    }

    let help = "Attempts to get or renew the identity that failed since the last one that did not";
    let mut metric = encoder.encode_descriptor("identity_failures", help, None, MetricType::Gauge)?;
    for workload in workloads {
        let failures = workload.identity_failures.load(Ordering::Relaxed);
        ConstGauge::new(failures).encode(metric.encode_family(&[("workload", &*workload.name)])?)?;
    }
    Ok(())
}

fn encode_leases(encoder: &mut DescriptorEncoder<'_>, workloads: &[Arc<WorkloadMetrics>]) -> fmt::Result {
    let help = "Live connections that were cut because they would not be allowed any more, by why";
    let mut metric = encoder.encode_descriptor("leases_ended", help, None, MetricType::Counter)?;
    for workload in workloads {
        for cause in Cause::ALL {
            let labels = [("workload", &*workload.name), ("cause", cause.as_str())];
            counter(&mut metric, &labels, workload.leases_ended.get(cause as usize))?;
        }
    }

    let help = "Live connections that go on though they would not be allowed any more";
    let mut metric = encoder.encode_descriptor("leases_overdue", help, None, MetricType::Gauge)?;
    for workload in workloads {
        for (index, state) in ["kept", "draining"].into_iter().enumerate() {
            let labels = [("workload", &*workload.name), ("state", state)];
            ConstGauge::new(workload.leases_overdue.get(index)).encode(metric.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn encode_roots(encoder: &mut DescriptorEncoder<'_>, roots: &[RootsSample]) -> fmt::Result {
    let help =
        "How near its end the longest root of the trust domain is: 0 ok, 1 warning, 2 critical, 3 expired";
    let mut metric = encoder.encode_descriptor("trust_roots_alarm", help, None, MetricType::Gauge)?;
    for sample in roots {
        let labels = [("trust_domain", &*sample.trust_domain)];
        ConstGauge::new(sample.level as u64).encode(metric.encode_family(&labels)?)?;
    }

    let help = "End of validity of the longest root of the trust domain, in seconds since 1970";
    let unit = Some(&Unit::Seconds);
    let mut metric =
        encoder.encode_descriptor("trust_roots_expiry_timestamp", help, unit, MetricType::Gauge)?;
    for (sample, not_after) in roots.iter().filter_map(|sample| Some((sample, sample.not_after?))) {
        let labels = [("trust_domain", &*sample.trust_domain)];
        ConstGauge::new(not_after).encode(metric.encode_family(&labels)?)?;
    }
    Ok(())
}

fn encode_ca(encoder: &mut DescriptorEncoder<'_>, certificates: &[CaSample]) -> fmt::Result {
    fn labels(sample: &CaSample) -> [(&str, &str); 2] {
        [("certificate", sample.certificate), ("name", &sample.name)]
    }
    let help = "How near its end a certificate of the embedded CA is: 0 ok, 1 warning, 2 critical, 3 expired";
    let mut metric = encoder.encode_descriptor("embedded_ca_alarm", help, None, MetricType::Gauge)?;
    for sample in certificates {
        ConstGauge::new(sample.level as u64).encode(metric.encode_family(&labels(sample))?)?;
    }

    let help = "End of validity of a certificate of the embedded CA, in seconds since 1970";
    let unit = Some(&Unit::Seconds);
    let mut metric =
        encoder.encode_descriptor("embedded_ca_expiry_timestamp", help, unit, MetricType::Gauge)?;
    for (sample, not_after) in certificates.iter().filter_map(|sample| Some((sample, sample.not_after?))) {
        ConstGauge::new(not_after).encode(metric.encode_family(&labels(sample))?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Metrics in which every series has been touched.
    fn full() -> Metrics {
        let metrics = Metrics::new("1.2.3");
        metrics.set_crls(vec![CrlHealth {
            trust_domain: "example.org".into(),
            source: "/site.crl".into(),
            age: Some(Duration::from_secs(90)),
            stale: true,
        }]);
        metrics.set_ocsp(vec![OcspHealth {
            trust_domain: "example.org".into(),
            answered: 3,
            failed: 2,
            stale: 1,
            age: Some(Duration::from_secs(80)),
        }]);
        let web = metrics.workload("web");
        for side in Side::ALL {
            web.handshake_ok(side, Duration::from_millis(2));
            for reason in Reason::ALL {
                web.handshake_failed(side, *reason);
                web.refused(*reason);
            }
        }
        for direction in Direction::ALL {
            for datapath in Datapath::ALL {
                let open = web.opened(direction, datapath);
                open.add_sent(1);
                open.add_received(2);
            }
        }
        web.denied("default of strict");
        web.plaintext_accepted();
        web.set_certificate_expiry(Some(1_800_000_000));
        web.set_identity(Level::Critical, 4);
        metrics.set_ca(vec![CaSample {
            certificate: "intermediate",
            name: "mtlsd intermediate CA 0a1b2c3d".into(),
            level: Level::Critical,
            not_after: Some(1_850_000_000),
        }]);
        web.leases_ended(Cause::Revoked, 3);
        web.set_overdue(5, 6);
        metrics.set_roots(vec![RootsSample {
            trust_domain: "example.org".into(),
            level: Level::Warning,
            not_after: Some(1_900_000_000),
        }]);
        metrics.set_ebpf_counter("connect4", 12);
        metrics.set_flows(7, 2);
        web.set_unaccounted(7);
        metrics.set_verify_failed("programs", true);
        metrics.set_verify_failed("tables", false);
        metrics.repaired("program");
        metrics.config_reloaded(true);
        metrics.config_reloaded(false);
        metrics.access_log_lost().inc();
        let external = metrics.external();
        external.decided(ExternalResult::Allowed);
        external.decided(ExternalResult::DeniedUnavailable);
        external.called(true, Duration::from_millis(3));
        external.called(false, Duration::from_millis(500));
        external.set_failing(true);
        metrics
    }

    /// Name, type and label keys of each metric in a text, without the histogram's own `le`.
    fn families(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
        let mut families: BTreeMap<String, (String, BTreeSet<String>)> = BTreeMap::new();
        let mut last = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap();
                let suffix = match kind {
                    "counter" => "_total",
                    "info" => "_info",
                    _ => "",
                };
                last = format!("{name}{suffix}");
                families.insert(last.clone(), (kind.to_owned(), BTreeSet::new()));
            } else if let Some((_, rest)) = line.split_once('{').filter(|_| !line.starts_with('#')) {
                let (labels, _) = rest.rsplit_once('}').unwrap();
                let keys = labels.split("\",").filter_map(|label| Some(label.split_once('=')?.0));
                let keys = keys.filter(|key| *key != "le").map(str::to_owned);
                families.get_mut(&last).unwrap().1.extend(keys);
            }
        }
        families
    }

    #[test]
    fn every_metric_is_in_the_document_with_its_type_and_labels_and_no_other() {
        let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md");
        let document = std::fs::read_to_string(document).unwrap();
        // Rows of the tables: | `name` | type | `label`, `label` | …
        let mut documented = BTreeMap::new();
        for row in document.lines().filter(|line| line.starts_with("| `mtlsd_")) {
            let cells: Vec<_> = row.split('|').map(str::trim).collect();
            let labels = cells[3].split(',').map(|l| l.trim().trim_matches('`')).filter(|l| *l != "none");
            let labels: BTreeSet<String> = labels.map(str::to_owned).collect();
            documented.insert(cells[1].trim_matches('`').to_owned(), (cells[2].to_owned(), labels));
        }
        assert_eq!(documented, families(&full().encode().unwrap()));
    }

    #[test]
    fn the_text_is_whole_openmetrics_with_the_values_that_were_counted() {
        let text = full().encode().unwrap();
        assert!(text.ends_with("# EOF\n"), "{text}");
        for line in [
            r#"mtlsd_build_info{version="1.2.3"} 1"#,
            r#"mtlsd_config_reloads_total{result="applied"} 1"#,
            r#"mtlsd_config_reloads_total{result="refused"} 1"#,
            "mtlsd_access_log_lost_total 1",
            r#"mtlsd_crl_age_seconds{trust_domain="example.org",source="/site.crl"} 90"#,
            r#"mtlsd_crl_stale{trust_domain="example.org",source="/site.crl"} 1"#,
            r#"mtlsd_ocsp_questions_total{trust_domain="example.org",result="answered"} 3"#,
            r#"mtlsd_ocsp_questions_total{trust_domain="example.org",result="failed"} 2"#,
            r#"mtlsd_ocsp_stale{trust_domain="example.org"} 1"#,
            r#"mtlsd_ocsp_age_seconds{trust_domain="example.org"} 80"#,
            r#"mtlsd_ebpf_events_total{event="connect4"} 12"#,
            r#"mtlsd_handshakes_total{workload="web",side="client",result="ok",reason="none"} 1"#,
            r#"mtlsd_handshakes_total{workload="web",side="server",result="failed",reason="plaintext"} 1"#,
            r#"mtlsd_handshake_duration_seconds_count{workload="web",side="client"} 1"#,
            r#"mtlsd_connections_opened_total{workload="web",direction="outbound",datapath="direct"} 1"#,
            r#"mtlsd_connections_live{workload="web",direction="outbound",datapath="direct"} 0"#,
            r#"mtlsd_connection_bytes_total{workload="web",direction="inbound",datapath="plaintext",flow="received"} 2"#,
            r#"mtlsd_policy_denials_total{workload="web",rule="default of strict"} 1"#,
            r#"mtlsd_plaintext_accepted_total{workload="web"} 1"#,
            r#"mtlsd_certificate_expiry_timestamp_seconds{workload="web"} 1800000000"#,
            r#"mtlsd_identity_alarm{workload="web"} 2"#,
            r#"mtlsd_identity_failures{workload="web"} 4"#,
            r#"mtlsd_embedded_ca_alarm{certificate="intermediate",name="mtlsd intermediate CA 0a1b2c3d"} 2"#,
            r#"mtlsd_embedded_ca_expiry_timestamp_seconds{certificate="intermediate",name="mtlsd intermediate CA 0a1b2c3d"} 1850000000"#,
            r#"mtlsd_leases_ended_total{workload="web",cause="revoked"} 3"#,
            r#"mtlsd_leases_overdue{workload="web",state="kept"} 5"#,
            r#"mtlsd_leases_overdue{workload="web",state="draining"} 6"#,
            r#"mtlsd_trust_roots_alarm{trust_domain="example.org"} 1"#,
            r#"mtlsd_trust_roots_expiry_timestamp_seconds{trust_domain="example.org"} 1900000000"#,
            r#"mtlsd_external_decisions_total{result="allowed"} 1"#,
            r#"mtlsd_external_decisions_total{result="denied"} 0"#,
            r#"mtlsd_external_decisions_total{result="denied_unavailable"} 1"#,
            r#"mtlsd_external_calls_total{result="answered"} 1"#,
            r#"mtlsd_external_calls_total{result="failed"} 1"#,
            "mtlsd_external_call_duration_seconds_count 2",
            "mtlsd_external_failing 1",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_removed_workload_leaves_no_series_even_while_its_connections_drain() {
        let metrics = full();
        let open = metrics.workload("web").opened(Direction::Inbound, Datapath::RelayUserspace);
        let handle = metrics.workload("web");
        metrics.remove_workload("web");
        open.add_sent(9);
        drop(open);
        handle.refused(Reason::Idle);
        assert!(!metrics.encode().unwrap().contains("workload="));
        // One of the same name starts at zero.
        assert_eq!(metrics.workload("web").opened_total(), 0);
    }

    #[test]
    fn live_connections_are_those_whose_guard_lives() {
        let metrics = Metrics::new("1");
        let web = metrics.workload("web");
        let first = web.opened(Direction::Outbound, Datapath::RelayUserspace);
        let second = web.opened(Direction::Outbound, Datapath::RelayUserspace);
        assert_eq!((web.live(), web.opened_total()), (2, 2));
        drop(first);
        assert_eq!((web.live(), web.opened_total()), (1, 2));
        drop(second);
        assert_eq!(web.live(), 0);
    }

    #[test]
    fn a_connection_that_moves_is_live_and_counted_where_it_is() {
        let metrics = Metrics::new("1");
        let web = metrics.workload("web");
        let open = web.opened(Direction::Outbound, Datapath::RelayUserspace);
        open.add_sent(1);
        open.move_to(Datapath::RelayKtls);
        open.add_sent(2);
        let of = |datapath: Datapath| {
            let traffic = web.traffic(Direction::Outbound, datapath as usize).unwrap();
            (traffic.live(), traffic.opened.load(Ordering::Relaxed), traffic.sent.load(Ordering::Relaxed))
        };
        assert_eq!((of(Datapath::RelayUserspace), of(Datapath::RelayKtls)), ((0, 1, 1), (1, 0, 2)));
        assert_eq!((web.live(), web.opened_total()), (1, 1));
        let text = metrics.encode().unwrap();
        for (datapath, live) in [("relay-userspace", 0), ("relay-ktls", 1)] {
            let labels = format!(r#"{{workload="web",direction="outbound",datapath="{datapath}"}}"#);
            assert!(text.contains(&format!("mtlsd_connections_live{labels} {live}")), "{text}");
        }
        drop(open);
        assert_eq!((of(Datapath::RelayUserspace), of(Datapath::RelayKtls)), ((0, 1, 1), (0, 0, 2)));
    }

    #[test]
    fn without_a_certificate_there_is_no_expiry() {
        let metrics = Metrics::new("1");
        let web = metrics.workload("web");
        assert!(!metrics.encode().unwrap().contains("expiry_timestamp_seconds{"));
        web.set_certificate_expiry(Some(0));
        assert!(metrics.encode().unwrap().contains("expiry_timestamp_seconds{workload=\"web\"} 0"));
        web.set_certificate_expiry(None);
        assert!(!metrics.encode().unwrap().contains("expiry_timestamp_seconds{"));
    }

    #[test]
    fn one_workload_has_one_handle_and_a_hostile_name_stays_a_label() {
        let metrics = Metrics::new("1");
        let (one, two) = (metrics.workload("web"), metrics.workload("web"));
        assert!(Arc::ptr_eq(&one, &two));
        one.denied("a\"} 1\nevil_metric{x=\"");
        let text = metrics.encode().unwrap();
        assert!(!text.lines().any(|line| line.starts_with("evil_metric")), "{text}");
    }
}
