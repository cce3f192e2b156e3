//! The node's place in a Kubernetes cluster.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::config::at::{At, Given};
use crate::config::error::{Fault, Quoted};
use crate::config::kubernetes::{Kubernetes, PodIssuer, PolicySource, UnclassifiedPods};
use crate::config::raw;
use crate::config::types::{Issuer, IssuerKind, Mode, Prober, WorkloadIdentity};
use crate::kube::{Name, SERVICE_ACCOUNT};

use super::{Check, Seen, issuer};

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
        resolve_services: raw.resolve_services.0.as_ref().is_some_and(|at| at.value),
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
