//! `mtlsd revoke` and `mtlsd unrevoke`, from the command line to the daemon and back.

pub mod args;
mod routes;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::render::{date, line, table};
use crate::identity::revocation::{Entry, Target};

pub(super) use routes::routes;

/// What is to be revoked (`POST /v1/revoke`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RevokeRequest {
    /// What.
    pub target: Target,
    /// Why, for people.
    #[serde(default)]
    pub reason: String,
    /// For how many seconds; null: until it is taken back.
    #[serde(default)]
    pub seconds: Option<u64>,
}

/// What is to be taken back (`POST /v1/unrevoke`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnrevokeRequest {
    /// What.
    pub target: Target,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RevokeReport {
    /// As it stands on the deny list now.
    pub entry: Entry,
    /// Live connections that were cut.
    pub connections_cut: usize,
    /// Live connections that have some time to end, by their workload's settings.
    #[serde(default)]
    pub connections_draining: usize,
    /// Live connections that go on all the same, by their workload's settings.
    #[serde(default)]
    pub connections_kept: usize,
}

/// What was taken back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnrevokeReport {
    /// As it stood on the deny list.
    pub entries: Vec<Arc<Entry>>,
}

/// `mtlsd revoke`.
#[must_use]
pub fn revoked(report: &RevokeReport) -> String {
    let mut out = String::new();
    let until = report.entry.until.map_or_else(String::new, |until| format!(" until {}", date(until)));
    line(&mut out, format_args!("Revoked on this node{until}: {}.", report.entry.target));
    line(&mut out, format_args!("Live connections cut: {}.", report.connections_cut));
    if report.connections_draining + report.connections_kept > 0 {
        let (draining, kept) = (report.connections_draining, report.connections_kept);
        line(
            &mut out,
            format_args!("By `lease.revoked`, {draining} have some time to end, and {kept} go on."),
        );
    }
    out
}

/// `mtlsd unrevoke`.
#[must_use]
pub fn unrevoked(report: &UnrevokeReport) -> String {
    let mut out = String::new();
    for entry in &report.entries {
        line(&mut out, format_args!("No longer revoked on this node: {}.", entry.target));
    }
    out
}

/// `mtlsd revoke --list`.
#[must_use]
pub fn entries(entries: &[Entry]) -> String {
    let rows = entries.iter().map(|entry| {
        let until = entry.until.map_or_else(|| "taken back".to_owned(), date);
        vec![entry.target.to_string(), date(entry.at), until, entry.by.clone(), entry.reason.clone()]
    });
    table(&["revoked", "since", "until", "by", "reason"], rows, "Nothing is revoked on this node.")
}
