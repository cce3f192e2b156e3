//! The drill of revocation: two identities of the embedded CA, a real connection over loopback, and the same path that
//! `mtlsd revoke` takes. It touches no workload; what it puts on the deny list is gone by itself should the daemon die.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::build::own_marks;
use super::revoke::revoke;
use crate::control::drill::{DrillReport, DrillStep};
use crate::datapath::relay::Admission;
use crate::datapath::relay::carrier::NotDirect;
use crate::datapath::relay::context::note_handshake;
use crate::datapath::relay::convey::{self, Limits, Open, Peer};
use crate::datapath::relay::outbound::refusal_of;
use crate::datapath::relay::session::Session;
use crate::handshake::{
    ExpectedServer, PeerNameSettings, Preface, Records, TlsSettings, Trust, Verdict, WorkloadTls,
};
use crate::identity::ca::Order;
use crate::identity::revocation::{Entry, Target};
use crate::identity::{EmbeddedCa, Revocations, SpiffeId, Subject, TrustBundles};
use crate::lease::{Leases, Own, Parties};
use crate::observe::connection::{ConnectionRecord, Direction, Event};
use crate::observe::observer::{Captured, Observer};
use crate::observe::{Reason, Refusal};

/// What the log calls it; no workload can be called so.
const NAME: &str = "mtlsd drill";
/// The promise: what is revoked is cut within it.
const WITHIN: Duration = Duration::from_secs(1);
/// When a step is given up.
const LIMIT: Duration = Duration::from_secs(10);
/// How long the entry lasts if nobody takes it back, in seconds.
const LASTS: u64 = 60;

/// What a drill uses of the running daemon.
pub(super) struct Ground {
    pub ca: Arc<EmbeddedCa>,
    pub revocations: Arc<Revocations>,
    pub leases: Arc<Leases>,
    pub observer: Arc<Observer>,
}

/// Does all of it, and cleans up whatever came of it.
pub(super) async fn run(ground: &Ground) -> DrillReport {
    let mut steps = Steps(Vec::new());
    let id = drill_id(ground.ca.trust_domain().as_str());
    let spiffe_id = id.as_ref().map_or_else(String::clone, ToString::to_string);
    // A step that does not hold has said so.
    let _ended = match id {
        Ok(id) => {
            let target = Target::SpiffeId { id: id.clone() };
            let ended = drill(ground, id, &target, &mut steps).await;
            let started = Instant::now();
            let cleaned = clean_up(ground, &target).await;
            steps.note("clean up", started, cleaned);
            ended
        }
        Err(why) => steps.note("make up an identity", Instant::now(), Err(why)),
    };
    DrillReport { spiffe_id, steps: steps.0 }
}

struct Steps(Vec<DrillStep>);

impl Steps {
    fn note(&mut self, name: &str, started: Instant, outcome: Result<String, String>) -> Option<()> {
        let took_us = u64::try_from(started.elapsed().as_micros()).unwrap_or(u64::MAX);
        let ok = outcome.is_ok();
        let detail = outcome.unwrap_or_else(|why| why);
        self.0.push(DrillStep { name: name.to_owned(), ok, detail, took_us });
        ok.then_some(())
    }
}

fn drill_id(trust_domain: &str) -> Result<SpiffeId, String> {
    let mut random = [0; 8];
    aws_lc_rs::rand::fill(&mut random).map_err(|_| "there are no random numbers".to_owned())?;
    let random = u64::from_be_bytes(random);
    format!("spiffe://{trust_domain}/mtlsd/drill/{random:016x}")
        .parse()
        .map_err(|error| format!("a SPIFFE ID in {trust_domain}: {error}"))
}

