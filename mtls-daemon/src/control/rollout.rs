//! `mtlsd rollout status`: who would be refused if a port became strict now.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use clap::{Args, Subcommand};
use serde::Deserialize;

use super::admin::{Failure, aside, bad_query};
use super::ca_cli::lifetime;
use super::cli::AskOptions;
use super::render::{line, table};
use super::view::DaemonView;
use crate::flows::Record;
use crate::flows::rollout::{Fate, PeerSeen, PortReport, RolloutReport, Verdict};

/// Peers of one port that the text shows; `--json` has all.
const SHOWN: usize = 20;

/// `mtlsd rollout …`
#[derive(Debug, Subcommand)]
pub enum RolloutCommand {
    /// Which peers would be refused if a permissive port became strict now, and is it safe?
    ///
    /// Judged by the connections that were recorded (docs/rollout.md). Exit code 0: every port that was asked about is
    /// strict, or may become so; 1: somebody would be refused, or too little is known.
    Status(RolloutArgs),
}

/// Arguments of `mtlsd rollout status`.
#[derive(Debug, Args)]
pub struct RolloutArgs {
    /// Only this workload
    #[arg(long, value_name = "NAME")]
    pub workload: Option<String>,
    /// By the connections of so long
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = lifetime)]
    pub since: Duration,
    /// Where and how.
    #[command(flatten)]
    pub options: AskOptions,
}

/// Why nothing can be said.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RolloutError {
    /// `flows.keep: off`.
    #[error("connections are not recorded (flows.keep is off)")]
    Off,
    /// Another name.
    #[error("there is no workload {0:?} on this node")]
    NoWorkload(String),
}

impl From<RolloutError> for Failure {
    fn from(error: RolloutError) -> Self {
        let (status, mend) = match error {
            RolloutError::Off => {
                (StatusCode::CONFLICT, "set flows.keep, restart mtlsd, and ask when it has seen enough")
            }
            RolloutError::NoWorkload(_) => (StatusCode::NOT_FOUND, "see `mtlsd workloads`"),
        };
        Self::new(status, error.to_string(), mend)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RolloutQuery {
    workload: Option<String>,
    since_s: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FlowsQuery {
    since_s: u64,
}

pub(super) fn routes<V: DaemonView>() -> Router<Arc<V>> {
    Router::new().route("/v1/rollout", get(status::<V>)).route("/v1/flows", get(flows::<V>))
}

async fn status<V: DaemonView>(
    State(view): State<Arc<V>>,
    query: Result<Query<RolloutQuery>, QueryRejection>,
) -> Result<Json<RolloutReport>, Failure> {
    let Query(RolloutQuery { workload, since_s }) = query.map_err(bad_query)?;
    let since = Duration::from_secs(since_s);
    // To look at a quarter of a million flows takes a while.
    Ok(Json(aside(move || view.rollout(workload.as_deref(), since)).await??))
}

async fn flows<V: DaemonView>(
    State(view): State<Arc<V>>,
    query: Result<Query<FlowsQuery>, QueryRejection>,
) -> Result<Json<Record>, Failure> {
    let Query(FlowsQuery { since_s }) = query.map_err(bad_query)?;
    Ok(Json(aside(move || view.flows(Duration::from_secs(since_s))).await??))
}

/// `mtlsd rollout status`.
#[must_use]
pub fn report(report: &RolloutReport) -> String {
    let mut out = String::new();
    line(&mut out, format_args!("By the connections seen since {}:", report.since));
    for port in &report.ports {
        out.push_str(&one_port(port));
    }
    let open = report.ports.iter().filter(|port| !matches!(port.verdict, Verdict::Strict));
    let (open, safe) =
        open.fold((0, 0), |(open, safe), port| (open + 1, safe + usize::from(port.verdict == Verdict::Safe)));
    if open == 0 {
        line(&mut out, format_args!("Nothing is permissive."));
    } else {
        line(&mut out, format_args!("{safe} of {open} permissive ports may become strict."));
    }
    out
}

fn one_port(port: &PortReport) -> String {
    let mut out = String::from("\n");
    let verdict = match port.verdict {
        Verdict::Safe => "SAFE to make strict",
        Verdict::NotSafe => "NOT SAFE to make strict",
        Verdict::Unknown => "UNKNOWN whether it may become strict",
        Verdict::Strict => "strict",
    };
    let number = port.port.map_or_else(|| "every port".to_owned(), |port| format!("port {port}"));
    line(&mut out, format_args!("{} {number} ({}): {verdict}", port.workload, port.mode));
    line(&mut out, format_args!("  {}.", port.why.join("; ")));
    line(&mut out, format_args!("  {}", port.mend));
    let header = ["", "peer", "address", "by", "count", "last seen", "in strict decided by"];
    out.push_str(&table(&header, port.peers.iter().take(SHOWN).map(one_peer), ""));
    if port.peers.len() > SHOWN {
        line(&mut out, format_args!("  … and {} more; --json has all", port.peers.len() - SHOWN));
    }
    out
}

fn one_peer(peer: &PeerSeen) -> Vec<String> {
    let fate = match peer.fate {
        Fate::WouldBeRefused => "would be refused",
        Fate::RefusedNow => "refused already",
        Fate::Moved => "moved",
        Fate::Allowed => "let in",
    };
    let name = peer.name.as_ref().map(|name| format!(" ({name})")).unwrap_or_default();
    vec![
        fate.to_owned(),
        peer.identity.clone().unwrap_or_else(|| "-".to_owned()),
        format!("{}{name}", peer.address),
        peer.channel.to_string(),
        peer.count.to_string(),
        peer.last_seen.to_string(),
        peer.rule.clone(),
    ]
}

#[cfg(test)]
pub(crate) mod tests;
