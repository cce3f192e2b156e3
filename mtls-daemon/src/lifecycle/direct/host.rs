//! This node, as the driver of direct connections sees it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use mtls_direct::{
    About, ConnectionId, Counts, Decision, FourTuple, Key, Message, Nonce, Outcome, Reason as Why, Role,
    Socket,
};
use tokio::task::AbortHandle;

use super::links::Links;
use crate::capture::{HeldSyn, Inbound};
use crate::config::{DirectChoice, Mode};
use crate::datapath::direct::drive::{LinkId, Node, Session, Teller, Told};
use crate::datapath::direct::hands::{self, Taken};
use crate::datapath::direct::session::{Link, SocketKeys, fresh_nonce};
use crate::datapath::direct::unfit::{Memory, Pair, Side};
use crate::datapath::relay::{Gate, Other, Place, Relay, authorise};
use crate::flows::Channel;
use crate::identity::PeerIdentity;
use crate::lifecycle::daemon::{Daemon, lock};
use crate::observe::connection::{Datapath, Direction, Ending};
use crate::observe::observer::{Captured, Observed};
use crate::observe::{Reason, Refusal};
use crate::snapshot::{Snapshot, WorkloadState, number_of};
use crate::sys::sock_diag;

/// How long the moving of threads may take.
const EMPTYING: Duration = Duration::from_millis(500);
/// How long a SYN may take to come; longer than the client's handshake timer.
pub(super) const SYN_COMES: Duration = Duration::from_secs(6);

/// A session of ours, for the driver.
pub(super) struct DaemonLink(pub Link);

impl Session for DaemonLink {
    type Keys = SocketKeys;

    fn send(&self, message: Message) {
        if let Err(why) = self.0.send(message) {
            tracing::debug!(%why, "a message about a direct connection was not sent");
        }
    }

    fn keys(&self, id: &ConnectionId, server: Nonce) -> Option<SocketKeys> {
        self.0
            .keys(id, server)
            .inspect_err(|why| tracing::warn!(%why, "no keys for a direct connection"))
            .ok()
    }
}

/// A connection that is being made or lives.
struct Opened {
    observed: Observed,
    workload: Arc<WorkloadState>,
    peer: Arc<PeerIdentity>,
    started: Instant,
    /// Of a client, until it may go.
    syn: Option<(Arc<Place>, HeldSyn)>,
    /// The application's TCP_NOTSENT_LOWAT.
    wish: Option<u32>,
    /// Bytes may flow.
    established: bool,
    /// Waits for the end of the lease.
    lease: Option<AbortHandle>,
    /// What ended it, where that is more than the machine knows.
    refusal: Option<Refusal>,
}

/// The kernel and the policy of this node.
pub(super) struct Host {
    pub daemon: Arc<Daemon>,
    pub links: Links,
    pub unfit: Mutex<Memory>,
    mount: PathBuf,
    opened: Mutex<HashMap<(LinkId, ConnectionId), Opened>>,
    /// Set once, right after the driver is made.
    pub teller: std::sync::OnceLock<Teller<DaemonLink>>,
}

impl Host {
    pub fn new(daemon: Arc<Daemon>, mount: PathBuf) -> Self {
        let unfit = Memory::new(daemon.relay.snapshot.load().config.direct.unfit);
        Self {
            daemon,
            links: Links::default(),
            unfit: Mutex::new(unfit),
            mount,
            opened: Mutex::default(),
            teller: std::sync::OnceLock::new(),
        }
    }

    fn relay(&self) -> &Arc<Relay> {
        &self.daemon.relay
    }

    fn place(&self, netns: u64) -> Option<Arc<Place>> {
        lock(&self.daemon.node).place(netns)
    }

    pub fn tell(&self, told: Told<DaemonLink>) {
        if let Some(teller) = self.teller.get() {
            teller.tell(told);
        }
    }

