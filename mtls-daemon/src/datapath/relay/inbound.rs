//! A steered SYN: see who is there, verify and authorise, and only then deliver to the application.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpStream;

use super::admission::HandshakePermit;
use super::authorise::{note_chain, note_unproven};
use super::carrier::NotDirect;
use super::context::{Other, Relay, note_handshake};
use super::convey::{self, Limits, Open, Peer};
use super::dial;
use super::gate::Gate;
use super::hello::{Hello, read_hello};
use super::outbound::{refusal_of, reset};
use super::place::Place;
use super::session::{Session, SessionError, end_politely};
use crate::config::{DirectChoice, Mode, Timeouts};
use crate::datapath::ktls::Suite;
use crate::flows::{Channel, Flows};
use crate::handshake::{Authorise, Preface, Records, Verdict};
use crate::identity::PeerIdentity;
use crate::observe::connection::{Datapath, Direction, Ending};
use crate::observe::observer::{Captured, Observed};
use crate::observe::{Reason, Refusal, WorkloadMetrics};
use crate::snapshot::{Snapshot, WorkloadState};

/// Carries one inbound connection from its first byte to where bytes can flow.
pub async fn receive(relay: Arc<Relay>, place: Arc<Place>, stream: TcpStream, from: SocketAddr) {
    let Ok(to) = stream.local_addr() else {
        return;
    };
    let snapshot = relay.snapshot.load_full();
    let owner = place.owners.load().of(to.port());
    let Some(workload) = owner.and_then(|number| snapshot.workloads.get(&number)).map(Arc::clone) else {
        reset(&stream);
        return;
    };
    let is_probe = place.is_probe(from);
    let (observer, metrics, flows) = match is_probe {
        // Of its own: the metrics of probes would keep the names of all pods that ever were.
        true => {
            let name = Arc::clone(workload.metrics.name());
            (&relay.probes, Arc::new(WorkloadMetrics::new(name)), Arc::new(Flows::off()))
        }
        false => (&relay.observer, Arc::clone(&workload.metrics), Arc::clone(&relay.flows)),
    };
    let observed = observer.begin(
        &metrics,
        Captured {
            direction: Direction::Inbound,
            local_identity: Some(Arc::clone(&workload.spiffe_id)),
            source: from,
            destination: to,
        },
    );
    let port = to.port();
    if workload.settings.direct_of_port(port) == DirectChoice::Require && !is_probe {
        reset(&stream);
        let detail = format!("port {port} takes only direct connections (`direct: require`)");
        observed.end(Ending::Refused(Refusal::new(Reason::DirectFailed, detail)));
        return;
    }
    let permit = relay.admission.load().connection(
        snapshot.config.limits.connections,
        &workload.live,
        workload.settings.max_connections,
    );
    let permit = match permit {
        Ok(permit) => permit,
        Err(refusal) => {
            reset(&stream);
            observed.end(Ending::Refused(refusal));
            return;
        }
    };
    let gate = Gate {
        mode: workload.settings.mode_of_port(to.port()),
        port: to.port(),
        from: from.ip(),
        to: to.ip(),
        calls: Arc::clone(&relay.external),
        snapshot: Arc::clone(&snapshot),
        workload: Arc::clone(&workload),
        connection: observed.shared(),
        flows: Arc::clone(&flows),
    };
    let reception = Reception {
        relay: &relay,
        place: &place,
        snapshot: &snapshot,
        workload: &workload,
        observed: &observed,
        gate,
        from,
        to,
    };
    let mut stopped = workload.stopped.clone();
    let opened = tokio::select! {
        opened = reception.open(stream) => opened,
        _ = stopped.wait_for(|stopped| *stopped) => Err(Ending::Cut(Reason::ShuttingDown.into())),
    };
    match opened {
        Ok((open, peer)) => {
            let (direction, port, address) = (Direction::Inbound, to.port(), from.ip());
            let lease = relay.lease(&workload, Other { direction, port, address, peer });
            let limits = Limits { idle: snapshot.config.timeouts.idle, lease, permit };
            convey::spawn(open, limits, observed);
        }
        Err(ending) => {
            if let Ending::Refused(refusal) = &ending {
                note_unproven(&flows, &workload.settings.name, to.port(), from.ip(), refusal.reason);
            }
            drop(observed.end(ending));
        }
    }
}

/// An open connection, and who the peer proved to be.
type Opened = (Open, Option<Arc<PeerIdentity>>);

struct Reception<'a> {
    relay: &'a Relay,
    place: &'a Place,
    snapshot: &'a Snapshot,
    workload: &'a WorkloadState,
    observed: &'a Observed,
    gate: Gate,
    from: SocketAddr,
    to: SocketAddr,
}

