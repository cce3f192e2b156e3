//! Reading the files: bounded, and in a stated order.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::Fault;

/// Largest configuration, all files together, in bytes.
pub const MAX_BYTES: u64 = 16 << 20;
/// Most drop-ins.
pub const MAX_DROP_INS: usize = 1000;

/// A file and what it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Names it in messages.
    pub path: PathBuf,
    /// YAML.
    pub text: String,
}

/// Reads one file; `budget` is what is left of [`MAX_BYTES`].
pub(super) fn read_file(path: &Path, budget: &mut u64) -> Result<String, Fault> {
    let unreadable = |error: std::io::Error| Fault::Unreadable(error.to_string());
    // A FIFO would make the daemon wait for a writer.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(Fault::Unreadable("it is not a regular file".to_owned()));
    }
    let mut bytes = Vec::new();
    // One byte more than allowed, to tell "just fits" from "too large".
    File::open(path).map_err(unreadable)?.take(*budget + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    let read = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    *budget = budget.checked_sub(read).ok_or(Fault::FilesTooLarge)?;
    String::from_utf8(bytes).map_err(|_| Fault::NotUtf8)
}

/// What a drop-in directory holds.
#[derive(Debug, Default)]
pub(super) struct Listing {
    /// `*.yaml`, sorted by name.
    pub files: Vec<PathBuf>,
    /// Other files, not hidden: probably meant as drop-ins.
    pub ignored: Vec<PathBuf>,
}

/// Lists a drop-in directory. Hidden files (editors', and the `..data` of Kubernetes) are left out.
pub(super) fn list_directory(directory: &Path) -> std::io::Result<Listing> {
    let mut listing = Listing::default();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        if hidden || path.is_dir() {
            continue;
        }
        match path.extension().is_some_and(|extension| extension == "yaml") {
            true => listing.files.push(path),
            false => listing.ignored.push(path),
        }
        // Bounds the list itself; the caller refuses what is over.
        if listing.files.len() + listing.ignored.len() > 2 * MAX_DROP_INS {
            break;
        }
    }
    listing.files.sort();
    listing.ignored.sort();
    Ok(listing)
}

/// `<file>.d` beside the file.
pub(super) fn default_drop_in_directory(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".d");
    PathBuf::from(name)
}