    /// A SYN is held. `again`: the kernel sent it once more.
    pub fn syn(&self, place: &Arc<Place>, held: Held) {
        let Held { workload, socket, to, syn, again, owner } = held;
        let snapshot = self.relay().snapshot.load_full();
        let link = self.links.of(workload, to);
        let known = link.and_then(|link| Some((link, self.links.get(link)?)));
        let (Some((link, known)), Some(state)) = (known, snapshot.workloads.get(&workload)) else {
            // Its session has just ended: the address is the true one, so that no relay can take it any more.
            if !again {
                let _ = place.answer_direct(&syn, Reason::ShuttingDown);
            }
            return;
        };
        if again {
            return self.syn_again(place, &syn);
        }
        let Ok(nonce) = fresh_nonce(rustls::crypto::aws_lc_rs::default_provider().secure_random) else {
            let _ = place.answer_direct(&syn, Reason::Internal);
            return;
        };
        let id = ConnectionId { tuple: FourTuple { client: syn.source, server: to }, nonce };
        let observed = self.relay().observer.begin(
            &state.metrics,
            Captured {
                direction: Direction::Outbound,
                local_identity: Some(Arc::clone(&state.spiffe_id)),
                source: syn.source,
                destination: to,
            },
        );
        note_peer(&observed, &known.peer);
        let name =
            snapshot.directory.lookup(to.ip(), to.port()).map(|destination| destination.name.as_str().into());
        observed.connection().learn(|learned| learned.destination_name = name);
        let (connection, flows) = (observed.connection(), &self.relay().flows);
        if let Err(refusal) = authorise::outbound(&snapshot, state, connection, flows, &known.peer, to) {
            let _ = place.answer_direct(&syn, refusal.reason);
            observed.end(Ending::Refused(refusal));
            return;
        }
        let opened =
            Opened { syn: Some((Arc::clone(place), syn)), ..Opened::new(observed, state, &known.peer) };
        lock(&self.opened).insert((link, id), opened);
        self.tell(Told::Syn { link, socket, owner, id });
    }

    /// One that was let go goes again; one that waits, waits.
    fn syn_again(&self, place: &Place, syn: &HeldSyn) {
        let known = lock(&self.opened)
            .iter()
            .any(|((_, id), opened)| id.tuple.client == syn.source && opened.syn.is_some());
        if !known {
            let _ = place.release_direct(syn);
        }
    }

    /// The guard has cut it; the kernel's socket is ended too.
    pub fn violated(&self, socket: Socket, tuple: FourTuple) {
        self.destroy(socket.netns, Some(socket.cookie), tuple, Why::Protocol);
    }

    fn with<T>(&self, about: &About<LinkId>, f: impl FnOnce(&mut Opened) -> T) -> Option<T> {
        lock(&self.opened).get_mut(&(about.link, about.id)).map(f)
    }

    /// Notes why; the machine's own reason is a general one.
    fn note(&self, about: &About<LinkId>, reason: Reason, detail: String) {
        tracing::debug!(key = about.key.0, detail, "a direct connection failed");
        self.with(about, |opened| {
            opened.refusal.get_or_insert_with(|| Refusal::new(reason, detail));
        });
    }

    /// True, or the error is noted.
    fn well<E: std::fmt::Display>(&self, about: &About<LinkId>, result: Result<(), E>) -> bool {
        match result {
            Ok(()) => true,
            Err(error) => {
                self.note(about, Reason::DirectFailed, error.to_string());
                false
            }
        }
    }

    /// The workload of this node that has the address and port, and the namespace that it has to itself.
    pub fn server(&self, snapshot: &Snapshot, to: SocketAddr) -> Option<(Arc<WorkloadState>, u64)> {
        let destination = snapshot.directory.lookup(to.ip(), to.port())?;
        let name = destination.local_workload.as_deref()?;
        let (state, number) = (snapshot.by_name(name)?, number_of(name));
        let node = lock(&self.daemon.node);
        let mut places = node.places();
        let place = places.find(|place| {
            place.held_for_direct.load(Ordering::Acquire) && place.owners.load().of(to.port()) == Some(number)
        })?;
        Some((Arc::clone(state), place.cookie))
    }

