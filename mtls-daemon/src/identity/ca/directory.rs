//! The CA's directory: permissions, the lock, atomic writes, and reading back.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use rcgen::{KeyPair, PublicKeyData};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::{Zeroize, Zeroizing};

use super::{CaError, Phase};
use crate::identity::key::SecretKey;
use crate::identity::leaf::show;

pub(super) const ROOT_CRT: &str = "root.crt";
pub(super) const ROOT_KEY: &str = "root.key";
pub(super) const INTERMEDIATE_CRT: &str = "intermediate.crt";
pub(super) const INTERMEDIATE_KEY: &str = "intermediate.key";
const FILES: [&str; 4] = [ROOT_CRT, ROOT_KEY, INTERMEDIATE_CRT, INTERMEDIATE_KEY];
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
/// There while the second CA moves to the place of the first; says whether its root is offline.
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
            let mut missing = Vec::new();
            for file in FILES {
                if !exists(&self.path(file))? && (file != ROOT_KEY || !self.is_offline()?) {
                    missing.push(file);
                }
            }
            match missing.first() {
                None => return Ok(false),
                Some(file) if missing.len() < FILES.len() => return Err(CaError::Missing(self.path(file))),
                Some(_) => {}
            }
        }
        let marker = if offline { MAKING_OFFLINE } else { "" };
        self.write(MARKER, marker.as_bytes(), KEY_MODE)?;
        Ok(true)
    }

    /// The CA is complete.
    pub(super) fn finish(&self) -> Result<(), CaError> {
        remove(&self.path(MARKER))?;
        self.sync()
    }

    pub(super) fn is_offline(&self) -> Result<bool, CaError> {
        exists(&self.path(OFFLINE))
    }

    /// The root's key is not here.
    pub(super) fn mark_offline(&self) -> Result<(), CaError> {
        self.write(OFFLINE, OFFLINE_TEXT.as_bytes(), CERTIFICATE_MODE)
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

    /// Makes the second CA aside and gives it its name when it is whole. The caller holds the lock.
    pub(super) fn add_next(&self, make: impl FnOnce(&Self) -> Result<(), CaError>) -> Result<(), CaError> {
        let aside = self.path(MAKING_NEXT);
        remove_directory(&aside)?;
        let directory = Self::open(&aside)?;
        make(&directory)?;
        directory.sync()?;
        let next = self.path(NEXT);
        fs::rename(&aside, &next).map_err(io("rename to", &next))?;
        self.sync()
    }

    /// From now on the second CA issues. The caller holds the lock.
    pub(super) fn switch(&self) -> Result<(), CaError> {
        self.next().write(ISSUING, b"", KEY_MODE)
    }

    /// The second CA takes the place of the first, whose files go. The caller holds the lock.
    pub(super) fn finish_rotation(&self) -> Result<(), CaError> {
        let offline = if self.next().is_offline()? { MAKING_OFFLINE } else { "" };
        self.write(FINISHING, offline.as_bytes(), KEY_MODE)?;
        self.complete_rotation()
    }

    /// Goes on with [`Self::finish_rotation`] if a crash has cut it short. The caller holds the lock.
    pub(super) fn complete_rotation(&self) -> Result<(), CaError> {
        let marker = self.path(FINISHING);
        if !exists(&marker)? {
            return Ok(());
        }
        let offline = read(&marker)?.0.as_slice() == MAKING_OFFLINE.as_bytes();
        let next = self.next();
        for file in FILES.into_iter().chain([OFFLINE]) {
            let (from, to) = (next.path(file), self.path(file));
            // What is not there was moved before the crash, or there is none.
            if exists(&from)? {
                fs::rename(&from, &to).map_err(io("rename to", &to))?;
            }
        }
        remove(&self.path(if offline { ROOT_KEY } else { OFFLINE }))?;
        self.sync()?;
        remove_directory(&self.path(NEXT))?;
        self.sync()?;
        remove(&marker)?;
        self.sync()
    }

    /// Files whose change means another CA, another phase, or that a certificate of the daemon may be revoked.
    pub(super) fn watched(&self) -> Vec<PathBuf> {
        let next = self.next();
        let own = [ROOT_CRT, INTERMEDIATE_CRT, NEXT, super::revoke::FILE].map(|file| self.path(file));
        let second = [ROOT_CRT, INTERMEDIATE_CRT, ISSUING].map(|file| next.path(file));
        own.into_iter().chain(second).collect()
    }

    /// Reads a small file of the CA's; `None` if there is none.
    pub(super) fn read(&self, file: &str) -> Result<Option<Zeroizing<Vec<u8>>>, CaError> {
        match read(&self.path(file)) {
            Ok((content, _)) => Ok(Some(content)),
            Err(CaError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) fn write_private(&self, file: &str, content: &[u8]) -> Result<(), CaError> {
        self.write(file, content, KEY_MODE)
    }

    pub(super) fn write_certificate(&self, file: &str, der: &CertificateDer<'_>) -> Result<(), CaError> {
        self.write(file, pem(der).as_bytes(), CERTIFICATE_MODE)
    }

    pub(super) fn write_key(&self, file: &str, key: &KeyPair) -> Result<(), CaError> {
        let pem = Zeroizing::new(key.serialize_pem());
        self.write(file, pem.as_bytes(), KEY_MODE)
    }

    /// Writes beside the file and renames, so that a reader sees the old content or the new.
    fn write(&self, file: &str, content: &[u8], mode: u32) -> Result<(), CaError> {
        let (path, temporary) = (self.path(file), self.path(&format!("{file}.new")));
        remove(&temporary)?;
        let mut output = OpenOptions::new()
            .create_new(true)
            .write(true)
            .mode(mode)
            .open(&temporary)
            .map_err(io("create", &temporary))?;
        output.write_all(content).map_err(io("write", &temporary))?;
        output.sync_all().map_err(io("sync", &temporary))?;
        fs::rename(&temporary, &path).map_err(io("rename to", &path))?;
        self.sync()
    }

    fn sync(&self) -> Result<(), CaError> {
        File::open(&self.0).and_then(|directory| directory.sync_all()).map_err(io("sync", &self.0))
    }

    pub(super) fn root_certificate(&self) -> Result<CertificateDer<'static>, CaError> {
        self.certificate(ROOT_CRT)
    }

    pub(super) fn certificate(&self, file: &str) -> Result<CertificateDer<'static>, CaError> {
        let path = self.path(file);
        let (content, _) = read(&path)?;
        let unreadable = |reason: String| CaError::Unreadable { path: path.clone(), reason };
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
        match certificates.map_err(|error| unreadable(show(&error.to_string())))?.as_slice() {
            [one] => Ok(one.clone()),
            other => Err(unreadable(format!("it holds {} certificates instead of one", other.len()))),
        }
    }

    /// The key in `file`, if it is that of the certificate and nobody else may read it.
    pub(super) fn key(
        &self,
        file: &str,
        certificate_file: &str,
        certificate: &CertificateDer<'_>,
    ) -> Result<SecretKey, CaError> {
        let path = self.path(file);
        let (content, mode) = read(&path)?;
        if mode & 0o077 != 0 {
            return Err(CaError::TooOpen { path, mode, want: KEY_MODE });
        }
        let unreadable = |reason: String| CaError::Unreadable { path: path.clone(), reason };
        let mut der = PrivateKeyDer::from_pem_slice(&content)
            .map_err(|error| unreadable(format!("it holds no private key ({})", show(&error.to_string()))))?;
        let pair = KeyPair::try_from(der.secret_der());
        der.zeroize();
        let key = SecretKey::new(pair.map_err(|error| unreadable(error.to_string()))?);
        let parsed = webpki::EndEntityCert::try_from(certificate).map_err(|error| CaError::Unreadable {
            path: self.path(certificate_file),
            reason: format!("{error:?}"),
        })?;
        if parsed.subject_public_key_info().as_ref() != key.pair().subject_public_key_info() {
            return Err(CaError::KeyMismatch { key: path, certificate: self.path(certificate_file) });
        }
        Ok(key)
    }
}

