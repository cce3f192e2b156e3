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

use super::CaError;
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
    pub(super) fn begin(&self) -> Result<bool, CaError> {
        let marker = self.path(MARKER);
        if exists(&marker)? {
            // A crash in the middle: nothing was issued from these files, since `finish` was not reached.
            for file in FILES {
                remove(&self.path(file))?;
            }
        } else {
            let mut missing = Vec::new();
            for file in FILES {
                if !exists(&self.path(file))? {
                    missing.push(file);
                }
            }
            match missing.first() {
                None => return Ok(false),
                Some(file) if missing.len() < FILES.len() => return Err(CaError::Missing(self.path(file))),
                Some(_) => {}
            }
        }
        self.write(MARKER, b"", KEY_MODE)?;
        Ok(true)
    }

    /// The CA is complete.
    pub(super) fn finish(&self) -> Result<(), CaError> {
        remove(&self.path(MARKER))?;
        self.sync()
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
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new("CERTIFICATE", der.as_ref()), config)
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

fn io(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> CaError {
    let path = path.to_owned();
    move |source| CaError::Io { action, path: path.clone(), source }
}
