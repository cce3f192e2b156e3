//! When the next fetch is due, by two clocks: the wall clock may be set, the monotonic one stops in suspend.

use std::time::{Duration, Instant, SystemTime};

use crate::identity::{X509Svid, when};

/// First pause after a failure; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_secs(1);
const MAX_BACKOFF: Duration = Duration::from_secs(60);
/// How much earlier or later than half of the life a renewal may be, as a part of the wait: workloads that started together
/// must not ask their issuer together for ever.
const JITTER: f64 = 0.1;

/// The same instant by both clocks.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    pub(super) monotonic: Instant,
    pub(super) system: SystemTime,
}

impl Clock {
    pub(super) fn now() -> Self {
        Self { monotonic: Instant::now(), system: SystemTime::now() }
    }
}

#[derive(Debug, Clone, Copy)]
struct Renewal {
    monotonic: Instant,
    system: SystemTime,
    not_before: SystemTime,
}

/// What is known about the next fetch of one workload.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    renewal: Option<Renewal>,
    retry_at: Option<Instant>,
    failures: u32,
    /// Seeded by the system; a test sets its own.
    pub(super) random: fastrand::Rng,
}

impl Schedule {
    /// `renews`: the source makes a new certificate each time, so half of the life is the time to ask.
    pub(super) fn succeeded(&mut self, now: Clock, svid: &X509Svid, renews: bool) {
        self.retry_at = None;
        self.failures = 0;
        self.renewal = renews.then(|| {
            // Half of what is left if half of the life is already over, as with a short life and the backdating
            // of notBefore: else the source would be asked at every tick.
            let left = when::between(now.system, svid.not_after);
            let wait = match when::between(now.system, svid.renew_at()) {
                Duration::ZERO => left / 2,
                wait => wait,
            };
            let wait = wait.mul_f64(1.0 - JITTER + 2.0 * JITTER * self.random.f64());
            Renewal {
                monotonic: now.monotonic.checked_add(wait).unwrap_or(now.monotonic),
                system: now.system.checked_add(wait).unwrap_or(svid.not_after),
                not_before: svid.not_before,
            }
        });
    }

    /// Nothing was fetched yet, and somebody waits for it.
    pub(super) fn at_once(&mut self, now: Clock) {
        self.retry_at = Some(now.monotonic);
    }

    pub(super) fn failed(&mut self, now: Clock) {
        let doubled = 2_u32.saturating_pow(self.failures.min(16));
        let pause = MIN_BACKOFF.saturating_mul(doubled).min(MAX_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = now.monotonic.checked_add(pause);
    }

    pub(super) fn is_due(&self, now: Clock) -> bool {
        if let Some(retry_at) = self.retry_at {
            return now.monotonic >= retry_at;
        }
        self.renewal.is_some_and(|renewal| {
            now.monotonic >= renewal.monotonic
                || now.system >= renewal.system
                // The clock was set back beyond our certificate: one of today's time is wanted.
                || when::between(now.system, renewal.not_before) > when::CLOCK_SKEW
        })
    }

    pub(super) fn next_renewal(&self) -> Option<SystemTime> {
        self.renewal.map(|renewal| renewal.system)
    }

    pub(super) fn failures(&self) -> u32 {
        self.failures
    }
}
