//! Nodes: their addresses, and the networks of their pods.

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{BadObject, Identity, Kind, MAX_ADDRESSES, address, at_most, parse};
use crate::identity::leaf::show;
use crate::kube::json::or_default;
use crate::kube::names::{Key, Uid};
use crate::kube::resource::{NODES, Resource};

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub key: Key,
    /// What makes it another one than an earlier one of its name.
    pub uid: Uid,
    /// Its addresses inside the cluster.
    pub addresses: Box<[IpAddr]>,
    /// The networks that its pods' addresses are of; empty where the network plug-in keeps them itself.
    pub pod_networks: Box<[IpNet]>,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default, deserialize_with = "or_default")]
    spec: RawSpec,
    #[serde(default, deserialize_with = "or_default")]
    status: RawStatus,
}

#[derive(Default, Deserialize)]
struct RawSpec {
    #[serde(rename = "podCIDR", default, deserialize_with = "or_default")]
    pod_cidr: String,
    #[serde(rename = "podCIDRs", default, deserialize_with = "or_default")]
    pod_cidrs: Vec<String>,
}

#[derive(Default, Deserialize)]
struct RawStatus {
    #[serde(default, deserialize_with = "or_default")]
    addresses: Vec<RawAddress>,
}

#[derive(Deserialize)]
struct RawAddress {
    #[serde(rename = "type", default, deserialize_with = "or_default")]
    kind: String,
    #[serde(default, deserialize_with = "or_default")]
    address: String,
}

impl Kind for Node {
    const RESOURCE: Resource = NODES;

    fn read(identity: Identity, json: &str) -> Result<Self, BadObject> {
        let Raw { spec, status } = parse(json)?;
        let internal = || status.addresses.iter().filter(|raw| raw.kind == "InternalIP");
        at_most("status.addresses", internal().count(), MAX_ADDRESSES)?;
        at_most("spec.podCIDRs", spec.pod_cidrs.len(), MAX_ADDRESSES)?;
        let one = [spec.pod_cidr];
        let networks = if spec.pod_cidrs.is_empty() { one.as_slice() } else { spec.pod_cidrs.as_slice() };
        let network = |text: &String| {
            let bad = |_| BadObject::Address { field: "spec.podCIDRs", text: show(text) };
            text.parse::<IpNet>().map(|network| network.trunc()).map_err(bad)
        };
        Ok(Self {
            key: identity.key,
            uid: identity.uid,
            addresses: internal()
                .map(|raw| address("status.addresses", &raw.address))
                .collect::<Result<_, _>>()?,
            pod_networks: networks
                .iter()
                .filter(|text| !text.is_empty())
                .map(network)
                .collect::<Result<_, _>>()?,
        })
    }

    fn key(&self) -> &Key {
        &self.key
    }

    fn uid(&self) -> &Uid {
        &self.uid
    }
}
