//! Which ports of a pod kubelet probes.

use serde::Deserialize;

use super::pod::RawContainer;
use super::port::PortRef;
use crate::kube::json::or_default;

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct RawProbe {
    #[serde(default)]
    http_get: Option<Target>,
    #[serde(default)]
    tcp_socket: Option<Target>,
    #[serde(default)]
    grpc: Option<Target>,
}

#[derive(Debug, Default, Deserialize)]
struct Target {
    #[serde(default, deserialize_with = "or_default")]
    port: PortRef,
    /// Somebody else than the pod.
    #[serde(default, deserialize_with = "or_default")]
    host: String,
}

/// The ports that a container's probes ask, as numbers; those of another host are not the pod's.
pub(super) fn ports(container: &RawContainer) -> impl Iterator<Item = u16> {
    let probes = [&container.liveness_probe, &container.readiness_probe, &container.startup_probe];
    let targets =
        probes.into_iter().flatten().flat_map(|probe| [&probe.http_get, &probe.tcp_socket, &probe.grpc]);
    targets.flatten().filter(|target| target.host.is_empty()).filter_map(|target| match &target.port {
        PortRef::Number(port) => (*port != 0).then_some(*port),
        PortRef::Name(name) => {
            container.ports.iter().find(|port| port.name == *name).map(|port| port.container_port)
        }
    })
}
