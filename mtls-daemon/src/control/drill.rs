//! `mtlsd drill`: the daemon tries on itself what one has to rely on when it counts.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use clap::Subcommand;
use serde::{Deserialize, Serialize};

use super::admin::Failure;
use super::cli::AskOptions;
use super::render::{line, table};
use super::view::DaemonView;

/// `mtlsd drill …`
#[derive(Debug, Subcommand)]
pub enum DrillCommand {
    /// Revoke an identity that was made for it: is its connection cut, and how soon, and is the next one refused?
    Revoke(AskOptions),
}

/// What came of a drill (`POST /v1/drill/revoke`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillReport {
    /// The SPIFFE ID that was made for it.
    pub spiffe_id: String,
    /// What was done, in order; it stops at what does not hold, and cleans up.
    pub steps: Vec<DrillStep>,
}

/// One thing that was done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrillStep {
    /// What.
    pub name: String,
    /// Whether it holds.
    pub ok: bool,
    /// What was seen.
    pub detail: String,
    /// Microseconds that it took.
    pub took_us: u64,
}

impl DrillReport {
    /// Whether every step holds. Having done nothing is not success.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.steps.is_empty() && self.steps.iter().all(|step| step.ok)
    }
}

/// Why there can be no drill.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DrillError {
    /// Nobody can issue the identity.
    #[error("this node uses no embedded CA, and a drill needs one to issue its identities")]
    NoCa,
}

pub(super) fn routes<V: DaemonView>() -> Router<Arc<V>> {
    Router::new().route("/v1/drill/revoke", post(revoke::<V>))
}

async fn revoke<V: DaemonView>(State(view): State<Arc<V>>) -> Result<Json<DrillReport>, Failure> {
    view.drill_revoke().await.map(Json).map_err(|error| {
        let mend = "run it on a node that has a workload with an identity of the embedded CA";
        Failure::new(StatusCode::CONFLICT, error.to_string(), mend)
    })
}

/// `mtlsd drill revoke`.
#[must_use]
pub fn report(report: &DrillReport) -> String {
    let mut out = String::new();
    line(&mut out, format_args!("Drill with {}", report.spiffe_id));
    let rows = report.steps.iter().map(|step| {
        let outcome = if step.ok { "ok" } else { "FAILED" };
        let took = std::time::Duration::from_micros(step.took_us).as_secs_f64() * 1000.0;
        vec![outcome.to_owned(), format!("{took:.1} ms"), step.name.clone(), step.detail.clone()]
    });
    out.push_str(&table(&["result", "took", "step", "seen"], rows, "Nothing was done."));
    let outcome = if report.holds() {
        "Revocation works on this node."
    } else {
        "Revocation does NOT work on this node."
    };
    line(&mut out, format_args!("{outcome}"));
    out
}
