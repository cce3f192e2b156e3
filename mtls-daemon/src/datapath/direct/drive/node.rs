//! What the driver needs of the node it runs on.

use std::future::Future;

use mtls_direct::{
    About, ConnectionId, Counts, Decision, FourTuple, Message, Nonce, Outcome, Reason, Socket,
};

use super::told::LinkId;

/// A session with another daemon.
pub trait Session: Send + Sync + 'static {
    /// The keys of one connection, both directions.
    type Keys: Send;

    /// Sends a message, or not: a session that cannot is about to be reported as lost.
    fn send(&self, message: Message);

    /// Derives the keys of this node's end; `None` when the session cannot any more.
    fn keys(&self, id: &ConnectionId, server: Nonce) -> Option<Self::Keys>;
}

/// Why there is no duplicate of an application's socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// The application is over, which says nothing of the next connection.
    ApplicationGone,
    /// It cannot be had.
    Failed,
}

/// Why a socket has no keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotInstalled {
    /// A side had ended before.
    NotEstablished,
    /// The kernel does not take them.
    Failed,
}

/// The kernel and the policy. What fails says why in the log; the driver only needs to know that it did.
///
/// All but [`Node::decide`] and [`Node::empty`] are quick enough for the driver's own task: a few system calls.
pub trait Node: Send + Sync + 'static {
    /// How the other daemons are spoken to.
    type Session: Session;
    /// An application's socket in our hands; dropped, it is closed.
    type Taken: Send + Sync + 'static;

    /// A duplicate of the application's descriptor, seen to be the expected socket.
    ///
    /// # Errors
    /// See [`NotTaken`].
    fn duplicate(&self, about: &About<LinkId>) -> Result<Self::Taken, NotTaken>;

    /// Whether the connection that another daemon opens may be direct.
    fn decide(&self, about: About<LinkId>) -> impl Future<Output = Decision> + Send;

    /// The SYN of this connection goes to the application's own listener, for a bounded time.
    fn expect(&self, netns: u64, tuple: FourTuple) -> bool;

    /// It does not any more.
    fn unexpect(&self, netns: u64, tuple: FourTuple);

    /// Lets the held SYN go.
    fn release_syn(&self, about: &About<LinkId>);

    /// Ends a held connect() with the errno that fits.
    fn refuse_connect(&self, socket: Socket, tuple: FourTuple, reason: Reason);

    /// Sets both keys on the socket.
    ///
    /// # Errors
    /// See [`NotInstalled`].
    fn install(
        &self,
        about: &About<LinkId>,
        taken: &Self::Taken,
        keys: <Self::Session as Session>::Keys,
    ) -> Result<(), NotInstalled>;

    /// Moves every thread out of the calls it was in when the keys were set. May block for milliseconds: runs on a
    /// thread of its own.
    fn empty(&self, about: &About<LinkId>, taken: &Self::Taken) -> bool;

    /// Lets the guard pass TLS records from the next byte on, in both directions.
    fn open_guard(&self, about: &About<LinkId>, taken: &Self::Taken) -> bool;

    /// Lifts the write hold.
    fn release_writer(&self, about: &About<LinkId>, taken: &Self::Taken) -> bool;

    /// SOCK_DESTROY of the socket with this cookie, or where it is not known of whatever has these addresses in that
    /// namespace. Nothing there is no error.
    fn destroy(&self, netns: u64, cookie: Option<u64>, tuple: FourTuple, reason: Reason);

    /// Workload and port go by relay for some time.
    fn remember(&self, about: &About<LinkId>, reason: Reason);

    /// What its socket carried, before [`Node::report`].
    fn carried(&self, about: &About<LinkId>, counts: Counts);

    /// The end of a connection, once.
    fn report(&self, about: &About<LinkId>, outcome: Outcome);
}
