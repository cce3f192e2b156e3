//! What systemd is told of this process, where it asks for it (`sd_notify(3)`: NOTIFY_SOCKET, WATCHDOG_USEC in the environment).

use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// What stopping takes besides `timeouts.drain`: connections that are cut, files that are written.
const AFTER_DRAIN: Duration = Duration::from_secs(5);

/// systemd, or whoever started this daemon in its way. Without one nothing is said.
pub struct Supervisor {
    /// Half of the watchdog's time: a ping that comes late once does no harm.
    every: Option<Duration>,
    pinged: Option<Instant>,
    status: String,
    failed: bool,
}

impl Supervisor {
    /// By the environment.
    pub fn of_this_process() -> Self {
        let every = sd_notify::watchdog_enabled().map(|limit| limit / 2);
        Self { every, pinged: None, status: String::new(), failed: false }
    }

    /// The tables are in force and the namespaces that are there are entered, at the start or after a reload: what is ordered
    /// after this unit may start.
    pub fn ready(&mut self, status: String) {
        self.say(&[NotifyState::Ready]);
        self.served(Instant::now(), status);
    }

    /// The node was looked at: whoever is stuck there does not come here, and the watchdog ends it.
    pub fn served(&mut self, now: Instant, status: String) {
        if self.is_due(now) {
            self.pinged = Some(now);
            self.say(&[NotifyState::Watchdog]);
        }
        if status != self.status {
            self.say(&[NotifyState::Status(&status)]);
            self.status = status;
        }
    }

    /// SIGHUP was heard (`Type=notify-reload`).
    pub fn reloading(&mut self) {
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.say(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "systemd is not told of the reload"),
        }
    }

    /// It ends, after connections had `drain` to end.
    pub fn stopping(&mut self, drain: Duration) {
        let within = u32::try_from((drain + AFTER_DRAIN).as_micros()).unwrap_or(u32::MAX);
        self.say(&[NotifyState::Stopping, NotifyState::ExtendTimeoutUsec(within)]);
    }

    fn is_due(&self, now: Instant) -> bool {
        let Some(every) = self.every else { return false };
        self.pinged.is_none_or(|pinged| now.saturating_duration_since(pinged) >= every)
    }

    fn say(&mut self, what: &[NotifyState<'_>]) {
        match sd_notify::notify(what) {
            Ok(()) => self.failed = false,
            // Once, until it works again: it may be said twice a second.
            Err(error) if !self.failed => {
                tracing::warn!(%error, "systemd cannot be told of this daemon (NOTIFY_SOCKET); it may end it for that");
                self.failed = true;
            }
            Err(_) => {}
        }
    }
}

/// The line of `systemctl status`. `reasons`: why it is not ready; `refused`: why the last reload was.
pub fn status(reasons: &[String], refused: Option<&str>) -> String {
    let ready = match reasons {
        [] => "ready".to_owned(),
        reasons => format!("not ready: {}", reasons.join("; ")),
    };
    let line = match refused {
        None => ready,
        Some(why) => {
            format!("{ready}; the last reload was refused, the configuration from before is in force: {why}")
        }
    };
    // systemd reads one variable from each line.
    line.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every(limit: Option<Duration>) -> Supervisor {
        Supervisor { every: limit, pinged: None, status: String::new(), failed: false }
    }

    #[test]
    fn the_status_is_one_line_that_says_what_is_in_the_way() {
        assert_eq!(status(&[], None), "ready");
        let reasons = ["the daemon is starting".to_owned(), "db is not\nentered".to_owned()];
        assert_eq!(status(&reasons, None), "not ready: the daemon is starting; db is not entered");
        let refused = status(&[], Some("mtlsd.yaml:3: no such key"));
        assert!(refused.contains("refused") && refused.contains("mtlsd.yaml:3"), "{refused}");
    }

    #[test]
    fn the_watchdog_is_told_twice_in_its_time_and_only_where_there_is_one() {
        let mut supervisor = every(Some(Duration::from_secs(5)));
        let start = Instant::now();
        assert!(supervisor.is_due(start), "at once");
        supervisor.pinged = Some(start);
        assert!(!supervisor.is_due(start + Duration::from_millis(4_999)));
        assert!(supervisor.is_due(start + Duration::from_secs(5)));
        assert!(!every(None).is_due(start));
    }
}
