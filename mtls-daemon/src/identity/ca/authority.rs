//! One root and its intermediate: how they are made, read and renewed.

use std::path::Path;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use rcgen::Issuer;
use rustls::pki_types::CertificateDer;

use super::directory::{self, Directory};
use super::log::{Entry, IssuanceLog, Kind};
use super::sign::{self, ProbeRefused, Signer};
use super::{CaError, INTERMEDIATE_LIFETIME, key};
use crate::identity::key::OwnKey;
use crate::identity::leaf::{Leaf, Unreadable};
use crate::identity::pkcs11::TokenKeySettings;
use crate::identity::{Bundle, SpiffeId, TrustDomain, when};

/// The certificate that signs leaves, with what signs for it.
pub(super) struct Intermediate {
    pub(super) der: CertificateDer<'static>,
    /// Those between it and the root, from the bottom up: a PKI elsewhere may have some.
    pub(super) above: Vec<CertificateDer<'static>>,
    pub(super) key: OwnKey,
    /// Its subject's CN, which renewal keeps: it names the issuer in the log and in CRLs.
    pub(super) name: String,
    pub(super) not_before: SystemTime,
    pub(super) not_after: SystemTime,
    /// Set when a leaf that its key signed was found good.
    proved: OnceLock<()>,
}

impl Intermediate {
    /// It and those above it, as peers are sent them.
    pub(super) fn chain(&self) -> impl Iterator<Item = &CertificateDer<'static>> {
        std::iter::once(&self.der).chain(&self.above)
    }

    /// When half of its life is over.
    pub(super) fn renew_at(&self) -> SystemTime {
        self.not_before
            .checked_add(when::between(self.not_before, self.not_after) / 2)
            .unwrap_or(self.not_after)
    }

    /// Is half of its life over, and would its root, which ends then, let it live longer?
    pub(super) fn is_due(&self, root_not_after: SystemTime, now: SystemTime) -> bool {
        now >= self.renew_at() && self.not_after < root_not_after
    }

    pub(super) fn issuer(&self) -> Result<Issuer<'static, &Signer>, CaError> {
        sign::issuer(&self.der, &self.key)
    }
}

/// The end of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct End {
    pub(super) not_after: SystemTime,
    /// Whose: CN of its subject.
    pub(super) name: String,
}

/// A root and its intermediate.
pub(super) struct Authority {
    pub(super) root: CertificateDer<'static>,
    pub(super) root_not_before: SystemTime,
    pub(super) root_not_after: SystemTime,
    /// The root's key is not in the directory.
    pub(super) offline: bool,
    /// A PKI elsewhere has signed the intermediate.
    pub(super) of_site: bool,
    /// Where the intermediate's key is, if it is in a token.
    pub(super) token: Option<TokenKeySettings>,
    pub(super) intermediate: Arc<Intermediate>,
    /// What ends first of the intermediate, those above it and the root. No leaf outlives it.
    pub(super) first_end: End,
}

