//! The documents of this repository as data, for tests: pages, fenced blocks, and the commands in them.
#![forbid(unsafe_code)]

mod lines;
#[cfg(test)]
mod links;
mod shell;

use std::io;
use std::path::{Path, PathBuf};

pub use lines::assert_taken;
pub use shell::{chunks, commands, of_program};

/// A page of Markdown.
#[derive(Debug, Clone)]
pub struct Page {
    /// Its path from the top of the repository.
    pub path: String,
    /// What it says.
    pub text: String,
}

/// A fenced block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// The line of the fence that begins it, from 1.
    pub line: usize,
    /// The word behind that fence; empty where there is none.
    pub language: String,
    /// What lies between the fences, without their indentation.
    pub text: String,
}

/// Where pages are, from the top: files and directories with all that is below them.
const PLACES: [&str; 10] = [
    "README.md",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "SECURITY.md",
    "SPECIFICATION.md",
    "bench/README.md",
    "deploy",
    "docs",
    "tests/README.md",
    "vagrant/README.md",
];

/// Every page of the repository that this crate lies in.
///
/// # Errors
/// When one cannot be read.
pub fn pages() -> io::Result<Vec<Page>> {
    let root = root();
    let mut pages = Vec::new();
    for place in PLACES.map(|place| root.join(place)) {
        if place.exists() {
            collect(&root, &place, &mut pages)?;
        }
    }
    pages.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(pages)
}

/// The top of the repository.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn collect(root: &Path, place: &Path, pages: &mut Vec<Page>) -> io::Result<()> {
    if place.is_dir() {
        for entry in std::fs::read_dir(place)? {
            collect(root, &entry?.path(), pages)?;
        }
    } else if place.extension().is_some_and(|extension| extension == "md") {
        let path = place.strip_prefix(root).unwrap_or(place).to_string_lossy().into_owned();
        pages.push(Page { path, text: std::fs::read_to_string(place)? });
    }
    Ok(())
}

impl Page {
    /// Its fenced blocks, in order.
    #[must_use]
    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<(usize, Block)> = None;
        for (number, line) in (1..).zip(self.text.lines()) {
            let fence = line.trim_start().strip_prefix("```");
            match (open.take(), fence) {
                (None, Some(language)) => {
                    let indent = line.len() - line.trim_start().len();
                    let language = language.trim().to_owned();
                    open = Some((indent, Block { line: number, language, text: String::new() }));
                }
                (Some((_, block)), Some(_)) => blocks.push(block),
                (Some((indent, mut block)), None) => {
                    let spaces = line.len() - line.trim_start_matches(' ').len();
                    block.text.push_str(line.get(indent.min(spaces)..).unwrap_or_default());
                    block.text.push('\n');
                    open = Some((indent, block));
                }
                (None, None) => {}
            }
        }
        blocks
    }

    /// What stands between backticks outside of the blocks, with its line.
    #[must_use]
    pub fn inline(&self) -> Vec<(usize, String)> {
        let mut found = Vec::new();
        let mut fenced = false;
        for (number, line) in (1..).zip(self.text.lines()) {
            if line.trim_start().starts_with("```") {
                fenced = !fenced;
            } else if !fenced {
                let code = line.split('`').skip(1).step_by(2);
                found.extend(code.map(|code| (number, code.to_owned())));
            }
        }
        found
    }
}

impl Block {
    /// The commands that a reader is to type; none where the block is something else. Where answers are shown, too (`console`,
    /// `text`), they follow `$ `.
    #[must_use]
    pub fn script(&self) -> Option<String> {
        match self.language.as_str() {
            "sh" | "bash" => Some(self.text.clone()),
            "console" | "text" => {
                let mut script = String::new();
                let mut goes_on = false;
                for line in self.text.lines() {
                    if let Some(line) = line.strip_prefix("$ ").or(goes_on.then_some(line)) {
                        script.push_str(line);
                        script.push('\n');
                        goes_on = line.ends_with('\\');
                    }
                }
                (!script.is_empty()).then_some(script)
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(text: &str) -> Page {
        Page { path: "x.md".into(), text: text.into() }
    }

    #[test]
    fn blocks_have_a_language_a_line_and_no_indentation() {
        let page =
            page("a `b` c\n```sh\none\n```\n1. d\n   ```text\n   two\n     three\n   ```\n```\nfour\n```\n");
        let blocks = page.blocks();
        let all: Vec<_> = blocks.iter().map(|b| (b.line, b.language.as_str(), b.text.as_str())).collect();
        assert_eq!(all, [(2, "sh", "one\n"), (6, "text", "two\n  three\n"), (10, "", "four\n")]);
        assert_eq!(page.inline(), [(1, "b".to_owned())]);
    }

    #[test]
    fn only_what_is_typed_is_a_command() {
        let script = |text: &str| page(text).blocks()[0].script();
        assert_eq!(script("```console\n$ a \\\n  b\nanswer\n$ c\n```"), Some("a \\\n  b\nc\n".into()));
        assert_eq!(script("```sh\na # b\n```"), Some("a # b\n".into()));
        assert_eq!(script("```yaml\na: b\n```"), None);
        assert_eq!(script("```text\nan answer\n```"), None);
    }

    #[test]
    fn the_repository_has_pages() {
        let pages = pages().unwrap();
        for path in ["README.md", "docs/policy.md", "docs/reference/commands.md", "vagrant/README.md"] {
            assert!(pages.iter().any(|page| page.path == path), "{path}");
        }
    }
}
