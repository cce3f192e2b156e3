//! One session, as those hold it who speak on it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mtls_direct::{ConnectionId, Message, Nonce, Role};
use rustls::pki_types::CertificateDer;
use rustls::{Connection, SupportedCipherSuite};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};

use super::WireError;
use super::keys::{KeyError, SocketKeys, derive};
use super::task::Task;
use crate::handshake::Agreed;
use crate::identity::PeerIdentity;

/// How much one session may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// For the whole handshake, from the first byte to the server's welcome.
    pub handshake: Duration,
    /// Messages that may wait to be sent; a peer that does not take them in ends the session.
    pub outgoing: usize,
    /// Messages that may wait for the driver; then nothing more is read from the peer.
    pub incoming: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { handshake: Duration::from_secs(10), outgoing: 1_024, incoming: 1_024 }
    }
}

/// Why a session is over. The first reason stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkEnd {
    /// The peer ended it with close_notify.
    #[error("the other daemon ended the session")]
    PeerClosed,
    /// EOF without close_notify (RFC 8446, section 6.1).
    #[error("the session was cut: the other daemon died, or somebody is on the path")]
    Cut,
    /// The peer ended it in the middle of a frame.
    #[error("the other daemon ended the session in the middle of a frame")]
    HalfFrame,
    /// The socket failed, or the peer was silent for too long.
    #[error("the session's connection failed: {0}")]
    Io(String),
    /// The peer's records are not good, or it sent an alert.
    #[error("the session's TLS failed: {0}")]
    Tls(String),
    /// What the peer sent is no frame.
    #[error("the other daemon sent {0}")]
    Wire(#[from] WireError),
    /// A frame that does not belong there.
    #[error("the other daemon sent a second welcome; it is at fault")]
    Unexpected,
    /// A message about a connection to another destination than the session's.
    #[error("the other daemon sent a message about a connection to another destination, {0}; it is at fault")]
    OtherDestination(SocketAddr),
    /// The peer did not take in what was sent.
    #[error("{0} messages waited for the other daemon, which did not take them; is it overloaded?")]
    QueueFull(usize),
    /// An identity may not be used any more.
    #[error("the lease of an identity of the session ended")]
    LeaseEnded,
    /// Another session took its place and its last connection is over, or nobody needs it any more.
    #[error("nobody needs the session any more")]
    Unused,
    /// The daemon stops.
    #[error("the daemon stops")]
    ShuttingDown,
}

/// What both sides of the task share.
pub(super) struct Shared {
    /// Locked for single operations only, never while something is waited for.
    tls: Mutex<Connection>,
    suite: SupportedCipherSuite,
    pub(super) destination: SocketAddr,
    peer: Arc<PeerIdentity>,
    end: Role,
    over: watch::Sender<Option<LinkEnd>>,
    pub(super) outgoing: usize,
}

impl Shared {
    pub(super) fn tls(&self) -> MutexGuard<'_, Connection> {
        // Nothing in here panics half way.
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn conclude(&self, why: LinkEnd) {
        self.over.send_if_modified(|over| {
            let first = over.is_none();
            if first {
                *over = Some(why);
            }
            first
        });
    }

    pub(super) fn why(&self) -> Option<LinkEnd> {
        self.over.borrow().clone()
    }

    /// For the log: a session that ends takes its pair's next connections to a relay.
    pub(super) fn say_end(&self) {
        let Some(why) = self.why() else { return };
        let (peer, to) = (&self.peer.name, self.destination);
        match why {
            LinkEnd::PeerClosed | LinkEnd::LeaseEnded | LinkEnd::Unused | LinkEnd::ShuttingDown => {
                tracing::info!(%peer, %to, %why, "a session for direct connections ended");
            }
            _ => tracing::warn!(%peer, %to, %why, "a session for direct connections ended"),
        }
    }

    pub(super) fn watch(&self) -> watch::Receiver<Option<LinkEnd>> {
        self.over.subscribe()
    }
}

/// A live session. Whoever has a connection that began on it keeps a clone: with the last one the session ends.
#[derive(Clone)]
pub struct Link {
    shared: Arc<Shared>,
    outgoing: mpsc::Sender<Message>,
}

/// A session that one does not keep alive.
#[derive(Clone)]
pub struct WeakLink {
    shared: Arc<Shared>,
    outgoing: mpsc::WeakSender<Message>,
}

/// What the peer says, in order. The session ends when this is dropped.
#[derive(Debug)]
pub struct Incoming(pub(super) mpsc::Receiver<Message>);

/// A session after its handshake.
pub(super) struct Shaken {
    pub(super) tcp: TcpStream,
    pub(super) tls: Connection,
    pub(super) suite: SupportedCipherSuite,
    pub(super) destination: SocketAddr,
    pub(super) peer: Arc<PeerIdentity>,
    pub(super) end: Role,
    /// What was decrypted beyond the handshake.
    pub(super) plaintext: Vec<u8>,
}

