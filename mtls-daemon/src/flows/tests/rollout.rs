//! Who would be refused by a strict port.

use super::super::rollout::{Fate, PortReport, RolloutReport, Verdict, status};
use super::*;

const PERMISSIVE: &str = "workloads:\n\
    - { name: db, select: { netns: db }, mode: permissive, addresses: [10.9.0.1] }\n\
    - { name: old, select: { netns: old }, addresses: [10.0.0.1] }\n\
    policy: [ { name: web, action: allow, from: { spiffe_ids: ['spiffe://example.org/web'] } } ]\n\
    directory: [ { name: batch, addresses: [10.0.1.0/24], spiffe_ids: ['spiffe://example.org/batch'] } ]\n";

const WEB: &str = "spiffe://example.org/web";

fn seen(text: &str, flows: &Flows, since: Moment) -> RolloutReport {
    let compiled = Compiled::parse(text);
    flows.watch_at(&compiled.config, NOON.before(9 * DAY));
    status(&compiled.ground(), &flows.record_at(since, NOON), since, Some("db"))
}

fn port(report: &RolloutReport) -> &PortReport {
    let [port] = &report.ports[..] else { panic!("one port was expected: {report:?}") };
    port
}

fn fates(port: &PortReport) -> Vec<Fate> {
    port.peers.iter().map(|peer| peer.fate).collect()
}

#[test]
fn a_port_is_safe_when_everybody_uses_mutual_tls_and_is_allowed() {
    let flows = flows(16);
    Db(&flows).proven(&spiffe(WEB), 2, Outcome::allowed("web"), ago(10));
    let report = seen(PERMISSIVE, &flows, NOON.before(DAY));
    let port = port(&report);
    assert_eq!((port.port, port.verdict, port.mode.as_str()), (Some(80), Verdict::Safe, "permissive"));
    assert_eq!((port.peers[0].fate, port.peers[0].rule.as_str()), (Fate::Allowed, "web"));
    assert!(report.holds() && port.mend.contains("strict"));
}

#[test]
fn who_speaks_plaintext_is_named_with_what_is_known_of_the_address() {
    let flows = flows(16);
    let db = Db(&flows);
    db.proven(&spiffe(WEB), 2, Outcome::allowed("web"), ago(10));
    db.plain(1, open(), ago(20));
    db.plain(256, open(), ago(30));
    db.plain(9, open(), ago(5));
    let report = seen(PERMISSIVE, &flows, NOON.before(DAY));
    let port = port(&report);
    assert!(!report.holds() && port.verdict == Verdict::NotSafe);
    assert_eq!(
        fates(port),
        [Fate::WouldBeRefused, Fate::WouldBeRefused, Fate::WouldBeRefused, Fate::Allowed]
    );
    let names: Vec<_> = port.peers.iter().map(|peer| peer.name.as_deref()).collect();
    assert_eq!(names, [Some("old"), None, Some("batch"), None]);
    assert_eq!(port.why, ["3 peers speak plaintext"]);
    assert!(port.mend.contains("Enrol") && port.peers[0].rule == "mode strict");
}

#[test]
fn a_proven_peer_that_no_rule_allows_and_tls_of_the_applications_own_are_not_safe() {
    let flows = flows(16);
    Db(&flows).proven(&spiffe("spiffe://example.org/guest"), 3, open(), ago(10));
    let own = Tuple::unproven(Direction::Inbound, "db", 80, address(4), Channel::OwnTls);
    flows.note_at(&own, &open(), ago(10));
    let report = seen(PERMISSIVE, &flows, NOON.before(DAY));
    let port = port(&report);
    assert_eq!(port.verdict, Verdict::NotSafe);
    assert_eq!(port.peers[0].rule, "default of strict");
    assert_eq!(port.why.len(), 2);
    assert!(port.mend.contains("allow rule") && port.mend.contains("answers TLS itself"), "{}", port.mend);
    let open = PERMISSIVE.replace("mode: permissive", "mode: permissive, policy_default: allow");
    assert_eq!(seen(&open, &flows, NOON.before(DAY)).ports[0].why, ["1 peers speak TLS of their own"]);
}

