//! Who each pod is: whether it is enrolled, and by which identity.

use std::collections::HashMap;
use std::sync::Arc;

use super::offer::View;
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

/// How pods stand, by what their namespaces say. Each is looked at once, whoever asks.
pub(super) struct Accounts<'a> {
    namespaces: HashMap<&'a str, &'a Namespace>,
    pods: HashMap<&'a Key, Account>,
}

impl<'a> Accounts<'a> {
    pub fn new(view: &'a View, domain: &TrustDomain) -> Self {
        let by_name = |namespace: &'a Arc<Namespace>| (namespace.key.name.as_str(), namespace.as_ref());
        let namespaces = view.namespaces.iter().map(by_name).collect();
        let mut accounts = Self { namespaces, pods: HashMap::with_capacity(view.pods.len()) };
        // Many pods have one: it is parsed once.
        let mut identities = HashMap::new();
        for pod in &view.pods {
            let account = match accounts.enrolled(pod) {
                Ok(mode) => {
                    let id = identities
                        .entry((pod.key.namespace.as_ref(), &pod.account))
                        .or_insert_with(|| identity(pod, domain).ok());
                    id.clone().map_or(Account::Unknown, |id| Account::Enrolled { id, mode })
                }
                Err(account) => account,
            };
            accounts.pods.insert(&pod.key, account);
        }
        accounts
    }

    /// What it says of its mode itself, if it is enrolled.
    fn enrolled(&self, pod: &Pod) -> Result<Option<Mode>, Account> {
        match enrolment(pod, self.namespace(&pod.key)) {
            Enrolment::In { mode, .. } => Ok(mode),
            Enrolment::Out(Out::Over) | Enrolment::Undecided(Undecided::NoNamespace) => Err(Account::Unknown),
            Enrolment::Out(Out::NotAsked | Out::Disabled(_)) => Err(Account::Bystander),
            // It is closed until somebody mends what it says: plaintext cannot be taken back.
            Enrolment::Undecided(Undecided::Value(_) | Undecided::Contradiction) => Ok(Some(Mode::Strict)),
        }
    }

    /// Of a pod of the view.
    pub fn of(&self, pod: &Pod) -> &Account {
        self.pods.get(&pod.key).unwrap_or(&Account::Unknown)
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
