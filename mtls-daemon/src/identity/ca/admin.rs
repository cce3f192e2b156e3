//! What an administrator does with the directory of a CA, while a daemon may be running with it.
//!
//! Every step holds the directory's lock and is one rename or can be gone on with, so that a crash at any point
//! leaves a CA that works.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::Serialize;

use super::authority::{self, Authority};
use super::directory::Directory;
use super::log::{Entry, IssuanceLog, Kind};
use super::revoke::{self, RevocationReason, Revocations};
use super::{CaError, CaStatus, NewKey, Phase, State, key};
use crate::identity::{TrustDomain, when};

/// Which certificates are meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// The one with this serial, in hex.
    Serial(String),
    /// All of this SPIFFE ID.
    SpiffeId(String),
}

/// A certificate in a listing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listed {
    /// Its line in the issuance log.
    #[serde(flatten)]
    pub entry: Entry,
    /// Is it before its `notAfter`?
    pub expired: bool,
    /// Was it revoked?
    pub revoked: bool,
}

/// What a CA is and what it has issued.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listing {
    /// The CA.
    pub ca: CaStatus,
    /// What it has issued, the oldest first; what has expired is there until the log is rotated.
    pub certificates: Vec<Listed>,
    /// Lines of the log that cannot be read.
    pub unreadable_lines: usize,
}

/// CRLs in PEM, one after the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Crls {
    /// The blocks.
    pub pem: String,
    /// The `cRLNumber` that they all have.
    pub number: u64,
    /// CN of each issuer.
    pub issuers: Vec<String>,
    /// Certificates in them.
    pub revoked: usize,
}

/// A CA in its directory, as its administrator sees it.
#[derive(Debug)]
pub struct CaDirectory {
    pub(super) path: PathBuf,
    pub(super) trust_domain: TrustDomain,
    pub(super) log: IssuanceLog,
}

