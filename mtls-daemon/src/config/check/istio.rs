//! Istio's resources as modes and rules. They mean here what they mean there, or are refused.
//!
//! <https://istio.io/latest/docs/reference/config/security/authorization-policy/> and <https://istio.io/latest/docs/reference/config/security/peer_authentication/>

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use crate::config::at::{At, Spot};
use crate::config::error::{Fault, Quoted};
use crate::config::istio::IstioResource;
use crate::config::raw::istio::{
    AuthorizationAction, AuthorizationPolicy, AuthorizationRule, AuthorizationSource, Metadata, NotL4,
    Operation, PeerAuthentication, Resource, Selector, To, When,
};
use crate::config::rule::{Action, LocalMatch, PeerMatch, PeerTrait, PeerTraits, Rule, TextPattern};
use crate::config::scalar;
use crate::config::types::{PolicyDefault, Workload};
use crate::identity::TrustDomain;

use super::modes::Entry;
use super::policy::Total;
use super::{Check, FileSpot, InFile, Seen, local};

/// The namespace whose resources are for the whole mesh.
const ROOT_NAMESPACE: &str = "istio-system";
/// In a principal, the mesh's own trust domain, whatever its name.
const OWN_TRUST_DOMAIN: &str = "cluster.local/";
/// An AuthorizationPolicy that is only tried.
const DRY_RUN: &str = "istio.io/dry-run";
const DESTINATION_PORT: &str = "destination.port";

/// Which workloads a resource is for.
#[derive(Clone, Debug)]
pub(super) struct Scope {
    /// `None`: every one.
    pub namespace: Option<String>,
    pub labels: BTreeMap<String, String>,
    /// It comes from the cluster, which has no say about other workloads.
    pub pods_only: bool,
}

impl Scope {
    pub fn has(&self, workload: &Workload) -> bool {
        let namespace = workload.spiffe_id.service_account().map(|(namespace, _)| namespace);
        (!self.pods_only || workload.select.pod.is_some())
            && self.namespace.as_deref().is_none_or(|own| namespace == Some(own))
            && local::has_labels(workload, &self.labels)
    }
}

/// The resources of all files.
#[derive(Default)]
pub(super) struct Resources {
    policies: Vec<(FileSpot, Policy)>,
    scopes: Vec<Scope>,
    /// What stands in the place of objects that were refused: nobody is allowed there.
    closed: Vec<Scope>,
}

/// An AuthorizationPolicy, taken apart.
pub(super) struct Policy {
    scope: Scope,
    name: String,
    namespace: String,
    dry_run: bool,
    spec: AuthorizationPolicy,
}

impl Resources {
    /// Takes them apart; gives what PeerAuthentications say of modes.
    pub fn check(check: &mut Check, raw: InFile<IstioResource>, total: &mut Total) -> (Self, Vec<Entry>) {
        let mut resources = Self::default();
        let mut modes = Vec::new();
        let mut seen = Seen::new("resource", "rename one");
        for (file, at) in raw {
            check.file = file;
            match at.value {
                IstioResource::Modes(resource) => {
                    note(check, &mut seen, "PeerAuthentication", &resource.metadata);
                    let (scope, entry) = peer_authentication(check, at.spot, &resource);
                    resources.scopes.push(scope);
                    modes.push(entry);
                }
                IstioResource::Rules(resource) => {
                    note(check, &mut seen, "AuthorizationPolicy", &resource.metadata);
                    let before = *total;
                    total.add(weight(&resource.spec));
                    if total.is_too_large() {
                        // Once is enough.
                        if !before.is_too_large() {
                            check.fault(at.spot, Fault::PolicyTooLarge);
                        }
                        continue;
                    }
                    let policy = authorization_policy(check, resource);
                    resources.policies.push(((file, at.spot), policy));
                }
            }
        }
        (resources, modes)
    }

