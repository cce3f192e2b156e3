//! What the cluster offers: pods as workloads, destinations, and objects that say modes and rules.
//!
//! Every part is looked at on its own. One that is wrong is left out, and what it would have restricted is closed: it never makes
//! the configuration fail, and never opens what it was to close. What files say goes before.

use serde_json::json;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::config::at::{At, Spot};
use crate::config::error::Fault;
use crate::config::istio;
use crate::config::kubernetes::{
    Instead, OfferedPod, OfferedPolicy, Outcome, PodIssuer, PolicyKind, Verdict,
};
use crate::config::number::number_of;
use crate::config::raw;
use crate::config::rule::{Action, LocalMatch, Rule};
use crate::config::types::{
    ConnectHold, Exclusions, LeaseSettings, Mode, OutboundDefault, PolicyDefault, Selector,
    UnknownDestinations, Workload, WorkloadIdentity,
};
use crate::config::yaml;
use crate::identity::{SpireSelector, Subject, TrustDomain};

use super::istio::{One, Resources, Scope, scope_in};
use super::modes::{Entry, Modes};
use super::node::Node;
use super::policy::Total;
use super::workload::{Workloads, port_modes};
use super::{Check, policy};

/// The cluster's objects that say modes and rules, as far as `Resources` and `Modes` do not have them.
#[derive(Default)]
pub(super) struct Policies {
    ours: Vec<Ours>,
    /// Whom a refused object is for, where nothing earlier of it is known.
    strict: Vec<Scope>,
    denied: Vec<(String, Scope)>,
    verdicts: Vec<Verdict>,
}

/// A MutualTLSPolicy.
struct Ours {
    name: String,
    scope: Scope,
    rules: Vec<At<raw::Rule>>,
}

/// An object that was read.
enum Good {
    Istio(One),
    Ours(Ours, Entry),
}

impl Policies {
    pub fn read(
        check: &mut Check,
        node: &Node,
        (resources, modes): (&mut Resources, &mut Modes),
        offered: &[OfferedPolicy],
        mut total: Total,
    ) -> Self {
        let mut policies = Self::default();
        let mut entries = Vec::new();
        let own = node.trust_domain.as_ref();
        // Where not all fit, what is in force goes before what is new.
        let mut judged: Vec<_> = offered.iter().enumerate().collect();
        judged.sort_by_key(|(_, policy)| (!policy.is_in_force(), policy.earlier.is_none()));
        let mut judged: Vec<_> = judged
            .into_iter()
            .map(|(number, policy)| {
                let (good, outcome) = judge(check, policy, own, &mut total);
                (number, policy, good, outcome)
            })
            .collect();
        judged.sort_by_key(|(number, ..)| *number);
        for (_, policy, good, outcome) in judged {
            match good {
                Some(Good::Istio(one)) => entries.extend(resources.add(one)),
                Some(Good::Ours(ours, entry)) => {
                    entries.push(entry);
                    policies.ours.push(ours);
                }
                None => policies.close(check, resources, policy),
            }
            policies.verdicts.push(Verdict {
                name: policy.name.clone(),
                generation: policy.generation,
                outcome,
            });
        }
        modes.add(entries);
        policies
    }

    /// Nothing that an object would have refused is let through because it cannot be read.
    fn close(&mut self, check: &mut Check, resources: &mut Resources, policy: &OfferedPolicy) {
        let namespace = &policy.name.namespace;
        let whom = yaml::parse::<raw::Whom>(&policy.spec).unwrap_or_default();
        let scope =
            check.attempt("scope", |check| Some(scope_in(check, namespace, &whom.selector))).unwrap_or(
                Scope { namespace: Some(namespace.clone()), labels: BTreeMap::new(), pods_only: true },
            );
        let scope = Scope { pods_only: true, ..scope };
        let action = whom.action.into_value().unwrap_or_else(|| "ALLOW".to_owned());
        match policy.name.kind {
            PolicyKind::AuthorizationPolicy => match action.as_str() {
                "ALLOW" => resources.close(scope),
                // It decides nothing.
                "AUDIT" => {}
                _ => self.denied.push((policy.name.to_string(), scope)),
            },
            PolicyKind::PeerAuthentication => self.strict.push(scope),
            PolicyKind::MutualTlsPolicy => {
                self.strict.push(scope.clone());
                self.denied.push((policy.name.to_string(), scope));
            }
        }
    }

