//! `cargo xtask fuzz`: hostile bytes against the parsers, each for a bounded time, from the committed corpus.
//!
//! With a stable toolchain: coverage comes from LLVM's pass, which needs no nightly flag; of cargo-fuzz's layout, so that
//! `cargo fuzz run TARGET` works too, and adds the address sanitizer.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::repo;
use crate::run::{Cmd, heading};

/// What libFuzzer needs of the compiler.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
                        -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
                        -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares \
                        --cfg fuzzing";
/// Named, so that build scripts and macros are not instrumented.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// Options of the run.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Seconds for each target
    #[arg(long, value_name = "SECONDS", default_value_t = 20)]
    seconds: u32,
    /// Only this target; may be given several times
    #[arg(value_name = "TARGET")]
    only: Vec<String>,
}

/// Builds, and runs one target after the other.
pub fn run(args: &Args) -> Result<ExitCode> {
    let root = repo::root()?;
    let fuzz = root.join("fuzz");
    let targets = targets(&fuzz)?;
    if let Some(unknown) = args.only.iter().find(|name| !targets.contains(name)) {
        bail!("there is no fuzz target {unknown}; there are: {}", targets.join(", "));
    }
    heading("building the fuzz targets");
    let directory = repo::target_dir(&root)?.join("fuzz");
    Cmd::cargo(&fuzz)
        .args(["build", "--release", "--locked", "--target", TARGET, "--target-dir"])
        .arg(&directory)
        .env("RUSTFLAGS", COVERAGE)
        .run()?;
    let mut failed = Vec::new();
    for target in targets.iter().filter(|name| args.only.is_empty() || args.only.contains(name)) {
        heading(&format!("fuzzing {target} for {} s", args.seconds));
        let found = directory.join("found").join(target);
        std::fs::create_dir_all(&found).with_context(|| format!("{} cannot be made", found.display()))?;
        let program = directory.join(TARGET).join("release").join(target);
        if !fuzz_one(&program, &fuzz.join("corpus").join(target), &found, args.seconds)? {
            failed.push(target.as_str());
        }
    }
    if failed.is_empty() {
        println!("fuzzing: {} s for each target, nothing found", args.seconds);
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "fuzzing found something in {}: what it is stands above, the input in {}",
        failed.join(", "),
        directory.display()
    );
    Ok(ExitCode::FAILURE)
}

/// False: the target failed on some input. New inputs go to `found`, not into the committed corpus.
fn fuzz_one(program: &Path, corpus: &Path, found: &Path, seconds: u32) -> Result<bool> {
    let mut artifact = found.as_os_str().to_owned();
    artifact.push("/failed-");
    let status = Cmd::new(&program.to_string_lossy())
        .arg(found)
        .arg(corpus)
        .args([
            format!("-max_total_time={seconds}"),
            format!("-artifact_prefix={}", artifact.to_string_lossy()),
            "-timeout=10".to_owned(),
            "-rss_limit_mb=2048".to_owned(),
            "-max_len=140000".to_owned(),
            "-print_final_stats=1".to_owned(),
            "-verbosity=0".to_owned(),
        ])
        .status()?;
    Ok(status.success())
}

/// The targets are the files; each has a corpus, or it would begin with nothing.
fn targets(fuzz: &Path) -> Result<Vec<String>> {
    let directory = fuzz.join("fuzz_targets");
    let listed = std::fs::read_dir(&directory)
        .with_context(|| format!("{} cannot be read", directory.display()))?
        .collect::<Result<Vec<_>, _>>()?;
    let mut targets: Vec<String> = listed
        .iter()
        .map(std::fs::DirEntry::path)
        .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
        .collect();
    targets.sort();
    for target in &targets {
        let corpus: PathBuf = fuzz.join("corpus").join(target);
        let seeds = std::fs::read_dir(&corpus).map(Iterator::count).unwrap_or(0);
        if seeds == 0 {
            bail!("{} holds nothing; put inputs there that the parser takes", corpus.display());
        }
    }
    Ok(targets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_is_listed_in_the_manifest_and_has_a_corpus() {
        let fuzz = repo::root().unwrap().join("fuzz");
        let targets = targets(&fuzz).unwrap();
        assert!(targets.contains(&"certificate".to_owned()), "{targets:?}");
        let manifest = std::fs::read_to_string(fuzz.join("Cargo.toml")).unwrap();
        for target in &targets {
            assert!(manifest.contains(&format!("name = \"{target}\"")), "{target} is not in Cargo.toml");
        }
    }

    #[test]
    fn a_target_without_a_corpus_is_refused() {
        let fuzz = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(fuzz.path().join("fuzz_targets")).unwrap();
        std::fs::write(fuzz.path().join("fuzz_targets/crl.rs"), "").unwrap();
        let error = targets(fuzz.path()).unwrap_err().to_string();
        assert!(error.contains("corpus/crl") && error.contains("holds nothing"), "{error}");
    }
}