    /// Reads one of the cluster's; `None`: it is refused.
    pub fn read_one(
        check: &mut Check,
        resource: IstioResource,
        own: Option<&TrustDomain>,
        total: &mut Total,
    ) -> Option<One> {
        let file = check.file;
        match resource {
            IstioResource::Modes(resource) => {
                let (scope, mut entry) = peer_authentication(check, Spot::START, &resource);
                entry.pods_only = true;
                Some(One::Modes(Scope { pods_only: true, ..scope }, entry))
            }
            IstioResource::Rules(resource) => {
                total.add(weight(&resource.spec));
                if total.is_too_large() {
                    check.fault(Spot::START, Fault::PolicyObjectTooLarge);
                    return None;
                }
                let mut policy = authorization_policy(check, resource);
                policy.scope.pods_only = true;
                // What is wrong with a rule is found when it is converted, for whomever.
                rules_of(check, &policy, &BTreeSet::new(), own);
                Some(One::Rules((file, Spot::START), policy))
            }
        }
    }

    /// Adds what was read; gives what it says of modes.
    pub fn add(&mut self, one: One) -> Option<Entry> {
        match one {
            One::Modes(scope, entry) => {
                self.scopes.push(scope);
                Some(entry)
            }
            One::Rules(at, policy) => {
                self.policies.push((at, policy));
                None
            }
        }
    }

    /// Allows nobody there but whom other rules allow.
    pub fn close(&mut self, scope: Scope) {
        self.closed.push(scope);
    }

    /// The rules that they come to.
    pub fn rules(&self, check: &mut Check, workloads: &[Workload], own: Option<&TrustDomain>) -> Vec<Rule> {
        let mut rules = Vec::new();
        for ((file, _), policy) in &self.policies {
            check.file = *file;
            let meant: BTreeSet<String> =
                workloads.iter().filter(|w| policy.scope.has(w)).map(|w| w.name.clone()).collect();
            rules.extend(rules_of(check, policy, &meant, own));
        }
        rules
    }

    /// Istio's default: a workload that some ALLOW policy is for is closed to all others, and any other is open. Only where a
    /// resource is for the workload, and it says nothing itself.
    pub fn set_defaults(&self, workloads: &mut [Workload], says: &BTreeSet<String>, rules: &[Rule]) {
        for workload in workloads.iter_mut().filter(|workload| !says.contains(&workload.name)) {
            let in_scope = |scope: &Scope| scope.has(workload);
            if self.closed.iter().any(in_scope) {
                workload.policy_default = PolicyDefault::Deny;
                continue;
            }
            let allows = |policy: &Policy| {
                policy.spec.action.0.as_ref().map(|at| at.value).unwrap_or_default()
                    == AuthorizationAction::Allow
                    && !policy.dry_run
            };
            let policies =
                || self.policies.iter().map(|(_, policy)| policy).filter(|policy| in_scope(&policy.scope));
            if !self.scopes.iter().any(in_scope) && policies().next().is_none() {
                continue;
            }
            let allowed = |rule: &Rule| {
                rule.action == Action::Allow
                    && !rule.dry_run
                    && rule.local.workloads.as_ref().is_none_or(|names| names.contains(&workload.name))
            };
            // An ALLOW policy without rules is the usual way to write "nobody".
            let closed = policies().any(allows) || rules.iter().any(allowed);
            workload.policy_default = if closed { PolicyDefault::Deny } else { PolicyDefault::Allow };
        }
    }
}

/// One of the cluster's objects, read.
pub(super) enum One {
    Modes(Scope, Entry),
    Rules(FileSpot, Policy),
}

fn rules_of(
    check: &mut Check,
    policy: &Policy,
    meant: &BTreeSet<String>,
    own: Option<&TrustDomain>,
) -> Vec<Rule> {
    let mut rules = Vec::new();
    for (number, rule) in policy.spec.rules.iter().enumerate() {
        let converter = Converter { check, policy, own };
        rules.extend(converter.rule(number, rule, meant));
    }
    rules
}

/// What its rules come to: there is one for each operation, with every source, and each condition narrows all of them. Counted
/// before any is made.
fn weight(spec: &AuthorizationPolicy) -> usize {
    let rule = |at: &At<AuthorizationRule>| {
        let rule = &at.value;
        let (mut sources, mut of_sources) = (1_usize, 0_usize);
        if let Some(list) = &rule.from.0 {
            sources = list.value.len().max(1);
            of_sources = list.value.iter().map(|from| from.value.source.values()).sum();
        }
        let (mut operations, mut of_operations) = (1_usize, 0_usize);
        if let Some(list) = &rule.to.0 {
            operations = list.value.len().max(1);
            let ports = |to: &At<To>| to.value.operation.ports.len() + to.value.operation.not_ports.len();
            of_operations = list.value.iter().map(ports).sum();
        }
        let (mut peers, mut ports) = (0_usize, 0_usize);
        for when in &rule.when {
            let When { key, values, not_values } = &when.value;
            let of_key = if key.value == DESTINATION_PORT { &mut ports } else { &mut peers };
            *of_key += values.len() + not_values.len();
        }
        let of_sources = of_sources.saturating_add(sources.saturating_mul(peers));
        let of_operations = of_operations.saturating_add(operations.saturating_mul(ports));
        let clauses = sources.saturating_mul(operations);
        clauses
            .saturating_add(operations.saturating_mul(of_sources))
            .saturating_add(sources.saturating_mul(of_operations))
    };
    spec.rules.iter().map(rule).fold(0, usize::saturating_add)
}

