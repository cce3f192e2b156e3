//! `cargo xtask deny`: the supply-chain rules of deny.toml, checked from cargo's own metadata, offline.
//!
//! It understands the part of cargo-deny's format that deny.toml uses and refuses the rest, so that nothing in the file
//! is silently without effect. Advisories need cargo-deny and GitHub; it runs in addition where it is installed.

mod config;
pub mod graph;
mod rules;
mod spdx;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::repo;
use crate::run::{Cmd, find_program};
use config::Config;
use graph::Graph;

/// Checks the workspace's and the eBPF programs' dependencies.
pub fn run() -> Result<ExitCode> {
    let root = repo::root()?;
    let config = Config::read(&root.join("deny.toml"))?;
    let mut violations = 0;
    for manifest in ["Cargo.toml", "mtls-ebpf/Cargo.toml"] {
        violations += check(&root, manifest, &config)?;
    }
    if violations > 0 {
        println!("{violations} rules of deny.toml are broken");
        return Ok(ExitCode::FAILURE);
    }
    cargo_deny(&root)
}

fn check(root: &Path, manifest: &str, config: &Config) -> Result<usize> {
    let mut packages = 0;
    let mut violations = Vec::new();
    for target in &config.graph.targets {
        let graph =
            Graph::load(root, manifest, target).with_context(|| format!("the dependencies of {manifest}"))?;
        packages = packages.max(graph.packages.len());
        violations.extend(rules::check(config, &graph, root));
    }
    violations.sort();
    violations.dedup();
    for violation in &violations {
        println!("{manifest}: {violation}");
    }
    println!(
        "{manifest}: {packages} packages on {}: licences, sources, banned crates and versions checked",
        config.graph.targets.join(", ")
    );
    Ok(violations.len())
}

fn cargo_deny(root: &Path) -> Result<ExitCode> {
    if find_program("cargo-deny").is_none() {
        println!(
            "cargo-deny is not installed: advisories and yanked versions were not checked (docs/development.md)"
        );
        return Ok(ExitCode::SUCCESS);
    }
    Cmd::cargo(root).args(["deny", "--workspace", "check"]).run()?;
    Ok(ExitCode::SUCCESS)
}
