//! The checks of a connection in order, and where each reason stands among them.

use crate::observe::connection::{ConnectionRecord, Direction, Event};
use crate::observe::reason::Reason;

/// A check that a connection passes on its way, in the order of the variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Limits, the own identity, the directory, the dial: what comes before any byte of the peer.
    Admission,
    /// The first bytes: TLS or not.
    FirstBytes,
    /// Versions, parameters, the exchange itself.
    Handshake,
    /// A certificate chain that can be read.
    Certificate,
    /// One well-formed SPIFFE ID in the leaf.
    SpiffeId,
    /// A bundle for the peer's trust domain.
    TrustDomain,
    /// The chain up to a root, validity, usage, signatures.
    Chain,
    /// Whether this peer is meant: the expected server, or the policy for a client.
    Authorisation,
    /// The local application takes the connection.
    Delivery,
    /// The bytes, up to an authenticated end.
    Stream,
}

impl Step {
    /// Every step in order.
    pub const ALL: [Self; 10] = [
        Self::Admission,
        Self::FirstBytes,
        Self::Handshake,
        Self::Certificate,
        Self::SpiffeId,
        Self::TrustDomain,
        Self::Chain,
        Self::Authorisation,
        Self::Delivery,
        Self::Stream,
    ];

    /// The step at which a reason arises; `None` for those that can arise at any time.
    #[must_use]
    pub const fn of(reason: Reason) -> Option<Self> {
        Some(match reason {
            Reason::UnknownDestination
            | Reason::NoIdentity
            | Reason::DialRefused
            | Reason::DialTimeout
            | Reason::DialUnreachable
            | Reason::WorkloadLimit
            | Reason::TotalLimit
            | Reason::HandshakeLimit
            | Reason::Unaccounted
            | Reason::Unclassified => Self::Admission,
            Reason::Plaintext => Self::FirstBytes,
            Reason::HandshakeTimeout
            | Reason::MalformedTls
            | Reason::TlsVersion
            | Reason::NoCommonParameters
            | Reason::PeerAlert
            | Reason::HandshakeClosed => Self::Handshake,
            Reason::NoCertificate | Reason::MalformedCertificate | Reason::ChainTooLarge => Self::Certificate,
            Reason::NoSpiffeId | Reason::SeveralSpiffeIds | Reason::MalformedSpiffeId => Self::SpiffeId,
            Reason::TrustDomain => Self::TrustDomain,
            Reason::UnknownIssuer
            | Reason::BadSignature
            | Reason::CertificateExpired
            | Reason::CertificateNotYetValid
            | Reason::CertificateUsage
            | Reason::CertificateUnsupported
            | Reason::Revoked
            | Reason::RevocationUnknown => Self::Chain,
            Reason::UnexpectedServer
            | Reason::PolicyDenied
            | Reason::PolicyDefault
            | Reason::ExternalDenied
            | Reason::ExternalUnavailable => Self::Authorisation,
            Reason::ApplicationRefused | Reason::DirectFailed => Self::Delivery,
            Reason::Truncated
            | Reason::RecordError
            | Reason::Idle
            | Reason::Reset
            | Reason::KeyLimit
            | Reason::KeyUpdate => Self::Stream,
            Reason::ShuttingDown | Reason::Internal => return None,
        })
    }

    /// The step at which a connection failed: what can be revoked is the own identity, the peer's chain, or either of
    /// them while bytes flow.
    #[must_use]
    pub fn failed(record: &ConnectionRecord) -> Option<Self> {
        let reason = record.reason.as_ref()?.reason()?;
        Some(match reason {
            Reason::Revoked if record.event == Event::Closed => Self::Stream,
            Reason::Revoked if record.peer_certificate.is_none() => Self::Admission,
            _ => Self::of(reason)?,
        })
    }

    /// Whether a failure at this step is a failed TLS handshake.
    #[must_use]
    pub fn is_handshake(self) -> bool {
        (Self::FirstBytes..=Self::Chain).contains(&self)
    }

    /// Its name, for people.
    #[must_use]
    pub const fn name(self, direction: Direction) -> &'static str {
        match (self, direction) {
            (Self::Admission, Direction::Outbound) => "limits, own identity, destination and dial",
            (Self::Admission, Direction::Inbound) => "limits and own identity",
            (Self::FirstBytes, _) => "the peer speaks TLS",
            (Self::Handshake, _) => "TLS handshake",
            (Self::Certificate, _) => "the peer presents a certificate",
            (Self::SpiffeId, _) => "its SPIFFE ID",
            (Self::TrustDomain, _) => "its trust domain",
            (Self::Chain, _) => "its chain, validity, usage and signatures",
            (Self::Authorisation, Direction::Outbound) => "it is the server that the directory names",
            (Self::Authorisation, Direction::Inbound) => "policy",
            (Self::Delivery, Direction::Outbound) => "the peer takes the connection",
            (Self::Delivery, Direction::Inbound) => "the application takes the connection",
            (Self::Stream, _) => "the bytes, up to an authenticated end",
        }
    }
}
