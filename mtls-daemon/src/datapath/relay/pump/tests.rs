//! The pump on real loopback sockets, with a real TLS peer.

mod claims;
mod ends;
mod properties;
mod session;
mod size;
