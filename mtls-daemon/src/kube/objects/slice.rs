//! EndpointSlices: which pods are behind a service.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::port::Protocol;
use super::{
    BadObject, Identity, Kind, MAX_ADDRESSES, MAX_PORTS, Pod, address, at_most, maybe_name, name, parse,
};
use crate::kube::json::or_default;
use crate::kube::names::{Key, Name, NamespaceName, Uid};
use crate::kube::resource::{ENDPOINT_SLICES, Resource};

/// Most endpoints of a slice, as the API allows.
pub const MAX_ENDPOINTS: usize = 1_000;

/// A part of what is behind a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub key: Key,
    /// What makes it another one than an earlier one of its name.
    pub uid: Uid,
    /// The service, in the same namespace; `None`: somebody else's.
    pub service: Option<Name>,
    /// Who is behind it. Of slices of host names: nobody.
    pub endpoints: Box<[Endpoint]>,
    /// The ports of all of them.
    pub ports: Box<[SlicePort]>,
}

impl EndpointSlice {
    /// The port of its pods to which the service's TCP port of this name leads. One without a number, which the API allows, is one that
    /// kube-proxy does not serve.
    #[must_use]
    pub fn target(&self, name: &str) -> Option<u16> {
        let named = self.ports.iter().find(|of| of.protocol == Protocol::Tcp && *of.name == *name);
        named.and_then(|of| of.port).filter(|number| *number != 0)
    }
}

/// Somebody behind a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// All lead to the same.
    pub addresses: Box<[IpAddr]>,
    /// Does it take connections, also while it terminates?
    pub serving: bool,
    /// Is it about to end?
    pub terminating: bool,
    /// Where it is.
    pub node: Option<Name>,
    /// The pod that it is; `None`: none, or it is not said.
    pub pod: Option<PodRef>,
}

/// A pod, by name and UID.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRef {
    /// Its name.
    pub key: Key,
    /// `None`: it is not said.
    pub uid: Option<Uid>,
}

impl PodRef {
    /// Is it this pod, and none that had its name before or after?
    #[must_use]
    pub fn is(&self, pod: &Pod) -> bool {
        self.key == pod.key && self.uid.as_ref().is_none_or(|uid| *uid == pod.uid)
    }
}

/// A port of a slice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlicePort {
    /// The name of the service's port; empty: the only one.
    #[serde(default, deserialize_with = "or_default")]
    pub name: Box<str>,
    /// Of the pods; `None`: all ports.
    #[serde(default)]
    pub port: Option<u16>,
    /// Of which protocol.
    #[serde(default, deserialize_with = "or_default")]
    pub protocol: Protocol,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    metadata: RawMeta,
    #[serde(default, deserialize_with = "or_default")]
    address_type: String,
    #[serde(default, deserialize_with = "or_default")]
    endpoints: Vec<RawEndpoint>,
    #[serde(default, deserialize_with = "or_default")]
    ports: Vec<SlicePort>,
}

#[derive(Deserialize)]
struct RawMeta {
    #[serde(default, deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawEndpoint {
    #[serde(default, deserialize_with = "or_default")]
    addresses: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    conditions: RawConditions,
    #[serde(default, deserialize_with = "or_default")]
    node_name: String,
    #[serde(default)]
    target_ref: Option<RawTarget>,
}

#[derive(Default, Deserialize)]
struct RawConditions {
    #[serde(default)]
    ready: Option<bool>,
    #[serde(default)]
    serving: Option<bool>,
    #[serde(default)]
    terminating: Option<bool>,
}

#[derive(Deserialize)]
struct RawTarget {
    #[serde(default, deserialize_with = "or_default")]
    kind: String,
    #[serde(default, deserialize_with = "or_default")]
    namespace: String,
    #[serde(default, deserialize_with = "or_default")]
    name: String,
    #[serde(default, deserialize_with = "or_default")]
    uid: String,
}

impl Kind for EndpointSlice {
    const RESOURCE: Resource = ENDPOINT_SLICES;

    fn read(identity: Identity, json: &str) -> Result<Self, BadObject> {
        let mut raw: Raw = parse(json)?;
        if raw.address_type == "FQDN" {
            raw.endpoints.clear();
        }
        at_most("endpoints", raw.endpoints.len(), MAX_ENDPOINTS)?;
        at_most("ports", raw.ports.len(), MAX_PORTS)?;
        let service = raw.metadata.labels.get("kubernetes.io/service-name").map_or("", String::as_str);
        let namespace = identity.key.namespace.as_ref();
        Ok(Self {
            service: maybe_name("metadata.labels[kubernetes.io/service-name]", service)?,
            endpoints: raw.endpoints.iter().map(|raw| endpoint(raw, namespace)).collect::<Result<_, _>>()?,
            ports: raw.ports.into(),
            key: identity.key,
            uid: identity.uid,
        })
    }

    fn key(&self) -> &Key {
        &self.key
    }

    fn uid(&self) -> &Uid {
        &self.uid
    }
}

/// What is not said is ready, and serves if it is ready (discovery.k8s.io/v1, EndpointConditions).
fn endpoint(raw: &RawEndpoint, namespace: Option<&NamespaceName>) -> Result<Endpoint, BadObject> {
    at_most("endpoints[].addresses", raw.addresses.len(), MAX_ADDRESSES)?;
    let addresses = raw.addresses.iter().map(|text| address("endpoints[].addresses", text));
    let RawConditions { ready, serving, terminating } = raw.conditions;
    let pod = match &raw.target_ref {
        Some(target) if target.kind == "Pod" => {
            let other = maybe_name("endpoints[].targetRef.namespace", &target.namespace)?;
            let namespace = other.or_else(|| namespace.cloned());
            let key = Key { namespace, name: name("endpoints[].targetRef.name", &target.name)? };
            Some(PodRef { key, uid: maybe_name("endpoints[].targetRef.uid", &target.uid)? })
        }
        _ => None,
    };
    Ok(Endpoint {
        addresses: addresses.collect::<Result<_, _>>()?,
        serving: serving.or(ready).unwrap_or(true),
        terminating: terminating.unwrap_or(false),
        node: maybe_name("endpoints[].nodeName", &raw.node_name)?,
        pod,
    })
}
