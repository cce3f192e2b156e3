//! The mutual TLS 1.3 connection of two daemons for one pair of workloads: what they say on it ([`wire`]), and the keys of
//! the applications' connections that come from it.

mod reasons;
pub mod wire;

pub use wire::{Frame, WireError};

/// The ALPN protocol of a session; its number is the version of [`wire`].
pub const ALPN_DIRECT: &[u8] = b"mtlsd-direct/1";
