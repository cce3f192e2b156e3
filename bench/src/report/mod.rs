//! The report of a run, for people: Markdown and HTML of one document, and its plots as SVG files.

pub mod against;
mod compare;
mod document;
mod figures;
mod html;
mod input;
mod markdown;
mod measure;
mod plots;
mod rows;
mod sections;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
mod text;
mod units;

use std::fs;
use std::path::Path;

use anyhow::{Context as _, Result};

use crate::result::Run;
use document::Block;

/// Writes the report of the run in a file into a directory.
pub fn write(run: &Path, directory: &Path) -> Result<()> {
    write_run(&input::read(run)?, directory)
}

/// Writes `report.md`, `report.html` and the plots of a run into a directory, which is made if it is not there.
pub fn write_run(run: &Run, directory: &Path) -> Result<()> {
    fs::create_dir_all(directory).with_context(|| {
        format!(
            "cannot make the directory {}: name one that you may write to, and no file's name",
            directory.display()
        )
    })?;
    let document = sections::document(run)?;
    for block in &document.blocks {
        if let Block::Plot(plot) = block {
            put(directory, &plot.file, &plot.svg)?;
        }
    }
    put(directory, "report.md", &markdown::render(&document))?;
    put(directory, "report.html", &html::render(&document))
}

fn put(directory: &Path, name: &str, content: &str) -> Result<()> {
    let path = directory.join(name);
    fs::write(&path, content).with_context(|| {
        format!("cannot write {}: free the disk or the name, or give another directory", path.display())
    })
}
