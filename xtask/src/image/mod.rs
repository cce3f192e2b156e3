//! `cargo xtask image`: mtlsd as one static program, and a container image of it alone, with its software bill of materials.

mod sbom;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result, bail};

use crate::deny::graph::{Graph, Linked};
use crate::run::{Cmd, heading};
use crate::{digest, repo, setup};

/// What it is built for. Named, so that procedural macros, which the compiler loads, are not linked statically as well.
const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Of the eBPF programs, which the daemon has in it.
const EBPF_TARGET: &str = "bpfel-unknown-none";
const CONTAINERFILE: &str = "deploy/kubernetes/Containerfile";

/// What to make an image of.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Take this static mtlsd instead of building one with optimisation (ten minutes and more)
    #[arg(long, value_name = "PROGRAM")]
    program: Option<PathBuf>,
}

/// Makes the image and its bill of materials; says where they are and how large.
pub fn run(args: &Args) -> Result<ExitCode> {
    let root = repo::root()?;
    setup::prepare_image()?;
    let program = match &args.program {
        Some(program) => program.clone(),
        None => build(&root)?,
    };
    if !setup::is_static(&program) {
        bail!(
            "{} is no static program: an image without libraries cannot start it; leave --program out",
            program.display()
        );
    }
    let place = repo::target_dir(&root)?.join("image");
    let stage = place.join("stage");
    let _ = fs::remove_dir_all(&stage);
    fs::create_dir_all(&stage).with_context(|| format!("{} cannot be made", stage.display()))?;
    let binary = stage.join("mtlsd");
    fs::copy(&program, &binary).with_context(|| format!("{} cannot be copied", program.display()))?;

    heading("writing the bill of materials");
    let linked = linked(&root)?;
    let bill = sbom::bill(&sbom::Subject {
        version: env!("CARGO_PKG_VERSION"),
        sha256: &digest::sha256(&binary)?,
        linked: &linked,
        others: &sbom::toolchain()?,
    });
    let written = stage.join("mtlsd.cdx.json");
    fs::write(&written, serde_json::to_string_pretty(&bill)? + "\n")
        .with_context(|| format!("{} cannot be written", written.display()))?;

    heading("making the image");
    let archive = podman(&root, &place, &stage)?;
    println!("program: {}", size(&binary)?);
    println!("bill of materials: {}, {}", written.display(), sbom::summary(&bill));
    println!(
        "image: {}, {}; load it with `podman load -i` or `ctr -n k8s.io images import`",
        archive.display(),
        size(&archive)?
    );
    Ok(ExitCode::SUCCESS)
}

fn build(root: &Path) -> Result<PathBuf> {
    heading("building mtlsd with optimisation, statically");
    let target = repo::target_dir(root)?.join("static");
    Cmd::cargo(root)
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .env("CARGO_TARGET_DIR", &target)
        .env("CARGO_PROFILE_RELEASE_STRIP", "debuginfo")
        .args([
            "build",
            "--locked",
            "--release",
            "--target",
            TARGET,
            "--package",
            "mtls-daemon",
            "--bin",
            "mtlsd",
        ])
        .run()?;
    Ok(target.join(TARGET).join("release/mtlsd"))
}

/// Every crate that is in the program, the eBPF programs' among them, with its hash from the lock file.
fn linked(root: &Path) -> Result<Vec<Linked>> {
    let mut linked = Graph::linked(root, "Cargo.toml", "mtls-daemon", TARGET)?;
    linked.extend(Graph::linked(root, "mtls-ebpf/Cargo.toml", "mtls-ebpf", EBPF_TARGET)?);
    linked.sort_by(|a, b| (&a.package.name, &a.package.version).cmp(&(&b.package.name, &b.package.version)));
    linked.dedup_by(|a, b| (&a.package.name, &a.package.version) == (&b.package.name, &b.package.version));
    Ok(linked)
}

/// podman with a store of its own: nothing of the machine is changed, and an image from scratch asks no registry.
fn podman(root: &Path, place: &Path, stage: &Path) -> Result<PathBuf> {
    let version = env!("CARGO_PKG_VERSION");
    let name = format!("localhost/mtlsd:{version}");
    let archive = place.join(format!("mtlsd-{version}.tar"));
    let _ = fs::remove_file(&archive);
    let (store, run) = (place.join("store"), place.join("run"));
    let podman = || {
        let command = Cmd::new("podman").arg("--root").arg(&store).arg("--runroot").arg(&run);
        command.args(["--storage-driver", "vfs"])
    };
    // The same program gives the same image.
    podman()
        .args(["build", "--quiet", "--network", "none", "--timestamp", "0", "--tag", &name, "--file"])
        .arg(root.join(CONTAINERFILE))
        .arg(stage)
        .run()?;
    podman()
        .args(["save", "--quiet", "--format", "oci-archive", "--output"])
        .arg(&archive)
        .arg(&name)
        .run()?;
    podman().args(["image", "prune", "--all", "--force"]).read()?;
    Ok(archive)
}

fn size(path: &Path) -> Result<String> {
    let bytes = fs::metadata(path).with_context(|| format!("{}", path.display()))?.len();
    Ok(format!("{:.1} MB", bytes as f64 / 1e6))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_of_what_is_staged_and_nothing_else() {
        let text = fs::read_to_string(repo::root().unwrap().join(CONTAINERFILE)).unwrap();
        let commands: Vec<_> =
            text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect();
        assert_eq!(commands[0], "FROM scratch");
        let copied = commands.iter().filter_map(|line| line.strip_prefix("COPY "));
        assert_eq!(
            copied.map(|what| what.split(' ').next().unwrap()).collect::<Vec<_>>(),
            ["mtlsd", "mtlsd.cdx.json"]
        );
        assert!(!commands.iter().any(|line| line.starts_with("RUN")), "it would need an image to run in");
    }

    #[test]
    fn a_program_that_needs_libraries_is_refused() {
        assert!(!setup::is_static(&std::env::current_exe().unwrap()));
    }
}
