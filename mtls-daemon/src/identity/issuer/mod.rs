//! Issuers that sign what mtlsd asks for: the key is made here, in memory or in a token, and only a CSR (RFC 2986) leaves.

pub mod answer;
pub mod cert_manager;
pub mod exec;
mod request;
pub mod vault;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::CertificateDer;

use self::cert_manager::CertManagerError;
use self::exec::ExecError;
pub use self::request::{Csr, Request};
use self::vault::VaultError;
use super::key::{OwnKey, SecretKey};
use super::pkcs11::{Curve, Token, TokenKey, TokenKeySettings};
use super::{FilesError, Identity, IdentityError, IdentitySource, Pkcs11Error, SpiffeId, SvidError, files};

/// Why an issuer gave no identity.
#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    /// The command did not answer with a chain.
    #[error("issuer {issuer}: {source}")]
    Exec {
        /// The issuer's name in the configuration.
        issuer: String,
        /// Why.
        source: Box<ExecError>,
    },
    /// Vault did not sign.
    #[error("issuer {issuer}: {source}")]
    Vault {
        /// The issuer's name in the configuration.
        issuer: String,
        /// Why.
        source: Box<VaultError>,
    },
    /// cert-manager did not sign.
    #[error("issuer {issuer}: {source}")]
    CertManager {
        /// The issuer's name in the configuration.
        issuer: String,
        /// Why.
        source: Box<CertManagerError>,
    },
    /// A key or a CSR could not be made.
    #[error("cannot {action}: {reason}; the system may be out of memory or random numbers")]
    Crypto {
        /// What was tried.
        action: &'static str,
        /// What the library said.
        reason: String,
    },
    /// The key in the token cannot be made or used.
    #[error(transparent)]
    Pkcs11(#[from] Pkcs11Error),
    /// A text that is no DNS name.
    #[error("{0:?} is not a DNS name; give dns_names as host names such as web.example.org")]
    DnsName(String),
    /// What was signed is not usable.
    #[error("issuer {issuer}: what it signed cannot be used: {source}")]
    Svid {
        /// The issuer's name in the configuration.
        issuer: String,
        /// Why.
        source: Box<SvidError>,
    },
    /// A certificate for somebody else.
    #[error(
        "issuer {issuer}: it signed a certificate for {found}, and {wanted} was asked for; let it take the URI SAN from the CSR"
    )]
    OtherIdentity {
        /// The issuer's name in the configuration.
        issuer: String,
        /// Who the certificate says.
        found: SpiffeId,
        /// Who was asked for.
        wanted: SpiffeId,
    },
    /// The roots that come with the issuer are not usable.
    #[error("issuer {issuer}: {source}")]
    Bundle {
        /// The issuer's name in the configuration.
        issuer: String,
        /// Why.
        source: Box<FilesError>,
    },
}

/// What an issuer answers.
#[derive(Debug, Clone)]
pub struct Issued {
    /// The leaf, then its intermediates. Roots among them are left out afterwards.
    pub chain: Vec<CertificateDer<'static>>,
}

/// Somebody who signs CSRs. Blocks until the answer is there or a time limit of its own is over.
pub trait Issuer: fmt::Debug + Send + Sync {
    /// Signs, or says why not.
    ///
    /// # Errors
    /// Whatever stands in the way; the store keeps what it has and asks again.
    fn sign(&self, csr: &Csr, now: SystemTime) -> Result<Issued, IssuerError>;

    /// As [`IdentitySource::needs_upkeep`].
    fn needs_upkeep(&self, _now: Instant) -> bool {
        false
    }

    /// As [`IdentitySource::upkeep`].
    fn upkeep(&self, _now: Instant) {}

    /// Is it told which workload asks? Then each workload has a certificate of its own.
    fn is_told_whose(&self) -> bool {
        false
    }

    /// A short name for status pages, such as `exec`.
    fn kind(&self) -> &'static str;

    /// All settings in one line, without secrets.
    fn describe(&self) -> String;
}