async fn drill(ground: &Ground, id: SpiffeId, target: &Target, steps: &mut Steps) -> Option<()> {
    let started = Instant::now();
    let issued = issue(ground, &id).await;
    let told = issued.as_ref().map(|(client, _)| format!("certificate {}", client.serial));
    steps.note("issue an identity", started, told.map_err(Clone::clone))?;
    let (client, server) = issued.ok()?;

    let started = Instant::now();
    let opened = open(ground, &client, &server).await;
    let told = match &opened {
        Ok(_) => Ok("mutual TLS over loopback; bytes go both ways".to_owned()),
        Err(why) => Err(why.to_string()),
    };
    steps.note("connect with it", started, told)?;
    let (mut at_client, mut at_server) = opened.ok()?;

    let now = SystemTime::now();
    let entry = Entry::new(target.clone(), NAME.to_owned(), NAME.to_owned(), Some(LASTS), now);
    let started = Instant::now();
    let cut = entry.and_then(|entry| revoke(&ground.revocations, &ground.leases, &entry, now));
    let told = cut.map(|cut| format!("{} live connections are to be cut", cut.connections));
    steps.note("revoke it", started, told.map_err(|error| error.to_string()))?;

    let ended =
        tokio::time::timeout(LIMIT, async { (end_of(&mut at_client).await, end_of(&mut at_server).await) });
    let told = match ended.await {
        Ok((Ok(()), Ok(()))) if started.elapsed() <= WITHIN => Ok("reset at both ends".to_owned()),
        Ok((Ok(()), Ok(()))) => Err(format!("reset at both ends, but not within {WITHIN:?}")),
        Ok((Err(how), _) | (_, Err(how))) => Err(how),
        Err(_) => Err(format!("it still lives after {LIMIT:?}")),
    };
    // Counted from the revocation on: that is what is promised.
    steps.note("its live connection is cut", started, told)?;

    let started = Instant::now();
    let told = match shake_hands(&client, &server).await {
        Err(refusal) if refusal.reason == Reason::Revoked => Ok(refusal.detail),
        Err(refusal) => Err(format!("refused for another reason: {refusal}")),
        Ok(_) => Err("it was accepted".to_owned()),
    };
    steps.note("a new connection is refused", started, told)
}

async fn clean_up(ground: &Ground, target: &Target) -> Result<String, String> {
    let is_open = |record: &Arc<ConnectionRecord>| record.event == Event::Open;
    let deadline = Instant::now() + LIMIT;
    while ground.observer.recorder().list(Some(NAME), 16).iter().any(is_open) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    ground.observer.metrics().remove_workload(NAME);
    let is_ours = |entry: &Arc<Entry>| entry.target == *target;
    if ground.revocations.entries(SystemTime::now()).iter().any(is_ours) {
        ground.revocations.unrevoke(target, SystemTime::now()).map_err(|error| error.to_string())?;
    }
    Ok("the deny list is as before; the keys are gone".to_owned())
}

/// One end of the drill's connection.
struct End {
    tls: WorkloadTls,
    id: SpiffeId,
    serial: String,
    own: Own,
}

async fn issue(ground: &Ground, client: &SpiffeId) -> Result<(End, End), String> {
    let server = format!("{client}/server").parse::<SpiffeId>().map_err(|error| error.to_string())?;
    let domain = ground.ca.trust_domain().clone();
    let trust = Arc::new(Trust {
        bundles: Arc::new(TrustBundles::from_iter([(domain.clone(), ground.ca.bundle())])),
        trust_domain: domain,
        names: PeerNameSettings::default(),
        max_certificates: crate::identity::svid::MAX_OWN_CHAIN,
        max_bytes: crate::identity::svid::MAX_OWN_CHAIN_BYTES,
        revocations: Arc::clone(&ground.revocations),
        clock_skew: Trust::CLOCK_SKEW,
    });
    let (ca, client) = (Arc::clone(&ground.ca), client.clone());
    let end = move |id: SpiffeId| -> Result<End, String> {
        let order = Order {
            id: &id,
            dns_names: &[],
            subject: &Subject::default(),
            requested_by: "mtlsd drill revoke",
        };
        let svid = ca.issue(&order, SystemTime::now()).map_err(|error| error.to_string())?;
        let marks = Arc::new(own_marks(&svid, &trust.bundles).map_err(|refusal| refusal.to_string())?);
        let own = Own { marks, not_after: svid.not_after };
        let tls = WorkloadTls::new(&svid, Arc::clone(&trust), TlsSettings::default());
        Ok(End { tls, id, serial: svid.serial, own })
    };
    // The CA reads its keys from the disk.
    let both = tokio::task::spawn_blocking(move || Ok((end(client)?, end(server)?)));
    both.await.map_err(|error| error.to_string())?
}

