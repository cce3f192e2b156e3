//! From what is known of the cluster to what it offers this node.

use std::collections::HashMap;
use std::sync::Arc;

use super::accounts::{Account, Accounts};
use super::directory;
use crate::config::{Kubernetes, Offer, OfferedPod, OfferedPolicy, PodSelector, PolicyKind, PolicyName};
use crate::identity::TrustDomain;
use crate::kube::objects::{
    AuthorizationPolicy, EndpointSlice, MutualTlsPolicy, Namespace, PeerAuthentication, Pod, Policy, Service,
};
use crate::kube::pods::{cgroups, owners};

/// What is known of the cluster, all of it heard at least once.
#[derive(Debug, Default)]
pub struct View {
    /// Pods of all nodes.
    pub pods: Vec<Arc<Pod>>,
    /// Namespaces.
    pub namespaces: Vec<Arc<Namespace>>,
    /// Services.
    pub services: Vec<Arc<Service>>,
    /// What is behind them.
    pub slices: Vec<Arc<EndpointSlice>>,
    /// Istio's modes.
    pub modes: Vec<Arc<PeerAuthentication>>,
    /// Istio's rules.
    pub rules: Vec<Arc<AuthorizationPolicy>>,
    /// mtlsd's own.
    pub ours: Vec<Arc<MutualTlsPolicy>>,
}

/// The last good `spec` of each policy object.
pub type Earlier = HashMap<PolicyName, Box<str>>;

/// What the cluster offers to this node, and the services behind which not all are enrolled, which are therefore no destinations.
#[must_use]
pub fn offer(
    view: &View,
    settings: &Kubernetes,
    node: &str,
    domain: &TrustDomain,
    earlier: &Earlier,
) -> (Offer, Vec<String>) {
    let accounts = Accounts::new(&view.namespaces, domain);
    let owners = owners(view.pods.iter().map(AsRef::as_ref));
    let root: Vec<&str> = settings.cgroup_root.iter().map(String::as_str).collect();
    let (mut pods, mut bystanders) = (Vec::new(), Vec::new());
    for pod in view.pods.iter().filter(|pod| pod.node.as_ref().is_some_and(|name| name.as_str() == node)) {
        let select = PodSelector { cgroups: cgroups(pod, &root), host_network: pod.host_network };
        match accounts.of(pod) {
            Account::Enrolled { id, mode } => pods.push(OfferedPod {
                name: pod.key.to_string(),
                select,
                spiffe_id: id,
                labels: pod.labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
                mode,
                probe_ports: pod.probed.iter().copied().collect(),
                addresses: pod
                    .addresses
                    .iter()
                    .filter(|address| owners.get(*address).is_some_and(|owner| owner.uid == pod.uid))
                    .copied()
                    .collect(),
            }),
            Account::Bystander => bystanders.push(select),
            Account::Unknown => {}
        }
    }
    let (directory, mixed) = directory::of(view, &accounts, &owners, node);
    let offer = Offer { pods, bystanders, directory, policies: policies(view, earlier) };
    (offer, mixed)
}

fn policies(view: &View, earlier: &Earlier) -> Vec<OfferedPolicy> {
    let one = |kind: PolicyKind, policy: &Policy| {
        let namespace = policy.key.namespace.as_ref().map_or_else(String::new, ToString::to_string);
        let name = PolicyName { kind, namespace, name: policy.key.name.to_string() };
        OfferedPolicy {
            earlier: earlier.get(&name).cloned(),
            name,
            generation: policy.generation,
            dry_run: policy.dry_run,
            spec: policy.spec.clone(),
        }
    };
    let modes = view.modes.iter().map(|policy| one(PolicyKind::PeerAuthentication, &policy.0));
    let rules = view.rules.iter().map(|policy| one(PolicyKind::AuthorizationPolicy, &policy.0));
    let ours = view.ours.iter().map(|policy| one(PolicyKind::MutualTlsPolicy, &policy.0));
    modes.chain(rules).chain(ours).collect()
}
