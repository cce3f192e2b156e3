//! The embedded CA: a root and an intermediate in a directory, for demos, tests and small sites.
//!
//! The root's key is read only to sign an intermediate and is not kept in memory. The intermediate is
//! renewed at half of its life with its old key, so that one rename replaces it and a crash cannot leave a
//! pair that does not match.

mod directory;
mod sign;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use rcgen::{Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use zeroize::Zeroizing;

use super::key::SecretKey;
use super::leaf::{Leaf, Unreadable};
use super::{Bundle, BundleError, SpiffeId, SvidError, TrustDomain, X509Svid, when};
use directory::Directory;

/// Life of the root.
pub const ROOT_LIFETIME: Duration = Duration::from_secs(3_650 * 86_400);
/// Life of the intermediate.
pub const INTERMEDIATE_LIFETIME: Duration = Duration::from_secs(365 * 86_400);
/// How far `notBefore` lies in the past, for peers whose clock is behind.
pub const CLOCK_SKEW: Duration = Duration::from_secs(60);

/// Where the embedded CA lives and what it issues.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EmbeddedCaSettings {
    /// Directory of the root and the intermediate; created when it does not exist.
    pub directory: PathBuf,
    /// Life of a workload's certificate.
    pub lifetime: Duration,
    /// The trust domain that it issues for.
    pub trust_domain: TrustDomain,
}

/// Why the embedded CA cannot be used, or cannot issue.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A system call failed.
    #[error("cannot {action} {}: {source}; check that the path is right and that mtlsd may use it", path.display())]
    Io {
        /// What was tried: "read", "create", …
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Others may read a key or change the directory.
    #[error("{} has mode {mode:04o}, so others can get at the CA's keys; run chmod {want:o} {}", path.display(), path.display())]
    TooOpen {
        /// The file or directory.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// What they should be.
        want: u32,
    },
    /// Some files of the CA are there and this one is not.
    #[error("{} is missing while other files of this CA exist; restore it from a backup, or remove the whole directory to make a new CA (every peer then needs the new root)", .0.display())]
    Missing(PathBuf),
    /// A file that is not what it should be.
    #[error("{} cannot be used: {reason}; restore it from a backup", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A key that is not the one of its certificate.
    #[error("{} is not the key of {}; restore the pair from one backup", key.display(), certificate.display())]
    KeyMismatch {
        /// The key's file.
        key: PathBuf,
        /// The certificate's file.
        certificate: PathBuf,
    },
    /// The root's `notAfter` is in the past.
    #[error("the root {} {when}; remove the directory to make a new CA (every peer then needs the new root), or check this node's clock", path.display())]
    Expired {
        /// The root's file.
        path: PathBuf,
        /// How long ago.
        when: String,
    },
    /// The root's `notBefore` is in the future.
    #[error("the root {} is {when}; check this node's clock", path.display())]
    NotYetValid {
        /// The root's file.
        path: PathBuf,
        /// How much longer.
        when: String,
    },
    /// The CA in the directory was made for another trust domain.
    #[error("the CA in {} was made for trust domain {found}, and {wanted} is configured; set trust_domain: {found}, or give the CA another directory", directory.display())]
    OtherTrustDomain {
        /// The directory.
        directory: PathBuf,
        /// What its root says.
        found: TrustDomain,
        /// What the configuration says.
        wanted: TrustDomain,
    },
    /// What the CA issues would be refused by everyone who trusts its root.
    #[error("the intermediate {} was not issued by the root {}; restore both from one backup", intermediate.display(), root.display())]
    BrokenChain {
        /// The intermediate's file.
        intermediate: PathBuf,
        /// The root's file.
        root: PathBuf,
    },
    /// An ID of another trust domain, or of the trust domain itself.
    #[error("{id} cannot be issued by the CA of trust domain {domain}; use spiffe://{domain}/<path>")]
    ForeignId {
        /// The ID.
        id: SpiffeId,
        /// What the CA issues for.
        domain: TrustDomain,
    },
    /// A text that is no DNS name.
    #[error("{0:?} is not a DNS name; give dns_names as host names such as web.example.org")]
    DnsName(String),
    /// Key generation or signing failed.
    #[error("cannot {action}: {reason}; the system may be out of memory or random numbers")]
    Crypto {
        /// What was tried.
        action: &'static str,
        /// What the library said.
        reason: String,
    },
    /// The root is not a usable bundle.
    #[error("the root cannot be used as a trust bundle: {0}")]
    Bundle(#[from] BundleError),
    /// What was issued is not a usable SVID.
    #[error("what was issued cannot be used: {0}")]
    Svid(#[from] SvidError),
}

/// A certificate chain and its key as files hold them.
pub struct IssuedPem {
    /// The leaf, then the intermediate.
    pub chain: String,
    /// The key in PKCS #8; wiped when dropped.
    pub key: Zeroizing<String>,
}

impl fmt::Debug for IssuedPem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedPem").field("chain", &self.chain).finish_non_exhaustive()
    }
}

