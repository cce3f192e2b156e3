//! `mtls-bench`: mtlsd measured against plain TCP and against the meshes. `cargo xtask bench` sets the machine up and runs it.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod load;
mod machine;
mod report;
mod result;
mod run;
mod syscalls;
mod systems;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "mtls-bench", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Measure.
    Run(run::Options),
    /// Generate load and print what came of it.
    #[command(subcommand)]
    Load(load::Load),
    /// Print how a change stands against its base in a run that measured both.
    Against {
        /// What `run --json` wrote.
        run: PathBuf,
    },
    /// Write the report of a run as Markdown and HTML with its plots.
    Report {
        /// What `run --json` wrote.
        run: PathBuf,
        /// Where the report goes; made if it is not there.
        directory: PathBuf,
    },
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().task {
        Task::Run(options) => run::run(&options),
        Task::Load(load) => load::run(load),
        Task::Against { run } => report::against::print(&run),
        Task::Report { run, directory } => report::write(&run, &directory),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