fn note(
    check: &mut Check,
    seen: &mut Seen<(&'static str, String, String)>,
    kind: &'static str,
    of: &Metadata,
) {
    let key = (kind, namespace_of(of), of.name.value.clone());
    seen.note(check, &key, &of.name.value, of.name.spot);
}

fn namespace_of(metadata: &Metadata) -> String {
    metadata.namespace.0.as_ref().map_or("default", |at| at.value.as_str()).to_owned()
}

fn scope(check: &mut Check, metadata: &Metadata, selector: &Selector) -> Scope {
    scope_in(check, &namespace_of(metadata), selector)
}

/// Whom an object of this namespace is for.
pub(super) fn scope_in(check: &mut Check, namespace: &str, selector: &Selector) -> Scope {
    Scope {
        namespace: (namespace != ROOT_NAMESPACE).then(|| namespace.to_owned()),
        labels: local::labels(check, &selector.match_labels),
        pods_only: false,
    }
}

fn peer_authentication(
    check: &mut Check,
    spot: Spot,
    resource: &Resource<PeerAuthentication>,
) -> (Scope, Entry) {
    let Resource { metadata, spec } = resource;
    let scope = scope(check, metadata, &spec.selector);
    let mut ports = BTreeMap::new();
    if let Some((port, _)) = spec.port_level_mtls.0.first().filter(|_| scope.labels.is_empty()) {
        check.fault(port.spot, Fault::IstioPortsWithoutSelector);
    }
    for (port, mtls) in &spec.port_level_mtls.0 {
        if let (Some(port), Some(mode)) = (check.port(port), mtls.value.mode()) {
            ports.insert(port, mode);
        }
    }
    let namespaces = scope.namespace.as_ref().map(|name| vec![TextPattern::Exact(name.as_str().into())]);
    let entry = Entry {
        at: (check.file, spot),
        namespaces,
        labels: scope.labels.clone(),
        mode: spec.mtls.mode(),
        ports,
        pods_only: false,
    };
    (scope, entry)
}

fn authorization_policy(check: &mut Check, resource: Resource<AuthorizationPolicy>) -> Policy {
    let Resource { metadata, spec } = resource;
    if let Some(at) = spec.action.0.as_ref().filter(|at| at.value == AuthorizationAction::Custom) {
        check.fault(at.spot, Fault::IstioCustom);
    }
    for (given, what) in
        [(&spec.provider, "provider"), (&spec.target_ref, "targetRef"), (&spec.target_refs, "targetRefs")]
    {
        refuse(check, given, what);
    }
    let dry_run =
        metadata.annotations.0.iter().any(|(key, value)| key.value == DRY_RUN && value.value == "true");
    Policy {
        scope: scope(check, &metadata, &spec.selector),
        namespace: namespace_of(&metadata),
        name: format!("{}/{}", namespace_of(&metadata), metadata.name.value),
        dry_run,
        spec,
    }
}

/// What only a proxy that reads requests can decide.
fn refuse(check: &mut Check, given: &NotL4, what: &'static str) {
    if let Some(at) = &given.0 {
        check.fault(at.spot, Fault::IstioNotL4(what));
    }
}

struct Converter<'a> {
    check: &'a mut Check,
    policy: &'a Policy,
    own: Option<&'a TrustDomain>,
}

/// Ports that are wanted, `None` for any, and ports that are not.
type Ports = (Option<BTreeSet<u16>>, BTreeSet<u16>);

