//! A captured connect(): find out what becomes of it, tell the application, then relay.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use super::admission::ConnectionPermit;
use super::authorise;
use super::carrier::NotDirect;
use super::context::{Other, Relay, note_handshake};
use super::convey::{self, Limits, Open, Peer};
use super::dial;
use super::external;
use super::place::Place;
use super::session::{Session, SessionError};
use crate::capture::HeldSyn;
use crate::config::{ConnectHold, DirectChoice};
use crate::datapath::ktls::Suite;
use crate::directory::Destination;
use crate::handshake::{ExpectedServer, Preface, Records, Verdict};
use crate::identity::PeerIdentity;
use crate::observe::connection::{Direction, Ending};
use crate::observe::observer::{Captured, Observed};
use crate::observe::{Reason, Refusal};
use crate::snapshot::{Snapshot, WorkloadState};

/// How long a released connect() may take to arrive; the kernel needs microseconds.
const ARRIVAL: Duration = Duration::from_secs(5);

/// A held connection.
pub struct Held {
    /// The application's socket.
    pub cookie: u64,
    /// The workload's number.
    pub workload: u32,
    /// Where the application wants to go.
    pub destination: SocketAddr,
    /// Its first packet.
    pub syn: HeldSyn,
    /// Resolves when the application gives up.
    pub gone: oneshot::Receiver<()>,
    /// Why it comes this way.
    pub not_direct: NotDirect,
}

/// Carries one captured connection from its held SYN to where bytes can flow.
pub async fn carry(relay: Arc<Relay>, place: Arc<Place>, held: Held) {
    let snapshot = relay.snapshot.load_full();
    let Some(workload) = snapshot.workloads.get(&held.workload).map(Arc::clone) else {
        place.answer(held.cookie, &held.syn, Reason::ShuttingDown);
        return;
    };
    let observed = relay.observer.begin(
        &workload.metrics,
        Captured {
            direction: Direction::Outbound,
            local_identity: Some(Arc::clone(&workload.spiffe_id)),
            source: held.syn.source,
            destination: held.destination,
        },
    );
    let Held { cookie, destination, syn, gone, not_direct, .. } = held;
    let attempt = Attempt {
        relay: &relay,
        place: &place,
        snapshot: &snapshot,
        workload: &workload,
        observed: &observed,
        cookie,
        destination,
        syn: &syn,
        not_direct,
    };
    let mut stopped = workload.stopped.clone();
    let opened = tokio::select! {
        opened = attempt.open() => opened,
        _ = stopped.wait_for(|stopped| *stopped) => Err(Reason::ShuttingDown.into()),
        _ = gone => Err(Refusal::new(Reason::DialTimeout, "the application gave up waiting")),
    };
    let ready = match opened {
        Ok(ready) => ready,
        Err(refusal) => {
            place.stop_waiting(syn.source);
            place.answer(cookie, &syn, refusal.reason);
            observed.end(Ending::Refused(refusal));
            return;
        }
    };
    place.forget(cookie);
    let suite = ready.session.records().suite().and_then(Suite::of);
    let peer = Peer::Tls {
        offload: relay.offload(&workload.settings, &snapshot.config.tls, suite),
        records_per_key: suite.and_then(|suite| snapshot.config.tls.records_per_key(suite)),
        session: ready.session,
        not_direct,
    };
    let other = Other {
        direction: Direction::Outbound,
        port: destination.port(),
        address: destination.ip(),
        peer: ready.peer,
    };
    let lease = relay.lease(&workload, other);
    let limits = Limits { idle: snapshot.config.timeouts.idle, lease, permit: ready.permit };
    convey::spawn(Open { application: ready.application, peer }, limits, observed);
}

/// Both ends are there.
struct Ready {
    session: Session,
    application: TcpStream,
    permit: ConnectionPermit,
    /// Who the server proved to be.
    peer: Option<Arc<PeerIdentity>>,
}

struct Attempt<'a> {
    relay: &'a Relay,
    place: &'a Place,
    snapshot: &'a Snapshot,
    workload: &'a WorkloadState,
    observed: &'a Observed,
    cookie: u64,
    destination: SocketAddr,
    syn: &'a HeldSyn,
    not_direct: NotDirect,
}

