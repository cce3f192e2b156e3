//! Why a relayed connection was cut.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::Error as TlsError;

use super::tls::ChannelError;
use crate::observe::{Reason, Refusal};

/// Why a connection ended otherwise than by both sides closing.
#[derive(Debug, thiserror::Error)]
pub enum PumpError {
    /// The application's socket failed.
    #[error("application: {0}")]
    Application(io::Error),
    /// The peer's socket failed.
    #[error("peer: {0}")]
    Peer(io::Error),
    /// A record was not authentic, or the peer sent a fatal alert.
    #[error("{0}")]
    Tls(#[from] TlsError),
    /// EOF without close_notify.
    #[error("EOF without close_notify")]
    Truncated,
    /// No byte for longer than the limit.
    #[error("no byte for {0:?}")]
    Idle(Duration),
    /// The kernel's TLS cannot go on.
    #[error(transparent)]
    Channel(#[from] ChannelError),
    /// The connection may not go on: a certificate was revoked, the workload was removed, the daemon is stopping.
    #[error("{}", .0.detail)]
    Over(Arc<Refusal>),
}

impl PumpError {
    /// As the log shows it.
    #[must_use]
    pub fn refusal(&self) -> Refusal {
        let reason = match self {
            Self::Application(_) | Self::Peer(_) => Reason::Reset,
            Self::Channel(ChannelError::KeyLimit(..)) => Reason::KeyLimit,
            Self::Channel(ChannelError::CannotFollow(_)) => Reason::KeyUpdate,
            Self::Channel(ChannelError::Install(_)) => Reason::Internal,
            Self::Tls(_) | Self::Channel(_) => Reason::RecordError,
            Self::Truncated => Reason::Truncated,
            Self::Idle(_) => Reason::Idle,
            Self::Over(refusal) => return Refusal::clone(refusal),
        };
        Refusal::new(reason, self.to_string())
    }
}
