//! Where mtlsd loses: made from the figures, so that nobody has to admit anything.

use super::super::compare::{Duel, Verdict, duels};
use super::super::document::{Block, Table};
use super::super::rows::{self, Kind, Role};
use super::super::units;
use super::curves;
use crate::result::Run;

/// The title of the chapter.
pub const TITLE: &str = "Where mtlsd loses";

const EXPLANATION: &str = "Every figure in which a datapath of mtlsd is worse than a peer by more than the spread: \
    its best round is worse than the peer's worst. Both figures are medians. “Worse by” is the quotient of the two.";

/// The chapter.
pub fn blocks(run: &Run) -> Vec<Block> {
    let duels = duels(run);
    let mut blocks = vec![Block::chapter(TITLE), Block::paragraph(EXPLANATION)];
    blocks.extend(super::clock(run));
    if run.environment.rounds < 2 {
        blocks.push(Block::Note("with one round there is no spread: every difference is listed.".to_owned()));
    }
    let broken = broken(run);
    let lost: Vec<&Duel<'_>> = duels.iter().filter(|duel| duel.verdict() == Verdict::Worse).collect();
    let behind = duels.iter().filter(|duel| duel.verdict() == Verdict::Alike { behind: true }).count();
    if duels.is_empty() {
        blocks.push(Block::paragraph("No figure could be compared."));
    } else {
        blocks.push(Block::Table(score(run, &duels)));
        blocks.push(Block::paragraph(format!(
            "In {behind} of the figures within the spread the median of mtlsd is the worse one; they are not listed."
        )));
    }
    if !duels.is_empty() && lost.is_empty() {
        blocks.push(Block::paragraph(
            "There is none: no figure of a datapath of mtlsd is worse than a peer's by more than the spread.",
        ));
    }
    if !lost.is_empty() {
        blocks.push(Block::Table(table(&lost)));
    }
    if !broken.is_empty() {
        blocks.push(Block::paragraph("Where mtlsd has no figure to be trusted, and a peer has one:"));
        blocks.push(Block::List(broken));
    }
    let growth = curves::losses(run);
    if !growth.is_empty() {
        blocks.push(Block::paragraph("Where mtlsd is worse along a curve; every point was measured once:"));
        blocks.push(Block::List(growth));
    }
    blocks
}

/// How many figures were won and lost.
fn score(run: &Run, duels: &[Duel<'_>]) -> Table {
    let mut table = Table::new(&["Datapath", "Peer"], &["Compared", "Better", "Within the spread", "Worse"]);
    for ours in rows::with_role(run, Role::Mtlsd) {
        for peer in rows::with_role(run, Role::Peer) {
            let verdicts =
                duels.iter().filter(|duel| duel.ours == ours && duel.peer == peer).map(Duel::verdict);
            let verdicts: Vec<Verdict> = verdicts.collect();
            let count =
                |wanted: fn(&Verdict) -> bool| verdicts.iter().filter(|v| wanted(v)).count().to_string();
            table.push([
                ours.to_owned(),
                peer.to_owned(),
                verdicts.len().to_string(),
                count(|verdict| *verdict == Verdict::Better),
                count(|verdict| matches!(verdict, Verdict::Alike { .. })),
                count(|verdict| *verdict == Verdict::Worse),
            ]);
        }
    }
    table
}

fn table(lost: &[&Duel<'_>]) -> Table {
    let mut table =
        Table::new(&["Workload", "Figure", "Datapath", "Peer"], &["mtlsd", "Peer's figure", "Worse by"]);
    for duel in lost {
        let show = |value| duel.measure.show(duel.workload, value);
        table.push([
            duel.workload.to_string(),
            duel.measure.name(duel.workload).to_owned(),
            duel.ours.to_owned(),
            duel.peer.to_owned(),
            show(duel.our.median),
            show(duel.their.median),
            duel.advantage().map_or_else(|| "–".to_owned(), |ratio| units::ratio(1.0 / ratio)),
        ]);
    }
    table
}

fn broken(run: &Run) -> Vec<String> {
    let mut all = vec![];
    for workload in Kind::ALL.into_iter().flat_map(|kind| rows::workloads(run, kind)) {
        let peers: Vec<&str> = rows::with_role(run, Role::Peer)
            .into_iter()
            .filter(|peer| rows::row(run, peer, workload).is_ok())
            .collect();
        for ours in rows::with_role(run, Role::Mtlsd) {
            if let (Err(why), false) = (rows::row(run, ours, workload), peers.is_empty()) {
                all.push(format!("{ours}, {workload}: {why} ({} did it)", peers.join(", ")));
            }
        }
    }
    all
}
