//! Every command with its arguments, out of the command line's own definition.

use std::fmt;

use clap::{Arg, Command, CommandFactory};

use super::page::{Page, code, plain, sentence};
use crate::control::cli::Cli;

const ABOUT: &str = "\
Every command of mtlsd. `mtlsd help COMMAND` and `man mtlsd-COMMAND` say the same. Exit codes of all: 0 it holds, 1 it does not hold or there is no
answer, 2 the command line is wrong. A command that asks the running daemon has `--socket`, which is for root; the others need no daemon.";

const HIDDEN: &str = "For those who package mtlsd; not shown by `mtlsd help`.";

/// A command and those below it, each with its whole name.
pub(super) fn below(command: &Command, name: &str, hidden: bool) -> Vec<(String, Command)> {
    let mut all = Vec::new();
    for one in command.get_subcommands().filter(|one| one.get_name() != "help") {
        let name = format!("{name} {}", one.get_name());
        if !one.has_subcommands() && one.is_hide_set() == hidden {
            all.push((name.clone(), one.clone()));
        }
        all.extend(below(one, &name, hidden));
    }
    all
}

/// The command line, with the names of its commands in their usages.
pub(super) fn whole() -> Command {
    let mut command = Cli::command().term_width(usize::MAX);
    command.build();
    command
}

pub(super) fn page() -> Result<String, fmt::Error> {
    let mut page = Page::new("Reference: commands", ABOUT);
    let whole = whole();
    for (name, command) in below(&whole, "mtlsd", false) {
        page.heading(code(name));
        told(&mut page, command);
    }
    page.heading("For packages");
    page.paragraph(HIDDEN);
    for (name, command) in below(&whole, "mtlsd", true) {
        page.paragraph(&format!("\n**{}**\n", code(name)));
        told(&mut page, command);
    }
    Ok(page.text())
}

/// Its arguments, but for `--help`.
pub(super) fn arguments(command: &Command) -> impl Iterator<Item = &Arg> {
    command.get_arguments().filter(|one| !["help", "version"].contains(&one.get_id().as_str()))
}

/// What a text of clap says; the longer one where there are two.
pub(super) fn about(command: &Command) -> String {
    let text = command.get_long_about().or_else(|| command.get_about());
    plain(&text.map(ToString::to_string).unwrap_or_default())
}

pub(super) fn help(argument: &Arg) -> String {
    let text = argument.get_long_help().or_else(|| argument.get_help());
    plain(&text.map(ToString::to_string).unwrap_or_default())
}

fn told(page: &mut Page, mut command: Command) {
    page.paragraph(&format!("{}\n", sentence(&about(&command))));
    let usage = command.render_usage().to_string();
    page.verbatim(usage.trim_start_matches("Usage: ").trim());
    let rows: Vec<_> = arguments(&command).map(row).collect();
    if !rows.is_empty() {
        page.table(["argument", "default", "meaning"], rows);
    }
}

fn row(argument: &Arg) -> [String; 3] {
    let names: Vec<_> = argument.get_value_names().into_iter().flatten().map(|name| name.as_str()).collect();
    let takes = if argument.get_action().takes_values() { names.join(" ") } else { String::new() };
    let name = match argument.get_long() {
        Some(long) => format!("--{long} {takes}"),
        None => takes,
    };
    let hidden = argument.is_hide_default_value_set();
    let defaults =
        argument.get_default_values().iter().filter(|_| !hidden && argument.get_action().takes_values());
    let defaults: Vec<_> = defaults.map(|value| code(value.to_string_lossy())).collect();
    let values: Vec<_> = argument.get_possible_values().iter().map(|value| code(value.get_name())).collect();
    let choice = if values.is_empty() || !argument.get_action().takes_values() {
        String::new()
    } else {
        format!(" One of {}.", values.join(", "))
    };
    [code(name.trim()), defaults.join(", "), format!("{}{choice}", sentence(&help(argument)))]
}
