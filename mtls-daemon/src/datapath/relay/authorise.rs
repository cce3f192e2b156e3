//! What policy says of one connection, for its record and for its refusal.

use std::sync::Arc;

use crate::handshake::Verdict;
use crate::observe::Refusal;
use crate::observe::connection::{DryRun, LiveConnection, PolicyNotes};
use crate::policy::{Decision, OutboundQuery, Peer};
use crate::snapshot::{EarlyDenial, Snapshot, WorkloadState};

/// Notes what was decided; returns how the log calls it: the rule's name, or `default`.
pub fn note_decision(connection: &LiveConnection, decision: &Decision<'_>, default: &str) -> String {
    let rule = decision.verdict.rule.unwrap_or(default).to_owned();
    let dry_run = decision
        .dry_run
        .map(|verdict| DryRun { allow: verdict.allow, rule: verdict.rule.unwrap_or(default).to_owned() });
    let audited: Vec<String> = decision.audited.iter().map(|&rule| rule.to_owned()).collect();
    let notes = (dry_run.is_some() || !audited.is_empty())
        .then(|| Box::new(PolicyNotes { audited, dry_run, external: None }));
    connection.learn(|learned| {
        learned.policy = Some(rule.as_str().into());
        if notes.is_some() {
            learned.notes = notes;
        }
    });
    rule
}

/// Whether a workload may connect to a server that has proved who it is.
///
/// # Errors
/// The rule, or the default, that denies it.
pub fn outbound(
    snapshot: &Snapshot,
    workload: &WorkloadState,
    connection: &LiveConnection,
    peer: &Peer<'_>,
    port: u16,
) -> Result<(), Refusal> {
    let settings = &workload.settings;
    if !snapshot.policy.has_outbound_rules() && settings.allows_outbound_by_default() {
        return Ok(());
    }
    let decision = snapshot.policy.decide_outbound(&OutboundQuery::from(settings, port, *peer));
    let rule = note_decision(connection, &decision, settings.outbound_default_name());
    if decision.verdict.allow {
        return Ok(());
    }
    let who = peer.name.map_or_else(|| "a server without identity".to_owned(), ToString::to_string);
    let detail = format!("{} to {who} port {port}: {rule}", settings.name);
    Err(Refusal::new(decision.verdict.refusal_reason(), detail))
}

/// Notes the peer's certificates, which say what is noted of the leaf too.
pub fn note_chain(connection: &LiveConnection, verdict: &Verdict) {
    let chain = verdict.chain();
    connection.learn(|learned| {
        if chain.as_ref().is_some_and(|chain| !chain.certificates.is_empty()) {
            learned.peer_certificate = None;
        }
        learned.peer_chain = chain;
    });
}

/// What a denial that is known beforehand means; notes the rule. `when` it was decided, such as `at connect()`.
#[must_use]
pub fn early_refusal(
    connection: &LiveConnection,
    denial: &EarlyDenial<'_>,
    between: &str,
    when: &str,
) -> Refusal {
    let rule = denial.rule();
    connection.learn(|learned| learned.policy = Some(Arc::from(rule.as_ref())));
    Refusal::new(denial.verdict.refusal_reason(), format!("{between}: {rule}, {when}"))
}
