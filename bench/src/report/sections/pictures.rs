//! The plots, and a word for each that has no data.

use anyhow::Result;

use super::super::document::{Block, Plot};
use super::super::measure::Measure;
use super::super::plots::{self, Figure, Group, Panel};
use super::super::rows::{self, Kind};
use super::super::units;
use super::curves::{AXES, name};
use crate::result::{Axis, Clock, Curve, Row, Run, Workload};

/// The chapter.
pub fn blocks(run: &Run) -> Result<Vec<Block>> {
    let mut blocks = vec![
        Block::chapter("Plots"),
        Block::paragraph(
            "A system has the same colour and the same mark everywhere. Rows that failed are not shown.",
        ),
    ];
    blocks.extend(super::clock(run));
    let mut missing = vec![];
    let all = bars(run)?.into_iter().chain(distributions(run)?).chain(growths(run)?);
    for (file, title, svg) in all {
        match svg {
            Some(svg) => blocks.push(Block::Plot(Plot { file: format!("{file}.svg"), title, svg })),
            None => missing.push(title),
        }
    }
    if !missing.is_empty() {
        blocks.push(Block::paragraph("Without data, and so without a plot:"));
        blocks.push(Block::List(missing));
    }
    Ok(blocks)
}

/// Name of the file, title, and the plot if there is data.
type Picture = (String, String, Option<String>);

/// Below each title, so that a plot that is copied elsewhere still says it.
fn subtitle(run: &Run, text: &str) -> String {
    match run.environment.clock {
        Clock::Wall => text.to_owned(),
        Clock::Instructions => format!("{text}; 1 ns is 1 instruction: designs, not machines"),
    }
}

fn bars(run: &Run) -> Result<Vec<Picture>> {
    let all: [(&str, &str, &[Kind], Measure); 5] = [
        ("requests", "Requests/s (more is better)", &[Kind::Requests], Measure::Rate),
        (
            "throughput",
            "Throughput in MB/s (more is better)",
            &[Kind::Throughput, Kind::Download],
            Measure::Rate,
        ),
        ("connections", "New connections/s (more is better)", &[Kind::NewConnections], Measure::Rate),
        (
            "cpu",
            "CPU in µs per request, whole machine (less is better)",
            &[Kind::Requests, Kind::Paced],
            Measure::Cpu,
        ),
        (
            "memory",
            "Memory per idle connection, whole machine (less is better)",
            &[Kind::Idle],
            Measure::Machine,
        ),
    ];
    let subtitle = subtitle(run, "median and range over the rounds; every panel has its own axis");
    let draw = |(file, title, kinds, measure): (&str, &str, &[Kind], Measure)| {
        let workloads = kinds.iter().flat_map(|kind| rows::workloads(run, *kind));
        let panels: Vec<Panel> = workloads.map(|workload| panel(run, workload, measure)).collect();
        Ok((format!("bars-{file}"), title.to_owned(), plots::bars(title, &subtitle, &panels)?))
    };
    all.into_iter().map(draw).collect()
}

fn panel(run: &Run, workload: Workload, measure: Measure) -> Panel {
    let figure = |name: &&str| {
        let spread = rows::row(run, name, workload).ok().and_then(|row| measure.spread(row));
        spread.map(|spread| (spread, measure.show(workload, spread.median)))
    };
    let bars = rows::systems(run).into_iter().map(|name| (name.to_owned(), figure(&name)));
    Panel { title: workload.to_string(), bars: bars.collect() }
}

fn distributions(run: &Run) -> Result<Vec<Picture>> {
    let mut all = vec![];
    for workload in [Kind::Requests, Kind::Paced].into_iter().flat_map(|kind| rows::workloads(run, kind)) {
        let file = match workload {
            Workload::Paced { connections, body } => format!("latency-paced-c{connections}-b{body}"),
            Workload::Requests { connections, body } => format!("latency-requests-c{connections}-b{body}"),
            _ => continue,
        };
        let title = format!("Latency: {workload}");
        let rows: Vec<&Row> =
            rows::systems(run).into_iter().filter_map(|name| rows::row(run, name, workload).ok()).collect();
        let svg =
            plots::distribution(&title, &subtitle(run, "median over the rounds; less is better"), &rows)?;
        all.push((file, title, svg));
    }
    Ok(all)
}

const LATENCIES: Group<'static> = Group {
    figures: &[
        Figure { of: |point| point.request.map(|value| value as f64), is_dashed: false },
        Figure { of: |point| point.connection.map(|value| value as f64), is_dashed: true },
    ],
    show: units::duration,
    powers: plots::TEN,
};
const MEMORY: Group<'static> = Group {
    figures: &[Figure { of: |point| point.memory, is_dashed: false }],
    show: units::bytes,
    powers: plots::KIBI,
};

fn growths(run: &Run) -> Result<Vec<Picture>> {
    let mut all = vec![];
    for axis in AXES {
        let curves: Vec<&Curve> = run.curves.iter().filter(|curve| curve.axis == axis).collect();
        if curves.is_empty() {
            continue;
        }
        let file = match axis {
            Axis::Workloads => "workloads",
            Axis::Rules => "rules",
            Axis::Connections => "connections",
        };
        let latency = format!("Latency by {}", name(axis));
        let below = subtitle(run, "line: a request; dashes: connect() to the first answer; less is better");
        let svg = plots::growth(&latency, &below, name(axis), &curves, &LATENCIES)?;
        all.push((format!("curve-{file}-latency"), latency, svg));
        let memory = format!("Memory by {}", name(axis));
        let below = subtitle(run, "resident memory of the system's processes, all together; less is better");
        let svg = plots::growth(&memory, &below, name(axis), &curves, &MEMORY)?;
        all.push((format!("curve-{file}-memory"), memory, svg));
    }
    Ok(all)
}
