//! The sessions that live, by number: which pair each is for, who is at its other end, and when nobody needs it any more.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::datapath::direct::drive::LinkId;
use crate::datapath::direct::session::accept::Place;
use crate::datapath::direct::session::{LinkEnd, WeakLink};
use crate::identity::PeerIdentity;
use crate::lifecycle::daemon::lock;

/// The own workload's number, and where it connects.
pub(super) type PairKey = (u32, SocketAddr);

/// A session, as those see it who do not keep it alive.
pub(super) trait Handle {
    /// Ends it.
    fn end(&self, why: LinkEnd);
    /// Who proved itself at its other end.
    fn peer(&self) -> &Arc<PeerIdentity>;
}

impl Handle for WeakLink {
    fn end(&self, why: LinkEnd) {
        if let Some(link) = self.upgrade() {
            link.end(why);
        }
    }

    fn peer(&self) -> &Arc<PeerIdentity> {
        WeakLink::peer(self)
    }
}

/// What is known of a session.
struct Known<H> {
    link: H,
    /// Of a client's pair; `None`: another node's client opened it.
    pair: Option<PairKey>,
    /// Its place among those of other nodes' clients, kept with it.
    _place: Option<Place>,
    connections: usize,
    /// Another one takes its pair's new connections.
    replaced: bool,
}

impl<H> Known<H> {
    fn is_over(&self) -> bool {
        self.replaced && self.connections == 0
    }
}

struct All<H> {
    last: u64,
    known: HashMap<LinkId, Known<H>>,
    current: HashMap<PairKey, LinkId>,
}

/// All of them.
pub(super) struct Links<H = WeakLink>(Mutex<All<H>>);

impl<H> Default for Links<H> {
    /// Numbers begin with the time, so that no number of an earlier daemon is used again.
    fn default() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_nanos();
        let last = u64::try_from(now).unwrap_or_default();
        Self(Mutex::new(All { last, known: HashMap::new(), current: HashMap::new() }))
    }
}

impl<H: Handle> Links<H> {
    /// A session that another node's client opened.
    pub fn taken(&self, link: H, place: Place) -> LinkId {
        self.add(Known { link, pair: None, _place: Some(place), connections: 0, replaced: false })
    }

    /// A session of this node's; its pair's new connections go by it from now on.
    pub fn made(&self, link: H, pair: PairKey) -> LinkId {
        let id = self.add(Known { link, pair: Some(pair), _place: None, connections: 0, replaced: false });
        let mut all = lock(&self.0);
        let before = all.current.insert(pair, id);
        if let Some(known) = before.and_then(|before| all.known.get_mut(&before)) {
            known.replaced = true;
            if known.is_over() {
                known.link.end(LinkEnd::Unused);
            }
        }
        id
    }

    fn add(&self, known: Known<H>) -> LinkId {
        let mut all = lock(&self.0);
        all.last += 1;
        let id = LinkId(all.last);
        all.known.insert(id, known);
        id
    }

    /// A session is gone. The pair, if it was the one for new connections.
    pub fn lost(&self, link: LinkId) -> Option<PairKey> {
        let mut all = lock(&self.0);
        let pair = all.known.remove(&link)?.pair?;
        (all.current.get(&pair) == Some(&link)).then(|| all.current.remove(&pair))?;
        Some(pair)
    }

    /// How many live.
    pub fn count(&self) -> usize {
        lock(&self.0).known.len()
    }

    /// Who proved itself at the other end of one that lives.
    pub fn peer(&self, link: LinkId) -> Option<Arc<PeerIdentity>> {
        Some(Arc::clone(lock(&self.0).known.get(&link)?.link.peer()))
    }

    /// The session for a new connection, and who is at its other end.
    pub fn of(&self, pair: PairKey) -> Option<(LinkId, Arc<PeerIdentity>)> {
        let all = lock(&self.0);
        let id = *all.current.get(&pair)?;
        Some((id, Arc::clone(all.known.get(&id)?.link.peer())))
    }

    /// A connection more is on it.
    pub fn enter(&self, link: LinkId) {
        if let Some(known) = lock(&self.0).known.get_mut(&link) {
            known.connections += 1;
        }
    }

    /// One less; a session that was replaced ends with its last one.
    pub fn leave(&self, link: LinkId) {
        if let Some(known) = lock(&self.0).known.get_mut(&link) {
            known.connections = known.connections.saturating_sub(1);
            if known.is_over() {
                known.link.end(LinkEnd::Unused);
            }
        }
    }

    /// Its identities may not be used any more.
    pub fn end(&self, link: LinkId, why: LinkEnd) {
        if let Some(known) = lock(&self.0).known.get(&link) {
            known.link.end(why);
        }
    }
}

#[cfg(test)]
mod tests;
