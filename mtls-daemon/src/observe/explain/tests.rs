//! Every reason, every state of a connection, in sentences.

use super::super::connection::{Ending, LiveConnection, RecordedReason, tests::live};
use super::super::reason::{Reason, Refusal};
use super::*;

const WEB: &str = "spiffe://example.org/web";
const DB: &str = "spiffe://example.org/db";

/// A client that showed a certificate of web.
fn claiming_web() -> LiveConnection {
    let connection = live(1);
    connection.learn(|l| {
        l.peer_identity = Some(WEB.into());
        l.peer_certificate =
            Some(CertificateInfo { serial: "30".into(), not_after: time::OffsetDateTime::UNIX_EPOCH }.into());
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
            let compared = compared::compared(*reason);
            for part in
                [WEB, DB, reason.sentence(), "evidence 42", compared, "10.0.0.2:41000", "10.1.0.7:5432"]
            {
                assert!(text.contains(part), "{reason:?} lacks {part}:\n{text}");
            }
            assert!(explanation.sentences.last().unwrap().ends_with(reason.mend()), "{reason:?}:\n{text}");
            let failed: Vec<_> = explanation.checks.iter().filter(|c| c.outcome == Outcome::Failed).collect();
            assert_eq!(failed.len(), usize::from(Step::of(*reason).is_some()), "{reason:?}");
            match failed.first() {
                Some(failed) => assert!(text.contains(&format!("FAILED: {}", failed.step)), "{text}"),
                None => assert!(text.contains("this can happen at any step"), "{reason:?}:\n{text}"),
            }
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
        assert!(text.contains("Certificates: its own 30 until") && text.contains(", the peer's 30 until"));
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
    connection.learn(|l| l.peer_identity = Some(WEB.into()));
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
    assert!(text.contains("Datapath relay-userspace") && text.contains("because this kernel has no kTLS."));
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
        l.remote_reason =
            Some(RecordedReason::from_peer(Reason::PolicyDenied.number(), "rule no-web").into());
    });
    let explanation = explain(&connection.ended(Ending::Refused(Reason::PeerAlert.into())));
    let text = text(&explanation);
    assert!(
        text.contains("The peer's daemon says: A policy rule denies this connection. Seen: rule no-web.")
    );
    let last = explanation.sentences.last().unwrap();
    assert!(last.contains(Reason::PolicyDenied.mend()) && last.contains(Reason::PeerAlert.mend()), "{last}");
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

#[test]
fn an_alert_of_the_peer_says_which_check_of_it_failed_and_ends_with_what_to_do_here() {
    for alert in Alert::ALL {
        let refusal = Refusal::new(Reason::PeerAlert, super::super::alert::detail(alert.number()));
        let explanation = explain(&from_web().ended(Ending::Refused(refusal)));
        let text = text(&explanation);
        assert!(text.contains(&format!("The peer says by its alert {}: {}", alert.code(), alert.sentence())));
        assert_eq!(explanation.sentences.last().unwrap(), &format!("What to do: {}", alert.mend()));
    }
    let unknown = Refusal::new(Reason::PeerAlert, super::super::alert::detail(255));
    let explanation = explain(&from_web().ended(Ending::Refused(unknown)));
    assert!(explanation.sentences.last().unwrap().ends_with(Reason::PeerAlert.mend()));
}

fn certificate(name: &str, serial: &str) -> ChainCertificate {
    let until = time::OffsetDateTime::UNIX_EPOCH + time::Duration::days(1);
    ChainCertificate::new(name, serial, time::OffsetDateTime::UNIX_EPOCH, until)
}

#[test]
fn the_chain_is_told_from_leaf_to_root_and_as_what_it_is() {
    let chain = |verified, left_out| PeerChain {
        verified,
        certificates: vec![certificate("web", "30"), certificate("root", "01")],
        left_out,
    };
    let told = |chain: PeerChain| {
        let connection = live(1);
        connection.learn(|l| l.peer_chain = Some(std::sync::Arc::new(chain)));
        let record = connection.ended(Ending::Closed);
        assert!(!serde_json::to_string(&record).unwrap().contains("peer_chain"), "not in the access log");
        (text(&explain(&record)), record)
    };
    let (good, record) = told(chain(true, 0));
    assert!(
        good.contains(
            "The peer's chain: \"web\" (serial 30, valid 1970-01-01T00:00:00Z to 1970-01-02T00:00:00Z), issued by \
             \"root\" (serial 01, valid 1970-01-01T00:00:00Z to 1970-01-02T00:00:00Z); the root \"root\" of this node \
             vouches for it."
        ),
        "{good}"
    );
    assert_eq!(record.peer_certificate.unwrap().serial, "30");
    let (claimed, _) = told(chain(false, 2));
    assert!(claimed.contains("as presented, nothing of it proven: \"web\""), "{claimed}");
    assert!(claimed.contains(", then \"root\"") && claimed.contains("and 2 more"), "{claimed}");
    let (nothing, record) = told(PeerChain { left_out: 3, ..PeerChain::default() });
    assert!(nothing.contains("presented 3 certificates that are not shown"), "{nothing}");
    assert_eq!(record.peer_certificate, None);
}

#[test]
fn rules_that_nearly_decided_are_told_before_the_mend() {
    use near::{Closeness, NearMiss, Says};
    let miss = |closeness, why: &str| NearMiss { rule: "shop-to-orders".into(), closeness, why: why.into() };
    let record = from_web().ended(Ending::Refused(Reason::PolicyDefault.into()));
    let near = NearMisses {
        says: Says::Allow,
        rules: vec![
            miss(Closeness::Nearly, "the peer's namespace is not one that it names"),
            miss(Closeness::Perhaps, "the peer's organization"),
            miss(Closeness::Matches, ""),
        ],
        looked_at: 3,
        of: 4,
        changed_since: Some(2),
    };
    let explanation = explain_with(&record, Some(near));
    let told = text(&explanation);
    for part in [
        "Rule shop-to-orders nearly allows it, but the peer's namespace is not one that it names.",
        "Rule shop-to-orders perhaps allows it: the peer's organization is not known here.",
        "Rule shop-to-orders allows it by the rules of now.",
        "generation 2",
        "Only the first 3 of 4 rules were looked at.",
    ] {
        assert!(told.contains(part), "{part}:\n{told}");
    }
    assert!(explanation.sentences.last().unwrap().ends_with(Reason::PolicyDefault.mend()));
    let none = NearMisses { says: Says::Deny, ..NearMisses::default() };
    assert!(text(&explain_with(&record, Some(none))).contains("No other rule denies it or nearly does."));
}
