//! cert-manager by its API: a CertificateRequest is created, somebody approves it, the controller signs it, and it is removed.
//!
//! Whom to trust is never taken from the answer (`status.ca`): roots come from the configuration.
//! <https://cert-manager.io/docs/usage/certificaterequest/>

mod error;
mod status;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::CertificateDer;
use serde_json::json;
use tokio::time::{Instant, sleep};

pub use self::error::CertManagerError;
use self::status::{Object, State};
use super::answer;
use super::{Csr, Issued, Issuer, IssuerError};
use crate::kube::{CERTIFICATE_REQUESTS, Client, ClusterConfig, Key, KubeError, Name, NamespaceName, Timing};

/// The first pause between two looks at a request; each is twice the one before.
const FIRST_LOOK: Duration = Duration::from_millis(100);
/// The longest pause between two looks.
const LAST_LOOK: Duration = Duration::from_secs(2);
/// The most that the removal of a request may take.
const REMOVAL: Duration = Duration::from_secs(5);

/// Who signs, and where it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertManagerSettings {
    /// Where requests are made.
    pub namespace: NamespaceName,
    /// The name of the Issuer or ClusterIssuer.
    pub issuer: Name,
    /// `Issuer`, `ClusterIssuer`, or that of an external issuer.
    pub kind: String,
    /// Its API group.
    pub group: String,
    /// The directory with the token and the roots of the API server.
    pub service_account: PathBuf,
    /// The most that one certificate may take, approval included.
    pub timeout: Duration,
}

/// Has cert-manager sign.
#[derive(Debug)]
pub struct CertManagerIssuer {
    name: String,
    settings: CertManagerSettings,
}

impl CertManagerIssuer {
    /// Asks nobody yet.
    #[must_use]
    pub fn new(name: String, settings: CertManagerSettings) -> Self {
        Self { name, settings }
    }

    fn chain(&self, csr: &Csr) -> Result<Vec<CertificateDer<'static>>, CertManagerError> {
        self.chain_from(ClusterConfig::in_cluster(&self.settings.service_account)?, csr)
    }

    fn chain_from(
        &self,
        api: ClusterConfig,
        csr: &Csr,
    ) -> Result<Vec<CertificateDer<'static>>, CertManagerError> {
        let client = Arc::new(Client::new(api, Timing::default()));
        // Of its own: who asks is a thread that may block, in a runtime or not.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(CertManagerError::Runtime)?.block_on(self.ask(&client, csr))
    }

    async fn ask(
        &self,
        client: &Client,
        csr: &Csr,
    ) -> Result<Vec<CertificateDer<'static>>, CertManagerError> {
        let end = Instant::now() + self.settings.timeout;
        let name: Name = format!("mtlsd-{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..)).parse()?;
        let (request, key) =
            (self.request(&name, csr), Key { namespace: Some(self.settings.namespace.clone()), name });
        let outcome = self.create_and_wait(client, &key, &request, end).await;
        // Signed or not, it is of no more use, and cert-manager keeps requests for ever.
        let removed = tokio::time::timeout(REMOVAL, client.delete(CERTIFICATE_REQUESTS, &key)).await;
        match removed {
            Ok(Err(KubeError::NotFound { .. })) | Ok(Ok(())) | Err(_) => {}
            Ok(Err(error)) => {
                tracing::warn!(issuer = %self.name, request = %key, %error, "a CertificateRequest could not be removed");
            }
        }
        outcome
    }

    async fn create_and_wait(
        &self,
        client: &Client,
        key: &Key,
        request: &serde_json::Value,
        end: Instant,
    ) -> Result<Vec<CertificateDer<'static>>, CertManagerError> {
        let created =
            within(end, client.create::<Object>(CERTIFICATE_REQUESTS, &self.settings.namespace, request));
        let created = created.await.ok_or(CertManagerError::NoAnswer(self.settings.timeout))??;
        self.wait(client, key, created, end).await
    }

    async fn wait(
        &self,
        client: &Client,
        key: &Key,
        mut object: Object,
        end: Instant,
    ) -> Result<Vec<CertificateDer<'static>>, CertManagerError> {
        let mut pause = FIRST_LOOK;
        loop {
            let request = key.to_string();
            let state = match object.state() {
                State::Signed(certificate) => {
                    let pem = STANDARD
                        .decode(certificate)
                        .map_err(|_| CertManagerError::NotBase64(request.clone()))?;
                    return answer::parse_chain(&pem)
                        .map_err(|source| CertManagerError::Chain { request, source });
                }
                State::Denied(said) => return Err(CertManagerError::Denied { request, said }),
                State::Failed(said) => return Err(CertManagerError::Failed { request, said }),
                State::Pending(state) => state,
            };
            if Instant::now() + pause > end {
                return Err(CertManagerError::Waited { request, limit: self.settings.timeout, state });
            }
            sleep(pause).await;
            pause = (pause * 2).min(LAST_LOOK);
            object = within(end, client.get::<Object>(CERTIFICATE_REQUESTS, key))
                .await
                .ok_or(CertManagerError::NoAnswer(self.settings.timeout))??;
        }
    }

    fn request(&self, name: &Name, csr: &Csr) -> serde_json::Value {
        let CertManagerSettings { namespace, issuer, kind, group, .. } = &self.settings;
        let mut object = json!({
            "apiVersion": "cert-manager.io/v1",
            "kind": "CertificateRequest",
            "metadata": {
                "name": name,
                "namespace": namespace,
                "labels": { "app.kubernetes.io/managed-by": "mtlsd" },
                "annotations": { "mtlsd.io/spiffe-id": csr.request.id.as_str() },
            },
            "spec": {
                "request": STANDARD.encode(&csr.pem),
                "issuerRef": { "name": issuer, "kind": kind, "group": group },
                "isCA": false,
                "usages": ["digital signature", "server auth", "client auth"],
            },
        });
        if let (Some(lifetime), Some(spec)) =
            (csr.request.lifetime, object.get_mut("spec").and_then(serde_json::Value::as_object_mut))
        {
            spec.insert("duration".to_owned(), format!("{}s", lifetime.as_secs()).into());
        }
        object
    }
}

/// `None`: there was no answer in time.
async fn within<T>(end: Instant, asked: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout_at(end, asked).await.ok()
}

impl Issuer for CertManagerIssuer {
    fn sign(&self, csr: &Csr, _now: SystemTime) -> Result<Issued, IssuerError> {
        let chain = self.chain(csr).map_err(|source| IssuerError::CertManager {
            issuer: self.name.clone(),
            source: Box::new(source),
        })?;
        Ok(Issued { chain })
    }

    fn kind(&self) -> &'static str {
        "cert-manager"
    }

    fn describe(&self) -> String {
        format!("{:?}", self.settings)
    }
}

#[cfg(test)]
mod tests;
