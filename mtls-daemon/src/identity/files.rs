//! An identity from files: what cert-manager, Vault agents and people write.
//!
//! Reading is all or nothing: a file that is half written gives an error, and the caller keeps what it had.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use zeroize::{Zeroize, Zeroizing};

use super::bundle::{MAX_BUNDLE_BYTES, pem_reason};
use super::leaf::show;
use super::svid::MAX_OWN_CHAIN_BYTES;
use super::{Bundle, BundleError, SvidError, X509Svid};

/// Largest certificate or key file, in bytes: a chain of the largest size in base64, and room for comments.
pub const MAX_FILE_BYTES: usize = 2 * MAX_OWN_CHAIN_BYTES;

/// Where a workload's identity lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityFiles {
    /// The leaf, then its intermediates, as PEM.
    pub certificate: PathBuf,
    /// The private key as PEM (PKCS #8, SEC 1 or PKCS #1).
    pub key: PathBuf,
    /// The roots of the workload's own trust domain as PEM; without it the configuration's are used.
    pub bundle: Option<PathBuf>,
}

/// Why the files are not an identity.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file cannot be read.
    #[error("cannot read the {what} {}: {source}; check the path and that mtlsd may read it", path.display())]
    Io {
        /// "certificate", "key", "bundle", or the name of another secret.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file that is too large to be what it should be.
    #[error("the {what} {} is larger than {limit} bytes; check that the path names the right file", path.display())]
    TooLarge {
        /// "certificate", "key", "bundle", or the name of another secret.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Most bytes that are read.
        limit: usize,
    },
    /// A PEM block that is broken, as in a file that is being written.
    #[error("the {what} {} is not valid PEM: {reason}; write it again (under another name, then rename it)", path.display())]
    Pem {
        /// "certificate" or "key".
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// No `CERTIFICATE` block.
    #[error("{} holds no certificate; write the leaf and then its intermediates as PEM", .0.display())]
    NoCertificate(PathBuf),
    /// No private key block.
    #[error("{} holds no private key; write it as a PEM block PRIVATE KEY", .0.display())]
    NoKey(PathBuf),
    /// A key with a passphrase.
    #[error("the key in {} is encrypted; decrypt it (openssl pkey -in … -out …), mtlsd cannot ask for a passphrase", .0.display())]
    EncryptedKey(PathBuf),
    /// More than one private key block.
    #[error("{} holds {count} private keys; leave only the one of the certificate", path.display())]
    SeveralKeys {
        /// The file.
        path: PathBuf,
        /// How many there are.
        count: usize,
    },
    /// The certificate and the key are not a usable SVID.
    #[error("the certificate {} with the key {key} cannot be used: {source}", certificate.display())]
    Svid {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file, or its place in a token.
        key: String,
        /// Why.
        source: Box<SvidError>,
    },
    /// The bundle is not one.
    #[error("the bundle {} cannot be used: {source}", path.display())]
    Bundle {
        /// The file.
        path: PathBuf,
        /// Why.
        source: BundleError,
    },
}

impl IdentityFiles {
    /// Reads all files; the SVID must be valid at `now`.
    pub fn read(&self, now: SystemTime) -> Result<(X509Svid, Option<Bundle>), FilesError> {
        let chain = read_chain(&self.certificate)?;
        let key = read_key(&self.key)?;
        let svid = X509Svid::from_der(chain, &key, now).map_err(|source| FilesError::Svid {
            certificate: self.certificate.clone(),
            key: self.key.display().to_string(),
            source: Box::new(source),
        })?;
        let bundle = self.bundle.as_deref().map(read_bundle).transpose()?;
        Ok((svid, bundle))
    }

    /// Every file that is read.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        [&self.certificate, &self.key].into_iter().chain(&self.bundle).cloned().collect()
    }
}

/// Reads a bundle file, as in `trust.bundles` of the configuration.
pub fn read_bundle(path: &Path) -> Result<Bundle, FilesError> {
    let content = read("bundle", path, MAX_BUNDLE_BYTES)?;
    Bundle::from_pem(&content).map_err(|source| FilesError::Bundle { path: path.to_owned(), source })
}

pub(super) fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, FilesError> {
    let content = read("certificate", path, MAX_FILE_BYTES)?;
    let mut chain = Vec::new();
    for block in blocks("certificate", path, &content) {
        let (kind, mut der) = block?;
        match kind {
            SectionKind::Certificate => chain.push(CertificateDer::from(der)),
            // A file that holds the pair is common; the key is read from where the configuration says.
            _ => der.zeroize(),
        }
    }
    if chain.is_empty() {
        return Err(FilesError::NoCertificate(path.to_owned()));
    }
    Ok(chain)
}

// What is held here is wiped; the base64 text inside the PEM parser is freed without that.
fn read_key(path: &Path) -> Result<Zeroizing<PrivateKeyDer<'static>>, FilesError> {
    let content = read("key", path, MAX_FILE_BYTES)?;
    let mut found = None;
    let mut count = 0_usize;
    for block in blocks("key", path, &content) {
        let (kind, der) = block?;
        if let Some(key) = PrivateKeyDer::from_pem(kind, der) {
            found = Some(Zeroizing::new(key));
            count += 1;
        }
    }
    let encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----";
    let legacy = b"Proc-Type: 4,ENCRYPTED";
    let has = |text: &[u8]| content.windows(text.len()).any(|window| window == text);
    match found {
        _ if count > 1 => Err(FilesError::SeveralKeys { path: path.to_owned(), count }),
        _ if has(encrypted) || has(legacy) => Err(FilesError::EncryptedKey(path.to_owned())),
        Some(key) => Ok(key),
        None => Err(FilesError::NoKey(path.to_owned())),
    }
}

fn blocks<'a>(
    what: &'static str,
    path: &'a Path,
    content: &'a [u8],
) -> impl Iterator<Item = Result<(SectionKind, Vec<u8>), FilesError>> + 'a {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(content).map(move |block| {
        block.map_err(|error: pem::Error| FilesError::Pem {
            what,
            path: path.to_owned(),
            reason: show(&pem_reason(&error)),
        })
    })
}

/// Reads a regular file of bounded size into memory that is wiped.
pub(crate) fn read(what: &'static str, path: &Path, limit: usize) -> Result<Zeroizing<Vec<u8>>, FilesError> {
    let failed = |source| FilesError::Io { what, path: path.to_owned(), source };
    // Asked before opening: to open a FIFO would block until somebody writes to it.
    if !std::fs::metadata(path).map_err(failed)?.is_file() {
        return Err(failed(std::io::Error::other("it is not a regular file")));
    }
    let file = File::open(path).map_err(failed)?;
    // The whole limit at once: growing would leave unwiped copies of a key behind.
    let mut content = Zeroizing::new(Vec::with_capacity(limit + 1));
    let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(most).read_to_end(&mut content).map_err(failed)?;
    if content.len() > limit {
        return Err(FilesError::TooLarge { what, path: path.to_owned(), limit });
    }
    Ok(content)
}

#[cfg(test)]
mod tests;
