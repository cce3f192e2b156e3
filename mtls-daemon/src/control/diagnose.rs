//! `mtlsd diagnose`, from the command line to the daemon and back.

use std::sync::Arc;

use axum::extract::State;
use axum::extract::connect_info::ConnectInfo;
use axum::extract::rejection::JsonRejection;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use clap::Args;

use super::admin::{Failure, Peer, bad_body};
use super::cli::AskOptions;
use super::render::line;
use super::view::DaemonView;
use crate::diagnose::live::{
    DOES_NOT_APPLY, LIMIT, LiveError, LiveReport, LiveRequest, LiveStep, MAX_LIMIT, MIN_LIMIT, Outcome,
};
use crate::identity::SpiffeId;

/// Arguments of `mtlsd diagnose`.
#[derive(Debug, Args)]
pub struct DiagnoseArgs {
    /// Where to: an address, a name or SPIFFE ID of the directory, or a name that the resolver knows, with the port
    #[arg(value_name = "HOST:PORT")]
    pub to: String,
    /// As which workload of this node: its name, SPIFFE ID or address; not needed where there is only one
    #[arg(long = "as", value_name = "WORKLOAD")]
    pub workload: Option<String>,
    /// Whom the server must prove to be, in place of what the directory says
    #[arg(long, value_name = "SPIFFE-ID")]
    pub expect: Option<SpiffeId>,
    /// Milliseconds for each wait: for the resolver, TCP, the handshake, and the server's verdict
    #[arg(long, value_name = "MS", default_value_t = milliseconds(LIMIT), value_parser = clap::value_parser!(u64).range(milliseconds(MIN_LIMIT)..=milliseconds(MAX_LIMIT)))]
    pub timeout: u64,
    /// Where and how.
    #[command(flatten)]
    pub options: AskOptions,
}

