//! The TLS handshake: who the peer is, and the configurations that ask it.
//!
//! [`config`] makes one rustls configuration per connection; its verifier ([`verifier`]) calls
//! [`verify_peer`] and leaves the outcome in a [`Verdict`], where the datapath reads the peer's identity
//! or the reason of the refusal.

pub mod claim;
pub mod config;
pub mod preface;
pub mod records;
pub mod refusal;
pub mod schedule;
pub mod verifier;
pub mod verify;

pub use claim::Claim;
pub use config::{MinVersion, SuiteOrder, TlsConfigError, TlsSettings, Watched, WorkloadTls, offers_mtlsd};
pub use preface::Preface;
pub use records::{Agreed, Progress, Records};
pub use schedule::{KeySchedule, RecordSecrets, UnsupportedSecrets};
pub use verifier::{Authorise, Verdict};
pub use verify::examine::{Asked, Finding, Found, examine_server};
pub use verify::{ExpectedServer, PeerNameSettings, PeerRole, Trust, verify_peer};

/// The ALPN protocol that marks a connection between two mtlsd daemons.
pub const ALPN_MTLSD: &[u8] = b"mtlsd/1";

#[cfg(test)]
mod federation;
#[cfg(test)]
mod ocsp;
#[cfg(test)]
mod suites;
#[cfg(test)]
pub(crate) mod tests;
