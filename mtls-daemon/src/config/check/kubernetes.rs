//! The node's place in a Kubernetes cluster.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;

use crate::config::at::{At, Given};
use crate::config::direct::{NodeAddress, NodeAddressError};
use crate::config::error::{Fault, Quoted};
use crate::config::inside::Inside;
use crate::config::kubernetes::{Kubernetes, PodIssuer, PolicySource, UnclassifiedPods};
use crate::config::raw;
use crate::config::scalar;
use crate::config::types::{Issuer, IssuerKind, Mode, Prober, WorkloadIdentity};
use crate::kube::{Name, SERVICE_ACCOUNT};

use super::{Check, Seen, issuer};

/// The environment variable that says the node's own address.
pub(super) const NODE_IP: &str = "NODE_IP";
/// kubelet's systemd unit on most nodes.
const KUBELET: &str = "kubelet.service";

pub(super) fn check(
    check: &mut Check,
    issuers: &[Issuer],
    same: &WorkloadIdentity,
    raw: &raw::Kubernetes,
) -> Kubernetes {
    let node = raw.node.0.as_ref().and_then(|at| check.text(at, str::parse::<Name>, Fault::KubernetesName));
    let default_mode = raw.default_mode.0.as_ref().map_or(Mode::Permissive, |at| {
        if at.value == Mode::Disabled {
            check.fault(at.spot, Fault::KubernetesDefaultDisabled);
        }
        at.value
    });
    Kubernetes {
        node: node.map(|name| name.to_string()),
        default_mode,
        cgroup_root: raw.cgroup_root.0.as_ref().map(|at| cgroup_root(check, at)).unwrap_or_default(),
        service_account: check.path_or(&raw.service_account, SERVICE_ACCOUNT),
        issuer: pod_issuer(check, issuers, same, &raw.issuer),
        policies: policies(check, &raw.policies),
        unclassified: raw.unclassified.0.as_ref().map(|at| at.value).unwrap_or_default(),
        networks: networks(check, &raw.networks),
        resolve_services: raw.resolve_services.0.as_ref().is_some_and(|at| at.value),
        direct_port: raw.direct_port.0.as_ref().and_then(|at| check.port(at)),
    }
}

/// The cgroups below which every process is a pod's, by either driver of kubelet. `below`: where the node's cgroups begin.
pub(super) fn enclosures(kubernetes: &Kubernetes, below: Option<&str>) -> Vec<PathBuf> {
    match kubernetes.unclassified {
        UnclassifiedPods::Refuse => {
            let root: Vec<&str> = kubernetes.cgroup_root.iter().map(String::as_str).collect();
            let below = std::path::Path::new(below.unwrap_or_default());
            crate::kube::pods::roots(&root).iter().map(|path| below.join(path)).collect()
        }
        UnclassifiedPods::Allow => Vec::new(),
    }
}

/// Where this node's daemon takes sessions of others. `address`: what the environment says of the node.
pub(super) fn listen(
    check: &mut Check,
    raw: &raw::Kubernetes,
    kubernetes: &Kubernetes,
    address: Option<&str>,
) -> Option<NodeAddress> {
    let (port, at) = (kubernetes.direct_port?, raw.direct_port.0.as_ref()?);
    let Some(text) = address.filter(|text| !text.is_empty()) else {
        // As where the file is only checked: not in the pod.
        check.warn(at.spot, Fault::KubernetesNoNodeIp);
        return None;
    };
    let address = text.parse::<IpAddr>().map_err(|_| NodeAddressError::Form);
    match address.and_then(|ip| SocketAddr::new(ip, port).try_into()) {
        Ok(address) => Some(address),
        Err(error) => {
            check.fault(at.spot, Fault::KubernetesNodeIp(Quoted::new(text), error));
            None
        }
    }
}

/// Who probes pods, unless the file says who else does.
pub(super) fn probers() -> Vec<Prober> {
    KUBELET.parse().map(Prober::Unit).into_iter().collect()
}

