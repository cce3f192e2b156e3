//! The series of one workload: atomics that are counted on the connection path.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};

use super::super::cause::Cause;
use super::super::connection::{Datapath, Direction};
use super::super::reason::Reason;
use super::lock;
use crate::identity::alarm::Level;

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
pub(super) struct Counts<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Counts<N> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl<const N: usize> Counts<N> {
    pub fn add(&self, index: usize, by: u64) {
        if let Some(count) = self.0.get(index) {
            count.fetch_add(by, Ordering::Relaxed);
        }
    }

    pub fn get(&self, index: usize) -> u64 {
        self.0.get(index).map_or(0, |count| count.load(Ordering::Relaxed))
    }
}

/// Connections of one workload in one direction over one datapath.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    pub(super) opened: AtomicU64,
    pub(super) closed: AtomicU64,
    /// Live ones that came from another datapath, less those that left for one.
    pub(super) moved: AtomicI64,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
}

/// The series of one workload: look it up once ([`super::Metrics::workload`]), then count without locks or hashing.
#[derive(Debug)]
pub struct WorkloadMetrics {
    pub(super) name: Arc<str>,
    pub(super) handshakes_ok: Counts<2>,
    pub(super) handshakes_failed: [Counts<REASONS>; 2],
    pub(super) handshake_seconds: [Histogram; 2],
    pub(super) traffic: [[Traffic; DATAPATHS]; 2],
    pub(super) refused: Counts<REASONS>,
    pub(super) plaintext_accepted: AtomicU64,
    // Rule names come from the configuration, so their number is bounded by it. Denials are off the hot path.
    pub(super) denials: Mutex<BTreeMap<Arc<str>, u64>>,
    pub(super) certificate_expiry: AtomicI64,
    pub(super) identity_alarm: AtomicUsize,
    pub(super) identity_failures: AtomicU64,
    pub(super) leases_ended: Counts<{ Cause::ALL.len() }>,
    /// Kept, and draining.
    pub(super) leases_overdue: Counts<2>,
    pub(super) unaccounted: AtomicU64,
}

/// No certificate: the gauge is absent, rather than a lie.
pub(super) const NO_CERTIFICATE: i64 = i64::MIN;

impl WorkloadMetrics {
    /// All at zero, and in nobody's metrics: [`super::Metrics::workload`] gives those that are shown.
    #[must_use]
    pub fn new(name: Arc<str>) -> Self {
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

    pub(super) fn traffic(&self, direction: Direction, datapath: usize) -> Option<&Traffic> {
        self.traffic.get(direction as usize)?.get(datapath)
    }
}

impl Traffic {
    /// A connection was opened here, or moved here.
    pub fn was_used(&self) -> bool {
        self.opened.load(Ordering::Relaxed) > 0 || self.moved.load(Ordering::Relaxed) > 0
    }

    pub fn live(&self) -> u64 {
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
