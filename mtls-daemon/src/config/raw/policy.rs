//! Rules and modes as they are written.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use super::{Numbers, Texts};
use crate::config::at::{At, Entries, Given};
use crate::config::rule::Action;
use crate::config::types::Mode;

/// Who may connect to local workloads.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Rule {
    /// Unique: a-z, 0-9, '-' and '.', at most 63 characters.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$"))]
    pub name: At<String>,
    /// What it says.
    pub action: At<Action>,
    /// It only records what it would have done. Default false.
    #[serde(default)]
    pub dry_run: Given<bool>,
    /// To whom. Default: every local workload and port.
    #[serde(default)]
    pub to: LocalMatch,
    /// From whom. Default: anyone, also an unauthenticated client of a permissive port.
    #[serde(default)]
    pub from: Given<Peers>,
}

/// To whom local workloads may connect.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct OutboundRule {
    /// Unique: a-z, 0-9, '-' and '.', at most 63 characters.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$"))]
    pub name: At<String>,
    /// What it says.
    pub action: At<Action>,
    /// It only records what it would have done. Default false.
    #[serde(default)]
    pub dry_run: Given<bool>,
    /// From which local workloads, and to which ports of the destination. Default: any.
    #[serde(default)]
    pub from: LocalMatch,
    /// To whom. Default: anyone.
    #[serde(default)]
    pub to: Given<Peers>,
}

/// Local workloads and ports: every key that is written must match.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct LocalMatch {
    /// Names of local workloads. Default: any.
    pub workloads: Given<Texts>,
    /// Kubernetes namespaces of local workloads, by their SPIFFE IDs; `*` at one end. Default: any.
    pub namespaces: Given<Texts>,
    /// Labels of local workloads, all of them. Default: any.
    pub labels: Labels,
    /// Ports. Default: any.
    pub ports: Given<Numbers>,
    /// None of these may match: workloads, namespaces, labels or ports.
    pub not: Given<Box<LocalMatch>>,
}

/// One kind of peer, or a list: any one is enough.
#[derive(Debug)]
pub(in crate::config) enum Peers {
    One(Box<PeerMatch>),
    List(Vec<At<PeerMatch>>),
}

/// A peer: every key that is written must match, by any one of its values.
#[derive(Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub(in crate::config) struct PeerMatch {
    /// Exact IDs.
    pub spiffe_ids: Given<Texts>,
    /// Every ID below these paths; each ends with '/'.
    pub spiffe_id_prefixes: Given<Texts>,
    /// Every ID of these trust domains.
    pub trust_domains: Given<Texts>,
    /// Kubernetes namespaces, of IDs of the form spiffe://TRUST-DOMAIN/ns/NAMESPACE/sa/NAME; `*` at one end.
    pub namespaces: Given<Texts>,
    /// Service accounts of such IDs, as NAMESPACE/NAME; `*` at one end.
    pub service_accounts: Given<Texts>,
    /// O of the certificate's subject; `*` at one end.
    pub organizations: Given<Texts>,
    /// OU of the certificate's subject; `*` at one end.
    pub organizational_units: Given<Texts>,
    /// Extensions of the certificate: each must match.
    pub extensions: Given<Vec<At<Extension>>>,
    /// Networks or addresses.
    pub cidrs: Given<Texts>,
    /// None of these may match.
    pub not: Given<Box<PeerMatch>>,
}

/// An extension of a certificate.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Extension {
    /// Its OID in dotted decimal.
    pub oid: At<String>,
    /// Its value: text, hex:… for other DER, sha256:… for what is longer than 256 bytes; `*` at one end. Default: any.
    #[serde(default)]
    pub values: Given<Texts>,
}

/// What inbound connections of several workloads must be.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct ModeEntry {
    /// Kubernetes namespaces of the workloads, by their SPIFFE IDs; `*` at one end. Default: any.
    #[serde(default)]
    pub namespaces: Given<Texts>,
    /// Labels of the workloads, all of them. An entry with labels goes before one without, and one with namespaces before
    /// one for all.
    #[serde(default)]
    pub labels: Labels,
    /// The mode.
    #[serde(default)]
    pub mode: Given<Mode>,
    /// Exceptions, by port.
    #[serde(default)]
    pub ports: Entries<Mode>,
}

/// Labels: a mapping from texts to texts.
#[derive(Clone, Debug, Default)]
pub(in crate::config) struct Labels(pub Vec<(At<String>, At<String>)>);

impl<'de> Deserialize<'de> for Labels {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct LabelsVisitor;
        impl<'de> Visitor<'de> for LabelsVisitor {
            type Value = Labels;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of labels")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
                let mut labels = Vec::new();
                while let Some(entry) = map.next_entry()? {
                    labels.push(entry);
                }
                Ok(Labels(labels))
            }
        }
        deserializer.deserialize_map(LabelsVisitor)
    }
}

impl JsonSchema for Labels {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Labels".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": { "type": "string" } })
    }
}

impl<'de> Deserialize<'de> for Peers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PeersVisitor;
        impl<'de> Visitor<'de> for PeersVisitor {
            type Value = Peers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of peers")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Peers, A::Error> {
                PeerMatch::deserialize(MapAccessDeserializer::new(map)).map(|one| Peers::One(Box::new(one)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Peers, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Peers::List)
            }
        }
        deserializer.deserialize_any(PeersVisitor)
    }
}

impl JsonSchema for Peers {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Peers".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<PeerMatch>();
        json_schema!({ "anyOf": [{ "type": "array", "items": one.clone(), "minItems": 1 }, one] })
    }
}
