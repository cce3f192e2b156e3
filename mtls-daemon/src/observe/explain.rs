//! Turns a record into sentences: who to whom, what was checked in which order, what decided, how the bytes
//! travelled and why not better, and last what to do.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};
use time::format_description::well_known::Rfc3339;

use super::connection::{CertificateInfo, ConnectionRecord, Datapath, Direction, Event};
use super::reason::Reason;

/// A check that a connection passes on its way, in the order of the variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Limits, the own identity, the directory, the dial: what comes before any byte of the peer.
    Admission,
    /// The first bytes: TLS or not.
    FirstBytes,
    /// Versions, parameters, the exchange itself.
    Handshake,
    /// A certificate chain that can be read.
    Certificate,
    /// One well-formed SPIFFE ID in the leaf.
    SpiffeId,
    /// A bundle for the peer's trust domain.
    TrustDomain,
    /// The chain up to a root, validity, usage, signatures.
    Chain,
    /// Whether this peer is meant: the expected server, or the policy for a client.
    Authorisation,
    /// The local application takes the connection.
    Delivery,
    /// The bytes, up to an authenticated end.
    Stream,
}

impl Step {
    /// Every step in order.
    pub const ALL: [Self; 10] = [
        Self::Admission,
        Self::FirstBytes,
        Self::Handshake,
        Self::Certificate,
        Self::SpiffeId,
        Self::TrustDomain,
        Self::Chain,
        Self::Authorisation,
        Self::Delivery,
        Self::Stream,
    ];

    /// The step at which a reason arises; `None` for those that can arise at any time.
    #[must_use]
    pub const fn of(reason: Reason) -> Option<Self> {
        Some(match reason {
            Reason::UnknownDestination
            | Reason::NoIdentity
            | Reason::DialRefused
            | Reason::DialTimeout
            | Reason::DialUnreachable
            | Reason::WorkloadLimit
            | Reason::TotalLimit
            | Reason::HandshakeLimit
            | Reason::Unaccounted => Self::Admission,
            Reason::Plaintext => Self::FirstBytes,
            Reason::HandshakeTimeout
            | Reason::MalformedTls
            | Reason::TlsVersion
            | Reason::NoCommonParameters
            | Reason::PeerAlert
            | Reason::HandshakeClosed => Self::Handshake,
            Reason::NoCertificate | Reason::MalformedCertificate | Reason::ChainTooLarge => Self::Certificate,
            Reason::NoSpiffeId | Reason::SeveralSpiffeIds | Reason::MalformedSpiffeId => Self::SpiffeId,
            Reason::TrustDomain => Self::TrustDomain,
            Reason::UnknownIssuer
            | Reason::BadSignature
            | Reason::CertificateExpired
            | Reason::CertificateNotYetValid
            | Reason::CertificateUsage
            | Reason::CertificateUnsupported
            | Reason::Revoked
            | Reason::RevocationUnknown => Self::Chain,
            Reason::UnexpectedServer | Reason::PolicyDenied | Reason::PolicyDefault => Self::Authorisation,
            Reason::ApplicationRefused => Self::Delivery,
            Reason::Truncated
            | Reason::RecordError
            | Reason::Idle
            | Reason::Reset
            | Reason::KeyLimit
            | Reason::KeyUpdate => Self::Stream,
            Reason::ShuttingDown | Reason::Internal => return None,
        })
    }

    /// The step at which a connection failed: what can be revoked is the own identity, the peer's chain, or either of
    /// them while bytes flow.
    #[must_use]
    pub fn failed(record: &ConnectionRecord) -> Option<Self> {
        let reason = record.reason.as_ref()?.reason()?;
        Some(match reason {
            Reason::Revoked if record.event == Event::Closed => Self::Stream,
            Reason::Revoked if record.peer_certificate.is_none() => Self::Admission,
            _ => Self::of(reason)?,
        })
    }

    /// Whether a failure at this step is a failed TLS handshake.
    #[must_use]
    pub fn is_handshake(self) -> bool {
        (Self::FirstBytes..=Self::Chain).contains(&self)
    }

    const fn name(self, direction: Direction) -> &'static str {
        match (self, direction) {
            (Self::Admission, Direction::Outbound) => "limits, own identity, destination and dial",
            (Self::Admission, Direction::Inbound) => "limits and own identity",
            (Self::FirstBytes, _) => "the peer speaks TLS",
            (Self::Handshake, _) => "TLS handshake",
            (Self::Certificate, _) => "the peer presents a certificate",
            (Self::SpiffeId, _) => "its SPIFFE ID",
            (Self::TrustDomain, _) => "its trust domain",
            (Self::Chain, _) => "its chain, validity, usage and signatures",
            (Self::Authorisation, Direction::Outbound) => "it is the server that the directory names",
            (Self::Authorisation, Direction::Inbound) => "policy",
            (Self::Delivery, Direction::Outbound) => "the peer takes the connection",
            (Self::Delivery, Direction::Inbound) => "the application takes the connection",
            (Self::Stream, _) => "the bytes, up to an authenticated end",
        }
    }
}

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
    /// The record behind it.
    pub connection: ConnectionRecord,
}