impl Reception<'_> {
    async fn open(&self, stream: TcpStream) -> Result<Opened, Ending> {
        if self.gate.mode == Mode::Strict {
            self.open_strict(stream).await
        } else {
            self.open_permissive(stream).await
        }
    }

    /// Only mutual TLS. A client that says nothing is a handshake under way like any other, so that a flood of
    /// them is bounded; and one time limit goes from its first byte to the last of the handshake.
    async fn open_strict(&self, mut stream: TcpStream) -> Result<Opened, Ending> {
        let limit = self.snapshot.config.timeouts.handshake;
        let slot = match self.relay.admission.load().inbound_handshake(self.from.ip(), limit).await {
            Ok(slot) => slot,
            Err(refusal) => {
                reset(&stream);
                return Err(Ending::Refused(refusal));
            }
        };
        let started = Instant::now();
        let mut first = Vec::new();
        match tokio::time::timeout(limit, read_hello(&mut stream, &mut first)).await {
            Ok(Ok(Hello::Tls { mtlsd })) => {
                let arrived = Arrived { stream, first, mtlsd };
                self.terminate(arrived, slot, limit.saturating_sub(started.elapsed())).await
            }
            Ok(Ok(Hello::NotTls)) => {
                reset(&stream);
                let detail = format!("it began with {}", looks_like(&first));
                Err(Ending::Refused(Refusal::new(Reason::Plaintext, detail)))
            }
            Ok(Err(error)) => Err(Ending::Refused(no_hello(&error))),
            Err(_) => {
                reset(&stream);
                let detail = format!("{} bytes in {limit:?}", first.len());
                Err(Ending::Refused(Refusal::new(Reason::HandshakeTimeout, detail)))
            }
        }
    }

    /// mtlsd peers get mutual TLS; everything else, silence included, is the application's to understand.
    async fn open_permissive(&self, mut stream: TcpStream) -> Result<Opened, Ending> {
        let timeouts = &self.snapshot.config.timeouts;
        let mut first = Vec::new();
        match detect(&mut stream, &mut first, timeouts).await {
            Ok(Ok(Hello::Tls { mtlsd: true })) => {
                let slot = match self
                    .relay
                    .admission
                    .load()
                    .inbound_handshake(self.from.ip(), timeouts.handshake)
                    .await
                {
                    Ok(slot) => slot,
                    Err(refusal) => {
                        reset(&stream);
                        return Err(Ending::Refused(refusal));
                    }
                };
                self.terminate(Arrived { stream, first, mtlsd: true }, slot, timeouts.handshake).await
            }
            Ok(Ok(Hello::Tls { mtlsd: false })) => self.pass_on(stream, first, Datapath::Passthrough).await,
            Ok(Ok(Hello::NotTls)) | Err(_) => self.pass_on(stream, first, Datapath::Plaintext).await,
            Ok(Err(error)) => Err(Ending::Refused(no_hello(&error))),
        }
    }

    /// Permissive: carries the bytes as they are.
    async fn pass_on(&self, tcp: TcpStream, first: Vec<u8>, datapath: Datapath) -> Result<Opened, Ending> {
        match self.admit_and_deliver(None, Channel::of_unproven(datapath), false).await {
            Ok(application) => Ok((Open { application, peer: Peer::Plain { tcp, first, datapath } }, None)),
            Err(refusal) => {
                reset(&tcp);
                Err(Ending::Refused(refusal))
            }
        }
    }

    async fn terminate(
        &self,
        arrived: Arrived,
        slot: HandshakePermit,
        limit: Duration,
    ) -> Result<Opened, Ending> {
        let mtlsd = arrived.mtlsd;
        let shaken = self.shake_hands(arrived, limit).await;
        drop(slot);
        let (mut session, verdict) = match shaken {
            Ok(pair) => pair,
            Err(refusal) => return Err(Ending::Refused(refusal)),
        };
        let Some(peer) = verdict.peer() else {
            reset(&session.into_socket());
            return Err(Ending::Refused(Reason::NoCertificate.into()));
        };
        // The others were authorised within the handshake.
        let refusal = match self.admit_and_deliver(Some(peer), Channel::MutualTls, !mtlsd).await {
            Ok(application) => {
                if mtlsd && let Err(error) = session.send_preface(&Preface::Ready).await {
                    reset(&application);
                    return Err(Ending::Refused(refusal_of(&error, &verdict)));
                }
                let suite = session.records().suite().and_then(Suite::of);
                let tls = &self.snapshot.config.tls;
                let identity = Arc::new(peer.clone());
                let peer = Peer::Tls {
                    offload: self.relay.offload(&self.workload.settings, tls, suite),
                    records_per_key: suite.and_then(|suite| tls.records_per_key(suite)),
                    session,
                    not_direct: NotDirect::NoSession,
                };
                return Ok((Open { application, peer }, Some(identity)));
            }
            Err(refusal) => refusal,
        };
        if mtlsd {
            if session.send_preface(&Preface::refusing(&refusal)).await.is_ok() {
                tokio::spawn(session.close());
            }
        } else {
            reset(&session.into_socket());
        }
        Err(Ending::Refused(refusal))
    }

    async fn shake_hands(&self, arrived: Arrived, limit: Duration) -> Result<(Session, Verdict), Refusal> {
        let internal = |error: String| Refusal::new(Reason::Internal, error);
        let identity = self.workload.usable_identity(SystemTime::now())?;
        self.observed
            .connection()
            .learn(|learned| learned.local_certificate = Some(identity.certificate.clone()));
        let authorise = (!arrived.mtlsd).then(|| {
            let gate = self.gate.clone();
            Box::new(move |peer: &PeerIdentity| gate.admit_within_handshake(peer)) as Authorise
        });
        let (config, verdict) =
            identity.tls.server(arrived.mtlsd, authorise).map_err(|error| internal(error.to_string()))?;
        let records = Records::server(config).map_err(|error| internal(error.to_string()))?;
        let mut session = Session::new(arrived.stream, records, arrived.first)
            .ready_for_kernel(self.relay.offloads_at_once(&self.workload.settings));
        let started = Instant::now();
        let result = tokio::time::timeout(limit, session.handshake()).await;
        note_handshake(self.observed, session.records().agreed().as_ref(), &verdict);
        note_chain(self.observed.connection(), &verdict);
        match result {
            Ok(Ok(())) => {
                self.observed.handshake_done(started.elapsed());
                Ok((session, verdict))
            }
            Ok(Err(error)) => {
                let refusal = refusal_of(&error, &verdict);
                if matches!(error, SessionError::Tls(_)) {
                    end_politely(session.into_socket());
                }
                Err(refusal)
            }
            Err(_) => {
                reset(&session.into_socket());
                let limit = self.snapshot.config.timeouts.handshake;
                Err(Refusal::new(Reason::HandshakeTimeout, format!("it was not done after {limit:?}")))
            }
        }
    }

    /// The rules, unless they were asked already; then the policy engine; then the application.
    async fn admit_and_deliver(
        &self,
        peer: Option<&PeerIdentity>,
        channel: Channel,
        ruled: bool,
    ) -> Result<TcpStream, Refusal> {
        if !ruled {
            self.gate.admit(peer, channel)?;
        }
        // Apart: a question is large, and most connections have none.
        if self.gate.snapshot.external.is_some() {
            Box::pin(self.gate.ask(peer)).await?;
        }
        self.deliver().await
    }

    /// Connects to the application, which sees the true client as its peer.
    async fn deliver(&self) -> Result<TcpStream, Refusal> {
        let limit = self.snapshot.config.timeouts.handshake;
        let dialled = dial::dial(&self.relay.capture, &self.place.netns, self.to, None, Some(self.from));
        match tokio::time::timeout(limit, dialled).await {
            Ok(Ok(application)) => Ok(application),
            Ok(Err(error)) => {
                Err(Refusal::new(Reason::ApplicationRefused, format!("connecting to {}: {error}", self.to)))
            }
            Err(_) => Err(Refusal::new(
                Reason::ApplicationRefused,
                format!("{} did not accept within {limit:?}", self.to),
            )),
        }
    }
}