impl Shaken {
    /// Starts the session's task.
    pub(super) fn start(self, limits: &Limits) -> (Link, Incoming) {
        let Self { tcp, tls, suite, destination, peer, end, plaintext } = self;
        let (outgoing, to_send) = mpsc::channel(limits.outgoing.max(1));
        let (heard, incoming) = mpsc::channel(limits.incoming.max(1));
        let over = watch::Sender::new(None);
        let outgoing_limit = limits.outgoing.max(1);
        let tls = Mutex::new(tls);
        let shared = Arc::new(Shared { tls, suite, destination, peer, end, over, outgoing: outgoing_limit });
        tokio::spawn(Task::new(tcp, Arc::clone(&shared), to_send, heard, plaintext).run());
        (Link { shared, outgoing }, Incoming(incoming))
    }
}

impl Link {
    /// Queues a message. Those of one session arrive in the order in which they were sent, each once, or the session ends.
    ///
    /// # Errors
    /// Why the session is over; a full queue ends it.
    pub fn send(&self, message: Message) -> Result<(), LinkEnd> {
        if let Some(why) = self.shared.why() {
            return Err(why);
        }
        match self.outgoing.try_send(message) {
            Ok(()) => return Ok(()),
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.shared.conclude(LinkEnd::QueueFull(self.shared.outgoing));
            }
            Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
        Err(self.shared.why().unwrap_or(LinkEnd::Unused))
    }

    /// The keys of one connection for this node's socket; the peer derives those that fit.
    ///
    /// # Errors
    /// See [`KeyError`]; a session that is over gives none.
    pub fn keys(&self, id: &ConnectionId, server: Nonce) -> Result<SocketKeys, KeyError> {
        if let Some(why) = self.shared.why() {
            return Err(KeyError::Over(why));
        }
        let tls = self.shared.tls();
        let export = |output: &mut [u8], label: &[u8], context: &[u8]| {
            tls.export_keying_material(output, label, Some(context)).map(drop)
        };
        derive(self.shared.suite, export, id, server, self.shared.end)
    }

    /// Who the other daemon's workload proved to be.
    #[must_use]
    pub fn peer(&self) -> &Arc<PeerIdentity> {
        &self.shared.peer
    }

    /// Where the session's connections go.
    #[must_use]
    pub fn destination(&self) -> SocketAddr {
        self.shared.destination
    }

    /// Which end this node has.
    #[must_use]
    pub fn end_here(&self) -> Role {
        self.shared.end
    }

    /// Are both the same session?
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared, &other.shared)
    }

    /// Ends the session, after what was sent before. The peer hears close_notify.
    pub fn end(&self, why: LinkEnd) {
        self.shared.conclude(why);
    }

    /// Why it is over; `None`: it lives.
    #[must_use]
    pub fn over(&self) -> Option<LinkEnd> {
        self.shared.why()
    }

    /// For somebody who only looks.
    #[must_use]
    pub fn downgrade(&self) -> WeakLink {
        WeakLink { shared: Arc::clone(&self.shared), outgoing: self.outgoing.downgrade() }
    }
}

impl WeakLink {
    /// The session, if somebody still keeps it.
    #[must_use]
    pub fn upgrade(&self) -> Option<Link> {
        Some(Link { shared: Arc::clone(&self.shared), outgoing: self.outgoing.upgrade()? })
    }

    /// Who the other daemon's workload proved to be.
    #[must_use]
    pub fn peer(&self) -> &Arc<PeerIdentity> {
        &self.shared.peer
    }

    /// What its handshake agreed on.
    #[must_use]
    pub fn agreed(&self) -> Option<Agreed> {
        let tls = self.shared.tls();
        Agreed::of(tls.protocol_version(), Some(self.shared.suite), tls.negotiated_key_exchange_group())
    }

    /// The certificates that it showed, leaf first.
    #[must_use]
    pub fn chain(&self) -> Vec<CertificateDer<'static>> {
        let chain = |tls: &Connection| tls.peer_certificates().map(<[_]>::to_vec);
        chain(&self.shared.tls()).unwrap_or_default().into_iter().map(CertificateDer::into_owned).collect()
    }

    /// Until the session is over, and why.
    pub async fn ended(&self) -> LinkEnd {
        let mut over = self.shared.watch();
        match over.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(why)) => why.clone(),
            // The sender is in `shared`.
            Ok(None) | Err(_) => LinkEnd::Unused,
        }
    }
}

impl Incoming {
    /// The next message; `None`: the session is over, and all that the peer said before was given.
    pub async fn next(&mut self) -> Option<Message> {
        self.0.recv().await
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Shared { destination, peer, end, .. } = &*self.shared;
        let mut shown = f.debug_struct("Link");
        shown.field("destination", destination).field("peer", &peer.name).field("end", end);
        shown.field("over", &self.over()).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for WeakLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("WeakLink").field("destination", &self.shared.destination).finish_non_exhaustive()
    }
}
