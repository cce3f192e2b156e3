//! The sessions that live, by number: which pair each is for, and who is at its other end.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use crate::datapath::direct::drive::LinkId;
use crate::datapath::direct::session::accept::Place;
use crate::identity::PeerIdentity;
use crate::lifecycle::daemon::lock;

/// What is known of a session.
#[derive(Clone)]
pub(super) struct Known {
    /// Who proved itself at the other end.
    pub peer: Arc<PeerIdentity>,
    /// The session's place among those of other nodes' clients, kept with it.
    _place: Option<Arc<Place>>,
}

/// All of them.
#[derive(Default)]
pub(super) struct Links {
    last: AtomicU64,
    known: Mutex<HashMap<LinkId, Known>>,
    /// By number of the own workload and where it connects: the session that takes new connections.
    outbound: Mutex<HashMap<(u32, SocketAddr), LinkId>>,
}

impl Links {
    /// One more session.
    pub fn add(&self, peer: Arc<PeerIdentity>, place: Option<Place>) -> LinkId {
        let link = LinkId(self.last.fetch_add(1, Ordering::Relaxed) + 1);
        let known = Known { peer, _place: place.map(Arc::new) };
        lock(&self.known).insert(link, known);
        link
    }

    /// New connections of the pair go by it.
    pub fn use_for(&self, workload: u32, to: SocketAddr, link: LinkId) {
        lock(&self.outbound).insert((workload, to), link);
    }

    /// A session is gone. True: it was the pair's.
    pub fn lost(&self, link: LinkId, pair: Option<(u32, SocketAddr)>) -> bool {
        lock(&self.known).remove(&link);
        let mut outbound = lock(&self.outbound);
        match pair {
            Some(pair) if outbound.get(&pair) == Some(&link) => outbound.remove(&pair).is_some(),
            _ => false,
        }
    }

    /// What is known of one.
    pub fn get(&self, link: LinkId) -> Option<Known> {
        lock(&self.known).get(&link).cloned()
    }

    /// The session for a new connection.
    pub fn of(&self, workload: u32, to: SocketAddr) -> Option<LinkId> {
        lock(&self.outbound).get(&(workload, to)).copied()
    }
}
