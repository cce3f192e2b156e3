//! Policy rules.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

use crate::config::at::{At, Given};
use crate::config::error::Fault;
use crate::config::raw::{self, Peers};
use crate::config::rule::{Action, LocalMatch, PeerMatch, PeerTrait, PeerTraits, Rule, TextPattern};
use crate::config::scalar;
use crate::config::types::{SpiffeIdPrefix, Workload};
use crate::identity::{SpiffeId, TrustDomain};

use super::local::{self, Local};
use super::{Check, InFile, Seen};

/// Most values that the rules may name, and most clauses: bounds the memory of the index.
pub const MAX_COMBINATIONS: usize = 1_000_000;

/// The rules of both directions.
pub(super) struct Checked {
    pub inbound: Vec<Rule>,
    pub outbound: Vec<Rule>,
}

/// What all rules together come to, of [`MAX_COMBINATIONS`].
#[derive(Clone, Copy, Default)]
pub(super) struct Total(usize);

impl Total {
    /// The rules of the files.
    pub fn of(inbound: &InFile<raw::Rule>, outbound: &InFile<raw::OutboundRule>) -> Self {
        let mut total = Self::default();
        inbound.iter().for_each(|(_, at)| total.add(weight(&Common::inbound(&at.value))));
        outbound.iter().for_each(|(_, at)| total.add(weight(&Common::outbound(&at.value))));
        total
    }

    pub fn add(&mut self, weight: usize) {
        self.0 = self.0.saturating_add(weight);
    }

    /// Adds the rules of an object of the cluster.
    pub fn add_rules(&mut self, rules: &[At<raw::Rule>]) {
        rules.iter().for_each(|at| self.add(weight(&Common::inbound(&at.value))));
    }

    pub fn is_too_large(self) -> bool {
        self.0 > MAX_COMBINATIONS
    }
}

/// What both directions have in common.
struct Common<'r> {
    name: &'r At<String>,
    action: &'r At<Action>,
    dry_run: &'r Given<bool>,
    local: &'r raw::LocalMatch,
    peers: &'r Given<Peers>,
}

impl<'r> Common<'r> {
    fn inbound(rule: &'r raw::Rule) -> Self {
        let raw::Rule { name, action, dry_run, to: local, from: peers } = rule;
        Self { name, action, dry_run, local, peers }
    }

    fn outbound(rule: &'r raw::OutboundRule) -> Self {
        let raw::OutboundRule { name, action, dry_run, from: local, to: peers } = rule;
        Self { name, action, dry_run, local, peers }
    }
}

pub(super) fn check(
    check: &mut Check,
    workloads: &[Workload],
    inbound: InFile<raw::Rule>,
    outbound: InFile<raw::OutboundRule>,
) -> Checked {
    let mut rules = Rules {
        names: Seen::new("rule name", "rename one"),
        total: Total::default(),
        local: Local::new(workloads),
    };
    let mut checked = Checked { inbound: Vec::new(), outbound: Vec::new() };
    for (file, at) in &inbound {
        check.file = *file;
        checked.inbound.extend(rules.rule(check, at, Common::inbound(&at.value)));
    }
    for (file, at) in &outbound {
        check.file = *file;
        checked.outbound.extend(rules.rule(check, at, Common::outbound(&at.value)));
    }
    checked
}

/// One rule of an object of the cluster: `None`: it is refused.
pub(super) fn one(check: &mut Check, workloads: &[Workload], at: &At<raw::Rule>) -> Option<Rule> {
    let mut rules = Rules {
        names: Seen::new("rule name", "rename one"),
        total: Total::default(),
        local: Local::new(workloads),
    };
    rules.rule(check, at, Common::inbound(&at.value))
}

struct Rules<'w> {
    names: Seen<String>,
    total: Total,
    local: Local<'w>,
}

impl Rules<'_> {
    fn rule<T>(&mut self, check: &mut Check, at: &At<T>, raw: Common<'_>) -> Option<Rule> {
        let before = self.total;
        self.total.add(weight(&raw));
        if self.total.is_too_large() {
            // Once is enough.
            if !before.is_too_large() {
                check.fault(at.spot, Fault::PolicyTooLarge);
            }
            return None;
        }
        let name = check.name(raw.name);
        if let Some(name) = &name {
            self.names.note(check, name, name, raw.name.spot);
        }
        let dry_run = raw.dry_run.0.as_ref().is_some_and(|at| at.value);
        if let Some(at) = raw.dry_run.0.as_ref().filter(|_| dry_run && raw.action.value == Action::Audit) {
            check.fault(at.spot, Fault::AuditDryRun);
        }
        let local = self.local.check(check, at.spot, raw.local);
        let peers = raw.peers.0.as_ref().map(|at| peers(check, at));
        Some(Rule { name: name?, action: raw.action.value, dry_run, local, peers })
    }
}