/// The certificate that signs leaves, with its key.
struct Intermediate {
    der: CertificateDer<'static>,
    key: SecretKey,
    not_before: SystemTime,
    not_after: SystemTime,
}

impl Intermediate {
    fn renew_at(&self) -> SystemTime {
        self.not_before
            .checked_add(when::between(self.not_before, self.not_after) / 2)
            .unwrap_or(self.not_after)
    }
}

/// A CA that issues for the workloads of this node.
pub struct EmbeddedCa {
    settings: EmbeddedCaSettings,
    root: CertificateDer<'static>,
    bundle: Bundle,
    intermediate: ArcSwap<Intermediate>,
}

impl EmbeddedCa {
    /// Opens the CA in the directory, and makes it on first use. Two daemons may do this at the same time.
    pub fn open(settings: EmbeddedCaSettings, now: SystemTime) -> Result<Self, CaError> {
        let directory = Directory::open(&settings.directory)?;
        let lock = directory.lock()?;
        if directory.begin()? {
            sign::create(&directory, &settings.trust_domain, now)?;
        }
        let root = directory.root_certificate()?;
        check_root(&directory, &root, &settings, now)?;
        let bundle = Bundle::from_der(vec![root.clone()])?;
        let intermediate = Self::load_intermediate(&directory, &bundle, &settings.trust_domain, now)?;
        drop(lock);
        Ok(Self { settings, root, bundle, intermediate: ArcSwap::from_pointee(intermediate) })
    }

    fn load_intermediate(
        directory: &Directory,
        bundle: &Bundle,
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<Intermediate, CaError> {
        let path = directory.path(directory::INTERMEDIATE_CRT);
        let current = Self::read_intermediate(directory)?;
        if now < current.renew_at() {
            sign::check_chain(&current.der, current.key.pair(), bundle, domain, now)
                .map_err(|_| broken_chain(directory))?;
            return Ok(current);
        }
        sign::renew_intermediate(directory, domain, current.key.pair(), now)?;
        let renewed = Self::read_intermediate(directory)?;
        sign::check_chain(&renewed.der, renewed.key.pair(), bundle, domain, now)
            .map_err(|_| broken_chain(directory))?;
        tracing::info!(path = %path.display(), not_after = %when::rfc3339(renewed.not_after), "CA intermediate renewed");
        Ok(renewed)
    }

    fn read_intermediate(directory: &Directory) -> Result<Intermediate, CaError> {
        let der = directory.certificate(directory::INTERMEDIATE_CRT)?;
        let key = directory.key(directory::INTERMEDIATE_KEY, directory::INTERMEDIATE_CRT, &der)?;
        let leaf = read(directory, directory::INTERMEDIATE_CRT, &der)?;
        Ok(Intermediate { der, key, not_before: leaf.not_before, not_after: leaf.not_after })
    }

    /// The trust domain that it issues for.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.settings.trust_domain
    }

