//! Vault as an issuer.

use schemars::JsonSchema;
use serde::Deserialize;

use crate::config::at::{At, Given};

/// The PKI engine of HashiCorp Vault or OpenBao.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Vault {
    /// https://HOST or https://HOST:PORT; http:// to this machine's loopback only.
    pub address: At<String>,
    /// Where the PKI engine is mounted. Default pki.
    #[serde(default)]
    pub mount: Given<String>,
    /// Its role.
    pub role: At<String>,
    /// The namespace of all requests. Default none.
    #[serde(default)]
    pub namespace: Given<String>,
    /// Roots for Vault's own certificate, an absolute path to a PEM file. Default: the system's.
    #[serde(default)]
    pub ca_file: Given<String>,
    /// The most that one request may take. Default 30s.
    #[serde(default)]
    pub timeout: Given<String>,
    /// How mtlsd proves who it is.
    pub auth: At<VaultAuth>,
}

/// How mtlsd proves to Vault who it is: exactly one method.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct VaultAuth {
    /// A token that somebody else got.
    pub token: Given<VaultToken>,
    /// The JWT of a Kubernetes service account.
    pub kubernetes: Given<VaultKubernetes>,
    /// A role ID and a secret ID.
    pub app_role: Given<VaultAppRole>,
}

/// A token that somebody else got.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct VaultToken {
    /// Holds it; an absolute path, read at each request.
    pub file: At<String>,
}

/// The JWT of a Kubernetes service account.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct VaultKubernetes {
    /// The role of the auth method.
    pub role: At<String>,
    /// Holds the JWT; an absolute path, read at each login. Default
    /// /var/run/secrets/kubernetes.io/serviceaccount/token.
    #[serde(default)]
    pub jwt_file: Given<String>,
    /// Where the method is mounted below auth/. Default kubernetes.
    #[serde(default)]
    pub mount: Given<String>,
}

/// A role ID and a secret ID.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct VaultAppRole {
    /// Holds the role ID; an absolute path, read at each login.
    pub role_id_file: At<String>,
    /// Holds the secret ID; an absolute path, read at each login.
    pub secret_id_file: At<String>,
    /// Where the method is mounted below auth/. Default approle.
    #[serde(default)]
    pub mount: Given<String>,
}
