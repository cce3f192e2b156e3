//! The same checks all the time: what can be put back is put back, the rest is an alarm.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Finding, Part, Repair};
use crate::lifecycle::daemon::{Daemon, lock};

/// How often it is seen what is due.
const TICK: Duration = Duration::from_millis(250);
/// A part is not looked at again before this many times as long as the last look took: 1 % of a processor.
const REST: u32 = 100;

/// After the start, applications have other things to do than to be knocked at.
const FIRST_TRIAL: Duration = Duration::from_secs(60);

/// How often each part is looked at.
const fn interval(part: Part) -> Duration {
    match part {
        Part::Programs | Part::Namespaces => Duration::from_secs(1),
        Part::Connections | Part::Listeners => Duration::from_secs(10),
        // The kernel goes through every slot of a table, used or not.
        Part::Tables => Duration::from_secs(20),
        Part::Order => Duration::from_secs(60),
        Part::StrictPorts => Duration::from_secs(300),
    }
}

/// What the last looks found; only parts that did not hold.
#[derive(Debug, Default)]
pub struct Coverage(BTreeMap<Part, Vec<Finding>>);

impl Coverage {
    /// What does not hold now: the part's title, and a sentence.
    pub fn alarms(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.0.iter().map(|(part, findings)| {
            let first = findings.first().map_or("", |finding| finding.detail.as_str());
            let more = match findings.len() {
                0 | 1 => String::new(),
                n => format!(" (and {} more)", n - 1),
            };
            (part.title(), format!("{first}{more}; see `mtlsd verify`"))
        })
    }

    /// Takes what a look found that does not hold; true if that is news.
    fn set(&mut self, part: Part, bad: Vec<Finding>) -> bool {
        let before = self.0.get(&part).map_or(0, Vec::len);
        let now = bad.len();
        if bad.is_empty() {
            self.0.remove(&part);
        } else {
            self.0.insert(part, bad);
        }
        (before == 0) != (now == 0) || now > before
    }
}

/// When each part is due.
struct Due(BTreeMap<Part, Instant>);

impl Due {
    fn from(now: Instant) -> Self {
        let first = |part| if part == Part::StrictPorts { now + FIRST_TRIAL } else { now };
        Self(Part::ALL.into_iter().map(|part| (part, first(part))).collect())
    }

    fn is_due(&self, part: Part, now: Instant) -> bool {
        self.0.get(&part).is_none_or(|due| *due <= now)
    }

    fn looked(&mut self, part: Part, began: Instant, ended: Instant) {
        let rest = ended.saturating_duration_since(began).saturating_mul(REST);
        self.0.insert(part, ended + interval(part).max(rest));
    }
}

/// Looks and repairs until the daemon stops.
pub async fn keep(daemon: Arc<Daemon>) {
    let mut stopping = daemon.stopping.subscribe();
    let mut due = Due::from(Instant::now());
    loop {
        let work = Arc::clone(&daemon);
        let round = tokio::task::spawn_blocking(move || {
            for part in Part::ALL {
                let began = Instant::now();
                if due.is_due(part, began) && !*work.stopping.borrow() {
                    look_at(&work, part);
                    due.looked(part, began, Instant::now());
                }
            }
            due
        });
        due = match round.await {
            Ok(due) => due,
            Err(error) => {
                tracing::error!(%error, "a look at the coverage failed");
                Due::from(Instant::now() + interval(Part::StrictPorts))
            }
        };
        tokio::select! {
            () = tokio::time::sleep(TICK) => {}
            _ = stopping.wait_for(|stopping| *stopping) => return,
        }
    }
}

fn look_at(daemon: &Daemon, part: Part) {
    let bad = |findings: Vec<Finding>| findings.into_iter().filter(|finding| !finding.ok).collect::<Vec<_>>();
    let mut findings = bad(part.look(daemon, false));
    if !findings.is_empty() && repair(daemon, part) {
        findings = bad(part.look(daemon, false));
    }
    let metrics = daemon.relay.observer.metrics();
    metrics.set_verify_failed(part.code(), !findings.is_empty());
    let told = findings.first().cloned();
    let count = findings.len();
    if lock(&daemon.coverage).set(part, findings) {
        tell(part, told.as_ref(), count);
    }
}

/// True if something was put back.
fn repair(daemon: &Daemon, part: Part) -> bool {
    // What cannot be put back is tried again each time, and told once.
    let told = lock(&daemon.coverage).0.contains_key(&part);
    let mut any = false;
    for Repair { what, detail, result } in part.repair(daemon) {
        match result {
            Ok(()) => {
                tracing::warn!(what, "put back: {detail}");
                daemon.relay.observer.metrics().repaired(what);
                any = true;
            }
            Err(error) if told => tracing::debug!(what, error, "cannot put back: {detail}"),
            Err(error) => tracing::error!(what, error, "cannot put back: {detail}"),
        }
    }
    any
}

fn tell(part: Part, finding: Option<&Finding>, count: usize) {
    let check = part.title();
    match finding {
        None => tracing::info!(check, "the alarm is over: it holds again"),
        Some(Finding { workload, detail, mend, .. }) => {
            let workload = workload.as_deref().unwrap_or("(node)");
            tracing::error!(check, workload, count, "{detail}; {mend}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(n: usize) -> Vec<Finding> {
        (0..n).map(|n| Finding::bad(None, format!("finding {n}"), "mend")).collect()
    }

    #[test]
    fn an_alarm_is_told_when_it_begins_grows_and_ends_and_not_while_it_stays() {
        let mut coverage = Coverage::default();
        assert!(!coverage.set(Part::Connections, bad(0)));
        assert!(coverage.set(Part::Connections, bad(1)));
        assert!(!coverage.set(Part::Connections, bad(1)));
        assert!(coverage.set(Part::Connections, bad(3)));
        let alarms: Vec<_> = coverage.alarms().collect();
        let told = "finding 0 (and 2 more); see `mtlsd verify`".to_owned();
        assert_eq!(alarms, [("connections accounted for", told)]);
        assert!(!coverage.set(Part::Connections, bad(2)), "fewer are no news");
        assert!(coverage.set(Part::Connections, bad(0)));
        assert_eq!(coverage.alarms().count(), 0);
    }

    #[test]
    fn a_look_that_takes_long_is_followed_by_a_long_rest() {
        let now = Instant::now();
        let mut due = Due::from(now);
        let at_once = |part: &&Part| due.is_due(**part, now);
        assert_eq!(Part::ALL.iter().filter(at_once).count(), Part::ALL.len() - 1);
        assert!(due.is_due(Part::StrictPorts, now + FIRST_TRIAL));
        let second = Duration::from_secs(1);
        due.looked(Part::Connections, now, now + second / 100);
        assert!(!due.is_due(Part::Connections, now + second * 9));
        assert!(due.is_due(Part::Connections, now + second * 11));
        due.looked(Part::Connections, now, now + second);
        assert!(!due.is_due(Part::Connections, now + second * 100));
        assert!(due.is_due(Part::Connections, now + second * 101));
        assert!(due.is_due(Part::Order, now), "each for itself");
    }
}