    async fn judge(&self, about: About<LinkId>) -> Result<(u64, Nonce), Why> {
        let tuple = about.id.tuple;
        let known = self.links.get(about.link).ok_or(Why::SessionLost)?;
        let snapshot = self.relay().snapshot.load_full();
        let (workload, netns) = self.server(&snapshot, tuple.server).ok_or(Why::NotCapable)?;
        let settings = &workload.settings;
        let port = tuple.server.port();
        let choice = settings.direct_ports.get(&port).copied().unwrap_or(settings.direct);
        let pair = Pair { workload: settings.name.as_str().into(), side: Side::Inbound(port) };
        let unfit = lock(&self.unfit).why_not(choice, &pair, Instant::now());
        if choice == DirectChoice::Never || settings.mode_of_port(port) == Mode::Disabled || unfit.is_some() {
            return Err(Why::NotCapable);
        }
        let observed = self.relay().observer.begin(
            &workload.metrics,
            Captured {
                direction: Direction::Inbound,
                local_identity: Some(Arc::clone(&workload.spiffe_id)),
                source: tuple.client,
                destination: tuple.server,
            },
        );
        note_peer(&observed, &known.peer);
        let gate = Gate {
            mode: settings.mode_of_port(port),
            port,
            from: tuple.client.ip(),
            to: tuple.server.ip(),
            calls: Arc::clone(&self.relay().external),
            snapshot: Arc::clone(&snapshot),
            workload: Arc::clone(&workload),
            connection: observed.shared(),
            flows: Arc::clone(&self.relay().flows),
        };
        let mut allowed = gate.admit(Some(&known.peer), Channel::MutualTls);
        if allowed.is_ok() {
            allowed = gate.ask(Some(&known.peer)).await;
        }
        if let Err(refusal) = allowed {
            observed.end(Ending::Refused(refusal));
            return Err(Why::Denied);
        }
        let nonce = fresh_nonce(rustls::crypto::aws_lc_rs::default_provider().secure_random)
            .map_err(|_| Why::Busy)?;
        lock(&self.opened).insert((about.link, about.id), Opened::new(observed, &workload, &known.peer));
        Ok((netns, nonce))
    }

    /// From now on the connection lives as long as its lease.
    fn keep(&self, about: &About<LinkId>) {
        let Some((workload, peer)) = self.with(about, |o| (Arc::clone(&o.workload), Arc::clone(&o.peer)))
        else {
            return;
        };
        let (direction, address) = match about.role {
            Role::Client => (Direction::Outbound, about.id.tuple.server.ip()),
            Role::Server => (Direction::Inbound, about.id.tuple.client.ip()),
        };
        let port = about.id.tuple.server.port();
        let mut lease = self.relay().lease(&workload, Other { direction, port, address, peer: Some(peer) });
        let standing = lease.standing();
        let Some(teller) = self.teller.get().cloned() else { return };
        let (daemon, key, name): (Arc<Daemon>, Key, _) =
            (Arc::clone(&self.daemon), about.key, (about.link, about.id));
        let task = tokio::spawn(async move {
            let refusal = lease.over().await;
            if let Some(host) = daemon.direct.get()
                && let Some(opened) = lock(&host.host.opened).get_mut(&name)
            {
                opened.refusal = Some(Refusal::clone(&refusal));
            }
            teller.tell(Told::LeaseEnded(key));
        });
        self.with(about, |opened| {
            opened.lease = Some(task.abort_handle());
            opened.syn = None;
            opened.established = true;
            opened.observed.handshake_done(opened.started.elapsed());
            opened.observed.established(Datapath::Direct, None);
            opened.observed.connection().learn(|learned| learned.standing = standing);
        });
    }
}

impl Opened {
    fn new(observed: Observed, workload: &Arc<WorkloadState>, peer: &Arc<PeerIdentity>) -> Self {
        Self {
            observed,
            workload: Arc::clone(workload),
            peer: Arc::clone(peer),
            started: Instant::now(),
            syn: None,
            wish: None,
            established: false,
            lease: None,
            refusal: None,
        }
    }
}

