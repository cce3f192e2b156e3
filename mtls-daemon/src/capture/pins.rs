//! The pin directory: what keeps the programs in force when the daemon is away.
//!
//! ```text
//! <bpffs>/maps-<ABI>/<NAME>        the tables
//! <bpffs>/programs/<name>          the programs
//! <bpffs>/links/<name>@<cgroup ID> attached to the cgroup root
//! <bpffs>/links/steer_inbound@<cookie> attached to a network namespace
//! ```

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::error::CaptureError;

/// A directory on bpffs that is ours.
#[derive(Debug, Clone)]
pub struct Pins {
    root: PathBuf,
}

impl Pins {
    /// Makes the directories where they are missing.
    ///
    /// # Errors
    /// [`CaptureError::NoBpffs`] when `root` is not on a BPF file system; the kernel's refusal otherwise.
    pub fn create(root: &Path) -> Result<Self, CaptureError> {
        let existing = root.ancestors().find(|path| path.exists()).unwrap_or(root);
        match statfs(existing) {
            Ok(stat) if stat.filesystem_type() == BPF_FS_MAGIC => {}
            _ => return Err(CaptureError::NoBpffs(root.to_owned())),
        }
        let pins = Self { root: root.to_owned() };
        pins.make()?;
        Ok(pins)
    }

    /// Makes the directories where they are missing.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn make(&self) -> Result<(), CaptureError> {
        for directory in [self.maps(), self.programs(), self.links()] {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory).map_err(|source| {
                match source.kind() {
                    io::ErrorKind::PermissionDenied => {
                        CaptureError::NotPermitted { what: format!("create {}", directory.display()), source }
                    }
                    _ => CaptureError::pin(&directory, source),
                }
            })?;
        }
        Ok(())
    }

    fn maps(&self) -> PathBuf {
        self.root.join(format!("maps-{}", mtls_common::ABI))
    }

    /// The directories with tables of another layout, of an earlier or a later mtlsd.
    fn other_maps(&self) -> Vec<PathBuf> {
        let ours = self.maps();
        let entries = fs::read_dir(&self.root).into_iter().flatten().flatten();
        let is_other = |entry: &fs::DirEntry| is_maps(entry) && entry.path() != ours;
        entries.filter(is_other).map(|entry| entry.path()).collect()
    }

    /// Does an mtlsd with tables of another layout keep workloads closed here?
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn are_of_another_layout(&self) -> Result<bool, CaptureError> {
        Ok(!self.other_maps().is_empty() && !self.all_links()?.is_empty())
    }

    /// Forgets the tables of another layout. To be called when no program uses them any more.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn remove_other_maps(&self) -> Result<(), CaptureError> {
        self.other_maps().iter().try_for_each(|directory| remove_directory(directory).map(drop))
    }

    fn programs(&self) -> PathBuf {
        self.root.join("programs")
    }

    fn links(&self) -> PathBuf {
        self.root.join("links")
    }

    /// Where a table is pinned.
    #[must_use]
    pub fn map(&self, name: &str) -> PathBuf {
        self.maps().join(name)
    }

    /// Where a program is pinned.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.programs().join(name)
    }

    /// Where a link is pinned; `target` is the cgroup's ID or the namespace's cookie.
    #[must_use]
    pub fn link(&self, name: &str, target: u64) -> PathBuf {
        self.links().join(format!("{name}@{target}"))
    }

    /// Every pinned link as (program name, target, path).
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub fn all_links(&self) -> Result<Vec<(String, u64, PathBuf)>, CaptureError> {
        let directory = self.links();
        let entries = fs::read_dir(&directory).map_err(|source| CaptureError::pin(&directory, source))?;
        Ok(entries
            .flatten()
            .filter_map(|entry| {
                let file_name = entry.file_name();
                let (name, target) = file_name.to_str()?.rsplit_once('@')?;
                Some((name.to_owned(), target.parse().ok()?, entry.path()))
            })
            .collect())
    }

    /// Removes one pin; one that is not there is no error.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn remove(path: &Path) -> Result<(), CaptureError> {
        match fs::remove_file(path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(CaptureError::pin(path, source)),
            _ => Ok(()),
        }
    }

    /// Removes everything below `root`, links first: with its last pin a link detaches its program.
    /// Returns the removed paths. A directory that does not exist holds nothing.
    ///
    /// # Errors
    /// The first refusal; what is left is then still listed by another call.
    pub fn remove_all(root: &Path) -> Result<Vec<PathBuf>, CaptureError> {
        let mut removed = Vec::new();
        if !root.exists() {
            return Ok(removed);
        }
        match statfs(root) {
            Ok(stat) if stat.filesystem_type() == BPF_FS_MAGIC => {}
            _ => return Err(CaptureError::NoBpffs(root.to_owned())),
        }
        let mut directories = vec![root.join("links"), root.join("programs")];
        let entries = fs::read_dir(root).map_err(|source| CaptureError::pin(root, source))?;
        directories.extend(entries.flatten().filter(is_maps).map(|entry| entry.path()));
        for directory in directories {
            removed.extend(remove_directory(&directory)?);
        }
        fs::remove_dir(root).map_err(|source| CaptureError::pin(root, source))?;
        Ok(removed)
    }
}

fn is_maps(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_str().is_some_and(|name| name.starts_with("maps-"))
}

/// With what is pinned in it, which it gives. One that does not exist holds nothing.
fn remove_directory(directory: &Path) -> Result<Vec<PathBuf>, CaptureError> {
    let Ok(entries) = fs::read_dir(directory) else { return Ok(Vec::new()) };
    let pins: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    pins.iter().try_for_each(|pin| Pins::remove(pin))?;
    fs::remove_dir(directory).map_err(|source| CaptureError::pin(directory, source))?;
    Ok(pins)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_not_on_bpffs_is_refused_with_the_mend() {
        let directory = tempfile::tempdir().unwrap();
        let error = Pins::create(&directory.path().join("mtlsd")).unwrap_err();
        assert!(matches!(error, CaptureError::NoBpffs(_)));
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
        let error = Pins::remove_all(directory.path()).unwrap_err();
        assert!(matches!(error, CaptureError::NoBpffs(_)), "{error}");
        assert!(Pins::remove_all(Path::new("/sys/fs/bpf/mtlsd-no-such")).unwrap().is_empty());
    }
}
