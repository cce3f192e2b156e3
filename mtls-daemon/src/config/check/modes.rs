//! Modes of several workloads at once.

use std::collections::BTreeMap;

use crate::config::at::At;
use crate::config::error::{Fault, Quoted};
use crate::config::raw;
use crate::config::rule::TextPattern;
use crate::config::types::{Mode, Workload};

use super::workload::port_modes;
use super::{Check, FileSpot, InFile, local};

/// The entries of `modes`, checked.
pub(super) struct Modes {
    entries: Vec<Entry>,
}

pub(super) struct Entry {
    pub at: FileSpot,
    pub namespaces: Option<Vec<TextPattern>>,
    pub labels: BTreeMap<String, String>,
    pub mode: Option<Mode>,
    pub ports: BTreeMap<u16, Mode>,
    /// It comes from the cluster, which has no say about other workloads.
    pub pods_only: bool,
}

/// How closely an entry describes its workloads; the closest counts.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Closeness {
    All,
    Namespace,
    Labels,
}

impl Entry {
    fn closeness(&self) -> Closeness {
        match (&self.namespaces, self.labels.is_empty()) {
            (_, false) => Closeness::Labels,
            (Some(_), true) => Closeness::Namespace,
            (None, true) => Closeness::All,
        }
    }

    fn is_for(&self, workload: &Workload) -> bool {
        let namespace = workload.spiffe_id.service_account().map(|(namespace, _)| namespace);
        let meant = !self.pods_only || workload.select.pod.is_some();
        meant && self.describes(namespace, |key| workload.labels.get(key).map(String::as_str))
    }

    /// Are this namespace and these labels among those that it names?
    pub fn describes<'l>(&self, namespace: Option<&str>, label: impl Fn(&str) -> Option<&'l str>) -> bool {
        let matches = |patterns: &Vec<TextPattern>| {
            namespace.is_some_and(|namespace| patterns.iter().any(|pattern| pattern.matches(namespace)))
        };
        self.namespaces.as_ref().is_none_or(matches)
            && self.labels.iter().all(|(key, value)| label(key) == Some(value))
    }
}

impl Modes {
    /// `more`: what other resources say.
    pub fn check(check: &mut Check, raw: InFile<raw::ModeEntry>, more: Vec<Entry>) -> Self {
        let entries = raw.into_iter().map(|(file, At { value, spot })| {
            check.file = file;
            let entry = Entry {
                at: (file, spot),
                namespaces: local::patterns(check, &value.namespaces),
                labels: local::labels(check, &value.labels),
                mode: value.mode.into_value(),
                ports: port_modes(check, &value.ports),
                pods_only: false,
            };
            if entry.mode.is_none() && entry.ports.is_empty() {
                check.fault(spot, Fault::EmptyMode);
            }
            entry
        });
        Self { entries: entries.chain(more).collect() }
    }

    /// Those by which a workload or a port of it may be left alone.
    pub fn that_disable(&self) -> Vec<&Entry> {
        let disables = |entry: &&Entry| {
            entry.mode == Some(Mode::Disabled) || entry.ports.values().any(|mode| *mode == Mode::Disabled)
        };
        self.entries.iter().filter(disables).collect()
    }

    /// Adds what the cluster's objects say.
    pub fn add(&mut self, more: Vec<Entry>) {
        self.entries.extend(more);
    }

    /// Gives the workload what it does not say itself.
    pub fn apply(&self, check: &mut Check, workload: &mut Workload, says_mode: bool) {
        let mut entries: Vec<&Entry> = self.entries.iter().filter(|entry| entry.is_for(workload)).collect();
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.closeness()));
        if !says_mode {
            let of = |entry: &Entry| entry.mode;
            if let Some(mode) = closest(check, &entries, &workload.name, of) {
                workload.mode = mode;
            }
        }
        let ports: Vec<u16> = entries.iter().flat_map(|entry| entry.ports.keys().copied()).collect();
        for port in ports {
            if !workload.ports.contains_key(&port) {
                let of = |entry: &Entry| entry.ports.get(&port).copied();
                if let Some(mode) = closest(check, &entries, &workload.name, of) {
                    workload.ports.insert(port, mode);
                }
            }
        }
    }
}

/// What the closest entry says; two that are equally close must not disagree.
fn closest(
    check: &mut Check,
    entries: &[&Entry],
    workload: &str,
    of: impl Fn(&Entry) -> Option<Mode>,
) -> Option<Mode> {
    let (first, mode) = entries.iter().find_map(|entry| Some((entry, of(entry)?)))?;
    let equal = entries.iter().filter(|entry| entry.closeness() == first.closeness());
    if let Some(other) = equal.into_iter().find(|entry| of(entry).is_some_and(|other| other != mode)) {
        let fault = Fault::ModesDisagree { workload: Quoted::new(workload), first: check.place(first.at) };
        check.fault_at(other.at, fault);
    }
    Some(mode)
}
