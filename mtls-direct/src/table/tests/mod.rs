mod claims;
mod world;

use std::net::SocketAddr;
use std::time::Duration;

use super::{Limits, Owner, Socket};
use crate::{ConnectionId, FourTuple, Nonce};

const LINK: u32 = 7;

fn limits() -> Limits {
    Limits { opening_per_session: 3, connections: 8, ..Limits::default() }
}

fn at(port: u16, last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], port))
}

/// No two connections have the same nonce.
fn id(port: u16, nonce: u8) -> ConnectionId {
    let mut bytes = [nonce; 16];
    bytes[..2].copy_from_slice(&port.to_be_bytes());
    ConnectionId { tuple: FourTuple { client: at(port, 1), server: at(80, 2) }, nonce: Nonce(bytes) }
}

fn socket(netns: u64, cookie: u64) -> Socket {
    Socket { netns, cookie }
}

const OWNER: Owner = Owner { pid: 42, fd: 5 };

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
