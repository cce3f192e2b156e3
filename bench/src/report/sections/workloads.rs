//! One table for each kind of workload.

use super::super::document::{Block, Column, Line, Table};
use super::super::figures::{Spread, ratio};
use super::super::measure::Measure;
use super::super::rows::{self, Kind};
use super::super::{text, units};
use crate::result::{Row, Run, Workload};

const EXPLANATION: &str = "“min–max” is the range over the rounds. “× plain” is the median divided by that of plain \
    TCP. “CPU” is the time that all processors of the machine were busy, client, server and kernel included; “added \
    CPU” is what is left without plain TCP's. Errors are those of all rounds.";

/// The chapter.
pub fn blocks(run: &Run) -> Vec<Block> {
    let mut blocks = vec![Block::chapter("Figures"), Block::paragraph(EXPLANATION)];
    for kind in Kind::ALL {
        blocks.push(Block::section(title(kind)));
        let workloads = rows::workloads(run, kind);
        if workloads.is_empty() {
            blocks.push(Block::paragraph("Not measured in this run."));
            continue;
        }
        blocks.extend(super::clock(run));
        blocks.push(Block::Table(table(run, kind, &workloads)));
        let remarks = remarks(run, &workloads);
        if !remarks.is_empty() {
            blocks.push(Block::List(remarks));
        }
    }
    blocks
}

fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Requests => "Requests, the next as soon as the last is answered",
        Kind::Paced => "Requests at a fixed rate",
        Kind::Throughput => "Bytes in one direction",
        Kind::Download => "One download, its connection included",
        Kind::NewConnections => "New connections, with full handshakes",
        Kind::Wrk => "Requests by wrk, 64 bytes",
        Kind::Idle => "Idle connections",
    }
}

/// A column of figures.
#[derive(Clone, Copy)]
enum Part {
    Offered,
    Median(Measure),
    Range(Measure),
    OfPlain(Measure),
    Added(Measure),
    Errors,
}

fn parts(kind: Kind) -> Vec<Part> {
    use Measure::{Cpu, Machine, P50, P90, P99, P999, Processes, Rate, Resting};
    use Part::{Added, Errors, Median, OfPlain, Offered, Range};
    match kind {
        Kind::Requests | Kind::Throughput | Kind::Download | Kind::NewConnections | Kind::Wrk => {
            let rate = [Median(Rate), Range(Rate), OfPlain(Rate)].into_iter();
            let latencies = [P50, P90, P99, P999].map(Median);
            rate.chain(latencies).chain([Median(Cpu), Added(Cpu), Errors]).collect()
        }
        Kind::Paced => vec![
            Offered,
            Median(Rate),
            Median(P50),
            Range(P50),
            OfPlain(P50),
            Median(P90),
            Median(P99),
            Range(P99),
            OfPlain(P99),
            Median(P999),
            Median(Cpu),
            Added(Cpu),
            Errors,
        ],
        Kind::Idle => vec![
            Median(Machine),
            Range(Machine),
            OfPlain(Machine),
            Added(Machine),
            Median(Processes),
            Median(Resting),
            Errors,
        ],
    }
}

fn part_title(part: Part, workload: Workload) -> String {
    match part {
        Part::Offered => "offered/s".to_owned(),
        Part::Median(measure) => measure.name(workload).to_owned(),
        Part::Range(measure) if measure == Measure::main(workload) => "min–max".to_owned(),
        Part::Range(measure) => format!("{}, min–max", measure.name(workload)),
        Part::OfPlain(measure) if measure == Measure::main(workload) => "× plain".to_owned(),
        Part::OfPlain(measure) => format!("{}, × plain", measure.name(workload)),
        Part::Added(measure) => format!("added {}", measure.name(workload)),
        Part::Errors => "errors".to_owned(),
    }
}

fn cell(part: Part, row: &Row, plain: Option<&Row>) -> Option<String> {
    let workload = row.workload;
    let both = |measure: Measure| Some((measure.spread(row)?.median, measure.spread(plain?)?.median));
    match part {
        Part::Offered => offered(row).map(|spread| units::number(spread.median)),
        Part::Median(measure) => measure.spread(row).map(|spread| measure.show(workload, spread.median)),
        Part::Range(measure) => measure.spread(row).map(|spread| range(measure, workload, spread)),
        Part::OfPlain(measure) => both(measure).and_then(|(own, plain)| ratio(own, plain)).map(units::ratio),
        Part::Added(_) if plain.is_some_and(|plain| std::ptr::eq(plain, row)) => Some("0".to_owned()),
        Part::Added(measure) => both(measure)
            .map(|(own, plain)| units::signed(own - plain, |value| measure.show(workload, value))),
        Part::Errors => Some(units::grouped(row.rounds.iter().map(|round| round.errors as f64).sum(), 0)),
    }
}

