//! `cargo xtask bench`: sets up, builds with optimisation, measures, writes the report.

mod against;
mod envoy;
mod lab;
mod micro;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::run::{Cmd, heading};
use crate::vm::KernelName;
use crate::{repo, setup};

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Instead: instructions of single operations (handshake, verification, policy, …), counted by valgrind
    #[arg(long, conflicts_with_all = ["quick", "systems", "only", "rounds", "seconds", "report", "lab", "against"])]
    micro: bool,
    /// Few workloads, each once for a second: some minutes
    #[arg(long)]
    quick: bool,
    /// Only these, by commas: relay-userspace, relay-ktls, auto, direct, envoy, stunnel, haproxy, ztunnel; plain is always there
    #[arg(long, value_name = "SYSTEM,…")]
    systems: Option<String>,
    /// Only these workloads, by commas: requests, paced, stream, download, connect, idle, work
    #[arg(long, value_name = "WORKLOAD,…")]
    only: Option<String>,
    /// Let wrk and iperf3 measure too although not everything is measured
    #[arg(long)]
    checks: bool,
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
    #[arg(long, value_name = "SERIES|PATH", default_value = "6.12")]
    kernel: KernelName,
    /// Build mtlsd of this git revision too and compare with it, in the virtual machine and by turns: ratios, no verdict
    #[arg(long, value_name = "REVISION", conflicts_with_all = ["systems", "only", "quick", "rounds"])]
    against: Option<String>,
    /// Only say so if that revision is not in this clone, which may be shallow
    #[arg(long, requires = "against")]
    if_there: bool,
}

impl Args {
    fn is_lab(&self) -> bool {
        self.lab || self.against.is_some()
    }
}

/// Measures.
pub fn run(args: &Args) -> Result<ExitCode> {
    if args.micro {
        return micro::run(args.json.as_deref());
    }
    let root = repo::root()?;
    let base = match &args.against {
        Some(revision) => match against::commit(&root, revision) {
            Ok(commit) => Some(commit),
            Err(error) if args.if_there => {
                println!("nothing is compared: {error:#}");
                return Ok(ExitCode::SUCCESS);
            }
            Err(error) => return Err(error),
        },
        None => None,
    };
    setup::prepare_bench("cargo xtask bench")?;
    let target = repo::target_dir(&root)?;
    let directory = target.join("bench");
    std::fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
    // The binary of the base is built in the same directory, and goes first.
    let base = base.map(|commit| against::build(&root, &target, &directory, &commit)).transpose()?;
    let envoy = if base.is_some() { None } else { Some(envoy::get(&directory)) };
    let mut build = Cmd::cargo(&root).args(["build", "--package", "mtls-daemon", "--package", "mtls-bench"]);
    let built = if base.is_some() {
        heading("building mtlsd and the benchmark");
        target.join(against::PROFILE)
    } else {
        heading("building mtlsd and the benchmark, with optimisation");
        build = build.arg("--release");
        target.join("release")
    };
    build.run()?;
    let (bench, daemon) = (built.join("mtls-bench"), built.join("mtlsd"));
    let figures = if args.is_lab() { lab::out(&directory)? } else { directory.clone() }.join("run.json");
    let mut words: Vec<String> = vec![bench.to_string_lossy().into_owned(), "run".into()];
    words.extend(options(args));
    words.extend(["--json".into(), figures.to_string_lossy().into_owned()]);
    heading("measuring");
    let mut environment = vec![
        ("MTLSD_BIN", daemon.into_os_string()),
        ("MTLSD_BENCH_COMMAND", std::env::args().collect::<Vec<_>>().join(" ").into()),
    ];
    environment.extend(base.map(|base| ("MTLSD_BENCH_BASE", base.into_os_string())));
    match envoy {
        Some(Ok(binary)) => environment.push(("MTLSD_BENCH_ENVOY", binary.into_os_string())),
        Some(Err(error)) => eprintln!("Envoy will be missing: {error:#}"),
        None => {}
    }
    let code = if args.is_lab() {
        lab::run(&args.kernel, &root, &figures, words, environment)?
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
    let (systems, only) = match args.against {
        Some(_) => (Some(against::SYSTEMS.to_owned()), Some(against::WORKLOADS.to_owned())),
        None => (args.systems.clone(), args.only.clone()),
    };
    option("--systems", systems);
    option("--only", only);
    option("--rounds", args.rounds.map(|rounds| rounds.to_string()));
    option("--seconds", args.seconds.map(|seconds| seconds.to_string()));
    words.extend((args.quick || args.against.is_some()).then(|| "--quick".to_owned()));
    words.extend(args.checks.then(|| "--checks".to_owned()));
    words.extend(args.is_lab().then(|| "--instructions".to_owned()));
    words
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
    if args.against.is_some() {
        heading("the change against its base");
        Cmd::new(&bench.to_string_lossy()).arg("against").arg(figures).run()?;
    }
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
        assert_eq!(given("--lab --only idle"), "--only idle --instructions");
        assert_eq!(given("--lab --rounds 2 --kernel 7.2"), "--rounds 2 --instructions");
        assert!(Line::try_parse_from(["bench", "--micro", "--json", "f"]).is_ok());
        assert!(
            Line::try_parse_from(["bench", "--micro", "--lab"]).is_err(),
            "it is not the systems' benchmark"
        );
    }

    #[test]
    fn a_comparison_is_of_two_builds_in_the_lab() {
        let words = given("--against HEAD^ --if-there");
        assert_eq!(
            words,
            "--systems relay-userspace,base --only requests,download,connect --quick --instructions"
        );
        for wrong in ["--against HEAD^ --systems envoy", "--if-there"] {
            let line = Line::try_parse_from(std::iter::once("bench").chain(wrong.split_whitespace()));
            assert!(line.is_err(), "{wrong}");
        }
    }
}