/// The identity of one workload, from an issuer.
#[derive(Debug, Clone)]
pub struct IssuerSource {
    /// The issuer's name in the configuration.
    pub name: String,
    /// Who signs.
    pub issuer: Arc<dyn Issuer>,
    /// What is asked for.
    pub request: Request,
    /// The key in a token, made there if it is absent; `None`: a new one in memory for each certificate.
    pub key: Option<TokenKeySettings>,
    /// Roots of the workload's trust domain, as a PEM file; `None`: those of the configuration are all.
    pub bundle: Option<PathBuf>,
}

impl IssuerSource {
    fn own_key(&self) -> Result<OwnKey, IssuerError> {
        match &self.key {
            None => SecretKey::generate().map(OwnKey::Memory).map_err(crypto("generate a key")),
            Some(key) => {
                let token = Token::new(key.token.clone());
                Ok(OwnKey::Token(Arc::new(TokenKey::find_or_make(&token, &key.label, Curve::P256)?)))
            }
        }
    }
}

impl IdentitySource for IssuerSource {
    fn fetch(&self, now: SystemTime) -> Result<Identity, IdentityError> {
        let key = self.own_key()?;
        let csr = self.request.csr(&key)?;
        let began = Instant::now();
        let issued = self.issuer.sign(&csr, now)?;
        // Signing takes its time, and not every CA dates back: a certificate may be younger than the question.
        let now = now.checked_add(began.elapsed()).unwrap_or(now);
        let issuer = || self.name.clone();
        let svid = key
            .svid(without_roots(issued.chain), now)
            .map_err(|source| IssuerError::Svid { issuer: issuer(), source: Box::new(source) })?;
        if svid.id != self.request.id {
            let (found, wanted) = (svid.id, self.request.id.clone());
            return Err(IssuerError::OtherIdentity { issuer: issuer(), found, wanted }.into());
        }
        let bundle = self.bundle.as_deref().map(files::read_bundle).transpose();
        let bundle =
            bundle.map_err(|source| IssuerError::Bundle { issuer: issuer(), source: Box::new(source) })?;
        let bundles = bundle.map(|bundle| (svid.id.trust_domain().clone(), bundle)).into_iter().collect();
        Ok(Identity { svid: Arc::new(svid), bundles })
    }

    // A changed bundle file means a new certificate as well, which costs little and keeps one way of doing it. So does a
    // changed PIN, which otherwise would wait for the next try.
    fn watch_paths(&self) -> Vec<PathBuf> {
        self.bundle.iter().chain(self.key.as_ref().map(|key| &key.token.pin_file)).cloned().collect()
    }

    fn is_local(&self) -> bool {
        false
    }

    fn renews(&self) -> bool {
        true
    }

    fn needs_upkeep(&self, now: Instant) -> bool {
        self.issuer.needs_upkeep(now)
    }

    fn upkeep(&self, now: Instant) {
        self.issuer.upkeep(now);
    }

    fn kind(&self) -> &'static str {
        self.issuer.kind()
    }

    fn describe(&self) -> String {
        let Self { name, issuer, request, key, bundle } = self;
        let mut request = request.clone();
        if !issuer.is_told_whose() {
            request.workload.clear();
        }
        format!("{name} {} {request:?} {key:?} {bundle:?}", issuer.describe())
    }
}

/// A peer has its roots from elsewhere, or it must not believe these (RFC 8446 section 4.4.2 lets us omit them). A leaf stays,
/// whoever signed it: what is wrong with it is said later.
fn without_roots(chain: Vec<CertificateDer<'static>>) -> Vec<CertificateDer<'static>> {
    let is_root = |der: &CertificateDer<'_>| {
        x509_parser::parse_x509_certificate(der).is_ok_and(|(_, ca)| ca.issuer() == ca.subject())
    };
    chain
        .into_iter()
        .enumerate()
        .filter(|(index, der)| *index == 0 || !is_root(der))
        .map(|(_, der)| der)
        .collect()
}

fn crypto(action: &'static str) -> impl Fn(rcgen::Error) -> IssuerError {
    move |error| IssuerError::Crypto { action, reason: error.to_string() }
}

/// The most that an issuer is waited for, unless it is configured.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests;
