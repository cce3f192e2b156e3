//! Services: addresses behind which there are pods.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::port::Protocol;
use super::{BadObject, Identity, Kind, MAX_ADDRESSES, MAX_PORTS, address, at_most, parse};
use crate::kube::json::or_default;
use crate::kube::names::{Key, Uid};
use crate::kube::resource::{Resource, SERVICES};

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// Namespace and name.
    pub key: Key,
    /// What makes it another one than an earlier one of its name.
    pub uid: Uid,
    /// How it is reached.
    pub kind: ServiceKind,
    /// Its own addresses inside the cluster; none: it is headless, or a name for somebody else.
    pub addresses: Box<[IpAddr]>,
    /// Its ports.
    pub ports: Box<[ServicePort]>,
    /// Whether a client comes back to the endpoint that it had.
    pub affinity: SessionAffinity,
    /// From where endpoints are chosen for clients inside of the cluster.
    pub internal_traffic: InternalTraffic,
}

/// Whether a client comes back to the endpoint that it had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SessionAffinity {
    /// It need not.
    #[default]
    None,
    /// By its address.
    #[serde(rename = "ClientIP")]
    ClientIp,
    /// Any that came later.
    #[serde(other)]
    Other,
}

/// From where endpoints are chosen for clients inside of the cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum InternalTraffic {
    /// From all nodes.
    #[default]
    Cluster,
    /// From the client's node alone.
    Local,
    /// Any that came later.
    #[serde(other)]
    Other,
}

/// How a service is reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceKind {
    /// By its address inside of the cluster.
    #[default]
    #[serde(rename = "ClusterIP")]
    ClusterIp,
    /// By a port of every node, too.
    NodePort,
    /// By a load balancer, too.
    LoadBalancer,
    /// It is another name of somebody outside.
    ExternalName,
    /// Any that came later.
    #[serde(other)]
    Other,
}

/// A port of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicePort {
    /// As in its slices; empty: the only one.
    #[serde(default, deserialize_with = "or_default")]
    pub name: Box<str>,
    /// The port of its address.
    pub port: u16,
    /// Of which protocol.
    #[serde(default, deserialize_with = "or_default")]
    pub protocol: Protocol,
}

#[derive(Deserialize)]
struct Raw {
    #[serde(default, deserialize_with = "or_default")]
    spec: RawSpec,
}

#[derive(Default, Deserialize)]
struct RawSpec {
    #[serde(rename = "type", default, deserialize_with = "or_default")]
    kind: ServiceKind,
    #[serde(rename = "clusterIP", default, deserialize_with = "or_default")]
    cluster_ip: String,
    #[serde(rename = "clusterIPs", default, deserialize_with = "or_default")]
    cluster_ips: Vec<String>,
    #[serde(default, deserialize_with = "or_default")]
    ports: Vec<ServicePort>,
    #[serde(rename = "sessionAffinity", default, deserialize_with = "or_default")]
    affinity: SessionAffinity,
    #[serde(rename = "internalTrafficPolicy", default, deserialize_with = "or_default")]
    internal_traffic: InternalTraffic,
}

impl Kind for Service {
    const RESOURCE: Resource = SERVICES;

    fn read(identity: Identity, json: &str) -> Result<Self, BadObject> {
        let Raw { spec } = parse(json)?;
        at_most("spec.clusterIPs", spec.cluster_ips.len(), MAX_ADDRESSES)?;
        at_most("spec.ports", spec.ports.len(), MAX_PORTS)?;
        let one = [spec.cluster_ip];
        let texts = if spec.cluster_ips.is_empty() { one.as_slice() } else { spec.cluster_ips.as_slice() };
        let addresses = texts.iter().filter(|text| !text.is_empty() && *text != "None");
        Ok(Self {
            key: identity.key,
            uid: identity.uid,
            kind: spec.kind,
            addresses: addresses.map(|text| address("spec.clusterIPs", text)).collect::<Result<_, _>>()?,
            ports: spec.ports.into(),
            affinity: spec.affinity,
            internal_traffic: spec.internal_traffic,
        })
    }

    fn key(&self) -> &Key {
        &self.key
    }

    fn uid(&self) -> &Uid {
        &self.uid
    }
}