/// A client, the bytes read from it, and whether it offers ALPN `mtlsd/1`.
struct Arrived {
    stream: TcpStream,
    first: Vec<u8>,
    mtlsd: bool,
}

/// The connection ended before it was clear what it is.
fn no_hello(error: &std::io::Error) -> Refusal {
    match error.kind() {
        std::io::ErrorKind::UnexpectedEof => Reason::HandshakeClosed.into(),
        _ => Refusal::new(Reason::HandshakeClosed, error.to_string()),
    }
}

/// The first byte is waited for briefly: a client that says nothing waits for the application to speak.
/// What began like TLS has the time of a handshake for the rest of its ClientHello.
async fn detect(
    stream: &mut TcpStream,
    first: &mut Vec<u8>,
    timeouts: &Timeouts,
) -> Result<std::io::Result<Hello>, tokio::time::error::Elapsed> {
    if let Err(error) = tokio::time::timeout(timeouts.detect, stream.peek(&mut [0])).await? {
        return Ok(Err(error));
    }
    tokio::time::timeout(timeouts.handshake, read_hello(stream, first)).await
}

/// What a person would recognise of the first bytes. Not the bytes: they may be a secret.
fn looks_like(bytes: &[u8]) -> String {
    const METHODS: [&[u8]; 8] =
        [b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"PATCH ", b"OPTIONS ", b"CONNECT "];
    if METHODS.iter().any(|method| bytes.starts_with(method)) {
        return "an HTTP/1 request".to_owned();
    }
    if bytes.starts_with(b"PRI * HTTP/2") {
        return "an HTTP/2 connection preface".to_owned();
    }
    if bytes.starts_with(b"SSH-") {
        return "an SSH banner".to_owned();
    }
    match bytes.first() {
        Some(first) => format!("{} bytes that are not TLS, the first one 0x{first:02x}", bytes.len()),
        None => "nothing".to_owned(),
    }
}
