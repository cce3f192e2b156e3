//! `cargo xtask bench`: sets up, builds with optimisation, measures, writes the report.

mod envoy;
mod micro;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::run::{Cmd, heading};
use crate::vm::{self, KernelName};
use crate::{repo, setup};

/// A system is measured for minutes on the clock that counts instructions.
const LAB_TIMEOUT: Duration = Duration::from_secs(4 * 3600);
/// Memory of the virtual machine, MiB.
const LAB_MEMORY: u32 = 6144;

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Instead: instructions of single operations (handshake, verification, policy, …), counted by valgrind
    #[arg(long, conflicts_with_all = ["quick", "systems", "rounds", "seconds", "report", "lab"])]
    micro: bool,
    /// Few workloads, each once for a second: some minutes
    #[arg(long)]
    quick: bool,
    /// Only these, by commas: relay-userspace, relay-ktls, auto, envoy, stunnel, haproxy, ztunnel; plain is always there
    #[arg(long, value_name = "SYSTEM,…")]
    systems: Option<String>,
    /// How often each is measured
    #[arg(long)]
    rounds: Option<u32>,
    /// Length of one measurement
    #[arg(long)]
    seconds: Option<f64>,
    /// Write the figures there too
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report there instead of below target/bench
    #[arg(long, value_name = "DIR")]
    report: Option<PathBuf>,
    /// Measure in a virtual machine whose clock counts instructions: the same figures on every machine
    #[arg(long)]
    lab: bool,
    /// The virtual machine's kernel
    #[arg(long, value_name = "SERIES|PATH", default_value = "6.12", requires = "lab")]
    kernel: KernelName,
}

/// Measures.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.micro {
        return micro::run(args.json.as_deref());
    }
    let root = repo::root()?;
    setup::prepare_bench("cargo xtask bench")?;
    let target = repo::target_dir(&root)?;
    let directory = target.join("bench");
    std::fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    let envoy = envoy::get(&directory);
    heading("building mtlsd and the benchmark, with optimisation");
    Cmd::cargo(&root)
        .args(["build", "--release", "--package", "mtls-daemon", "--package", "mtls-bench"])
        .run()?;
    let release = target.join("release");
    let (bench, daemon) = (release.join("mtls-bench"), release.join("mtlsd"));
    let figures = directory.join("run.json");
    let mut words: Vec<String> = vec![bench.to_string_lossy().into_owned(), "run".into()];
    words.extend(options(args));
    words.extend(["--json".into(), figures.to_string_lossy().into_owned()]);
    heading("measuring");
    let mut environment = vec![
        ("MTLSD_BIN", daemon.into_os_string()),
        ("MTLSD_BENCH_COMMAND", std::env::args().collect::<Vec<_>>().join(" ").into()),
    ];
    match envoy {
        Ok(binary) => environment.push(("MTLSD_BENCH_ENVOY", binary.into_os_string())),
        Err(error) => eprintln!("Envoy will be missing: {error:#}"),
    }
    let code = if args.lab {
        in_the_lab(args, &root, &directory, words, environment)?
    } else {
        let (program, rest) = words.split_first().context("there is a program")?;
        let cmd = environment.into_iter().fold(Cmd::new(program), |cmd, (name, value)| cmd.env(name, value));
        cmd.args(rest).dir(&root).run()?;
        ExitCode::SUCCESS
    };
    if code == ExitCode::SUCCESS {
        finish(args, &bench, &figures)?;
    }
    Ok(code)
}

/// The options that the benchmark itself takes.
fn options(args: &Args) -> Vec<String> {
    let mut words = Vec::new();
    let mut option = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            words.extend([name.to_owned(), value]);
        }
    };
    option("--systems", args.systems.clone());
    // Deterministic: once is enough.
    option("--rounds", args.rounds.or(args.lab.then_some(1)).map(|rounds| rounds.to_string()));
    option("--seconds", args.seconds.or(args.lab.then_some(0.5)).map(|seconds| seconds.to_string()));
    words.extend(args.quick.then(|| "--quick".to_owned()));
    words.extend(args.lab.then(|| "--instructions".to_owned()));
    words
}

fn in_the_lab(
    args: &Args,
    root: &Path,
    out: &Path,
    words: Vec<String>,
    environment: Vec<(&str, std::ffi::OsString)>,
) -> Result<ExitCode> {
    std::env::set_current_dir(root).with_context(|| format!("{} cannot be entered", root.display()))?;
    let mut command = vec!["env".into()];
    for (name, value) in environment {
        let mut pair = std::ffi::OsString::from(format!("{name}="));
        pair.push(value);
        command.push(pair);
    }
    command.extend(words.into_iter().map(Into::into));
    vm::run(&vm::Args {
        kernel: args.kernel.clone(),
        lab: true,
        accel: None,
        memory: LAB_MEMORY,
        cpus: 1,
        timeout: LAB_TIMEOUT,
        out: Some(out.to_owned()),
        refresh: false,
        command,
    })
}

fn finish(args: &Args, bench: &Path, figures: &Path) -> Result<()> {
    heading("the report");
    let report = args.report.clone().unwrap_or_else(|| figures.with_file_name("report"));
    Cmd::new(&bench.to_string_lossy()).arg("report").arg(figures).arg(&report).run()?;
    println!("report: {}", report.join("report.html").display());
    if let Some(copy) = &args.json {
        std::fs::copy(figures, copy).with_context(|| format!("{} cannot be written", copy.display()))?;
    }
    println!("figures: {}", args.json.as_deref().unwrap_or(figures).display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn given(words: &str) -> String {
        let line = Line::try_parse_from(std::iter::once("bench").chain(words.split_whitespace())).unwrap();
        options(&line.args).join(" ")
    }

    #[test]
    fn what_was_typed_is_passed_on() {
        assert_eq!(given(""), "");
        assert_eq!(
            given("--quick --systems envoy,auto --seconds 3"),
            "--systems envoy,auto --seconds 3 --quick"
        );
        assert_eq!(given("--lab"), "--rounds 1 --seconds 0.5 --instructions");
        assert_eq!(given("--lab --rounds 2 --kernel 7.2"), "--rounds 2 --seconds 0.5 --instructions");
        assert!(Line::try_parse_from(["bench", "--micro", "--json", "f"]).is_ok());
        assert!(
            Line::try_parse_from(["bench", "--micro", "--lab"]).is_err(),
            "it is not the systems' benchmark"
        );
        assert!(Line::try_parse_from(["bench", "--kernel", "7.2"]).is_err(), "a kernel is for the lab");
    }
}
