//! The committed eBPF object: how it is built, and how a checkout proves that it is the one its source gives.
//!
//! Whoever builds or installs mtlsd needs no nightly compiler: the object is in the repository, with a record of the
//! source it came from and of the tools that made it.

mod build;
mod record;
mod strip;
mod toolchain;
pub mod wrapper;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Subcommand;

use crate::repo;
use record::Record;

/// The mend that every complaint about the object ends with.
const MEND: &str = "run `cargo xtask ebpf build` and commit mtls-daemon/ebpf/";

/// Build or check the committed eBPF object.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Compile mtls-ebpf with the nightly toolchain; write the object and its record to mtls-daemon/ebpf.
    Build {
        /// The rustup toolchain to use, e.g. `nightly`. Default: the one in the record.
        #[arg(long)]
        toolchain: Option<String>,
    },
    /// Compare source and object with the record; where the recorded tools are installed, rebuild and compare bytes.
    Check,
}

/// Where the object and its record live.
struct Files {
    object: PathBuf,
    record: PathBuf,
}

impl Files {
    fn in_repo(root: &Path) -> Self {
        let dir = root.join("mtls-daemon/ebpf");
        Self { object: dir.join("mtlsd.bpf.o"), record: dir.join("mtlsd.bpf.json") }
    }
}

/// Runs the command.
pub fn run(command: &Command) -> Result<ExitCode> {
    let root = repo::root()?;
    match command {
        Command::Build { toolchain } => build(&root, toolchain.as_deref()),
        Command::Check => check(&root),
    }?;
    Ok(ExitCode::SUCCESS)
}

fn build(root: &Path, wanted: Option<&str>) -> Result<()> {
    let files = Files::in_repo(root);
    let recorded = if files.record.exists() { Some(Record::read(&files.record)?) } else { None };
    let tools = toolchain::choose(wanted, recorded.as_ref().map(|record| &record.tools))?;
    println!("compiling with {} ({}) and {}", tools.name, tools.identity.rustc, tools.identity.bpf_linker);
    let object = build::compile(root, &tools)?;
    let record = Record {
        source_sha256: record::source_hash(root)?,
        object_sha256: record::sha256(&object),
        tools: tools.identity,
    };
    let dir = files.object.parent().context("the object has no directory")?;
    std::fs::create_dir_all(dir).with_context(|| format!("{} cannot be created", dir.display()))?;
    std::fs::write(&files.object, &object)
        .with_context(|| format!("{} cannot be written", files.object.display()))?;
    record.write(&files.record)?;
    println!("wrote {} ({} bytes, SHA-256 {})", files.object.display(), object.len(), record.object_sha256);
    println!("wrote {}", files.record.display());
    Ok(())
}

fn check(root: &Path) -> Result<()> {
    let files = Files::in_repo(root);
    if !files.object.exists() || !files.record.exists() {
        bail!("there is no eBPF object at {}: {MEND}", files.object.display());
    }
    let record = Record::read(&files.record)?;
    let object =
        std::fs::read(&files.object).with_context(|| format!("{} cannot be read", files.object.display()))?;
    record.verify(&record::source_hash(root)?, &record::sha256(&object))?;
    println!("the committed object and the eBPF source both have the hashes in the record");

    match toolchain::find_recorded(&record.tools)? {
        toolchain::Found::Exact(tools) => {
            println!("rebuilding with {} to compare bytes", tools.name);
            let rebuilt = build::compile(root, &tools)?;
            if rebuilt != object {
                bail!(
                    "rebuilding the eBPF source with the recorded tools gives other bytes (SHA-256 {}, recorded {}): {MEND}",
                    record::sha256(&rebuilt),
                    record.object_sha256
                );
            }
            println!(
                "checked: hashes, and a rebuild with the recorded tools gives the same {} bytes",
                object.len()
            );
        }
        toolchain::Found::No(why) => {
            println!("checked: hashes only; not rebuilt, because {why}");
        }
    }
    Ok(())
}
