//! The policy engine of `policy_external` in the metrics.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Unit;

use super::{Counts, counter};

/// What became of a connection that was asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExternalResult {
    /// The engine allows it.
    Allowed,
    /// The engine denies it.
    Denied,
    /// Without an answer it was allowed.
    AllowedUnavailable,
    /// Without an answer it was denied.
    DeniedUnavailable,
}

impl ExternalResult {
    /// Every result.
    pub const ALL: [Self; 4] =
        [Self::Allowed, Self::Denied, Self::AllowedUnavailable, Self::DeniedUnavailable];

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::AllowedUnavailable => "allowed_unavailable",
            Self::DeniedUnavailable => "denied_unavailable",
        }
    }
}

/// What is counted.
#[derive(Debug)]
pub struct ExternalMetrics {
    decisions: Counts<{ ExternalResult::ALL.len() }>,
    /// Answered, and not.
    calls: Counts<2>,
    seconds: Histogram,
    failing: AtomicBool,
}

impl Default for ExternalMetrics {
    fn default() -> Self {
        Self {
            decisions: Counts::default(),
            calls: Counts::default(),
            // 0.5 ms to 16.4 s: below an engine on this machine, above the longest timeout.
            seconds: Histogram::new(exponential_buckets(0.0005, 2.0, 16)),
            failing: AtomicBool::new(false),
        }
    }
}

impl ExternalMetrics {
    /// A connection was decided on, by a call or by what was known.
    pub fn decided(&self, result: ExternalResult) {
        self.decisions.add(result as usize, 1);
    }

    /// A call ended.
    pub fn called(&self, answered: bool, took: Duration) {
        self.calls.add(usize::from(!answered), 1);
        self.seconds.observe(took.as_secs_f64());
    }

    /// Whether the last call failed.
    pub fn set_failing(&self, failing: bool) {
        self.failing.store(failing, Ordering::Relaxed);
    }

    /// Calls that were answered, and calls that were not.
    #[must_use]
    pub fn calls(&self) -> [u64; 2] {
        [self.calls.get(0), self.calls.get(1)]
    }

    pub(super) fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Connections that the policy engine was to decide on, by what became of them";
        let mut metric = encoder.encode_descriptor("external_decisions", help, None, MetricType::Counter)?;
        for result in ExternalResult::ALL {
            counter(&mut metric, &[("result", result.as_str())], self.decisions.get(result as usize))?;
        }
        let help = "Calls to the policy engine";
        let mut metric = encoder.encode_descriptor("external_calls", help, None, MetricType::Counter)?;
        for (index, result) in ["answered", "failed"].into_iter().enumerate() {
            counter(&mut metric, &[("result", result)], self.calls.get(index))?;
        }
        let help = "Time that calls to the policy engine took";
        let unit = Some(&Unit::Seconds);
        let metric =
            encoder.encode_descriptor("external_call_duration", help, unit, MetricType::Histogram)?;
        self.seconds.encode(metric)?;
        let help = "1 if the last call to the policy engine failed";
        let metric = encoder.encode_descriptor("external_failing", help, None, MetricType::Gauge)?;
        ConstGauge::new(i64::from(self.failing.load(Ordering::Relaxed))).encode(metric)
    }
}
