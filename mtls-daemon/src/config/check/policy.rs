//! Policy rules.

use std::collections::HashSet;

use crate::config::at::{At, Given};
use crate::config::error::{Fault, Quoted};
use crate::config::raw;
use crate::config::scalar;
use crate::config::types::{Rule, RuleFrom, RuleTo, Workload};

use super::{Check, InFile, Seen};

/// Most combinations of workload, port and peer that the rules may expand to: bounds the memory of the index.
pub const MAX_COMBINATIONS: usize = 1_000_000;

pub(super) fn check(check: &mut Check, workloads: &[Workload], raw: InFile<raw::Rule>) -> Vec<Rule> {
    let known: HashSet<&str> = workloads.iter().map(|workload| workload.name.as_str()).collect();
    let mut names = Seen::new("rule name", "rename one");
    let mut rules = Vec::new();
    let mut total = 0_usize;
    for (file, at) in raw {
        check.file = file;
        let rule = at.value;
        total = total.saturating_add(combinations(&rule));
        if total > MAX_COMBINATIONS {
            check.fault(at.spot, Fault::PolicyTooLarge);
            break;
        }
        let name = check.name(&rule.name);
        if let Some(name) = &name {
            names.note(check, name, name, rule.name.spot);
        }
        let to = to(check, &known, &rule.to);
        let from = rule.from.0.map(|at| from(check, &at));
        if let Some(name) = name {
            rules.push(Rule { name, action: rule.action, to, from });
        }
    }
    rules
}

/// Counted before anything is expanded.
fn combinations(rule: &raw::Rule) -> usize {
    let length = |given: &Given<Vec<At<String>>>| given.0.as_ref().map_or(0, |at| at.value.len());
    let workloads = length(&rule.to.workloads).max(1);
    let ports = rule.to.ports.0.as_ref().map_or(1, |at| at.value.len().max(1));
    let peers = rule.from.0.as_ref().map_or(1, |at| {
        let from = &at.value;
        length(&from.spiffe_ids) + length(&from.spiffe_id_prefixes) + length(&from.trust_domains)
    });
    workloads.saturating_mul(ports).saturating_mul(peers)
}

fn to(check: &mut Check, known: &HashSet<&str>, raw: &raw::RuleTo) -> RuleTo {
    let workloads = raw.workloads.0.as_ref().map(|at| {
        if at.value.is_empty() {
            check.fault(at.spot, Fault::EmptyList("list workloads, or remove the key for any"));
        }
        for name in at.value.iter().filter(|name| !known.contains(name.value.as_str())) {
            check.warn(name.spot, Fault::UnknownWorkload(Quoted::new(&name.value)));
        }
        check.distinct("workload", &at.value, scalar::name, Fault::Name).into_iter().collect()
    });
    let ports = raw.ports.0.as_ref().map(|at| {
        if at.value.is_empty() {
            check.fault(at.spot, Fault::EmptyList("list ports, or remove the key for any"));
        }
        check.ports(&at.value)
    });
    RuleTo { workloads, ports }
}

fn from(check: &mut Check, at: &At<raw::RuleFrom>) -> RuleFrom {
    let raw = &at.value;
    let list =
        |given: &Given<Vec<At<String>>>| given.0.as_ref().map(|at| at.value.clone()).unwrap_or_default();
    let (ids, prefixes, domains) =
        (list(&raw.spiffe_ids), list(&raw.spiffe_id_prefixes), list(&raw.trust_domains));
    // A typed list, or `[]` in all of them, must not come to mean "anyone".
    if ids.is_empty() && prefixes.is_empty() && domains.is_empty() {
        check.fault(at.spot, Fault::EmptyFrom);
    }
    RuleFrom {
        spiffe_ids: check.distinct("SPIFFE ID", &ids, str::parse, Fault::SpiffeId),
        spiffe_id_prefixes: check.distinct("prefix", &prefixes, str::parse, Fault::SpiffeIdPrefix),
        trust_domains: check.distinct("trust domain", &domains, str::parse, Fault::TrustDomain),
    }
}
