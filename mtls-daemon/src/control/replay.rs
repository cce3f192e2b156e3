//! `mtlsd policy replay`: its arguments and its text.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::ca_cli::lifetime;
use super::cli::AskOptions;
use super::render::{line, table};
use crate::flows::replay::{Change, ReplayReport, Said};
use crate::observe::Direction;

/// Changes that the text shows; `--json` has all.
const SHOWN: usize = 50;

/// Arguments of `mtlsd policy replay`.
#[derive(Debug, Args)]
pub struct ReplayArgs {
    /// The new configuration: a whole file with its drop-ins, as for `mtlsd run --config`
    #[arg(long, value_name = "FILE")]
    pub with: PathBuf,
    /// The connections of so long
    #[arg(long, value_name = "DURATION", default_value = "24h", value_parser = lifetime)]
    pub since: Duration,
    /// Where and how.
    #[command(flatten)]
    pub options: AskOptions,
}

/// `mtlsd policy replay`.
#[must_use]
pub fn report(report: &ReplayReport) -> String {
    let mut out = String::new();
    line(
        &mut out,
        format_args!(
            "{} flows ({} connections) seen since {} were looked at.",
            report.flows, report.connections, report.since
        ),
    );
    for gap in &report.gaps {
        line(&mut out, format_args!("Not everything is known: {gap}."));
    }
    for (why, flows) in &report.not_judged {
        line(&mut out, format_args!("{flows} flows were not judged: {why}."));
    }
    let refused = report.would_be_refused();
    if report.judged() == 0 {
        line(&mut out, format_args!("There was nothing to judge, so nothing is known."));
    } else if report.changes.is_empty() {
        line(&mut out, format_args!("No decision would change."));
    } else {
        let opened = report.changes.len() - refused;
        line(&mut out, format_args!("{refused} flows would be REFUSED, {opened} would be let through:"));
        changes(&mut out, &report.changes);
    }
    if report.by_another_rule > 0 {
        line(
            &mut out,
            format_args!("{} more would be decided the same, by another rule.", report.by_another_rule),
        );
    }
    if !report.dry_run.is_empty() {
        line(
            &mut out,
            format_args!("{} would change if the dry-run rules were in force:", report.dry_run.len()),
        );
        changes(&mut out, &report.dry_run);
    }
    out
}

fn changes(out: &mut String, changes: &[Change]) {
    let rows = changes.iter().take(SHOWN).map(|change| {
        let (from, to) = ends(change);
        let (channel, count, last) = (change.channel, change.count, change.last_seen);
        vec![
            from,
            to,
            channel.to_string(),
            said(&change.before),
            said(&change.after),
            count.to_string(),
            last.to_string(),
        ]
    });
    out.push_str(&table(&["from", "to", "by", "before", "after", "count", "last seen"], rows, ""));
    if changes.len() > SHOWN {
        line(out, format_args!("… and {} more; --json has all", changes.len() - SHOWN));
    }
}

fn ends(change: &Change) -> (String, String) {
    let mut peer = change.address.to_string();
    if let Some(name) = &change.peer {
        peer = format!("{name} ({peer})");
    }
    let port = change.port;
    match change.direction {
        Direction::Inbound => (peer, format!("{}:{port}", change.workload)),
        Direction::Outbound => {
            // Writing to a string cannot fail.
            let _ok = write!(peer, " port {port}");
            (change.workload.to_string(), peer)
        }
    }
}

fn said(said: &Said) -> String {
    format!("{} by {}", if said.allow { "allowed" } else { "refused" }, said.rule)
}
