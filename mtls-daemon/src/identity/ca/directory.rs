//! The CA's directory: the lock, what makes it whole, and the steps from one CA to the next.

mod files;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use self::files::{exists, io, read, remove, remove_directory};
pub(super) use self::files::{pem, pem_block};
use super::key::TOKEN;
use super::{CaError, Phase};
use crate::identity::TrustDomain;

pub(super) const ROOT_CRT: &str = "root.crt";
pub(super) const ROOT_KEY: &str = "root.key";
pub(super) const INTERMEDIATE_CRT: &str = "intermediate.crt";
pub(super) const INTERMEDIATE_KEY: &str = "intermediate.key";
/// There when a PKI elsewhere has signed the intermediate: the trust domain, which its root need not name.
pub(super) const TRUST_DOMAIN: &str = "trust-domain";
const FILES: [&str; 4] = [ROOT_CRT, ROOT_KEY, INTERMEDIATE_CRT, INTERMEDIATE_KEY];
/// What one CA has and another has not.
const OPTIONAL: [&str; 5] = [ROOT_KEY, OFFLINE, INTERMEDIATE_KEY, TOKEN, TRUST_DOMAIN];
/// There while a CA is being made; one that is found later tells of a crash in between.
const MARKER: &str = "creating";
const LOCK: &str = "lock";
/// There when the root's key is kept elsewhere: its absence is then no damage.
const OFFLINE: &str = "root.offline";
const OFFLINE_TEXT: &str =
    "The key of this CA's root is kept elsewhere, see `mtlsd ca renew-intermediate --help`.\n";
/// What the marker says when the CA that is being made has an offline root.
const MAKING_OFFLINE: &str = "offline";
/// The second CA of a rotation.
const NEXT: &str = "next";
/// The same while it is being made.
const MAKING_NEXT: &str = "next.new";
/// There when the second CA issues.
const ISSUING: &str = "issuing";
/// A key whose certificate a PKI elsewhere is asked for.
pub(super) const REQUESTED: &str = "requested";
/// The same while it is being made.
const MAKING_REQUEST: &str = "requested.new";
/// There while the second CA moves to the place of the first; says which of the optional files it has.
const FINISHING: &str = "finishing";

const DIRECTORY_MODE: u32 = 0o700;
const KEY_MODE: u32 = 0o600;
const CERTIFICATE_MODE: u32 = 0o644;
/// Largest file that is read, in bytes.
const MAX_FILE: u64 = 65_536;

pub(super) struct Directory(PathBuf);

