//! Who was at the other end of each session, on disk: a daemon that starts finds direct connections alive whose sessions are
//! gone, and must know whose leases they hang on. Certificates are no secret; what is read is verified again.

use std::collections::HashSet;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use crate::lifecycle::error::DaemonError;
use crate::lifecycle::lock::make_directory;
use crate::replace::{ReplaceError, replace_file};

/// More than any chain that a handshake takes (`limits.chain_bytes`), as PEM.
const MOST: u64 = 4 << 20;
const ENDING: &str = ".pem";

/// Why nobody knows who a connection's peer was.
#[derive(Debug, thiserror::Error)]
pub(super) enum JournalError {
    /// The file is not there, or cannot be read.
    #[error("{path}: {source}", path = .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// What is there is no chain.
    #[error("{path}: {what}; somebody has changed it", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
}

/// One file for each session that has had a connection, named by its number.
#[derive(Debug)]
pub(super) struct Journal(PathBuf);

impl Journal {
    /// In the daemon's runtime directory, which a reboot empties as it ends every connection.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(runtime: &Path) -> Result<Self, DaemonError> {
        let directory = runtime.join("direct");
        make_directory(&directory)?;
        Ok(Self(directory))
    }

    fn name(session: u64) -> String {
        format!("{session}{ENDING}")
    }

    /// Notes a session's chain, leaf first.
    ///
    /// # Errors
    /// When it cannot be written; an older file of the name stays.
    pub fn note(&self, session: u64, chain: &[CertificateDer<'_>]) -> Result<(), ReplaceError> {
        replace_file(&self.0, &Self::name(session), |file| {
            for der in chain {
                file.write_all(pem::encode(&pem::Pem::new("CERTIFICATE", der.as_ref())).as_bytes())?;
            }
            Ok(())
        })
    }

    /// The chain of a session, leaf first; not verified.
    ///
    /// # Errors
    /// See [`JournalError`].
    pub fn read(&self, session: u64) -> Result<Vec<CertificateDer<'static>>, JournalError> {
        let path = self.0.join(Self::name(session));
        let mut bytes = Vec::new();
        let read = fs::File::open(&path).and_then(|file| file.take(MOST + 1).read_to_end(&mut bytes));
        let damaged = |what: &str| JournalError::Damaged { path: path.clone(), what: what.to_owned() };
        match read {
            Err(source) => return Err(JournalError::Io { path, source }),
            Ok(length) if length as u64 > MOST => return Err(damaged("it is too large for a chain")),
            Ok(_) => {}
        }
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&bytes).collect();
        match chain {
            Ok(chain) if !chain.is_empty() => Ok(chain),
            Ok(_) => Err(damaged("it has no certificate")),
            Err(error) => Err(damaged(&error.to_string())),
        }
    }

    /// Forgets a session; one that is not there is no error.
    pub fn forget(&self, session: u64) {
        let path = self.0.join(Self::name(session));
        if let Err(error) = fs::remove_file(&path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %path.display(), %error, "cannot be removed; it says who a session's peer was, and is not needed");
        }
    }

    /// Forgets all but these. What is not the journal's is left alone.
    pub fn keep_only(&self, sessions: &HashSet<u64>) {
        let Ok(entries) = fs::read_dir(&self.0) else { return };
        let numbers = entries.filter_map(Result::ok).filter_map(|entry| {
            let name = entry.file_name();
            name.to_str()?.strip_suffix(ENDING)?.parse::<u64>().ok()
        });
        for number in numbers.filter(|number| !sessions.contains(number)) {
            self.forget(number);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn journal() -> (tempfile::TempDir, Journal) {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::open(directory.path()).unwrap();
        (directory, journal)
    }

    fn chain() -> Vec<CertificateDer<'static>> {
        [b"leaf".as_slice(), b"intermediate"].map(|der| CertificateDer::from(der.to_vec())).to_vec()
    }

    #[test]
    fn a_chain_is_read_as_it_was_noted_and_only_its_owner_may_read_it() {
        let (_directory, journal) = journal();
        journal.note(7, &chain()).unwrap();
        assert_eq!(journal.read(7).unwrap(), chain());
        let mode = fs::metadata(journal.0.join("7.pem")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        journal.forget(7);
        journal.forget(7);
        assert!(matches!(journal.read(7), Err(JournalError::Io { .. })));
    }

    #[test]
    fn what_is_no_chain_is_told_as_such() {
        let (_directory, journal) = journal();
        let path = journal.0.join("7.pem");
        fs::write(&path, "").unwrap();
        assert!(journal.read(7).unwrap_err().to_string().contains("7.pem: it has no certificate"));
        fs::write(&path, "-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n").unwrap();
        assert!(matches!(journal.read(7), Err(JournalError::Damaged { .. })));
        fs::File::create(&path).unwrap().set_len(MOST + 1).unwrap();
        assert!(journal.read(7).unwrap_err().to_string().contains("too large"));
    }

    #[test]
    fn only_sessions_that_nobody_needs_are_forgotten() {
        let (_directory, journal) = journal();
        for session in [1, 2] {
            journal.note(session, &chain()).unwrap();
        }
        fs::write(journal.0.join("notes"), "mine").unwrap();
        journal.keep_only(&HashSet::from([2]));
        assert!(journal.read(1).is_err() && journal.read(2).is_ok());
        assert!(journal.0.join("notes").exists());
    }

    #[test]
    fn a_place_that_cannot_be_written_is_named() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("direct"), "").unwrap();
        let error = Journal::open(directory.path()).unwrap_err().to_string();
        assert!(error.contains("direct"), "{error}");
        let (gone, journal) = journal();
        drop(gone);
        assert!(journal.note(1, &chain()).unwrap_err().to_string().contains("1.pem"));
    }
}
