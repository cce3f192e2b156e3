//! Pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::pairs::Pairs;
use super::port::{ContainerPort, Protocol};
use super::probes::{self, RawProbe};
use super::{BadObject, Identity, Kind, address, at_most, maybe_name, name, parse};
use crate::identity::leaf::show;
use crate::kube::json::or_default;
use crate::kube::names::{Key, Name, Uid};
use crate::kube::resource::{PODS, Resource};

/// Most addresses of a pod; Kubernetes gives two.
pub const MAX_ADDRESSES: usize = 8;
/// Most ports of a pod.
pub const MAX_PORTS: usize = 256;

/// A pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pod {
    /// Namespace and name.
    pub key: Key,
    /// What makes it another one than an earlier one of its name.
    pub uid: Uid,
    /// Its labels.
    pub labels: Pairs,
    /// The annotations that mean something to mtlsd.
    pub annotations: Pairs,
    /// Where it runs; `None`: nowhere yet.
    pub node: Option<Name>,
    /// Its service account.
    pub account: Name,
    /// Is its network the node's?
    pub host_network: bool,
    /// As `status.podIPs` says; empty until it has some. A pod that has ended keeps them, while others have them by then:
    /// ask [`Pod::is_over`].
    pub addresses: Box<[IpAddr]>,
    /// The address of its node; `None`: not said yet.
    pub host: Option<IpAddr>,
    /// How far it is.
    pub phase: Phase,
    /// Where its cgroup is; `None`: not said yet.
    pub qos: Option<QosClass>,
    /// When it was made, in seconds of Unix time. Of two with one address the younger has it.
    pub created: i64,
    /// Is it about to be deleted?
    pub terminating: bool,
    /// The ports that its containers say that they have.
    pub ports: Box<[ContainerPort]>,
    /// The ports that kubelet probes, sorted.
    pub probed: Box<[u16]>,
}

/// How far a pod is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Not all containers run yet.
    #[default]
    Pending,
    /// It runs.
    Running,
    /// All containers have ended well.
    Succeeded,
    /// All containers have ended, not all of them well.
    Failed,
    /// Its node is not heard of.
    #[serde(other)]
    Unknown,
}

/// The class that says where a pod's cgroup is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum QosClass {
    /// Its requests are its limits.
    Guaranteed,
    /// Some requests.
    Burstable,
    /// No requests.
    BestEffort,
}

impl Pod {
    /// Has it ended? Its addresses are not its own any more.
    #[must_use]
    pub fn is_over(&self) -> bool {
        matches!(self.phase, Phase::Succeeded | Phase::Failed)
    }

    /// The UID that kubelet names its cgroup by.
    #[must_use]
    pub fn cgroup_uid(&self) -> &str {
        self.annotations.mirror().unwrap_or(self.uid.as_str())
    }
}

