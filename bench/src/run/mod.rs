//! `mtls-bench run`: every system up, every workload on each by turns, as often as asked.

mod checks;
mod curves;
mod environment;
mod measure;
mod plan;
mod work;
mod wrk;

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::Args;

use self::measure::measure;
use self::plan::{Part, Plan};
use crate::report;
use crate::result::{FORMAT, Row, Run, System, Workload};
use crate::systems::{Kind, Running};

/// What to measure.
#[derive(Debug, Clone, Args)]
pub struct Options {
    /// The systems, by commas; without it all. Plain TCP is always there: it is what the others are compared with.
    #[arg(long, value_delimiter = ',', value_name = "SYSTEM,…")]
    pub systems: Vec<Kind>,
    /// Only these workloads, by commas.
    #[arg(long, value_delimiter = ',', value_name = "WORKLOAD,…")]
    pub only: Vec<Part>,
    /// Few workloads, once, one second each: some two minutes.
    #[arg(long)]
    pub quick: bool,
    /// How often each is measured.
    #[arg(long)]
    pub rounds: Option<u32>,
    /// Length of one measurement.
    #[arg(long)]
    pub seconds: Option<f64>,
    /// Writes the figures there.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Writes the report there.
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// Let wrk and iperf3 measure too although not everything is measured.
    #[arg(long)]
    pub checks: bool,
    /// The clock counts instructions (`cargo xtask vm --lab`): the report says so.
    #[arg(long, hide = true)]
    pub instructions: bool,
}

/// Measures, and writes what came of it.
///
/// # Errors
/// Without root, or if not even plain TCP runs. A system that fails is in the report.
pub fn run(options: &Options) -> Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!("the benchmark makes network namespaces, which only root may; try `sudo -E cargo xtask bench`");
    }
    mtls_tests::lab::silence();
    let plan = Plan::new(options)?;
    let (mut running, mut systems) = (Vec::new(), Vec::new());
    for kind in plan.kinds() {
        eprintln!("starting {kind}");
        match Running::start(kind) {
            Ok(system) => {
                systems.push(system.description());
                running.push(system);
            }
            Err(error) if kind == Kind::Plain => {
                return Err(error.context("plain TCP between two namespaces"));
            }
            Err(error) => {
                let failure = format!("{error:#}");
                eprintln!("  {kind} does not run: {}", failure.lines().next().unwrap_or_default());
                systems.push(failed(kind, failure));
            }
        }
    }
    let rows = rows(&plan, &running)?;
    let cross_checks = if plan.checks() { checks::run(&plan, &running) } else { Vec::new() };
    let work = if plan.work() { work::run(&running) } else { Vec::new() };
    let curves = curves::run(&plan, &running);
    let environment = environment::describe(options, &plan, &systems)?;
    let run = Run { format: FORMAT, environment, systems, rows, work, curves, cross_checks };
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&run)?;
        std::fs::write(path, text)
            .with_context(|| format!("{}: cannot write the figures there", path.display()))?;
        println!("figures: {}", path.display());
    }
    if let Some(directory) = &options.report {
        report::write_run(&run, directory)?;
        println!("report: {}", directory.join("report.html").display());
    }
    Ok(())
}

fn failed(kind: Kind, failure: String) -> System {
    System {
        name: kind.name().into(),
        title: kind.name().into(),
        setting: String::new(),
        commands: Vec::new(),
        readable: None,
        failure: Some(failure),
    }
}

/// Round after round; within one, workload after workload; within that, system after system.
fn rows(plan: &Plan, running: &[Running]) -> Result<Vec<Row>> {
    let mut rows: Vec<Row> = Vec::new();
    for &workload in plan.workloads() {
        for system in running {
            rows.push(Row { system: system.kind.name().into(), workload, rounds: Vec::new(), failure: None });
        }
    }
    for round in 1..=plan.rounds() {
        for &workload in plan.workloads() {
            // A fixed rate that all can serve: half of what the slowest did.
            let rate = half_of_slowest(&rows, workload);
            for system in running.iter().filter(|_| workload.is_measured_in(round)) {
                let name = system.kind.name();
                let found = rows.iter_mut().find(|row| row.system == name && row.workload == workload);
                let row = found.context("every system has a row")?;
                if row.failure.is_some() {
                    continue;
                }
                match measure(system, workload, plan, rate) {
                    Ok(figures) => {
                        eprintln!(
                            "[{round}/{}] {workload}: {name}: {}",
                            plan.rounds(),
                            measure::summary(&figures)
                        );
                        row.rounds.push(figures);
                    }
                    Err(error) => {
                        eprintln!("[{round}/{}] {workload}: {name}: {error:#}", plan.rounds());
                        row.failure = Some(format!("{error:#}"));
                    }
                }
            }
        }
    }
    Ok(rows)
}

/// Of the requests that the paced ones are like.
fn half_of_slowest(rows: &[Row], workload: Workload) -> Option<f64> {
    let Workload::Paced { connections, body } = workload else { return None };
    let like = Workload::Requests { connections, body };
    let rates =
        rows.iter().filter(|row| row.workload == like).filter_map(|row| row.rounds.first()?.per_second);
    rates.min_by(f64::total_cmp).map(|slowest| slowest / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::Round;

    fn row(workload: Workload, per_second: Option<f64>) -> Row {
        let rounds =
            per_second.map(|rate| Round { per_second: Some(rate), ..Round::default() }).into_iter().collect();
        Row { system: "s".into(), workload, rounds, failure: None }
    }

    #[test]
    fn a_fixed_rate_is_half_of_what_the_slowest_did_with_the_same_requests() {
        let (eight, one) = (
            Workload::Requests { connections: 8, body: 64 },
            Workload::Requests { connections: 1, body: 64 },
        );
        let paced = Workload::Paced { connections: 8, body: 64 };
        let rows =
            [row(eight, Some(1000.0)), row(eight, Some(600.0)), row(eight, None), row(one, Some(10.0))];
        assert_eq!(half_of_slowest(&rows, paced), Some(300.0));
        assert_eq!(half_of_slowest(&rows, eight), None);
        assert_eq!(half_of_slowest(&[], paced), None);
    }
}
