//! What mtlsd may do in the cluster, and why. The chart makes its roles of this list; the suite `manifests` compares what it grants.

use super::resource::{
    AUTHORIZATION_POLICIES, CERTIFICATE_REQUESTS, ENDPOINT_SLICES, MUTUAL_TLS_POLICIES, NAMESPACES, NODES,
    PEER_AUTHENTICATIONS, PODS, Resource, SERVICES,
};

/// When a right is granted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum When {
    /// Always, in the whole cluster.
    Always,
    /// In the whole cluster, where `kubernetes.policies` has `mtlsd`.
    OwnPolicies,
    /// In the whole cluster, where `kubernetes.policies` has `istio`.
    IstioPolicies,
    /// In one namespace, where cert-manager issues.
    CertManager,
}

/// One rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    /// Of what.
    pub resource: Resource,
    /// A part of the object (`status`); empty: the object.
    pub subresource: &'static str,
    /// As RBAC calls them.
    pub verbs: &'static [&'static str],
    /// Where, and whether at all.
    pub when: When,
    /// What would not work without it.
    pub why: &'static str,
}

/// One list, and then a watch from where it ended. `get`: one object is looked at again before its status is written.
const READ: &[&str] = &["get", "list", "watch"];

const fn read(resource: Resource, when: When, why: &'static str) -> Right {
    Right { resource, subresource: "", verbs: READ, when, why }
}

const fn status(resource: Resource, when: When) -> Right {
    let why = "says of each object whether it is in force, or what is wrong with it";
    Right { resource, subresource: "status", verbs: &["patch"], when, why }
}

/// Everything that is asked of the API server.
pub const RIGHTS: [Right; 12] = [
    read(PODS, When::Always, "which pods of this node are workloads, and whose an address is"),
    read(NAMESPACES, When::Always, "the label mtlsd.io/mode of a namespace counts for its pods"),
    read(NODES, When::Always, "addresses of nodes, which pods in the host's network share"),
    read(SERVICES, When::Always, "an address of a service stands for the pods behind it"),
    read(ENDPOINT_SLICES, When::Always, "which pods are behind a service"),
    read(MUTUAL_TLS_POLICIES, When::OwnPolicies, "modes and rules"),
    status(MUTUAL_TLS_POLICIES, When::OwnPolicies),
    read(PEER_AUTHENTICATIONS, When::IstioPolicies, "modes"),
    status(PEER_AUTHENTICATIONS, When::IstioPolicies),
    read(AUTHORIZATION_POLICIES, When::IstioPolicies, "rules"),
    status(AUTHORIZATION_POLICIES, When::IstioPolicies),
    Right {
        resource: CERTIFICATE_REQUESTS,
        subresource: "",
        verbs: &["create", "delete", "get", "list", "watch"],
        when: When::CertManager,
        why: "asks cert-manager for a certificate, sees what became of it, and removes the request",
    },
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// What the chart makes its roles of.
    const LIST: &str = "deploy/kubernetes/chart/files/rights.json";

    impl When {
        fn name(self) -> &'static str {
            match self {
                Self::Always => "always",
                Self::OwnPolicies => "mtlsd",
                Self::IstioPolicies => "istio",
                Self::CertManager => "certManager",
            }
        }
    }

    /// After a change: `MTLSD_BLESS=1 cargo test -p mtls-daemon the_chart_grants`, then `cargo xtask manifests`.
    #[test]
    fn the_chart_grants_what_is_listed_here() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(LIST);
        let rules = RIGHTS.iter().map(|right| {
            let slash = if right.subresource.is_empty() { "" } else { "/" };
            serde_json::json!({
                "apiGroup": right.resource.group,
                "resource": format!("{}{slash}{}", right.resource.plural, right.subresource),
                "verbs": right.verbs,
                "when": right.when.name(),
                "why": right.why,
            })
        });
        let list = serde_json::to_string_pretty(&rules.collect::<Vec<_>>()).unwrap() + "\n";
        if std::env::var_os("MTLSD_BLESS").is_some() {
            std::fs::write(&path, &list).unwrap();
        }
        let published = std::fs::read_to_string(&path).unwrap_or_default();
        assert_eq!(published, list, "run: MTLSD_BLESS=1 cargo test -p mtls-daemon the_chart_grants");
    }

    #[test]
    fn every_resource_of_the_client_is_listed_once_and_nothing_is_changed_but_status_and_requests() {
        let keys: BTreeSet<_> = RIGHTS.iter().map(|r| (r.resource.to_string(), r.subresource)).collect();
        assert_eq!(keys.len(), RIGHTS.len());
        for right in RIGHTS {
            let changes = right.verbs.iter().any(|verb| !READ.contains(verb));
            assert_eq!(
                changes,
                right.subresource == "status" || right.when == When::CertManager,
                "{right:?}"
            );
            assert!(!right.why.is_empty() && !right.verbs.contains(&"*"), "{right:?}");
        }
    }
}
