//! What the node takes from its cluster, and what a cluster offers: workloads, destinations, and objects that say modes and rules.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use super::types::{DirectoryEntry, Mode, WorkloadIdentity};
use crate::identity::SpiffeId;
use crate::kube::objects::Pairs;

/// How the node takes part in a Kubernetes cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubernetes {
    /// The node's name in the cluster; `None`: the environment says it.
    pub node: Option<String>,
    /// The mode of pods that are only `enabled`.
    pub default_mode: Mode,
    /// kubelet's `--cgroup-root`, as its segments; in most clusters empty.
    pub cgroup_root: Vec<String>,
    /// The directory with the token and the roots of the API server. Default: where kubelet mounts it.
    pub service_account: PathBuf,
    /// Where the identities of pods come from.
    pub issuer: PodIssuer,
    /// Which kinds of policy objects are followed.
    pub policies: BTreeSet<PolicySource>,
    /// Whether processes of pods may send that are not known yet.
    pub unclassified: UnclassifiedPods,
    /// The networks of the cluster's pods and Services: strict workloads are kept from what is not known in them.
    pub networks: Vec<IpNet>,
    /// Whether an endpoint of a Service is chosen at connect().
    pub resolve_services: bool,
    /// Where the daemons of all nodes take sessions of others, at their nodes' addresses; not 0. `None`: pods of other nodes are
    /// never direct.
    pub direct_port: Option<u16>,
}

/// Where the identities of pods come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PodIssuer {
    /// From where those of other workloads come, or from an issuer of its own.
    Same(WorkloadIdentity),
    /// From SPIRE's Delegated Identity API, by namespace and service account.
    Delegated {
        /// The issuer's name.
        issuer: String,
    },
}

/// Whose policy objects are followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PolicySource {
    /// MutualTLSPolicy of mtlsd.io.
    Mtlsd,
    /// PeerAuthentication and AuthorizationPolicy of security.istio.io.
    Istio,
}

/// Whether processes of pods may send that are not known yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnclassifiedPods {
    /// They may not, outside the node's own network (default).
    #[default]
    Refuse,
    /// They may.
    Allow,
}

/// Where a pod's processes are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodSelector {
    /// The cgroups that may be its own, below the cgroup v2 mount; the first that exists is it.
    pub cgroups: Vec<PathBuf>,
    /// Its network is the node's.
    pub host_network: bool,
}

/// What a cluster says now. It never makes a configuration fail: what cannot be used of it is left out, closed where it must be.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offer {
    /// Pods of this node that are workloads.
    pub pods: Vec<OfferedPod>,
    /// Pods of this node that are none: their processes are known, and left alone.
    pub bystanders: Vec<PodSelector>,
    /// Destinations that are not this node's pods.
    pub directory: Vec<OfferedDestination>,
    /// Objects that say modes and rules, for pods.
    pub policies: Vec<OfferedPolicy>,
    /// Services of which an endpoint is chosen at connect(); none twice at one address and port.
    pub services: Vec<ResolvedService>,
    /// Addresses that are known and speak no TLS: of pods that are not enrolled, of nodes and of Services.
    pub known: BTreeSet<IpAddr>,
}

/// A Service's address and port that is turned to one of the endpoints when a workload of this node connects to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvedService {
    /// The Service's `namespace/name`.
    pub name: String,
    /// Its address and one of its ports.
    pub at: SocketAddr,
    /// The endpoints, each as good as the others; at least one, all of the family of `at`.
    pub endpoints: Vec<SocketAddr>,
}

/// A pod of this node that is a workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedPod {
    /// `namespace/name`; no name of a configured workload has a slash.
    pub name: String,
    /// Where it is.
    pub select: PodSelector,
    /// Who it is.
    pub spiffe_id: SpiffeId,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// What it says itself, or its namespace for it; `None`: it is only enabled, and policy may say.
    pub mode: Option<Mode>,
    /// Its own addresses.
    pub addresses: Vec<IpAddr>,
    /// Its ports that kubelet probes.
    pub probe_ports: BTreeSet<u16>,
}

/// A destination that is not a pod of this node.
#[derive(Clone, Debug, PartialEq)]
pub struct OfferedDestination {
    /// Whom its addresses lead to.
    pub entry: DirectoryEntry,
    /// What policy goes by, if it is one pod: its own node leaves alone what policy disables, and so must its clients.
    pub pod: Option<OfferedPeer>,
    /// If it is a Service: who takes its connections, for the same reason. None twice.
    pub backends: Vec<OfferedBackend>,
}

/// A kind of pod, on whichever node, behind one port of a Service.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct OfferedBackend {
    /// The Service's port.
    pub port: u16,
    /// The pod's own.
    pub target: u16,
    /// Who it is.
    pub spiffe_id: SpiffeId,
    /// Its labels.
    pub labels: Pairs,
    /// As of [`OfferedPod`].
    pub mode: Option<Mode>,
}

/// A pod of another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedPeer {
    /// Its labels.
    pub labels: Pairs,
    /// As of [`OfferedPod`].
    pub mode: Option<Mode>,
    /// Its node's address; `None`: not said yet.
    pub host: Option<IpAddr>,
}

/// An object that says modes or rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferedPolicy {
    /// Which one.
    pub name: PolicyName,
    /// The version that its conditions are about.
    pub generation: i64,
    /// It only records what it would have done.
    pub dry_run: bool,
    /// Its `spec`, as JSON.
    pub spec: Box<str>,
    /// The last `spec` of it that was good; it may be this one.
    pub earlier: Option<Box<str>>,
}

impl OfferedPolicy {
    /// Was this very version good before?
    #[must_use]
    pub fn is_in_force(&self) -> bool {
        self.earlier.as_ref() == Some(&self.spec)
    }
}

/// Names an object that says modes or rules.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyName {
    /// Its kind.
    pub kind: PolicyKind,
    /// Its namespace.
    pub namespace: String,
    /// Its name in there.
    pub name: String,
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.name(), self.namespace, self.name)
    }
}

/// The kinds of objects that say modes or rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyKind {
    /// Istio's modes.
    PeerAuthentication,
    /// Istio's rules.
    AuthorizationPolicy,
    /// mtlsd's modes and rules.
    MutualTlsPolicy,
}

impl PolicyKind {
    /// As its `kind` says it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::PeerAuthentication => "PeerAuthentication",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::MutualTlsPolicy => "MutualTLSPolicy",
        }
    }
}

/// What became of an object that says modes or rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Which one.
    pub name: PolicyName,
    /// The version that was judged.
    pub generation: i64,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in force.
    Accepted,
    /// It is not.
    Refused {
        /// What is wrong with it, and the mend.
        why: String,
        /// What holds in its place.
        instead: Instead,
    },
}

/// What holds in the place of an object that was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instead {
    /// Its last good version.
    Earlier,
    /// Whom it is for is closed: strict, and nobody is allowed by it.
    Closed,
}

impl fmt::Display for Instead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Earlier => "its last good version stays in force",
            Self::Closed => "whom it is for is closed until it is mended",
        })
    }
}
