//! Whole ways through small configurations, and single rules where something is not known.

use std::sync::Arc;
use std::time::SystemTime;

use super::judge::{MAX_CLAUSES, Ruling, bounded, rule_on};
use super::near::MAX_NAMED;
use super::*;
use crate::handshake::{TlsSettings, WorkloadTls, tests::trust};
use crate::identity::testing::{HOUR, LeafSpec, TestCa};
use crate::identity::verified::Fingerprint;
use crate::identity::{ChainMarks, PeerName, Revocations, SpiffeId};
use crate::observe::connection::tests::live;
use crate::observe::connection::{CertificateInfo, Datapath, Direction, Ending, LiveConnection, Opening};
use crate::observe::explain::Outcome;
use crate::observe::explain::near::{Closeness, Says};
use crate::observe::{Reason, Refusal};
use crate::policy::{Peer, Query};
use crate::snapshot::testing::{config, snapshot};
use crate::snapshot::{OwnIdentity, Snapshot, WorkloadState};
use crate::workload::Presence;

const PAIR: &str = r#"
workloads:
  - { name: web, select: { netns: web }, addresses: [10.0.0.2] }
  - { name: db, select: { netns: db }, addresses: [10.0.0.3, "fd00::3"] }
directory: [{ name: far, addresses: [10.1.0.0/24], ports: [80], spiffe_ids: ["spiffe://example.org/far"] }]
"#;

fn own(ca: &TestCa, id: &SpiffeId) -> OwnIdentity {
    let leaf = ca.leaf(&LeafSpec::id(id.as_str()));
    let not_after = SystemTime::now() + HOUR;
    let marks =
        ChainMarks::of(Fingerprint::of(0, &leaf.chain), Some(id.clone()), &leaf.chain, false).unwrap();
    OwnIdentity {
        bundles: Arc::clone(&trust(ca).bundles),
        tls: WorkloadTls::new(&leaf.svid(), trust(ca), TlsSettings::default()),
        certificate: Arc::new(CertificateInfo { serial: "30".into(), not_after: not_after.into() }),
        not_after,
        marks: Arc::new(marks),
        revocations: Arc::new(Revocations::in_memory()),
    }
}

/// A snapshot of workloads that can prove who they are.
fn identified(text: &str) -> Snapshot {
    identified_by(text, &TestCa::root("root"))
}

/// The same with identities of this CA, which they trust.
pub(super) fn identified_by(text: &str, ca: &TestCa) -> Snapshot {
    let mut snapshot = snapshot(config(text));
    for state in snapshot.workloads.values_mut() {
        *state = Arc::new(WorkloadState {
            number: state.number,
            settings: state.settings.clone(),
            spiffe_id: Arc::clone(&state.spiffe_id),
            metrics: Arc::clone(&state.metrics),
            live: Arc::clone(&state.live),
            stopped: state.stopped.clone(),
            identity: Ok(own(ca, &state.settings.spiffe_id)),
        });
    }
    snapshot
}

fn ask(snapshot: &Snapshot, from: &str, to: &str) -> Result<PathReport, UnknownParty> {
    let ground = Ground {
        snapshot,
        now: SystemTime::now(),
        presence: &|name| match name {
            "gone" => Some(Presence::Absent("network namespace /run/netns/gone does not exist".into())),
            "new" => None,
            _ => Some(Presence::Enrolled),
        },
        revoked: &|id| id.as_str().ends_with("/leaked").then(|| "key leaked".to_owned()),
        datapath: &|_| (Datapath::RelayUserspace, Some("this kernel has no kTLS".into())),
    };
    path(&ground, from, to)
}

/// What is told of it; checks what every report promises.
#[track_caller]
fn told(snapshot: &Snapshot, from: &str, to: &str, answer: Answer, reason: Option<Reason>) -> String {
    let report = ask(snapshot, from, to).unwrap();
    let text = report.sentences.join("\n");
    assert_eq!(report.answer, answer, "{text}");
    assert_eq!(report.allowed(), answer == Answer::Allowed);
    let failed: Vec<_> = report.steps.iter().filter(|step| step.outcome == Outcome::Failed).collect();
    assert_eq!(failed.len(), usize::from(answer == Answer::Denied), "{text}");
    let code = failed.first().and_then(|step| step.reason.as_deref());
    assert_eq!(code, reason.map(Reason::code), "{text}");
    let last = report.sentences.last().unwrap();
    assert!(last.ends_with(&report.mend), "{text}");
    assert_eq!(last.starts_with("What to do: "), answer != Answer::Allowed, "{text}");
    assert!(report.sentences.iter().all(|sentence| sentence.ends_with('.')), "{text}");
    if let Some(reason) = reason {
        assert!(last.ends_with(reason.mend()), "{text}");
    }
    text
}