fn cgroup_root(check: &mut Check, at: &At<String>) -> Vec<String> {
    let segments: Vec<String> =
        at.value.split('/').filter(|segment| !segment.is_empty()).map(str::to_owned).collect();
    let odd = |segment: &String| segment == "." || segment == ".." || segment.contains(char::is_whitespace);
    if segments.iter().any(odd) {
        check.fault(at.spot, Fault::KubernetesCgroupRoot(Quoted::new(&at.value)));
    }
    segments
}

fn networks(check: &mut Check, raw: &Given<Vec<At<String>>>) -> Vec<IpNet> {
    let Some(list) = &raw.0 else { return Vec::new() };
    if list.value.len() > Inside::MAX_NETWORKS {
        check.fault(list.spot, Fault::TooManyNetworks(list.value.len()));
        return Vec::new();
    }
    check.distinct("network", &list.value, scalar::cidr, Fault::Cidr)
}

fn policies(check: &mut Check, raw: &Given<Vec<At<PolicySource>>>) -> BTreeSet<PolicySource> {
    let Some(list) = &raw.0 else { return BTreeSet::from([PolicySource::Mtlsd]) };
    let mut seen = Seen::new("kind of policy", "write it once");
    let mut policies = BTreeSet::new();
    for at in &list.value {
        seen.note(check, &at.value, &format!("{:?}", at.value).to_lowercase(), at.spot);
        policies.insert(at.value);
    }
    policies
}

/// One that is not known fails the load.
fn pod_issuer(
    check: &mut Check,
    issuers: &[Issuer],
    same: &WorkloadIdentity,
    raw: &Given<String>,
) -> PodIssuer {
    let Some(issuer) = raw.0.as_ref().and_then(|at| issuer::known(check, issuers, at)) else {
        return PodIssuer::Same(same.clone());
    };
    match issuer.kind {
        IssuerKind::DelegatedIdentity { .. } => PodIssuer::Delegated { issuer: issuer.name.clone() },
        _ => PodIssuer::Same(WorkloadIdentity::Issuer(issuer.name.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::yaml;

    /// What comes of it, and what is said.
    fn listening(yaml: &str, address: Option<&str>) -> (Option<String>, String) {
        let mut check = Check::new();
        let raw = yaml::parse::<raw::Kubernetes>(yaml).unwrap_or_else(|_| panic!("{yaml}"));
        let kubernetes = super::check(&mut check, &[], &WorkloadIdentity::EmbeddedCa, &raw);
        let listen = listen(&mut check, &raw, &kubernetes, address).map(|address| address.to_string());
        let warnings = std::mem::take(&mut check.warnings);
        let warnings = check.render(warnings).iter().map(ToString::to_string).collect::<String>();
        let faults = check.refuse_faults().err().map(|error| error.to_string());
        (listen, faults.unwrap_or(warnings))
    }

    #[test]
    fn the_daemon_takes_sessions_at_the_nodes_own_address() {
        let port = "direct_port: 15080";
        assert_eq!(listening(port, Some("192.0.2.7")), (Some("192.0.2.7:15080".to_owned()), String::new()));
        assert_eq!(listening(port, Some("fd00::7")).0, Some("[fd00::7]:15080".to_owned()));
        assert_eq!(listening("node: n1", Some("192.0.2.7")), (None, String::new()));
        for (address, words) in [
            (None, "status.hostIP"),
            (Some(""), "NODE_IP does not say"),
            (Some("n1"), "it is not an address"),
            (Some("127.0.0.1"), "loopback"),
        ] {
            let (listen, said) = listening(port, address);
            assert!(listen.is_none() && said.contains(words), "{address:?}: {said}");
        }
        let (listen, said) = listening("direct_port: 0", Some("192.0.2.7"));
        assert!(listen.is_none() && said.contains("port"), "{said}");
    }
}
