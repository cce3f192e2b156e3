//! Replacing a file of the state directory at once: whoever reads, after a power cut too, sees the old one or the new.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// What could not be done; the old file is still there, unless only its directory could not be synced.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} {path}: {source}", path = .path.display())]
pub(crate) struct ReplaceError {
    /// What was tried.
    pub what: &'static str,
    /// The file.
    pub path: PathBuf,
    /// What the kernel said.
    pub source: io::Error,
}

/// Writes a file, for its owner only, beside the one of that name, and renames it.
///
/// # Errors
/// The first step that fails.
pub(crate) fn replace_file(
    directory: &Path,
    name: &str,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> Result<(), ReplaceError> {
    let (path, temporary) = (directory.join(name), directory.join(format!("{name}.new")));
    let failed = |what, path: &Path| {
        let path = path.to_owned();
        move |source| ReplaceError { what, path, source }
    };
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("replace", &temporary)(error));
        }
        _ => {}
    }
    let mut output = OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(&temporary)
        .map_err(failed("create", &temporary))?;
    write(&mut output).map_err(failed("write", &temporary))?;
    output.sync_all().map_err(failed("sync", &temporary))?;
    fs::rename(&temporary, &path).map_err(failed("replace", &path))?;
    File::open(directory).and_then(|directory| directory.sync_all()).map_err(failed("sync", directory))
}