    /// The root as a bundle.
    #[must_use]
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// Life of the certificates it issues.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        self.settings.lifetime
    }

    /// The directory of the CA.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.settings.directory
    }

    /// The root certificate, which peers must trust.
    #[must_use]
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// Issues a certificate for a fresh key that exists only in memory.
    pub fn issue(&self, id: &SpiffeId, dns_names: &[String], now: SystemTime) -> Result<X509Svid, CaError> {
        let intermediate = self.signer(now);
        let (leaf, key) = self.sign(&intermediate, id, dns_names, now)?;
        Ok(X509Svid::from_der(vec![leaf, intermediate.der.clone()], &key.der(), now)?)
    }

    /// Issues a certificate with its key as PEM, for `mtlsd ca issue`.
    pub fn issue_pem(
        &self,
        id: &SpiffeId,
        dns_names: &[String],
        now: SystemTime,
    ) -> Result<IssuedPem, CaError> {
        let intermediate = self.signer(now);
        let (leaf, key) = self.sign(&intermediate, id, dns_names, now)?;
        let chain = format!("{}{}", directory::pem(&leaf), directory::pem(&intermediate.der));
        Ok(IssuedPem { chain, key: Zeroizing::new(key.pair().serialize_pem()) })
    }

    fn sign(
        &self,
        intermediate: &Intermediate,
        id: &SpiffeId,
        dns_names: &[String],
        now: SystemTime,
    ) -> Result<(CertificateDer<'static>, SecretKey), CaError> {
        if id.trust_domain() != self.trust_domain() || id.path().is_empty() {
            return Err(CaError::ForeignId { id: id.clone(), domain: self.trust_domain().clone() });
        }
        let issuer = issuer(&intermediate.der, intermediate.key.pair())?;
        let end = now.checked_add(self.settings.lifetime).unwrap_or(intermediate.not_after);
        sign::leaf(&issuer, id, dns_names, now, end.min(intermediate.not_after))
    }

    /// The intermediate, renewed first if half of its life is over.
    fn signer(&self, now: SystemTime) -> Arc<Intermediate> {
        let current = self.intermediate.load_full();
        if now < current.renew_at() {
            return current;
        }
        match self.reload(now) {
            Ok(renewed) => renewed,
            Err(error) => {
                // The old one still signs until it expires; the next issue tries again.
                tracing::warn!(%error, "the CA's intermediate could not be renewed");
                current
            }
        }
    }

    fn reload(&self, now: SystemTime) -> Result<Arc<Intermediate>, CaError> {
        let directory = Directory::open(&self.settings.directory)?;
        let _lock = directory.lock()?;
        let renewed =
            Arc::new(Self::load_intermediate(&directory, &self.bundle, &self.settings.trust_domain, now)?);
        self.intermediate.store(Arc::clone(&renewed));
        Ok(renewed)
    }
}

impl fmt::Debug for EmbeddedCa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedCa").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn issuer<'a>(der: &CertificateDer<'_>, key: &'a KeyPair) -> Result<Issuer<'static, &'a KeyPair>, CaError> {
    Issuer::from_ca_cert_der(der, key).map_err(crypto("read the CA certificate"))
}

fn crypto(action: &'static str) -> impl Fn(rcgen::Error) -> CaError {
    move |error| CaError::Crypto { action, reason: error.to_string() }
}

fn read(directory: &Directory, file: &str, der: &CertificateDer<'_>) -> Result<Leaf, CaError> {
    Leaf::read(der).map_err(|Unreadable(reason)| CaError::Unreadable { path: directory.path(file), reason })
}

fn broken_chain(directory: &Directory) -> CaError {
    CaError::BrokenChain {
        intermediate: directory.path(directory::INTERMEDIATE_CRT),
        root: directory.path(directory::ROOT_CRT),
    }
}

fn check_root(
    directory: &Directory,
    root: &CertificateDer<'static>,
    settings: &EmbeddedCaSettings,
    now: SystemTime,
) -> Result<(), CaError> {
    let path = directory.path(directory::ROOT_CRT);
    let claims = read(directory, directory::ROOT_CRT, root)?;
    // A root of ours names its trust domain as its one URI SAN (X509-SVID section 3.2).
    let found = match claims.uris.as_slice() {
        [Some(uri)] => uri.parse::<SpiffeId>().ok().filter(|id| id.path().is_empty()),
        _ => None,
    };
    let Some(found) = found else {
        let reason = "it does not name its trust domain as its one URI SAN".to_owned();
        return Err(CaError::Unreadable { path, reason });
    };
    if *found.trust_domain() != settings.trust_domain {
        return Err(CaError::OtherTrustDomain {
            directory: settings.directory.clone(),
            found: found.trust_domain().clone(),
            wanted: settings.trust_domain.clone(),
        });
    }
    if now > claims.not_after {
        return Err(CaError::Expired { path, when: when::expired(claims.not_after, now) });
    }
    if now < claims.not_before {
        return Err(CaError::NotYetValid { path, when: when::not_yet(claims.not_before, now) });
    }
    drop(directory.key(directory::ROOT_KEY, directory::ROOT_CRT, root)?);
    Ok(())
}

#[cfg(test)]
mod tests;
