//! The client's side: a held SYN becomes a connection, or its connect() fails.

use std::net::SocketAddr;
use std::sync::Arc;

use mtls_direct::{ConnectionId, FourTuple, Owner, Socket};

use super::host::Host;
use super::opened::{Opened, note_peer};
use crate::capture::HeldSyn;
use crate::datapath::direct::drive::Told;
use crate::datapath::direct::session::fresh_nonce;
use crate::datapath::relay::{Place, authorise};
use crate::lifecycle::daemon::lock;
use crate::observe::Reason;
use crate::observe::connection::{Direction, Ending};
use crate::observe::observer::Captured;

/// A held SYN that may become a direct connection.
pub(super) struct Held {
    pub workload: u32,
    pub socket: Socket,
    pub to: SocketAddr,
    pub syn: HeldSyn,
    pub again: bool,
    pub owner: Owner,
}

impl Host {
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
}
