//! What a driver is told.

use mtls_direct::{ConnectionId, Counts, Decision, FourTuple, Key, Message, Owner, Socket};

/// A session with another daemon, never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LinkId(pub u64);

/// Something that happened.
#[derive(Debug)]
pub enum Told<S> {
    /// A session was made; messages of it come later.
    SessionUp(LinkId, S),
    /// A session is gone.
    SessionLost(LinkId),
    /// The other daemon said this.
    Peer(LinkId, Message),
    /// A SYN is held that may become a direct connection over this session.
    Syn {
        /// The session of its pair of workloads.
        link: LinkId,
        /// The application's socket.
        socket: Socket,
        /// Where the application has it.
        owner: Owner,
        /// Its addresses and a fresh nonce.
        id: ConnectionId,
    },
    /// The kernel ended the TCP handshake of a direct socket.
    Established {
        /// Which one.
        socket: Socket,
        /// Its addresses.
        tuple: FourTuple,
    },
    /// An application's accept() returned a direct socket.
    Accepted {
        /// Which one.
        socket: Socket,
        /// Its addresses.
        tuple: FourTuple,
        /// Where the application has it.
        owner: Owner,
    },
    /// An application has accepted it, and no process has it under a number.
    Unreachable(Socket),
    /// A direct socket reached CLOSE.
    Ended {
        /// Which one.
        socket: Socket,
        /// What it carried.
        counts: Counts,
    },
    /// The lease of one of its identities ended.
    LeaseEnded(Key),
    /// What policy says of an `Open`.
    Decided(Key, Decision),
    /// Whether every thread was seen outside since the keys were set.
    Emptied(Key, bool),
}
