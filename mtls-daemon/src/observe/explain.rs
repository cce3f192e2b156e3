//! Turns a record into sentences: who to whom, what was checked in which order, what decided, how the bytes
//! travelled and why not better, and last what to do.

pub mod compared;
pub mod near;
mod step;

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use time::format_description::well_known::Rfc3339;

use super::alert::Alert;
use super::chain::{ChainCertificate, PeerChain};
use super::connection::{CertificateInfo, ConnectionRecord, Datapath, Direction, Event};
use near::NearMisses;
pub use step::Step;

/// What came of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It holds.
    Passed,
    /// It does not hold: this decided.
    Failed,
    /// It was not concluded, because something decided before or it is still under way.
    Open,
    /// It does not apply to this datapath: nothing was proven.
    Skipped,
}

/// A step and what came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckedStep {
    /// What was checked.
    pub step: String,
    /// What came of it.
    pub outcome: Outcome,
}

/// A connection explained; `sentences` ends with the mend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// What happened, for people; the last one says what to do.
    pub sentences: Vec<String>,
    /// Every check in order.
    pub checks: Vec<CheckedStep>,
    /// The peer's certificates; left out where none was seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_chain: Option<PeerChain>,
    /// Rules that nearly decided otherwise; left out where policy did not decide.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub near_misses: Option<NearMisses>,
    /// The record behind it.
    pub connection: ConnectionRecord,
}

/// Explains a record of a live, closed or refused connection.
#[must_use]
pub fn explain(record: &ConnectionRecord) -> Explanation {
    explain_with(record, None)
}

/// The same with the rules that nearly decided otherwise.
#[must_use]
pub fn explain_with(record: &ConnectionRecord, near: Option<NearMisses>) -> Explanation {
    let checks = checks(record);
    let mut sentences = vec![parties(record), outcome(record)];
    sentences.extend(compared(record));
    sentences.extend(checked(&checks));
    sentences.extend(certificates(record));
    sentences.extend(record.peer_chain.as_deref().map(chain));
    if let Some(rule) = &record.policy {
        sentences.push(format!("Policy: {rule}."));
    }
    sentences.extend(near.iter().flat_map(NearMisses::sentences));
    if let Some(tls) = &record.tls {
        sentences.push(format!("TLS: {}, {}, {}.", tls.version, tls.suite, tls.group));
    }
    sentences.push(datapath(record));
    if let Some(alert) = alert(record) {
        sentences.push(format!("The peer says by its alert {}: {}", alert.code(), alert.sentence()));
    }
    if let Some(remote) = &record.remote_reason {
        sentences.push(format!("The peer's daemon says: {}{}", remote.sentence, in_detail(&remote.detail)));
    }
    sentences.push(mend(record));
    let peer_chain = record.peer_chain.as_deref().cloned();
    Explanation { sentences, checks, peer_chain, near_misses: near, connection: record.clone() }
}

/// The alert with which the peer ended the handshake.
fn alert(record: &ConnectionRecord) -> Option<Alert> {
    Alert::in_detail(&record.reason.as_ref()?.detail)
}

fn compared(record: &ConnectionRecord) -> Option<String> {
    let reason = record.reason.as_ref()?.reason()?;
    let when = if Step::of(reason).is_none() { " (this can happen at any step)" } else { "" };
    Some(format!("Compared: {}{when}.", compared::compared(reason)))
}

/// Who vouches for whom, leaf first.
fn chain(chain: &PeerChain) -> String {
    let date = |time: time::OffsetDateTime| time.format(&Rfc3339).unwrap_or_else(|_| "?".to_owned());
    let one = |certificate: &ChainCertificate| {
        let (from, until) = (date(certificate.not_before), date(certificate.not_after));
        format!("{:?} (serial {}, valid {from} to {until})", certificate.name, certificate.serial)
    };
    let path = chain.certificates.iter().map(one).collect::<Vec<_>>().join(", issued by ");
    let presented = chain.certificates.iter().map(one).collect::<Vec<_>>().join(", then ");
    let more = match chain.left_out {
        0 => String::new(),
        more => format!(", and {more} more that are not shown"),
    };
    match (chain.verified, chain.certificates.last()) {
        (true, Some(root)) if chain.left_out == 0 => {
            format!("The peer's chain: {path}; the root {:?} of this node vouches for it.", root.name)
        }
        (true, _) => format!("The peer's chain, verified: {path}{more}."),
        (false, Some(_)) => {
            format!("The peer's chain as presented, nothing of it proven: {presented}{more}.")
        }
        (false, None) => format!("The peer presented {} certificates that are not shown.", chain.left_out),
    }
}

