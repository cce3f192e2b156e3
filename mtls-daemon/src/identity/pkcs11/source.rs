//! A workload whose certificate lies in a file and whose key lies in a token.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::sign::TlsKey;
use super::{Token, TokenKey, TokenSettings};
use crate::identity::{FilesError, Identity, IdentityError, IdentitySource, X509Svid, files};

/// Which key of which token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenKeySettings {
    /// The token.
    pub token: TokenSettings,
    /// The key's label.
    pub label: String,
}

/// Where a workload's certificate and key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenIdentity {
    /// The leaf, then its intermediates, as PEM.
    pub certificate: PathBuf,
    /// The key, made by others.
    pub key: TokenKeySettings,
    /// The roots of the workload's own trust domain as PEM; without it the configuration's are used.
    pub bundle: Option<PathBuf>,
}

impl TokenKey {
    /// The key as rustls takes it.
    #[must_use]
    pub fn for_tls(self: &Arc<Self>) -> Arc<dyn rustls::sign::SigningKey> {
        Arc::new(TlsKey(Arc::clone(self)))
    }
}

impl IdentitySource for TokenIdentity {
    fn fetch(&self, now: SystemTime) -> Result<Identity, IdentityError> {
        let chain = files::read_chain(&self.certificate)?;
        let leaf = chain.first().ok_or_else(|| FilesError::NoCertificate(self.certificate.clone()))?;
        let token = Token::new(self.key.token.clone());
        let key = Arc::new(TokenKey::of_certificate(&token, &self.key.label, leaf)?);
        let svid = X509Svid::with_key(chain, key.for_tls(), now).map_err(|source| FilesError::Svid {
            certificate: self.certificate.clone(),
            key: self.key.to_string(),
            source: Box::new(source),
        })?;
        let bundle = self.bundle.as_deref().map(files::read_bundle).transpose()?;
        let bundles = bundle.map(|bundle| (svid.id.trust_domain().clone(), bundle)).into_iter().collect();
        Ok(Identity { svid: Arc::new(svid), bundles })
    }

    // An HSM may be far away, and may hang.
    fn is_local(&self) -> bool {
        false
    }

    // With the PIN file: a PIN that was refused is tried again as soon as there is another.
    fn watch_paths(&self) -> Vec<PathBuf> {
        [&self.certificate, &self.key.token.pin_file].into_iter().chain(&self.bundle).cloned().collect()
    }

    fn renews(&self) -> bool {
        false
    }

    fn kind(&self) -> &'static str {
        "pkcs11"
    }

    fn describe(&self) -> String {
        format!("{self:?}")
    }
}

impl std::fmt::Display for TokenKeySettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of token {}", self.label, self.token.token)
    }
}
