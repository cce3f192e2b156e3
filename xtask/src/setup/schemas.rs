//! The schemas of Kubernetes' own kinds, with which the chart is checked: a wheel on PyPI brings those of every version.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::packages::{self, Probe};
use super::wheel;

/// What pip installs, byte for byte.
const REQUIREMENT: &str = "kubernetes-validate==1.37.0 \
     --hash=sha256:85136d018a27b50ec7fc049d902bfa5193f5976807e6c0f408e3ab6fe078cad9\n";
/// In the wheel. Strict: a field that the kind does not have is an error.
const FROM: &str = "kubernetes_validate/kubernetes-json-schema";
/// Below the checkout. tests/src/manifests/schema.rs names it, too.
const PLACE: &str = "target/kubernetes-schemas-1.37.0";
/// The oldest that the chart is for, and the one of the tests' kubectl.
const VERSIONS: [&str; 2] = ["1.30", "1.35"];

/// Installs them unless they are there. Without them their tests say that they could not run.
pub fn install_if_missing(root: &Path) {
    let place = root.join(PLACE);
    if VERSIONS.iter().all(|version| place.join(format!("{version}.json")).is_file()) {
        println!("the schemas of Kubernetes are in {}", place.display());
        return;
    }
    println!("installing the schemas of Kubernetes with pip in {}", place.display());
    let pip = packages::install_missing(None, &[(Probe::Program("pip3"), "python3-pip", None)]);
    if let Err(error) = pip.and_then(|()| install("pip3", &place)) {
        println!(
            "the schemas of Kubernetes are not there, and manifests cannot be checked with them: {error:#}"
        );
    }
}

/// All or none: they are renamed to their place. Of 100 MB a file for each version is kept.
fn install(pip: &str, place: &Path) -> Result<()> {
    let half = wheel::unpack(pip, place, REQUIREMENT)?;
    let kept = half.join("kept");
    fs::create_dir_all(&kept).with_context(|| format!("{} cannot be made", kept.display()))?;
    for version in VERSIONS {
        let from = half.join(FROM).join(format!("v{version}.0-local-strict/_definitions.json"));
        fs::rename(&from, kept.join(format!("{version}.json")))
            .with_context(|| format!("the wheel has no {}", from.display()))?;
    }
    let _ = fs::remove_dir_all(place);
    fs::rename(&kept, place).with_context(|| format!("{} cannot be made", place.display()))?;
    let _ = fs::remove_dir_all(&half);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A stand-in for pip, whose wheel has these versions.
    fn pip(dir: &Path, versions: &[&str]) -> String {
        let make = |version: &&str| {
            let file = format!("$target/{FROM}/v{version}.0-local-strict/_definitions.json");
            format!("mkdir -p \"$(dirname \"{file}\")\"; echo {version} > \"{file}\"\n")
        };
        let script = dir.join("pip");
        let text =
            "#!/bin/sh -e\nwhile [ $# -gt 0 ]; do case $1 in --target) target=$2 ;; esac; shift; done\n";
        fs::write(&script, text.to_owned() + &versions.iter().map(make).collect::<String>()).unwrap();
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
        script.display().to_string()
    }

    #[test]
    fn a_file_for_each_version_is_kept_or_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("target/schemas-1.0");
        assert!(install(&pip(dir.path(), &VERSIONS[..1]), &place).is_err() && !place.exists());
        install(&pip(dir.path(), &VERSIONS), &place).unwrap();
        for version in VERSIONS {
            let text = fs::read_to_string(place.join(format!("{version}.json"))).unwrap();
            assert_eq!(text.trim(), version);
        }
        assert_eq!(fs::read_dir(&place).unwrap().count(), VERSIONS.len());
        install(&pip(dir.path(), &VERSIONS), &place).unwrap();
    }
}