/// A connection whose bytes flow, as the relay makes it; its two applications.
async fn open(ground: &Ground, client: &End, server: &End) -> Result<(TcpStream, TcpStream), Refusal> {
    let (to_server, to_client) = shake_hands(client, server).await?;
    let mut at_client = convey(ground, client, to_server, Direction::Outbound).await?;
    let mut at_server = convey(ground, server, to_client, Direction::Inbound).await?;
    let (mut question, mut answer) = ([0; 8], [0; 6]);
    let talk = async {
        at_client.write_all(b"question").await?;
        at_server.read_exact(&mut question).await?;
        at_server.write_all(b"answer").await?;
        at_client.read_exact(&mut answer).await
    };
    match tokio::time::timeout(LIMIT, talk).await {
        Ok(Ok(_)) if question == *b"question" && answer == *b"answer" => Ok((at_client, at_server)),
        Ok(Ok(_)) => Err(Refusal::new(Reason::Internal, "other bytes arrived than were sent")),
        Ok(Err(error)) => Err(internal(&error)),
        Err(_) => Err(Refusal::new(Reason::Internal, format!("no byte arrived within {LIMIT:?}"))),
    }
}

type Shaken = (Session, Verdict);

async fn shake_hands(client: &End, server: &End) -> Result<(Shaken, Shaken), Refusal> {
    let (to_server, to_client) = loopback().await?;
    let expected = Arc::new(ExpectedServer { ids: vec![server.id.clone()], dns_names: vec![] });
    let (client_config, saw_server) = client.tls.client(expected).map_err(|error| internal(&error))?;
    let (server_config, saw_client) = server.tls.server(true, None).map_err(|error| internal(&error))?;
    let name = ServerName::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST).into());
    let records = Records::client(client_config, name).map_err(|error| internal(&error))?;
    let mut at_client = Session::new(to_server, records, Vec::new());
    let records = Records::server(server_config).map_err(|error| internal(&error))?;
    let mut at_server = Session::new(to_client, records, Vec::new());
    let both = async {
        let serve = async {
            at_server.handshake().await?;
            at_server.send_preface(&Preface::Ready).await
        };
        let connect = async {
            at_client.handshake().await?;
            at_client.read_preface().await
        };
        tokio::join!(serve, connect)
    };
    let (served, connected) = tokio::time::timeout(LIMIT, both)
        .await
        .map_err(|_| Refusal::new(Reason::HandshakeTimeout, format!("it was not done after {LIMIT:?}")))?;
    // The server's first: it is the one that knows why.
    served.map_err(|error| refusal_of(&error, &saw_client))?;
    connected.map_err(|error| refusal_of(&error, &saw_server))?;
    Ok(((at_client, saw_server), (at_server, saw_client)))
}