fn milliseconds(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl DiagnoseArgs {
    /// What is asked of the daemon.
    #[must_use]
    pub fn request(&self) -> LiveRequest {
        LiveRequest {
            to: self.to.clone(),
            workload: self.workload.clone(),
            expect: self.expect.clone(),
            timeout_ms: Some(self.timeout),
        }
    }
}

/// `/v1/diagnose`: POST, since packets are sent.
pub(super) fn routes<V: DaemonView>() -> Router<Arc<V>> {
    Router::new().route("/v1/diagnose", post(diagnose::<V>))
}

async fn diagnose<V: DaemonView>(
    State(view): State<Arc<V>>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    body: Result<Json<LiveRequest>, JsonRejection>,
) -> Result<Json<LiveReport>, Failure> {
    let see = "see `mtlsd help diagnose`";
    let Json(request) = body.map_err(bad_body(see))?;
    view.diagnose(request, peer.name()).await.map(Json).map_err(|error| {
        let status = match error {
            LiveError::NoWorkload(_) => StatusCode::NOT_FOUND,
            LiveError::Busy(_) => StatusCode::TOO_MANY_REQUESTS,
            LiveError::Nowhere { .. } => StatusCode::CONFLICT,
            LiveError::WhichWorkload(_) | LiveError::NoTarget(_) | LiveError::Limit(_) => {
                StatusCode::BAD_REQUEST
            }
        };
        Failure::new(status, error.to_string(), see)
    })
}

/// `mtlsd diagnose`.
#[must_use]
pub fn report(report: &LiveReport) -> String {
    let mut out = String::new();
    let at = report.address.map(|address| address.to_string()).filter(|address| *address != report.to);
    let at = at.map(|at| format!(", {at}")).unwrap_or_default();
    line(&mut out, format_args!("From {} ({}) to {}{at}:", report.workload, report.spiffe_id, report.to));
    let is_told = |step: &&LiveStep| step.outcome != Outcome::NotReached && step.detail != DOES_NOT_APPLY;
    for step in report.steps.iter().filter(is_told) {
        one(&mut out, step);
    }
    for (outcome, words) in [(Outcome::NotAsked, "not asked"), (Outcome::NotReached, "not reached")] {
        let rest = report.steps.iter().filter(|step| step.outcome == outcome && !is_told(step));
        let rest: Vec<_> = rest.map(|step| &*step.question).collect();
        if !rest.is_empty() {
            line(&mut out, format_args!("{words:<11}  {}", rest.join(" ")));
        }
    }
    if let Some(datapath) = report.datapath {
        let why = report.why_not_better.as_deref().map(|why| format!("; not a better one, because {why}"));
        let why = why.unwrap_or_default();
        line(&mut out, format_args!("Datapath {datapath}: {}{why}.", datapath.sentence()));
    }
    line(&mut out, format_args!("{}", report.sentence));
    let what = if report.mend.starts_with("Nothing") { "" } else { "What to do: " };
    line(&mut out, format_args!("{what}{}", report.mend));
    out
}

fn one(out: &mut String, step: &LiveStep) {
    let outcome = match step.outcome {
        Outcome::Passed => "passed",
        Outcome::Failed => "FAILED",
        Outcome::Unknown => "no answer",
        Outcome::NotAsked => "not asked",
        Outcome::NotReached => "not reached",
    };
    let took = step.took_us.map(|took| {
        let milliseconds = std::time::Duration::from_micros(took).as_secs_f64() * 1000.0;
        format!(" ({milliseconds:.1} ms)")
    });
    line(out, format_args!("{outcome:<11}  {} {}{}", step.question, step.detail, took.unwrap_or_default()));
    for evidence in &step.evidence {
        line(out, format_args!("{:<11}  - {evidence}", ""));
    }
}

#[cfg(test)]
mod tests {
    use super::super::admin::tests::serve;
    use super::super::client::{AdminClient, ClientError};
    use super::*;

    #[test]
    fn a_failure_is_shown_with_what_passed_before_it_and_what_was_not_reached() {
        let text = report(&LiveReport::example(false));
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], "From web (spiffe://example.org/web) to db:5432, 10.1.0.7:5432:");
        assert!(lines[1].starts_with("passed       Is it reachable over TCP? 10.1.0.7:5432 took"), "{text}");
        assert!(lines[1].ends_with("(1.5 ms)"), "{text}");
        assert_eq!(lines[2].trim_start(), "- a\\u{1b}[31mb", "nothing reaches the terminal as it came");
        assert!(lines.iter().any(|line| line.starts_with("not asked    Is the workload here? ")), "{text}");
        assert!(
            lines.iter().any(|line| line.starts_with("FAILED       Is it the one that is expected? ")),
            "{text}"
        );
        assert!(lines.iter().any(|line| line.starts_with("not reached  ")), "{text}");
        let [.., sentence, mend] = lines.as_slice() else { panic!("{text}") };
        assert!(sentence.contains("does NOT work; it stops at: Is it the one that is expected?"), "{text}");
        assert!(mend.starts_with("What to do: Check that the address"), "{text}");
    }

    #[test]
    fn success_ends_with_the_datapath_and_a_sentence() {
        let text = report(&LiveReport::example(true));
        assert!(
            text.contains("Datapath relay-userspace: ") && text.contains("because this kernel has no kTLS.")
        );
        assert!(text.ends_with("works, with mutual TLS.\nNothing needs mending.\n"), "{text}");
        assert!(!text.contains("not reached"), "{text}");
    }

    #[tokio::test]
    async fn a_question_that_cannot_be_asked_is_an_error_with_a_mend() {
        let served = serve(true);
        let client = AdminClient::new(&served.path);
        let request = LiveRequest { to: "db:1".into(), workload: None, expect: None, timeout_ms: None };
        let error = client.diagnose(&request).await.unwrap_err();
        assert!(matches!(&error, ClientError::Refused(refused) if refused.error.contains("--as")), "{error}");
        let web = LiveRequest { workload: Some("web".into()), ..request };
        assert!(client.diagnose(&web).await.unwrap().holds());
    }
}