/// Explains a record of a live, closed or refused connection.
#[must_use]
pub fn explain(record: &ConnectionRecord) -> Explanation {
    let checks = checks(record);
    let mut sentences = vec![parties(record), outcome(record)];
    if let Some(sentence) = checked(&checks) {
        sentences.push(sentence);
    }
    sentences.extend(certificates(record));
    if let Some(rule) = &record.policy {
        sentences.push(format!("Policy: {rule}."));
    }
    if let Some(tls) = &record.tls {
        sentences.push(format!("TLS: {}, {}, {}.", tls.version, tls.suite, tls.group));
    }
    sentences.push(datapath(record));
    if let Some(remote) = &record.remote_reason {
        sentences.push(format!("The peer's daemon says: {}{}", remote.sentence, in_detail(&remote.detail)));
    }
    sentences.push(mend(record));
    Explanation { sentences, checks, connection: record.clone() }
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
    let local = record.reason.as_ref().map(|r| &*r.mend);
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
mod tests {
    use super::super::connection::{Ending, LiveConnection, RecordedReason, tests::live};
    use super::super::reason::Refusal;
    use super::*;

    const WEB: &str = "spiffe://example.org/web";
    const DB: &str = "spiffe://example.org/db";

    /// A client that showed a certificate of web.
    fn claiming_web() -> LiveConnection {
        let connection = live(1);
        connection.learn(|l| {
            l.peer_identity = Some(WEB.to_owned());
            l.peer_certificate =
                Some(CertificateInfo { serial: "30".into(), not_after: time::OffsetDateTime::UNIX_EPOCH });
        });
        connection
    }

    /// A client that proved to be web.
    fn from_web() -> LiveConnection {
        let connection = claiming_web();
        connection.learn(|l| l.peer_proven = true);
        connection
    }

    fn text(explanation: &Explanation) -> String {
        explanation.sentences.join("\n")
    }

    #[test]
    fn every_reason_is_explained_with_both_identities_what_was_seen_and_the_mend_last() {
        for reason in Reason::ALL {
            for ending in [Ending::Refused, Ending::Cut] {
                let record = from_web().ended(ending(Refusal::new(*reason, "evidence 42")));
                let explanation = explain(&record);
                let text = text(&explanation);
                for part in [WEB, DB, reason.sentence(), "evidence 42", "10.0.0.2:41000", "10.1.0.7:5432"] {
                    assert!(text.contains(part), "{reason:?} lacks {part}:\n{text}");
                }
                assert!(
                    explanation.sentences.last().unwrap().ends_with(reason.mend()),
                    "{reason:?}:\n{text}"
                );
                let failed: Vec<_> =
                    explanation.checks.iter().filter(|c| c.outcome == Outcome::Failed).collect();
                assert_eq!(failed.len(), usize::from(Step::of(*reason).is_some()), "{reason:?}");
            }
        }
    }

    #[test]
    fn checks_before_the_failed_one_passed_and_those_after_are_not_concluded() {
        let refusal = Refusal::from(Reason::TrustDomain);
        let explanation = explain(&from_web().ended(Ending::Refused(refusal)));
        let outcomes: Vec<_> = explanation.checks.iter().map(|c| c.outcome).collect();
        use Outcome::{Failed, Open, Passed};
        assert_eq!(outcomes, [Passed, Passed, Passed, Passed, Passed, Failed, Open, Open, Open, Open]);
        assert!(text(&explanation).contains("FAILED: its trust domain; not concluded"));
    }

    #[test]
    fn an_identity_that_is_not_proven_is_told_as_a_claim_with_its_certificate() {
        let expired = explain(&claiming_web().ended(Ending::Refused(Reason::CertificateExpired.into())));
        let text = text(&expired);
        assert!(
            text.contains(&format!("a peer (which claims to be {WEB} and has not proven it, 10.0")),
            "{text}"
        );
        assert!(
            text.contains("Certificates: the one the peer presented 30 until 1970-01-01T00:00:00Z."),
            "{text}"
        );
    }

    #[test]
    fn an_identity_that_is_proven_is_told_as_such_whatever_failed_afterwards() {
        for reason in [Reason::PolicyDenied, Reason::ShuttingDown] {
            let connection = from_web();
            connection.learn(|l| l.local_certificate = l.peer_certificate.clone());
            let text = text(&explain(&connection.ended(Ending::Refused(reason.into()))));
            assert!(text.contains(&format!("a peer ({WEB}, 10.0")), "{text}");
            assert!(
                text.contains("Certificates: its own 30 until") && text.contains(", the peer's 30 until")
            );
        }
    }

    #[test]
    fn a_peer_that_showed_nothing_is_told_so() {
        let nobody = explain(&live(1).ended(Ending::Refused(Reason::NoCertificate.into())));
        assert!(text(&nobody).contains("which showed no identity"));
        assert!(!text(&nobody).contains("Certificates:"));
    }

    #[test]
    fn a_reason_without_a_place_in_the_order_claims_nothing_about_the_checks() {
        let stopped = explain(&claiming_web().ended(Ending::Refused(Reason::ShuttingDown.into())));
        assert!(stopped.checks.iter().all(|c| c.outcome == Outcome::Open));
    }

    #[test]
    fn a_denial_at_connect_names_the_server_as_expected_and_proves_nothing() {
        let connection = LiveConnection::new(super::super::connection::Opening {
            direction: Direction::Outbound,
            ..live(3).opening().clone()
        });
        connection.learn(|l| l.peer_identity = Some(WEB.to_owned()));
        let explanation = explain(&connection.ended(Ending::Refused(Reason::PolicyDenied.into())));
        assert!(text(&explanation).contains(&format!("expected to be {WEB}")));
        let passed: Vec<_> =
            explanation.checks.iter().filter(|c| c.outcome == Outcome::Passed).map(|c| &c.step).collect();
        assert_eq!(passed.len(), 1, "{passed:?}");
    }

    #[test]
    fn the_datapath_comes_with_why_it_is_not_a_better_one() {
        let connection = from_web();
        connection.learn(|l| {
            l.datapath = Some(Datapath::RelayUserspace);
            l.why_not_better = Some("this kernel has no kTLS".into());
        });
        let explanation = explain(&connection.ended(Ending::Closed));
        let text = text(&explanation);
        assert!(
            text.contains("Datapath relay-userspace") && text.contains("because this kernel has no kTLS.")
        );
        assert!(text.ends_with("Nothing needs mending."), "{text}");
        assert!(explanation.checks.iter().all(|c| c.outcome == Outcome::Passed));
        let open = explain(&connection.snapshot());
        assert_eq!(open.checks.last().unwrap().outcome, Outcome::Open);
    }

    #[test]
    fn plaintext_is_never_told_as_proven() {
        let connection = from_web();
        connection.learn(|l| l.datapath = Some(Datapath::Plaintext));
        let explanation = explain(&connection.ended(Ending::Closed));
        let chain = Step::Chain.name(Direction::Inbound);
        let chain = explanation.checks.iter().find(|c| c.step == chain).unwrap();
        assert_eq!(chain.outcome, Outcome::Skipped);
        assert!(text(&explanation).contains("neither encrypted nor authenticated"));
        // Denied before a datapath was chosen.
        let denied = explain(&live(1).ended(Ending::Refused(Reason::PolicyDefault.into())));
        let passed: Vec<_> = denied.checks.iter().filter(|c| c.outcome == Outcome::Passed).collect();
        assert_eq!(passed.len(), 1, "{passed:?}");
    }

    #[test]
    fn what_the_peer_says_comes_with_its_own_mend() {
        let connection = from_web();
        connection.learn(|l| {
            l.remote_reason = Some(RecordedReason::from_peer(Reason::PolicyDenied.number(), "rule no-web"));
        });
        let explanation = explain(&connection.ended(Ending::Refused(Reason::PeerAlert.into())));
        let text = text(&explanation);
        assert!(
            text.contains("The peer's daemon says: A policy rule denies this connection. Seen: rule no-web.")
        );
        let last = explanation.sentences.last().unwrap();
        assert!(
            last.contains(Reason::PolicyDenied.mend()) && last.contains(Reason::PeerAlert.mend()),
            "{last}"
        );
    }

    #[test]
    fn outbound_names_the_destination_of_the_directory() {
        let connection = LiveConnection::new(super::super::connection::Opening {
            direction: Direction::Outbound,
            workload: "web".into(),
            local_identity: Some(WEB.into()),
            ..live(3).opening().clone()
        });
        connection.learn(|l| l.destination_name = Some("db".into()));
        let refused = explain(&connection.ended(Ending::Refused(Reason::DialRefused.into())));
        let first = &refused.sentences[0];
        assert!(
            first.contains(&format!("from web ({WEB}, 10.0.0.2:41000) to db (which showed no identity")),
            "{first}"
        );
    }
}
