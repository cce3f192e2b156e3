//! Why the API server gave no answer, or not the one that was wanted.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use super::resource::Resource;

/// What is done to objects, in the words of RBAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// One object.
    Get,
    /// All.
    List,
    /// All changes.
    Watch,
    /// A new object.
    Create,
    /// A change of its status.
    Patch,
    /// Away with it.
    Delete,
}

impl Verb {
    /// The HTTP method.
    pub(super) fn method(self) -> hyper::Method {
        match self {
            Self::Get | Self::List | Self::Watch => hyper::Method::GET,
            Self::Create => hyper::Method::POST,
            Self::Patch => hyper::Method::PATCH,
            Self::Delete => hyper::Method::DELETE,
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Patch => "patch",
            Self::Delete => "delete",
        })
    }
}

/// What was asked: `list pods`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    /// What is done.
    pub verb: Verb,
    /// To what.
    pub resource: Resource,
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.verb, self.resource)
    }
}

/// Why there is no answer, or not the one that was wanted. Texts of the server are safe to show.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KubeError {
    /// The token or the roots cannot be read.
    #[error("the {what} in {path} cannot be used: {reason}; check that the service account's volume is mounted", path = .path.display())]
    File {
        /// `token` or `roots`.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No TCP connection.
    #[error(
        "cannot connect to the API server {server}: {reason}; check that it is up, and the network policy of this node"
    )]
    Connect {
        /// Host and port.
        server: String,
        /// What the kernel said.
        reason: String,
    },
    /// No TLS.
    #[error("no TLS with the API server {server}: {reason}; check that {roots} is the cluster's CA", roots = .roots.display())]
    Tls {
        /// Host and port.
        server: String,
        /// The roots that it was verified under.
        roots: PathBuf,
        /// What the library said.
        reason: String,
    },
    /// It took too long.
    #[error("the API server had not answered {subject} after {limit:?}; check its load, and the network")]
    Timeout {
        /// What was asked.
        subject: Subject,
        /// The limit.
        limit: Duration,
    },
    /// A watch of which nothing is heard.
    #[error("nothing was heard of {subject} for {limit:?}, not even a bookmark; it is asked for again")]
    Silent {
        /// What was asked.
        subject: Subject,
        /// The limit.
        limit: Duration,
    },
    /// 401.
    #[error("the API server does not accept the token in {token} to {subject}: {message}; check that its service account still exists", token = .token.display())]
    Unauthorized {
        /// What was asked.
        subject: Subject,
        /// The token's file.
        token: PathBuf,
        /// What the server said.
        message: String,
    },
    /// 403.
    #[error("the API server forbids to {subject}: {message}; add the verb {verb} on {resource} to mtlsd's ClusterRole", verb = .subject.verb, resource = .subject.resource)]
    Forbidden {
        /// What was asked.
        subject: Subject,
        /// What the server said.
        message: String,
    },
    /// 404: no such object, or no such resource.
    #[error(
        "the API server has not what {subject} asks for: {message}; for a resource that is not built in, check that its definition is installed"
    )]
    NotFound {
        /// What was asked.
        subject: Subject,
        /// What the server said.
        message: String,
    },
    /// 409: somebody else was faster, or it is there already.
    #[error("{subject} is in conflict with what is there: {message}; read it again first")]
    Conflict {
        /// What was asked.
        subject: Subject,
        /// What the server said.
        message: String,
    },
    /// 410: the version, or the page, is not kept any more.
    #[error(
        "the API server has forgotten the version that {subject} goes on from: {message}; all is listed anew"
    )]
    Gone {
        /// What was asked.
        subject: Subject,
        /// What the server said.
        message: String,
    },
    /// Any other status.
    #[error("the API server answered {subject} with {code}: {message}; see its log")]
    Status {
        /// What was asked.
        subject: Subject,
        /// The HTTP status.
        code: u16,
        /// What the server said.
        message: String,
        /// When to come back, if it said so.
        retry_after: Option<Duration>,
    },
    /// The answer is too long.
    #[error("the API server answered {subject} with more than {limit} bytes; check which object is so large")]
    TooLarge {
        /// What was asked.
        subject: Subject,
        /// Most bytes of an answer, or of a line.
        limit: usize,
    },
    /// More objects than are kept.
    #[error("there are more than {limit} {resource}, which mtlsd does not keep; narrow what it follows")]
    TooMany {
        /// The resource.
        resource: Resource,
        /// Most objects.
        limit: usize,
    },
    /// The answer is not what the API says that it is.
    #[error("the API server's answer to {subject} cannot be read: {reason}; check that it is one")]
    Malformed {
        /// What was asked.
        subject: Subject,
        /// What is wrong.
        reason: String,
    },
    /// The connection ended in the middle.
    #[error("the connection to the API server broke during {subject}: {reason}; check that it is up")]
    Broken {
        /// What was asked.
        subject: Subject,
        /// What the library said.
        reason: String,
    },
}

impl KubeError {
    /// When the server wants to be asked again.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub(super) fn is_gone(&self) -> bool {
        matches!(self, Self::Gone { .. })
    }

    /// Would the same come again from the same version? Cuts and silence would not.
    pub(super) fn is_of_content(&self) -> bool {
        matches!(self, Self::Malformed { .. } | Self::TooLarge { .. } | Self::TooMany { .. })
    }
}
