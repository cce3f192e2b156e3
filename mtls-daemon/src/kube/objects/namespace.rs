//! Namespaces: their labels say which pods are enrolled.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::pairs::Pairs;
use super::{BadObject, Identity, Kind, parse};
use crate::kube::json::or_default;
use crate::kube::names::{Key, Uid};
use crate::kube::resource::{NAMESPACES, Resource};

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Namespace {
    /// Its name.
    pub key: Key,
    /// What makes it another one than an earlier one of its name.
    pub uid: Uid,
    /// Its labels.
    pub labels: Pairs,
    /// The annotations that mean something to mtlsd.
    pub annotations: Pairs,
}

#[derive(Deserialize)]
struct Raw {
    metadata: RawMeta,
}

#[derive(Deserialize)]
struct RawMeta {
    #[serde(default, deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    annotations: BTreeMap<String, String>,
}

impl Kind for Namespace {
    const RESOURCE: Resource = NAMESPACES;

    fn read(identity: Identity, json: &str) -> Result<Self, BadObject> {
        let Raw { metadata } = parse(json)?;
        let (labels, annotations) =
            (Pairs::labels(&metadata.labels)?, Pairs::annotations(&metadata.annotations)?);
        Ok(Self { key: identity.key, uid: identity.uid, labels, annotations })
    }

    fn key(&self) -> &Key {
        &self.key
    }

    fn uid(&self) -> &Uid {
        &self.uid
    }
}