fn checks(record: &ConnectionRecord) -> Vec<CheckedStep> {
    let reason = record.reason.as_ref();
    let failed_at = Step::failed(record);
    // Policy can deny a plaintext client of a permissive port, and a connect() before any packet: then there was
    // no handshake, and nothing was proven.
    let unproven = matches!(record.datapath, Some(Datapath::Plaintext | Datapath::Passthrough))
        || (failed_at >= Some(Step::Authorisation) && record.peer_certificate.is_none());
    // A reason without a place in the order says nothing about the steps, except that an established
    // connection had passed them.
    let established = record.datapath.is_some() && record.event != Event::Refused;
    let outcome = |step: Step| match failed_at {
        _ if unproven && (Step::Handshake..=Step::Chain).contains(&step) => Outcome::Skipped,
        Some(failed) if step == failed => Outcome::Failed,
        Some(failed) if step < failed => Outcome::Passed,
        Some(_) => Outcome::Open,
        None if step == Step::Stream && reason.is_none() && record.event == Event::Closed => Outcome::Passed,
        None if step != Step::Stream && established => Outcome::Passed,
        None => Outcome::Open,
    };
    Step::ALL
        .into_iter()
        .filter(|step| !(unproven && *step == Step::FirstBytes && failed_at != Some(Step::FirstBytes)))
        .map(|step| CheckedStep { step: step.name(record.direction).to_owned(), outcome: outcome(step) })
        .collect()
}

fn parties(record: &ConnectionRecord) -> String {
    let identity = record.local_identity.as_deref().unwrap_or("without an identity");
    let local = format!("{} ({identity}", record.workload);
    let name = record.destination_name.as_deref().unwrap_or("a peer");
    let peer = match &record.peer_identity {
        Some(identity) if record.peer_proven => format!("{name} ({identity}"),
        Some(identity) if record.peer_certificate.is_some() => {
            format!("{name} (which claims to be {identity} and has not proven it")
        }
        // It was refused before a word was said: this is whom the directory names.
        Some(identity) => format!("{name} (expected to be {identity}"),
        None => format!("{name} (which showed no identity"),
    };
    let (from, to) = match record.direction {
        Direction::Outbound => (local, peer),
        Direction::Inbound => (peer, local),
    };
    format!(
        "Connection {}, {}: from {from}, {}) to {to}, {}).",
        record.id, record.direction, record.source, record.destination
    )
}

fn certificates(record: &ConnectionRecord) -> Option<String> {
    let of = |whose: &str, certificate: &CertificateInfo| {
        let until = certificate.not_after.format(&Rfc3339).unwrap_or_else(|_| "an unknown time".to_owned());
        format!("{whose} {} until {until}", certificate.serial)
    };
    let local = record.local_certificate.as_ref().map(|certificate| of("its own", certificate));
    let whose = if record.peer_proven { "the peer's" } else { "the one the peer presented" };
    let peer = record.peer_certificate.as_ref().map(|certificate| of(whose, certificate));
    let known: Vec<_> = [local, peer].into_iter().flatten().collect();
    (!known.is_empty()).then(|| format!("Certificates: {}.", known.join(", ")))
}

fn outcome(record: &ConnectionRecord) -> String {
    let seconds = std::time::Duration::from_micros(record.duration_us).as_secs_f64();
    let moved = format!(
        "after {seconds:.3} s, with {} bytes sent and {} received",
        record.bytes.sent, record.bytes.received
    );
    let why = record.reason.as_ref().map(|r| format!("{}{}", r.sentence, in_detail(&r.detail)));
    match (record.event, why) {
        (Event::Open, _) => format!("It is open {moved}."),
        (Event::Closed, None) => format!("It was closed by the applications {moved}."),
        (Event::Closed, Some(why)) => format!("It was cut {moved}: {why}"),
        (Event::Refused, Some(why)) => format!("It was refused: {why}"),
        (Event::Refused, None) => "It was refused, and no reason was recorded.".to_owned(),
    }
}

fn checked(checks: &[CheckedStep]) -> Option<String> {
    let mut out = "Checked in order".to_owned();
    for (outcome, words) in [
        (Outcome::Passed, "passed"),
        (Outcome::Skipped, "not asked for on this datapath"),
        (Outcome::Failed, "FAILED"),
        (Outcome::Open, "not concluded"),
    ] {
        let steps: Vec<_> = checks.iter().filter(|c| c.outcome == outcome).map(|c| c.step.as_str()).collect();
        if !steps.is_empty() {
            // Writing to a string cannot fail.
            let _ok = write!(out, "; {words}: {}", steps.join(", "));
        }
    }
    (!checks.is_empty()).then(|| format!("{}.", out.replacen(';', ":", 1)))
}

fn datapath(record: &ConnectionRecord) -> String {
    let why = record.why_not_better.as_deref().map(|why| why.trim_end_matches('.'));
    match (record.datapath, why) {
        (None, None) => "No datapath was chosen.".to_owned(),
        (None, Some(why)) => format!("No datapath was chosen: {why}."),
        (Some(path), None) => format!("Datapath {path}: {}.", path.sentence()),
        (Some(path), Some(why)) => {
            format!("Datapath {path}: {}; not a better one, because {why}.", path.sentence())
        }
    }
}

fn mend(record: &ConnectionRecord) -> String {
    let alert = alert(record).map(Alert::mend);
    let local = alert.or_else(|| record.reason.as_ref().map(|r| &*r.mend));
    // What the peer says about itself is closer to the cause than what we saw of it.
    let remote = record.remote_reason.as_ref().map(|r| &*r.mend).filter(|mend| Some(*mend) != local);
    match (remote, local) {
        (None, None) => "Nothing needs mending.".to_owned(),
        (Some(mend), None) | (None, Some(mend)) => format!("What to do: {mend}"),
        (Some(remote), Some(local)) => format!("What to do, at the peer: {remote} Here: {local}"),
    }
}

fn in_detail(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(" Seen: {}.", detail.trim_end_matches('.')) }
}

#[cfg(test)]
mod tests;
