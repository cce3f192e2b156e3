//! One root and its intermediate: how they are made, read and renewed.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::Issuer;
use rustls::pki_types::CertificateDer;

use super::directory::{self, Directory};
use super::log::{Entry, IssuanceLog, Kind};
use super::sign::{self, Signer};
use super::{CaError, INTERMEDIATE_LIFETIME, crypto};
use crate::identity::key::SecretKey;
use crate::identity::leaf::{Leaf, Unreadable};
use crate::identity::{Bundle, SpiffeId, TrustDomain, when};

/// The certificate that signs leaves, with what signs for it.
pub(super) struct Intermediate {
    pub(super) der: CertificateDer<'static>,
    pub(super) key: Box<Signer>,
    /// Its subject's CN, which renewal keeps: it names the issuer in the log and in CRLs.
    pub(super) name: String,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
}

impl Intermediate {
    /// When half of its life is over.
    pub(super) fn renew_at(&self) -> SystemTime {
        self.not_before
            .checked_add(when::between(self.not_before, self.not_after) / 2)
            .unwrap_or(self.not_after)
    }

    pub(super) fn issuer(&self) -> Result<Issuer<'static, &Signer>, CaError> {
        sign::issuer(&self.der, self.key.as_ref())
    }
}

/// A root and its intermediate.
pub(super) struct Authority {
    pub(super) root: CertificateDer<'static>,
    pub(super) root_not_after: SystemTime,
    /// The root's key is not in the directory.
    pub(super) offline: bool,
    pub(super) intermediate: Arc<Intermediate>,
}

/// Makes a root and an intermediate; the root's key goes to `root_home` if there is one.
pub(super) fn create(
    directory: &Directory,
    root_home: Option<&Directory>,
    domain: &TrustDomain,
    log: &IssuanceLog,
    now: SystemTime,
) -> Result<(), CaError> {
    let (root_key, root) = sign::root(domain, now)?;
    match root_home {
        Some(home) => {
            home.write_key(directory::ROOT_KEY, root_key.pair())?;
            home.write_certificate(directory::ROOT_CRT, &root)?;
            directory.mark_offline()?;
        }
        None => directory.write_key(directory::ROOT_KEY, root_key.pair())?,
    }
    directory.write_certificate(directory::ROOT_CRT, &root)?;
    let key = SecretKey::generate().map_err(crypto("generate a key"))?;
    directory.write_key(directory::INTERMEDIATE_KEY, key.pair())?;
    let certificate = sign::intermediate(&sign::issuer(&root, &root_key)?, &key, domain, None, now)?;
    note(&certificate, domain, log, "the making of the CA", now)?;
    directory.write_certificate(directory::INTERMEDIATE_CRT, &certificate)
}

impl Authority {
    /// Reads and checks both, and renews the intermediate if it is time and the root's key is here.
    pub(super) fn load(
        directory: &Directory,
        domain: &TrustDomain,
        log: &IssuanceLog,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        let root = directory.root_certificate()?;
        let offline = directory.is_offline()?;
        let claims = check_root(directory, &root, domain, now)?;
        if !offline {
            drop(directory.key(directory::ROOT_KEY, directory::ROOT_CRT, &root)?);
        }
        let mut intermediate = read_intermediate(directory)?;
        if now >= intermediate.renew_at() && !offline {
            renew(directory, directory, domain, log, "the renewal at half of its life", now)?;
            intermediate = read_intermediate(directory)?;
            tracing::info!(
                path = %directory.path(directory::INTERMEDIATE_CRT).display(),
                not_after = %when::rfc3339(intermediate.not_after), "CA intermediate renewed"
            );
        }
        // One that has expired is told as such when it is to sign, not as a broken chain.
        let last = intermediate.not_after.checked_sub(Duration::from_secs(1)).unwrap_or(now);
        let bundle = Bundle::from_der(vec![root.clone()])?;
        sign::check_chain(&intermediate.der, intermediate.key.as_ref(), &bundle, domain, now.min(last))
            .map_err(|_| CaError::BrokenChain {
                intermediate: directory.path(directory::INTERMEDIATE_CRT),
                root: directory.path(directory::ROOT_CRT),
            })?;
        Ok(Self { root, root_not_after: claims.not_after, offline, intermediate: Arc::new(intermediate) })
    }
}

