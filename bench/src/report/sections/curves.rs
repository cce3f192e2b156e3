//! How cost grows, in numbers.

use super::super::document::{Block, Table};
use super::super::figures::ratio;
use super::super::rows::Role;
use super::super::{text, units};
use crate::result::{Axis, Curve, Point, Run};

/// Every axis, in the order of the report.
pub const AXES: [Axis; 3] = [Axis::Workloads, Axis::Rules, Axis::Connections];

/// What grows, for people.
pub fn name(axis: Axis) -> &'static str {
    match axis {
        Axis::Workloads => "enrolled workloads of a node",
        Axis::Rules => "rules of the policy",
        Axis::Connections => "open connections",
    }
}

/// The chapter.
pub fn blocks(run: &Run) -> Vec<Block> {
    let mut blocks = vec![Block::chapter("How cost grows")];
    if run.curves.is_empty() {
        blocks.push(Block::paragraph("Not measured in this run."));
        return blocks;
    }
    blocks.push(Block::paragraph(
        "Medians of one measurement each. “New connection” is from connect() to the first answer; “memory” is that \
         of the system's processes, all together.",
    ));
    blocks.extend(super::clock(run));
    for axis in AXES {
        let curves: Vec<&Curve> = run.curves.iter().filter(|curve| curve.axis == axis).collect();
        if !curves.is_empty() {
            blocks.push(Block::section(format!("By {}", name(axis))));
            blocks.push(Block::Table(table(&curves)));
        }
    }
    blocks
}

fn table(curves: &[&Curve]) -> Table {
    let mut table = Table::new(&["System"], &["How many", "Request", "New connection", "Memory"]);
    for curve in curves {
        for point in &curve.points {
            let shown = FIGURES.map(|(_, of, show)| of(point).map_or_else(|| "–".to_owned(), show));
            let [request, connection, memory] = shown;
            let count = units::grouped(f64::from(point.x), 0);
            table.push([curve.system.clone(), count, request, connection, memory]);
        }
        if let Some(why) = &curve.failure {
            table.push_reason([curve.system.clone()], format!("ends here: {}", text::reason(why)));
        } else if curve.points.is_empty() {
            table.push_reason([curve.system.clone()], "no points, and no reason");
        }
    }
    table
}

type Figure = (&'static str, fn(&Point) -> Option<f64>, fn(f64) -> String);

const FIGURES: [Figure; 3] = [
    ("request", |point| point.request.map(|value| value as f64), units::duration),
    ("new connection", |point| point.connection.map(|value| value as f64), units::duration),
    ("memory", |point| point.memory, units::bytes),
];

/// Where a curve of mtlsd ended early or is worse than a peer's: for each figure the point at which it is the most.
pub fn losses(run: &Run) -> Vec<String> {
    let of_role = |role| run.curves.iter().filter(move |curve| Role::of(&curve.system) == role);
    let mut all = vec![];
    for ours in of_role(Role::Mtlsd) {
        if let Some(why) = &ours.failure {
            all.push(format!("{}, by {}: ended early: {}", ours.system, name(ours.axis), text::reason(why)));
        }
        for peer in of_role(Role::Peer).filter(|peer| peer.axis == ours.axis) {
            all.extend(FIGURES.iter().filter_map(|figure| loss(ours, peer, figure)));
        }
    }
    all
}

fn loss(ours: &Curve, peer: &Curve, (what, of, show): &Figure) -> Option<String> {
    let at = |x: u32| peer.points.iter().find(|point| point.x == x).and_then(of);
    let both = ours.points.iter().filter_map(|point| Some((point.x, of(point)?, at(point.x)?)));
    let both: Vec<(u32, f64, f64)> = both.collect();
    let lost = both.iter().filter(|(_, our, their)| our > their);
    let quotient = |our: f64, their: f64| ratio(our, their).unwrap_or(f64::INFINITY);
    let worst = lost.clone().max_by(|a, b| quotient(a.1, a.2).total_cmp(&quotient(b.1, b.2)));
    worst.map(|(x, our, their)| {
        format!(
            "{} against {}, {what}, by {}: worse at {} of {}; at {}: {} against {}",
            text::line(&ours.system),
            text::line(&peer.system),
            name(ours.axis),
            lost.count(),
            units::count(both.len(), "point", "points"),
            units::grouped(f64::from(*x), 0),
            show(*our),
            show(*their),
        )
    })
}
