//! What observing costs each connection: its record from beginning to end, and its line in the access log.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mtls_daemon::observe::access_log::{self, AccessLog, Target};
use mtls_daemon::observe::connection::{CertificateInfo, TlsInfo};
use mtls_daemon::observe::{
    Captured, ConnectionRecord, Datapath, Direction, Ending, Metrics, Observer, Recorder, WorkloadMetrics,
};

use crate::suite::Suite;

const COUNTED: u32 = 2_000;
/// As many as the flight recorder may keep here; it is full when counting begins.
const RECORDED: usize = 256;

pub fn add(suite: &mut Suite) {
    suite.bench("observe/connection", COUNTED, || {
        let observer = Observing::new();
        for _ in 0..RECORDED {
            observer.connection();
        }
        assert_eq!(observer.observer.recorder().list(None, 2 * RECORDED).len(), RECORDED);
        move || observer.connection()
    });
    suite.bench("observe/access-log-line", COUNTED, || {
        let record = Observing::new().connection();
        let mut line = Vec::new();
        move || {
            line.clear();
            access_log::append_line(&mut line, &record).unwrap();
            assert_eq!(line.last(), Some(&b'\n'));
        }
    });
}

struct Observing {
    observer: Arc<Observer>,
    workload: Arc<WorkloadMetrics>,
    name: Arc<str>,
    identity: Arc<str>,
}

impl Observing {
    fn new() -> Self {
        let metrics = Metrics::new("bench");
        let workload = metrics.workload("db");
        let access_log = AccessLog::start(Target::Off, metrics.access_log_lost()).unwrap();
        let recorder = Recorder::new(NonZeroUsize::new(RECORDED).unwrap());
        let observer = Arc::new(Observer::new(recorder, metrics, access_log));
        Self { observer, workload, name: "web-to-db".into(), identity: "spiffe://example.org/db".into() }
    }

    /// One inbound connection that all went well with.
    fn connection(&self) -> Arc<ConnectionRecord> {
        let observed = self.observer.begin(
            &self.workload,
            Captured {
                direction: Direction::Inbound,
                local_identity: Some(Arc::clone(&self.identity)),
                source: ([10, 0, 0, 2], 41_000).into(),
                destination: ([10, 1, 0, 7], 5432).into(),
            },
        );
        let certificate = |serial: &str| CertificateInfo {
            serial: serial.to_owned(),
            not_after: (SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)).into(),
        };
        observed.connection().learn(|learned| {
            learned.peer_identity = Some("spiffe://example.org/web".into());
            learned.peer_proven = true;
            learned.local_certificate = Some(certificate("4ac8b2f10793de56a1b0c3d4e5f60718").into());
            learned.peer_certificate = Some(certificate("19f0e1d2c3b4a5968778695a4b3c2d1e").into());
            learned.tls = Some(Arc::new(TlsInfo {
                version: "TLSv1.3".into(),
                suite: "TLS13_AES_128_GCM_SHA256".into(),
                group: "X25519MLKEM768".into(),
            }));
            learned.policy = Some(Arc::clone(&self.name));
        });
        observed.handshake_done(Duration::from_micros(1_500));
        observed.established(Datapath::RelayUserspace, Some("the kernel has no kTLS".into()));
        observed.add_sent(4_096);
        observed.add_received(1_024);
        observed.end(Ending::Closed)
    }
}
