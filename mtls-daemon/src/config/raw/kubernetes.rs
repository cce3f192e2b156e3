//! The node's place in a Kubernetes cluster, and mtlsd's own policy object, as they are written.

use schemars::JsonSchema;
use serde::Deserialize;

use super::istio::Selector;
use super::policy::Rule;
use crate::config::at::{At, Entries, Given, Number};
use crate::config::kubernetes::{PolicySource, UnclassifiedPods};
use crate::config::types::Mode;

/// The cluster that the node is part of: its pods are workloads where the label mtlsd.io/mode says so.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct Kubernetes {
    /// The node's name in the cluster. Default: the environment variable NODE_NAME.
    pub node: Given<String>,
    /// The mode of pods whose label is `enabled`, as long as no policy says another: strict or permissive. Default permissive.
    pub default_mode: Given<Mode>,
    /// kubelet's --cgroup-root, such as /kubelet. Default: none, as in most clusters.
    pub cgroup_root: Given<String>,
    /// Directory with `token` and `ca.crt` for the API server, absolute. Default /var/run/secrets/kubernetes.io/serviceaccount.
    pub service_account: Given<String>,
    /// Which policy objects are followed: mtlsd, istio. Default: mtlsd.
    pub policies: Given<Vec<At<PolicySource>>>,
    /// Who issues for pods, one of `identity.issuers`; of SPIRE's Delegated Identity API each pod has the selectors k8s:ns and k8s:sa.
    /// Default: as for other workloads.
    pub issuer: Given<String>,
    /// Whether processes of pods may send that are not known yet: refuse (default) or allow. The node's own network is never closed.
    pub unclassified: Given<UnclassifiedPods>,
    /// The networks of the cluster's pods and Services, such as 10.244.0.0/16: a strict workload may not connect to an address in
    /// them of which nothing is known (yet). Default: none, and such connections go out in plaintext.
    pub networks: Given<Vec<At<String>>>,
    /// Choose the endpoint when a workload connects to a Service's address, in kube-proxy's place: true or false. Default false.
    pub resolve_services: Given<bool>,
    /// The port on which the daemon of each node takes sessions of other daemons, for `direct` between pods; at the node's own
    /// address, which the environment variable NODE_IP says, unless `direct.listen` does. Default: none, and pods of other nodes
    /// are never direct.
    pub direct_port: Given<Number>,
}

/// cert-manager as an issuer. Somebody must approve the requests: its own approver, or approver-policy.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct CertManager {
    /// The namespace in which requests are made: mtlsd's own.
    pub namespace: At<String>,
    /// The name of the Issuer or ClusterIssuer.
    pub issuer: At<String>,
    /// Issuer, ClusterIssuer, or the kind of an external issuer. Default ClusterIssuer.
    #[serde(default)]
    pub kind: Given<String>,
    /// Its API group. Default cert-manager.io.
    #[serde(default)]
    pub group: Given<String>,
    /// Directory with `token` and `ca.crt` for the API server, absolute. Default /var/run/secrets/kubernetes.io/serviceaccount.
    #[serde(default)]
    pub service_account: Given<String>,
    /// The most that one certificate may take, approval included. Default 30s.
    #[serde(default)]
    pub timeout: Given<String>,
}

/// `spec` of a MutualTLSPolicy.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(in crate::config) struct MutualTlsPolicy {
    pub selector: Selector,
    pub mode: Given<Mode>,
    pub ports: Entries<Mode>,
    pub rules: Vec<At<Rule>>,
}

/// What is read of a `spec` that is refused: whom it is for.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(in crate::config) struct Whom {
    pub selector: Selector,
    pub action: Given<String>,
}
