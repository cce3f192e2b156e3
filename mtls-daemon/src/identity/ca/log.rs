//! The issuance log: one line of JSON for every certificate, written before the certificate is given out.
//!
//! A line is in the kernel's hands when it is written, so that it outlives a crash of the daemon; certificates that
//! live long (the command line's, intermediates) are also synced to the disk.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::CaError;
use crate::identity::leaf::{Leaf, Unreadable};
use crate::identity::when;

/// Bytes from which on the log is rotated: what has expired goes to the old log, which it replaces.
pub const LOG_BYTES: u64 = 8 << 20;
/// The log.
pub(super) const LOG: &str = "issued.jsonl";
/// What the log was before it was last rotated.
pub(super) const OLD_LOG: &str = "issued.1.jsonl";
/// Apart from the directory's lock, which a renewal holds while it writes its line.
const LOCK: &str = "issued.lock";
const MODE: u32 = 0o600;

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// For a workload.
    Leaf,
    /// To sign leaves.
    Intermediate,
}

/// One line of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// When it was issued.
    #[serde(with = "time::serde::rfc3339")]
    pub time: OffsetDateTime,
    /// What it is for.
    pub kind: Kind,
    /// In lower-case hex, as everywhere.
    pub serial: String,
    /// Its SPIFFE ID; an intermediate's is the trust domain's.
    pub spiffe_id: String,
    /// Its DNS SANs.
    pub dns_names: Vec<String>,
    /// Its `notAfter`.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    /// Who asked for it.
    pub requested_by: String,
    /// CN of the CA that signed it.
    pub issuer: String,
}

impl Entry {
    /// The line for a certificate that was just signed.
    pub(super) fn of(
        kind: Kind,
        certificate: &CertificateDer<'_>,
        id: &str,
        requested_by: &str,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let leaf = Leaf::read(certificate)
            .map_err(|Unreadable(reason)| CaError::Crypto { action: "read what was signed", reason })?;
        Ok(Self {
            time: whole(now),
            kind,
            serial: leaf.serial,
            spiffe_id: id.to_owned(),
            dns_names: leaf.dns,
            not_after: whole(leaf.not_after),
            requested_by: requested_by.to_owned(),
            issuer: leaf.issuer,
        })
    }
}

/// To the second.
pub(super) fn whole(time: SystemTime) -> OffsetDateTime {
    when::to_unix(time)
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// What a log holds.
#[derive(Debug, Default)]
pub(super) struct Lines {
    pub(super) entries: Vec<Entry>,
    /// Lines that are not entries: a crash of the machine may have cut one.
    pub(super) unreadable: usize,
}

/// The log of one CA.
#[derive(Debug)]
pub(super) struct IssuanceLog {
    directory: PathBuf,
    limit: u64,
    /// Rises when most of the log is still valid, so that each rotation at least halves it.
    rotate_at: AtomicU64,
}

impl IssuanceLog {
    pub(super) fn new(directory: &Path) -> Self {
        Self::with_limit(directory, LOG_BYTES)
    }

    pub(super) fn with_limit(directory: &Path, limit: u64) -> Self {
        Self { directory: directory.to_owned(), limit, rotate_at: AtomicU64::new(limit) }
    }

    /// Writes the line of a certificate; `durable`: also to the disk.
    pub(super) fn append(&self, entry: &Entry, durable: bool, now: SystemTime) -> Result<(), CaError> {
        let path = self.directory.join(LOG);
        let failed = |action| {
            let path = path.clone();
            move |source| CaError::Log { action, path, source }
        };
        let mut line = serde_json::to_vec(entry).map_err(|error| failed("encode")(error.into()))?;
        line.push(b'\n');
        let _lock = self.lock().map_err(failed("lock"))?;
        let mut file = OpenOptions::new()
            .create(true)
            .read(true)
            .append(true)
            .mode(MODE)
            .open(&path)
            .map_err(failed("open"))?;
        if !ends_with_newline(&mut file).map_err(failed("read"))? {
            line.insert(0, b'\n');
        }
        file.write_all(&line).map_err(failed("write"))?;
        if durable {
            file.sync_data().map_err(failed("sync"))?;
        }
        let length = file.metadata().map_err(failed("look at"))?.len();
        if length >= self.rotate_at.load(Ordering::Relaxed)
            && let Err(error) = self.rotate(&path, now)
        {
            // The line is written; the next one tries again.
            tracing::warn!(%error, path = %path.display(), "the issuance log could not be rotated");
        }
        Ok(())
    }

    /// Every line, the oldest first. No log: nothing was issued yet.
    pub(super) fn read(&self) -> Result<Lines, CaError> {
        let path = self.directory.join(LOG);
        let failed = |source| CaError::Log { action: "read", path: path.clone(), source };
        let _lock = self.lock().map_err(failed)?;
        match fs::read(&path) {
            Ok(content) => Ok(parse(&content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Lines::default()),
            Err(error) => Err(failed(error)),
        }
    }

    fn lock(&self) -> io::Result<Flock<File>> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(MODE)
            .open(self.directory.join(LOCK))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno.into())
    }

    /// Keeps what is still valid. At every instant there is a whole log under its name.
    fn rotate(&self, path: &Path, now: SystemTime) -> io::Result<()> {
        let now = whole(now);
        let mut kept = Vec::new();
        for entry in parse(&fs::read(path)?).entries {
            if entry.not_after > now {
                serde_json::to_writer(&mut kept, &entry)?;
                kept.push(b'\n');
            }
        }
        let at = |name: &str| self.directory.join(name);
        let (new, link) = (at("issued.jsonl.new"), at("issued.1.jsonl.new"));
        for leftover in [&new, &link] {
            match fs::remove_file(leftover) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        let mut file = OpenOptions::new().create_new(true).write(true).mode(MODE).open(&new)?;
        file.write_all(&kept)?;
        file.sync_all()?;
        fs::hard_link(path, &link)?;
        fs::rename(&link, at(OLD_LOG))?;
        fs::rename(&new, path)?;
        let length = u64::try_from(kept.len()).unwrap_or(u64::MAX);
        self.rotate_at.store(self.limit.max(length.saturating_mul(2)), Ordering::Relaxed);
        Ok(())
    }
}

fn parse(content: &[u8]) -> Lines {
    let mut lines = Lines::default();
    for line in content.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice(line) {
            Ok(entry) => lines.entries.push(entry),
            Err(_) => lines.unreadable += 1,
        }
    }
    lines
}

fn ends_with_newline(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}