#[derive(Deserialize)]
struct Raw {
    metadata: RawMeta,
    #[serde(default, deserialize_with = "or_default")]
    spec: RawSpec,
    #[serde(default, deserialize_with = "or_default")]
    status: RawStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawMeta {
    #[serde(default, deserialize_with = "or_default")]
    labels: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    annotations: BTreeMap<String, String>,
    #[serde(default, deserialize_with = "or_default")]
    creation_timestamp: String,
    #[serde(default, deserialize_with = "or_default")]
    deletion_timestamp: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawSpec {
    #[serde(default, deserialize_with = "or_default")]
    node_name: String,
    #[serde(default, deserialize_with = "or_default")]
    service_account_name: String,
    #[serde(default, deserialize_with = "or_default")]
    host_network: bool,
    #[serde(default, deserialize_with = "or_default")]
    containers: Vec<RawContainer>,
    #[serde(default, deserialize_with = "or_default")]
    init_containers: Vec<RawContainer>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawContainer {
    #[serde(default, deserialize_with = "or_default")]
    pub ports: Vec<RawPort>,
    #[serde(default)]
    pub liveness_probe: Option<RawProbe>,
    #[serde(default)]
    pub readiness_probe: Option<RawProbe>,
    #[serde(default)]
    pub startup_probe: Option<RawProbe>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawPort {
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    pub container_port: u16,
    #[serde(default, deserialize_with = "or_default")]
    host_port: u16,
    #[serde(default, deserialize_with = "or_default")]
    protocol: Protocol,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawStatus {
    #[serde(default, deserialize_with = "or_default")]
    phase: Phase,
    #[serde(default, deserialize_with = "or_default")]
    qos_class: String,
    #[serde(rename = "hostIP", default, deserialize_with = "or_default")]
    host_ip: String,
    #[serde(rename = "podIP", default, deserialize_with = "or_default")]
    pod_ip: String,
    #[serde(rename = "podIPs", default, deserialize_with = "or_default")]
    pod_ips: Vec<RawAddress>,
}

#[derive(Default, Deserialize)]
struct RawAddress {
    #[serde(default, deserialize_with = "or_default")]
    ip: String,
}

impl Kind for Pod {
    const RESOURCE: Resource = PODS;

    fn read(identity: Identity, json: &str) -> Result<Self, BadObject> {
        let Raw { metadata, spec, status } = parse(json)?;
        let account = match spec.service_account_name.as_str() {
            "" => "default",
            text => text,
        };
        let containers = || spec.containers.iter().chain(&spec.init_containers);
        let (ports, probed) = (ports(containers())?, probed(containers())?);
        Ok(Self {
            labels: Pairs::labels(&metadata.labels)?,
            annotations: Pairs::annotations(&metadata.annotations)?,
            node: maybe_name("spec.nodeName", &spec.node_name)?,
            account: name("spec.serviceAccountName", account)?,
            host_network: spec.host_network,
            addresses: addresses(&status)?,
            host: match status.host_ip.as_str() {
                "" => None,
                text => Some(address("status.hostIP", text)?),
            },
            phase: status.phase,
            qos: match status.qos_class.as_str() {
                "Guaranteed" => Some(QosClass::Guaranteed),
                "Burstable" => Some(QosClass::Burstable),
                "BestEffort" => Some(QosClass::BestEffort),
                _ => None,
            },
            created: seconds("metadata.creationTimestamp", &metadata.creation_timestamp)?,
            terminating: !metadata.deletion_timestamp.is_empty(),
            ports,
            probed,
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

fn ports<'a>(containers: impl Iterator<Item = &'a RawContainer>) -> Result<Box<[ContainerPort]>, BadObject> {
    let of = |raw: &RawPort| ContainerPort {
        name: raw.name.as_str().into(),
        port: raw.container_port,
        host_port: raw.host_port,
        protocol: raw.protocol,
    };
    let ports: Vec<_> = containers.flat_map(|container| container.ports.iter().map(of)).collect();
    at_most("spec.containers[].ports", ports.len(), MAX_PORTS)?;
    if let Some(long) = ports.iter().find(|port| port.name.len() > 63) {
        let bytes = long.name.len();
        return Err(BadObject::TooLong { field: "spec.containers[].ports[].name", bytes, max: 63 });
    }
    Ok(ports.into())
}

fn probed<'a>(containers: impl Iterator<Item = &'a RawContainer>) -> Result<Box<[u16]>, BadObject> {
    let mut ports: Vec<_> = containers.flat_map(probes::ports).collect();
    ports.sort_unstable();
    ports.dedup();
    at_most("ports that are probed", ports.len(), MAX_PORTS)?;
    Ok(ports.into())
}

/// `podIPs`, or the older `podIP`.
fn addresses(status: &RawStatus) -> Result<Box<[IpAddr]>, BadObject> {
    at_most("status.podIPs", status.pod_ips.len(), MAX_ADDRESSES)?;
    let all = status.pod_ips.iter().map(|raw| raw.ip.as_str());
    let one = [status.pod_ip.as_str()];
    let texts: Vec<&str> = if status.pod_ips.is_empty() { one.to_vec() } else { all.collect() };
    texts.into_iter().filter(|text| !text.is_empty()).map(|text| address("status.podIPs", text)).collect()
}

/// A time as the API writes it, in seconds of Unix time; 0 if there is none.
fn seconds(field: &'static str, text: &str) -> Result<i64, BadObject> {
    if text.is_empty() {
        return Ok(0);
    }
    let time = OffsetDateTime::parse(text, &Rfc3339);
    time.map(OffsetDateTime::unix_timestamp).map_err(|_| BadObject::Time { field, text: show(text) })
}
