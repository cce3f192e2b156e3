//! Why the daemon does not start, or a new configuration is not taken.

use std::io;
use std::path::PathBuf;

use crate::capture::CaptureError;
use crate::cluster::ClusterError;
use crate::config::ConfigError;
use crate::control::http::ListenError;
use crate::control::socket::SocketError;
use crate::identity::revocation::RevocationError;
use crate::identity::{CaError, FilesError};
use crate::observe::access_log::AccessLogError;

/// Why the daemon cannot start.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The configuration is right, but what it names cannot be used.
    #[error(transparent)]
    Prepare(#[from] PrepareError),
    /// A directory of the daemon's cannot be made.
    #[error("cannot create {path}: {source}; check the rights on its parent, or set paths.* to another place", path = .path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Another daemon runs on the same directories.
    #[error("{path}: another mtlsd (pid {pid}) runs with this directory; stop it, or give this one its own paths", path = .path.display())]
    AlreadyRunning {
        /// The lock.
        path: PathBuf,
        /// Who holds it, as far as the lock file tells.
        pid: String,
    },
    /// The cluster cannot be followed.
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    /// The eBPF side cannot be set up.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The admin socket cannot be opened.
    #[error(transparent)]
    Socket(#[from] SocketError),
    /// The metrics address cannot be used.
    #[error(transparent)]
    Listen(#[from] ListenError),
    /// The access log cannot be opened.
    #[error(transparent)]
    AccessLog(#[from] AccessLogError),
    /// What is revoked cannot be read.
    #[error(transparent)]
    Revocations(#[from] RevocationError),
    /// The runtime or a signal handler cannot be set up.
    #[error("cannot {what}: {source}; look at the limits of processes and descriptors (ulimit -u, -n)")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// Why a valid configuration cannot be used. The one in force stays.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The embedded CA cannot be opened.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// A trust bundle file cannot be read.
    #[error(transparent)]
    BundleFile(#[from] FilesError),
    /// Two workloads' names have the same number.
    #[error("workloads {0} and {1} have names with the same internal number; rename one of them")]
    NumberCollision(String, String),
    /// A setting that only a restart can change.
    #[error("{0} cannot be changed while the daemon runs; restart mtlsd, or set it back")]
    NeedsRestart(&'static str),
}