/// A held SYN that may become a direct connection.
pub(super) struct Held {
    pub workload: u32,
    pub socket: Socket,
    pub to: SocketAddr,
    pub syn: HeldSyn,
    pub again: bool,
    pub owner: mtls_direct::Owner,
}

fn note_peer(observed: &Observed, peer: &PeerIdentity) {
    observed.connection().learn(|learned| {
        learned.peer_identity = Some(peer.name.to_string());
        learned.peer_proven = true;
        learned.peer_chain = Some(Arc::clone(&peer.chain));
    });
}

impl Node for Host {
    type Session = DaemonLink;
    type Taken = Taken;

    fn duplicate(&self, about: &About<LinkId>) -> Option<Taken> {
        let (owner, cookie) = about.owner.zip(about.cookie)?;
        Taken::take(owner.pid, owner.fd, cookie, &self.mount)
            .inspect_err(|error| self.note(about, Reason::DirectFailed, error.to_string()))
            .ok()
    }

    async fn decide(&self, about: About<LinkId>) -> Decision {
        match self.judge(about).await {
            Ok((netns, nonce)) => Decision::Allow(netns, nonce),
            Err(why) => Decision::Refuse(why),
        }
    }

    fn expect(&self, netns: u64, tuple: FourTuple) -> bool {
        let Some(workload) = self.place(netns).and_then(|place| place.owners.load().of(tuple.server.port()))
        else {
            return false;
        };
        let inbound = Inbound { netns, client: tuple.client, server: tuple.server };
        let expected = self.relay().capture.expect(inbound, workload, SYN_COMES);
        expected.inspect_err(|error| tracing::warn!(%error, "a direct connection cannot be expected")).is_ok()
    }

    fn unexpect(&self, netns: u64, tuple: FourTuple) {
        self.relay().capture.unexpect(Inbound { netns, client: tuple.client, server: tuple.server });
    }

    fn release_syn(&self, about: &About<LinkId>) {
        let sent =
            self.with(about, |opened| opened.syn.take().map(|(place, syn)| place.release_direct(&syn)));
        if let Some(Some(Err(error))) = sent {
            tracing::warn!(%error, "the SYN of a direct connection could not be let go");
        }
    }

    fn refuse_connect(&self, socket: Socket, tuple: FourTuple, reason: Why) {
        let Some(place) = self.place(socket.netns) else { return };
        let mut opened = lock(&self.opened);
        let held =
            opened.values_mut().find_map(|opened| opened.syn.take_if(|(_, syn)| syn.source == tuple.client));
        if let Some((_, syn)) = held
            && let Err(error) = place.answer_direct(&syn, errno_of(reason))
        {
            tracing::warn!(%error, "a held connect() could not be answered");
        }
    }

    fn install(&self, about: &About<LinkId>, taken: &Taken, keys: SocketKeys) -> bool {
        let armed = hands::arm::enable(taken).and_then(|()| hands::arm::install(taken, &keys.rx, &keys.tx));
        self.well(about, armed)
    }

    fn empty(&self, about: &About<LinkId>, taken: &Taken) -> bool {
        self.well(about, hands::kick::empty_blocking(taken, EMPTYING).map(drop))
    }

    fn open_guard(&self, about: &About<LinkId>, taken: &Taken) -> bool {
        let opened = self.relay().capture.open_guard(taken.as_fd());
        let wish = *opened.as_ref().unwrap_or(&None);
        self.with(about, |opened| opened.wish = wish);
        self.well(about, opened.map(drop))
    }

    fn release_writer(&self, about: &About<LinkId>, taken: &Taken) -> bool {
        let wish = self.with(about, |opened| opened.wish).flatten();
        // First the lease: what it forbids shall not flow.
        self.keep(about);
        let released = hands::release::release(taken, hands::release::USUAL_GSO, wish);
        self.well(about, released.map(drop))
    }

