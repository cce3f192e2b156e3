//! A change against its base: ratios in a few lines, and no verdict.

use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Result, anyhow, bail};

use super::figures::ratio;
use super::measure::Measure;
use super::{input, rows, text, units};
use crate::result::{Clock, Run, Workload};
use crate::systems::{Kind, server};

/// What is compared.
const FIGURES: [(&str, Workload, Measure); 5] = [
    ("p50, 1 connection", Workload::Requests { connections: 1, body: 64 }, Measure::P50),
    ("p99, 1 connection", Workload::Requests { connections: 1, body: 64 }, Measure::P99),
    ("requests/s, 8 connections", Workload::Requests { connections: 8, body: 64 }, Measure::Rate),
    ("MB/s of a download of 8 MiB", Workload::Download { bytes: server::DOWNLOAD }, Measure::Rate),
    ("new connections/s", Workload::NewConnections { parallel: 1 }, Measure::Rate),
];

/// Prints how the change stands against its base in a run that measured both.
///
/// # Errors
/// When a figure of either is missing.
pub fn print(run: &Path) -> Result<()> {
    print!("{}", table(&input::read(run)?)?);
    Ok(())
}

fn table(run: &Run) -> Result<String> {
    let mut table = format!("{:28} {:>10} {:>10} {:>12}\n", "", "base", "change", "change/base");
    for (what, workload, measure) in FIGURES {
        let [base, change] = [
            median(run, Kind::Base, workload, measure)?,
            median(run, Kind::RelayUserspace, workload, measure)?,
        ];
        let show = |value| measure.show(workload, value);
        let by = ratio(change, base).map_or_else(|| "–".to_owned(), units::ratio);
        let better = if measure.grows() { "more is better" } else { "less is better" };
        writeln!(table, "{what:28} {:>10} {:>10} {by:>12}   {better}", show(base), show(change))?;
    }
    table += match run.environment.clock {
        Clock::Instructions => {
            "One nanosecond is one instruction: two runs of the same differ by about 1 %. It compares designs, not machines.\n"
        }
        Clock::Wall => "Measured on the machine's clock: what else runs there is in the figures.\n",
    };
    Ok(table)
}

fn median(run: &Run, kind: Kind, workload: Workload, measure: Measure) -> Result<f64> {
    let name = kind.name();
    if let Some(why) = rows::system(run, name).and_then(|system| system.failure.as_ref()) {
        bail!("{name} did not run, so nothing is compared: {}", text::reason(why));
    }
    let row = rows::row(run, name, workload).map_err(|why| anyhow!("{name}, {workload}: {why}"))?;
    let spread = measure.spread(row);
    spread.map(|spread| spread.median).ok_or_else(|| anyhow!("{name}, {workload}: there is no such figure"))
}

#[cfg(test)]
mod tests {
    use super::super::testing;
    use super::*;

    fn both(change: f64, base: f64) -> Run {
        let mut run = testing::empty();
        for (kind, slowness) in [(Kind::RelayUserspace, change), (Kind::Base, base)] {
            run.systems.push(testing::system(kind.name()));
            run.rows.extend(FIGURES.map(|(_, workload, _)| testing::row(kind.name(), workload, slowness)));
        }
        run
    }

    #[test]
    fn a_change_that_takes_half_as_long_has_half_the_latency_and_twice_the_rate() {
        let table = table(&both(1.0, 2.0)).unwrap();
        let line = |what: &str| table.lines().find(|line| line.starts_with(what)).unwrap().to_owned();
        assert!(line("p50, 1 connection").contains("0.50×   less is better"), "{table}");
        assert!(line("requests/s, 8").contains("2.00×   more is better"), "{table}");
        assert!(line("MB/s").contains("500") && line("MB/s").contains("1,000"), "{table}");
    }

    #[test]
    fn what_was_not_measured_is_an_error_with_its_reason() {
        let mut run = both(1.0, 1.0);
        run.rows[2].failure = Some("the daemon ended".into());
        assert!(table(&run).unwrap_err().to_string().contains("the daemon ended"));
        let mut run = both(1.0, 1.0);
        run.systems[1].failure = Some("no kernel".into());
        assert!(table(&run).unwrap_err().to_string().contains("(base) did not run"), "{run:?}");
        assert!(table(&testing::full()).is_err());
    }
}