fn with_rules(rules: &str) -> Snapshot {
    identified(&format!("{PAIR}{rules}\n"))
}

#[test]
fn a_connection_that_would_be_allowed_is_told_step_by_step_with_its_datapath() {
    let snapshot = with_rules(
        "policy: [{ name: web, action: allow, from: { spiffe_ids: [\"spiffe://example.org/web\"] } }]",
    );
    for (from, to) in [
        ("web", "db:5432"),
        ("web", "10.0.0.3:5432"),
        ("10.0.0.2", "[fd00::3]:5432"),
        ("spiffe://example.org/web", "spiffe://example.org/db:5432"),
    ] {
        let text = told(&snapshot, from, to, Answer::Allowed, None);
        for part in [
            "would be allowed, with mutual TLS",
            "web is enrolled.",
            "entry db has the address and port",
            "By policy, rule web allows it.",
            "Expected datapath relay-userspace",
            "because this kernel has no kTLS.",
            "No connection between the two is recorded.",
            "Nothing needs mending.",
        ] {
            assert!(text.contains(part), "{from} to {to} lacks {part}:\n{text}");
        }
    }
}

#[test]
fn what_a_policy_engine_is_asked_about_is_not_known_and_a_denial_by_the_rules_is() {
    let asked = |directions: &str| {
        format!(
            "policy_external: {{ url: http://127.0.0.1:8181/v1/data/m/allow, directions: {directions}, workloads: [db] }}\n"
        )
    };
    let open =
        "policy: [{ name: web, action: allow, from: { spiffe_ids: [\"spiffe://example.org/web\"] } }]\n";
    let snapshot = with_rules(&format!("{open}{}", asked("[inbound]")));
    let text = told(&snapshot, "web", "db:5432", Answer::Unknown, None);
    assert!(
        text.contains("The policy engine at http://127.0.0.1:8181/v1/data/m/allow is asked then"),
        "{text}"
    );
    told(&with_rules(&format!("{open}{}", asked("[outbound]"))), "web", "db:5432", Answer::Allowed, None);
    let closed = with_rules(&asked("[inbound]"));
    told(&closed, "web", "db:5432", Answer::Denied, Some(Reason::PolicyDefault));
}

#[test]
fn a_denial_by_default_names_the_rules_that_nearly_allow() {
    let snapshot = with_rules(
        "policy:\n  - { name: other, action: allow, from: { spiffe_ids: [\"spiffe://example.org/other\"] } }\n\
         \x20 - { name: far-off, action: allow, to: { ports: [1] }, from: { spiffe_ids: [\"spiffe://example.org/other\"] } }",
    );
    let text = told(&snapshot, "web", "db:5432", Answer::Denied, Some(Reason::PolicyDefault));
    assert!(
        text.contains("Rule other nearly allows it, but the peer's SPIFFE ID is not one that it names."),
        "{text}"
    );
    assert!(!text.contains("far-off"), "two misses are not near: {text}");
    assert!(text.contains("By policy, the default (default of strict) denies it."), "{text}");
    assert!(!text.contains("Expected datapath"), "{text}");
}

#[test]
fn a_deny_rule_and_another_one_that_denies_too_are_named() {
    let snapshot = with_rules(
        "policy:\n  - { name: all, action: allow }\n  - { name: no-web, action: deny, from: { spiffe_ids: [\"spiffe://example.org/web\"] } }\n\
         \x20 - { name: nobody, action: deny, to: { ports: [5432] } }",
    );
    let text = told(&snapshot, "web", "db:5432", Answer::Denied, Some(Reason::PolicyDenied));
    assert!(
        text.contains("rule no-web denies it") && text.contains("Rule nobody denies it by the rules of now"),
        "{text}"
    );
}

#[test]
fn what_depends_on_something_unknown_is_never_a_yes() {
    for rules in [
        "policy: [{ name: shop, action: allow, from: { organizations: [Shop] } }]",
        "policy: [{ name: all, action: allow }, { name: no-shop, action: deny, from: { organizations: [Shop] } }]",
        "policy: [{ name: near, action: allow, from: { cidrs: [10.0.0.0/24] } }]",
        "policy: [{ name: not-shop, action: allow, from: [{ spiffe_ids: [\"spiffe://example.org/web\"], not: { organizations: [Shop] } }] }]",
    ] {
        let text = told(&with_rules(rules), "web", "db:5432", Answer::Unknown, None);
        assert!(text.contains("cannot be foretold") && text.contains("not known here"), "{text}");
    }
}

