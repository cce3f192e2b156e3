//! `mtlsd reference DIRECTORY`: the pages under docs/reference/, made of what the code itself goes by, so that they cannot drift.

mod access_log;
mod commands;
mod configuration;
mod keys;
mod metrics;
mod page;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::Path;

use super::CommandError;

/// What makes a page.
type Make = fn() -> Result<String, fmt::Error>;

/// Every page, by the name of its file.
pub const PAGES: [(&str, Make); 4] = [
    ("access-log.md", access_log::page),
    ("commands.md", commands::page),
    ("configuration.md", configuration::page),
    ("metrics.md", metrics::page),
];

/// Writes the pages into a directory, which is made if it is absent.
///
/// # Errors
/// When it cannot be made, or a page cannot be written.
pub fn write(directory: &Path) -> Result<(), CommandError> {
    let unwritable = |source| CommandError::Write { path: directory.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(unwritable)?;
    for (name, page) in PAGES {
        let text = page().map_err(|error| unwritable(std::io::Error::other(error)))?;
        std::fs::write(directory.join(name), text).map_err(unwritable)?;
    }
    Ok(())
}
