//! The resources that mtlsd asks for, and where they are.

use std::fmt;

use super::names::{Key, NamespaceName};

/// One resource of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Resource {
    /// Empty: the core group.
    pub group: &'static str,
    /// Such as `v1`.
    pub version: &'static str,
    /// As in the path.
    pub plural: &'static str,
}

const fn core(plural: &'static str) -> Resource {
    Resource { group: "", version: "v1", plural }
}

/// v1 namespaces.
pub const NAMESPACES: Resource = core("namespaces");
/// v1 nodes.
pub const NODES: Resource = core("nodes");
/// v1 pods.
pub const PODS: Resource = core("pods");
/// v1 services.
pub const SERVICES: Resource = core("services");
/// What is behind services.
pub const ENDPOINT_SLICES: Resource =
    Resource { group: "discovery.k8s.io", version: "v1", plural: "endpointslices" };
/// Istio's modes.
pub const PEER_AUTHENTICATIONS: Resource =
    Resource { group: "security.istio.io", version: "v1", plural: "peerauthentications" };
/// Istio's rules.
pub const AUTHORIZATION_POLICIES: Resource =
    Resource { group: "security.istio.io", version: "v1", plural: "authorizationpolicies" };
/// mtlsd's own modes and rules.
pub const MUTUAL_TLS_POLICIES: Resource =
    Resource { group: "mtlsd.io", version: "v1alpha1", plural: "mutualtlspolicies" };
/// What cert-manager is asked to sign.
pub const CERTIFICATE_REQUESTS: Resource =
    Resource { group: "cert-manager.io", version: "v1", plural: "certificaterequests" };

impl Resource {
    /// The path of all objects, everywhere or in one namespace.
    pub(super) fn all(&self, namespace: Option<&NamespaceName>) -> String {
        let Self { group, version, plural } = self;
        let root =
            if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
        match namespace {
            Some(namespace) => format!("{root}/namespaces/{namespace}/{plural}"),
            None => format!("{root}/{plural}"),
        }
    }

    /// The path of one object.
    pub(super) fn one(&self, key: &Key) -> String {
        format!("{}/{}", self.all(key.namespace.as_ref()), key.name)
    }
}

impl fmt::Display for Resource {
    /// As RBAC and kubectl write it: `pods`, `peerauthentications.security.istio.io`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.plural)?;
        if self.group.is_empty() { Ok(()) } else { write!(f, ".{}", self.group) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_those_of_the_api() {
        let namespace: NamespaceName = "shop".parse().unwrap();
        let name = "web".parse().unwrap();
        let key = Key { namespace: Some(namespace.clone()), name };
        assert_eq!(PODS.all(None), "/api/v1/pods");
        assert_eq!(PODS.one(&key), "/api/v1/namespaces/shop/pods/web");
        assert_eq!(
            MUTUAL_TLS_POLICIES.all(Some(&namespace)),
            "/apis/mtlsd.io/v1alpha1/namespaces/shop/mutualtlspolicies"
        );
        assert_eq!(NODES.one(&Key { namespace: None, ..key }), "/api/v1/nodes/web");
        assert_eq!(PEER_AUTHENTICATIONS.to_string(), "peerauthentications.security.istio.io");
    }
}
