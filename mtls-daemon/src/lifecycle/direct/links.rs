//! The sessions that live, by number: which pair each is for, who is at its other end, and when nobody needs it any more.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::datapath::direct::drive::LinkId;
use crate::datapath::direct::session::accept::Place;
use crate::datapath::direct::session::{LinkEnd, WeakLink};
use crate::datapath::relay::context::tls_info;
use crate::identity::PeerIdentity;
use crate::lifecycle::daemon::lock;
use crate::observe::connection::TlsInfo;

/// The own workload's number, and where it connects.
pub(super) type PairKey = (u32, SocketAddr);

/// Who is at the other end.
#[derive(Clone)]
pub(super) struct Peer {
    /// As the session's handshake proved.
    pub identity: Arc<PeerIdentity>,
    /// Its name in words.
    pub name: Arc<str>,
    /// What the handshake agreed on.
    pub tls: Option<Arc<TlsInfo>>,
}

/// A session, as those see it who do not keep it alive.
pub(super) trait Handle {
    /// Ends it.
    fn end(&self, why: LinkEnd);
    /// Who proved itself at its other end, and how.
    fn peer(&self) -> Peer;
}

impl Handle for WeakLink {
    fn end(&self, why: LinkEnd) {
        if let Some(link) = self.upgrade() {
            link.end(why);
        }
    }

    fn peer(&self) -> Peer {
        let identity = Arc::clone(WeakLink::peer(self));
        Peer {
            name: identity.name.to_string().into(),
            tls: self.agreed().as_ref().map(|agreed| Arc::new(tls_info(agreed))),
            identity,
        }
    }
}

/// What is known of a session.
struct Known<H> {
    link: H,
    /// Made once: its connections share it.
    peer: Peer,
    /// Of a client's pair; `None`: another node's client opened it.
    pair: Option<PairKey>,
    /// Its place among those of other nodes' clients, kept with it.
    _place: Option<Place>,
    connections: usize,
    /// Another one takes its pair's new connections.
    replaced: bool,
    /// It is over; kept for the connections that outlive it.
    lost: bool,
    /// Its chain is on disk.
    noted: bool,
}

impl<H: Handle> Known<H> {
    fn is_over(&self) -> bool {
        self.replaced && self.connections == 0
    }

    fn new(link: H, pair: Option<PairKey>, place: Option<Place>) -> Self {
        Self {
            peer: link.peer(),
            link,
            pair,
            _place: place,
            connections: 0,
            replaced: false,
            lost: false,
            noted: false,
        }
    }
}

/// What a session's end means.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lost {
    /// It was this pair's, which has none now.
    pub pair: Option<PairKey>,
    /// No connection outlives it.
    pub forgotten: bool,
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
        self.add(Known::new(link, None, Some(place)))
    }

    /// A session of this node's; its pair's new connections go by it from now on.
    pub fn made(&self, link: H, pair: PairKey) -> LinkId {
        let id = self.add(Known::new(link, Some(pair), None));
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
    pub fn lost(&self, link: LinkId) -> Lost {
        let mut all = lock(&self.0);
        let Some(known) = all.known.get_mut(&link).filter(|known| !known.lost) else {
            return Lost::default();
        };
        known.lost = true;
        // Its place is free again.
        known._place = None;
        let (pair, outlived) = (known.pair, known.connections > 0);
        if !outlived {
            all.known.remove(&link);
        }
        let current = pair.filter(|pair| all.current.get(pair) == Some(&link));
        if let Some(pair) = &current {
            all.current.remove(pair);
        }
        Lost { pair: current, forgotten: !outlived }
    }

    /// How many live.
    pub fn count(&self) -> usize {
        lock(&self.0).known.values().filter(|known| !known.lost).count()
    }

    /// Who proved itself at the other end of one that lives.
    pub fn peer(&self, link: LinkId) -> Option<Peer> {
        let all = lock(&self.0);
        let known = all.known.get(&link).filter(|known| !known.lost)?;
        Some(known.peer.clone())
    }

    /// The session for a new connection, and who is at its other end.
    pub fn of(&self, pair: PairKey) -> Option<(LinkId, Peer)> {
        let all = lock(&self.0);
        let id = *all.current.get(&pair)?;
        Some((id, all.known.get(&id)?.peer.clone()))
    }

    /// A connection more is on it.
    pub fn enter(&self, link: LinkId) {
        if let Some(known) = lock(&self.0).known.get_mut(&link) {
            known.connections += 1;
        }
    }

    /// One less; a session that was replaced ends with its last one. True: nobody will speak of it again.
    pub fn leave(&self, link: LinkId) -> bool {
        let mut all = lock(&self.0);
        let Some(known) = all.known.get_mut(&link) else { return false };
        known.connections = known.connections.saturating_sub(1);
        if known.connections == 0 && known.lost {
            all.known.remove(&link);
            return true;
        }
        if known.is_over() {
            known.link.end(LinkEnd::Unused);
        }
        false
    }

    /// To be noted on disk, once for each session.
    pub fn to_note(&self, link: LinkId) -> Option<H>
    where
        H: Clone,
    {
        let mut all = lock(&self.0);
        let known = all.known.get_mut(&link).filter(|known| !known.noted)?;
        known.noted = true;
        Some(known.link.clone())
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