impl Converter<'_> {
    /// One rule for each operation: it has its own ports.
    fn rule(mut self, number: usize, at: &At<AuthorizationRule>, workloads: &BTreeSet<String>) -> Vec<Rule> {
        let raw = &at.value;
        let mut peers: Option<Vec<PeerMatch>> = raw.from.0.as_ref().map(|list| {
            if list.value.is_empty() {
                self.check.fault(list.spot, Fault::EmptyList("list sources, or remove `from` for anyone"));
            }
            list.value.iter().map(|from| self.source(from.spot, &from.value.source)).collect()
        });
        let mut operations: Vec<Ports> = match &raw.to.0 {
            None => vec![(None, BTreeSet::new())],
            Some(list) => {
                if list.value.is_empty() {
                    self.check.fault(list.spot, Fault::EmptyList("list operations, or remove `to` for any"));
                }
                list.value.iter().map(|to| self.operation(to.spot, &to.value.operation)).collect()
            }
        };
        for when in &raw.when {
            self.when(when, &mut peers, &mut operations);
        }
        let (namespace, name) = (&self.policy.name, number);
        let action = match self.policy.spec.action.0.as_ref().map(|at| at.value).unwrap_or_default() {
            AuthorizationAction::Allow => Action::Allow,
            AuthorizationAction::Deny => Action::Deny,
            AuthorizationAction::Audit | AuthorizationAction::Custom => Action::Audit,
        };
        let rule = |(ports, not_ports): Ports| Rule {
            name: format!("{namespace}[{name}]"),
            action,
            dry_run: self.policy.dry_run && action != Action::Audit,
            local: LocalMatch {
                workloads: Some(workloads.clone()),
                not_workloads: BTreeSet::new(),
                ports,
                not_ports,
            },
            peers: peers.clone(),
        };
        operations.into_iter().map(rule).collect()
    }

    fn source(&mut self, spot: Spot, raw: &AuthorizationSource) -> PeerMatch {
        for (given, what) in [
            (&raw.request_principals, "requestPrincipals"),
            (&raw.not_request_principals, "notRequestPrincipals"),
            (&raw.remote_ip_blocks, "remoteIpBlocks"),
            (&raw.not_remote_ip_blocks, "notRemoteIpBlocks"),
        ] {
            refuse(self.check, given, what);
        }
        let is = self.traits(&raw.principals, &raw.namespaces, &raw.service_accounts, &raw.ip_blocks);
        let not = self.traits(
            &raw.not_principals,
            &raw.not_namespaces,
            &raw.not_service_accounts,
            &raw.not_ip_blocks,
        );
        if is.is_empty() && not.is_empty() {
            self.check.fault(spot, Fault::EmptyFrom);
        }
        PeerMatch { is, not }
    }

    fn traits(
        &mut self,
        principals: &[At<String>],
        namespaces: &[At<String>],
        accounts: &[At<String>],
        blocks: &[At<String>],
    ) -> PeerTraits {
        let mut traits = PeerTraits::default();
        for (kind, patterns) in [
            (PeerTrait::SpiffeId, self.principals(principals)),
            (PeerTrait::Namespace, self.patterns(namespaces)),
            (PeerTrait::ServiceAccount, self.accounts(accounts)),
        ] {
            if !patterns.is_empty() {
                traits.texts.insert(kind, patterns);
            }
        }
        traits.networks = self.networks(blocks);
        traits
    }

    /// `cluster.local/ns/shop/sa/cart` is a SPIFFE ID without its scheme.
    fn principals(&mut self, list: &[At<String>]) -> BTreeSet<TextPattern> {
        let own = self.own.map_or(String::new(), |domain| format!("{domain}/"));
        let id = |text: &str| match text.strip_prefix(OWN_TRUST_DOMAIN) {
            Some(rest) => format!("spiffe://{own}{rest}").into(),
            None => format!("spiffe://{text}").into(),
        };
        let with_scheme = |pattern| match pattern {
            TextPattern::Exact(text) => TextPattern::Exact(id(&text)),
            TextPattern::Prefix(text) => TextPattern::Prefix(id(&text)),
            other => other,
        };
        self.patterns(list).into_iter().map(with_scheme).collect()
    }

    fn patterns(&mut self, list: &[At<String>]) -> BTreeSet<TextPattern> {
        list.iter().filter_map(|at| self.check.text(at, str::parse, Fault::Pattern)).collect()
    }

    /// Without a namespace the policy's own is meant.
    fn accounts(&mut self, list: &[At<String>]) -> BTreeSet<TextPattern> {
        let namespace = &self.policy.namespace;
        let full = |at: &At<String>| match at.value.contains('/') {
            true => at.clone(),
            false => At { value: format!("{namespace}/{}", at.value), spot: at.spot },
        };
        let parse = |at: &At<String>| self.check.text(at, scalar::service_account, Fault::ServiceAccount);
        list.iter().map(full).collect::<Vec<_>>().iter().filter_map(parse).collect()
    }

    fn networks(&mut self, list: &[At<String>]) -> BTreeSet<IpNet> {
        list.iter().filter_map(|at| self.check.text(at, scalar::cidr, Fault::Cidr)).collect()
    }

    fn operation(&mut self, spot: Spot, raw: &Operation) -> Ports {
        for (given, what) in [
            (&raw.hosts, "hosts"),
            (&raw.not_hosts, "notHosts"),
            (&raw.methods, "methods"),
            (&raw.not_methods, "notMethods"),
            (&raw.paths, "paths"),
            (&raw.not_paths, "notPaths"),
        ] {
            refuse(self.check, given, what);
        }
        let not_l4 = [&raw.hosts, &raw.not_hosts, &raw.methods, &raw.not_methods, &raw.paths, &raw.not_paths];
        if raw.ports.is_empty() && raw.not_ports.is_empty() && not_l4.iter().all(|given| given.0.is_none()) {
            self.check.fault(spot, Fault::EmptyList("list ports, or remove `to` for any"));
        }
        let ports = (!raw.ports.is_empty()).then(|| self.ports(&raw.ports));
        (ports, self.ports(&raw.not_ports))
    }

    fn ports(&mut self, list: &[At<String>]) -> BTreeSet<u16> {
        let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or(());
        let fault = |text: Quoted, ()| Fault::IstioPort(text);
        list.iter().filter_map(|at| self.check.text(at, port, fault)).collect()
    }

    /// A condition narrows what `from` and `to` say.
    fn when(&mut self, at: &At<When>, peers: &mut Option<Vec<PeerMatch>>, operations: &mut [Ports]) {
        let When { key, values, not_values } = &at.value;
        if values.is_empty() && not_values.is_empty() {
            self.check.fault(at.spot, Fault::EmptyList("list values or notValues"));
            return;
        }
        let none: &[At<String>] = &[];
        let part = |this: &mut Self, list: &[At<String>]| match key.value.as_str() {
            "source.principal" => Some(this.traits(list, none, none, none)),
            "source.namespace" => Some(this.traits(none, list, none, none)),
            "source.serviceAccount" => Some(this.traits(none, none, list, none)),
            "source.ip" => Some(this.traits(none, none, none, list)),
            _ => None,
        };
        if key.value == DESTINATION_PORT {
            let (is, not) = (self.ports(values), self.ports(not_values));
            for (wanted, unwanted) in operations {
                if !is.is_empty() {
                    *wanted = Some(match wanted.take() {
                        Some(ports) => ports.intersection(&is).copied().collect(),
                        None => is.clone(),
                    });
                }
                unwanted.extend(&not);
            }
            return;
        }
        let (Some(is), Some(not)) = (part(self, values), part(self, not_values)) else {
            self.check.fault(key.spot, Fault::IstioCondition(Quoted::new(&key.value)));
            return;
        };
        for peer in peers.get_or_insert_with(|| vec![PeerMatch::default()]) {
            self.narrow(key.spot, peer, &is, &not);
        }
    }

    fn narrow(&mut self, spot: Spot, peer: &mut PeerMatch, is: &PeerTraits, not: &PeerTraits) {
        for (kind, patterns) in &is.texts {
            // Two lists of patterns that must both match are not one list.
            if peer.is.texts.insert(kind.clone(), patterns.clone()).is_some() {
                self.check.fault(spot, Fault::IstioTwice);
            }
        }
        if !is.networks.is_empty()
            && !std::mem::replace(&mut peer.is.networks, is.networks.clone()).is_empty()
        {
            self.check.fault(spot, Fault::IstioTwice);
        }
        for (kind, patterns) in &not.texts {
            peer.not.texts.entry(kind.clone()).or_default().extend(patterns.iter().cloned());
        }
        peer.not.networks.extend(&not.networks);
    }
}
