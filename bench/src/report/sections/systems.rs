//! What was measured, and with which commands.

use super::super::document::{Block, Table};
use super::super::text;
use crate::result::Run;

/// The chapter.
pub fn blocks(run: &Run) -> Vec<Block> {
    let mut blocks = vec![Block::chapter("Systems")];
    if run.systems.is_empty() {
        blocks.push(Block::paragraph("The run holds no systems."));
        return blocks;
    }
    let mut table = Table::new(&["System", "Title", "Setting", "On the wire", "Ran"], &[]);
    for system in &run.systems {
        let (name, title) = (system.name.clone(), system.title.clone());
        let wire = match system.readable {
            Some(true) => "readable",
            Some(false) => "sealed",
            None => "–",
        };
        let ran = match &system.failure {
            None => "yes".to_owned(),
            Some(why) => format!("no: {}", text::reason(why)),
        };
        table.push([name, title, system.setting.clone(), wire.to_owned(), ran]);
    }
    blocks.push(Block::Table(table));
    blocks.push(Block::section("Commands"));
    for system in run.systems.iter().filter(|system| !system.commands.is_empty()) {
        blocks.push(Block::paragraph(format!("{} ({}):", system.title, system.name)));
        blocks.push(Block::Code(system.commands.clone()));
    }
    let silent: Vec<&str> = run
        .systems
        .iter()
        .filter(|system| system.commands.is_empty())
        .map(|system| system.name.as_str())
        .collect();
    if !silent.is_empty() {
        blocks.push(Block::paragraph(format!("Nothing was started for: {}.", silent.join(", "))));
    }
    blocks
}