    /// The rules that they come to.
    pub fn rules(&self, check: &mut Check, workloads: &[Workload]) -> Vec<Rule> {
        let meant = |scope: &Scope| -> BTreeSet<String> {
            workloads
                .iter()
                .filter(|workload| scope.has(workload))
                .map(|workload| workload.name.clone())
                .collect()
        };
        let mut rules = Vec::new();
        for ours in &self.ours {
            let names = meant(&ours.scope);
            let read = check.attempt(&ours.name, |check| rules_of(check, ours, &names));
            rules.extend(read.unwrap_or_default());
        }
        for (name, scope) in &self.denied {
            rules.push(Rule {
                name: format!("{name} (refused)"),
                action: Action::Deny,
                dry_run: false,
                local: LocalMatch { workloads: Some(meant(scope)), ..LocalMatch::default() },
                peers: None,
            });
        }
        rules
    }

    /// As with Istio: a pod that some ALLOW rule is for is closed to all others.
    pub fn set_defaults(&self, workloads: &mut [Workload]) {
        for workload in workloads {
            let allows = |ours: &Ours| {
                let allow = |rule: &At<raw::Rule>| {
                    let dry_run = rule.value.dry_run.0.as_ref().is_some_and(|at| at.value);
                    rule.value.action.value == Action::Allow && !dry_run
                };
                ours.scope.has(workload) && ours.rules.iter().any(allow)
            };
            if self.ours.iter().any(allows) {
                workload.policy_default = PolicyDefault::Deny;
            }
        }
    }

    pub fn into_verdicts(self) -> Vec<Verdict> {
        self.verdicts
    }
}

/// An object, or its last good version if it is not good itself.
fn judge(
    check: &mut Check,
    policy: &OfferedPolicy,
    own: Option<&TrustDomain>,
    total: &mut Total,
) -> (Option<Good>, Outcome) {
    let mut read = |spec: &str| {
        // What is refused takes no room.
        let mut with = *total;
        let name = policy.name.to_string();
        let good = check.attempt(&name, |check| one(check, policy, spec, own, &mut with))?;
        *total = with;
        Ok::<_, String>(good)
    };
    match read(&policy.spec) {
        Ok(good) => (Some(good), Outcome::Accepted),
        Err(why) => {
            let earlier = policy.earlier.as_deref().and_then(|spec| read(spec).ok());
            let instead = if earlier.is_some() { Instead::Earlier } else { Instead::Closed };
            (earlier, Outcome::Refused { why, instead })
        }
    }
}

fn one(
    check: &mut Check,
    policy: &OfferedPolicy,
    spec: &str,
    own: Option<&TrustDomain>,
    total: &mut Total,
) -> Option<Good> {
    let name = &policy.name;
    if name.kind == PolicyKind::MutualTlsPolicy {
        return ours(check, policy, spec, total);
    }
    let spec = serde_json::from_str::<&RawValue>(spec).ok()?;
    let dry_run = if policy.dry_run { json!({ "istio.io/dry-run": "true" }) } else { json!({}) };
    let document = json!({
        "apiVersion": "security.istio.io/v1",
        "kind": name.kind.name(),
        "metadata": { "name": name.name, "namespace": name.namespace, "annotations": dry_run },
        "spec": spec,
    });
    let resource = istio::resource(check, &document.to_string(), Spot::START)?;
    Resources::read_one(check, resource.value, own, total).map(Good::Istio)
}

fn ours(check: &mut Check, policy: &OfferedPolicy, spec: &str, total: &mut Total) -> Option<Good> {
    let spec: raw::MutualTlsPolicy =
        yaml::parse(spec).map_err(|(spot, fault)| check.fault(spot, fault)).ok()?;
    total.add_rules(&spec.rules);
    if total.is_too_large() {
        check.fault(Spot::START, Fault::PolicyObjectTooLarge);
        return None;
    }
    let scope = Scope { pods_only: true, ..scope_in(check, &policy.name.namespace, &spec.selector) };
    let entry = Entry {
        at: (check.file, Spot::START),
        namespaces: scope
            .namespace
            .as_ref()
            .map(|name| vec![crate::config::TextPattern::Exact(name.as_str().into())]),
        labels: scope.labels.clone(),
        mode: spec.mode.into_value(),
        ports: port_modes(check, &spec.ports),
        pods_only: true,
    };
    let ours = Ours { name: policy.name.to_string(), scope, rules: spec.rules };
    // What is wrong with a rule is found now, for whomever.
    rules_of(check, &ours, &BTreeSet::new());
    Some(Good::Ours(ours, entry))
}

