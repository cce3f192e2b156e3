//! Which certificates are good no longer, although their time has not run out.
//!
//! [`Revocations::refusal_of`] is the one place that is asked: for each peer, also one whose chain is remembered, and
//! for our own SVIDs. It looks into what is in memory, never at the network. The deny list is the
//! operator's own ([`Entry`], kept on disk); [`Crls`] are the issuers', and so are the answers of [`Ocsp`].

pub mod crl;
mod crls;
mod entry;
mod file;
mod marks;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use arc_swap::ArcSwap;

pub use crls::Crls;
pub use entry::{Entry, Target};
pub use marks::{CertificateMarks, ChainMarks, DistinguishedName, MarkError, Serial, Sha256};

use super::ocsp::Ocsp;
use crate::observe::{Reason, Refusal};
use crate::replace::ReplaceError;
use entry::DenyList;
use file::ListFile;

/// Most entries of the deny list.
pub const MAX_ENTRIES: usize = 100_000;
/// Longest reason of an entry, in characters.
pub const MAX_REASON: usize = 256;

/// Longest time for which something may be revoked, in seconds: 100 years.
pub const MAX_SECONDS: u64 = 100 * 366 * 86_400;

/// Why the deny list cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RevocationError {
    /// The disk.
    #[error("cannot {what} {path}: {source}; nothing was changed: mend the disk or its rights", path = .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It cannot be understood.
    #[error(
        "{path}: the deny list cannot be read: {why}; mtlsd does not start without it, lest it forget a revocation: \
         put a good copy there, or remove the file if nothing is to stay revoked", path = .path.display()
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// More than [`MAX_ENTRIES`].
    #[error(
        "the deny list has {MAX_ENTRIES} entries, which is the most; take some back with `mtlsd unrevoke`"
    )]
    Full,
    /// More than [`MAX_REASON`].
    #[error("the reason has {0} characters; at most {MAX_REASON} are kept")]
    LongReason(usize),
    /// Longer than [`MAX_SECONDS`].
    #[error(
        "{0} s is too long for a revocation that ends; at most {MAX_SECONDS} s, or leave it out for one that does not"
    )]
    TooLong(u64),
    /// Nothing of the kind.
    #[error("{0} is not on the deny list; `mtlsd revoke --list` shows what is")]
    NotRevoked(String),
}

impl From<ReplaceError> for RevocationError {
    fn from(ReplaceError { what, path, source }: ReplaceError) -> Self {
        Self::Io { what, path, source }
    }
}

/// What is revoked on this node, shared by all who verify.
#[derive(Debug)]
pub struct Revocations {
    denied: ArcSwap<DenyList>,
    crls: ArcSwap<Crls>,
    ocsp: Ocsp,
    /// `None`: in memory only. The lock is for those who change the list.
    file: Mutex<Option<ListFile>>,
}

impl Default for Revocations {
    fn default() -> Self {
        Self::in_memory()
    }
}

impl Revocations {
    /// An empty list that is not kept on disk.
    #[must_use]
    pub fn in_memory() -> Self {
        Self {
            denied: ArcSwap::default(),
            crls: ArcSwap::default(),
            ocsp: Ocsp::default(),
            file: Mutex::new(None),
        }
    }

    /// The list that is kept in `directory`, which exists.
    ///
    /// # Errors
    /// When there is a list that cannot be understood.
    pub fn open(directory: &Path) -> Result<Self, RevocationError> {
        let file = ListFile::of(directory);
        let list = DenyList::new(file.read()?);
        Ok(Self {
            denied: ArcSwap::from_pointee(list),
            crls: ArcSwap::default(),
            ocsp: Ocsp::default(),
            file: Mutex::new(Some(file)),
        })
    }

    /// Why a chain is good no longer; `None`: nothing is known against it.
    #[must_use]
    pub fn refusal_of(&self, chain: &ChainMarks, now: SystemTime) -> Option<Refusal> {
        let denied = self.denied.load();
        let by_operator =
            denied.find(chain, now).map(|entry| Refusal::new(Reason::Revoked, entry.to_string()));
        let by_crl = || self.crls.load().refusal_of(chain, now);
        let by_ocsp = || self.ocsp.refusal_of(chain, now);
        match by_operator.or_else(by_crl) {
            // What is only unknown by a list is perhaps known by an answer to be revoked.
            Some(unknown) if unknown.reason == Reason::RevocationUnknown => {
                by_ocsp().filter(|refusal| refusal.reason == Reason::Revoked).or(Some(unknown))
            }
            refusal => refusal.or_else(by_ocsp),
        }
    }

    /// What is known of a chain against which nothing is known, for people. The root counts for nothing here.
    #[must_use]
    pub(crate) fn known_of(&self, chain: &ChainMarks, now: SystemTime) -> Vec<String> {
        let mut known = vec![match self.entries(now).len() {
            0 => "the deny list is empty".to_owned(),
            entries => format!("none of the {entries} entries of the deny list names it"),
        }];
        known.extend(self.crls.load().known_of(chain, now));
        known.push(self.ocsp.known_of(chain, now));
        known
    }

    /// The answers of OCSP responders.
    #[must_use]
    pub fn ocsp(&self) -> &Ocsp {
        &self.ocsp
    }

    /// Takes other CRLs into use.
    pub fn set_crls(&self, crls: Crls) {
        self.crls.store(Arc::new(crls));
    }

    /// Every entry in force.
    #[must_use]
    pub fn entries(&self, now: SystemTime) -> Vec<Arc<Entry>> {
        self.denied.load().entries().iter().filter(|entry| entry.holds_at(now)).cloned().collect()
    }

    /// Puts an entry in force, in the place of one with the same target, once it is on disk.
    ///
    /// # Errors
    /// The list is as it was.
    pub fn revoke(&self, entry: Entry, now: SystemTime) -> Result<(), RevocationError> {
        let length = entry.reason.chars().count();
        if length > MAX_REASON {
            return Err(RevocationError::LongReason(length));
        }
        let file = self.lock();
        let mut entries = self.entries(now);
        entries.retain(|other| other.target != entry.target);
        if entries.len() >= MAX_ENTRIES {
            return Err(RevocationError::Full);
        }
        entries.push(Arc::new(entry));
        self.replace(&file, entries)
    }

    /// Takes back what was revoked by this very target; a serial without an issuer stands for that of any.
    ///
    /// # Errors
    /// Also when there is no such entry; the list is as it was.
    pub fn unrevoke(&self, target: &Target, now: SystemTime) -> Result<Vec<Arc<Entry>>, RevocationError> {
        let file = self.lock();
        let (gone, stay): (Vec<_>, Vec<_>) =
            self.entries(now).into_iter().partition(|entry| target.covers(&entry.target));
        if gone.is_empty() {
            return Err(RevocationError::NotRevoked(target.to_string()));
        }
        self.replace(&file, stay)?;
        Ok(gone)
    }

    fn replace(&self, file: &Option<ListFile>, entries: Vec<Arc<Entry>>) -> Result<(), RevocationError> {
        if let Some(file) = file {
            file.write(&entries)?;
        }
        self.denied.store(Arc::new(DenyList::new(entries)));
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Option<ListFile>> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
