//! `cargo xtask ci`: what `.ci/run` does, step by step, with the time each took.

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::repo;
use crate::run::{Cmd, heading};

/// Options of the run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds that building xtask itself took, for the table.
    #[arg(long, value_name = "SECONDS")]
    built_in: Option<u64>,
}

/// A step of the run.
struct Step<'a> {
    name: &'static str,
    /// Words after `cargo`.
    cargo: &'a [&'a str],
    env: &'static [(&'static str, &'static str)],
}

/// Everything on this kernel; of the virtual machines, which are slow, as much as fits into a quarter of an hour: what cannot run
/// here, for want of kernel TLS. The suite `records` is not among it, since it runs here in user space. Each test of `direct` starts
/// two daemons in some 15 s: of attacks, kills and leases there is one of each kind, of real programs, edges and the stress there is
/// none. Nor is the package under systemd among it, with its two boots. All of them run with `cargo xtask test`.
const TESTS: &[&str] = &[
    "xtask",
    "test",
    "--kernel",
    "host",
    "--kernel",
    "6.1=offload,direct",
    "--kernel",
    "6.12=datapath,hold,revocation,direct,direct_attack/plaintext",
    "--kernel",
    "7.2=offload,key_updates,direct_exact,direct_kill/at_any_moment,direct_life/lease_reaches",
    "--exclude-suite",
    "direct_attack",
    "--exclude-suite",
    "direct_edges",
    "--exclude-suite",
    "direct_kill",
    "--exclude-suite",
    "direct_life",
    "--exclude-suite",
    "direct_programs",
    "--exclude-suite",
    "direct_stress",
    "--exclude-suite",
    "systemd",
    "--exclude-suite",
    "systemd_reboot",
];

/// What is right or wrong about the sources. A comparison with a base comes right after it: cargo knows the crates of both revisions
/// by the same names, so that the base's overwrite ours, and tests that were built before would be built again.
const CHECKS: [Step<'_>; 7] = [
    Step { name: "formatting", cargo: &["fmt", "--all", "--check"], env: &[] },
    Step {
        name: "formatting of the eBPF programs",
        cargo: &["fmt", "--manifest-path", "mtls-ebpf/Cargo.toml", "--check"],
        env: &[],
    },
    Step {
        name: "formatting of the fuzz targets",
        cargo: &["fmt", "--manifest-path", "fuzz/Cargo.toml", "--check"],
        env: &[],
    },
    Step { name: "dependencies", cargo: &["xtask", "deny"], env: &[] },
    Step { name: "eBPF object", cargo: &["xtask", "ebpf", "check"], env: &[] },
    Step {
        name: "clippy",
        cargo: &["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"],
        env: &[],
    },
    Step {
        name: "documentation",
        cargo: &["doc", "--locked", "--workspace", "--no-deps"],
        env: &[("RUSTDOCFLAGS", "-D warnings")],
    },
];

/// What is built with tests or for them. Not the fuzz targets, which build everything once more to run for seconds: `cargo xtask fuzz`.
const BUILT: [Step<'_>; 2] = [
    // Clippy has compiled only for checking: seen apart, this is the price of a clean machine.
    Step {
        name: "building the unit tests",
        cargo: &["test", "--locked", "--workspace", "--exclude", "mtls-tests", "--tests", "--no-run"],
        env: &[],
    },
    // Selected as the unit tests are: by its package alone the daemon has other features and is built anew.
    Step {
        name: "micro-benchmarks, each once",
        cargo: &["test", "--locked", "--workspace", "--exclude", "mtls-tests", "--bench", "micro"],
        env: &[],
    },
];

/// The README's command, and the last step: its closing line is the last of its kind.
const LAST: Step<'_> = Step { name: "tests", cargo: TESTS, env: &[] };

/// The revision that speed is compared with, where `MTLSD_CI_BASE` names one: to build a second daemon and to measure both takes ten
/// minutes.
fn base() -> Option<String> {
    std::env::var("MTLSD_CI_BASE").ok().filter(|base| !base.is_empty())
}

/// What became of a step.
struct Done {
    name: &'static str,
    time: Duration,
    failed: bool,
}

/// Runs every step, also after a failure: one run shows everything that is wrong.
pub fn run(args: &Args) -> Result<ExitCode> {
    let root = repo::root()?;
    let mut done = Vec::new();
    if let Some(seconds) = args.built_in {
        done.push(Done { name: "building xtask", time: Duration::from_secs(seconds), failed: false });
    }
    let base = base();
    let compare = ["xtask", "bench", "--against", base.as_deref().unwrap_or_default(), "--if-there"];
    let compare = Step { name: "speed, compared with the base", cargo: &compare, env: &[] };
    let compare = base.is_some().then_some(&compare);
    for step in CHECKS.iter().chain(compare).chain(&BUILT).chain([&LAST]) {
        heading(&format!("{} ({})", step.name, shown(step)));
        let started = Instant::now();
        let failed =
            !command(&root, step).status().with_context(|| format!("the step `{}`", step.name))?.success();
        if failed {
            println!("step failed: {}", step.name);
        }
        done.push(Done { name: step.name, time: started.elapsed(), failed });
    }
    heading("where the time went");
    print!("{}", table(&done));
    Ok(if done.iter().any(|step| step.failed) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn command(root: &Path, step: &Step<'_>) -> Cmd {
    step.env.iter().fold(Cmd::cargo(root).args(step.cargo), |cmd, (name, value)| cmd.env(name, value))
}

fn shown(step: &Step<'_>) -> String {
    let env: String = step.env.iter().map(|(name, value)| format!("{name}='{value}' ")).collect();
    format!("{env}cargo {}", step.cargo.join(" "))
}

fn table(done: &[Done]) -> String {
    let width = done.iter().map(|step| step.name.len()).max().unwrap_or(0);
    let row = |name: &str, time: Duration, note: &str| {
        format!("{name:width$} {:7.1} s{note}\n", time.as_secs_f64())
    };
    let mut rows: String = done
        .iter()
        .map(|step| row(step.name, step.time, if step.failed { "  FAILED" } else { "" }))
        .collect();
    rows.push_str(&row("total", done.iter().map(|step| step.time).sum(), ""));
    rows
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_times_failures_and_the_total() {
        let done = [
            Done { name: "clippy", time: Duration::from_millis(1500), failed: false },
            Done { name: "tests", time: Duration::from_secs(60), failed: true },
        ];
        assert_eq!(table(&done), "clippy     1.5 s\ntests     60.0 s  FAILED\ntotal     61.5 s\n");
    }

    #[test]
    fn the_tests_are_the_readmes_command() {
        assert!(shown(&LAST).starts_with("cargo xtask test "), "{}", shown(&LAST));
    }

    #[test]
    fn a_step_is_shown_as_it_would_be_typed() {
        let step = Step { name: "d", cargo: &["doc"], env: &[("RUSTDOCFLAGS", "-D warnings")] };
        assert_eq!(shown(&step), "RUSTDOCFLAGS='-D warnings' cargo doc");
    }
}