fn read_intermediate(directory: &Directory) -> Result<Intermediate, CaError> {
    let der = directory.certificate(directory::INTERMEDIATE_CRT)?;
    let key = directory.key(directory::INTERMEDIATE_KEY, directory::INTERMEDIATE_CRT, &der)?;
    let leaf = read(directory, directory::INTERMEDIATE_CRT, &der)?;
    let name = leaf.common_name.clone().unwrap_or_default();
    Ok(Intermediate { der, key: Box::new(key), name, not_before: leaf.not_before, not_after: leaf.not_after })
}

/// Signs the intermediate's key again, under its old name, with the root's key in `root_home`, and replaces its
/// certificate by one rename.
pub(super) fn renew(
    directory: &Directory,
    root_home: &Directory,
    domain: &TrustDomain,
    log: &IssuanceLog,
    why: &str,
    now: SystemTime,
) -> Result<(), CaError> {
    let old = directory.certificate(directory::INTERMEDIATE_CRT)?;
    let key = directory.key(directory::INTERMEDIATE_KEY, directory::INTERMEDIATE_CRT, &old)?;
    let root = root_home.root_certificate()?;
    let root_key = root_home.key(directory::ROOT_KEY, directory::ROOT_CRT, &root)?;
    let issuer = sign::issuer(&root, &root_key)?;
    let name = read(directory, directory::INTERMEDIATE_CRT, &old)?.common_name;
    let certificate = sign::intermediate(&issuer, &key, domain, name.as_deref(), now)?;
    note(&certificate, domain, log, why, now)?;
    directory.write_certificate(directory::INTERMEDIATE_CRT, &certificate)
}

fn note(
    intermediate: &CertificateDer<'_>,
    domain: &TrustDomain,
    log: &IssuanceLog,
    why: &str,
    now: SystemTime,
) -> Result<(), CaError> {
    let id = format!("spiffe://{domain}");
    log.append(&Entry::of(Kind::Intermediate, intermediate, &id, why, now)?, true, now)
}

pub(super) fn read(directory: &Directory, file: &str, der: &CertificateDer<'_>) -> Result<Leaf, CaError> {
    Leaf::read(der).map_err(|Unreadable(reason)| CaError::Unreadable { path: directory.path(file), reason })
}

/// The trust domain that the root in this directory names as its one URI SAN (X509-SVID section 3.2).
pub(super) fn trust_domain_of(directory: &Directory) -> Result<TrustDomain, CaError> {
    let root = directory.root_certificate()?;
    named_domain(directory, &read(directory, directory::ROOT_CRT, &root)?)
}

fn named_domain(directory: &Directory, claims: &Leaf) -> Result<TrustDomain, CaError> {
    let found = match claims.uris.as_slice() {
        [Some(uri)] => uri.parse::<SpiffeId>().ok().filter(|id| id.path().is_empty()),
        _ => None,
    };
    found.map(|id| id.trust_domain().clone()).ok_or_else(|| CaError::Unreadable {
        path: directory.path(directory::ROOT_CRT),
        reason: "it does not name its trust domain as its one URI SAN".to_owned(),
    })
}

fn check_root(
    directory: &Directory,
    root: &CertificateDer<'static>,
    domain: &TrustDomain,
    now: SystemTime,
) -> Result<Leaf, CaError> {
    let path = directory.path(directory::ROOT_CRT);
    let claims = read(directory, directory::ROOT_CRT, root)?;
    let found = named_domain(directory, &claims)?;
    if found != *domain {
        let directory = path.parent().map(Path::to_owned).unwrap_or_default();
        return Err(CaError::OtherTrustDomain { directory, found, wanted: domain.clone() });
    }
    if now > claims.not_after {
        return Err(CaError::Expired { path, when: when::expired(claims.not_after, now) });
    }
    if now < claims.not_before {
        return Err(CaError::NotYetValid { path, when: when::not_yet(claims.not_before, now) });
    }
    Ok(claims)
}

/// How long before its end an intermediate whose root is offline is spoken of.
pub const INTERMEDIATE_WARNING: Duration = Duration::from_secs(INTERMEDIATE_LIFETIME.as_secs() / 4);