impl CaDirectory {
    /// One that is there.
    ///
    /// # Errors
    /// When there is none, or its root cannot be read.
    pub fn open(path: &Path) -> Result<Self, CaError> {
        // Before anything is looked at: what a crash has left of a rotation is set right.
        let directory = Directory::at(path);
        directory.root_certificate()?;
        let directory = Directory::open(path)?;
        let lock = directory.lock()?;
        directory.complete_rotation()?;
        let trust_domain = authority::trust_domain_of(&directory)?;
        drop(lock);
        Ok(Self { path: path.to_owned(), trust_domain, log: IssuanceLog::new(path) })
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The trust domain that it issues for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Renews the intermediate with the root's key, which may be in a directory elsewhere.
    ///
    /// # Errors
    /// When the root's key is not there, or belongs to another CA.
    pub fn renew_intermediate(&self, root: Option<&Path>, now: SystemTime) -> Result<SystemTime, CaError> {
        let (directory, _lock) = self.lock()?;
        let home = match root {
            Some(root) => Directory::at(root),
            None => self.issuing(&directory)?,
        };
        let certificate = home.root_certificate()?;
        let mut targets = vec![self.issuing(&directory)?];
        if directory.phase()? == Phase::Begun {
            targets.push(directory.next());
        }
        for target in targets {
            if target.root_certificate()? == certificate {
                if home.root() == target.root() && home.is_offline()? {
                    return Err(CaError::RootElsewhere(home.root().to_owned()));
                }
                authority::renew(
                    &target,
                    &home,
                    &self.trust_domain,
                    &self.log,
                    &by("renew-intermediate"),
                    now,
                )?;
                return Ok(Authority::load(&target, &self.trust_domain, &self.log, now)?
                    .intermediate
                    .not_after);
            }
        }
        Err(CaError::OtherRoot { root: home.root().to_owned(), directory: self.path.clone() })
    }

    /// Makes a second root and intermediate, with a key where `new` says. From now on both roots are in the bundle, and the old one issues.
    ///
    /// # Errors
    /// When a rotation is under way, the directory cannot be written, or a token does not sign.
    pub fn begin(&self, offline_root: Option<&Path>, new: &NewKey, now: SystemTime) -> Result<(), CaError> {
        let (directory, _lock) = self.lock()?;
        self.require(&directory, Phase::Steady)?;
        let token = key::resolve(new, &directory)?;
        let home = offline_root.map(|root| empty_home(root, &self.path)).transpose()?;
        let (domain, log) = (&self.trust_domain, &self.log);
        directory.add_next(|next| {
            authority::create(next, home.as_ref(), token.as_ref(), domain, log, now)?;
            Authority::load(next, domain, log, now)?.prove(next, domain, now)
        })
    }

    /// The second CA issues, and both roots stay in the bundle.
    ///
    /// # Errors
    /// When no rotation has begun, or the second CA is not whole.
    pub fn switch(&self, now: SystemTime) -> Result<(), CaError> {
        let (directory, _lock) = self.lock()?;
        self.require(&directory, Phase::Begun)?;
        let next = directory.next();
        let authority = Authority::load(&next, &self.trust_domain, &self.log, now)?;
        authority.prove(&next, &self.trust_domain, now)?;
        directory.switch()
    }

    /// The old root goes from the bundle, and its files from the disk.
    ///
    /// # Errors
    /// When the second CA does not issue yet, or without `force` while certificates of the old one are valid.
    pub fn finish(&self, force: bool, now: SystemTime) -> Result<(), CaError> {
        let (directory, _lock) = self.lock()?;
        self.require(&directory, Phase::Switched)?;
        Authority::load(&directory.next(), &self.trust_domain, &self.log, now)?;
        let (old, _) = directory.intermediate()?;
        let old = authority::read(&directory, super::directory::INTERMEDIATE_CRT, &old)?.common_name;
        if !force {
            self.nobody_uses(old.as_deref().unwrap_or_default(), now)?;
        }
        directory.finish_rotation()
    }

    fn nobody_uses(&self, issuer: &str, now: SystemTime) -> Result<(), CaError> {
        let entries = self.log.read()?.entries;
        let valid = |entry: &&Entry| entry.issuer == issuer && SystemTime::from(entry.not_after) > now;
        let count = entries.iter().filter(valid).count();
        match entries.iter().filter(valid).map(|entry| entry.not_after).max() {
            Some(last) => Err(CaError::StillInUse { count, until: when::rfc3339(last.into()) }),
            None => Ok(()),
        }
    }

    /// The CA and what it has issued.
    ///
    /// # Errors
    /// When the CA or its log cannot be read.
    pub fn list(&self, now: SystemTime) -> Result<Listing, CaError> {
        let (directory, _lock) = self.lock()?;
        let state = State::load(&directory, &self.trust_domain, &self.log, now)?;
        let revocations = Revocations::read(&directory)?;
        let lines = self.log.read()?;
        let certificates = lines
            .entries
            .into_iter()
            .map(|entry| Listed {
                expired: SystemTime::from(entry.not_after) <= now,
                revoked: revocations.has(&entry.serial),
                entry,
            })
            .collect();
        let ca = state.status(&self.path, None, None, now);
        Ok(Listing { ca, certificates, unreadable_lines: lines.unreadable })
    }

    /// Marks certificates as revoked, for the next CRL. Those that are marked already are not marked again. A running
    /// daemon sees it and takes new certificates for its workloads.
    ///
    /// # Errors
    /// When nothing that is valid is meant, or the directory cannot be written.
    pub fn revoke(
        &self,
        which: &Which,
        reason: RevocationReason,
        now: SystemTime,
    ) -> Result<Vec<Entry>, CaError> {
        let (directory, _lock) = self.lock()?;
        let mut revocations = Revocations::read(&directory)?;
        let (what, plain) = match which {
            Which::Serial(serial) => (serial, revoke::plain_serial(serial)),
            Which::SpiffeId(id) => (id, String::new()),
        };
        let meant = |entry: &Entry| match which {
            Which::Serial(_) => entry.serial == plain,
            // An intermediate has the trust domain's ID and is revoked by its serial only.
            Which::SpiffeId(id) => entry.kind == Kind::Leaf && entry.spiffe_id == *id,
        };
        let mut entries = self.log.read()?.entries;
        entries.retain(|entry| meant(entry) && SystemTime::from(entry.not_after) > now);
        if entries.is_empty() {
            let what = crate::identity::leaf::show(what);
            return Err(CaError::NotIssued { what, directory: self.path.clone() });
        }
        for entry in &entries {
            revocations.add(entry, reason, now);
        }
        revocations.write(&directory)?;
        Ok(entries)
    }

    /// The CRLs of the intermediates, and of the roots whose key is here or in `root`.
    ///
    /// # Errors
    /// When the CA cannot be read, `root` is another CA's, or the number cannot be written.
    pub fn crl(&self, root: Option<&Path>, lifetime: Duration, now: SystemTime) -> Result<Crls, CaError> {
        let (directory, _lock) = self.lock()?;
        let mut sets = vec![Directory::at(&self.path)];
        if directory.phase()? != Phase::Steady {
            sets.push(directory.next());
        }
        let mut revocations = Revocations::read(&directory)?;
        if revocations.forget(now) {
            revocations.write(&directory)?;
        }
        // Before the CRL is given out: two CRLs never have one number.
        let number = revoke::next_number(&directory)?;
        revoke::sign_all(&self.path, &sets, root, &revocations, number, lifetime, now)
    }

    pub(super) fn lock(&self) -> Result<(Directory, nix::fcntl::Flock<std::fs::File>), CaError> {
        let directory = Directory::open(&self.path)?;
        let lock = directory.lock()?;
        directory.complete_rotation()?;
        Ok((directory, lock))
    }

    fn issuing(&self, directory: &Directory) -> Result<Directory, CaError> {
        Ok(directory.issuing(directory.phase()?))
    }

    fn require(&self, directory: &Directory, wanted: Phase) -> Result<(), CaError> {
        let found = directory.phase()?;
        if found == wanted {
            return Ok(());
        }
        Err(CaError::Phase { directory: self.path.clone(), found, wanted })
    }
}

/// A directory for a root's key, which holds no root yet and is not the CA's.
pub(super) fn empty_home(path: &Path, ca: &Path) -> Result<Directory, CaError> {
    let home = Directory::open(path)?;
    // A CA that is not made yet contains nothing.
    if let (Ok(root), Ok(ca)) = (path.canonicalize(), ca.canonicalize())
        && root.starts_with(&ca)
    {
        return Err(CaError::RootInside { root, directory: ca });
    }
    if home.has_root()? {
        return Err(CaError::RootExists(home.path(super::directory::ROOT_KEY)));
    }
    Ok(home)
}

/// Who runs a command, for the log.
#[must_use]
pub fn by(command: &str) -> String {
    format!("mtlsd ca {command}, uid {}", nix::unistd::getuid())
}
