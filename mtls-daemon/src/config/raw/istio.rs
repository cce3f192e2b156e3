//! Istio's two resources, as they are written. What is not decided on a connection is read, to be refused by name.

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::Texts;
use super::policy::Labels;
use crate::config::at::{At, Entries, Given};
use crate::config::types::Mode;

/// A list of texts that stands for something that only a proxy for HTTP could decide.
pub(in crate::config) type NotL4 = Given<IgnoredAny>;

/// What every resource has.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(in crate::config) struct Envelope {
    pub api_version: At<String>,
    pub kind: At<String>,
}

/// A resource; everything but `spec` is Kubernetes' own.
#[derive(Debug, Deserialize)]
pub(in crate::config) struct Resource<S> {
    pub metadata: Metadata,
    #[serde(default)]
    pub spec: S,
}

/// Of the metadata, what has a meaning here.
#[derive(Debug, Deserialize)]
pub(in crate::config) struct Metadata {
    pub name: At<String>,
    #[serde(default)]
    pub namespace: Given<String>,
    #[serde(default)]
    pub annotations: Labels,
}

/// `spec` of a PeerAuthentication.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::config) struct PeerAuthentication {
    pub selector: Selector,
    pub mtls: Mtls,
    pub port_level_mtls: Entries<Mtls>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::config) struct Selector {
    pub match_labels: Labels,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Mtls {
    pub mode: Given<MtlsMode>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(in crate::config) enum MtlsMode {
    Unset,
    Disable,
    Permissive,
    Strict,
}

impl Mtls {
    /// `None`: what lies around it says.
    pub fn mode(&self) -> Option<Mode> {
        match self.mode.0.as_ref()?.value {
            MtlsMode::Unset => None,
            MtlsMode::Disable => Some(Mode::Disabled),
            MtlsMode::Permissive => Some(Mode::Permissive),
            MtlsMode::Strict => Some(Mode::Strict),
        }
    }
}

/// `spec` of an AuthorizationPolicy.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::config) struct AuthorizationPolicy {
    pub selector: Selector,
    pub action: Given<AuthorizationAction>,
    pub rules: Vec<At<AuthorizationRule>>,
    pub provider: Given<IgnoredAny>,
    pub target_ref: Given<IgnoredAny>,
    pub target_refs: Given<IgnoredAny>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(in crate::config) enum AuthorizationAction {
    #[default]
    Allow,
    Deny,
    Audit,
    Custom,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct AuthorizationRule {
    pub from: Given<Vec<At<From>>>,
    pub to: Given<Vec<At<To>>>,
    pub when: Vec<At<When>>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct From {
    pub source: AuthorizationSource,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::config) struct AuthorizationSource {
    pub principals: Texts,
    pub not_principals: Texts,
    pub namespaces: Texts,
    pub not_namespaces: Texts,
    pub service_accounts: Texts,
    pub not_service_accounts: Texts,
    pub ip_blocks: Texts,
    pub not_ip_blocks: Texts,
    pub request_principals: NotL4,
    pub not_request_principals: NotL4,
    pub remote_ip_blocks: NotL4,
    pub not_remote_ip_blocks: NotL4,
}

impl AuthorizationSource {
    /// How many values it lists.
    pub fn values(&self) -> usize {
        let lists = [
            &self.principals,
            &self.not_principals,
            &self.namespaces,
            &self.not_namespaces,
            &self.service_accounts,
            &self.not_service_accounts,
            &self.ip_blocks,
            &self.not_ip_blocks,
        ];
        lists.iter().map(|list| list.len()).sum()
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct To {
    pub operation: Operation,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::config) struct Operation {
    pub ports: Texts,
    pub not_ports: Texts,
    pub hosts: NotL4,
    pub not_hosts: NotL4,
    pub methods: NotL4,
    pub not_methods: NotL4,
    pub paths: NotL4,
    pub not_paths: NotL4,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(in crate::config) struct When {
    pub key: At<String>,
    #[serde(default)]
    pub values: Texts,
    #[serde(default)]
    pub not_values: Texts,
}
