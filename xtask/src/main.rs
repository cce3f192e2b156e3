//! mtlsd's own commands: set up a machine, build, test, show and check the project.
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod bench;
mod ci;
mod demo;
mod deny;
mod digest;
mod ebpf;
mod fuzz;
mod image;
mod manifests;
mod package;
mod repo;
mod run;
mod setup;
mod testing;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, test and show mtlsd.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Set the machine up if need be, build, and run the demonstration.
    Demo(demo::Args),
    /// Set the machine up if need be, build, and run every test.
    Test(testing::Args),
    /// Set the machine up if need be, build, and measure mtlsd against plain TCP and other proxies
    Bench(bench::Args),
    /// Run a command on another kernel, in a virtual machine.
    Vm(vm::Args),
    /// Build or check the committed eBPF object.
    #[command(subcommand)]
    Ebpf(ebpf::Command),
    /// Check the dependencies: licences, sources, banned and outdated crates (deny.toml).
    Deny,
    /// Build mtlsd with optimisation and make a Debian package of it.
    Package(package::Args),
    /// Build mtlsd statically, and make a container image of nothing else; prints its size and its bill of materials.
    Image(image::Args),
    /// Make the plain manifests of the Kubernetes chart.
    Manifests,
    /// Throw hostile bytes at the parsers, each for a bounded time, from the committed corpus.
    Fuzz(fuzz::Args),
    /// Everything that CI runs, with the time each step took.
    Ci(ci::Args),
}

fn main() -> ExitCode {
    // `cargo xtask ebpf build` names this very program as cargo's compiler wrapper.
    if ebpf::wrapper::is_wrapper() {
        return ebpf::wrapper::main();
    }
    let outcome = match Cli::parse().command {
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => testing::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Vm(args) => vm::run(&args),
        Task::Ebpf(command) => ebpf::run(&command),
        Task::Deny => deny::run(),
        Task::Package(args) => package::run(&args),
        Task::Image(args) => image::run(&args),
        Task::Manifests => manifests::run(),
        Task::Fuzz(args) => fuzz::run(&args),
        Task::Ci(args) => ci::run(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn every_command_line_of_the_documents_is_taken() {
        let seen = mtls_documents::assert_taken(&super::Cli::command(), &["cargo", "xtask"]);
        assert!(seen > 50, "only {seen} were found");
        println!("{seen} command lines");
    }
}
