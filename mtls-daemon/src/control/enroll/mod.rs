//! `mtlsd enroll`, `unenroll`, `confirm` and `list`, from the command line to the daemon and back.

pub mod args;
mod routes;
#[cfg(test)]
pub(in crate::control) mod tests;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::render::{line, table};
use super::view::{WorkloadState, WorkloadStatus};

pub(super) use routes::routes;

/// What an enrolled unit's ports ask of whoever connects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EnrolMode {
    /// Mutual TLS, or plaintext that is passed on
    Permissive,
    /// Mutual TLS, or it is refused
    Strict,
}

impl fmt::Display for EnrolMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Permissive => "permissive",
            Self::Strict => "strict",
        })
    }
}

/// What is to be enrolled (`POST /v1/enroll`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrolRequest {
    /// The unit.
    pub unit: String,
    /// The workload's name; null: made of the unit's.
    #[serde(default)]
    pub name: Option<String>,
    /// The mode.
    pub mode: EnrolMode,
    /// Its ports; empty: learned.
    #[serde(default)]
    pub listen_ports: Vec<u16>,
    /// Who manages this host from elsewhere, and is never captured.
    #[serde(default)]
    pub managed_from: Option<IpAddr>,
    /// Undone after so many seconds unless it is confirmed; null: it stays.
    #[serde(default)]
    pub confirm_within: Option<u64>,
    /// Only say what would be.
    #[serde(default)]
    pub dry_run: bool,
}

/// What came of it, or would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrolReport {
    /// The workload's name.
    pub name: String,
    /// Its identity.
    pub spiffe_id: String,
    /// The mode.
    pub mode: EnrolMode,
    /// The drop-in that says so.
    pub file: PathBuf,
    /// What stands in it.
    pub text: String,
    /// Whether it is there now.
    pub state: WorkloadState,
    /// What is in the way.
    pub detail: String,
    /// The ports that it has now, named or learned.
    pub ports: Vec<u16>,
    /// What the configuration warns of.
    pub warnings: Vec<String>,
    /// Seconds until it is undone; null: it stays.
    pub undone_in: Option<u64>,
    /// Nothing was changed.
    pub dry_run: bool,
}

/// Which workload (`POST /v1/unenroll`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnenrolRequest {
    /// Its name.
    pub name: String,
}

/// What was changed by its name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The workload's name.
    pub name: String,
}

/// One that `mtlsd enroll` enrolled (`GET /v1/enrolled`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Enrolled {
    /// Its name.
    pub name: String,
    /// How it is found.
    pub selector: String,
    /// Its mode.
    pub mode: String,
    /// Whether it is there now.
    pub state: WorkloadState,
    /// What is in the way.
    pub detail: String,
    /// The drop-in that says so.
    pub file: PathBuf,
    /// Seconds until it is undone; null: it stays.
    pub undone_in: Option<u64>,
}

/// How a workload stood when it was no longer waited for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waited {
    /// Its name.
    pub name: String,
    /// Whether it is there; null: the configuration has none of this name.
    pub state: Option<WorkloadState>,
    /// What is in the way.
    pub detail: String,
}

impl Waited {
    fn of(name: &str, found: Option<&WorkloadStatus>) -> Self {
        let detail = found.map(|found| found.detail.clone()).unwrap_or_default();
        Self { name: name.to_owned(), state: found.map(|found| found.state), detail }
    }

    /// Whether its traffic is captured. One that is to be left alone waits for nothing.
    #[must_use]
    pub fn holds(&self) -> bool {
        matches!(self.state, Some(WorkloadState::Enrolled | WorkloadState::Disabled))
    }
}

