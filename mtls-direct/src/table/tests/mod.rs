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

fn id(port: u16, nonce: u8) -> ConnectionId {
    ConnectionId { tuple: FourTuple { client: at(port, 1), server: at(80, 2) }, nonce: Nonce([nonce; 16]) }
}

fn socket(netns: u64, cookie: u64) -> Socket {
    Socket { netns, cookie }
}

const OWNER: Owner = Owner { pid: 42, fd: 5 };

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}