fn offered(row: &Row) -> Option<Spread> {
    Spread::of(row.rounds.iter().filter_map(|round| round.offered_per_second))
}

fn range(measure: Measure, workload: Workload, spread: Spread) -> String {
    let (low, high) = (measure.show(workload, spread.low), measure.show(workload, spread.high));
    if low == high { low } else { format!("{low}–{high}") }
}

fn leads(workload: Workload) -> Vec<(&'static str, String)> {
    let body = |body: u32| ("Body", units::size(body));
    let number = |value: u32| units::grouped(f64::from(value), 0);
    match workload {
        Workload::Requests { connections, body: bytes } | Workload::Paced { connections, body: bytes } => {
            vec![("Connections", number(connections)), body(bytes)]
        }
        Workload::Throughput { streams } => vec![("Streams", number(streams))],
        Workload::Download { bytes } => vec![("Length", units::size(bytes))],
        Workload::NewConnections { parallel } => vec![("At a time", number(parallel))],
        Workload::Wrk { connections } | Workload::Idle { connections } => {
            vec![("Connections", number(connections))]
        }
    }
}

fn table(run: &Run, kind: Kind, workloads: &[Workload]) -> Table {
    let parts = used(run, kind, workloads);
    let mut table = Table::default();
    if let Some(first) = workloads.first() {
        let column = |title: String, number| Column { title, number };
        table.columns = leads(*first).into_iter().map(|(title, _)| column(title.to_owned(), true)).collect();
        table.columns.push(column("System".to_owned(), false));
        table.columns.extend(parts.iter().map(|part| column(part_title(*part, *first), true)));
    }
    for workload in workloads {
        let plain = rows::row(run, "plain", *workload).ok();
        for name in rows::systems(run) {
            let mut cells: Vec<String> = leads(*workload).into_iter().map(|(_, value)| value).collect();
            cells.push(name.to_owned());
            table.rows.push(match rows::row(run, name, *workload) {
                Ok(row) => {
                    let figures = parts.iter().map(|part| cell(*part, row, plain));
                    cells.extend(figures.map(|figure| figure.unwrap_or_else(|| "–".to_owned())));
                    Line { cells, reason: None }
                }
                Err(why) => Line { cells, reason: Some(why) },
            });
        }
    }
    table
}

/// The columns in which anybody has a figure; all of them if nobody has any.
fn used(run: &Run, kind: Kind, workloads: &[Workload]) -> Vec<Part> {
    let has_figure = |part: &Part| {
        workloads.iter().any(|workload| {
            let plain = rows::row(run, "plain", *workload).ok();
            let rows = rows::systems(run).into_iter().filter_map(|name| rows::row(run, name, *workload).ok());
            rows.into_iter().any(|row| cell(*part, row, plain).is_some())
        })
    };
    let all = parts(kind);
    let used: Vec<Part> = all.iter().copied().filter(has_figure).collect();
    if used.is_empty() { all } else { used }
}

/// What the cells cannot say: rounds that are missing, and a rate that was not kept.
fn remarks(run: &Run, workloads: &[Workload]) -> Vec<String> {
    let mut remarks = vec![];
    for workload in workloads {
        for name in rows::systems(run) {
            let Ok(row) = rows::row(run, name, *workload) else { continue };
            let (name, asked) = (text::line(name), run.environment.rounds);
            if u32::try_from(row.rounds.len()).is_ok_and(|rounds| rounds < asked) {
                remarks.push(format!("{name}, {workload}: {} of {asked} rounds.", row.rounds.len()));
            }
            let kept = Measure::Rate
                .spread(row)
                .zip(offered(row))
                .and_then(|(is, due)| ratio(is.median, due.median));
            if let Some(kept) = kept.filter(|kept| *kept < 0.99) {
                remarks
                    .push(format!("{name}, {workload}: kept {} % of the rate.", units::number(kept * 100.0)));
            }
        }
    }
    remarks
}
