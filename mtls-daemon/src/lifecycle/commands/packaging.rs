//! What a package brings along, made from the definition of the command line: completions and man pages.

use std::io::Write;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use super::CommandError;
use crate::control::cli::Cli;

/// `mtlsd completions SHELL`.
///
/// # Errors
/// When they cannot be printed.
pub fn completions(shell: Shell, out: &mut impl Write) -> Result<(), CommandError> {
    // It panics where it cannot write.
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "mtlsd", &mut text);
    out.write_all(&text)?;
    Ok(())
}

/// `mtlsd man DIRECTORY`: a page for mtlsd and for each of its commands.
///
/// # Errors
/// When the directory cannot be made, or a page cannot be written.
pub fn man(directory: &Path) -> Result<(), CommandError> {
    let unwritable = |source| CommandError::Write { path: directory.to_owned(), source };
    std::fs::create_dir_all(directory).map_err(unwritable)?;
    clap_mangen::generate_to(Cli::command(), directory).map_err(unwritable)
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Files, printed};
    use super::*;

    /// Those that people see.
    fn commands(of: &clap::Command, prefix: &str, found: &mut Vec<String>) {
        for command in of.get_subcommands().filter(|command| !command.is_hide_set()) {
            let name = format!("{prefix}-{}", command.get_name());
            commands(command, &name, found);
            found.push(name);
        }
    }

    #[test]
    fn each_shell_completes_each_command() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let (text, result) = printed(|out| completions(shell, out));
            result.unwrap();
            for word in ["diagnose", "rollout", "socket", "uninstall"] {
                assert!(text.contains(word), "{shell}: {word}");
            }
        }
    }

    #[test]
    fn each_command_has_a_page_that_names_its_options() {
        let files = Files::new();
        let directory = files.path("man/man1");
        man(&directory).unwrap();
        let mut wanted = vec!["mtlsd".to_owned()];
        commands(&Cli::command(), "mtlsd", &mut wanted);
        for name in &wanted {
            let page = std::fs::read_to_string(directory.join(format!("{name}.1"))).unwrap();
            assert!(page.starts_with(".ie") || page.contains(".TH"), "{name}: {page}");
        }
        let page = std::fs::read_to_string(directory.join("mtlsd-ca-issue.1")).unwrap();
        assert!(page.contains("directory"), "{page}");
        assert!(!directory.join("mtlsd-man.1").exists(), "hidden commands have none");
        let written = std::fs::read_dir(&directory).unwrap().count();
        assert_eq!(written, wanted.len(), "no page of a command that is not there");
    }

    #[test]
    fn a_directory_that_cannot_be_is_named() {
        let error = man(Path::new("/proc/mtlsd")).unwrap_err().to_string();
        assert!(error.contains("/proc/mtlsd") && error.contains("choose another directory"), "{error}");
    }
}
