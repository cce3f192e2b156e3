//! What policy says of one connection, for its record and for its refusal.

use std::cell::RefCell;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::Workload;
use crate::flows::judge::MODE_STRICT;
use crate::flows::{Channel, Flows, Outcome, Tuple};
use crate::handshake::Verdict;
use crate::identity::PeerIdentity;
use crate::observe::connection::{Direction, DryRun, LiveConnection, PolicyNotes};
use crate::observe::{Reason, Refusal};
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
        learned.policy = Some(shared(&rule));
        if notes.is_some() {
            learned.notes = notes;
        }
    });
    rule
}

/// One string for the connections in a row that the same rule decided: they keep it for as long as they live.
fn shared(rule: &str) -> Arc<str> {
    thread_local!(static LAST: RefCell<Arc<str>> = RefCell::new("".into()));
    LAST.with_borrow_mut(|last| {
        if **last != *rule {
            *last = rule.into();
        }
        Arc::clone(last)
    })
}

/// As the memory of flows keeps it; `rule`: what [`note_decision`] returned.
#[must_use]
pub fn outcome<'r>(decision: &Decision<'_>, rule: &'r str) -> Outcome<'r> {
    let verdict = &decision.verdict;
    if verdict.allow { Outcome::allowed(rule) } else { Outcome::refused(rule, verdict.refusal_reason()) }
}

/// A connection that was refused at connect().
pub fn note_denied(flows: &Flows, workload: &Workload, to: SocketAddr, rule: &str, reason: Reason) {
    let tuple = Tuple::unproven(Direction::Outbound, &workload.name, to.port(), to.ip(), Channel::Connect);
    flows.note(&tuple, &Outcome::refused(rule, reason));
}

/// A SYN that was refused for the address that it came from.
pub fn note_denied_source(
    flows: &Flows,
    workload: &Workload,
    (from, port): (IpAddr, u16),
    denial: &EarlyDenial<'_>,
) {
    let tuple = Tuple::unproven(Direction::Inbound, &workload.name, port, from, Channel::Syn);
    flows.note(&tuple, &Outcome::refused(&denial.rule(), denial.verdict.refusal_reason()));
}

/// A client that was refused before policy was asked, where it was for what the client is.
pub fn note_unproven(flows: &Flows, workload: &str, port: u16, from: IpAddr, reason: Reason) {
    let (channel, rule) = match reason {
        Reason::Plaintext => (Channel::Plaintext, MODE_STRICT),
        Reason::MalformedTls
        | Reason::TlsVersion
        | Reason::NoCommonParameters
        | Reason::PeerAlert
        | Reason::NoCertificate
        | Reason::MalformedCertificate
        | Reason::ChainTooLarge
        | Reason::UnknownIssuer
        | Reason::BadSignature
        | Reason::CertificateExpired
        | Reason::CertificateNotYetValid
        | Reason::CertificateUsage
        | Reason::NoSpiffeId
        | Reason::SeveralSpiffeIds
        | Reason::MalformedSpiffeId
        | Reason::TrustDomain
        | Reason::CertificateUnsupported
        | Reason::Revoked
        | Reason::RevocationUnknown => (Channel::Failed, ""),
        // Policy's own are noted where it is asked; who only connects and leaves, as probes do, is not refused anything.
        _ => return,
    };
    let tuple = Tuple::unproven(Direction::Inbound, workload, port, from, channel);
    flows.note(&tuple, &Outcome::refused(rule, reason));
}

/// Whether a workload may connect to a server that has proved who it is.
///
/// # Errors
/// The rule, or the default, that denies it.
pub fn outbound(
    snapshot: &Snapshot,
    workload: &WorkloadState,
    connection: &LiveConnection,
    flows: &Flows,
    peer: &PeerIdentity,
    to: SocketAddr,
) -> Result<(), Refusal> {
    let (settings, port) = (&workload.settings, to.port());
    let tuple = Tuple::proven(Direction::Outbound, &settings.name, port, to.ip(), peer);
    if !snapshot.policy.has_outbound_rules() && settings.allows_outbound_by_default() {
        flows.note(&tuple, &Outcome::allowed(settings.outbound_default_name()));
        return Ok(());
    }
    let subject = Peer::proven(peer, to.ip());
    let decision = snapshot.policy.decide_outbound(&OutboundQuery::from(settings, port, subject));
    let rule = note_decision(connection, &decision, settings.outbound_default_name());
    flows.note(&tuple, &outcome(&decision, &rule));
    if decision.verdict.allow {
        return Ok(());
    }
    let detail = format!("{} to {} port {port}: {rule}", settings.name, peer.name);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_in_a_row_share_the_name_of_their_rule() {
        let names = ["web-to-db", "web-to-db", "default of strict", "web-to-db"].map(shared);
        assert_eq!(
            names.each_ref().map(|name| &**name),
            ["web-to-db", "web-to-db", "default of strict", "web-to-db"]
        );
        assert!(Arc::ptr_eq(&names[0], &names[1]));
    }
}
