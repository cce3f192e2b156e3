//! Why cert-manager gave no certificate.

use std::time::Duration;

use crate::identity::issuer::answer::AnswerError;
use crate::kube::{ConfigError, KubeError, NameError};

/// Why cert-manager gave no certificate. What the server said is safe to show.
#[derive(Debug, thiserror::Error)]
pub enum CertManagerError {
    /// Not in a pod.
    #[error(transparent)]
    NotInCluster(#[from] ConfigError),
    /// The API server gave no answer, or not the one that was wanted.
    #[error(transparent)]
    Api(#[from] KubeError),
    /// Nothing at all was heard in time.
    #[error("the API server had not answered after {0:?}; check its load, and the network")]
    NoAnswer(Duration),
    /// A name was made that is none.
    #[error("the name of a CertificateRequest: {0}")]
    Name(#[from] NameError),
    /// No runtime to wait in.
    #[error(
        "cannot wait for an answer: {0}; look at the limits of processes and descriptors (ulimit -u, -n)"
    )]
    Runtime(std::io::Error),
    /// Somebody who may decide said no.
    #[error(
        "CertificateRequest {request} was denied: {said}; ask whoever runs the approver (approver-policy, csi-driver-spiffe)"
    )]
    Denied {
        /// Namespace and name.
        request: String,
        /// The condition's message.
        said: String,
    },
    /// The controller could not sign.
    #[error(
        "CertificateRequest {request} failed: {said}; look at the Issuer (kubectl describe) and at cert-manager's log"
    )]
    Failed {
        /// Namespace and name.
        request: String,
        /// The condition's message.
        said: String,
    },
    /// Nothing came of it in time.
    #[error("CertificateRequest {request} was {state} after {limit:?}; {}", mend(.state))]
    Waited {
        /// Namespace and name.
        request: String,
        /// The limit.
        limit: Duration,
        /// How far it was.
        state: Pending,
    },
    /// Not what JSON carries bytes as.
    #[error("CertificateRequest {0}: status.certificate is not base64; look at cert-manager's version")]
    NotBase64(String),
    /// Not a chain.
    #[error("CertificateRequest {request}: status.certificate is no chain: {source}")]
    Chain {
        /// Namespace and name.
        request: String,
        /// Why.
        source: AnswerError,
    },
}

/// How far a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pending {
    /// Nobody has approved it.
    NotApproved,
    /// It is approved, and not signed.
    NotSigned,
}

impl std::fmt::Display for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotApproved => "neither approved nor denied",
            Self::NotSigned => "approved but not signed",
        })
    }
}

fn mend(state: &Pending) -> &'static str {
    match state {
        Pending::NotApproved => "an approver must be there for it, or raise `timeout`",
        Pending::NotSigned => "look whether the Issuer is ready (kubectl describe), or raise `timeout`",
    }
}
