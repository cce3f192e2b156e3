//! The files of a CA's directory: permissions, atomic writes, and reading back.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rcgen::KeyPair;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::{Zeroize, Zeroizing};

use super::{CERTIFICATE_MODE, Directory, INTERMEDIATE_CRT, KEY_MODE, MAX_FILE, ROOT_CRT};
use crate::identity::ca::{CaError, key};
use crate::identity::key::{OwnKey, SecretKey};
use crate::identity::leaf::show;
use crate::identity::svid::MAX_OWN_CHAIN;

impl Directory {
    /// Reads a small file of the CA's; `None` if there is none.
    pub(in crate::identity::ca) fn read(&self, file: &str) -> Result<Option<Zeroizing<Vec<u8>>>, CaError> {
        match read(&self.path(file)) {
            Ok((content, _)) => Ok(Some(content)),
            Err(CaError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The same for one that nobody else may have written.
    pub(in crate::identity::ca) fn read_unshared(
        &self,
        file: &str,
    ) -> Result<Option<Zeroizing<Vec<u8>>>, CaError> {
        let path = self.path(file);
        match read(&path) {
            Ok((_, mode)) if mode & 0o022 != 0 => Err(CaError::TooOpen { path, mode, want: KEY_MODE }),
            Ok((content, _)) => Ok(Some(content)),
            Err(CaError::Missing(_)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(in crate::identity::ca) fn write_private(&self, file: &str, content: &[u8]) -> Result<(), CaError> {
        self.write(file, content, KEY_MODE)
    }

    pub(in crate::identity::ca) fn write_certificate(
        &self,
        file: &str,
        der: &CertificateDer<'_>,
    ) -> Result<(), CaError> {
        self.write_chain(file, std::slice::from_ref(der))
    }

    pub(in crate::identity::ca) fn write_chain(
        &self,
        file: &str,
        chain: &[CertificateDer<'_>],
    ) -> Result<(), CaError> {
        let text: String = chain.iter().map(|der| pem(der)).collect();
        self.write(file, text.as_bytes(), CERTIFICATE_MODE)
    }

    pub(in crate::identity::ca) fn write_key(&self, file: &str, key: &KeyPair) -> Result<(), CaError> {
        let pem = Zeroizing::new(key.serialize_pem());
        self.write(file, pem.as_bytes(), KEY_MODE)
    }

    /// Writes beside the file and renames, so that a reader sees the old content or the new.
    pub(super) fn write(&self, file: &str, content: &[u8], mode: u32) -> Result<(), CaError> {
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

    pub(super) fn sync(&self) -> Result<(), CaError> {
        File::open(&self.0).and_then(|directory| directory.sync_all()).map_err(io("sync", &self.0))
    }

    pub(in crate::identity::ca) fn root_certificate(&self) -> Result<CertificateDer<'static>, CaError> {
        let (root, above) = self.certificates(ROOT_CRT)?;
        match above.len() {
            0 => Ok(root),
            more => Err(CaError::Unreadable {
                path: self.path(ROOT_CRT),
                reason: format!("it holds {} certificates instead of one", more + 1),
            }),
        }
    }

    /// The intermediate, and those between it and the root.
    pub(in crate::identity::ca) fn intermediate(
        &self,
    ) -> Result<(CertificateDer<'static>, Vec<CertificateDer<'static>>), CaError> {
        self.certificates(INTERMEDIATE_CRT)
    }

    fn certificates(
        &self,
        file: &str,
    ) -> Result<(CertificateDer<'static>, Vec<CertificateDer<'static>>), CaError> {
        let path = self.path(file);
        let (content, _) = read(&path)?;
        let unreadable = |reason: String| CaError::Unreadable { path: path.clone(), reason };
        let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&content).collect();
        let mut all = all.map_err(|error| unreadable(show(&error.to_string())))?.into_iter();
        match (all.next(), all.len()) {
            (Some(first), above) if above + 1 < MAX_OWN_CHAIN => Ok((first, all.collect())),
            (first, above) => {
                let count = usize::from(first.is_some()) + above;
                Err(unreadable(format!("it holds {count} certificates instead of one")))
            }
        }
    }

    /// The key in `file`, if it is that of the certificate and nobody else may read it.
    pub(in crate::identity::ca) fn key(
        &self,
        file: &str,
        certificate_file: &str,
        certificate: &CertificateDer<'_>,
    ) -> Result<OwnKey, CaError> {
        let key = self.any_key(file)?;
        let key = OwnKey::Memory(key);
        if webpki::EndEntityCert::try_from(certificate).is_err() {
            let reason = "it cannot be parsed".to_owned();
            return Err(CaError::Unreadable { path: self.path(certificate_file), reason });
        }
        if !key::fits(&key, certificate) {
            let key = self.path(file);
            return Err(CaError::KeyMismatch { key, certificate: self.path(certificate_file) });
        }
        Ok(key)
    }

    /// The key in `file`, whosever it is, if nobody else may read it.
    pub(in crate::identity::ca) fn any_key(&self, file: &str) -> Result<SecretKey, CaError> {
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
        Ok(SecretKey::new(pair.map_err(|error| unreadable(error.to_string()))?))
    }
}

/// A certificate as a PEM block.
pub(in crate::identity::ca) fn pem(der: &CertificateDer<'_>) -> String {
    pem_block("CERTIFICATE", der)
}

/// A PEM block.
pub(in crate::identity::ca) fn pem_block(tag: &str, der: &[u8]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    pem::encode_config(&pem::Pem::new(tag, der), config)
}

pub(super) fn read(path: &Path) -> Result<(Zeroizing<Vec<u8>>, u32), CaError> {
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

pub(super) fn exists(path: &Path) -> Result<bool, CaError> {
    path.try_exists().map_err(io("look at", path))
}

pub(super) fn remove(path: &Path) -> Result<(), CaError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", path)(error)),
        _ => Ok(()),
    }
}

pub(super) fn remove_directory(path: &Path) -> Result<(), CaError> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io("remove", path)(error)),
        _ => Ok(()),
    }
}

pub(super) fn io(action: &'static str, path: &Path) -> impl Fn(std::io::Error) -> CaError {
    let path = path.to_owned();
    move |source| CaError::Io { action, path: path.clone(), source }
}
