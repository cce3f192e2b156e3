//! The sessions with other daemons: made, offered to the kernel, heard, lost.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use tokio::net::TcpStream;
use tokio::sync::mpsc;

use super::host::{DaemonLink, Host};
use super::links::Lost;
use crate::config::DirectChoice;
use crate::datapath::direct::drive::{LinkId, Told};
use crate::datapath::direct::session::accept::Accepted;
use crate::datapath::direct::session::pool::{Event, Pair};
use crate::datapath::direct::session::{Call, Incoming, Link, LinkEnd, WeakLink, Workloads, connect};
use crate::datapath::direct::unfit;
use crate::datapath::relay::{Other, Place};
use crate::handshake::ExpectedServer;
use crate::lease::Lease;
use crate::lifecycle::daemon::{Daemon, lock};
use crate::observe::connection::Direction;
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
            Event::Opened { pair, link, incoming } => opened(&host, &pair, link, incoming),
            Event::Failed { pair, refusal, pause } => {
                let (workload, to) = (&*pair.own, pair.destination);
                tracing::warn!(workload, %to, why = %refusal, ?pause, "no session for direct connections");
                host.fail_waiting((number_of(&pair.own), to), None, &refusal);
            }
        }
    }
}

fn opened(host: &Arc<Host>, pair: &Pair, weak: WeakLink, incoming: Incoming) {
    let Some(link) = weak.upgrade() else { return };
    let (key, to) = ((number_of(&pair.own), pair.destination), pair.destination);
    let snapshot = host.relay().snapshot.load_full();
    let Some(workload) = snapshot.by_name(&pair.own) else {
        return link.end(LinkEnd::Unused);
    };
    let other = Other {
        direction: Direction::Outbound,
        port: to.port(),
        address: to.ip(),
        peer: Some(Arc::clone(link.peer())),
    };
    // The session's own; each connection has one besides.
    let lease = host.relay().lease(workload, other);
    let number = host.links.made(weak, key);
    host.tell(Told::SessionUp(number, DaemonLink(link)));
    tokio::spawn(hear(Arc::clone(host), number, incoming, Some(lease)));
    tracing::info!(workload = &*pair.own, %to, "a session for direct connections is there");
    offer(host, pair);
    host.go_on_waiting(key);
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
                let number = host.links.taken(link.downgrade(), place);
                host.tell(Told::SessionUp(number, DaemonLink(link)));
                // Its connections' leases end it.
                tokio::spawn(hear(Arc::clone(&host), number, incoming, None));
            }
            Accepted::Refused { from, refusal } => {
                tracing::warn!(%from, why = %refusal, "a session for direct connections was refused");
            }
        }
    }
}

/// Passes on what the other daemon says, until the session is over or its lease is.
async fn hear(host: Arc<Host>, link: LinkId, mut incoming: Incoming, mut lease: Option<Lease>) {
    loop {
        let over = async {
            match &mut lease {
                Some(lease) => lease.over().await,
                None => std::future::pending().await,
            }
        };
        let message = tokio::select! {
            message = incoming.next() => message,
            why = over => {
                tracing::info!(%why, "the lease of a session for direct connections is over");
                host.links.end(link, LinkEnd::LeaseEnded);
                lease = None;
                continue;
            }
        };
        match message {
            Some(message) => host.tell(Told::Peer(link, message)),
            None => break,
        }
    }
    let Lost { pair, forgotten } = host.links.lost(link);
    if let Some((workload, to)) = pair {
        host.relay().capture.withdraw_direct(workload, to);
    }
    if forgotten {
        host.journal.forget(link.0);
    }
    host.tell(Told::SessionLost(link));
}

impl Daemon {
    /// A connection went by relay: the next ones of its pair may be direct, if there is a session by then.
    pub(in crate::lifecycle) fn want_direct(&self, workload: u32, to: SocketAddr) {
        let Some(host) = self.direct_host() else { return };
        let snapshot = self.relay.snapshot.load();
        let Some(workload) = snapshot.workloads.get(&workload) else { return };
        let node = snapshot.directory.lookup(to.ip(), to.port()).and_then(|destination| destination.node);
        if workload.settings.direct == DirectChoice::Never || node.is_none() {
            return;
        }
        let pair = Pair { own: workload.settings.name.as_str().into(), destination: to };
        if host.pool.get().is_some_and(|pool| pool.get(&pair).is_some()) {
            offer(host, &pair);
        }
    }

    /// Another snapshot is in force: sessions follow identities, the memory of failures its settings.
    pub(in crate::lifecycle) fn follow_for_direct(&self, old: &Snapshot, new: &Snapshot) {
        let Some(host) = self.direct_host() else { return };
        let Some(pool) = host.pool.get() else { return };
        lock(&host.unfit).configure(new.config.direct.unfit);
        for name in renewed(old, new) {
            pool.renew(name);
        }
        let may_stay = |pair: &Pair| {
            let to = pair.destination;
            let node = new.directory.lookup(to.ip(), to.port()).and_then(|destination| destination.node);
            let workload = new.by_name(&pair.own);
            node.is_some() && workload.is_some_and(|workload| workload.settings.direct != DirectChoice::Never)
        };
        pool.end(|pair| !may_stay(pair), &LinkEnd::Unused);
    }
}

/// Workloads that show another certificate, or trust others, than before.
fn renewed<'a>(old: &Snapshot, new: &'a Snapshot) -> impl Iterator<Item = &'a str> {
    new.workloads.iter().filter_map(|(number, workload)| {
        let identity = workload.identity.as_ref().ok()?;
        let before = old.workloads.get(number)?.identity.as_ref().ok()?;
        let same = before.marks == identity.marks && before.bundles == identity.bundles;
        (!same).then_some(workload.settings.name.as_str())
    })
}
