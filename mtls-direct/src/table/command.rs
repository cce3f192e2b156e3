//! What the table knows of a connection, and what it wants done.
use crate::{Action, ConnectionId, FourTuple, Message, Nonce, Reason};

/// A connection of this node, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key(pub u64);

/// A socket as the kernel names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Socket {
    /// Cookie of its network namespace (`SO_NETNS_COOKIE`).
    pub netns: u64,
    /// Its own (`SO_COOKIE`).
    pub cookie: u64,
}

/// Where an application has its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Owner {
    /// Process.
    pub pid: u32,
    /// Number of the descriptor in it.
    pub fd: i32,
}

/// Which end of the connection is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// The application called connect().
    Client,
    /// The application listens.
    Server,
}

/// What is known of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct About<L> {
    /// Which one.
    pub key: Key,
    /// Which end.
    pub role: Role,
    /// The session over which it was agreed.
    pub link: L,
    /// Its name on both nodes.
    pub id: ConnectionId,
    /// The namespace of the own end, once it is known.
    pub netns: Option<u64>,
    /// The cookie of the own end, once it is known.
    pub cookie: Option<u64>,
    /// The application's descriptor, once it is known.
    pub owner: Option<Owner>,
}

impl<L: Copy> About<L> {
    /// What it is called over its session: by the client's nonce.
    pub fn name(&self) -> (L, Nonce) {
        (self.link, self.id.nonce)
    }

    /// The own end, once the kernel has named it.
    pub fn socket(&self) -> Option<Socket> {
        Some(Socket { netns: self.netns?, cookie: self.cookie? })
    }
}

/// Something to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<L, D> {
    /// For a connection of the table.
    Do(About<L>, Action<D>),
    /// Say this to the other daemon about a connection that is not here.
    Answer(L, Message),
    /// A held SYN for which there is no room.
    RefuseConnect {
        /// The application's socket.
        socket: Socket,
        /// Its addresses.
        tuple: FourTuple,
        /// Why.
        reason: Reason,
    },
    /// SOCK_DESTROY a direct socket that belongs to no connection.
    Destroy {
        /// Which one.
        socket: Socket,
        /// Its addresses.
        tuple: FourTuple,
        /// Why.
        reason: Reason,
    },
    /// A duplicate that came too late.
    Close(D),
}