/// Counted before anything is looked at closely.
fn weight(rule: &Common<'_>) -> usize {
    let list = |given: &Given<Vec<At<String>>>| given.0.as_ref().map_or(0, |at| at.value.len());
    let ports =
        |given: &Given<Vec<At<crate::config::at::Number>>>| given.0.as_ref().map_or(0, |at| at.value.len());
    let local =
        |local: &raw::LocalMatch| list(&local.workloads) + list(&local.namespaces) + ports(&local.ports);
    let local = local(rule.local) + rule.local.not.0.as_ref().map_or(0, |at| local(&at.value));
    let traits = |peer: &raw::PeerMatch| {
        let extensions = peer.extensions.0.iter().flat_map(|at| &at.value);
        [
            list(&peer.spiffe_ids),
            list(&peer.spiffe_id_prefixes),
            list(&peer.trust_domains),
            list(&peer.namespaces),
            list(&peer.service_accounts),
            list(&peer.organizations),
            list(&peer.organizational_units),
            list(&peer.cidrs),
            extensions.map(|at| 1 + list(&at.value.values)).sum(),
        ]
        .into_iter()
        .sum::<usize>()
    };
    let peer = |peer: &raw::PeerMatch| traits(peer) + peer.not.0.as_ref().map_or(0, |at| traits(&at.value));
    match rule.peers.0.as_ref().map(|at| &at.value) {
        None => local + 1,
        Some(Peers::One(one)) => local + 1 + peer(one),
        // The local part is noted once for each.
        Some(Peers::List(list)) => list.iter().map(|at| local + 1 + peer(&at.value)).sum(),
    }
}

fn peers(check: &mut Check, at: &At<Peers>) -> Vec<PeerMatch> {
    match &at.value {
        Peers::One(one) => {
            // These were alternatives once: who writes several must say what is meant.
            let identities = [&one.spiffe_ids, &one.spiffe_id_prefixes, &one.trust_domains];
            if identities.iter().filter(|given| given.0.is_some()).count() > 1 {
                check.fault(at.spot, Fault::AmbiguousPeers);
            }
            vec![peer(check, at.spot, one)]
        }
        Peers::List(list) => {
            if list.is_empty() {
                check.fault(at.spot, Fault::EmptyFrom);
            }
            list.iter().map(|at| peer(check, at.spot, &at.value)).collect()
        }
    }
}

fn peer(check: &mut Check, spot: crate::config::at::Spot, raw: &raw::PeerMatch) -> PeerMatch {
    let is = traits(check, raw);
    let not = match &raw.not.0 {
        None => PeerTraits::default(),
        Some(at) => {
            if let Some(again) = &at.value.not.0 {
                check.fault(again.spot, Fault::NotNot);
            }
            if is_blank(&at.value) {
                check.fault(at.spot, Fault::EmptyFrom);
            }
            traits(check, &at.value)
        }
    };
    // What was emptied must not come to mean "anyone".
    if is_blank(raw) {
        check.fault(spot, Fault::EmptyFrom);
    }
    PeerMatch { is, not }
}

/// No key was written.
fn is_blank(raw: &raw::PeerMatch) -> bool {
    let lists = [
        &raw.spiffe_ids,
        &raw.spiffe_id_prefixes,
        &raw.trust_domains,
        &raw.namespaces,
        &raw.service_accounts,
        &raw.organizations,
        &raw.organizational_units,
        &raw.cidrs,
    ];
    lists.iter().all(|given| given.0.is_none()) && raw.extensions.0.is_none() && raw.not.0.is_none()
}

fn traits(check: &mut Check, raw: &raw::PeerMatch) -> PeerTraits {
    let mut traits = Traits::default();
    traits.exact(
        check,
        &raw.spiffe_ids,
        PeerTrait::SpiffeId,
        "SPIFFE ID",
        str::parse::<SpiffeId>,
        Fault::SpiffeId,
    );
    let prefix = TextPattern::Prefix;
    let ids = traits.list(
        check,
        &raw.spiffe_id_prefixes,
        "prefix",
        str::parse::<SpiffeIdPrefix>,
        Fault::SpiffeIdPrefix,
    );
    traits.add(PeerTrait::SpiffeId, ids.map(|ids| ids.iter().map(|id| prefix(id.as_str().into())).collect()));
    let domain = str::parse::<TrustDomain>;
    traits.exact(
        check,
        &raw.trust_domains,
        PeerTrait::TrustDomain,
        "trust domain",
        domain,
        Fault::TrustDomain,
    );
    for (given, kind, what) in [
        (&raw.namespaces, PeerTrait::Namespace, "namespace"),
        (&raw.organizations, PeerTrait::Organization, "organization"),
        (&raw.organizational_units, PeerTrait::OrganizationalUnit, "organizational unit"),
    ] {
        let patterns = traits.list(check, given, what, str::parse, Fault::Pattern);
        traits.add(kind, patterns);
    }
    let accounts = traits.list(
        check,
        &raw.service_accounts,
        "service account",
        scalar::service_account,
        Fault::ServiceAccount,
    );
    traits.add(PeerTrait::ServiceAccount, accounts);
    traits.extensions(check, &raw.extensions);
    if let Some(networks) = traits.list(check, &raw.cidrs, "network", scalar::cidr, Fault::Cidr) {
        traits.found.networks = networks.into_iter().collect();
    }
    traits.found
}

