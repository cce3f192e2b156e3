//! The same figures by wrk and iperf3: if they disagree with ours, ours are wrong.

use anyhow::{Context, Result, bail};

use super::measure::measure;
use super::plan::Plan;
use crate::result::{CrossCheck, Workload};
use crate::systems::{Kind, Running};

/// Where iperf3 listens.
const IPERF: u16 = 5201;

/// A tool's name, its unit, what it measures, and how.
type Tool = (&'static str, &'static str, Workload, fn(&Plan, &Running) -> Result<f64>);

/// Times that both measure, by turns: what else the machine does meanwhile hits both.
const TURNS: u32 = 3;

/// What could be checked; what could not is said on standard error.
pub fn run(plan: &Plan, running: &[Running]) -> Vec<CrossCheck> {
    let mut checks = Vec::new();
    for system in running.iter().filter(|system| matches!(system.kind, Kind::Plain | Kind::RelayUserspace)) {
        let tools: [Tool; 2] = [
            ("wrk", "requests/s", Workload::Requests { connections: 8, body: 64 }, wrk),
            ("iperf3", "bytes/s", Workload::Throughput { streams: 1 }, iperf3),
        ];
        for (tool, unit, workload, theirs) in tools {
            let ours = || measure(system, workload, plan, None)?.per_second.context("we measured nothing");
            match by_turns(ours, || theirs(plan, system)) {
                Ok((ours, theirs)) => {
                    eprintln!(
                        "cross-check of {}, {workload}: {ours:.0} by us, {theirs:.0} by {tool}",
                        system.kind
                    );
                    checks.push(CrossCheck {
                        system: system.kind.name().into(),
                        what: workload.to_string(),
                        tool: tool.into(),
                        unit: unit.into(),
                        ours,
                        theirs,
                    });
                }
                Err(error) => eprintln!("no cross-check of {} by {tool}: {error:#}", system.kind),
            }
        }
    }
    checks
}

/// The medians.
fn by_turns(ours: impl Fn() -> Result<f64>, theirs: impl Fn() -> Result<f64>) -> Result<(f64, f64)> {
    let (mut our, mut their) = (Vec::new(), Vec::new());
    for _ in 0..TURNS {
        our.push(ours()?);
        their.push(theirs()?);
    }
    let median = |mut all: Vec<f64>| {
        all.sort_by(f64::total_cmp);
        all.get(all.len() / 2).copied().context("nothing was measured")
    };
    Ok((median(our)?, median(their)?))
}

/// wrk and iperf3 know whole seconds only.
pub(super) fn seconds(plan: &Plan) -> String {
    format!("{:.0}", plan.seconds().ceil())
}

fn wrk(plan: &Plan, system: &Running) -> Result<f64> {
    super::wrk::requests(system, 8, plan)?.per_second.context("wrk measured nothing")
}

/// From the server to the client, as our streams go.
fn iperf3(plan: &Plan, system: &Running) -> Result<f64> {
    let (web, db) = (system.world.web(), system.world.db());
    let _server = db.spawn(&["iperf3", "-s", "-p", &IPERF.to_string()]).quiet();
    db.wait_port(IPERF);
    let command =
        web.cmd("iperf3").args(["-c", &db.v4.to_string(), "-p", &IPERF.to_string(), "-R", "-J", "-t"]);
    let output = command.arg(seconds(plan)).run();
    if output.code != Some(0) {
        bail!("iperf3 said {output}");
    }
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).context("what iperf3 printed")?;
    let bits = said.pointer("/end/sum_received/bits_per_second").and_then(serde_json::Value::as_f64);
    Ok(bits.context("iperf3 names no rate")? / 8.0)
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};

    use super::*;

    #[test]
    fn both_measure_by_turns_and_the_middle_counts() {
        let order = RefCell::new(String::new());
        let next = Cell::new(0.0);
        let ours = || {
            order.borrow_mut().push('o');
            next.set(next.get() + 1.0);
            Ok(next.get())
        };
        let theirs = || {
            order.borrow_mut().push('t');
            Ok(next.get() * 10.0)
        };
        assert_eq!(by_turns(ours, theirs).unwrap(), (2.0, 20.0));
        assert_eq!(*order.borrow(), "ototot");
        assert!(by_turns(|| Ok(1.0), || anyhow::bail!("no tool")).is_err());
    }
}