#[test]
fn a_client_has_moved_when_it_was_let_in_since_and_was_silent_longer_than_ever_before() {
    let fate = |plain: &[u64], proven: Option<(&str, u16, u64)>| {
        let flows = flows(16);
        let db = Db(&flows);
        plain.iter().for_each(|at| db.plain(1, open(), ago(*at)));
        if let Some((id, from, at)) = proven {
            db.proven(&spiffe(id), from, open(), ago(at));
        }
        let report = seen(PERMISSIVE, &flows, NOON.before(DAY));
        let peer = port(&report).peers.iter().find(|peer| peer.channel == Channel::Plaintext).unwrap().fate;
        (peer, port(&report).verdict)
    };
    assert_eq!(fate(&[100], Some((WEB, 1, 50))), (Fate::Moved, Verdict::Safe));
    assert_eq!(fate(&[100], None).0, Fate::WouldBeRefused);
    assert_eq!(fate(&[100], Some((WEB, 1, 150))).0, Fate::WouldBeRefused, "it was before");
    assert_eq!(fate(&[100], Some((WEB, 2, 50))).0, Fate::WouldBeRefused, "somebody else");
    let guest = "spiffe://example.org/guest";
    assert_eq!(fate(&[100], Some((guest, 1, 50))).0, Fate::WouldBeRefused, "strict would refuse that too");
    // Every ten minutes, and the last one five minutes ago.
    assert_eq!(fate(&[900, 300], Some((WEB, 1, 1))).0, Fate::WouldBeRefused);
    assert_eq!(fate(&[1900, 1300], Some((WEB, 1, 1))).0, Fate::Moved);
}

#[test]
fn what_is_not_known_is_not_safe() {
    let nothing = flows(16);
    let report = seen(PERMISSIVE, &nothing, NOON.before(DAY));
    assert_eq!((port(&report).port, port(&report).verdict, report.holds()), (None, Verdict::Unknown, false));
    // A named port of which nothing was seen, too.
    let named = PERMISSIVE.replace("mode: permissive", "ports: { 81: permissive }");
    let report = seen(&named, &nothing, NOON.before(DAY));
    assert_eq!((port(&report).port, port(&report).verdict), (Some(81), Verdict::Unknown));

    let known = flows(16);
    Db(&known).proven(&spiffe(WEB), 2, Outcome::allowed("web"), ago(10));
    let report = seen(PERMISSIVE, &known, NOON.before(8 * DAY));
    assert_eq!(port(&report).verdict, Verdict::Unknown, "flows.keep is seven days");
    assert!(port(&report).why[0].contains("the record begins"));

    let full = flows(1);
    let db = Db(&full);
    db.plain(1, open(), ago(20));
    db.proven(&spiffe(WEB), 2, Outcome::allowed("web"), ago(10));
    let report = seen(PERMISSIVE, &full, NOON.before(DAY));
    assert_eq!(port(&report).verdict, Verdict::Unknown);
    assert!(port(&report).why[0].contains("forgotten"));

    let compiled = Compiled::parse(PERMISSIVE);
    known.watch_at(&config("workloads: []"), ago(50));
    known.watch_at(&compiled.config, ago(40));
    let since = NOON.before(DAY);
    let report = status(&compiled.ground(), &known.record_at(since, NOON), since, Some("db"));
    assert_eq!(port(&report).verdict, Verdict::Unknown, "it is watched since then only");
}

#[test]
fn who_is_refused_already_is_told_and_does_not_count() {
    let flows = flows(16);
    let db = Db(&flows);
    db.proven(&spiffe(WEB), 2, Outcome::allowed("web"), ago(10));
    let failed = Tuple::unproven(Direction::Inbound, "db", 80, address(7), Channel::Failed);
    flows.note_at(&failed, &Outcome::refused("", Reason::CertificateExpired), ago(9));
    let denied = "    - { name: no, action: deny, from: { spiffe_ids: ['spiffe://example.org/bad'] } }\n";
    let text = PERMISSIVE
        .replace("policy: [ {", "policy:\n  - {")
        .replace("} } ]\ndir", &format!("}} }}\n{}dir", &denied[2..]));
    db.proven(&spiffe("spiffe://example.org/bad"), 8, Outcome::refused("no", Reason::PolicyDenied), ago(8));
    let report = seen(&text, &flows, NOON.before(DAY));
    let safe = port(&report);
    assert_eq!(safe.verdict, Verdict::Safe);
    assert_eq!(fates(safe), [Fate::RefusedNow, Fate::RefusedNow, Fate::Allowed]);
    let rules: Vec<_> = safe.peers.iter().map(|peer| peer.rule.as_str()).collect();
    assert_eq!(rules, ["certificate_expired", "no", "web"]);
    // Once it is strict, only they are listed.
    let report = seen(&text.replace("mode: permissive", "mode: strict"), &flows, NOON.before(DAY));
    assert_eq!(
        (port(&report).verdict, port(&report).peers.len(), report.holds()),
        (Verdict::Strict, 2, true)
    );
    let report = seen(&text.replace("mode: permissive", "mode: disabled"), &flows, NOON.before(DAY));
    assert_eq!(report.ports, []);
}
