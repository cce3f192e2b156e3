//! The commands that need no running daemon: `config`, `ca`, `uninstall`.

pub mod ca;
pub mod packaging;
pub mod policy;
pub mod reference;
pub mod replay;

use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::error::DaemonError;
use super::lock::Lock;
use crate::capture::pins::Pins;
use crate::capture::{CaptureError, cgroup};
use crate::config::{self, Config, ConfigError, Place, Problem};
use crate::control::client::ClientError;
use crate::flows::{FlowFile, FlowFileError};
use crate::identity::CaError;
use crate::workload::Hierarchy;

/// Why a command did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The configuration is wrong.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A daemon runs, or its directory cannot be used.
    #[error(transparent)]
    Daemon(#[from] DaemonError),
    /// The pins cannot be removed.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// The CA refused.
    #[error(transparent)]
    Ca(#[from] CaError),
    /// `ca init` on a directory that has something in it.
    #[error("{path}: not empty; choose another directory, or use the CA that is there with `mtlsd ca issue`", path = .0.display())]
    NotEmpty(PathBuf),
    /// `ca issue` without a CA.
    #[error("{path}: there is no CA; make one with `mtlsd ca init --directory {path} --trust-domain NAME`", path = .0.display())]
    NoCa(PathBuf),
    /// A file cannot be written.
    #[error("cannot write {path}: {source}; choose another directory", path = .path.display())]
    Write {
        /// The file or directory.
        path: PathBuf,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The record of flows cannot be removed.
    #[error(transparent)]
    Flows(#[from] FlowFileError),
    /// The daemon did not answer.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The answer cannot be made into JSON.
    #[error("cannot write the answer as JSON: {0}")]
    Json(#[from] serde_json::Error),
    /// The answer cannot be printed.
    #[error("cannot print the answer: {0}")]
    Print(#[from] std::io::Error),
}

/// `mtlsd config check`: prints what is found; an error is what is wrong.
///
/// # Errors
/// Everything that is wrong with the configuration.
pub fn check_config(path: &Path, as_json: bool, out: &mut impl Write) -> Result<(), CommandError> {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error) => {
            if as_json {
                writeln!(out, "{}", problems(&error))?;
            }
            return Err(error.into());
        }
    };
    let mut warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    warnings.extend(absent(&config));
    if as_json {
        writeln!(
            out,
            "{}",
            json!({ "valid": true, "workloads": config.workloads.len(), "rules": config.policy.len(), "warnings": warnings })
        )?;
        return Ok(());
    }
    for warning in &warnings {
        writeln!(out, "warning: {warning}")?;
    }
    writeln!(
        out,
        "{}: valid; {} workloads, {} directory entries, {} rules, {} warnings",
        path.display(),
        config.workloads.len(),
        config.directory.len(),
        config.policy.len(),
        warnings.len()
    )?;
    Ok(())
}

fn problems(error: &ConfigError) -> serde_json::Value {
    let problem = |problem: &Problem| {
        let Place { file, line, column } = &problem.place;
        json!({ "file": file, "line": line, "column": column, "what": problem.fault.to_string() })
    };
    let problems: Vec<_> = error.problems.iter().map(problem).collect();
    json!({ "valid": false, "problems": problems, "more": error.more })
}

/// Namespaces and cgroups that do not exist now: no error, since workloads come and go.
fn absent(config: &Config) -> Vec<String> {
    let hierarchy = Hierarchy::of(config);
    let mount = hierarchy.as_ref().map(Hierarchy::mount);
    let mut absent = Vec::new();
    for workload in &config.workloads {
        let name = &workload.name;
        if let Some(netns) = &workload.select.netns
            && !netns.exists()
        {
            absent.push(format!("workload {name}: network namespace {} does not exist now", netns.display()));
        }
        if let Some(path) = &workload.select.cgroup
            && mount.and_then(|mount| cgroup::find(mount, path)).is_none()
        {
            absent.push(format!("workload {name}: cgroup {} does not exist now", path.display()));
        }
        if let Some(unit) = &workload.select.unit
            && hierarchy.as_ref().is_none_or(|hierarchy| hierarchy.directory(&workload.select).is_err())
        {
            absent.push(format!("workload {name}: unit {unit} does not run now"));
        }
    }
    absent
}

/// `mtlsd config schema`.
///
/// # Errors
/// When it cannot be printed.
pub fn print_schema(out: &mut impl Write) -> Result<(), CommandError> {
    writeln!(out, "{:#}", config::schema())?;
    Ok(())
}

/// `mtlsd uninstall`: detaches and unpins everything. Refused while the daemon runs, which would only
/// attach it again.
///
/// # Errors
/// When a daemon runs, or a pin cannot be removed.
pub fn uninstall(path: &Path, as_json: bool, out: &mut impl Write) -> Result<(), CommandError> {
    let config = Config::load(path)?;
    let _lock = Lock::take(&config.paths.runtime)?;
    super::direct::let_all_go(&config);
    let removed = Pins::remove_all(&config.paths.bpffs)?;
    // From now on connections are made that nobody records.
    FlowFile::of(&config.paths.state).remove()?;
    if as_json {
        writeln!(out, "{}", json!({ "removed": removed }))?;
    } else {
        writeln!(out, "removed {} pinned objects from {}", removed.len(), config.paths.bpffs.display())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
