//! Why live connections are over, as settings and metrics tell it apart.

use super::Reason;

/// Why a lease is over, as settings and metrics tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// A certificate has run out and no newer one of the same identity is known.
    Expired,
    /// A certificate was revoked, or the root above it is trusted no longer.
    Revoked,
    /// Rules, defaults or modes say no.
    Policy,
}

impl Cause {
    /// Every cause.
    pub const ALL: [Self; 3] = [Self::Expired, Self::Revoked, Self::Policy];

    /// The label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Policy => "policy",
        }
    }

    /// `None`: nothing that could be waited for, such as the end of the daemon.
    #[must_use]
    pub const fn of(reason: Reason) -> Option<Self> {
        match reason {
            Reason::CertificateExpired | Reason::NoIdentity => Some(Self::Expired),
            Reason::Revoked | Reason::UnknownIssuer | Reason::TrustDomain => Some(Self::Revoked),
            Reason::PolicyDenied | Reason::PolicyDefault | Reason::Plaintext => Some(Self::Policy),
            _ => None,
        }
    }
}
