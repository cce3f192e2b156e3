//! `direct` on this node: its parts brought together (docs/design/direct.md).

mod hold;
mod host;
mod links;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use mtls_direct::{Counts, FourTuple, Limits, Owner, Socket};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use self::hold::HoldError;
use self::host::{DaemonLink, Held, Host};
use super::daemon::{Daemon, lock};
use crate::capture::{CaptureEvent, DirectEvent, NoDirect, cgroup};
use crate::config::{Config, DirectChoice};
use crate::datapath::direct::drive::{Driver, LinkId, Told};
use crate::datapath::direct::session::accept::{Accepted, Bounds, Reception, serve};
use crate::datapath::direct::session::pool::{Connecting, Event, Pair, Pool, Terms};
use crate::datapath::direct::session::{Call, Incoming, Link, Workloads, connect};
use crate::datapath::direct::unfit;
use crate::datapath::ktls::Defect;
use crate::datapath::relay::Place;
use crate::handshake::ExpectedServer;
use crate::observe::{Reason, Refusal};
use crate::snapshot::{Snapshot, number_of};
use crate::workload::find;

/// How long the connection to another daemon may take.
const DIAL: Duration = Duration::from_secs(5);

/// What the daemon keeps of it.
pub struct Direct {
    host: Arc<Host>,
    pool: Pool,
}

/// Whether anything is configured to be direct.
pub(super) fn is_wanted(config: &Config) -> bool {
    let wants = |choice: &DirectChoice| *choice != DirectChoice::Never;
    config.direct.listen.is_some()
        || config.workloads.iter().any(|w| wants(&w.direct) || w.direct_ports.values().any(wants))
}

/// Starts it, where it is wanted and can be had.
pub(super) async fn start(daemon: &Arc<Daemon>) {
    let config = Arc::clone(&daemon.relay.snapshot.load().config);
    if !is_wanted(&config) {
        return;
    }
    let sound = match daemon.relay.ktls.load().as_ref() {
        Ok(abilities) if abilities.has(Defect::SendfileStalls) => Err(NoDirect::SendfileStalls),
        Ok(_) => Ok(()),
        Err(error) => {
            tracing::warn!(why = %error, "no direct connections without kernel TLS: relays carry all");
            return;
        }
    };
    if let Err(error) = sound.and_then(|()| daemon.relay.capture.switch_on_direct()) {
        tracing::warn!(why = %error, "no direct connections on this machine: relays carry all");
        return;
    }
    let mount = match cgroup::mount_point() {
        Ok(mount) => mount,
        Err(error) => {
            tracing::warn!(%error, "no direct connections without cgroup v2");
            return;
        }
    };
    let listener = match config.direct.listen {
        Some(address) => match TcpListener::bind(address.get()).await {
            Ok(listener) => Some(listener),
            Err(error) => {
                tracing::error!(%error, %address, "direct.listen cannot be bound: other nodes' connections go by relay");
                None
            }
        },
        None => None,
    };
    let host = Arc::new(Host::new(Arc::clone(daemon), mount));
    let (driver, teller) = Driver::new(Arc::clone(&host), Limits::default());
    let _ = host.teller.set(teller);
    tokio::spawn(driver.run());
    let (events, opened) = mpsc::channel(64);
    let relay = Arc::clone(&daemon.relay);
    let connector = move |pair: Pair| -> Connecting { Box::pin(call(relay.snapshot.load_full(), pair)) };
    let pool = Pool::new(Box::new(connector), events, Terms::default());
    tokio::spawn(outbound(Arc::clone(&host), opened));
    if let Some(listener) = listener {
        let (accepted, arrivals) = mpsc::channel(64);
        let stop = daemon.stopping.subscribe();
        let reception = Reception {
            workloads: workloads(&host),
            admission: crate::datapath::relay::Admission::new(config.limits.handshakes, None),
            bounds: Bounds::default(),
            accepted,
        };
        tokio::spawn(serve(listener, reception, stop));
        tokio::spawn(inbound(Arc::clone(&host), arrivals));
    }
    if daemon.direct.set(Direct { host, pool }).is_ok() {
        tracing::info!("direct connections can be had from now on");
    }
}

/// A namespace that is enrolled no longer: its sockets are born free again.
pub(super) fn let_go(place: &Place) {
    if place.held_for_direct.swap(false, Ordering::AcqRel)
        && let Err(error) = hold::let_go(&place.netns)
    {
        tracing::warn!(netns = %place.netns.path().display(), %error, "net.ipv4.tcp_notsent_lowat could not be set back");
    }
}

