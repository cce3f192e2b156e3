//! The same figures by wrk and iperf3: if they disagree with ours, ours are wrong.

use anyhow::{Context, Result, bail};

use super::plan::Plan;
use crate::result::{CrossCheck, Row, Workload};
use crate::systems::{Kind, Running, server};

/// Where iperf3 listens.
const IPERF: u16 = 5201;

/// What could be checked; what could not is said on standard error.
pub fn run(plan: &Plan, running: &[Running], rows: &[Row]) -> Vec<CrossCheck> {
    let mut checks = Vec::new();
    for system in running.iter().filter(|system| matches!(system.kind, Kind::Plain | Kind::RelayUserspace)) {
        let tried = [
            ("wrk", "requests/s", Workload::Requests { connections: 8, body: 64 }, wrk(plan, system)),
            ("iperf3", "bytes/s", Workload::Throughput { streams: 1 }, iperf3(plan, system)),
        ];
        for (tool, unit, workload, theirs) in tried {
            let row = rows.iter().find(|row| row.system == system.kind.name() && row.workload == workload);
            let ours = row.and_then(|row| row.rounds.last()?.per_second);
            match (theirs, ours) {
                (Ok(theirs), Some(ours)) => checks.push(CrossCheck {
                    system: system.kind.name().into(),
                    what: workload.to_string(),
                    tool: tool.into(),
                    unit: unit.into(),
                    ours,
                    theirs,
                }),
                (Err(error), _) => eprintln!("no cross-check of {} by {tool}: {error:#}", system.kind),
                (Ok(_), None) => {
                    eprintln!("no cross-check of {} by {tool}: there is no figure of ours", system.kind)
                }
            }
        }
    }
    checks
}

fn seconds(plan: &Plan) -> String {
    format!("{:.0}", plan.seconds().ceil())
}

fn wrk(plan: &Plan, system: &Running) -> Result<f64> {
    let url = format!("http://{}{}", system.address(), server::path(64)?);
    let output = system.world.web().cmd("wrk").args(["-t", "1", "-c", "8", "-d", &seconds(plan), &url]).run();
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    line.and_then(|rate| rate.trim().parse().ok()).with_context(|| format!("wrk said {output}"))
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
