use std::collections::BTreeMap;

use super::super::admin::tests::serve;
use super::super::client::AdminClient;
use super::*;
use crate::flows::{Channel, Decision, Flow, Moment, Watched};
use crate::observe::Direction;

/// One port; who is not healthy still has a client that speaks plaintext.
pub(crate) fn report(healthy: bool) -> RolloutReport {
    let seen = |fate, channel, identity: Option<&str>| PeerSeen {
        fate,
        channel,
        identity: identity.map(str::to_owned),
        address: [10, 0, 0, 2].into(),
        name: Some("web".into()),
        count: 3,
        first_seen: Moment::from_millis(1_000),
        last_seen: Moment::from_millis(2_000),
        rule: "mode strict\u{1b}[2J".into(),
    };
    let (verdict, peer) = match healthy {
        true => (Verdict::Safe, seen(Fate::Allowed, Channel::MutualTls, Some("spiffe://example.org/web"))),
        false => (Verdict::NotSafe, seen(Fate::WouldBeRefused, Channel::Plaintext, None)),
    };
    RolloutReport {
        since: Moment::from_millis(0),
        ports: vec![PortReport {
            workload: "db".into(),
            port: Some(5432),
            mode: "permissive".into(),
            verdict,
            why: vec!["1 peers speak plaintext".into()],
            mend: "Enrol them.".into(),
            peers: vec![peer; SHOWN + 2],
        }],
    }
}

/// One flow, let in by the rule `open`.
pub(crate) fn record() -> Record {
    let decision = Decision { allow: true, rule: "open".into(), reason: None };
    let flow = Flow {
        direction: Direction::Inbound,
        workload: "w".into(),
        port: 1,
        address: [10, 0, 0, 2].into(),
        channel: Channel::Plaintext,
        peer: None,
        decision,
        allowed: 4,
        refused: 0,
        first_seen: Moment::from_millis(1_000),
        last_seen: Moment::from_millis(2_000),
        longest_pause: Duration::ZERO,
    };
    Record {
        taken: Moment::from_millis(3_000),
        watched: BTreeMap::from([(
            "w".to_owned(),
            Watched { since: Moment::from_millis(0), unseen: String::new() },
        )]),
        flows: vec![flow],
        ..Record::default()
    }
}

#[test]
fn the_text_says_what_is_not_safe_and_why_and_is_not_endless() {
    let text = super::report(&report(false));
    assert!(text.contains("db port 5432 (permissive): NOT SAFE to make strict"), "{text}");
    assert!(text.contains("1 peers speak plaintext") && text.contains("Enrol them."), "{text}");
    assert!(text.contains("10.0.0.2 (web)") && text.contains("… and 2 more"), "{text}");
    assert!(!text.contains('\u{1b}'), "a peer writes nothing to the terminal: {text}");
    assert!(text.ends_with("0 of 1 permissive ports may become strict.\n"), "{text}");
    let nothing = RolloutReport { since: Moment::from_millis(0), ports: Vec::new() };
    assert!(nothing.holds() && super::report(&nothing).contains("Nothing is permissive."));
}

#[tokio::test]
async fn a_workload_that_is_not_there_and_a_record_that_is_off_are_told_with_the_mend() {
    let (good, bad) = (serve(true), serve(false));
    let ask = |served: &std::path::Path| AdminClient::new(served);
    let day = Duration::from_secs(86_400);
    let error = ask(&good.path).rollout(Some("no & such"), day).await.unwrap_err().to_string();
    assert!(error.contains("\"no & such\"") && error.contains("mtlsd workloads"), "{error}");
    let error = ask(&bad.path).flows(day).await.unwrap_err().to_string();
    assert!(error.contains("flows.keep is off"), "{error}");
    let (flows, since) = ask(&good.path).flows(Duration::from_secs(2)).await.unwrap();
    assert_eq!((flows, since), (record(), Moment::from_millis(1_000)));
}
