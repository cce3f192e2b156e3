//! The deny list on disk: `revoked.json` in the state directory.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::RevocationError;
use super::entry::Entry;
use crate::identity::leaf::show;
use crate::replace::replace_file;

/// Its name.
const FILE: &str = "revoked.json";
/// Largest one that is read, in bytes.
const MAX_BYTES: u64 = 64 << 20;
/// The format that this version writes.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    entries: Vec<Arc<Entry>>,
}

/// Where the list is kept.
#[derive(Debug)]
pub(super) struct ListFile {
    directory: PathBuf,
}

impl ListFile {
    pub(super) fn of(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    pub(super) fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// None yet is an empty list; anything else that cannot be understood is an error.
    pub(super) fn read(&self) -> Result<Vec<Arc<Entry>>, RevocationError> {
        let path = self.path();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(RevocationError::Io { what: "read", path, source }),
        };
        let mut bytes = Vec::new();
        if let Err(source) = file.take(MAX_BYTES + 1).read_to_end(&mut bytes) {
            return Err(RevocationError::Io { what: "read", path, source });
        }
        let broken = |why: String| RevocationError::Broken { path: self.path(), why };
        if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > MAX_BYTES {
            return Err(broken(format!("it has more than {MAX_BYTES} bytes")));
        }
        let content: Content =
            serde_json::from_slice(&bytes).map_err(|error| broken(show(&error.to_string())))?;
        if content.version != VERSION {
            return Err(broken(format!("it has version {}, and {VERSION} is understood", content.version)));
        }
        if content.entries.len() > super::MAX_ENTRIES {
            return Err(broken(format!("it has more than {} entries", super::MAX_ENTRIES)));
        }
        Ok(content.entries)
    }

    /// Writes beside the file and renames: whoever reads, after a power cut too, sees the old list or the new.
    pub(super) fn write(&self, entries: &[Arc<Entry>]) -> Result<(), RevocationError> {
        let content = Content { version: VERSION, entries: entries.to_vec() };
        let encode = |error| RevocationError::Io {
            what: "encode",
            path: self.path(),
            source: io::Error::other(error),
        };
        let mut bytes = serde_json::to_vec_pretty(&content).map_err(encode)?;
        bytes.push(b'\n');
        Ok(replace_file(&self.directory, FILE, |output| output.write_all(&bytes))?)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_file_may_have_as_many_bytes_as_is_said_and_not_one_more() {
        let directory = tempfile::tempdir().unwrap();
        let list = ListFile::of(directory.path());
        let mut text = br#"{"version":1,"entries":[]}"#.to_vec();
        text.resize(usize::try_from(MAX_BYTES).unwrap(), b' ');
        fs::write(list.path(), &text).unwrap();
        assert!(list.read().unwrap().is_empty());
        text.push(b' ');
        fs::write(list.path(), &text).unwrap();
        let error = list.read().unwrap_err().to_string();
        assert!(
            error.contains("it has more than 67108864 bytes") && error.contains("revoked.json"),
            "{error}"
        );
    }

    #[test]
    fn a_file_with_more_entries_than_can_be_made_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let list = ListFile::of(directory.path());
        let entry = |number: usize| {
            format!(
                r#"{{"target":{{"kind":"serial","serial":"{number:08x}"}},"reason":"","by":"","at":"2026-11-27T00:00:00Z","until":null}}"#
            )
        };
        let file = |entries: usize| {
            let entries: Vec<_> = (0..entries).map(entry).collect();
            fs::write(list.path(), format!(r#"{{"version":1,"entries":[{}]}}"#, entries.join(","))).unwrap();
            list.read()
        };
        assert_eq!(file(super::super::MAX_ENTRIES).unwrap().len(), super::super::MAX_ENTRIES);
        let error = file(super::super::MAX_ENTRIES + 1).unwrap_err().to_string();
        assert!(error.contains("more than 100000 entries"), "{error}");
    }
}
