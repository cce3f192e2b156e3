//! Objects that say modes and rules. Their meaning is `config`'s to read, as from files; here they are carried as text.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{BadObject, Identity, Kind, parse};
use crate::kube::json::or_default;
use crate::kube::names::{Key, Uid};
use crate::kube::resource::{AUTHORIZATION_POLICIES, MUTUAL_TLS_POLICIES, PEER_AUTHENTICATIONS, Resource};

/// Longest `spec`, in bytes.
pub const MAX_SPEC: usize = 256 * 1024;

/// Modes or rules, unread.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Policy {
    /// Namespace and name.
    pub key: Key,
    /// What makes it another one than an earlier one of its name.
    pub uid: Uid,
    /// Grows with each change of `spec`: conditions say by it what they are about.
    pub generation: i64,
    /// It only records what it would have done, as the annotation `istio.io/dry-run` says.
    #[serde(default)]
    pub dry_run: bool,
    /// As JSON; `{}` where there is none.
    pub spec: Box<str>,
}

#[derive(Deserialize)]
struct Raw {
    metadata: RawMeta,
    #[serde(default)]
    spec: Option<Box<RawValue>>,
}

#[derive(Deserialize)]
struct RawMeta {
    #[serde(default, deserialize_with = "or_default")]
    generation: i64,
    #[serde(default, deserialize_with = "or_default")]
    annotations: BTreeMap<String, String>,
}

/// On a resource of Istio that is only tried.
const DRY_RUN: &str = "istio.io/dry-run";

impl Policy {
    fn read(identity: Identity, json: &str) -> Result<Self, BadObject> {
        let Raw { metadata, spec } = parse(json)?;
        let spec = spec.as_deref().map_or("{}", RawValue::get);
        if spec.len() > MAX_SPEC {
            return Err(BadObject::TooLong { field: "spec", bytes: spec.len(), max: MAX_SPEC });
        }
        let Identity { key, uid } = identity;
        let dry_run = metadata.annotations.get(DRY_RUN).is_some_and(|value| value == "true");
        Ok(Self { key, uid, generation: metadata.generation, dry_run, spec: spec.into() })
    }
}

macro_rules! policy {
    ($(#[$doc:meta])* $name:ident, $resource:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Policy);

        impl Kind for $name {
            const RESOURCE: Resource = $resource;

            fn read(identity: Identity, json: &str) -> Result<Self, BadObject> {
                Policy::read(identity, json).map(Self)
            }

            fn key(&self) -> &Key {
                &self.0.key
            }

            fn uid(&self) -> &Uid {
                &self.0.uid
            }
        }
    };
}

policy!(
    /// Istio's modes.
    PeerAuthentication,
    PEER_AUTHENTICATIONS
);
policy!(
    /// Istio's rules.
    AuthorizationPolicy,
    AUTHORIZATION_POLICIES
);
policy!(
    /// mtlsd's own modes and rules.
    MutualTlsPolicy,
    MUTUAL_TLS_POLICIES
);
