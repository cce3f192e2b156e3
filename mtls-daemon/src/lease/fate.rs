//! What becomes of connections that would not be allowed any more.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::{AtEnd, LeaseSettings};
use crate::observe::Reason;
use crate::observe::cause::Cause;
use crate::observe::metrics::WorkloadMetrics;

/// What a workload wants, and where it is counted.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Its settings.
    pub settings: LeaseSettings,
    /// Its counters.
    pub metrics: Arc<WorkloadMetrics>,
}

/// What becomes of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Cut,
    Drain(Duration),
    Keep,
}

impl Fate {
    pub fn of(settings: &LeaseSettings, reason: Reason) -> Self {
        let at_end = match Cause::of(reason) {
            Some(Cause::Expired) => settings.expired,
            Some(Cause::Revoked) => settings.revoked,
            Some(Cause::Policy) => settings.policy,
            None => AtEnd::Cut,
        };
        match at_end {
            AtEnd::Cut => Self::Cut,
            AtEnd::Drain => Self::Drain(settings.drain),
            AtEnd::Keep => Self::Keep,
        }
    }
}

/// How long connections go on that would not be allowed any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overdue {
    /// Until they end by themselves.
    Kept,
    /// Until then.
    Until(Instant),
}

/// What time it is.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// By the clock that certificates go by.
    pub wall: SystemTime,
    /// By the one that nobody sets.
    pub monotonic: Instant,
}

impl Now {
    /// Asks the system.
    #[must_use]
    pub fn read() -> Self {
        Self { wall: SystemTime::now(), monotonic: Instant::now() }
    }
}

/// What came of looking at connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// Connections that were ended.
    pub connections: usize,
    /// Groups that were looked at.
    pub looked_at: usize,
    /// Connections that are left some time from now on.
    pub draining: usize,
    /// Connections that are kept from now on though they are over.
    pub kept: usize,
}

impl Ended {
    /// Nothing became of any of them.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        (self.connections, self.draining, self.kept) == (0, 0, 0)
    }
}
