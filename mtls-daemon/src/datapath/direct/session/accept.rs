//! The node's one listener for sessions, for all its workloads.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};

use super::link::{Incoming, Limits, Link};
use super::open::{Workloads, accept};
use crate::datapath::listen::recover;
use crate::datapath::relay::admission::Admission;
use crate::datapath::relay::outbound::reset;
use crate::observe::{Reason, Refusal};

/// How much strangers and peers may take.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Each session's own.
    pub session: Limits,
    /// Most connections whose client has not proved yet who it is; a further one is reset.
    pub unproven: usize,
    /// Most sessions, whoever's.
    pub sessions: usize,
    /// Most sessions of one node, so that one that misbehaves leaves places for the others.
    pub sessions_of_a_node: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { session: Limits::default(), unproven: 256, sessions: 16_384, sessions_of_a_node: 8_192 }
    }
}

/// What the driver hears from the listener.
#[derive(Debug)]
pub enum Accepted {
    /// A client's daemon has proved its workload; what that may do is for the policy to say, for each connection.
    Session {
        /// To answer on. Who drops the last clone ends the session.
        link: Link,
        /// What the peer says.
        incoming: Incoming,
        /// The other daemon.
        from: SocketAddr,
        /// The session's place among those that there may be: to be dropped with the session.
        place: Place,
    },
    /// There is none.
    Refused {
        /// The other daemon, or a stranger.
        from: SocketAddr,
        /// Why not.
        refusal: Refusal,
    },
}

/// A place among the sessions that there may be; dropped, it is free.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
    _of_node: OfNode,
}

/// Sessions by the node's address.
type Nodes = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// A place among those of one node.
#[derive(Debug)]
struct OfNode {
    nodes: Nodes,
    node: IpAddr,
}

impl OfNode {
    fn take(nodes: &Nodes, node: IpAddr, most: usize) -> Option<Self> {
        let mut all = nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let count = all.entry(node).or_default();
        if *count >= most {
            return None;
        }
        *count += 1;
        drop(all);
        Some(Self { nodes: Arc::clone(nodes), node })
    }
}

impl Drop for OfNode {
    fn drop(&mut self) {
        let mut all = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut entry) = all.entry(self.node) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// The listener's surroundings.
pub struct Reception {
    /// Finds the workload that is asked for.
    pub workloads: Arc<Workloads>,
    /// Shares the handshakes among source addresses.
    pub admission: Admission,
    /// Limits.
    pub bounds: Bounds,
    /// Where sessions and refusals go. A refusal that finds no room is lost; a session waits for it.
    pub accepted: mpsc::Sender<Accepted>,
}

/// Accepts until `stop` becomes true or nobody hears any more.
pub async fn serve(listener: TcpListener, reception: Reception, mut stop: watch::Receiver<bool>) {
    let unproven = Arc::new(Semaphore::new(reception.bounds.unproven.min(Semaphore::MAX_PERMITS)));
    let sessions = Arc::new(Semaphore::new(reception.bounds.sessions.min(Semaphore::MAX_PERMITS)));
    let (reception, nodes) = (Arc::new(reception), Nodes::default());
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.wait_for(|stop| *stop) => return,
            () = reception.accepted.closed() => return,
        };
        let (tcp, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                recover(&error, "a session of another daemon").await;
                continue;
            }
        };
        let Ok(place) = Arc::clone(&unproven).try_acquire_owned() else {
            let limit = reception.bounds.unproven;
            let detail = format!("{limit} clients are proving who they are");
            reception.refuse(&tcp, from, Refusal::new(Reason::HandshakeLimit, detail));
            continue;
        };
        let (reception, sessions, nodes) =
            (Arc::clone(&reception), Arc::clone(&sessions), Arc::clone(&nodes));
        tokio::spawn(async move { reception.receive(tcp, from, place, (sessions, nodes)).await });
    }
}

impl Reception {
    async fn receive(
        &self,
        tcp: TcpStream,
        from: SocketAddr,
        unproven: OwnedSemaphorePermit,
        (sessions, nodes): (Arc<Semaphore>, Nodes),
    ) {
        let patience = self.bounds.session.handshake;
        let slot = match self.admission.inbound_handshake(from.ip(), patience).await {
            Ok(slot) => slot,
            Err(refusal) => return self.refuse(&tcp, from, refusal),
        };
        // Before the handshake: a session that would have no place is not welcomed.
        let Ok(permit) = sessions.try_acquire_owned() else {
            let detail = format!("there are {} sessions already", self.bounds.sessions);
            return self.refuse(&tcp, from, Refusal::new(Reason::TotalLimit, detail));
        };
        let most = self.bounds.sessions_of_a_node;
        let Some(of_node) = OfNode::take(&nodes, from.ip(), most) else {
            let detail = format!("{} has {most} sessions already", from.ip());
            return self.refuse(&tcp, from, Refusal::new(Reason::TotalLimit, detail));
        };
        let opened = accept(tcp, &*self.workloads, &self.bounds.session).await;
        drop((slot, unproven));
        match opened {
            Ok((link, incoming)) => {
                let place = Place { _permit: permit, _of_node: of_node };
                let session = Accepted::Session { link, incoming, from, place };
                // Failing, the driver is gone and the session with it.
                let _ = self.accepted.send(session).await;
            }
            Err(refusal) => self.tell(from, refusal),
        }
    }

    fn refuse(&self, tcp: &TcpStream, from: SocketAddr, refusal: Refusal) {
        reset(tcp);
        self.tell(from, refusal);
    }

    fn tell(&self, from: SocketAddr, refusal: Refusal) {
        let _ = self.accepted.try_send(Accepted::Refused { from, refusal });
    }
}

impl std::fmt::Debug for Reception {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reception").field("bounds", &self.bounds).finish_non_exhaustive()
    }
}
