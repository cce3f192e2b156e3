//! Where and how it was measured, and what went wrong.

use super::super::document::{Block, Table};
use super::super::units::{bytes, count};
use crate::result::{Clock, Run};

/// What a reader has to know before all figures.
pub fn glance(run: &Run) -> Vec<Block> {
    let failed_systems = run.systems.iter().filter(|system| system.failure.is_some()).count();
    let failed_rows = run.rows.iter().filter(|row| row.failure.is_some() || row.rounds.is_empty()).count();
    let mut blocks = vec![Block::paragraph(
        "Bytes between two nodes of one machine, by plain TCP, by mtlsd and by other meshes, measured in one run. \
         Every figure is the median over the rounds; what failed is shown with its reason.",
    )];
    blocks.extend(super::clock(run));
    blocks.push(Block::paragraph(format!(
        "Of {} failed {failed_systems}, of {} failed {failed_rows}.",
        count(run.systems.len(), "system", "systems"),
        count(run.rows.len(), "row", "rows"),
    )));
    blocks
}

/// The chapter.
pub fn blocks(run: &Run) -> Vec<Block> {
    let environment = &run.environment;
    let clock = match environment.clock {
        Clock::Wall => "the machine's",
        Clock::Instructions => "one nanosecond is one instruction of the virtual machine's one processor",
    };
    let mut table = Table::new(&["What", "Value"], &[]);
    let rows = [
        ("Date", environment.date.clone()),
        ("Commit", environment.commit.clone()),
        ("Kernel", environment.kernel.clone()),
        ("Processor", environment.processor.clone()),
        ("CPUs", environment.cpus.to_string()),
        ("Memory", bytes(environment.memory_mib as f64 * 1024.0 * 1024.0)),
        ("Clock", clock.to_owned()),
        ("Rounds", format!("{}, the systems by turns", environment.rounds)),
        ("One measurement", format!("{} s", environment.seconds)),
    ];
    for (what, value) in rows {
        table.push([what.to_owned(), value]);
    }
    let mut blocks = vec![
        Block::chapter("Environment"),
        Block::Table(table),
        Block::paragraph("The command:"),
        Block::Code(vec![environment.command.clone()]),
        Block::section("Versions"),
    ];
    let mut versions = Table::new(&["Program", "Version, as it says itself"], &[]);
    for (program, version) in &environment.versions {
        versions.push([program.clone(), version.clone()]);
    }
    blocks.push(if versions.rows.is_empty() {
        Block::paragraph("The run holds no versions.")
    } else {
        Block::Table(versions)
    });
    if environment.rounds < 2 {
        blocks.push(Block::Note(
            "there was one round, so the spread of the figures is not known: a small difference may be chance."
                .to_owned(),
        ));
    }
    if !environment.notes.is_empty() {
        blocks.push(Block::section("Notes"));
        blocks.push(Block::List(environment.notes.clone()));
    }
    blocks
}
