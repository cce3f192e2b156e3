//! What a system does for a request.

use super::super::document::{Block, Table};
use crate::result::Run;

/// The chapter; none where nothing was counted.
pub fn blocks(run: &Run) -> Vec<Block> {
    if run.work.is_empty() {
        return Vec::new();
    }
    let text = "System calls and context switches of all threads of a system's processes, counted by the kernel while one \
                connection was asked again and again, and in the same time without a request.";
    let mut table = Table::new(
        &["System"],
        &["Requests", "System calls", "Context switches", "System calls without", "Context switches without"],
    );
    let calls = |count: Option<u64>| count.map_or_else(|| "–".to_owned(), |count| count.to_string());
    for work in &run.work {
        table.push([
            work.system.clone(),
            work.requests.to_string(),
            calls(work.syscalls),
            work.switches.to_string(),
            calls(work.resting_syscalls),
            work.resting_switches.to_string(),
        ]);
    }
    vec![Block::chapter("Work for a request"), Block::paragraph(text), Block::Table(table)]
}