/// `mtlsd wait-enrolled`.
#[must_use]
pub fn waited(waited: &Waited) -> String {
    let Waited { name, state, detail } = waited;
    match state {
        Some(WorkloadState::Enrolled) => format!("{name} is enrolled.\n"),
        Some(WorkloadState::Disabled) => format!("{name} is left alone: its mode is disabled.\n"),
        Some(WorkloadState::Absent | WorkloadState::Failed) => format!("{name} is not enrolled: {detail}.\n"),
        None => format!("There is no workload {name}; see `mtlsd workloads`.\n"),
    }
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// No unit.
    #[error("the unit {0:?} cannot be enrolled: {1}")]
    Unit(String, crate::config::UnitError),
    /// An earlier change is undone soon.
    #[error("the change of {name} waits to be confirmed and is undone in {left} s")]
    Unconfirmed {
        /// Its workload.
        name: String,
        /// Seconds.
        left: u64,
    },
    /// Confirmed already, undone, or never to be.
    #[error(
        "nothing waits to be confirmed: it was confirmed or undone before, or was to stay from the start"
    )]
    NothingToConfirm,
    /// Not one of ours.
    #[error("{0:?} was not enrolled by `mtlsd enroll`")]
    NotEnrolled(String),
    /// A configuration with it would be wrong.
    #[error("the configuration would be refused: {0}")]
    Refused(String),
    /// The drop-in or the note of what to put back.
    #[error("cannot {what} {path}: {source}", path = .path.display())]
    File {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
}

impl EnrolError {
    /// What to do about it.
    #[must_use]
    pub fn mend(&self) -> &'static str {
        match self {
            Self::Unit(..) => "see `systemctl list-units`",
            Self::Unconfirmed { .. } => "run `mtlsd confirm`, or wait",
            Self::NothingToConfirm => "see `mtlsd list`",
            Self::NotEnrolled(_) => "see `mtlsd list`; what stands in other files is removed there",
            Self::Refused(_) => "nothing was changed",
            Self::File { .. } => "nothing was changed; look at the directory's rights and room",
        }
    }
}

/// `mtlsd enroll`.
#[must_use]
pub fn enrolled(report: &EnrolReport) -> String {
    let mut out = String::new();
    let EnrolReport { name, spiffe_id, mode, .. } = report;
    let done = if report.dry_run { "Would enrol" } else { "Enrolled" };
    line(&mut out, format_args!("{done} {name} as {spiffe_id}, {mode}."));
    if report.state == WorkloadState::Enrolled {
        let ports: Vec<_> = report.ports.iter().map(ToString::to_string).collect();
        let ports = if ports.is_empty() { "none now".to_owned() } else { ports.join(", ") };
        line(&mut out, format_args!("Its ports: {ports}."));
    } else {
        line(&mut out, format_args!("It is not there now: {}.", report.detail));
    }
    for warning in &report.warnings {
        line(&mut out, format_args!("warning: {warning}"));
    }
    if report.dry_run {
        line(&mut out, format_args!("Nothing was changed. {} would say:", report.file.display()));
        out.push_str(&report.text);
    } else {
        line(&mut out, format_args!("Written to {}.", report.file.display()));
    }
    if let Some(seconds) = report.undone_in {
        let when = format_args!("Undone in {seconds} s unless you run `mtlsd confirm`.");
        line(&mut out, when);
    }
    out
}

/// `mtlsd unenroll`.
#[must_use]
pub fn unenrolled(changed: &Changed) -> String {
    format!("{} is no workload any more; its connections end as its lease says.\n", changed.name)
}

/// `mtlsd confirm`.
#[must_use]
pub fn confirmed(changed: &Changed) -> String {
    format!("{} stays as it is.\n", changed.name)
}

/// `mtlsd list`.
#[must_use]
pub fn list(all: &[Enrolled]) -> String {
    let rows = all.iter().map(|one| {
        let undone = one.undone_in.map_or_else(String::new, |seconds| format!("undone in {seconds} s"));
        let detail = [one.detail.clone(), undone].into_iter().filter(|text| !text.is_empty());
        vec![
            one.name.clone(),
            one.selector.clone(),
            one.mode.clone(),
            one.state.as_str().to_owned(),
            detail.collect::<Vec<_>>().join("; "),
        ]
    });
    table(&["workload", "found by", "mode", "state", ""], rows, "Nothing was enrolled by `mtlsd enroll`.")
}

/// How long a change waits that could shut out whoever made it.
pub const DEFAULT_CONFIRM: Duration = Duration::from_secs(60);
