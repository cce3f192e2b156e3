//! Every way to carry a connection, on real loopback sockets, with a real TLS peer.

mod claims;
pub mod ends;
mod limits;
mod properties;
mod session;
mod size;
