//! The flows on disk: `flows.json` in the state directory, for its owner only.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::moment::Moment;
use super::record::{MAX_ABSENCES, Record};
use super::store::MAX_FLOWS;
use crate::identity::leaf::show;
use crate::replace::{ReplaceError, replace_file};

const FILE: &str = "flows.json";
/// What cannot be read is renamed to this; the one before it is lost.
const BROKEN: &str = "flows.json.broken";
/// Largest file that is read, in bytes.
pub const MAX_BYTES: u64 = 512 << 20;
/// The format that this version reads and writes.
const VERSION: u32 = 1;

/// Why the flows are not on disk, or cannot be read from it.
#[derive(Debug, thiserror::Error)]
pub enum FlowFileError {
    /// The kernel said no.
    #[error("cannot {what} {path}: {source}; check the state directory and its disk", path = .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// Not what this version writes.
    #[error("{path} cannot be used: {why}", path = .path.display())]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    record: &'a Record,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    record: Record,
}

/// Where they are.
#[derive(Debug, Clone)]
pub struct FlowFile {
    directory: PathBuf,
}

impl FlowFile {
    /// In this state directory.
    #[must_use]
    pub fn of(state: &Path) -> Self {
        Self { directory: state.to_owned() }
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// What was written last, taken at the last sign of who wrote it; `None`: nothing yet.
    ///
    /// # Errors
    /// It cannot be read, or is not what this version writes.
    pub fn read(&self) -> Result<Option<Record>, FlowFileError> {
        let path = self.path();
        // Not held up by a pipe of that name, and not led elsewhere.
        let flags = nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_NOFOLLOW;
        let file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(FlowFileError::Io { what: "read", path, source }),
        };
        let broken = |why: String| FlowFileError::Broken { path: path.clone(), why };
        let metadata = file.metadata();
        let metadata =
            metadata.map_err(|source| FlowFileError::Io { what: "read", path: path.clone(), source })?;
        if !metadata.is_file() {
            return Err(broken("it is not a file".to_owned()));
        }
        if metadata.len() > MAX_BYTES {
            return Err(broken(format!("it has more than {MAX_BYTES} bytes")));
        }
        let content: Content = serde_json::from_reader(BufReader::new(file.take(MAX_BYTES)))
            .map_err(|error| broken(show(&error.to_string())))?;
        if content.version != VERSION {
            return Err(broken(format!("it has version {}, and {VERSION} is understood", content.version)));
        }
        if content.record.absences.len() > MAX_ABSENCES {
            return Err(broken(format!("it has more than {MAX_ABSENCES} absences")));
        }
        if content.record.flows.len() > usize::try_from(MAX_FLOWS).unwrap_or(usize::MAX) {
            return Err(broken(format!("it has more than {MAX_FLOWS} flows")));
        }
        let alive = metadata.modified().map_or(content.record.taken, Moment::from);
        let record = content.record;
        Ok(Some(Record { taken: record.taken.max(alive), ..record }))
    }

    /// What was written last. What cannot be used is set aside and warned of: it stops nothing, and the record begins anew.
    #[must_use]
    pub fn read_or_set_aside(&self) -> Option<Record> {
        let error = match self.read() {
            Ok(record) => return record,
            Err(error) => error,
        };
        let aside = self.directory.join(BROKEN);
        match fs::rename(self.path(), &aside) {
            Ok(()) => tracing::warn!(
                %error, aside = %aside.display(),
                "what connections there were is not known any more; the file was set aside, and the record begins anew"
            ),
            Err(rename) => tracing::warn!(
                %error, %rename,
                "what connections there were is not known any more; the file will be replaced, and the record begins anew"
            ),
        }
        None
    }

    /// A sign that somebody still sees connections, where there is nothing to write.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn touch(&self) -> Result<(), FlowFileError> {
        let path = self.path();
        let touched =
            File::options().write(true).open(&path).and_then(|file| file.set_modified(SystemTime::now()));
        touched.map_err(|source| FlowFileError::Io { what: "touch", path, source })
    }

    /// Removes it: connections were made, or will be, that nobody records.
    ///
    /// # Errors
    /// What the kernel said; that there is none is no error.
    pub fn remove(&self) -> Result<(), FlowFileError> {
        let path = self.path();
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(FlowFileError::Io { what: "remove", path, source })
            }
            _ => Ok(()),
        }
    }

    /// Writes beside the file and renames: whoever reads, after a power cut too, sees the old one or the new.
    ///
    /// # Errors
    /// What the kernel said; the old file is still there.
    pub fn write(&self, record: &Record) -> Result<(), FlowFileError> {
        let written = replace_file(&self.directory, FILE, |file| {
            let mut output = io::BufWriter::new(file);
            serde_json::to_writer(&mut output, &Written { version: VERSION, record })?;
            output.write_all(b"\n")?;
            output.flush()
        });
        written.map_err(|ReplaceError { what, path, source }| FlowFileError::Io { what, path, source })
    }
}
