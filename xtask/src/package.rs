//! `cargo xtask package`: the Debian package. cargo-deb makes it of what `[package.metadata.deb]` in mtls-daemon/Cargo.toml lists.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::run::{Cmd, heading};
use crate::{repo, setup};

/// Made for packages, and pinned: another version may read the list in another way.
const CARGO_DEB: &str = "3.8.0";
/// Where the list looks for what is made here, below the checkout.
const STAGE: &str = "target/package";
/// Where cargo-deb is installed, below the checkout.
const TOOLS: &str = "target/cargo-deb-3.8.0";
/// The shells, and what their completions are called.
const COMPLETIONS: [(&str, &str); 3] = [("bash", "mtlsd.bash"), ("zsh", "_mtlsd"), ("fish", "mtlsd.fish")];

/// What to package.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Package this mtlsd instead of building one with optimisation
    #[arg(long, value_name = "PROGRAM")]
    program: Option<PathBuf>,
}

/// Makes the package and says where it is.
pub fn run(args: &Args) -> Result<ExitCode> {
    let root = repo::root()?;
    let program = match &args.program {
        Some(program) => program.clone(),
        None => build(&root)?,
    };
    let package = make(&root, &program)?;
    let size = fs::metadata(&package).with_context(|| format!("{}", package.display()))?.len();
    println!("{}: {:.1} MB; install it with `apt install {0}`", package.display(), size as f64 / 1e6);
    Ok(ExitCode::SUCCESS)
}

fn build(root: &Path) -> Result<PathBuf> {
    heading("building mtlsd with optimisation");
    let cargo = Cmd::cargo(root).env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo");
    cargo.args(["build", "--locked", "--release", "--package", "mtls-daemon"]).run()?;
    Ok(repo::target_dir(root)?.join("release/mtlsd"))
}

/// Makes the package of this mtlsd, with what it needs for that.
///
/// # Errors
/// When cargo-deb cannot be had, the program does not run, or the package cannot be made.
pub fn make(root: &Path, program: &Path) -> Result<PathBuf> {
    heading("making the Debian package");
    setup::prepare_package()?;
    let cargo_deb = install_cargo_deb(root)?;
    let stage = root.join(STAGE);
    fill(&stage, program)?;
    let words =
        ["deb", "--no-build", "--no-strip", "--fast", "--quiet", "--package", "mtls-daemon", "--output"];
    Cmd::new(&cargo_deb.to_string_lossy()).clean().args(words).arg(stage.join("")).dir(root).run()?;
    the_package(&stage)
}

/// Everything anew: what an earlier version had is not to be in this one.
fn fill(stage: &Path, program: &Path) -> Result<()> {
    if stage.exists() {
        fs::remove_dir_all(stage).with_context(|| format!("{} cannot be removed", stage.display()))?;
    }
    for directory in ["bin", "completions", "man"] {
        let path = stage.join(directory);
        fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
    }
    let binary = stage.join("bin/mtlsd");
    fs::copy(program, &binary).with_context(|| format!("{} cannot be copied", program.display()))?;
    let name = binary.to_string_lossy();
    Cmd::new(&name).arg("man").arg(stage.join("man")).run()?;
    for (shell, file) in COMPLETIONS {
        let path = stage.join("completions").join(file);
        let file = File::create(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        let mut command = Cmd::new(&name).args(["completions", shell]).into_inner();
        let status = command.stdout(Stdio::from(file)).status().context("mtlsd cannot be run")?;
        if !status.success() {
            bail!("{name} made no completions for {shell} ({status})");
        }
    }
    Ok(())
}

fn install_cargo_deb(root: &Path) -> Result<PathBuf> {
    let place = root.join(TOOLS);
    let program = place.join("bin/cargo-deb");
    if !program.is_file() {
        println!("installing cargo-deb {CARGO_DEB} in {} (a minute)", place.display());
        // Without optimisation it is built in half the time, and it has little to do.
        let words =
            ["install", "--quiet", "--locked", "--debug", "--no-default-features", "--no-track", "--root"];
        Cmd::cargo(root)
            .env("CARGO_TARGET_DIR", place.join("build"))
            .args(words)
            .arg(&place)
            .args(["--version", &format!("={CARGO_DEB}"), "cargo-deb"])
            .run()
            .context("cargo-deb cannot be installed")?;
        // A fifth of a gigabyte that nobody reads again.
        let _ = fs::remove_dir_all(place.join("build"));
    }
    Ok(program)
}

/// The one package in the directory.
fn the_package(stage: &Path) -> Result<PathBuf> {
    let entries = fs::read_dir(stage).with_context(|| format!("{} cannot be read", stage.display()))?;
    let mut found = entries
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"));
    match (found.next(), found.next()) {
        (Some(package), None) => Ok(package),
        (None, _) => bail!("cargo-deb made no package in {}", stage.display()),
        (Some(one), Some(other)) => bail!("two packages: {} and {}", one.display(), other.display()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A stand-in for mtlsd.
    fn program(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("program");
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    #[test]
    fn what_the_list_names_is_made_anew_by_the_program_itself() {
        let dir = tempfile::tempdir().unwrap();
        let stage = dir.path().join("package");
        fs::create_dir_all(stage.join("man")).unwrap();
        fs::write(stage.join("man/gone.1"), "of a command that is no more").unwrap();
        let good = "if [ $1 = man ]; then echo page > $2/mtlsd.1; else echo completes $2; fi";
        fill(&stage, &program(dir.path(), good)).unwrap();
        assert!(!stage.join("man/gone.1").exists() && stage.join("man/mtlsd.1").exists());
        for (shell, file) in COMPLETIONS {
            let text = fs::read_to_string(stage.join("completions").join(file)).unwrap();
            assert_eq!(text, format!("completes {shell}\n"));
        }
        let mode = fs::metadata(stage.join("bin/mtlsd")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
    }

    #[test]
    fn a_program_that_fails_makes_no_package() {
        let dir = tempfile::tempdir().unwrap();
        let stage = dir.path().join("package");
        let error = fill(&stage, &program(dir.path(), "[ $1 = man ]")).unwrap_err().to_string();
        assert!(error.contains("no completions for bash"), "{error}");
        assert!(the_package(&stage).unwrap_err().to_string().contains("no package"));
        for name in ["a.deb", "b.deb"] {
            fs::write(stage.join(name), "").unwrap();
        }
        assert!(the_package(&stage).unwrap_err().to_string().contains("two packages"));
    }

    /// The list and this file speak of the same places.
    #[test]
    fn the_list_names_what_is_made_here() {
        let list = fs::read_to_string(repo::root().unwrap().join("mtls-daemon/Cargo.toml")).unwrap();
        assert!(
            list.contains(&format!("../{STAGE}/bin/mtlsd")) && list.contains(&format!("../{STAGE}/man/*.1"))
        );
        for (_, file) in COMPLETIONS {
            assert!(list.contains(&format!("../{STAGE}/completions/{file}")), "{file}");
        }
    }
}