#[derive(Default)]
struct Traits {
    found: PeerTraits,
}

impl Traits {
    /// `None`: it was not given.
    fn list<T: Eq + std::hash::Hash + Clone, E>(
        &self,
        check: &mut Check,
        given: &Given<Vec<At<String>>>,
        what: &'static str,
        parse: impl Fn(&str) -> Result<T, E>,
        fault: impl Fn(crate::config::error::Quoted, E) -> Fault,
    ) -> Option<Vec<T>> {
        let at = given.0.as_ref()?;
        if at.value.is_empty() {
            check.fault(at.spot, Fault::EmptyList("list values, or remove the key for any"));
        }
        Some(check.distinct(what, &at.value, parse, fault))
    }

    fn exact<T: Eq + std::hash::Hash + Clone + ToString, E>(
        &mut self,
        check: &mut Check,
        given: &Given<Vec<At<String>>>,
        kind: PeerTrait,
        what: &'static str,
        parse: fn(&str) -> Result<T, E>,
        fault: fn(crate::config::error::Quoted, E) -> Fault,
    ) {
        let values = self.list(check, given, what, parse, fault);
        let exact = |value: &T| TextPattern::Exact(value.to_string().into());
        self.add(kind, values.map(|values| values.iter().map(exact).collect()));
    }

    fn add(&mut self, kind: PeerTrait, patterns: Option<Vec<TextPattern>>) {
        if let Some(patterns) = patterns.filter(|patterns| !patterns.is_empty()) {
            self.found.texts.entry(kind).or_default().extend(patterns);
        }
    }

    fn extensions(&mut self, check: &mut Check, given: &Given<Vec<At<raw::Extension>>>) {
        let Some(at) = &given.0 else { return };
        if at.value.is_empty() {
            check.fault(at.spot, Fault::EmptyList("list extensions, or remove the key for any"));
        }
        let mut seen = Seen::new("extension", "list its values in one place");
        for at in &at.value {
            let Some(oid) = check.text(&at.value.oid, FromStr::from_str, Fault::Oid) else { continue };
            seen.note(check, &oid, &at.value.oid.value, at.value.oid.spot);
            let patterns = match &at.value.values.0 {
                None => Some(vec![TextPattern::Present]),
                Some(_) => self.list(check, &at.value.values, "value", str::parse, Fault::Pattern),
            };
            self.add(PeerTrait::Extension(oid), patterns);
        }
    }
}

/// What the local part comes to: names of workloads.
impl Local<'_> {
    fn check(&self, check: &mut Check, spot: crate::config::at::Spot, raw: &raw::LocalMatch) -> LocalMatch {
        let is = self.part(check, raw);
        let mut found = LocalMatch { workloads: is.workloads, ports: is.ports, ..LocalMatch::default() };
        if let Some(at) = &raw.not.0 {
            if let Some(again) = &at.value.not.0 {
                check.fault(again.spot, Fault::NotNot);
            }
            let not = self.part(check, &at.value);
            if not.workloads.is_none() && not.ports.is_none() {
                check.fault(at.spot, Fault::EmptyList("list what is excluded, or remove `not`"));
            }
            found.not_workloads = not.any_of;
            found.not_ports = not.ports.unwrap_or_default();
        }
        if found.workloads.as_ref().is_some_and(BTreeSet::is_empty) {
            check.warn(spot, Fault::RuleForNobody);
        }
        found
    }

    fn part(&self, check: &mut Check, raw: &raw::LocalMatch) -> local::Part {
        let ports = raw.ports.0.as_ref().map(|at| {
            if at.value.is_empty() {
                check.fault(at.spot, Fault::EmptyList("list ports, or remove the key for any"));
            }
            check.ports(&at.value)
        });
        let labels: BTreeMap<String, String> = local::labels(check, &raw.labels);
        self.named(check, &raw.workloads, &raw.namespaces, &labels, ports)
    }
}
