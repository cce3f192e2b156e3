//! Record keys as rustls gives them away, and what cannot be used of them.

/// The cipher of these secrets is none of TLS 1.3's that mtlsd knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("these TLS secrets are of no known cipher")]
pub struct UnsupportedSecrets;
