//! The same figures by other people's tools.

use super::super::document::{Block, Table};
use super::super::figures::ratio;
use super::super::units;
use crate::result::Run;

/// The chapter.
pub fn blocks(run: &Run) -> Vec<Block> {
    let mut blocks = vec![Block::chapter("Cross-checks")];
    if run.cross_checks.is_empty() {
        blocks.push(Block::paragraph("No figure was measured by another tool."));
        return blocks;
    }
    blocks.push(Block::paragraph(
        "The same figure by our generator and by another tool. The ratio is ours by theirs: the nearer to 1, the \
         better our generator can be trusted.",
    ));
    blocks.extend(super::clock(run));
    let mut table = Table::new(&["System", "What", "Tool", "Unit"], &["Ours", "Theirs", "Ratio"]);
    for check in &run.cross_checks {
        table.push([
            check.system.clone(),
            check.what.clone(),
            check.tool.clone(),
            check.unit.clone(),
            units::number(check.ours),
            units::number(check.theirs),
            ratio(check.ours, check.theirs).map_or_else(|| "–".to_owned(), units::ratio),
        ]);
    }
    blocks.push(Block::Table(table));
    blocks
}
