//! The mutual TLS 1.3 connection of two daemons for one pair of workloads: what they say on it ([`wire`]), and the keys of
//! the applications' connections that come from it ([`keys`]). [`open`] shakes hands, [`link`] is what one speaks on, [`pool`]
//! keeps those that this node's workloads opened, [`accept`] takes those of other nodes.

pub mod accept;
pub mod keys;
pub mod link;
pub mod name;
pub mod open;
pub mod pool;
mod reasons;
mod stream;
mod task;
pub mod wire;

pub use keys::{KeyError, SocketKeys, fresh_nonce};
pub use link::{Incoming, Limits, Link, LinkEnd, WeakLink};
pub use open::{Call, Workloads, connect};
pub use wire::{Frame, WireError};

/// The ALPN protocol of a session; its number is the version of [`wire`].
pub const ALPN_DIRECT: &[u8] = b"mtlsd-direct/1";

#[cfg(test)]
mod tests;