    fn destroy(&self, netns: u64, cookie: Option<u64>, tuple: FourTuple, reason: Why) {
        let Some(place) = self.place(netns) else { return };
        match place.netns.run(|| destroy(cookie, tuple)) {
            Ok(ended) => tracing::debug!(%reason, ended, client = %tuple.client, "ended a direct connection"),
            Err(error) => tracing::error!(
                %error,
                client = %tuple.client,
                server = %tuple.server,
                "a direct connection cannot be ended (SOCK_DESTROY, CONFIG_INET_DIAG_DESTROY); its guard stays closed"
            ),
        }
    }

    fn remember(&self, about: &About<LinkId>, reason: Why) {
        let Some(workload) = self.with(about, |opened| Arc::clone(&opened.workload)) else { return };
        let to = about.id.tuple.server;
        let side = match about.role {
            Role::Client => Side::Outbound(to),
            Role::Server => Side::Inbound(to.port()),
        };
        let pair = Pair { workload: workload.settings.name.as_str().into(), side };
        lock(&self.unfit).failed(pair, reason, Instant::now());
        if about.role == Role::Client {
            self.relay().capture.withdraw_direct(workload.number, to);
        }
    }

    fn carried(&self, about: &About<LinkId>, counts: Counts) {
        self.with(about, |opened| {
            opened.observed.add_sent(counts.sent);
            opened.observed.add_received(counts.received);
        });
    }

    fn report(&self, about: &About<LinkId>, outcome: Outcome) {
        let Some(opened) = lock(&self.opened).remove(&(about.link, about.id)) else { return };
        if let Some(lease) = &opened.lease {
            lease.abort();
        }
        let Opened { observed, established, refusal, .. } = opened;
        observed.end(ending(outcome, established, refusal));
    }
}

fn ending(outcome: Outcome, established: bool, refusal: Option<Refusal>) -> Ending {
    let cut = |refusal| if established { Ending::Cut(refusal) } else { Ending::Refused(refusal) };
    match outcome {
        Outcome::Complete | Outcome::Unverified => Ending::Closed,
        Outcome::Truncated { sent, received } => {
            let detail =
                format!("{sent} bytes sent did not arrive, {received} bytes of the peer did not arrive here");
            Ending::Cut(Refusal::new(Reason::Truncated, detail))
        }
        Outcome::Failed(by, why) => {
            let who = if by == mtls_direct::By::Peer { "said by the other daemon: " } else { "" };
            cut(refusal.unwrap_or_else(|| Refusal::new(reason_of(why), format!("{who}{why}"))))
        }
    }
}

fn reason_of(why: Why) -> Reason {
    match why {
        Why::Denied => Reason::PolicyDenied,
        Why::LeaseEnded => Reason::Revoked,
        Why::SocketEnded | Why::ApplicationGone => Reason::Reset,
        _ => Reason::DirectFailed,
    }
}

/// What connect() of a held SYN says.
fn errno_of(why: Why) -> Reason {
    match why {
        Why::Denied => Reason::PolicyDenied,
        Why::NoAnswer => Reason::DialUnreachable,
        _ => Reason::DialRefused,
    }
}

/// In the namespace of the socket. How many were ended.
fn destroy(cookie: Option<u64>, tuple: FourTuple) -> std::io::Result<usize> {
    let FourTuple { client, server } = tuple;
    let mut ends = Vec::new();
    match cookie {
        Some(cookie) => ends.extend([(client, server, cookie), (server, client, cookie)]),
        // Whatever has the addresses, a socket that nobody reported yet too.
        None => sock_diag::each_tcp(sock_diag::StateFlags::all(), None, |socket| {
            let (local, remote) = (socket.local, socket.remote);
            if (local, remote) == (client, server) || (local, remote) == (server, client) {
                ends.push((local, remote, socket.cookie));
            }
        })?,
    }
    let mut ended = 0;
    for (local, remote, cookie) in ends {
        ended += usize::from(sock_diag::destroy(local, remote, cookie)?);
    }
    Ok(ended)
}
