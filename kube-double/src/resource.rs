//! The resources that the double knows.

/// One resource.
#[derive(Debug, PartialEq, Eq)]
pub struct Resource {
    /// Empty: the core group.
    pub group: &'static str,
    /// Such as `v1`.
    pub version: &'static str,
    /// As in the path; no two resources here have the same.
    pub plural: &'static str,
    /// As in `kubectl get`.
    pub singular: &'static str,
    /// As in an object.
    pub kind: &'static str,
    /// As in `kubectl get`, shorter.
    pub short: &'static [&'static str],
    /// Do objects belong to namespaces?
    pub namespaced: bool,
    /// Is there a `/status`, so that others cannot change the status?
    pub status: bool,
}

impl Resource {
    /// As in `apiVersion`.
    #[must_use]
    pub fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// By its plural.
    ///
    /// # Panics
    /// If the double does not know it.
    #[must_use]
    #[track_caller]
    pub fn named(plural: &str) -> &'static Self {
        RESOURCES.iter().find(|resource| resource.plural == plural).expect("the double knows the resource")
    }
}

const fn core(
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    short: &'static [&'static str],
    namespaced: bool,
) -> Resource {
    Resource { group: "", version: "v1", plural, singular, kind, short, namespaced, status: true }
}

/// What a chart has besides: nobody of ours asks for it, and nothing has a status.
const fn deployed(
    group: &'static str,
    plural: &'static str,
    singular: &'static str,
    kind: &'static str,
    namespaced: bool,
) -> Resource {
    Resource { group, version: "v1", plural, singular, kind, short: &[], namespaced, status: false }
}

/// All of them.
pub const RESOURCES: &[Resource] = &[
    deployed("", "configmaps", "configmap", "ConfigMap", true),
    deployed("", "serviceaccounts", "serviceaccount", "ServiceAccount", true),
    deployed("apps", "daemonsets", "daemonset", "DaemonSet", true),
    deployed("rbac.authorization.k8s.io", "clusterroles", "clusterrole", "ClusterRole", false),
    deployed(
        "rbac.authorization.k8s.io",
        "clusterrolebindings",
        "clusterrolebinding",
        "ClusterRoleBinding",
        false,
    ),
    deployed("rbac.authorization.k8s.io", "roles", "role", "Role", true),
    deployed("rbac.authorization.k8s.io", "rolebindings", "rolebinding", "RoleBinding", true),
    deployed(
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        "customresourcedefinition",
        "CustomResourceDefinition",
        false,
    ),
    deployed("monitoring.coreos.com", "servicemonitors", "servicemonitor", "ServiceMonitor", true),
    core("namespaces", "namespace", "Namespace", &["ns"], false),
    core("nodes", "node", "Node", &["no"], false),
    core("pods", "pod", "Pod", &["po"], true),
    core("services", "service", "Service", &["svc"], true),
    Resource {
        group: "discovery.k8s.io",
        version: "v1",
        plural: "endpointslices",
        singular: "endpointslice",
        kind: "EndpointSlice",
        short: &[],
        namespaced: true,
        status: false,
    },
    Resource {
        group: "security.istio.io",
        version: "v1",
        plural: "peerauthentications",
        singular: "peerauthentication",
        kind: "PeerAuthentication",
        short: &["pa"],
        namespaced: true,
        status: true,
    },
    Resource {
        group: "security.istio.io",
        version: "v1",
        plural: "authorizationpolicies",
        singular: "authorizationpolicy",
        kind: "AuthorizationPolicy",
        short: &["ap"],
        namespaced: true,
        status: true,
    },
    Resource {
        group: "cert-manager.io",
        version: "v1",
        plural: "certificaterequests",
        singular: "certificaterequest",
        kind: "CertificateRequest",
        short: &["cr"],
        namespaced: true,
        status: true,
    },
    Resource {
        group: "mtlsd.io",
        version: "v1alpha1",
        plural: "mutualtlspolicies",
        singular: "mutualtlspolicy",
        kind: "MutualTLSPolicy",
        short: &["mtp"],
        namespaced: true,
        status: true,
    },
];
