//! How latencies are distributed: the axis that HdrHistogram made usual, on which each nine has the same room.

use anyhow::Result;

use super::super::figures::Spread;
use super::super::units;
use super::canvas::{Canvas, draw};
use super::frame::{BOTTOM, Frame, LEFT, RIGHT, SIZE, TOP};
use super::palette::look;
use super::scale::{Scale, TEN, bounds};
use crate::result::{Latency, Row};

/// Nines that are shown at most: beyond, a single request decides.
const NINES: u32 = 5;
const STEPS_PER_NINE: u32 = 12;

/// Nines before the decimal point of a share, and the latency there.
type Line = Vec<(f64, f64)>;

/// The plot of the rows of one workload; none if nobody has a latency.
pub fn distribution(title: &str, subtitle: &str, rows: &[&Row]) -> Result<Option<String>> {
    let lines: Vec<(&str, Line)> = rows.iter().map(|row| (row.system.as_str(), line(row))).collect();
    let figures = || lines.iter().flat_map(|(_, line)| line);
    let (Some(y), Some((_, most))) =
        (Scale::log(figures().map(|(_, y)| *y), BOTTOM, TOP), bounds(figures().map(|(x, _)| *x)))
    else {
        return Ok(None);
    };
    let x = Scale::linear(0.0, most.max(1.0), LEFT, RIGHT);
    let names = lines.iter().filter(|(_, line)| !line.is_empty());
    let frame = Frame {
        title,
        subtitle,
        x_title: "percentile of the requests (each nine has the same room)",
        x_ticks: percentiles()
            .filter(|(nines, _)| *nines <= most.max(1.0))
            .map(|(nines, label)| (x.at(nines), label))
            .collect(),
        y_ticks: y
            .ticks(TEN)
            .into_iter()
            .map(|tick| (y.at(tick), units::tick(tick, units::duration)))
            .collect(),
        names: names.map(|(name, _)| (look(name), *name)).collect(),
    };
    let paint = |canvas: &Canvas<'_>| {
        frame.draw(canvas)?;
        for (name, line) in &lines {
            let points: Vec<(f64, f64)> =
                line.iter().map(|(nines, latency)| (x.at(*nines), y.at(*latency))).collect();
            canvas.line(&points, look(name).colour)?;
            if let Some(last) = points.last() {
                canvas.marker(*last, look(name))?;
            }
        }
        Ok(())
    };
    draw(title, SIZE, paint).map(Some)
}

fn percentiles() -> impl Iterator<Item = (f64, String)> {
    let labels = ["0 %", "50 %", "90 %", "99 %", "99.9 %", "99.99 %", "99.999 %"];
    let nines = [0.0, nines(0.5), 1.0, 2.0, 3.0, 4.0, 5.0];
    nines.into_iter().zip(labels.map(str::to_owned))
}

/// 0.9 is one, 0.99 is two.
fn nines(share: f64) -> f64 {
    -(1.0 - share).log10()
}

/// At each share the median over the rounds, as in the tables.
fn line(row: &Row) -> Line {
    let latencies: Vec<&Latency> = row.rounds.iter().filter_map(|round| round.latency.as_ref()).collect();
    let is_fine = latencies.iter().all(|latency| !latency.curve.is_empty());
    let shares: Vec<f64> = if is_fine {
        (0..=NINES * STEPS_PER_NINE).map(|step| f64::from(step) / f64::from(STEPS_PER_NINE)).collect()
    } else {
        [0.5, 0.9, 0.99, 0.999].map(nines).into()
    };
    let mut line = vec![];
    for at in shares {
        let values: Vec<f64> =
            latencies.iter().filter_map(|latency| quantile(latency, at, is_fine)).collect();
        // Where a round has no request any more, the median would be of other rounds than before.
        if values.is_empty() || values.len() < latencies.len() {
            break;
        }
        line.extend(
            Spread::of(values).filter(|spread| spread.median > 0.0).map(|spread| (at, spread.median)),
        );
    }
    line
}

/// The latency at a share, unless fewer than one request is beyond it.
fn quantile(latency: &Latency, at: f64, is_fine: bool) -> Option<f64> {
    if !is_fine {
        let known = [(0.5, latency.p50), (0.9, latency.p90), (0.99, latency.p99), (0.999, latency.p999)];
        return known
            .iter()
            .find(|(share, _)| (nines(*share) - at).abs() < 1e-9)
            .map(|(_, value)| *value as f64);
    }
    let beyond = latency.count as f64 * 10_f64.powf(-at);
    if at > 0.0 && beyond < 1.0 - 1e-9 {
        return None;
    }
    let points = || latency.curve.iter().map(|(share, value)| (nines(*share), *value as f64));
    let next = points().find(|(reached, _)| *reached >= at - 1e-9)?;
    let last = points().take_while(|(reached, _)| *reached < at - 1e-9).last();
    Some(between(last, next, at))
}

/// On the line between two points; the last point may stand at all requests, which is infinitely many nines.
fn between(last: Option<(f64, f64)>, (next, value): (f64, f64), at: f64) -> f64 {
    match last {
        Some((before, from)) if next.is_finite() && next > at + 1e-9 => {
            from + (value - from) * (at - before) / (next - before)
        }
        _ => value,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Round, Workload};

    fn row(latencies: Vec<Latency>) -> Row {
        let rounds = latencies.into_iter().map(|l| Round { latency: Some(l), ..Round::default() }).collect();
        let workload = Workload::Paced { connections: 1, body: 0 };
        Row { system: "auto".to_owned(), workload, rounds, failure: None }
    }

    fn latency(factor: u64) -> Latency {
        let curve =
            vec![(0.0, factor), (0.5, 2 * factor), (0.9, 3 * factor), (0.99, 4 * factor), (1.0, 9 * factor)];
        Latency {
            count: 100,
            p50: 2 * factor,
            p90: 3 * factor,
            p99: 4 * factor,
            p999: 9 * factor,
            max: 9 * factor,
            curve,
        }
    }

    #[test]
    fn a_line_is_the_median_and_ends_with_the_last_request() {
        let line = line(&row(vec![latency(10), latency(30), latency(20)]));
        assert_eq!(line.first(), Some(&(0.0, 20.0)));
        assert_eq!(line.last(), Some(&(2.0, 80.0)));
        assert!(line.contains(&(1.0, 60.0)), "{line:?}");
    }

    #[test]
    fn without_a_curve_the_percentiles_are_the_line() {
        let line = line(&row(vec![Latency { curve: vec![], ..latency(10) }]));
        assert_eq!(line.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [20.0, 30.0, 40.0, 90.0]);
    }

    #[test]
    fn few_or_no_points_do_no_harm() {
        let one = Latency { count: 1, curve: vec![(1.0, 5)], ..Latency::default() };
        let svg = distribution("t", "s", &[&row(vec![one])]).unwrap().unwrap();
        assert!(svg.contains("auto"));
        for nothing in [row(vec![]), row(vec![Latency::default()])] {
            assert!(distribution("t", "s", &[&nothing]).unwrap().is_none());
        }
        assert!(distribution("t", "s", &[]).unwrap().is_none());
    }
}
