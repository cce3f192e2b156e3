//! Where and how it was measured.

use std::collections::BTreeMap;
use std::process::Command;

use anyhow::Result;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::Options;
use super::plan::Plan;
use crate::machine;
use crate::result::{Clock, Environment, System};

/// Programs with how they are asked for their version.
const PROGRAMS: [(&str, &[&str]); 7] = [
    ("nginx", &["nginx", "-v"]),
    ("wrk", &["wrk", "-v"]),
    ("iperf3", &["iperf3", "--version"]),
    ("stunnel", &["stunnel", "-version"]),
    ("haproxy", &["haproxy", "-v"]),
    ("curl", &["curl", "--version"]),
    ("rustc", &["rustc", "--version"]),
];

/// Describes this machine and this run.
///
/// # Errors
/// Without /proc.
pub fn describe(options: &Options, plan: &Plan, systems: &[System]) -> Result<Environment> {
    let mut versions: BTreeMap<String, String> =
        PROGRAMS.iter().filter_map(|(name, argv)| Some(((*name).to_owned(), first_line(argv)?))).collect();
    if let Some(binary) = std::env::var_os("MTLSD_BIN").and_then(|path| path.into_string().ok()) {
        versions.extend(version(&[&binary, "--version"]).map(|version| ("mtlsd".to_owned(), version)));
    }
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let changed = first_line(&["git", "status", "--porcelain"]).is_some();
    let commit = first_line(&["git", "rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".into());
    let mut notes = vec![
        "Client, server and both nodes are on this one machine and share its processors: a system that needs less CPU leaves \
         more to the client and the server."
            .to_owned(),
    ];
    if systems.iter().any(|system| system.failure.is_some()) {
        notes.push("A system that did not run is in the table of systems with the reason.".to_owned());
    }
    Ok(Environment {
        date: OffsetDateTime::now_utc().format(&Rfc3339)?,
        command: std::env::var("MTLSD_BENCH_COMMAND")
            .unwrap_or_else(|_| std::env::args().collect::<Vec<_>>().join(" ")),
        commit: if changed { format!("{commit}-dirty") } else { commit },
        kernel: first_line(&["uname", "-sr"]).unwrap_or_default(),
        processor: processor.trim_start_matches([' ', '\t', ':']).to_owned(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        memory_mib: mebibytes(machine::total()?),
        clock: if options.instructions { Clock::Instructions } else { Clock::Wall },
        rounds: plan.rounds(),
        seconds: plan.seconds(),
        versions,
        notes,
    })
}

// A whole number of bytes, far below what a double holds exactly.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn mebibytes(bytes: f64) -> u64 {
    (bytes / 1_048_576.0) as u64
}

/// The first line with a version in it.
fn version(argv: &[&str]) -> Option<String> {
    let is_digit = |byte: &u8| byte.is_ascii_digit();
    line(argv, |line| {
        line.as_bytes().windows(3).any(|three| matches!(three, [a, b'.', b] if is_digit(a) && is_digit(b)))
    })
}

/// The first line with something in it.
fn first_line(argv: &[&str]) -> Option<String> {
    line(argv, |line| !line.is_empty())
}

/// The first such line that a program prints; some print their version to standard error.
fn line(argv: &[&str], wanted: impl Fn(&str) -> bool) -> Option<String> {
    let (program, args) = argv.split_first()?;
    let output = Command::new(program).args(args).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().map(str::trim).find(|line| wanted(line)).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_on_either_output_and_a_missing_program_is_none() {
        assert_eq!(first_line(&["sh", "-c", "echo; echo ' one'; echo two"]).unwrap(), "one");
        assert_eq!(version(&["sh", "-c", "echo Initialising; echo one 1.2 >&2"]).unwrap(), "one 1.2");
        assert_eq!(version(&["true"]), None);
        assert_eq!(version(&["mtlsd-no-such-program"]), None);
    }
}
