//! HashiCorp Vault's PKI secrets engine, and OpenBao's, which is the same.
//!
//! Vault gets a CSR and the wish for names and life; its role decides. Whom to trust is never taken from its answer: roots
//! come from the configuration.

mod api;
mod auth;
mod error;
mod secret;
mod tokens;

use std::path::PathBuf;
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::CertificateDer;
use serde::Serialize;

use self::api::{Api, Data};
pub use self::auth::{DEFAULT_JWT_FILE, VaultAuth};
pub use self::error::VaultError;
use self::secret::Secret;
use self::tokens::Tokens;
use super::answer::{self, AnswerError};
use super::{Csr, Issued, Issuer, IssuerError};
use crate::fetch::{Fetch, FetchSettings};
use crate::identity::svid::{MAX_OWN_CHAIN, MAX_OWN_CHAIN_BYTES};

/// Largest answer that is read, in bytes: a chain in base64, the issuing CA once more, and what is around them.
const MAX_REPLY: usize = 4 * MAX_OWN_CHAIN_BYTES;

/// Where Vault is, and as what mtlsd comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VaultSettings {
    /// `https://host:port`; `http://` to loopback only.
    pub address: String,
    /// Where the PKI engine is mounted.
    pub mount: String,
    /// Its role.
    pub role: String,
    /// Vault Enterprise's or OpenBao's namespace.
    pub namespace: Option<String>,
    /// Roots for Vault's own certificate, PEM; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// The most that one request may take.
    pub timeout: Duration,
    /// How mtlsd proves who it is.
    pub auth: VaultAuth,
}

impl VaultSettings {
    fn api(&self) -> Api {
        let max_bytes = MAX_REPLY.try_into().unwrap_or(u64::MAX);
        let settings = FetchSettings { ca_file: self.ca_file.clone(), timeout: self.timeout, max_bytes };
        Api { address: self.address.clone(), namespace: self.namespace.clone(), fetch: Fetch::new(settings) }
    }
}

/// Has Vault sign, with a token that it looks after.
#[derive(Debug)]
pub struct VaultIssuer {
    name: String,
    settings: VaultSettings,
    api: Api,
    tokens: Tokens,
}

/// <https://developer.hashicorp.com/vault/api-docs/secret/pki#sign-certificate>
#[derive(Serialize)]
struct Sign<'a> {
    csr: &'a str,
    uri_sans: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    alt_names: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl: Option<String>,
    format: &'static str,
    exclude_cn_from_sans: bool,
}

impl VaultIssuer {
    /// Asks nobody yet.
    #[must_use]
    pub fn new(name: String, settings: VaultSettings) -> Self {
        let api = settings.api();
        let tokens = Tokens::new(settings.auth.clone());
        Self { name, settings, api, tokens }
    }

    fn chain(&self, csr: &Csr, now: Instant) -> Result<Vec<CertificateDer<'static>>, VaultError> {
        let token = self.tokens.current(&self.api, now)?;
        let answer = match self.ask(csr, &token) {
            Err(denied) if denied.is_denied() => {
                let token = self.tokens.instead_of(&token, denied, &self.api, now)?;
                self.ask(csr, &token)?
            }
            answer => answer?,
        };
        chain_of(&answer)
    }

    fn ask(&self, csr: &Csr, token: &Secret) -> Result<Data, VaultError> {
        let VaultSettings { mount, role, .. } = &self.settings;
        let request = &csr.request;
        let body = Sign {
            csr: &csr.pem,
            // With `use_csr_sans`, the default, the role takes the names from the CSR, else from here.
            uri_sans: request.id.as_str(),
            alt_names: (!request.dns_names.is_empty()).then(|| request.dns_names.join(",")),
            ttl: request.lifetime.map(|lifetime| format!("{}s", lifetime.as_secs())),
            format: "pem",
            exclude_cn_from_sans: true,
        };
        let path = format!("{mount}/sign/{role}");
        let body = serde_json::to_vec(&body).map_err(|error| crate::fetch::FetchError::Request {
            url: self.api.url(&path),
            reason: error.to_string(),
        })?;
        match self.api.post(&path, Some(token), &body) {
            Err(VaultError::Refused { url, said, .. }) if said.contains("unknown role") => {
                Err(VaultError::UnknownRole { url, role: role.clone(), said })
            }
            reply => reply?.data(),
        }
    }
}

/// The leaf, then what is between it and the root. The issuing CA is also the first of `ca_chain`, where that is known.
fn chain_of(answer: &Data) -> Result<Vec<CertificateDer<'static>>, VaultError> {
    let certificates = |field, text: &str| {
        answer::parse_chain(text.as_bytes()).map_err(|source| VaultError::Chain {
            url: answer.url.clone(),
            field,
            source,
        })
    };
    let mut chain = certificates("data.certificate", answer.text("data.certificate")?)?;
    if chain.len() > 1 {
        let reason = format!("holds {} certificates where one is expected", chain.len());
        return Err(VaultError::Field { url: answer.url.clone(), field: "data.certificate", reason });
    }
    let above = answer.texts("data.ca_chain")?;
    if above.is_empty() && answer.found("data.issuing_ca").is_some() {
        chain.extend(certificates("data.issuing_ca", answer.text("data.issuing_ca")?)?);
    }
    for text in above {
        chain.extend(certificates("data.ca_chain", text)?);
        if chain.len() > MAX_OWN_CHAIN {
            let (url, field) = (answer.url.clone(), "data.ca_chain");
            return Err(VaultError::Chain { url, field, source: AnswerError::TooMany });
        }
    }
    Ok(chain)
}

impl Issuer for VaultIssuer {
    fn sign(&self, csr: &Csr, _now: SystemTime) -> Result<Issued, IssuerError> {
        let chain = self
            .chain(csr, Instant::now())
            .map_err(|source| IssuerError::Vault { issuer: self.name.clone(), source: Box::new(source) })?;
        Ok(Issued { chain })
    }

    fn needs_upkeep(&self, now: Instant) -> bool {
        self.tokens.need_renewal(now)
    }

    fn upkeep(&self, now: Instant) {
        if let Err(error) = self.tokens.renew(&self.api, now) {
            tracing::warn!(issuer = %self.name, %error, "the token for Vault was not renewed");
        }
    }

    fn kind(&self) -> &'static str {
        "vault"
    }

    fn describe(&self) -> String {
        format!("{:?}", self.settings)
    }
}

#[cfg(test)]
mod tests;
