//! Identity files as kubelet and CSI drivers mount them: links into `..data`, which is swapped whole.

use std::cell::Cell;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::certs::{Authority, Leaf};

/// See the module. It holds `tls.crt` and `tls.key`.
#[derive(Debug)]
pub struct Volume {
    directory: PathBuf,
    generation: Cell<u32>,
}

impl Volume {
    /// With a first certificate in it.
    ///
    /// # Panics
    /// If the directory cannot be written.
    pub fn new(parent: &Path, name: &str, authority: &Authority, leaf: &Leaf) -> Self {
        let volume = Self { directory: parent.join(format!("volume-{name}")), generation: Cell::new(0) };
        fs::create_dir_all(&volume.directory).expect("lab directory is writable");
        volume.renew(authority, leaf);
        for file in ["tls.crt", "tls.key"] {
            symlink(format!("..data/{file}"), volume.path(file)).expect("lab directory is writable");
        }
        volume
    }

    /// What to write under a workload in the configuration.
    pub fn identity(&self) -> String {
        let (certificate, key) = (self.path("tls.crt"), self.path("tls.key"));
        format!("identity: {{ certificate: {}, key: {} }}", certificate.display(), key.display())
    }

    /// A new certificate, in one step.
    ///
    /// # Panics
    /// If the directory cannot be written.
    pub fn renew(&self, authority: &Authority, leaf: &Leaf) {
        let number = self.generation.replace(self.generation.get() + 1);
        let (here, data) = (format!("..generation-{number}"), self.path("..data"));
        let files = authority.issue("renewed", leaf);
        let old = fs::read_link(&data).ok();
        let work = || {
            fs::create_dir(self.path(&here))?;
            fs::copy(&files.chain, self.path(&here).join("tls.crt"))?;
            fs::copy(&files.key, self.path(&here).join("tls.key"))?;
            symlink(&here, self.path("..data_tmp"))?;
            fs::rename(self.path("..data_tmp"), &data)?;
            old.map_or(Ok(()), |old| fs::remove_dir_all(self.directory.join(old)))
        };
        work().expect("lab directory is writable");
    }

    fn path(&self, name: &str) -> PathBuf {
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