impl Attempt<'_> {
    async fn open(&self) -> Result<Ready, Refusal> {
        let settings = &self.workload.settings;
        let config = &self.snapshot.config;
        let permit = self.relay.admission.load().connection(
            config.limits.connections,
            &self.workload.live,
            settings.max_connections,
        )?;
        let destination = self
            .snapshot
            .directory
            .lookup(self.destination.ip(), self.destination.port())
            .ok_or_else(|| {
                Refusal::new(Reason::UnknownDestination, format!("{} left the directory", self.destination))
            })?;
        self.observed.connection().learn(|learned| {
            learned.destination_name = Some(Arc::clone(&destination.name));
        });
        if settings.direct == DirectChoice::Require {
            let why = match self.not_direct {
                NotDirect::NoSession => "see `mtlsd status` and docs/direct.md",
                unreported => unreported.why(),
            };
            let detail = format!(
                "{} takes only direct connections (`direct: require`), and this one was not made so that it could be: {why}",
                settings.name
            );
            return Err(Refusal::new(Reason::DirectFailed, detail));
        }
        let (to, port) = (self.destination.ip(), self.destination.port());
        if let Some(denial) = self.snapshot.denied_early(self.workload, destination, port, Some(to)) {
            let between = format!("{} to {} port {port}", settings.spiffe_id, destination.name);
            let (rule, reason) = (denial.rule(), denial.verdict.refusal_reason());
            authorise::note_denied(&self.relay.flows, settings, self.destination, &rule, reason);
            return Err(authorise::early_refusal(
                self.observed.connection(),
                &denial,
                &between,
                "at connect()",
            ));
        }
        let arrival = match settings.connect_hold {
            ConnectHold::Off => Some(self.release(None)?),
            ConnectHold::Ready | ConnectHold::Handshake => None,
        };
        let dialled = self.dial().await?;
        let local = dialled.local_addr().ok();
        if let Some(local) = local {
            self.observed.connection().learn(|learned| learned.source = Some(local.into()));
        }
        let (mut session, took, peer) = self.shake_hands(dialled, destination).await?;
        // Apart: a question is large, and most connections have none.
        if self.snapshot.external.is_some()
            && let Err(refusal) = Box::pin(self.ask(peer.as_deref(), destination)).await
        {
            reset(&session.into_socket());
            return Err(refusal);
        }
        let mtlsd = session.records().speaks_mtlsd();
        let arrival = match arrival {
            Some(arrival) => Some(arrival),
            None if settings.connect_hold == ConnectHold::Handshake => Some(self.release(local)?),
            None => None,
        };
        if mtlsd {
            self.await_preface(&mut session).await?;
        }
        // Not before the server has said so: a client is done before the server has judged it.
        self.observed.handshake_done(took);
        let arrival = match arrival {
            Some(arrival) => arrival,
            None => self.release(local)?,
        };
        let application = match tokio::time::timeout(ARRIVAL, arrival).await {
            Ok(Ok(application)) => application,
            _ => return Err(Refusal::new(Reason::Internal, "the released connection did not arrive")),
        };
        Ok(Ready { session, application, permit, peer })
    }

    async fn dial(&self) -> Result<TcpStream, Refusal> {
        let source = self.syn.source;
        let chosen = (!source.ip().is_loopback()).then_some(source);
        dial::dial(&self.relay.capture, &self.place.netns, self.destination, chosen, None)
            .await
            .map_err(|error| dial::refusal(self.destination, &error))
    }

    async fn shake_hands(
        &self,
        peer: TcpStream,
        destination: &Destination,
    ) -> Result<(Session, Duration, Option<Arc<PeerIdentity>>), Refusal> {
        let limit = self.snapshot.config.timeouts.handshake;
        let _slot = self.relay.admission.load().outbound_handshake(limit).await?;
        let identity = self.workload.usable_identity(SystemTime::now())?;
        self.observed
            .connection()
            .learn(|learned| learned.local_certificate = Some(identity.certificate.clone()));
        let expected = Arc::new(ExpectedServer {
            ids: destination.expected.clone(),
            dns_names: destination.dns_names.clone(),
        });
        let (config, verdict) = identity
            .tls
            .client(expected)
            .map_err(|error| Refusal::new(Reason::Internal, error.to_string()))?;
        let name = ServerName::IpAddress(self.destination.ip().into());
        let records = Records::client(config, name)
            .map_err(|error| Refusal::new(Reason::Internal, error.to_string()))?;
        let mut session = Session::new(peer, records, Vec::new())
            .ready_for_kernel(self.relay.offloads_at_once(&self.workload.settings));
        let started = Instant::now();
        let result = tokio::time::timeout(limit, session.handshake()).await;
        note_handshake(self.observed, session.records().agreed().as_ref(), &verdict);
        authorise::note_chain(self.observed.connection(), &verdict);
        match result {
            Ok(Ok(())) => {
                let took = started.elapsed();
                let peer = verdict.peer();
                if let Some(peer) = peer {
                    let (connection, flows) = (self.observed.connection(), &self.relay.flows);
                    let to = self.destination;
                    if let Err(refusal) =
                        authorise::outbound(self.snapshot, self.workload, connection, flows, peer, to)
                    {
                        reset(&session.into_socket());
                        return Err(refusal);
                    }
                }
                Ok((session, took, peer.map(|peer| Arc::new(peer.clone()))))
            }
            Ok(Err(error)) => {
                let refusal = refusal_of(&error, &verdict);
                if matches!(error, SessionError::Tls(_)) {
                    super::session::end_politely(session.into_socket());
                }
                Err(refusal)
            }
            Err(_) => Err(Refusal::new(Reason::HandshakeTimeout, format!("no answer within {limit:?}"))),
        }
    }

    /// Asks the policy engine about a server that the rules allow.
    async fn ask(&self, peer: Option<&PeerIdentity>, destination: &Destination) -> Result<(), Refusal> {
        let Some(peer) = peer else { return Ok(()) };
        let ends = external::Outbound {
            workload: &self.workload.settings,
            from: self.syn.source.ip(),
            peer,
            to: self.destination,
            name: &destination.name,
        };
        external::ask_outbound(self.snapshot, &self.relay.external, self.observed.connection(), ends).await
    }

    async fn await_preface(&self, session: &mut Session) -> Result<(), Refusal> {
        let limit = self.snapshot.config.timeouts.handshake;
        let preface = match tokio::time::timeout(limit, session.read_preface()).await {
            Ok(Ok(preface)) => preface,
            Ok(Err(error)) => return Err(refusal_of(&error, &Verdict::default())),
            Err(_) => {
                let detail = format!("the server did not say within {limit:?} whether it is ready");
                return Err(Refusal::new(Reason::HandshakeTimeout, detail));
            }
        };
        let Preface::Refused(number, detail) = &preface else {
            return Ok(());
        };
        self.observed
            .connection()
            .learn(|learned| learned.remote_reason = preface.remote_reason().map(Box::new));
        let reason = Reason::from_number(*number).unwrap_or(Reason::PeerAlert);
        Err(Refusal::new(reason, format!("said by the server: {detail}")))
    }

    fn release(&self, local: Option<SocketAddr>) -> Result<oneshot::Receiver<TcpStream>, Refusal> {
        let internal = |error: String| Refusal::new(Reason::Internal, error);
        if let Some(local) = local {
            self.relay
                .capture
                .set_wire_address(self.cookie, local)
                .map_err(|error| internal(error.to_string()))?;
        }
        self.place
            .release(self.cookie, self.syn)
            .map_err(|error| internal(format!("releasing connect(): {error}")))
    }
}

/// What a failed handshake means.
pub fn refusal_of(error: &SessionError, verdict: &Verdict) -> Refusal {
    match error {
        SessionError::Tls(error) => verdict.refusal_of(error),
        SessionError::Closed => Refusal::from(Reason::HandshakeClosed),
        SessionError::Io(error) => Refusal::new(Reason::HandshakeClosed, error.to_string()),
        SessionError::Preface(error) => Refusal::new(Reason::NoCommonParameters, error.to_string()),
    }
}

/// From now on closing the socket, also by dropping it, sends RST: the other end must not take what goes
/// wrong here for a clean end.
pub fn reset(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}
