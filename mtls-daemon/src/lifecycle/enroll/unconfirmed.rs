//! The note of what is to be put back, on disk: a daemon that was killed, or a node that was started again, puts it back all the same.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::{failed, read_if_there, write};
use crate::config::Config;
use crate::control::enroll::EnrolError;

/// Name of the note in the state directory.
const NOTE: &str = "unconfirmed.json";

/// What is put back unless somebody confirms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::lifecycle) struct Unconfirmed {
    /// The workload.
    pub name: String,
    file: PathBuf,
    before: Option<String>,
    /// Seconds that it waits.
    within: u64,
    /// Seconds since 1970.
    until: u64,
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

impl Unconfirmed {
    pub(super) fn new(name: &str, file: &Path, before: Option<String>, within: u64) -> Self {
        let until = seconds(SystemTime::now()).saturating_add(within);
        Self { name: name.to_owned(), file: file.to_owned(), before, within, until }
    }

    pub(super) fn read(state: &Path) -> Result<Option<Self>, EnrolError> {
        let path = state.join(NOTE);
        let Some(text) = read_if_there(&path)? else { return Ok(None) };
        serde_json::from_str(&text).map(Some).map_err(|error| failed("read", &path)(io::Error::other(error)))
    }

    pub(super) fn note(&self, state: &Path) -> Result<(), EnrolError> {
        let path = state.join(NOTE);
        let text =
            serde_json::to_string(self).map_err(|error| failed("write", &path)(io::Error::other(error)))?;
        write(&path, Some(&text))
    }

    /// It stays, or was put back.
    pub(super) fn forget(state: &Path) {
        if let Err(error) = write(&state.join(NOTE), None) {
            tracing::error!(%error, "the next start may undo a change that was confirmed; remove the file by hand");
        }
    }

    /// How long it may wait still; a clock that was set back makes it no longer than it was to be.
    pub(super) fn left(&self, now: SystemTime) -> Duration {
        Duration::from_secs(self.until.saturating_sub(seconds(now)).min(self.within))
    }

    pub(super) fn put_back(&self) -> Result<(), EnrolError> {
        write(&self.file, self.before.as_deref())
    }
}

/// At the start, before anything is in force. True: a drop-in is another one now, and the configuration must be read again.
pub(in crate::lifecycle) fn put_back_overdue(config: &Config) -> bool {
    let state = &config.paths.state;
    match Unconfirmed::read(state) {
        Ok(Some(change)) if change.left(SystemTime::now()).is_zero() => match change.put_back() {
            Ok(()) => {
                tracing::warn!(workload = change.name, "a change was not confirmed in time and is undone");
                Unconfirmed::forget(state);
                true
            }
            Err(error) => {
                tracing::error!(%error, workload = change.name, "a change was not confirmed in time, and cannot be undone");
                false
            }
        },
        // What cannot be read is told of when the daemon holds it.
        Ok(_) | Err(_) => false,
    }
}
