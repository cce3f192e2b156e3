//! Which local workloads are meant: by name, by Kubernetes namespace, by label.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::at::{At, Given};
use crate::config::error::{Fault, Quoted};
use crate::config::raw;
use crate::config::rule::TextPattern;
use crate::config::scalar;
use crate::config::types::Workload;

use super::{Check, Seen};

/// The workloads of this node.
pub(super) struct Local<'w> {
    workloads: &'w [Workload],
}

/// What a description comes to.
pub(super) struct Part {
    /// Workloads that match every key; `None`: no key was given.
    pub workloads: Option<BTreeSet<String>>,
    /// Workloads that match some key.
    pub any_of: BTreeSet<String>,
    /// As given.
    pub ports: Option<BTreeSet<u16>>,
}

impl<'w> Local<'w> {
    pub fn new(workloads: &'w [Workload]) -> Self {
        Self { workloads }
    }

    /// Of names, namespaces and labels.
    pub fn named(
        &self,
        check: &mut Check,
        names: &Given<Vec<At<String>>>,
        namespaces: &Given<Vec<At<String>>>,
        labels: &BTreeMap<String, String>,
        ports: Option<BTreeSet<u16>>,
    ) -> Part {
        let named = names.0.as_ref().map(|at| self.by_name(check, at));
        let patterns = patterns(check, namespaces);
        let in_namespace = patterns.map(|patterns| self.that(|workload| in_one_of(workload, &patterns)));
        let labelled = (!labels.is_empty()).then(|| self.that(|workload| has_labels(workload, labels)));
        let keys: Vec<_> = [named, in_namespace, labelled].into_iter().flatten().collect();
        let any_of = keys.iter().flatten().cloned().collect();
        let workloads = keys.into_iter().reduce(|a, b| a.intersection(&b).cloned().collect());
        Part { workloads, any_of, ports }
    }

    /// Names are taken as they are: the workload may be on another node that has the same file.
    fn by_name(&self, check: &mut Check, at: &At<Vec<At<String>>>) -> BTreeSet<String> {
        if at.value.is_empty() {
            check.fault(at.spot, Fault::EmptyList("list workloads, or remove the key for any"));
        }
        for name in &at.value {
            if !self.workloads.iter().any(|workload| workload.name == name.value) {
                check.warn(name.spot, Fault::UnknownWorkload(Quoted::new(&name.value)));
            }
        }
        check.distinct("workload", &at.value, scalar::name, Fault::Name).into_iter().collect()
    }

    fn that(&self, is: impl Fn(&Workload) -> bool) -> BTreeSet<String> {
        self.workloads.iter().filter(|workload| is(workload)).map(|workload| workload.name.clone()).collect()
    }
}

/// `None`: they were not given.
pub(super) fn patterns(check: &mut Check, given: &Given<Vec<At<String>>>) -> Option<Vec<TextPattern>> {
    let at = given.0.as_ref()?;
    if at.value.is_empty() {
        check.fault(at.spot, Fault::EmptyList("list namespaces, or remove the key for any"));
    }
    Some(check.distinct("namespace", &at.value, str::parse, Fault::Pattern))
}

/// Whether the workload's ID is in one of these namespaces.
pub(super) fn in_one_of(workload: &Workload, namespaces: &[TextPattern]) -> bool {
    let namespace = workload.spiffe_id.service_account().map(|(namespace, _)| namespace);
    namespace.is_some_and(|namespace| namespaces.iter().any(|pattern| pattern.matches(namespace)))
}

/// Whether the workload has all of these labels.
pub(super) fn has_labels(workload: &Workload, labels: &BTreeMap<String, String>) -> bool {
    labels.iter().all(|(key, value)| workload.labels.get(key) == Some(value))
}

/// Most labels of one workload or rule.
const MAX_LABELS: usize = 64;

/// Labels as they are; each key once.
pub(super) fn labels(check: &mut Check, raw: &raw::Labels) -> BTreeMap<String, String> {
    let mut seen = Seen::new("label", "write it once");
    let mut labels = BTreeMap::new();
    for (key, value) in &raw.0 {
        let text =
            |check: &mut Check, at: &At<String>| check.text(at, scalar::workload_label, Fault::WorkloadLabel);
        if let (Some(name), Some(value)) = (text(check, key), text(check, value)) {
            seen.note(check, &name, &key.value, key.spot);
            labels.insert(name, value);
        }
    }
    if let Some((key, _)) = raw.0.get(MAX_LABELS) {
        check.fault(key.spot, Fault::TooManyLabels(MAX_LABELS));
    }
    labels
}