/// For `mtlsd uninstall`: nothing stays held once no program lets it go. Namespaces that are gone need nothing.
pub(super) fn let_all_go(config: &Config) {
    let mount = cgroup::mount_point().ok();
    for workload in &config.workloads {
        for netns in find(workload, mount.as_deref()).map(|found| found.namespaces).unwrap_or_default() {
            if let Err(error) = hold::let_go(&netns) {
                tracing::warn!(netns = %netns.path().display(), %error, "net.ipv4.tcp_notsent_lowat could not be set back");
            }
        }
    }
}

/// Dials the node of a destination and opens a session with it.
async fn call(snapshot: Arc<Snapshot>, pair: Pair) -> Result<(Link, Incoming), Refusal> {
    let to = pair.destination;
    let unknown = || {
        Refusal::new(Reason::UnknownDestination, format!("{to} is not in the directory, or without a node"))
    };
    let destination = snapshot.directory.lookup(to.ip(), to.port()).ok_or_else(unknown)?;
    let node = destination.node.ok_or_else(unknown)?;
    let workload = snapshot.by_name(&pair.own).ok_or_else(|| Refusal::from(Reason::ShuttingDown))?;
    let expected =
        ExpectedServer { ids: destination.expected.clone(), dns_names: destination.dns_names.clone() };
    let tls = workload.usable_identity(SystemTime::now())?.tls.clone();
    let dialled = tokio::time::timeout(DIAL, TcpStream::connect(node.get())).await;
    let tcp = match dialled {
        Ok(Ok(tcp)) => tcp,
        Ok(Err(error)) => {
            return Err(Refusal::new(Reason::DialRefused, format!("the daemon at {node}: {error}")));
        }
        Err(_) => {
            return Err(Refusal::new(
                Reason::DialTimeout,
                format!("the daemon at {node} did not answer in {DIAL:?}"),
            ));
        }
    };
    connect(tcp, &Call { tls, destination: to, expected: Arc::new(expected) }, &Default::default()).await
}

/// For the server's side: which of this node's workloads is meant.
fn workloads(host: &Arc<Host>) -> Arc<Workloads> {
    let host = Arc::clone(host);
    Arc::new(move |to: SocketAddr| {
        let snapshot = host.daemon.relay.snapshot.load_full();
        let (workload, _) = host.server(&snapshot, to).ok_or_else(|| {
            Refusal::new(
                Reason::UnknownDestination,
                format!("no workload of this node can be direct at {to}"),
            )
        })?;
        Ok(workload.usable_identity(SystemTime::now())?.tls.clone())
    })
}

/// Sessions that this node's workloads opened.
async fn outbound(host: Arc<Host>, mut events: mpsc::Receiver<Event>) {
    while let Some(event) = events.recv().await {
        match event {
            Event::Opened { pair, link, incoming } => {
                let Some(link) = link.upgrade() else { continue };
                let (workload, to) = (number_of(&pair.own), pair.destination);
                let number = host.links.add(Arc::clone(link.peer()), None);
                host.links.use_for(workload, to, number);
                host.tell(Told::SessionUp(number, DaemonLink(link)));
                offer(&host, &pair);
                tokio::spawn(hear(Arc::clone(&host), number, incoming, Some((workload, to))));
                tracing::info!(workload = &*pair.own, %to, "a session for direct connections is there");
            }
            Event::Failed { pair, refusal, pause } => {
                let (workload, to) = (&*pair.own, pair.destination);
                tracing::warn!(workload, %to, why = %refusal, ?pause, "no session for direct connections: a relay carries them");
            }
        }
    }
}

/// Tells the kernel, unless it is remembered that the pair is unfit.
fn offer(host: &Host, pair: &Pair) {
    let snapshot = host.daemon.relay.snapshot.load_full();
    let Some(workload) = snapshot.by_name(&pair.own) else { return };
    let choice = workload.settings.direct;
    let held = |place: &Arc<Place>| {
        place.owners.load().whole == Some(workload.number) && place.held_for_direct.load(Ordering::Acquire)
    };
    // Where sockets are not born held, nothing may be direct.
    if !lock(&host.daemon.node).places().any(held) {
        return;
    }
    let remembered =
        unfit::Pair { workload: Arc::clone(&pair.own), side: unfit::Side::Outbound(pair.destination) };
    let unfit = lock(&host.unfit).why_not(choice, &remembered, Instant::now());
    if choice == DirectChoice::Never || unfit.is_some() {
        return;
    }
    if let Err(error) = host.daemon.relay.capture.offer_direct(workload.number, pair.destination) {
        tracing::warn!(%error, "a pair cannot be direct");
    }
}

