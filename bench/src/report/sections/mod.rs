//! What the report says, chapter by chapter.

mod checks;
mod curves;
mod environment;
mod losses;
mod pictures;
mod ratios;
mod systems;
mod work;
mod workloads;

use anyhow::Result;

use super::document::{Block, Document};
use crate::result::{Clock, Run};

/// The whole report of a run.
pub fn document(run: &Run) -> Result<Document> {
    let mut blocks = environment::glance(run);
    blocks.extend(environment::blocks(run));
    blocks.extend(systems::blocks(run));
    blocks.extend(workloads::blocks(run));
    blocks.extend(ratios::blocks(run));
    blocks.extend(losses::blocks(run));
    blocks.extend(work::blocks(run));
    blocks.extend(curves::blocks(run));
    blocks.extend(pictures::blocks(run)?);
    blocks.extend(checks::blocks(run));
    Ok(Document { title: "mtlsd measured against plain TCP and other meshes".to_owned(), blocks })
}

/// Stands beside figures whose seconds are none.
fn clock(run: &Run) -> Option<Block> {
    (run.environment.clock == Clock::Instructions).then(|| Block::Note(INSTRUCTIONS.to_owned()))
}

const INSTRUCTIONS: &str = "the times here are not those of a machine. One nanosecond is one instruction of the \
    virtual machine's one processor: it compares designs, not machines.";