impl Directory {
    /// Makes the directory if it does not exist, and refuses one that others may write to.
    pub(super) fn open(path: &Path) -> Result<Self, CaError> {
        let directory = Self(path.to_owned());
        DirBuilder::new()
            .recursive(true)
            .mode(DIRECTORY_MODE)
            .create(path)
            .map_err(io("create the directory", path))?;
        let mode = fs::metadata(path).map_err(io("look at", path))?.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(CaError::TooOpen { path: path.to_owned(), mode, want: DIRECTORY_MODE });
        }
        Ok(directory)
    }

    /// One that is there; nothing is made.
    pub(super) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(super) fn root(&self) -> &Path {
        &self.0
    }

    pub(super) fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    /// Waits for another daemon that makes or renews the same CA.
    pub(super) fn lock(&self) -> Result<Flock<File>, CaError> {
        let path = self.path(LOCK);
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(KEY_MODE)
            .open(&path)
            .map_err(io("open", &path))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| io("lock", &path)(errno.into()))
    }

    /// True if there is no CA here and one is to be made. The caller holds the lock.
    pub(super) fn begin(&self, offline: bool) -> Result<bool, CaError> {
        let marker = self.path(MARKER);
        if exists(&marker)? {
            if read(&marker)?.0.as_slice() == MAKING_OFFLINE.as_bytes() {
                // Half of it is elsewhere, and an online root is not what was asked for.
                return Err(CaError::Interrupted(self.0.clone()));
            }
            // A crash in the middle: nothing was issued from these files, since `finish` was not reached.
            for file in FILES {
                remove(&self.path(file))?;
            }
        } else {
            let files = self.files()?;
            let mut missing = Vec::new();
            for file in &files {
                if !exists(&self.path(file))? {
                    missing.push(*file);
                }
            }
            match missing.first() {
                None => return Ok(false),
                Some(file) if missing.len() < files.len() => return Err(CaError::Missing(self.path(file))),
                Some(_) if exists(&self.path(REQUESTED))? => {
                    return Err(CaError::AwaitsImport(self.0.clone()));
                }
                Some(_) => {}
            }
        }
        let marker = if offline { MAKING_OFFLINE } else { "" };
        self.write(MARKER, marker.as_bytes(), KEY_MODE)?;
        Ok(true)
    }

    /// What a whole CA of this kind has.
    fn files(&self) -> Result<Vec<&'static str>, CaError> {
        let mut files = vec![ROOT_CRT, INTERMEDIATE_CRT];
        if !self.is_offline()? {
            files.push(ROOT_KEY);
        }
        files.push(if exists(&self.path(TOKEN))? { TOKEN } else { INTERMEDIATE_KEY });
        Ok(files)
    }

    /// The CA is complete.
    pub(super) fn finish(&self) -> Result<(), CaError> {
        remove(&self.path(MARKER))?;
        self.sync()
    }

    pub(super) fn is_offline(&self) -> Result<bool, CaError> {
        Ok(exists(&self.path(OFFLINE))? || self.is_of_site()?)
    }

    /// Has a PKI elsewhere signed the intermediate?
    pub(super) fn is_of_site(&self) -> Result<bool, CaError> {
        exists(&self.path(TRUST_DOMAIN))
    }

    /// The trust domain of a CA whose intermediate a PKI elsewhere has signed.
    pub(super) fn site_domain(&self) -> Result<Option<TrustDomain>, CaError> {
        let Some(content) = self.read_unshared(TRUST_DOMAIN)? else { return Ok(None) };
        let domain = std::str::from_utf8(&content).ok().and_then(|text| text.trim().parse().ok());
        domain.map(Some).ok_or_else(|| CaError::Unreadable {
            path: self.path(TRUST_DOMAIN),
            reason: "it is no name of a trust domain".to_owned(),
        })
    }

    pub(super) fn set_site_domain(&self, domain: &TrustDomain) -> Result<(), CaError> {
        self.write(TRUST_DOMAIN, format!("{domain}\n").as_bytes(), CERTIFICATE_MODE)
    }

    /// Where a key waits for its certificate; `None`: none does.
    pub(super) fn requested(&self) -> Result<Option<Self>, CaError> {
        let path = self.path(REQUESTED);
        Ok(exists(&path)?.then_some(Self(path)))
    }

    /// Makes a request aside and gives it its name when it is whole. The caller holds the lock.
    pub(super) fn add_request<T>(
        &self,
        make: impl FnOnce(&Self) -> Result<T, CaError>,
    ) -> Result<T, CaError> {
        self.add(MAKING_REQUEST, REQUESTED, make)
    }

    /// What was asked for is whole now: it becomes the second CA, or the first if there is none. The caller holds the
    /// lock.
    pub(super) fn take_request(&self) -> Result<(), CaError> {
        let (from, to) = (self.path(REQUESTED), self.path(NEXT));
        let first = !exists(&self.path(ROOT_CRT))?;
        if first {
            // Before the rename: a crash in between leaves the request, and nothing else.
            self.write(FINISHING, Self(from.clone()).optional()?.as_bytes(), KEY_MODE)?;
        }
        fs::rename(&from, &to).map_err(io("rename to", &to))?;
        self.sync()?;
        if first { self.complete_rotation() } else { Ok(()) }
    }

    /// The root's key is not here.
    pub(super) fn mark_offline(&self) -> Result<(), CaError> {
        self.write(OFFLINE, OFFLINE_TEXT.as_bytes(), CERTIFICATE_MODE)
    }

    pub(super) fn has_certificate(&self) -> Result<bool, CaError> {
        exists(&self.path(ROOT_CRT))
    }

    pub(super) fn has_root(&self) -> Result<bool, CaError> {
        Ok(exists(&self.path(ROOT_KEY))? || exists(&self.path(ROOT_CRT))?)
    }

    /// Where the second CA of a rotation is.
    pub(super) fn next(&self) -> Self {
        Self(self.path(NEXT))
    }

    /// How far a rotation is. The caller holds the lock.
    pub(super) fn phase(&self) -> Result<Phase, CaError> {
        Ok(match (exists(&self.path(NEXT))?, exists(&self.next().path(ISSUING))?) {
            (false, _) => Phase::Steady,
            (true, false) => Phase::Begun,
            (true, true) => Phase::Switched,
        })
    }

    /// Where the CA is that issues in this phase.
    pub(super) fn issuing(&self, phase: Phase) -> Self {
        match phase {
            Phase::Switched => self.next(),
            Phase::Steady | Phase::Begun => Self(self.0.clone()),
        }
    }

    /// Makes the second CA aside and gives it its name when it is whole. The caller holds the lock.
    pub(super) fn add_next(&self, make: impl FnOnce(&Self) -> Result<(), CaError>) -> Result<(), CaError> {
        self.add(MAKING_NEXT, NEXT, make)
    }

    fn add<T>(
        &self,
        making: &str,
        name: &str,
        make: impl FnOnce(&Self) -> Result<T, CaError>,
    ) -> Result<T, CaError> {
        let aside = self.path(making);
        remove_directory(&aside)?;
        let directory = Self::open(&aside)?;
        let made = make(&directory)?;
        directory.sync()?;
        let path = self.path(name);
        fs::rename(&aside, &path).map_err(io("rename to", &path))?;
        self.sync()?;
        Ok(made)
    }

    /// From now on the second CA issues. The caller holds the lock.
    pub(super) fn switch(&self) -> Result<(), CaError> {
        self.next().write(ISSUING, b"", KEY_MODE)
    }

    /// The second CA takes the place of the first, whose files go. The caller holds the lock.
    pub(super) fn finish_rotation(&self) -> Result<(), CaError> {
        self.write(FINISHING, self.next().optional()?.as_bytes(), KEY_MODE)?;
        self.complete_rotation()
    }

    /// Which of the optional files are here, one a line.
    fn optional(&self) -> Result<String, CaError> {
        let mut text = String::new();
        for file in OPTIONAL {
            if exists(&self.path(file))? {
                text.push_str(file);
                text.push('\n');
            }
        }
        Ok(text)
    }

    /// Goes on with [`Self::finish_rotation`] if a crash has cut it short. The caller holds the lock.
    pub(super) fn complete_rotation(&self) -> Result<(), CaError> {
        let marker = self.path(FINISHING);
        if !exists(&marker)? {
            return Ok(());
        }
        let kept = read(&marker)?.0;
        let kept: Vec<_> = kept.split(|byte| *byte == b'\n').collect();
        let next = self.next();
        for file in [ROOT_CRT, INTERMEDIATE_CRT].into_iter().chain(OPTIONAL) {
            let (from, to) = (next.path(file), self.path(file));
            // What is not there was moved before the crash, or there is none.
            if exists(&from)? {
                fs::rename(&from, &to).map_err(io("rename to", &to))?;
            }
        }
        // The first CA's, which the second has none of.
        for file in OPTIONAL.into_iter().filter(|file| !kept.contains(&file.as_bytes())) {
            remove(&self.path(file))?;
        }
        self.sync()?;
        remove_directory(&self.path(NEXT))?;
        self.sync()?;
        remove(&marker)?;
        self.sync()
    }

    /// Files whose change means another CA, another phase, or that a certificate of the daemon may be revoked.
    pub(super) fn watched(&self) -> Vec<PathBuf> {
        let next = self.next();
        let own = [ROOT_CRT, INTERMEDIATE_CRT, TOKEN, NEXT, super::revoke::FILE].map(|file| self.path(file));
        let second = [ROOT_CRT, INTERMEDIATE_CRT, TOKEN, ISSUING].map(|file| next.path(file));
        own.into_iter().chain(second).collect()
    }
}