/// A certificate as a PEM block.
pub(super) fn pem(der: &CertificateDer<'_>) -> String {
    pem_block("CERTIFICATE", der)
}

/// A PEM block.
pub(super) fn pem_block(tag: &str, der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(tag, der), config)
}

fn read(path: &Path) -> Result<(Zeroizing<Vec<u8>>, u32), CaError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(CaError::Missing(path.to_owned()));
        }
        Err(error) => return Err(io("open", path)(error)),
    };
    let mode = file.metadata().map_err(io("look at", path))?.mode() & 0o7777;
    // The whole limit at once: growing would leave unwiped copies of a key behind.
    let mut content = Zeroizing::new(Vec::with_capacity(usize::try_from(MAX_FILE).unwrap_or(0) + 1));
    file.take(MAX_FILE + 1).read_to_end(&mut content).map_err(io("read", path))?;
    if u64::try_from(content.len()).unwrap_or(u64::MAX) > MAX_FILE {
        return Err(CaError::Unreadable {
            path: path.to_owned(),
            reason: format!("it is larger than {MAX_FILE} bytes"),
        });
    }
    Ok((content, mode))
}

fn exists(path: &Path) -> Result<bool, CaError> {
    path.try_exists().map_err(io("look at", path))
}

fn remove(path: &Path) -> Result<(), CaError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", path)(error)),
        _ => Ok(()),
    }
}

fn remove_directory(path: &Path) -> Result<(), CaError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", path)(error)),
        _ => Ok(()),
    }
}

fn io(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> CaError {
    let path = path.to_owned();
    move |source| CaError::Io { action, path: path.clone(), source }
}
