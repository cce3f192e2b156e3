//! Which pods are enrolled, and how.

use crate::config::Mode;
use crate::identity::leaf::show;
use crate::identity::{SpiffeId, SpiffeIdError, TrustDomain};
use crate::kube::objects::{Namespace, Pod};

/// The label of a namespace, and the label or annotation of a pod, that says what is wanted: a mode, or `enabled` for the mode
/// that is the cluster's default. What a pod says goes before what its namespace says.
pub const MODE: &str = "mtlsd.io/mode";

/// How a pod stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Enrolment {
    /// It is a workload.
    In {
        /// What its inbound connections must be; `None`: it is only `enabled`, and others may say.
        mode: Option<Mode>,
        /// Who says so.
        asked: Asked,
    },
    /// Nothing of it is captured.
    Out(Out),
    /// It cannot be told. It is to be kept closed, as a strict one: plaintext cannot be taken back.
    Undecided(Undecided),
}

/// Who says how a pod stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// Its own label or annotation.
    Pod,
    /// The label of its namespace.
    Namespace,
}

/// Why a pod is not enrolled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Out {
    /// It has ended: its addresses may be another pod's.
    #[error("the pod has ended")]
    Over,
    /// Nobody says anything.
    #[error("neither the pod nor its namespace has {MODE}")]
    NotAsked,
    /// Somebody says no.
    #[error("{MODE} is disabled for the {}", match .0 { Asked::Pod => "pod", Asked::Namespace => "namespace" })]
    Disabled(Asked),
}

/// Why it cannot be told how a pod stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Undecided {
    /// Pods and namespaces are followed apart, and a pod may be heard of first.
    #[error("its namespace is not known yet; wait a moment")]
    NoNamespace,
    /// A typing error must not pass as disabled.
    #[error("{MODE} is {0:?}; write strict, permissive, disabled or enabled")]
    Value(String),
    /// The pod's label and its annotation say different things.
    #[error("the pod's label and its annotation {MODE} contradict each other; remove one of them")]
    Contradiction,
}

/// How a pod stands.
#[must_use]
pub fn enrolment(pod: &Pod, namespace: Option<&Namespace>) -> Enrolment {
    if pod.is_over() {
        return Enrolment::Out(Out::Over);
    }
    let (text, asked) = match (pod.labels.get(MODE), pod.annotations.get(MODE)) {
        (Some(label), Some(annotation)) if label != annotation => {
            return Enrolment::Undecided(Undecided::Contradiction);
        }
        (Some(text), _) | (None, Some(text)) => (text, Asked::Pod),
        (None, None) => {
            let Some(namespace) = namespace else { return Enrolment::Undecided(Undecided::NoNamespace) };
            let Some(text) = namespace.labels.get(MODE) else { return Enrolment::Out(Out::NotAsked) };
            (text, Asked::Namespace)
        }
    };
    match text {
        "strict" => Enrolment::In { mode: Some(Mode::Strict), asked },
        "permissive" => Enrolment::In { mode: Some(Mode::Permissive), asked },
        "enabled" => Enrolment::In { mode: None, asked },
        "disabled" => Enrolment::Out(Out::Disabled(asked)),
        text => Enrolment::Undecided(Undecided::Value(show(text))),
    }
}

/// `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`, as Istio and SPIRE name a pod.
///
/// # Errors
/// If that is longer than a SPIFFE ID can be.
pub fn identity(pod: &Pod, domain: &TrustDomain) -> Result<SpiffeId, SpiffeIdError> {
    let namespace = pod.key.namespace.as_ref().map_or("", |namespace| namespace.as_str());
    format!("spiffe://{domain}/ns/{namespace}/sa/{}", pod.account).parse()
}

#[cfg(test)]
mod tests {
    use super::super::testing::good;
    use super::*;
    use serde_json::{Value, json};

    fn pod(label: Option<&str>, annotation: Option<&str>, phase: &str) -> Pod {
        let pairs = |value: Option<&str>| value.map_or(json!({}), |value| json!({ MODE: value }));
        good(&json!({
            "metadata": { "name": "a", "namespace": "shop", "uid": "u", "labels": pairs(label), "annotations": pairs(annotation) },
            "spec": { "serviceAccountName": "cart" }, "status": { "phase": phase },
        }))
    }

    fn namespace(label: Option<&str>) -> Namespace {
        let labels = label.map_or(Value::Null, |value| json!({ MODE: value }));
        good(&json!({ "metadata": { "name": "shop", "uid": "n", "labels": labels } }))
    }

    #[test]
    fn a_pod_goes_before_its_namespace() {
        use Enrolment as E;
        let namespaced = |mode| E::In { mode: Some(mode), asked: Asked::Namespace };
        let own = |mode| E::In { mode: Some(mode), asked: Asked::Pod };
        for (label, annotation, namespaces, want) in [
            (None, None, None, E::Out(Out::NotAsked)),
            (None, None, Some("strict"), namespaced(Mode::Strict)),
            (None, None, Some("enabled"), E::In { mode: None, asked: Asked::Namespace }),
            (None, None, Some("disabled"), E::Out(Out::Disabled(Asked::Namespace))),
            (Some("strict"), None, Some("disabled"), own(Mode::Strict)),
            (None, Some("permissive"), Some("strict"), own(Mode::Permissive)),
            (Some("disabled"), Some("disabled"), Some("strict"), E::Out(Out::Disabled(Asked::Pod))),
        ] {
            let found = enrolment(&pod(label, annotation, "Running"), Some(&namespace(namespaces)));
            assert_eq!(found, want, "{label:?} {annotation:?} {namespaces:?}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_never_taken_for_disabled() {
        use Enrolment::Undecided as U;
        let judge = |label, annotation, namespace: Option<&Namespace>| {
            enrolment(&pod(label, annotation, "Pending"), namespace)
        };
        assert_eq!(judge(None, None, None), U(Undecided::NoNamespace));
        for typo in ["stict", "Disabled", "", "off"] {
            let bad = U(Undecided::Value(typo.to_owned()));
            assert_eq!(judge(Some(typo), None, None), bad);
            assert_eq!(judge(None, None, Some(&namespace(Some(typo)))), bad);
        }
        assert_eq!(judge(Some("strict"), Some("disabled"), None), U(Undecided::Contradiction));
    }

    #[test]
    fn a_pod_that_has_ended_is_nobody() {
        for phase in ["Succeeded", "Failed"] {
            let found = enrolment(&pod(Some("strict"), None, phase), None);
            assert_eq!(found, Enrolment::Out(Out::Over));
        }
    }

    #[test]
    fn a_pod_is_its_service_account() {
        let id = identity(&pod(None, None, "Running"), &"example.org".parse().unwrap()).unwrap();
        assert_eq!(id.as_str(), "spiffe://example.org/ns/shop/sa/cart");
        assert_eq!(id.service_account(), Some(("shop", "cart")));
    }
}
