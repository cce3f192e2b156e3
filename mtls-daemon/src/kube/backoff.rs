//! Pauses between tries: decorrelated, so that the daemons of a fleet do not come back all at once.

use std::time::Duration;

use super::timing::Timing;

/// Longest pause that a server may ask for.
const MAX_ASKED: Duration = Duration::from_secs(120);

/// The next pause is between the shortest and three times the one before, and never above the longest.
#[derive(Debug)]
pub(super) struct Backoff {
    least: Duration,
    most: Duration,
    before: Duration,
}

impl Backoff {
    pub fn new(timing: Timing) -> Self {
        Self { least: timing.min_pause, most: timing.max_pause, before: timing.min_pause }
    }

    /// It works again.
    pub fn reset(&mut self) {
        self.before = self.least;
    }

    /// The next pause; no shorter than the server asked for, up to two minutes.
    pub fn next(&mut self, asked: Option<Duration>) -> Duration {
        let span = self.before.saturating_mul(3).saturating_sub(self.least);
        let pause = self.least.saturating_add(span.mul_f64(fastrand::f64())).min(self.most);
        self.before = pause.max(self.least);
        pause.max(asked.unwrap_or_default().min(MAX_ASKED))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_from_0_8_to_30_seconds_and_differ() {
        let mut backoff = Backoff::new(Timing::default());
        let first = backoff.next(None);
        assert!(first >= Duration::from_millis(800) && first <= Duration::from_millis(2_400), "{first:?}");
        let later: Vec<_> = (0..1_000).map(|_| backoff.next(None)).collect();
        let (least, most) = (later.iter().min().unwrap(), later.iter().max().unwrap());
        assert!(
            *least >= Duration::from_millis(800) && *most == Duration::from_secs(30),
            "{least:?} {most:?}"
        );
        assert!(later.iter().collect::<std::collections::BTreeSet<_>>().len() > 100);
        backoff.reset();
        assert!(backoff.next(None) <= Duration::from_millis(2_400));
    }

    #[test]
    fn a_server_is_given_the_time_that_it_asks_for_within_bounds() {
        let mut backoff = Backoff::new(Timing::default());
        assert_eq!(backoff.next(Some(Duration::from_secs(60))), Duration::from_secs(60));
        assert_eq!(backoff.next(Some(Duration::MAX)), MAX_ASKED);
    }
}
