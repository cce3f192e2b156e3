//! `mtlsd`: daemon and command line in one.
#![forbid(unsafe_code)]

use std::io::stdout;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use mtls_daemon::control::cli::{Cli, Command, ConfigCommand, EXIT_DOES_NOT_HOLD, EXIT_HOLDS, PolicyCommand};
use mtls_daemon::lifecycle::commands::{self, CommandError};
use mtls_daemon::lifecycle::{self, DaemonError};

/// How long a thread for blocking work waits for more. Each keeps memory, and work that comes now and then keeps all of them alive that
/// have some within this time.
const KEEP_ALIVE: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(file) => daemon_runtime().and_then(|runtime| {
            runtime.block_on(lifecycle::run(&file.config)).map(|()| EXIT_HOLDS).map_err(|e| e.to_string())
        }),
        Command::Ask(ask) => runtime(tokio::runtime::Builder::new_current_thread())
            .and_then(|runtime| runtime.block_on(ask.run(&mut stdout())).map_err(|error| error.to_string())),
        Command::Policy(PolicyCommand::Replay(arguments)) => {
            runtime(tokio::runtime::Builder::new_current_thread()).and_then(|runtime| {
                let replayed = runtime.block_on(commands::replay::run(&arguments, &mut stdout()));
                replayed.map(exit_code).map_err(|error| error.to_string())
            })
        }
        Command::Policy(asked) => {
            commands::policy::run(&asked, &mut stdout()).map(exit_code).map_err(|error| error.to_string())
        }
        other => command(other).map(|()| EXIT_HOLDS).map_err(|error| error.to_string()),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(message) => {
            eprintln!("mtlsd: {message}");
            ExitCode::from(EXIT_DOES_NOT_HOLD)
        }
    }
}

fn exit_code(holds: bool) -> u8 {
    if holds { EXIT_HOLDS } else { EXIT_DOES_NOT_HOLD }
}

fn daemon_runtime() -> Result<tokio::runtime::Runtime, String> {
    mtls_daemon::sys::memory::keep_little();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.thread_keep_alive(KEEP_ALIVE);
    runtime(builder)
}

fn runtime(mut builder: tokio::runtime::Builder) -> Result<tokio::runtime::Runtime, String> {
    builder
        .enable_all()
        .build()
        .map_err(|source| DaemonError::System { what: "start the async runtime", source }.to_string())
}

fn command(command: Command) -> Result<(), CommandError> {
    let out = &mut stdout();
    match command {
        Command::Config(ConfigCommand::Check { config, output }) => {
            commands::check_config(&config.config, output.json, out)
        }
        Command::Config(ConfigCommand::Schema) => commands::print_schema(out),
        Command::Ca(command) => commands::ca::run(&command, out),
        Command::Uninstall(args) => commands::uninstall(&args.config.config, args.output.json, out),
        Command::Completions { shell } => commands::packaging::completions(shell, out),
        Command::Man { directory } => commands::packaging::man(&directory),
        Command::Reference { directory } => commands::reference::write(&directory),
        Command::Run(_) | Command::Ask(_) | Command::Policy(_) => Ok(()),
    }
}
