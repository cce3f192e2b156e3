//! The sessions with other daemons: made, offered to the kernel, heard, lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::host::{DaemonLink, Host};
use crate::config::DirectChoice;
use crate::datapath::direct::drive::{LinkId, Told};
use crate::datapath::direct::session::accept::Accepted;
use crate::datapath::direct::session::pool::{Event, Pair};
use crate::datapath::direct::session::{Call, Incoming, Link, Workloads, connect};
use crate::datapath::direct::unfit;
use crate::datapath::relay::Place;
use crate::handshake::ExpectedServer;
use crate::lifecycle::daemon::{Daemon, lock};
use crate::observe::{Reason, Refusal};
use crate::snapshot::{Snapshot, number_of};

/// How long the connection to another daemon may take.
const DIAL: Duration = Duration::from_secs(5);

/// Dials the node of a destination and opens a session with it.
pub(super) async fn call(snapshot: Arc<Snapshot>, pair: Pair) -> Result<(Link, Incoming), Refusal> {
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
pub(super) fn workloads(host: &Arc<Host>) -> Arc<Workloads> {
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
pub(super) async fn outbound(host: Arc<Host>, mut events: mpsc::Receiver<Event>) {
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
pub(super) async fn inbound(host: Arc<Host>, mut arrivals: mpsc::Receiver<Accepted>) {
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

impl Daemon {
    /// A connection went by relay: the next ones of its pair may be direct, if there is a session by then.
    pub(in crate::lifecycle) fn want_direct(&self, workload: u32, to: SocketAddr) {
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
}