fn rules_of(check: &mut Check, ours: &Ours, meant: &BTreeSet<String>) -> Option<Vec<Rule>> {
    let mut names = HashSet::new();
    let mut rules = Vec::new();
    for at in &ours.rules {
        let to = &at.value.to;
        let whom = [&to.workloads, &to.namespaces].iter().any(|given| given.0.is_some());
        if whom || !to.labels.0.is_empty() {
            check.fault(at.spot, Fault::PolicyObjectTo);
        }
        if !names.insert(&at.value.name.value) {
            check.fault(
                at.value.name.spot,
                Fault::DuplicateKey(crate::config::Quoted::new(&at.value.name.value)),
            );
        }
        let mut rule = policy::one(check, &[], at)?;
        rule.name = format!("{}/{}", ours.name, rule.name);
        rule.local.workloads = Some(meant.clone());
        rules.push(rule);
    }
    Some(rules)
}

/// Adds the pods of this node.
pub(super) fn pods(
    check: &mut Check,
    node: &Node,
    (modes, policies): (&Modes, &Policies),
    workloads: &mut Workloads,
    offered: &[OfferedPod],
) {
    let Some(kubernetes) = &node.kubernetes else { return };
    let mut numbers: HashSet<u32> = workloads.list.iter().map(|workload| number_of(&workload.name)).collect();
    for pod in offered {
        let mut workload = workload(node, &kubernetes.issuer, kubernetes.default_mode, pod);
        let mut again = 2_u32;
        while !numbers.insert(number_of(&workload.name)) {
            workload.name = format!("{}/{again}", pod.name);
            again = again.saturating_add(1);
        }
        let (workload, contradiction) = with_modes(check, (modes, policies), workload, pod.mode.is_some());
        if let Some(why) = contradiction {
            tracing::warn!(pod = pod.name, why, "what modes say of the pod contradicts itself; it is strict");
        }
        workloads.list.push(workload);
    }
}

/// The pod with what modes say of it, and how they contradict each other. `said`: it says its mode itself.
pub(super) fn with_modes(
    check: &mut Check,
    (modes, policies): (&Modes, &Policies),
    workload: Workload,
    said: bool,
) -> (Workload, Option<String>) {
    let name = workload.name.clone();
    let judged = check.attempt(&name, |check| {
        let mut judged = workload.clone();
        modes.apply(check, &mut judged, said);
        Some(judged)
    });
    let (mut workload, contradiction) = match judged {
        Ok(judged) => (judged, None),
        Err(why) => (Workload { mode: Mode::Strict, ..workload }, Some(why)),
    };
    if !said && policies.strict.iter().any(|scope| scope.has(&workload)) {
        workload.mode = Mode::Strict;
    }
    (workload, contradiction)
}

pub(super) fn workload(node: &Node, issuer: &PodIssuer, default: Mode, pod: &OfferedPod) -> Workload {
    Workload {
        name: pod.name.clone(),
        select: Selector::of_pod(pod.select.clone()),
        spiffe_id: pod.spiffe_id.clone(),
        dns_names: Vec::new(),
        subject: Subject::default(),
        labels: pod.labels.clone(),
        mode: pod.mode.unwrap_or(default),
        ports: BTreeMap::new(),
        listen_ports: BTreeSet::new(),
        exclude: Exclusions::default(),
        policy_default: PolicyDefault::default(),
        outbound_default: OutboundDefault::default(),
        unknown_destinations: UnknownDestinations::default(),
        connect_hold: ConnectHold::default(),
        datapath: node.datapath,
        direct: node.direct.default,
        direct_ports: BTreeMap::new(),
        identity: identity(issuer, pod),
        addresses: pod.addresses.clone(),
        probe_ports: pod.probe_ports.clone(),
        max_connections: node.limits.connections_per_workload,
        lease: LeaseSettings::DEFAULT,
    }
}

fn identity(issuer: &PodIssuer, pod: &OfferedPod) -> WorkloadIdentity {
    match issuer {
        PodIssuer::Same(identity) => identity.clone(),
        PodIssuer::Delegated { issuer } => {
            let (namespace, account) = pod.spiffe_id.service_account().unwrap_or_default();
            let selectors = [format!("k8s:ns:{namespace}"), format!("k8s:sa:{account}")];
            let selectors = selectors.iter().filter_map(|text| text.parse::<SpireSelector>().ok()).collect();
            WorkloadIdentity::Delegated { issuer: issuer.clone(), selectors }
        }
    }
}
