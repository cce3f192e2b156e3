//! One handle per connection that feeds the recorder, the metrics and the access log together, so that no
//! connection can end without leaving its record.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;

use super::access_log::AccessLog;
use super::connection::{
    ConnectionIds, ConnectionRecord, Datapath, Direction, Ending, LiveConnection, Opening,
};
use super::explain::Step;
use super::metrics::{Metrics, OpenConnection, Side, WorkloadMetrics};
use super::reason::{Reason, Refusal};
use super::recorder::Recorder;

/// Where all observations of a daemon meet.
#[derive(Debug)]
pub struct Observer {
    ids: ConnectionIds,
    recorder: Recorder,
    metrics: Metrics,
    access_log: ArcSwap<AccessLog>,
}

/// What is known of a connection when it is captured.
#[derive(Debug, Clone)]
pub struct Captured {
    /// Who opened it.
    pub direction: Direction,
    /// SPIFFE ID of the local workload, if it has one.
    pub local_identity: Option<Arc<str>>,
    /// Address of the client as the applications see it.
    pub source: SocketAddr,
    /// Address that the client application connected to.
    pub destination: SocketAddr,
}

impl Observer {
    /// An observer that writes to the given parts.
    #[must_use]
    pub fn new(recorder: Recorder, metrics: Metrics, access_log: AccessLog) -> Self {
        let access_log = ArcSwap::from_pointee(access_log);
        Self { ids: ConnectionIds::new(), recorder, metrics, access_log }
    }

    /// An observer that keeps the last records and tells nobody.
    #[must_use]
    pub fn silent() -> Self {
        let records = NonZeroUsize::MIN.saturating_add(255);
        Self::new(Recorder::new(records), Metrics::new(""), AccessLog::off())
    }

    /// The flight recorder.
    #[must_use]
    pub fn recorder(&self) -> &Recorder {
        &self.recorder
    }

    /// The metrics.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The access log in use.
    #[must_use]
    pub fn access_log(&self) -> Arc<AccessLog> {
        self.access_log.load_full()
    }

    /// Takes another access log into use; the old one ends when its queue is empty.
    pub fn set_access_log(&self, access_log: AccessLog) {
        self.access_log.store(Arc::new(access_log));
    }

    /// A connection of a workload was captured. `workload` comes from [`Metrics::workload`].
    #[must_use]
    pub fn begin(self: &Arc<Self>, workload: &Arc<WorkloadMetrics>, captured: Captured) -> Observed {
        let live = Arc::new(LiveConnection::new(Opening {
            id: self.ids.next(),
            direction: captured.direction,
            workload: Arc::clone(workload.name()),
            local_identity: captured.local_identity,
            source: captured.source.into(),
            destination: captured.destination.into(),
        }));
        self.recorder.open(Arc::clone(&live));
        Observed {
            observer: Arc::clone(self),
            workload: Arc::clone(workload),
            live,
            open: OnceLock::new(),
            ended: false,
        }
    }
}

/// A connection under observation. End it with [`Observed::end`]; dropped without, it is recorded as stopped.
#[derive(Debug)]
pub struct Observed {
    observer: Arc<Observer>,
    workload: Arc<WorkloadMetrics>,
    live: Arc<LiveConnection>,
    open: OnceLock<OpenConnection>,
    ended: bool,
}

impl Observed {
    /// The live connection, to note what becomes known ([`LiveConnection::learn`]).
    #[must_use]
    pub fn connection(&self) -> &LiveConnection {
        &self.live
    }

    /// The same, for those who outlive this handle.
    #[must_use]
    pub fn shared(&self) -> Arc<LiveConnection> {
        Arc::clone(&self.live)
    }

    /// Both sides accepted each other, this long after the first byte of the handshake.
    pub fn handshake_done(&self, took: Duration) {
        self.live.learn(|learned| learned.handshake = Some(took));
        self.workload.handshake_ok(self.side(), took);
    }

    /// Bytes may flow, on this datapath. Only the first call counts.
    pub fn established(&self, datapath: Datapath, why_not_better: Option<Cow<'static, str>>) {
        self.open.get_or_init(|| {
            self.live.learn(|learned| {
                learned.datapath = Some(datapath);
                learned.why_not_better = why_not_better;
            });
            let direction = self.live.opening().direction;
            if datapath == Datapath::Plaintext && direction == Direction::Inbound {
                self.workload.plaintext_accepted();
            }
            self.workload.opened(direction, datapath)
        });
    }

