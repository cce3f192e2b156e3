//! Each datapath of mtlsd against each peer.

use super::super::compare::{advantage, best};
use super::super::document::{Block, Line, Table};
use super::super::measure::Measure;
use super::super::rows::{self, Kind, Role};
use super::super::units;
use crate::result::{Row, Run, Workload};

const MEASURES: [Measure; 5] = [Measure::Rate, Measure::P50, Measure::P99, Measure::Cpu, Measure::Machine];

const EXPLANATION: &str = "How many times better mtlsd is than a peer: above 1 it is better, below 1 it is worse. The \
    rate is mtlsd's by the peer's; latencies, CPU and memory are the peer's by mtlsd's. “Best” is the datapath with \
    the best rate, at a fixed rate with the best p99, of idle connections with the least memory. It is picked after \
    the measurement, which flatters mtlsd a little, so every datapath has its row. At a fixed rate the rates are the \
    same for all who keep up.";

/// The chapter.
pub fn blocks(run: &Run) -> Vec<Block> {
    let (ours, peers) = (rows::with_role(run, Role::Mtlsd), rows::with_role(run, Role::Peer));
    let mut blocks = vec![Block::chapter("Ratios")];
    if ours.is_empty() || peers.is_empty() {
        blocks.push(Block::paragraph("There is nothing to compare: the run lacks mtlsd or a peer."));
        return blocks;
    }
    blocks.push(Block::paragraph(EXPLANATION));
    blocks.extend(super::clock(run));
    for peer in peers {
        let title = rows::system(run, peer).map_or(peer, |system| system.title.as_str());
        blocks.push(Block::section(format!("Against {title}")));
        let table = table(run, &ours, peer);
        blocks.push(if table.rows.is_empty() {
            Block::paragraph("There are no rows.")
        } else {
            Block::Table(table)
        });
    }
    blocks
}

fn table(run: &Run, ours: &[&str], peer: &str) -> Table {
    let mut table = Table::new(&["Workload", "Datapath"], &["Rate", "p50", "p99", "CPU", "Memory"]);
    for workload in Kind::ALL.into_iter().flat_map(|kind| rows::workloads(run, kind)) {
        let their = match rows::row(run, peer, workload) {
            Ok(row) => row,
            Err(why) => {
                table.push_reason([workload.to_string(), "all".to_owned()], format!("{peer}: {why}"));
                continue;
            }
        };
        let best = best(run, workload);
        let mut names = ours.to_vec();
        names.sort_by_key(|name| Some(*name) != best);
        for name in names {
            let datapath = format!("{name}{}", if Some(name) == best { " (best)" } else { "" });
            match rows::row(run, name, workload) {
                Ok(row) => table.rows.push(line(workload, datapath, row, their)),
                Err(why) => table.push_reason([workload.to_string(), datapath], why),
            }
        }
    }
    table
}

fn line(workload: Workload, datapath: String, our: &Row, their: &Row) -> Line {
    let figures = MEASURES.map(|measure| {
        let ratio = measure.spread(our).zip(measure.spread(their));
        let ratio = ratio.and_then(|(our, their)| advantage(measure, our, their));
        ratio.map_or_else(|| "–".to_owned(), units::ratio)
    });
    Line { cells: [workload.to_string(), datapath].into_iter().chain(figures).collect(), reason: None }
}
