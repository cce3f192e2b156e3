//! One measurement of one system.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mtls_tests::{Cmd, Process, slow};

use super::plan::Plan;
use super::wrk;
use crate::load::{READY, Told};
use crate::machine;
use crate::result::{Memory, Round, Workload};
use crate::systems::{Running, server};

/// What a load generator may take beyond its time, seconds: connections that hang, a slow machine.
const PATIENCE: u64 = 120;
const GIB: f64 = 1_073_741_824.0;
/// For what closed connections bound to be given back before the next ones are counted.
pub const SETTLE: Duration = Duration::from_secs(1);
/// For systems that give something back when nobody speaks.
const REST: Duration = Duration::from_secs(5);
/// Connections that are opened and closed before idle ones are counted.
const FIRST: u32 = 32;

/// Measures.
///
/// # Errors
/// When the load generator could not do its work at all, or connections went another way than this system's.
pub fn measure(system: &Running, workload: Workload, plan: &Plan, rate: Option<f64>) -> Result<Round> {
    system.checked(|| unchecked(system, workload, plan, rate))
}

fn unchecked(system: &Running, workload: Workload, plan: &Plan, rate: Option<f64>) -> Result<Round> {
    let target = |verb: &str, path: String| {
        let command = generator(system)?.args([verb, &system.address().to_string(), &path]);
        let seconds = plan.seconds();
        let command =
            command.args(["--seconds", &seconds.to_string(), "--warm-up", &plan.warm_up().to_string()]);
        Ok::<_, anyhow::Error>(command.limit(Duration::from_secs_f64(seconds) + patience()))
    };
    match workload {
        Workload::Requests { connections, body } => {
            let command = target("requests", server::path(body.into())?)?;
            let told = told(command.args(["--connections", &connections.to_string()]))?;
            Ok(round(told, 1e6))
        }
        Workload::Paced { connections, body } => {
            let rate =
                rate.context("no system has answered such requests, so that there is no rate for all")?;
            let command = target("paced", server::path(body.into())?)?;
            let command =
                command.args(["--connections", &connections.to_string(), "--rate", &rate.to_string()]);
            Ok(Round { offered_per_second: Some(rate), ..round(told(command)?, 1e6) })
        }
        Workload::Throughput { streams } => {
            let command = target("stream", server::stream())?;
            let told = told(command.args(["--streams", &streams.to_string()]))?;
            Ok(Round { latency: None, ..round(told, GIB) })
        }
        Workload::Download { bytes } => {
            let told =
                told(target("download", server::path(bytes.into())?)?.args(["--bytes", &bytes.to_string()]))?;
            Ok(round(told, GIB))
        }
        Workload::NewConnections { parallel } => {
            let command = target("connect", server::path(64)?)?;
            let told = told(command.args(["--parallel", &parallel.to_string()]))?;
            Ok(round(told, 1e6))
        }
        Workload::Wrk { connections } => wrk::requests(system, connections, plan),
        Workload::Idle { connections } => idle(system, connections),
    }
}

/// Our own program, in the client's pod.
///
/// # Errors
/// When it is not there.
pub fn generator(system: &Running) -> Result<Cmd> {
    let own = std::env::current_exe().context("the benchmark's own program")?;
    Ok(system.world.web().cmd(own).arg("load"))
}

fn told(command: Cmd) -> Result<Told> {
    let output = command.run();
    if output.code != Some(0) {
        bail!("{}", output.stderr.trim());
    }
    let told: Told = serde_json::from_slice(&output.stdout).context("what the load generator printed")?;
    match told.first_error {
        Some(error) if told.count == 0 => bail!("{error}"),
        _ => Ok(told),
    }
}

/// `unit`: seconds of CPU for one are multiplied by this.
fn round(told: Told, unit: f64) -> Round {
    // Counts are far below what a double holds exactly.
    #[allow(clippy::cast_precision_loss)]
    let count = told.count as f64;
    Round {
        per_second: Some(count / told.seconds),
        offered_per_second: None,
        cpu: (count > 0.0).then(|| told.cpu_seconds / count * unit),
        latency: told.latency,
        memory: None,
        errors: told.errors,
    }
}

fn idle(system: &Running, connections: u32) -> Result<Round> {
    // What the first ones need once and for all is not to be counted as theirs.
    Held::open(system, FIRST)?.close();
    std::thread::sleep(REST);
    let (resident, used) = (system.resident()?, machine::used()?);
    let held = Held::open(system, connections)?;
    std::thread::sleep(REST);
    let per = |before: f64, after: f64| (after - before) / f64::from(connections);
    let memory = Memory {
        processes: per(resident, system.resident()?),
        machine: per(used, machine::used()?),
        resting: resident,
    };
    held.close();
    Ok(Round { memory: Some(memory), ..Round::default() })
}

/// Connections that stand open.
pub struct Held(Process);

impl Held {
    /// Opens them, each with one request.
    ///
    /// # Errors
    /// When they are not open in time.
    pub fn open(system: &Running, connections: u32) -> Result<Self> {
        let command = generator(system)?.args(["idle", &system.address().to_string(), &server::path(64)?]);
        let mut client = command.args(["--connections", &connections.to_string()]).piped().spawn().quiet();
        let opened = catch_unwind(AssertUnwindSafe(|| client.wait_long_for(READY, patience())));
        if opened.is_err() {
            bail!(
                "{connections} connections were not open within {:?}: {}",
                patience(),
                client.stderr().trim()
            );
        }
        std::thread::sleep(SETTLE);
        Ok(Self(client))
    }

    /// Closes them, and waits until they are.
    pub fn close(mut self) {
        self.0.close_stdin();
        let _ = self.0.ends_within(patience());
    }
}

/// What is waited for, at most.
#[must_use]
pub fn patience() -> Duration {
    slow::limit(PATIENCE)
}

/// For the progress line.
#[must_use]
pub fn summary(round: &Round) -> String {
    let mut parts = Vec::new();
    if let Some(rate) = round.per_second {
        parts.push(format!("{rate:.0}/s"));
    }
    if let Some(latency) = &round.latency {
        parts.push(format!("p50 {} µs, p99 {} µs", latency.p50 / 1000, latency.p99 / 1000));
    }
    if let Some(memory) = round.memory {
        parts.push(format!(
            "{:.0} bytes a connection, {:.0} with the kernel",
            memory.processes, memory.machine
        ));
    }
    if round.errors > 0 {
        parts.push(format!("{} failed", round.errors));
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_for_one() {
        let told =
            Told { count: 1000, seconds: 2.0, errors: 3, first_error: None, latency: None, cpu_seconds: 0.1 };
        let figures = round(told, 1e6);
        assert_eq!(figures.per_second, Some(500.0));
        assert_eq!(figures.cpu.map(f64::round), Some(100.0));
        assert_eq!(figures.errors, 3);
        assert_eq!(summary(&figures), "500/s, 3 failed");
    }

    #[test]
    fn nothing_done_is_no_cpu_for_one() {
        let told =
            Told { count: 0, seconds: 1.0, errors: 0, first_error: None, latency: None, cpu_seconds: 1.0 };
        assert_eq!(round(told, 1e6).cpu, None);
    }
}
