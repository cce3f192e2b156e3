//! How mtlsd proves to Vault who it is.

use std::path::PathBuf;

use serde::Serialize;
use zeroize::Zeroizing;

use super::api::{Api, Grant};
use super::error::VaultError;
use super::secret::Secret;
use crate::fetch::FetchError;

/// Where Kubernetes puts the JWT of a pod's service account.
pub const DEFAULT_JWT_FILE: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// How mtlsd gets a token. Every file is read anew each time: others write new ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VaultAuth {
    /// A token that somebody else got, such as Vault's agent.
    Token {
        /// Holds it.
        file: PathBuf,
    },
    /// The Kubernetes method: the JWT of a service account.
    Kubernetes {
        /// Vault's role for it.
        role: String,
        /// Holds the JWT.
        jwt_file: PathBuf,
        /// Where the method is mounted below `auth/`.
        mount: String,
    },
    /// The AppRole method.
    AppRole {
        /// Holds the role ID.
        role_id_file: PathBuf,
        /// Holds the secret ID.
        secret_id_file: PathBuf,
        /// Where the method is mounted below `auth/`.
        mount: String,
    },
}

impl VaultAuth {
    /// The token of the file, if that is the method.
    pub(super) fn token(&self) -> Option<Result<Secret, VaultError>> {
        match self {
            Self::Token { file } => Some(Secret::read("token", file)),
            Self::Kubernetes { .. } | Self::AppRole { .. } => None,
        }
    }

    /// A new token, with what is in the files now.
    pub(super) fn login(&self, api: &Api) -> Result<Grant, VaultError> {
        match self {
            Self::Token { file } => {
                let token = Secret::read("token", file)?;
                let grant = self.lookup(api, &token)?;
                Ok(Grant { token: Some(token), ..grant })
            }
            Self::Kubernetes { role, jwt_file, mount } => {
                #[derive(Serialize)]
                struct Login<'a> {
                    role: &'a str,
                    jwt: &'a str,
                }
                let jwt = Secret::read("service account token", jwt_file)?;
                let mend = format!(
                    "check the role {role} of auth/{mount} (its service accounts, namespaces and audience) and {}",
                    jwt_file.display()
                );
                login(api, mount, &Login { role, jwt: jwt.expose() }, mend)
            }
            Self::AppRole { role_id_file, secret_id_file, mount } => {
                #[derive(Serialize)]
                struct Login<'a> {
                    role_id: &'a str,
                    secret_id: &'a str,
                }
                let role_id = Secret::read("role ID", role_id_file)?;
                let secret_id = Secret::read("secret ID", secret_id_file)?;
                let mend = format!(
                    "write a new secret ID to {} (it may be used up or have run out), or check {} and auth/{mount}",
                    secret_id_file.display(),
                    role_id_file.display()
                );
                let body = Login { role_id: role_id.expose(), secret_id: secret_id.expose() };
                login(api, mount, &body, mend)
            }
        }
    }

    /// What Vault knows about a token. Not accepted means that it is gone: the policy `default` allows the question.
    pub(super) fn lookup(&self, api: &Api, token: &Secret) -> Result<Grant, VaultError> {
        let reply = api.get("auth/token/lookup-self", Some(token));
        match (reply, self) {
            (Err(VaultError::Denied { url, .. }), Self::Token { file }) => {
                Err(VaultError::TokenGone { url, file: file.clone() })
            }
            (reply, _) => reply?.lookup(),
        }
    }
}

fn login(api: &Api, mount: &str, body: &impl Serialize, mend: String) -> Result<Grant, VaultError> {
    // Once and for all: growing would leave unwiped copies behind.
    let mut json = Zeroizing::new(Vec::with_capacity(64 * 1024));
    let path = format!("auth/{mount}/login");
    serde_json::to_writer(&mut *json, body)
        .map_err(|error| FetchError::Request { url: api.url(&path), reason: error.to_string() })?;
    match api.post(&path, None, &json) {
        Ok(reply) => reply.auth(),
        Err(VaultError::Denied { url, said, .. }) => {
            Err(VaultError::LoginRefused { url, status: 403, said, mend })
        }
        Err(VaultError::Refused { url, status, said }) if status < 500 => {
            Err(VaultError::LoginRefused { url, status, said, mend })
        }
        Err(other) => Err(other),
    }
}
