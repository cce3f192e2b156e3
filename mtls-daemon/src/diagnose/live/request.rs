//! What is asked of `mtlsd diagnose`.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::super::parties::{self, From};
use crate::identity::SpiffeId;
use crate::snapshot::{Snapshot, WorkloadState};

/// How long each wait may take: for the resolver, for TCP, for the handshake, for the server's verdict.
pub const LIMIT: Duration = Duration::from_secs(5);
/// The longest that can be asked for: four waits are less than the command line waits for an answer.
pub const MAX_LIMIT: Duration = Duration::from_secs(12);
/// The shortest.
pub const MIN_LIMIT: Duration = Duration::from_millis(100);

/// A question to the daemon (`POST /v1/diagnose`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LiveRequest {
    /// Host and port: an address, a name of the directory, a SPIFFE ID in it, or a name that the resolver knows.
    pub to: String,
    /// As which workload: its name, its SPIFFE ID, or one of its addresses. Null: the only one of this node.
    #[serde(default, rename = "as")]
    pub workload: Option<String>,
    /// Whom the server must prove to be, in place of what the directory says; null: as the directory says.
    #[serde(default)]
    pub expect: Option<SpiffeId>,
    /// Milliseconds for each wait; null: [`LIMIT`].
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// Why a question cannot be asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LiveError {
    /// Not a workload of this node.
    #[error("{0:?} is no workload of this node; give one that `mtlsd workloads` lists, with --as")]
    NoWorkload(String),
    /// It is not said as which workload.
    #[error("this node has {0} workloads; say as which one it is to be asked, with --as")]
    WhichWorkload(usize),
    /// No port, or no host.
    #[error("{0:?} is no host and port; write NAME:PORT, ADDRESS:PORT or [IPv6]:PORT")]
    NoTarget(String),
    /// Outside [`MIN_LIMIT`] and [`MAX_LIMIT`].
    #[error("{0} ms is no time limit for it; give one from {min} to {max} ms", min = MIN_LIMIT.as_millis(), max = MAX_LIMIT.as_millis())]
    Limit(u64),
    /// As many as there may be are under way.
    #[error("{0} diagnoses are under way, which is the most at one time; ask again when one is done")]
    Busy(usize),
    /// No namespace to connect from.
    #[error("workload {workload} has no network namespace to connect from: {why}; start it first")]
    Nowhere {
        /// Which.
        workload: String,
        /// What was found.
        why: String,
    },
}

impl LiveRequest {
    /// The workload as which it is asked.
    ///
    /// # Errors
    /// It is none of this node, or it is not said which of several.
    pub fn client(&self, snapshot: &Snapshot) -> Result<Arc<WorkloadState>, LiveError> {
        match &self.workload {
            Some(text) => match parties::from(snapshot, text) {
                Ok(From::Local(client)) => Ok(client),
                Ok(From::Remote(_)) | Err(_) => Err(LiveError::NoWorkload(text.clone())),
            },
            None => {
                let mut all = snapshot.workloads.values();
                match (all.next(), all.len()) {
                    (Some(only), 0) => Ok(Arc::clone(only)),
                    _ => Err(LiveError::WhichWorkload(snapshot.workloads.len())),
                }
            }
        }
    }

    /// How long each wait may take.
    ///
    /// # Errors
    /// It is too short or too long.
    pub fn limit(&self) -> Result<Duration, LiveError> {
        let Some(milliseconds) = self.timeout_ms else { return Ok(LIMIT) };
        let limit = Duration::from_millis(milliseconds);
        let range = MIN_LIMIT..=MAX_LIMIT;
        if range.contains(&limit) { Ok(limit) } else { Err(LiveError::Limit(milliseconds)) }
    }
}