    /// The connection goes on over another datapath.
    pub fn moved(&self, datapath: Datapath, why_not_better: Cow<'static, str>) {
        self.live.learn(|learned| {
            learned.datapath = Some(datapath);
            learned.why_not_better = Some(why_not_better);
        });
        if let Some(open) = self.open.get() {
            open.move_to(datapath);
        }
    }

    /// It stays where it is, for another reason.
    pub fn stays(&self, why_not_better: String) {
        self.live.learn(|learned| learned.why_not_better = Some(why_not_better.into()));
    }

    /// Bytes that went from the local workload to the peer.
    pub fn add_sent(&self, bytes: u64) {
        self.live.add_sent(bytes);
        if let Some(open) = self.open.get() {
            open.add_sent(bytes);
        }
    }

    /// Bytes that went from the peer to the local workload.
    pub fn add_received(&self, bytes: u64) {
        self.live.add_received(bytes);
        if let Some(open) = self.open.get() {
            open.add_received(bytes);
        }
    }

    /// It goes on without this daemon: its end is for another one to record.
    pub fn left_open(mut self) {
        self.ended = true;
        self.open.take();
        self.observer.recorder.forget(self.live.id());
    }

    /// It ended: counts, logs and records it.
    pub fn end(mut self, ending: Ending) -> Arc<ConnectionRecord> {
        self.finish(ending)
    }

    fn side(&self) -> Side {
        self.live.opening().direction.into()
    }

    fn finish(&mut self, ending: Ending) -> Arc<ConnectionRecord> {
        self.ended = true;
        let refused = match &ending {
            Ending::Refused(refusal) => Some(refusal.reason),
            Ending::Closed | Ending::Cut(_) => None,
        };
        let record = Arc::new(self.live.ended(ending));
        if let Some(reason) = refused {
            self.workload.refused(reason);
            let external = matches!(reason, Reason::ExternalDenied | Reason::ExternalUnavailable);
            let denied = external || matches!(reason, Reason::PolicyDenied | Reason::PolicyDefault);
            // The client finds another server than expected while it verifies the server's certificate; the
            // server that tells by an alert asks policy before the handshake is done.
            let within = record.tls.is_some() && record.handshake_us.is_none();
            if Step::failed(&record).is_some_and(Step::is_handshake)
                || reason == Reason::UnexpectedServer
                || (denied && within)
            {
                self.workload.handshake_failed(self.side(), reason);
            }
            if denied {
                // The engine's names are not the configuration's, and nobody bounds their number.
                let rule = record.policy.as_deref().unwrap_or("unnamed");
                self.workload.denied(if external { "external" } else { rule });
            }
        }
        self.open.take();
        self.observer.recorder.record(Arc::clone(&record));
        self.observer.access_log.load().write(Arc::clone(&record));
        record
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let refusal = Refusal::new(Reason::ShuttingDown, "the task that carried it was stopped");
        let established = self.open.get().is_some();
        self.finish(if established { Ending::Cut(refusal) } else { Ending::Refused(refusal) });
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::super::access_log::Target;
    use super::super::connection::{Event, TlsInfo};
    use super::*;

    fn observer(target: Target) -> Arc<Observer> {
        let metrics = Metrics::new("1.2.3");
        let log = AccessLog::start(target, metrics.access_log_lost()).unwrap();
        Arc::new(Observer::new(Recorder::new(NonZeroUsize::new(16).unwrap()), metrics, log))
    }

    fn begin(observer: &Arc<Observer>) -> Observed {
        let captured = Captured {
            direction: Direction::Inbound,
            local_identity: Some("spiffe://example.org/db".into()),
            source: "10.0.0.2:41000".parse().unwrap(),
            destination: "10.1.0.7:5432".parse().unwrap(),
        };
        observer.begin(&observer.metrics().workload("db"), captured)
    }

    #[test]
    fn an_accepted_connection_is_in_the_recorder_the_metrics_and_the_log() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("access.jsonl");
        let observer = observer(Target::File(path.clone()));
        let connection = begin(&observer);
        connection.handshake_done(Duration::from_millis(3));
        connection.established(Datapath::RelayUserspace, Some("test".into()));
        connection.established(Datapath::Direct, None);
        connection.add_sent(5);
        connection.add_received(7);
        let workload = observer.metrics().workload("db");
        assert_eq!((workload.live(), observer.recorder().live_count()), (1, 1));
        let record = connection.end(Ending::Closed);
        assert_eq!(record.datapath, Some(Datapath::RelayUserspace));
        assert_eq!((workload.live(), workload.opened_total(), observer.recorder().live_count()), (0, 1, 0));
        assert!(observer.access_log().flush(Duration::from_secs(20)));
        let line = std::fs::read_to_string(&path).unwrap();
        assert_eq!(serde_json::from_str::<ConnectionRecord>(&line).unwrap(), *record);
        let text = observer.metrics().encode().unwrap();
        let labels = r#"workload="db",direction="inbound",datapath="relay-userspace",flow="received""#;
        assert!(text.contains(&format!("mtlsd_connection_bytes_total{{{labels}}} 7")), "{text}");
    }

