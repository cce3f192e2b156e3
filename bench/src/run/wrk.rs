//! Requests by wrk, of one thread and without a pause: the generator of other people's figures.

use std::fs;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::checks::seconds;
use super::plan::Plan;
use crate::result::{Latency, Round};
use crate::systems::{Running, server};

/// Prints the figures in a form of ours, times in microseconds.
const SCRIPT: &str = r#"done = function(summary, latency, requests)
  local errors = summary.errors
  local failed = errors.connect + errors.read + errors.write + errors.status + errors.timeout
  io.write(string.format(
    '\n{"requests":%d,"duration":%d,"failed":%d,"p50":%d,"p90":%d,"p99":%d,"p999":%d,"max":%d}\n',
    summary.requests, summary.duration, failed,
    latency:percentile(50), latency:percentile(90), latency:percentile(99), latency:percentile(99.9), latency.max))
end
"#;

/// What the script prints.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Said {
    requests: u32,
    duration: u32,
    failed: u64,
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

/// Asks for 64 bytes, again and again.
///
/// # Errors
/// When wrk is not there, or got no answer.
pub fn requests(system: &Running, connections: u32, plan: &Plan) -> Result<Round> {
    let web = system.world.web();
    let script = web.files().join("wrk.lua");
    fs::write(&script, SCRIPT).with_context(|| script.display().to_string())?;
    let url = format!("http://{}{}", system.address(), server::path(64)?);
    let wrk = web.cmd("wrk").args(["-t", "1", "-c", &connections.to_string(), "-d", &seconds(plan), "-s"]);
    let output = wrk.arg(script).arg(url).run();
    read(&String::from_utf8_lossy(&output.stdout)).with_context(|| format!("wrk said {output}"))
}

fn read(text: &str) -> Result<Round> {
    let line = text.lines().find(|line| line.starts_with('{')).context("there is no line of the script's")?;
    let said: Said = serde_json::from_str(line)?;
    if said.requests == 0 || said.duration == 0 {
        bail!("nothing was answered, {} failed", said.failed);
    }
    let nanoseconds = |micros: u64| micros.saturating_mul(1000);
    Ok(Round {
        per_second: Some(f64::from(said.requests) / f64::from(said.duration) * 1e6),
        latency: Some(Latency {
            count: said.requests.into(),
            p50: nanoseconds(said.p50),
            p90: nanoseconds(said.p90),
            p99: nanoseconds(said.p99),
            p999: nanoseconds(said.p999),
            max: nanoseconds(said.max),
            curve: Vec::new(),
        }),
        errors: said.failed,
        ..Round::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_wrk_says_becomes_a_round() {
        let text = r#"Running 1s test
Requests/sec:  12000.00

{"requests":12000,"duration":1000000,"failed":2,"p50":84,"p90":90,"p99":98,"p999":120,"max":900}
"#;
        let round = read(text).unwrap();
        assert_eq!((round.per_second, round.errors), (Some(12_000.0), 2));
        let latency = round.latency.unwrap();
        assert_eq!(
            (latency.count, latency.p50, latency.p999, latency.max),
            (12_000, 84_000, 120_000, 900_000)
        );
    }

    #[test]
    fn an_answer_without_figures_and_no_answer_are_errors() {
        assert!(read("unable to connect").is_err());
        let none = r#"{"requests":0,"duration":9,"failed":7,"p50":0,"p90":0,"p99":0,"p999":0,"max":0}"#;
        assert!(read(none).unwrap_err().to_string().contains("7 failed"));
    }
}