#[test]
fn destinations_that_are_unknown_or_excluded_or_disabled_are_told_as_unprotected() {
    let allow = "policy: [{ name: all, action: allow }]\n";
    let plain = identified(&format!("{PAIR}{allow}exclude: {{ ports: [22], cidrs: [10.9.0.0/16] }}\n"));
    for (to, part, mend) in [
        ("10.7.7.7:80", "does not have 10.7.7.7 port 80", "add the destination to the directory"),
        ("10.1.0.1:81", "does not have 10.1.0.1 port 81", "add the destination to the directory"),
        ("far:81", "does not have port 81", "add the destination to the directory"),
        ("10.9.1.1:80", "is in 10.9.0.0/16 of the node's `exclude`", "take it out of `exclude`"),
        ("db:22", "Port 22 is in the node's `exclude`", "take it out of `exclude`"),
        ("127.0.0.1:80", "never captures loopback", "take it out of `exclude`"),
    ] {
        let text = told(&plain, "web", to, Answer::Allowed, None);
        assert!(
            text.contains("without mutual TLS") && text.contains(part) && text.contains(mend),
            "{to}:\n{text}"
        );
        assert!(!text.contains("Expected datapath"), "{text}");
    }
    let closed =
        PAIR.replace("name: web,", "name: web, unknown_destinations: deny, exclude: { ports: [23] },");
    let closed = closed.replace("name: db,", "name: db, ports: { 5432: disabled, 5433: permissive },");
    let closed = identified(&closed);
    told(&closed, "web", "10.7.7.7:80", Answer::Denied, Some(Reason::UnknownDestination));
    // Excluded at the client, strict at the server: plain bytes meet a closed door.
    let text = told(&closed, "web", "db:23", Answer::Denied, Some(Reason::Plaintext));
    assert!(text.contains("web's `exclude`"), "{text}");
    let text = told(&closed, "web", "db:5432", Answer::Allowed, None);
    assert!(text.contains("Port 5432 of db is disabled") && text.contains("strict or permissive"), "{text}");
    let text = told(&closed, "web", "db:5433", Answer::Allowed, None);
    assert!(text.contains("is permissive") && text.contains("with mutual TLS"), "{text}");
}

#[test]
fn who_is_not_enrolled_or_has_no_identity_gets_nowhere() {
    let text = "workloads:\n  - { name: gone, select: { netns: gone }, addresses: [10.0.0.4] }\n\
                \x20 - { name: new, select: { netns: new }, addresses: [10.0.0.5] }\n\
                \x20 - { name: db, select: { netns: db }, addresses: [10.0.0.3] }\npolicy: [{ name: all, action: allow }]\n";
    let good = identified(text);
    let gone = told(&good, "gone", "db:1", Answer::Denied, None);
    assert!(gone.contains("gone is not enrolled: network namespace"), "{gone}");
    told(&good, "db", "gone:1", Answer::Denied, None);
    let new = told(&good, "new", "db:1", Answer::Unknown, None);
    assert!(new.contains("was not looked for yet"), "{new}");
    let bare = snapshot(config(text));
    told(&bare, "db", "10.0.0.5:1", Answer::Denied, Some(Reason::NoIdentity));
    let mut halted = identified(text);
    let state = halted.workloads.values_mut().find(|state| state.settings.name == "db").unwrap();
    let state = Arc::get_mut(state).unwrap();
    state.identity.as_mut().unwrap().not_after = SystemTime::UNIX_EPOCH;
    let text = told(&halted, "db", "10.0.0.5:1", Answer::Denied, Some(Reason::NoIdentity));
    assert!(text.contains("was not renewed"), "{text}");
}