/// Makes a root and an intermediate; the root's key goes to `root_home` if there is one, and the intermediate's to a
/// token if one is named.
pub(super) fn create(
    directory: &Directory,
    root_home: Option<&Directory>,
    token: Option<&TokenKeySettings>,
    domain: &TrustDomain,
    log: &IssuanceLog,
    now: SystemTime,
) -> Result<(), CaError> {
    // First: what a token refuses leaves nothing else behind.
    let key = key::make(directory, token)?;
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
    let until = read(directory, directory::ROOT_CRT, &root)?.not_after;
    let certificate = sign::intermediate(&sign::issuer(&root, &root_key)?, &key, domain, None, until, now)?;
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
        if !offline && intermediate.is_due(claims.not_after, now) {
            renew(directory, directory, domain, log, "the renewal at half of its life", now)?;
            intermediate = read_intermediate(directory)?;
            tracing::info!(
                path = %directory.path(directory::INTERMEDIATE_CRT).display(),
                not_after = %when::rfc3339(intermediate.not_after), "CA intermediate renewed"
            );
        }
        // One that has expired is told as such when it is to sign, not as a broken chain.
        let first_end = first_end(directory, &intermediate, &claims)?;
        let authority = Self {
            root,
            root_not_before: claims.not_before,
            root_not_after: claims.not_after,
            offline,
            of_site: directory.is_of_site()?,
            token: key::in_token(directory)?,
            intermediate: Arc::new(intermediate),
            first_end,
        };
        if authority.token.is_none() {
            authority.prove(directory, domain, now)?;
        }
        Ok(authority)
    }

    /// Does the key sign, and would a leaf of it be accepted by who trusts the root? A token is asked once.
    pub(super) fn prove(
        &self,
        directory: &Directory,
        domain: &TrustDomain,
        now: SystemTime,
    ) -> Result<(), CaError> {
        let Intermediate { key, proved, .. } = &*self.intermediate;
        if proved.get().is_some() {
            return Ok(());
        }
        if let OwnKey::Token(key) = key {
            key.prove()?;
        }
        let last = self.first_end.not_after.checked_sub(Duration::from_secs(1)).unwrap_or(now);
        let bundle = Bundle::from_der(vec![self.root.clone()])?;
        let chain: Vec<_> = self.intermediate.chain().cloned().collect();
        sign::check_chain(&chain, key, &bundle, domain, now.min(last)).map_err(|refused| match refused {
            ProbeRefused::Unsigned(error) => key::explained(key, error),
            ProbeRefused::Refused(_) => CaError::BrokenChain {
                intermediate: directory.path(directory::INTERMEDIATE_CRT),
                root: directory.path(directory::ROOT_CRT),
            },
        })?;
        let _ = proved.set(());
        Ok(())
    }
}

fn first_end(directory: &Directory, intermediate: &Intermediate, root: &Leaf) -> Result<End, CaError> {
    let mut first = End { not_after: intermediate.not_after, name: intermediate.name.clone() };
    let mut note = |claims: &Leaf| {
        if claims.not_after < first.not_after {
            let name = claims.common_name.clone().unwrap_or_default();
            first = End { not_after: claims.not_after, name };
        }
    };
    for der in &intermediate.above {
        note(&read(directory, directory::INTERMEDIATE_CRT, der)?);
    }
    note(root);
    Ok(first)
}

fn read_intermediate(directory: &Directory) -> Result<Intermediate, CaError> {
    let (der, above) = directory.intermediate()?;
    let key = key::of(directory, &der)?;
    let leaf = read(directory, directory::INTERMEDIATE_CRT, &der)?;
    let name = leaf.common_name.clone().unwrap_or_default();
    let (not_before, not_after) = (leaf.not_before, leaf.not_after);
    Ok(Intermediate { der, above, key, name, not_before, not_after, proved: OnceLock::new() })
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
    if directory.is_of_site()? {
        return Err(CaError::SignedElsewhere(directory.root().to_owned()));
    }
    let (old, _) = directory.intermediate()?;
    // Only its public half is needed, which a token is not asked for.
    let key = key::of(directory, &old)?;
    let root = root_home.root_certificate()?;
    let root_key = root_home.key(directory::ROOT_KEY, directory::ROOT_CRT, &root)?;
    let issuer = sign::issuer(&root, &root_key)?;
    let name = read(directory, directory::INTERMEDIATE_CRT, &old)?.common_name;
    let until = read(root_home, directory::ROOT_CRT, &root)?.not_after;
    let certificate = sign::intermediate(&issuer, &key, domain, name.as_deref(), until, now)?;
    note(&certificate, domain, log, why, now)?;
    directory.write_certificate(directory::INTERMEDIATE_CRT, &certificate)
}

pub(super) fn note(
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
    if let Some(domain) = directory.site_domain()? {
        return Ok(domain);
    }
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