    #[test]
    fn a_refusal_is_counted_by_its_reason_and_where_it_belongs() {
        let observer = observer(Target::Off);
        begin(&observer).end(Ending::Refused(Reason::CertificateExpired.into()));
        begin(&observer).end(Ending::Refused(Reason::UnexpectedServer.into()));
        begin(&observer).end(Ending::Refused(Reason::WorkloadLimit.into()));
        let denied = begin(&observer);
        denied.handshake_done(Duration::from_millis(1));
        denied.connection().learn(|l| l.policy = Some("no-web".into()));
        denied.end(Ending::Refused(Reason::PolicyDenied.into()));
        let text = observer.metrics().encode().unwrap();
        for line in [
            r#"mtlsd_handshakes_total{workload="db",side="server",result="failed",reason="certificate_expired"} 1"#,
            r#"mtlsd_handshakes_total{workload="db",side="server",result="ok",reason="none"} 1"#,
            r#"mtlsd_connections_refused_total{workload="db",reason="certificate_expired"} 1"#,
            r#"mtlsd_connections_refused_total{workload="db",reason="policy_denied"} 1"#,
            r#"mtlsd_policy_denials_total{workload="db",rule="no-web"} 1"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
        assert!(text.contains(r#"result="failed",reason="unexpected_server"} 1"#), "{text}");
        assert!(!text.contains(r#"result="failed",reason="policy_denied""#), "{text}");
        assert!(!text.contains(r#"result="failed",reason="workload_limit""#), "{text}");
        assert_eq!(observer.recorder().last_refused().unwrap().policy.as_deref(), Some("no-web"));
    }

    #[test]
    fn a_denial_within_the_handshake_is_a_failed_handshake_too() {
        let observer = observer(Target::Off);
        let denied = begin(&observer);
        denied.shared().learn(|l| {
            let text = || "".into();
            l.tls = Some(Arc::new(TlsInfo { version: text(), suite: text(), group: text() }));
        });
        denied.end(Ending::Refused(Reason::PolicyDefault.into()));
        // No handshake at all: a plaintext client of a permissive port.
        begin(&observer).end(Ending::Refused(Reason::PolicyDefault.into()));
        let text = observer.metrics().encode().unwrap();
        for line in [
            r#"mtlsd_handshakes_total{workload="db",side="server",result="failed",reason="policy_default"} 1"#,
            r#"mtlsd_connections_refused_total{workload="db",reason="policy_default"} 2"#,
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    }

    #[test]
    fn a_task_that_is_stopped_still_leaves_its_record() {
        let observer = observer(Target::Off);
        drop(begin(&observer));
        let established = begin(&observer);
        established.established(Datapath::Plaintext, None);
        drop(established);
        let records = observer.recorder().list(None, 10);
        let events: Vec<_> = records.iter().map(|r| r.event).collect();
        assert_eq!(events, [Event::Closed, Event::Refused]);
        for record in records {
            assert_eq!(record.reason.as_ref().unwrap().reason(), Some(Reason::ShuttingDown));
        }
        let workload = observer.metrics().workload("db");
        assert_eq!((workload.live(), workload.plaintext_total(), workload.refused_total()), (0, 1, 1));
    }

    #[test]
    fn the_access_log_can_be_changed_while_running() {
        let directory = tempfile::tempdir().unwrap();
        let (first, second) = (directory.path().join("1"), directory.path().join("2"));
        let observer = observer(Target::File(first.clone()));
        begin(&observer).end(Ending::Closed);
        assert!(observer.access_log().flush(Duration::from_secs(20)));
        let lost = observer.metrics().access_log_lost();
        observer.set_access_log(AccessLog::start(Target::File(second.clone()), lost).unwrap());
        begin(&observer).end(Ending::Closed);
        assert!(observer.access_log().flush(Duration::from_secs(20)));
        for path in [first, second] {
            assert_eq!(std::fs::read_to_string(path).unwrap().lines().count(), 1);
        }
    }
}
