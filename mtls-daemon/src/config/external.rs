//! Whom else the daemon asks before it lets a connection be.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

/// A policy engine that answers like Open Policy Agent's Data API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExternalPolicy {
    /// What is asked with POST: https://, or http:// to this machine's loopback.
    pub url: String,
    /// The most that a connection waits for an answer, 10 ms to 10 s and less than [`super::Timeouts::handshake`].
    pub timeout: Duration,
    /// How long an answer counts.
    pub cache: ExternalCache,
    /// What becomes of a connection without an answer.
    pub on_failure: OnFailure,
    /// Inbound connections are asked about.
    pub inbound: bool,
    /// Outbound connections are asked about.
    pub outbound: bool,
    /// Local workloads whose connections are asked about; `None`: all.
    pub workloads: Option<BTreeSet<String>>,
    /// Roots for HTTPS; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// Holds a token for the header `Authorization: Bearer`.
    pub token_file: Option<PathBuf>,
}

impl ExternalPolicy {
    /// Whether it is asked about connections of this local workload.
    #[must_use]
    pub fn is_about(&self, workload: &str) -> bool {
        self.workloads.as_ref().is_none_or(|names| names.contains(workload))
    }
}

/// How long answers count, and how many are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExternalCache {
    /// One that allows, 0 s to 1 h.
    pub allow: Duration,
    /// One that denies, 0 s to 1 h.
    pub deny: Duration,
    /// Answers that are kept, 1 to 262,144.
    pub entries: u32,
}

/// What becomes of a connection when the policy engine gives no answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFailure {
    /// It is refused (default).
    #[default]
    Deny,
    /// It is allowed, and its record says so.
    Allow,
}
