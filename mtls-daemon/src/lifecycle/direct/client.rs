//! The client's side: a held SYN becomes a connection, or its connect() fails.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use mtls_direct::{ConnectionId, FourTuple, Owner, Socket};

use super::host::Host;
use super::links::{PairKey, Peer};
use super::opened::{Admitted, Name, Opened, note_session};
use crate::capture::HeldSyn;
use crate::datapath::direct::drive::{LinkId, Told};
use crate::datapath::relay::external::{Outbound, ask_outbound};
use crate::datapath::relay::{Place, authorise};
use crate::identity::PeerIdentity;
use crate::lifecycle::daemon::lock;
use crate::observe::connection::{Direction, Ending};
use crate::observe::observer::Observed;
use crate::observe::{Reason, Refusal};
use crate::snapshot::{Snapshot, WorkloadState};

/// A held SYN that may become a direct connection.
pub(super) struct Held {
    pub workload: u32,
    pub socket: Socket,
    pub to: SocketAddr,
    pub syn: HeldSyn,
    pub owner: Owner,
}

impl Held {
    pub fn pair(&self) -> PairKey {
        (self.workload, self.to)
    }
}

/// The SYNs of connections whose TCP handshake is not known to be over.
#[derive(Default)]
pub(super) struct Syns(Mutex<HashMap<Socket, Syn>>);

struct Syn {
    place: Arc<Place>,
    syn: HeldSyn,
    let_go: bool,
}

impl Syns {
    fn hold(&self, socket: Socket, place: &Arc<Place>, syn: HeldSyn) {
        lock(&self.0).insert(socket, Syn { place: Arc::clone(place), syn, let_go: false });
    }

    /// Lets it go to where it wants to go. Nothing to let go is no error.
    pub fn let_go(&self, socket: Socket) -> std::io::Result<()> {
        match lock(&self.0).get_mut(&socket) {
            Some(syn) => {
                syn.let_go = true;
                syn.place.release_direct(&syn.syn)
            }
            None => Ok(()),
        }
    }

    /// The kernel sent it once more. False: it is not known.
    fn again(&self, socket: Socket) -> std::io::Result<bool> {
        match lock(&self.0).get(&socket) {
            Some(Syn { place, syn, let_go: true }) => place.release_direct(syn).map(|()| true),
            // It waits for the other daemon.
            Some(_) => Ok(true),
            None => Ok(false),
        }
    }

    /// Fails its connect(), unless it was let go.
    pub fn refuse(&self, socket: Socket, reason: Reason) -> std::io::Result<()> {
        match lock(&self.0).remove(&socket) {
            Some(Syn { place, syn, let_go: false }) => place.answer_direct(&syn, reason),
            _ => Ok(()),
        }
    }

    /// Fails all that were not let go.
    pub fn refuse_all(&self, reason: Reason) {
        for Syn { place, syn, .. } in
            std::mem::take(&mut *lock(&self.0)).into_values().filter(|syn| !syn.let_go)
        {
            answer(&place, &syn, reason);
        }
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        lock(&self.0).len()
    }

    /// Its connection is established, or over: its SYN is not sent again.
    pub fn forget(&self, socket: Socket) {
        lock(&self.0).remove(&socket);
    }
}

impl Host {
    /// A SYN is held for the first time.
    pub fn syn(self: &Arc<Self>, place: &Arc<Place>, held: Held) {
        let snapshot = self.relay().snapshot.load_full();
        let Some(workload) = snapshot.workloads.get(&held.workload).map(Arc::clone) else {
            answer(place, &held.syn, Reason::ShuttingDown);
            return;
        };
        if !place.held_for_direct.load(Ordering::Acquire) {
            // Only where `direct: require` leaves no relay.
            let detail =
                "its sockets cannot be held yet, since connections from before are open; see the log"
                    .to_owned();
            return self.refuse_held(place, &held, Refusal::new(Reason::DirectFailed, detail));
        }
        match self.links.of(held.pair()) {
            Some((link, peer)) => self.open(place, held, &snapshot, &workload, link, &peer),
            // The address is the true one: no relay can take it any more.
            None => self.wait_for_session(place, held, &workload),
        }
    }

