//! A guest's disk: a file with an ext4 file system, which takes no more room than is written to it.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::run::Cmd;

/// Bytes; more than anything here writes.
const SIZE: u64 = 8 << 30;

/// The disk, by its full name: QEMU runs elsewhere. Made if it is missing.
pub fn made(path: &Path) -> Result<PathBuf> {
    if !path.exists() {
        let half = path.with_extension("part");
        let file = File::create(&half).with_context(|| format!("{} cannot be made", half.display()))?;
        file.set_len(SIZE)
            .with_context(|| format!("{} cannot be made as long as it must be", half.display()))?;
        drop(file);
        Cmd::new("mke2fs")
            .args(["-q", "-F", "-t", "ext4"])
            .arg(&half)
            .run()
            .context("the disk cannot be formatted")?;
        std::fs::rename(&half, path).with_context(|| format!("{} cannot be made", path.display()))?;
    }
    path.canonicalize().with_context(|| format!("the disk {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disk_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        let full = made(&path).unwrap();
        assert!(full.is_absolute() && full.metadata().unwrap().len() == SIZE);
        let changed = full.metadata().unwrap().modified().unwrap();
        made(&path).unwrap();
        assert_eq!(full.metadata().unwrap().modified().unwrap(), changed);
        assert!(format!("{:#}", made(Path::new("/absent/disk")).unwrap_err()).contains("/absent/disk"));
    }
}
