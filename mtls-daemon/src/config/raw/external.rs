//! The external decision as it is written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::Texts;
use crate::config::at::{At, Given, Number};
use crate::config::external::OnFailure;

/// A policy engine that is asked about connections that the rules allow.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ExternalPolicy {
    /// Where a decision is asked for with POST, as OPA's Data API has it: http://127.0.0.1:8181/v1/data/PACKAGE/RULE. https://,
    /// or http:// to this machine's loopback.
    pub url: At<String>,
    /// The most that a connection waits (10ms to 10s, less than timeouts.handshake). Default 500ms.
    #[serde(default)]
    pub timeout: Given<String>,
    /// How long answers count.
    #[serde(default)]
    pub cache: ExternalCache,
    /// What becomes of a connection without an answer. Default deny.
    #[serde(default)]
    pub on_failure: Given<OnFailure>,
    /// Which connections are asked about. Default [inbound].
    #[serde(default)]
    pub directions: Given<Vec<At<Asked>>>,
    /// Names of the local workloads whose connections are asked about. Default: all.
    #[serde(default)]
    pub workloads: Given<Texts>,
    /// PEM file with the roots for HTTPS, absolute. Default: the system's.
    #[serde(default)]
    pub ca_file: Given<String>,
    /// Holds a token for the header `Authorization: Bearer`; an absolute path, read at each call.
    #[serde(default)]
    pub token_file: Given<String>,
}

/// How long answers count.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct ExternalCache {
    /// One that allows (0s to 1h; 0s: each connection asks). Default 30s.
    pub allow: Given<String>,
    /// One that denies (0s to 1h). Default 5s.
    pub deny: Given<String>,
    /// How many are kept. Default 16384.
    #[schemars(range(min = 1, max = 262_144))]
    pub entries: Given<Number>,
}

/// Connections of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Asked {
    /// To local workloads.
    Inbound,
    /// Of local workloads.
    Outbound,
}
