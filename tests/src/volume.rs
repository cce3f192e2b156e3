//! Files as kubelet and CSI drivers mount them: links into `..data`, which is swapped whole.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::certs::{Authority, Leaf};

/// See the module. It holds `tls.crt` and `tls.key`.
#[derive(Debug)]
pub struct Volume(Mounted);

/// A directory of files that are swapped at once.
#[derive(Debug)]
pub struct Mounted {
    directory: PathBuf,
    generation: Cell<u32>,
}

impl Volume {
    /// With a first certificate in it.
    ///
    /// # Panics
    /// If the directory cannot be written.
    pub fn new(parent: &Path, name: &str, authority: &Authority, leaf: &Leaf) -> Self {
        let volume = Self(Mounted::new(parent.join(format!("volume-{name}"))));
        volume.renew(authority, leaf);
        volume
    }

    /// What to write under a workload in the configuration.
    pub fn identity(&self) -> String {
        let (certificate, key) = (self.0.path("tls.crt"), self.0.path("tls.key"));
        format!("identity: {{ certificate: {}, key: {} }}", certificate.display(), key.display())
    }

    /// A new certificate, in one step.
    ///
    /// # Panics
    /// If the directory cannot be written.
    pub fn renew(&self, authority: &Authority, leaf: &Leaf) {
        let files = authority.issue("renewed", leaf);
        self.0.swap(&[("tls.crt", &files.chain), ("tls.key", &files.key)]);
    }
}

impl Mounted {
    /// Empty.
    ///
    /// # Panics
    /// If the directory cannot be made.
    pub fn new(directory: PathBuf) -> Self {
        fs::create_dir_all(&directory).expect("lab directory is writable");
        Self { directory, generation: Cell::new(0) }
    }

    /// Copies of these files under these names in the place of all that were there.
    ///
    /// # Panics
    /// If the directory cannot be written.
    pub fn swap(&self, files: &[(&str, &Path)]) {
        let number = self.generation.replace(self.generation.get() + 1);
        let (here, data) = (format!("..generation-{number}"), self.path("..data"));
        let old = fs::read_link(&data).ok();
        let work = || {
            fs::create_dir(self.path(&here))?;
            for (name, file) in files {
                fs::copy(file, self.path(&here).join(name))?;
            }
            symlink(&here, self.path("..data_tmp"))?;
            fs::rename(self.path("..data_tmp"), &data)?;
            for (name, _) in files.iter().filter(|(name, _)| !self.path(name).is_symlink()) {
                symlink(format!("..data/{name}"), self.path(name))?;
            }
            old.map_or(Ok(()), |old| fs::remove_dir_all(self.directory.join(old)))
        };
        work().expect("lab directory is writable");
    }

    /// A file in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// A new file in one step, as a careful program writes a bundle.
///
/// # Panics
/// If the directory cannot be written.
pub fn replace(path: &Path, content: &[u8]) {
    let new = path.with_extension("new");
    fs::write(&new, content).and_then(|()| fs::rename(&new, path)).expect("lab directory is writable");
}