/// Hands one end to the relay, with a lease; gives the application's side of it.
async fn convey(
    ground: &Ground,
    end: &End,
    (session, verdict): Shaken,
    direction: Direction,
) -> Result<TcpStream, Refusal> {
    let (application, outside) = loopback().await?;
    let address = outside.peer_addr().unwrap_or_else(|_| SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let captured = Captured {
        direction,
        local_identity: Some(end.id.as_str().into()),
        source: address,
        destination: address,
    };
    let observed = ground.observer.begin(&ground.observer.metrics().workload(NAME), captured);
    note_handshake(&observed, session.records().agreed().as_ref(), &verdict);
    let parties = Parties {
        workload: NAME.into(),
        own: Some(end.own.clone()),
        peer: verdict.peer().map(|peer| Arc::new(peer.clone())),
        direction,
        port: address.port(),
        address: address.ip(),
    };
    let lease = ground.leases.join(parties);
    // Its own count: a drill takes no place of a workload's.
    let permit = Admission::new(1, None).connection(1, &Arc::default(), 1)?;
    let peer = Peer::Tls {
        session,
        offload: Err("it is a drill".into()),
        records_per_key: None,
        not_direct: NotDirect::NoSession,
    };
    convey::spawn(Open { application, peer }, Limits { idle: None, lease, permit }, observed);
    Ok(outside)
}

async fn loopback() -> Result<(TcpStream, TcpStream), Refusal> {
    let pair = async {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let one = TcpStream::connect(listener.local_addr()?).await?;
        // Not somebody else who found the port.
        loop {
            let (other, from) = listener.accept().await?;
            if from == one.local_addr()? {
                return Ok((one, other));
            }
        }
    };
    tokio::time::timeout(LIMIT, pair)
        .await
        .map_err(|_| Refusal::new(Reason::Internal, "loopback did not answer"))?
        .map_err(|error: std::io::Error| internal(&error))
}

/// Waits until the connection ends; it must be by RST.
async fn end_of(stream: &mut TcpStream) -> Result<(), String> {
    match stream.read(&mut [0; 1]).await {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => Ok(()),
        Err(error) => Err(format!("it ended with another error: {error}")),
        Ok(0) => Err("it ended as if the peer had closed it".to_owned()),
        Ok(_) => Err("it carried bytes that nobody sent".to_owned()),
    }
}

fn internal(error: &dyn std::fmt::Display) -> Refusal {
    Refusal::new(Reason::Internal, error.to_string())
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use super::*;
    use crate::identity::EmbeddedCaSettings;
    use crate::observe::access_log::{AccessLog, Target as LogTarget};
    use crate::observe::metrics::Metrics;
    use crate::observe::recorder::Recorder;

    fn ground(directory: &std::path::Path) -> Ground {
        let settings = EmbeddedCaSettings {
            directory: directory.join("ca"),
            lifetime: Duration::from_secs(3600),
            trust_domain: "example.org".parse().unwrap(),
            key: None,
        };
        let metrics = Metrics::new("0");
        let log = AccessLog::start(LogTarget::Off, metrics.access_log_lost()).unwrap();
        let recorder = Recorder::new(NonZeroUsize::new(16).unwrap());
        Ground {
            ca: Arc::new(EmbeddedCa::open(settings, SystemTime::now()).unwrap()),
            revocations: Arc::new(Revocations::open(directory).unwrap()),
            leases: Arc::default(),
            observer: Arc::new(Observer::new(recorder, metrics, log)),
        }
    }

    fn names(report: &DrillReport) -> Vec<(&str, bool)> {
        report.steps.iter().map(|step| (step.name.as_str(), step.ok)).collect()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn it_shows_the_cut_and_the_refusal_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let ground = ground(directory.path());
        let report = run(&ground).await;
        assert!(report.holds(), "{report:#?}");
        let want = [
            "issue an identity",
            "connect with it",
            "revoke it",
            "its live connection is cut",
            "a new connection is refused",
            "clean up",
        ];
        assert_eq!(names(&report), want.map(|name| (name, true)));
        assert!(report.spiffe_id.starts_with("spiffe://example.org/mtlsd/drill/"));
        assert!(report.steps[2].detail.starts_with("2 live"), "{report:#?}");
        assert!(report.steps[4].detail.contains("deny list"), "{report:#?}");
        assert!(ground.revocations.entries(SystemTime::now()).is_empty());
        // Both ends left their record, which says why.
        let records = ground.observer.recorder().list(None, 10);
        assert_eq!(records.len(), 2);
        for record in records {
            assert_eq!(record.reason.as_ref().unwrap().reason(), Some(Reason::Revoked), "{record:?}");
            assert!(record.peer_proven && &*record.workload == NAME);
        }
        assert!(!ground.observer.metrics().encode().unwrap().contains(NAME));
        assert_ne!(report.spiffe_id, run(&ground).await.spiffe_id);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_does_not_hold_is_told_and_the_rest_is_cleaned_up() {
        let directory = tempfile::tempdir().unwrap();
        let state = directory.path().join("state");
        std::fs::create_dir(&state).unwrap();
        let ground = ground(directory.path());
        // The list cannot be kept.
        let ground = Ground { revocations: Arc::new(Revocations::open(&state).unwrap()), ..ground };
        std::fs::remove_dir(&state).unwrap();
        let report = run(&ground).await;
        assert!(!report.holds());
        let last = report.steps.len() - 2;
        assert_eq!(names(&report)[last..], [("revoke it", false), ("clean up", true)], "{report:#?}");
        assert!(report.steps[last].detail.contains("revoked.json"), "{report:#?}");

        // Revoked already: nothing to connect with.
        let intermediate = {
            let (id, subject) = ("spiffe://example.org/x".parse().unwrap(), Subject::default());
            let order = Order { id: &id, dns_names: &[], subject: &subject, requested_by: "" };
            let svid = ground.ca.issue(&order, SystemTime::now()).unwrap();
            own_marks(&svid, &TrustBundles::new()).unwrap().certificates[1].clone()
        };
        let ground = Ground { revocations: Arc::default(), ..ground };
        let key = Target::Key { sha256: intermediate.key };
        let entry = Entry::new(key, String::new(), String::new(), None, SystemTime::now()).unwrap();
        ground.revocations.revoke(entry, SystemTime::now()).unwrap();
        let report = run(&ground).await;
        assert_eq!(names(&report)[1..], [("connect with it", false), ("clean up", true)], "{report:#?}");
        assert_eq!(ground.revocations.entries(SystemTime::now()).len(), 1, "that of somebody else stays");
    }
}