/// Sessions that other nodes' workloads opened.
async fn inbound(host: Arc<Host>, mut arrivals: mpsc::Receiver<Accepted>) {
    while let Some(arrival) = arrivals.recv().await {
        match arrival {
            Accepted::Session { link, incoming, place, from } => {
                let to = link.destination();
                tracing::info!(%from, %to, peer = %link.peer().name, "a session for direct connections was taken");
                let number = host.links.add(Arc::clone(link.peer()), Some(place));
                host.tell(Told::SessionUp(number, DaemonLink(link)));
                tokio::spawn(hear(Arc::clone(&host), number, incoming, None));
            }
            Accepted::Refused { from, refusal } => {
                tracing::warn!(%from, why = %refusal, "a session for direct connections was refused");
            }
        }
    }
}

/// Passes on what the other daemon says, until the session is over.
async fn hear(host: Arc<Host>, link: LinkId, mut incoming: Incoming, pair: Option<(u32, SocketAddr)>) {
    while let Some(message) = incoming.next().await {
        host.tell(Told::Peer(link, message));
    }
    if host.links.lost(link, pair)
        && let Some((workload, to)) = pair
    {
        host.daemon.relay.capture.withdraw_direct(workload, to);
    }
    host.tell(Told::SessionLost(link));
}

/// What the programs report.
pub(super) fn event(daemon: &Daemon, event: &CaptureEvent, what: DirectEvent) {
    let Some(Direct { host, .. }) = daemon.direct.get() else { return };
    let socket = Socket { netns: event.netns, cookie: event.cookie };
    let server = event.destination;
    let tuple = |client| FourTuple { client, server };
    let owner = |caller: crate::capture::Caller| Owner { pid: caller.pid, fd: caller.descriptor };
    match what {
        DirectEvent::Syn { syn, again, caller } => {
            if let Some(place) = lock(&daemon.node).place(event.netns) {
                let held =
                    Held { workload: event.workload, socket, to: server, syn, again, owner: owner(caller) };
                host.syn(&place, held);
            }
        }
        DirectEvent::Established { client, .. } => {
            host.tell(Told::Established { socket, tuple: tuple(client) })
        }
        DirectEvent::Accepted { client, caller } => {
            host.tell(Told::Accepted { socket, tuple: tuple(client), owner: owner(caller) });
        }
        DirectEvent::Ended { sent, received, .. } => {
            host.tell(Told::Ended { socket, counts: Counts { sent, received } });
        }
        DirectEvent::Violation { client } => {
            tracing::error!(%client, %server, "what came first on a direct connection was no TLS record: it is cut");
            host.violated(socket, tuple(client));
        }
    }
}

impl Daemon {
    /// A connection went by relay: the next ones of its pair may be direct, if there is a session by then.
    pub(super) fn want_direct(&self, workload: u32, to: SocketAddr) {
        let Some(direct) = self.direct.get() else { return };
        let snapshot = self.relay.snapshot.load();
        let Some(workload) = snapshot.workloads.get(&workload) else { return };
        let node = snapshot.directory.lookup(to.ip(), to.port()).and_then(|destination| destination.node);
        if workload.settings.direct == DirectChoice::Never || node.is_none() {
            return;
        }
        let pair = Pair { own: workload.settings.name.as_str().into(), destination: to };
        if direct.pool.get(&pair).is_some() {
            offer(&direct.host, &pair);
        }
    }

    /// Holds the namespaces of workloads that may be direct, where that is possible by now.
    pub(super) fn hold_for_direct(&self) {
        if self.direct.get().is_none() {
            return;
        }
        let snapshot = self.relay.snapshot.load_full();
        let places: Vec<_> = lock(&self.node).places().map(Arc::clone).collect();
        for place in places {
            let owner = place.owners.load().whole.and_then(|number| snapshot.workloads.get(&number));
            let wanted = owner.is_some_and(|workload| {
                workload.settings.direct != DirectChoice::Never
                    || workload.settings.direct_ports.values().any(|choice| *choice != DirectChoice::Never)
            });
            if !wanted || place.held_for_direct.load(Ordering::Acquire) {
                continue;
            }
            let netns = place.netns.path().display();
            match hold::hold(&place.netns) {
                Ok(_) => {
                    place.held_for_direct.store(true, Ordering::Release);
                    tracing::info!(%netns, "its connections may be direct from now on");
                }
                Err(why @ HoldError::Open(_)) => tracing::debug!(%netns, %why, "not direct yet"),
                Err(why) => tracing::warn!(%netns, %why, "its connections cannot be direct"),
            }
        }
    }
}
