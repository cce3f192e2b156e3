//! From what is known of the cluster to what it offers this node.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::accounts::{Account, Accounts};
use super::directory;
use super::services::{Left, Resolution};
use crate::config::{Kubernetes, Offer, OfferedPod, OfferedPolicy, PodSelector, PolicyKind, PolicyName};
use crate::identity::TrustDomain;
use crate::kube::Key;
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

impl View {
    /// What is behind each service.
    pub(super) fn slices_by_service(&self) -> HashMap<Key, Vec<&EndpointSlice>> {
        let mut slices: HashMap<Key, Vec<&EndpointSlice>> = HashMap::new();
        for slice in &self.slices {
            if let Some(service) = &slice.service {
                let key = Key { namespace: slice.key.namespace.clone(), name: service.clone() };
                slices.entry(key).or_default().push(slice);
            }
        }
        slices
    }
}

/// The last good `spec` of each policy object.
pub type Earlier = HashMap<PolicyName, Box<str>>;

/// What of the cluster is not as one would expect.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Notes {
    /// Services behind which not all are enrolled, and which are therefore no destinations.
    pub mixed: Vec<String>,
    /// Services whose endpoint kube-proxy chooses though endpoints are chosen at connect(), and why.
    pub left: Vec<(String, Left)>,
}

/// What the cluster offers to this node, and what is to be said of it.
#[must_use]
pub fn offer(
    view: &View,
    settings: &Kubernetes,
    node: &str,
    domain: &TrustDomain,
    earlier: &Earlier,
) -> (Offer, Notes) {
    let accounts = Accounts::new(view, domain);
    let owners = owners(view.pods.iter().map(AsRef::as_ref));
    let root: Vec<&str> = settings.cgroup_root.iter().map(String::as_str).collect();
    let (mut pods, mut bystanders) = (Vec::new(), Vec::new());
    for pod in view.pods.iter().filter(|pod| pod.node.as_ref().is_some_and(|name| name.as_str() == node)) {
        let select = PodSelector { cgroups: cgroups(pod, &root), host_network: pod.host_network };
        match accounts.of(pod) {
            Account::Enrolled { id, mode } => pods.push(OfferedPod {
                name: pod.key.to_string(),
                select,
                spiffe_id: id.clone(),
                labels: pod.labels.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect(),
                mode: *mode,
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
    let resolution = if settings.resolve_services {
        Resolution::of(view, &accounts, &owners)
    } else {
        Resolution::default()
    };
    let (directory, mixed) = directory::of(view, &accounts, &owners, node, &resolution);
    let known =
        if settings.networks.is_empty() { BTreeSet::new() } else { directory::known(view, &accounts) };
    let Resolution { services, left, .. } = resolution;
    let offer = Offer { pods, bystanders, directory, policies: policies(view, earlier), services, known };
    (offer, Notes { mixed, left })
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