    /// The kernel sent a held SYN once more.
    pub fn syn_again(&self, place: &Place, socket: Socket, syn: &HeldSyn) {
        match self.syns.again(socket) {
            Ok(true) => {}
            // An earlier daemon's: nobody will ever let it go.
            Ok(false)
                if !self.waiting.has(socket) && !self.relay().capture.has_direct_socket(socket.cookie) =>
            {
                answer(place, syn, Reason::DialRefused);
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the SYN of a direct connection could not be let go again"),
        }
    }

    fn open(
        self: &Arc<Self>,
        place: &Arc<Place>,
        held: Held,
        snapshot: &Arc<Snapshot>,
        workload: &Arc<WorkloadState>,
        link: LinkId,
        peer: &Peer,
    ) {
        let Held { socket, to, syn, owner, .. } = held;
        let tuple = FourTuple { client: syn.source, server: to };
        let observed = self.observe(workload, Direction::Outbound, tuple);
        note_session(&observed, workload, peer);
        let destination = snapshot.directory.lookup(to.ip(), to.port());
        let name = destination.map_or_else(Arc::default, |destination| Arc::clone(&destination.name));
        observed.connection().learn(|learned| learned.destination_name = Some(Arc::clone(&name)));
        let admitted = self.admit_outbound(snapshot, workload, &observed, &peer.identity, tuple);
        let no_random = || Refusal::new(Reason::Internal, "the system gives no random bytes");
        let (admitted, nonce) =
            match admitted.and_then(|admitted| Ok((admitted, self.nonce().ok_or_else(no_random)?))) {
                Ok(admitted) => admitted,
                Err(refusal) => {
                    answer(place, &syn, refusal.reason);
                    observed.end(Ending::Refused(refusal));
                    return;
                }
            };
        let id = ConnectionId { tuple, nonce };
        let opened = Opened::new((link, nonce), observed, workload, admitted);
        let connection = opened.observed.shared();
        let from = syn.source.ip();
        self.syns.hold(socket, place, syn);
        self.enter(opened);
        let told = Told::Syn { link, socket, owner, id };
        if snapshot.external.is_none() {
            self.tell(told);
            return;
        }
        let (host, snapshot, workload, peer) =
            (Arc::clone(self), Arc::clone(snapshot), Arc::clone(workload), Arc::clone(&peer.identity));
        tokio::spawn(async move {
            let ends = Outbound { workload: &workload.settings, from, peer: &peer, to, name: &name };
            match ask_outbound(&snapshot, &host.relay().external, &connection, ends).await {
                Ok(()) => host.tell(told),
                Err(refusal) => host.refuse_early((link, nonce), socket, refusal),
            }
        });
    }

    fn admit_outbound(
        &self,
        snapshot: &Snapshot,
        workload: &WorkloadState,
        observed: &Observed,
        peer: &Arc<PeerIdentity>,
        tuple: FourTuple,
    ) -> Result<Admitted, Refusal> {
        let permit = self.permit(snapshot, workload)?;
        let (connection, flows) = (observed.connection(), &self.relay().flows);
        authorise::outbound(snapshot, workload, connection, flows, peer, tuple.server)?;
        Ok((permit, self.lease(workload, Direction::Outbound, tuple, Arc::clone(peer))?))
    }

    /// Before the driver has heard of it.
    fn refuse_early(&self, name: Name, socket: Socket, refusal: Refusal) {
        let Some(opened) = self.leave(name, None) else { return };
        if let Err(error) = self.syns.refuse(socket, refusal.reason) {
            tracing::warn!(%error, "a held connect() could not be answered");
        }
        opened.observed.end(Ending::Refused(refusal));
    }

    /// No session, and none to be had: the record says why.
    pub fn refuse_held(&self, place: &Place, held: &Held, refusal: Refusal) {
        answer(place, &held.syn, refusal.reason);
        if let Some(workload) = self.relay().snapshot.load().workloads.get(&held.workload) {
            let tuple = FourTuple { client: held.syn.source, server: held.to };
            self.observe(workload, Direction::Outbound, tuple).end(Ending::Refused(refusal));
        }
    }
}

fn answer(place: &Place, syn: &HeldSyn, reason: Reason) {
    if let Err(error) = place.answer_direct(syn, reason) {
        tracing::warn!(%error, "a held connect() could not be answered");
    }
}
