//! Who each pod is: whether it is enrolled, and by which identity.

use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Mode;
use crate::identity::{SpiffeId, TrustDomain};
use crate::kube::Key;
use crate::kube::objects::{Namespace, Pod};
use crate::kube::pods::{Enrolment, Out, Undecided, enrolment, identity};

/// How a pod stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Account {
    /// It is a workload.
    Enrolled {
        /// Who it is.
        id: SpiffeId,
        /// What it says itself.
        mode: Option<Mode>,
    },
    /// It is none, and its processes are left alone.
    Bystander,
    /// It has ended, or nothing can be said of it yet: nobody is known there.
    Unknown,
}

/// How pods stand, by what their namespaces say.
pub(super) struct Accounts<'a> {
    namespaces: HashMap<&'a str, &'a Namespace>,
    domain: &'a TrustDomain,
}

impl<'a> Accounts<'a> {
    pub fn new(namespaces: &'a [Arc<Namespace>], domain: &'a TrustDomain) -> Self {
        let by_name = |namespace: &'a Arc<Namespace>| (namespace.key.name.as_str(), namespace.as_ref());
        Self { namespaces: namespaces.iter().map(by_name).collect(), domain }
    }

    pub fn of(&self, pod: &Pod) -> Account {
        let mode = match enrolment(pod, self.namespace(&pod.key)) {
            Enrolment::In { mode, .. } => mode,
            Enrolment::Out(Out::Over) | Enrolment::Undecided(Undecided::NoNamespace) => {
                return Account::Unknown;
            }
            Enrolment::Out(Out::NotAsked | Out::Disabled(_)) => return Account::Bystander,
            // It is closed until somebody mends what it says: plaintext cannot be taken back.
            Enrolment::Undecided(Undecided::Value(_) | Undecided::Contradiction) => Some(Mode::Strict),
        };
        match identity(pod, self.domain) {
            Ok(id) => Account::Enrolled { id, mode },
            Err(_) => Account::Unknown,
        }
    }

    fn namespace(&self, of: &Key) -> Option<&'a Namespace> {
        self.namespaces.get(of.namespace.as_ref()?.as_str()).copied()
    }

    /// Is this namespace strict as a whole?
    pub fn is_strict(&self, of: &Key) -> bool {
        let label = self.namespace(of).and_then(|namespace| namespace.labels.get(crate::kube::pods::MODE));
        label == Some("strict")
    }
}