#[test]
fn a_server_elsewhere_is_judged_by_what_is_known_here_and_its_node_is_named_for_the_rest() {
    let text = told(&with_rules(""), "web", "far:80", Answer::Allowed, None);
    assert!(
        text.contains("decided there: ask `mtlsd explain --from spiffe://example.org/web --to far:80` on it"),
        "{text}"
    );
    // The only port of the entry need not be said.
    told(&with_rules(""), "web", "far", Answer::Allowed, None);
    let closed = "outbound_policy: [{ name: no-far, action: deny, to: { spiffe_ids: [\"spiffe://example.org/far\"] } }]";
    told(&with_rules(closed), "web", "far", Answer::Denied, Some(Reason::PolicyDenied));
    let two = PAIR.replace(
        "\"spiffe://example.org/far\"]",
        "\"spiffe://example.org/far\", \"spiffe://example.org/leaked\"]",
    );
    let text = told(&identified(&format!("{two}{closed}")), "web", "far", Answer::Unknown, None);
    assert!(text.contains("which of the expected identities"), "{text}");
    let leaked = PAIR.replace("example.org/far", "example.org/leaked");
    let text = told(&identified(&leaked), "web", "far", Answer::Denied, Some(Reason::Revoked));
    assert!(text.contains("key leaked"), "{text}");
}

#[test]
fn a_client_elsewhere_is_judged_by_this_nodes_rules() {
    let rules =
        "policy: [{ name: far, action: allow, from: { spiffe_ids: [\"spiffe://example.org/far\"] } }]";
    let snapshot = with_rules(rules);
    let text = told(&snapshot, "spiffe://example.org/far", "db:5432", Answer::Allowed, None);
    assert!(text.contains("not a workload of this node") && text.contains("rule far allows it"), "{text}");
    told(&snapshot, "spiffe://example.org/other", "db:5432", Answer::Denied, Some(Reason::PolicyDefault));
    told(&snapshot, "spiffe://example.org/leaked", "10.0.0.3:5432", Answer::Denied, Some(Reason::Revoked));
    let error = ask(&snapshot, "spiffe://example.org/far", "far:80").unwrap_err();
    assert!(matches!(error, UnknownParty::Elsewhere { .. }), "{error}");
}

#[test]
fn who_is_nobody_is_said_to_be_nobody() {
    let snapshot = with_rules("");
    for (from, to, part) in [
        ("nobody", "db:1", "mtlsd workloads"),
        ("10.6.6.6", "db:1", "mtlsd workloads"),
        ("web", "nobody:1", "directory"),
        ("web", "spiffe://example.org/nobody", "directory"),
        ("web", "db", "--to db:PORT"),
        ("web", "10.0.0.3", ":PORT"),
    ] {
        let error = ask(&snapshot, from, to).unwrap_err().to_string();
        assert!(error.contains(part), "{from} to {to}: {error}");
    }
}

#[test]
fn a_workload_to_itself_and_one_that_is_left_alone_are_not_captured() {
    let alone = "workloads:\n  - { name: web, select: { netns: web }, addresses: [10.0.0.2], mode: disabled }\n\
                 \x20 - { name: db, select: { netns: db }, addresses: [10.0.0.3] }\n";
    told(&identified(alone), "web", "db:1", Answer::Denied, Some(Reason::Plaintext));
    let text = told(&identified(alone), "db", "db:1", Answer::Allowed, None);
    assert!(text.contains("talks to itself over lo"), "{text}");
}

#[test]
fn the_rules_one_by_one_say_what_the_compiled_ones_say() {
    let snapshot = with_rules(
        "policy:\n  - { name: a, action: allow, from: { spiffe_id_prefixes: [\"spiffe://example.org/a/\"] } }\n\
         \x20 - { name: b, action: deny, to: { ports: [1] }, from: { spiffe_ids: [\"spiffe://example.org/a/b\"] } }\n\
         \x20 - { name: c, action: allow, from: { organizations: [Shop] } }\n\
         \x20 - { name: d, action: deny, dry_run: true }",
    );
    for id in ["spiffe://example.org/a/b", "spiffe://example.org/a/c", "spiffe://example.org/x"] {
        for (port, default) in [(1, true), (1, false), (2, true), (2, false)] {
            let name = PeerName::Spiffe(id.parse().unwrap());
            let peer = Peer::expected(&name, None);
            let ruling = rule_on(&snapshot.config.policy, &peer, "db", port, default);
            let mode = crate::config::Mode::Strict;
            let query = Query { peer, workload: "db", port, mode, allowed_by_default: default };
            let denied = snapshot.policy.denied_early(&query);
            let said = denied.map(|verdict| Ruling::Denied(verdict.rule.map(str::to_owned)));
            assert_eq!(
                said.is_some(),
                matches!(ruling, Ruling::Denied(_)),
                "{id} {port} {default}: {ruling:?}"
            );
            if let Some(said) = said {
                assert_eq!(said, ruling);
            }
        }
    }
}

