//! Why an agent gave no identity.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::identity::{BundleError, SpiffeId, SpiffeIdError, SvidError, TrustDomain};

/// Why an agent gave no identity. None of these ends the use of the last one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// Nothing was heard yet.
    #[error("{}: the agent has not answered yet; wait a moment", socket.display())]
    Pending {
        /// The agent's socket.
        socket: PathBuf,
    },
    /// The socket is not there, or nobody listens.
    #[error("{}: cannot connect: {reason}; check that the agent runs and that this is its socket", socket.display())]
    Connect {
        /// The agent's socket.
        socket: PathBuf,
        /// What the kernel said.
        reason: String,
    },
    /// The call ended with an error, on either side.
    #[error("{}: {call} failed with {code}: {message}; see the agent's log", socket.display())]
    Status {
        /// The agent's socket.
        socket: PathBuf,
        /// The call.
        call: &'static str,
        /// The gRPC status code.
        code: String,
        /// What came with it, safe to show.
        message: String,
    },
    /// The agent ended the stream, as it does when it stops.
    #[error("{}: the agent ended {call}; check that it runs", socket.display())]
    Ended {
        /// The agent's socket.
        socket: PathBuf,
        /// The call.
        call: &'static str,
    },
    /// The first answer did not come.
    #[error("{}: the agent had not answered {call} after {limit:?}; see its log", socket.display())]
    Silent {
        /// The agent's socket.
        socket: PathBuf,
        /// The call.
        call: &'static str,
        /// How long it was waited for.
        limit: Duration,
    },
    /// The answer is not usable.
    #[error("{}: the answer to {call} is refused: {fault}", socket.display())]
    Malformed {
        /// The agent's socket.
        socket: PathBuf,
        /// The call.
        call: &'static str,
        /// Which field, and why.
        fault: Box<Fault>,
    },
}

/// What is wrong with one field of an answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {cause}")]
pub struct Fault {
    /// Such as `svids[0].x509_svid_key`.
    pub field: Field,
    /// What is wrong.
    pub cause: Box<Cause>,
}

/// The name of a field, safe to show.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Field(pub(super) String);

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// A field that must be there is empty.
    #[error("it is empty, and the protocol wants a value")]
    Missing,
    /// Not a SPIFFE ID or trust domain.
    #[error("{text:?} is not usable: {reason}")]
    Name {
        /// What is there, safe to show.
        text: String,
        /// What is wrong with it.
        reason: SpiffeIdError,
    },
    /// The ID of a workload where that of a trust domain belongs.
    #[error("{0} is the ID of a workload, and a trust domain belongs there")]
    NotATrustDomain(SpiffeId),
    /// A trust domain that is there twice.
    #[error("the trust domain {0} is there twice")]
    Twice(TrustDomain),
    /// Not DER certificates.
    #[error("certificate {number} cannot be parsed: {reason}")]
    Certificate {
        /// Which certificate, counted from 1.
        number: usize,
        /// What the parser said.
        reason: String,
    },
    /// Chain and key are not an SVID.
    #[error(transparent)]
    Svid(#[from] SvidError),
    /// Not roots.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The certificate says another ID than the message.
    #[error("the certificate says {found}, and the message {wanted}")]
    OtherId {
        /// In the certificate.
        found: SpiffeId,
        /// In the message.
        wanted: SpiffeId,
    },
    /// The SVID does not lead to the roots of its trust domain.
    #[error("the roots of the trust domain {domain} do not verify the SVID: {reason}")]
    OtherRoots {
        /// The SVID's trust domain.
        domain: TrustDomain,
        /// What the library said.
        reason: String,
    },
    /// No roots for the SVID's own trust domain.
    #[error("it has no roots of {0}, which the SVID is in")]
    NoRoots(TrustDomain),
}
