//! An engine that fails is left alone for a while: otherwise each connection would wait for it in vain.

use std::sync::Arc;
use std::time::{Duration, Instant};

/// Failures in a row after which it is left alone.
pub(super) const FAILURES: u32 = 5;
/// For how long at first; it doubles.
pub(super) const PAUSE: Duration = Duration::from_secs(1);
/// For how long at most.
pub(super) const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Single failures are told to the log no more often: an engine that fails now and then must not fill it.
const QUIET: Duration = Duration::from_secs(60);

/// Whether to ask.
#[derive(Debug, Default)]
pub(super) struct Circuit {
    failures: u32,
    pause: Option<Pause>,
    /// What the last failure said.
    why: Option<Arc<str>>,
    /// The log knows that it fails.
    told: bool,
    quiet_until: Option<Instant>,
}

#[derive(Debug)]
struct Pause {
    until: Instant,
    length: Duration,
    /// One question is out to see whether it is back.
    probing: bool,
}

/// Whether a question may be asked.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum May {
    Ask,
    Not(Arc<str>),
}

/// What the log is to be told of a failure.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    /// The last call had been answered, and it has been quiet for a while.
    First,
    /// Nobody asks for so long.
    Paused(Duration),
}

impl Circuit {
    pub fn may_ask(&mut self, now: Instant) -> May {
        let Some(pause) = &mut self.pause else { return May::Ask };
        if now >= pause.until && !pause.probing {
            pause.probing = true;
            return May::Ask;
        }
        let why = self.why.as_deref().unwrap_or_default();
        May::Not(format!("not asked again yet, after {} failures: {why}", self.failures).into())
    }

    /// It answered; whether the log was told that it had failed.
    pub fn answered(&mut self) -> bool {
        let told = self.told;
        *self = Self { quiet_until: self.quiet_until, ..Self::default() };
        told
    }

    pub fn failed(&mut self, now: Instant, why: &Arc<str>) -> Told {
        self.failures = self.failures.saturating_add(1);
        self.why = Some(Arc::clone(why));
        let length = match &self.pause {
            // Asked before the pause began.
            Some(pause) if now < pause.until => return Told::Nothing,
            Some(pause) => (pause.length * 2).min(MAX_PAUSE),
            None if self.failures >= FAILURES => PAUSE,
            None if self.failures == 1 && self.quiet_until.is_none_or(|until| now >= until) => {
                self.quiet_until = Some(now + QUIET);
                self.told = true;
                return Told::First;
            }
            None => return Told::Nothing,
        };
        self.told = true;
        self.pause = Some(Pause { until: now + length, length, probing: false });
        Told::Paused(length)
    }

    /// The question that was to be asked could not be.
    pub fn not_asked(&mut self) {
        if let Some(pause) = &mut self.pause {
            pause.probing = false;
        }
    }

    pub fn is_failing(&self) -> bool {
        self.failures > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why() -> Arc<str> {
        "no route".into()
    }

    #[test]
    fn an_engine_that_fails_is_asked_ever_more_rarely_and_by_one_question() {
        let mut circuit = Circuit::default();
        let mut now = Instant::now();
        for number in 1..FAILURES {
            assert_eq!(circuit.may_ask(now), May::Ask);
            let told = circuit.failed(now, &why());
            assert_eq!(told, if number == 1 { Told::First } else { Told::Nothing });
        }
        for length in [1, 2, 4, 8, 16, 30, 30].map(Duration::from_secs) {
            assert_eq!(circuit.may_ask(now), May::Ask);
            assert_eq!(circuit.failed(now, &why()), Told::Paused(length));
            let May::Not(said) = circuit.may_ask(now + length - Duration::from_millis(1)) else {
                panic!("it pauses")
            };
            assert!(said.contains("no route"), "{said}");
            now += length;
            assert_eq!(circuit.may_ask(now), May::Ask, "the probe");
            assert!(matches!(circuit.may_ask(now), May::Not(_)), "there is one out");
            circuit.not_asked();
        }
        assert!(circuit.is_failing());
        assert!(circuit.answered());
        assert!(!circuit.is_failing() && !circuit.answered());
        assert_eq!(circuit.may_ask(now), May::Ask);
    }

    #[test]
    fn an_engine_that_fails_now_and_then_is_told_about_once_a_minute() {
        let mut circuit = Circuit::default();
        let now = Instant::now();
        assert_eq!(circuit.failed(now, &why()), Told::First);
        assert!(circuit.answered(), "the log is told that it is back");
        for seconds in 0..60 {
            assert_eq!(circuit.failed(now + Duration::from_secs(seconds), &why()), Told::Nothing);
            assert!(!circuit.answered());
        }
        assert_eq!(circuit.failed(now + QUIET, &why()), Told::First);
    }

    #[test]
    fn calls_that_were_under_way_when_the_pause_began_do_not_make_it_longer() {
        let mut circuit = Circuit::default();
        let now = Instant::now();
        let told: Vec<_> = (0..16).map(|_| circuit.failed(now, &why())).collect();
        assert_eq!(told.iter().filter(|told| matches!(told, Told::Paused(_))).count(), 1);
        assert_eq!(circuit.may_ask(now + PAUSE), May::Ask);
    }
}