#[test]
fn only_so_many_rules_are_gone_through_and_the_rest_is_unknown() {
    let rule = &with_rules(
        "policy: [{ name: a, action: allow, from: { spiffe_ids: [\"spiffe://example.org/a\"] } }]",
    );
    let rules = vec![rule.config.policy[0].clone(); MAX_CLAUSES + 5];
    assert_eq!(bounded(&rules).len(), MAX_CLAUSES);
    let name = PeerName::Spiffe("spiffe://example.org/web".parse().unwrap());
    let ruling = rule_on(&rules, &Peer::expected(&name, None), "db", 1, true);
    assert!(matches!(&ruling, Ruling::Unknown(what) if what.contains("10000 of 10005")), "{ruling:?}");
    let near = super::near::find(&rules, &Peer::expected(&name, None), "db", 1, Says::Allow, None);
    assert_eq!((near.rules.len(), near.looked_at, near.of), (MAX_NAMED, MAX_CLAUSES, MAX_CLAUSES + 5));
}

fn refused(connection: &LiveConnection, reason: Reason) -> crate::observe::ConnectionRecord {
    connection.ended(Ending::Refused(Refusal::from(reason)))
}

#[test]
fn near_misses_of_a_record_go_by_its_direction_and_by_who_decided() {
    let snapshot = with_rules(
        "policy:\n  - { name: in, action: allow, to: { ports: [1] }, from: { spiffe_ids: [\"spiffe://example.org/web\"] } }\n\
         \x20 - { name: shop, action: allow, from: { organizations: [Shop] } }\n\
         \x20 - { name: keep-out, action: deny, to: { ports: [2] } }\n\
         outbound_policy: [{ name: out, action: allow, from: { ports: [1] } }]",
    );
    let names = |record: &crate::observe::ConnectionRecord, all| {
        let near = near_misses(&snapshot, record, all)?;
        Some(near.rules.into_iter().map(|near| (near.rule, near.closeness)).collect::<Vec<_>>())
    };
    let inbound = live(1);
    inbound.learn(|l| (l.peer_identity, l.peer_proven) = (Some("spiffe://example.org/web".into()), true));
    let expected = vec![("in".to_owned(), Closeness::Nearly), ("shop".to_owned(), Closeness::Perhaps)];
    assert_eq!(names(&refused(&inbound, Reason::PolicyDefault), false), Some(expected));
    // One that policy let in, only when asked for.
    inbound.learn(|l| l.policy = Some("in".into()));
    let closed = inbound.ended(Ending::Closed);
    assert_eq!(names(&closed, false), None);
    assert_eq!(names(&closed, true), Some(vec![("keep-out".to_owned(), Closeness::Nearly)]));
    // Policy did not decide, or not here.
    assert_eq!(names(&refused(&inbound, Reason::CertificateExpired), true), None);
    let outbound = |policy: &str| {
        let connection = LiveConnection::new(Opening {
            direction: Direction::Outbound,
            workload: "web".into(),
            local_identity: Some("spiffe://example.org/web".into()),
            destination: "10.0.0.3:5432".parse().unwrap(),
            ..live(2).opening().clone()
        });
        connection.learn(|l| l.policy = Some(policy.into()));
        connection
    };
    let by_server = names(&refused(&outbound("default of strict"), Reason::PolicyDefault), false).unwrap();
    assert_eq!(by_server.len(), 2, "{by_server:?}");
    let own = names(&refused(&outbound("outbound_default: deny"), Reason::PolicyDefault), false);
    assert_eq!(own, Some(vec![("out".to_owned(), Closeness::Nearly)]));
    let remote = outbound("default of strict");
    remote.learn(|l| {
        l.remote_reason = Some(
            crate::observe::connection::RecordedReason::from_peer(Reason::PolicyDefault.number(), "").into(),
        );
    });
    assert_eq!(names(&refused(&remote, Reason::PolicyDefault), false), None);
}

#[test]
fn the_example_in_the_document_is_what_is_told() {
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/explain.md");
    let document = std::fs::read_to_string(document).unwrap();
    let (_, rest) = document.split_once("```text\n$ mtlsd explain --from web --to db:5432\n").unwrap();
    let (example, _) = rest.split_once("```").unwrap();
    let snapshot = with_rules(
        "policy: [{ name: shop-to-db, action: allow, from: { spiffe_ids: [\"spiffe://example.org/shop\"] } }]",
    );
    let text = told(&snapshot, "web", "db:5432", Answer::Denied, Some(Reason::PolicyDefault));
    assert_eq!(format!("{text}\n"), example);
}
