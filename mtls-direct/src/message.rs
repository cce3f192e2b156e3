//! What the two daemons say to each other about one connection.
use std::net::SocketAddr;

use crate::Reason;

/// The addresses of a TCP connection, the same on both nodes (no translation between them).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FourTuple {
    /// Of the side that called connect().
    pub client: SocketAddr,
    /// Of the side that listens.
    pub server: SocketAddr,
}

/// Fresh random bytes of one side, an input of the connection's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nonce(pub [u8; 16]);

/// Which connection a message is about. The addresses alone will not do: they come again, and a late `Abort` of the
/// last connection would end the next one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ConnectionId {
    /// Where the connection goes.
    pub tuple: FourTuple,
    /// The client's nonce: which of the connections that had these addresses.
    pub nonce: Nonce,
}

/// One message. A session carries them in order, each once, until it dies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Message {
    /// Which connection.
    pub id: ConnectionId,
    /// What about it.
    pub body: Body,
}

/// What a message says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Body {
    /// Client to server: may this connection be direct? The nonce is in the id.
    Open,
    /// Server to client: yes, its SYN is expected.
    Accept(Nonce),
    /// Server to client: no.
    Refuse(Reason),
    /// Either: my side has its keys, nobody is left in a plain call, and my guard lets TLS records in. From the server also: my
    /// application can write.
    Ready,
    /// Either: the connection is over, destroy your side.
    Abort(Reason),
    /// Either: my socket ended by itself, having carried so much.
    Closed(Counts),
}

/// Bytes of TLS records that one socket carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Counts {
    /// Bytes that were put on the wire.
    pub sent: u64,
    /// Bytes that arrived, in order.
    pub received: u64,
}
