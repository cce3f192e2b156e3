//! `cargo xtask demo`: everything up to the demonstration itself, which is a program of the tests' package.

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::run::{Cmd, heading};
use crate::{repo, setup, testing};

/// Where an administrator's programs are. A PATH that sudo kept from a plain user leaves them out.
const ADMINISTRATORS: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// Arguments for the demonstration.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not pause between the steps
    #[arg(long)]
    fast: bool,
}

/// Sets up, builds, and becomes the demonstration.
pub fn run(args: &Args) -> Result<ExitCode> {
    let root = repo::root()?;
    setup::prepare("cargo xtask demo")?;
    println!("kernel {}, kTLS {}", setup::kernel_release(), setup::ktls());
    let daemon = testing::build_daemon(&root)?;
    heading("building the demonstration");
    Cmd::cargo(&root).args(["build", "--package", "mtls-tests", "--bin", "demo"]).run()?;
    let demo = repo::target_dir(&root)?.join("debug/demo");
    heading("the demonstration");
    let path = with_administrators(std::env::var_os("PATH").unwrap_or_default())?;
    let cmd = Cmd::new(&demo.to_string_lossy()).args(args.fast.then_some("--fast"));
    let cmd = cmd.env("MTLSD_BIN", &daemon).env("PATH", path).dir(&root).clean();
    let line = cmd.line();
    // In this process's place: Ctrl-C then reaches the demonstration alone, and the prompt returns when it has
    // cleaned up.
    let error = cmd.into_inner().exec();
    Err(error).with_context(|| format!("`{line}` could not be started"))
}

fn with_administrators(path: OsString) -> Result<OsString> {
    let mut dirs: Vec<PathBuf> = std::env::split_paths(&path).collect();
    for dir in ADMINISTRATORS.map(PathBuf::from) {
        if !dirs.contains(&dir) {
            dirs.push(dir);
        }
    }
    std::env::join_paths(dirs).context("PATH cannot be extended")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_administrators_programs_are_found_last_and_once() {
        let extended = |path: &str| with_administrators(path.into()).unwrap().into_string().unwrap();
        assert_eq!(extended("/usr/bin:/bin"), "/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin");
        assert_eq!(extended("/usr/sbin:/bin"), "/usr/sbin:/bin:/usr/local/sbin:/sbin");
    }
}
