//! Command lines of the documents against the parser that reads them.

use clap::Command;
use clap::error::ErrorKind;

use crate::{commands, of_program, pages};

/// What follows is older than the program, or is a plan.
const PASSED_OVER: [&str; 2] = ["CHANGELOG.md", "docs/design/"];

/// Has a program's own parser read every command line of the documents, and says how many there are: those in fenced blocks whole;
/// of those between backticks the names of commands and options, since they have placeholders. `program`: the words that it is
/// called by.
///
/// # Panics
/// If a page cannot be read, or a command line would not be taken.
#[must_use]
pub fn assert_taken(command: &Command, program: &[&str]) -> usize {
    let pages = pages().unwrap_or_else(|error| panic!("{error}"));
    let (mut seen, mut wrong) = (0, Vec::new());
    for page in pages.iter().filter(|page| !PASSED_OVER.iter().any(|path| page.path.starts_with(path))) {
        for block in page.blocks() {
            for words in of_program(program, &commands(&block.script().unwrap_or_default())) {
                seen += 1;
                if let Err(error) = whole(command, program, &words) {
                    wrong.push(format!("{}:{}: {}: {error}", page.path, block.line, words.join(" ")));
                }
            }
        }
        for (line, text) in page.inline() {
            for words in of_program(program, &commands(&text)) {
                seen += 1;
                if let Err(error) = names(command, words.get(program.len()..).unwrap_or_default()) {
                    wrong.push(format!("{}:{line}: {text}: {error}", page.path));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{} command lines would not be taken:\n{}", wrong.len(), wrong.join("\n"));
    seen
}

fn whole(command: &Command, program: &[&str], words: &[String]) -> Result<(), String> {
    let arguments = words.iter().skip(program.len() - 1);
    match command.clone().try_get_matches_from(arguments) {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => Ok(()),
        Err(error) => Err(error.to_string().lines().next().unwrap_or_default().to_owned()),
    }
}

/// Placeholders are passed over: `[--json]`, `NAME`, `…`, `init|csr`.
fn names(command: &Command, words: &[String]) -> Result<(), String> {
    let mut command = command.clone();
    command.build();
    let mut at = &command;
    for word in words {
        let word = word.trim_matches(['[', ']', '.', ',', '…']);
        if let Some(option) = word.strip_prefix("--").filter(|option| !option.is_empty()) {
            let name = option.split('=').next().unwrap_or_default();
            let known = at.get_arguments().any(|argument| argument.get_long() == Some(name));
            if !known && !["help", "version"].contains(&name) {
                return Err(format!("`{}` has no --{name}", at.get_name()));
            }
        } else if let Some(below) = at.find_subcommand(word) {
            at = below;
        } else if at.has_subcommands()
            && !word.is_empty()
            && word.chars().all(|c| c.is_ascii_lowercase() || c == '-')
        {
            return Err(format!("`{}` has no command {word}", at.get_name()));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Arg;

    use super::*;

    fn program() -> Command {
        let flag = Arg::new("json").long("json").num_args(0);
        let status = Command::new("status").arg(flag).arg(Arg::new("what").required(true));
        Command::new("p").subcommand_required(true).subcommand(status)
    }

    fn words(text: &str) -> Vec<String> {
        text.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_whole_line_is_read_as_the_program_would() {
        assert_eq!(whole(&program(), &["p"], &words("p status x --json")), Ok(()));
        assert_eq!(whole(&program(), &["cargo", "p"], &words("cargo p status --help")), Ok(()));
        for wrong in ["p status", "p status x --jsonn", "p", "p other x"] {
            assert!(whole(&program(), &["p"], &words(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn of_a_line_with_placeholders_the_names_count() {
        for good in ["status [--json]", "status", "status WHAT --json", "…", "help status", "init|csr"] {
            assert_eq!(names(&program(), &words(good)), Ok(()), "{good}");
        }
        for wrong in ["other", "status --jsonn", "--json status"] {
            assert!(names(&program(), &words(wrong)).is_err(), "{wrong}");
        }
    }
}
