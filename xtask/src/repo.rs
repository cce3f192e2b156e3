//! Where things are in the checkout.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::run::Cmd;

/// The workspace's root: the parent of xtask's own directory, as cargo names it at run time.
pub fn root() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("CARGO_MANIFEST_DIR") {
        let dir = PathBuf::from(dir);
        if let Some(root) = dir.parent().filter(|root| root.join("xtask/Cargo.toml").is_file()) {
            return Ok(root.to_owned());
        }
    }
    let here = std::env::current_dir().context("the current directory cannot be read")?;
    match here.ancestors().find(|dir| dir.join("xtask/Cargo.toml").is_file()) {
        Some(root) => Ok(root.to_owned()),
        None => bail!("{} is not inside mtlsd's repository; run `cargo xtask` there", here.display()),
    }
}

/// Cargo's target directory, wherever the environment or a configuration file puts it.
pub fn target_dir(root: &Path) -> Result<PathBuf> {
    #[derive(Deserialize)]
    struct Metadata {
        target_directory: PathBuf,
    }
    let text = Cmd::cargo(root)
        .args(["metadata", "--no-deps", "--format-version", "1", "--offline"])
        .read()
        .context("cargo metadata failed")?;
    let metadata: Metadata =
        serde_json::from_str(&text).context("cargo metadata printed something unexpected")?;
    Ok(metadata.target_directory)
}
