//! A file of policy tests as it is written.

use serde::Deserialize;

use super::Texts;
use crate::config::at::{At, Given, Number};

/// The whole file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct PolicyTests {
    pub tests: Vec<At<PolicyTest>>,
}

/// One connection, and what shall become of it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct PolicyTest {
    pub name: At<String>,
    pub from: At<End>,
    pub to: At<End>,
    pub expect: At<Expected>,
    #[serde(default)]
    pub rule: Given<String>,
}

/// One end: a workload of this configuration, or anybody.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct End {
    pub workload: Given<String>,
    pub spiffe_id: Given<String>,
    pub organizations: Given<Texts>,
    pub organizational_units: Given<Texts>,
    pub extensions: Given<Vec<At<ExtensionValue>>>,
    pub address: Given<String>,
    /// Only of the end that is connected to.
    pub port: Given<Number>,
}

/// An extension of a certificate.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ExtensionValue {
    pub oid: At<String>,
    pub value: At<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(in crate::config) enum Expected {
    Allow,
    Deny,
}
