//! Which decisions another configuration would change.

use super::super::judge::{Judged, MODE_STRICT};
use super::super::replay::{ReplayReport, replay};
use super::*;

const SITE: &str = "workloads:\n\
    - { name: db, select: { netns: db }, mode: permissive, addresses: [10.9.0.1] }\n\
    - { name: web, select: { netns: web } }\n\
    directory: [ { name: far, addresses: [10.8.0.0/16], ports: [443], spiffe_ids: ['spiffe://example.org/far'] } ]\n";

fn replayed(flows: &Flows, text: &str) -> ReplayReport {
    let since = NOON.before(DAY);
    replay(&flows.record_at(since, NOON), &Compiled::parse(text).ground(), since)
}

/// Allowed or not, and by whom, after the change; in the order of the report.
fn after(report: &ReplayReport) -> Vec<(bool, &str)> {
    report.changes.iter().map(|change| (change.after.allow, change.after.rule.as_str())).collect()
}

fn out(to: &str, port: u16, channel: Channel) -> Tuple<'static> {
    Tuple::unproven(Direction::Outbound, "web", port, to.parse().unwrap(), channel)
}

#[test]
fn plaintext_into_a_port_that_becomes_strict_is_refused() {
    let flows = flows(16);
    Db(&flows).plain(1, open(), ago(10));
    let own = Tuple::unproven(Direction::Inbound, "db", 80, address(2), Channel::OwnTls);
    flows.note_at(&own, &open(), ago(10));
    assert!(replayed(&flows, SITE).changes.is_empty() && replayed(&flows, SITE).holds());
    let report = replayed(&flows, &SITE.replace("permissive", "strict"));
    assert_eq!(after(&report), [(false, MODE_STRICT); 2]);
    assert_eq!((report.would_be_refused(), report.holds(), report.flows), (2, false, 2));
    let change = &report.changes[0];
    assert_eq!((change.before.allow, change.before.rule.as_str()), (true, "default of permissive"));
}

#[test]
fn what_is_not_captured_any_more_is_let_through_but_nobody_answers_a_handshake() {
    let flows = flows(16);
    let db = Db(&flows);
    db.plain(1, Outcome::refused(MODE_STRICT, Reason::Plaintext), ago(10));
    db.proven(&spiffe("spiffe://example.org/web"), 2, Outcome::allowed("web"), ago(10));
    for change in ["mode: disabled", "mode: strict, exclude: { ports: [80] }"] {
        let report = replayed(&flows, &SITE.replace("mode: permissive", change));
        let (refused, opened) = (&report.changes[0], &report.changes[1]);
        assert!(!refused.after.allow && refused.after.rule.contains("gets the TLS bytes"), "{report:?}");
        assert!(opened.after.allow && !report.holds());
    }
}

#[test]
fn a_rule_that_opens_is_a_change_but_nothing_that_breaks() {
    let flows = flows(16);
    Db(&flows).proven(
        &spiffe("spiffe://example.org/guest"),
        1,
        Outcome::refused("default of strict", Reason::PolicyDefault),
        ago(10),
    );
    let report = replayed(&flows, SITE);
    assert_eq!(after(&report), [(true, "default of permissive")]);
    assert!(report.holds() && report.would_be_refused() == 0);
}

#[test]
fn dry_run_rules_change_nothing_and_are_told_apart() {
    let flows = flows(16);
    Db(&flows).plain(1, open(), ago(10));
    let report =
        replayed(&flows, &format!("{SITE}policy: [ {{ name: closed, action: deny, dry_run: true }} ]\n"));
    assert!(report.changes.is_empty() && report.holds());
    assert_eq!((report.dry_run.len(), report.dry_run[0].after.rule.as_str()), (1, "closed"));
    let report = replayed(&flows, &format!("{SITE}policy: [ {{ name: opened, action: allow }} ]\n"));
    assert_eq!((report.changes.len(), report.by_another_rule), (0, 1));
}

#[test]
fn outbound_connections_are_asked_about_with_what_the_server_proved() {
    let flows = flows(16);
    let far = spiffe("spiffe://example.org/far");
    let to_far = Tuple { name: Some(&far), ..out("10.8.0.1", 443, Channel::MutualTls) };
    flows.note_at(&to_far, &Outcome::allowed("outbound_default: allow"), ago(10));
    assert!(replayed(&flows, SITE).changes.is_empty());
    let deny = |what: &str| format!("{SITE}outbound_policy: [ {{ name: no, action: deny, {what} }} ]\n");
    for rule in [
        "to: { spiffe_ids: ['spiffe://example.org/far'] }",
        "from: { ports: [443] }",
        "to: [{ cidrs: [10.8.0.0/24] }]",
    ] {
        assert_eq!(after(&replayed(&flows, &deny(rule))), [(false, "no")], "{rule}");
    }
    assert!(replayed(&flows, &deny("from: { workloads: [db] }")).changes.is_empty());
    let closed = SITE.replace("netns: web }", "netns: web }, outbound_default: deny");
    assert_eq!(after(&replayed(&flows, &closed)), [(false, "outbound_default: deny")]);
    let other = SITE.replace("example.org/far", "example.org/near");
    assert!(after(&replayed(&flows, &other))[0].1.contains("far is another server"));
    let gone = SITE.replace("10.8.0.0/16", "10.7.0.0/16");
    assert!(replayed(&flows, &gone).changes.is_empty());
    assert_eq!(replayed(&flows, &gone).by_another_rule, 1);
    let gone = gone.replace("netns: web }", "netns: web }, unknown_destinations: deny");
    assert_eq!(after(&replayed(&flows, &gone)), [(false, crate::config::Unknown::Denied.rule())]);
    let excluded = closed.replace("outbound_default", "exclude: { cidrs: [10.8.0.0/16] }, outbound_default");
    assert!(replayed(&flows, &excluded).changes.is_empty());
}

#[test]
fn what_was_refused_at_connect_is_asked_about_as_far_as_is_known_there() {
    let flows = flows(16);
    let denied = |to: &str, port, rule| {
        let reason = if rule == crate::config::Unknown::Denied.rule() {
            Reason::UnknownDestination
        } else {
            Reason::PolicyDenied
        };
        flows.note_at(&out(to, port, Channel::Connect), &Outcome::refused(rule, reason), ago(10));
    };
    denied("10.8.0.1", 443, "no-far");
    denied("10.9.0.1", 80, "no-web");
    denied("192.0.2.1", 25, crate::config::Unknown::Denied.rule());
    let deny = SITE.replace("netns: web }", "netns: web }, unknown_destinations: deny")
        + "policy: [ { name: no-web, action: deny, from: { spiffe_ids: ['spiffe://example.org/web'] } } ]\n\
           outbound_policy: [ { name: no-far, action: deny, to: { spiffe_ids: ['spiffe://example.org/far'] } } ]\n";
    let same = replayed(&flows, &deny);
    assert_eq!((same.changes.len(), same.by_another_rule), (0, 0), "{same:?}");
    let report = replayed(&flows, SITE);
    assert_eq!(report.changes.len(), 3);
    assert!(report.holds() && report.changes.iter().all(|change| change.after.allow));
}

#[test]
fn what_cannot_be_judged_is_counted_and_nothing_at_all_is_no_success() {
    let empty = flows(16);
    assert!(!replayed(&empty, SITE).holds(), "nothing was looked at");
    let flows = flows(16);
    let failed = Tuple::unproven(Direction::Inbound, "db", 80, address(7), Channel::Failed);
    flows.note_at(&failed, &Outcome::refused("", Reason::CertificateExpired), ago(9));
    let gone = Tuple::unproven(Direction::Inbound, "gone", 80, address(7), Channel::Plaintext);
    flows.note_at(&gone, &open(), ago(9));
    let report = replayed(&flows, SITE);
    assert_eq!((report.flows, report.judged(), report.not_judged.len()), (2, 0, 2));
    assert!(report.not_judged.keys().any(|why| why.contains("gone is not a workload")));
    assert!(!report.holds());
}

#[test]
fn the_report_says_what_is_not_known() {
    let flows = flows(1);
    Db(&flows).plain(1, open(), ago(10));
    Db(&flows).plain(2, open(), ago(9));
    let report = replayed(&flows, SITE);
    assert!(report.gaps[0].contains("forgotten"), "{report:?}");
    let since = NOON.before(20 * DAY);
    let report = replay(&flows.record_at(since, NOON), &Compiled::parse(SITE).ground(), since);
    assert!(report.gaps[0].contains("the record begins at"), "{report:?}");
}

#[test]
fn a_syn_that_was_refused_is_refused_again_or_not_known() {
    let store = flows(16);
    let tuple = Tuple::unproven(Direction::Inbound, "db", 80, address(1), Channel::Syn);
    store.note_at(&tuple, &Outcome::refused("no-far", Reason::PolicyDenied), ago(60));
    let record = store.record_at(ago(3600), NOON);
    let [flow] = &record.flows[..] else { panic!("{record:?}") };
    let judged = |rules: &str| {
        Compiled::parse(&format!("workloads: [{{ name: db, select: {{ netns: db }} }}]\npolicy: [{rules}]"))
            .ground()
            .judge(flow)
    };
    let denied = judged("{ name: near, action: deny, from: { cidrs: [10.0.0.0/8] } }");
    assert!(
        matches!(&denied, Judged::Decided { ruling, .. } if !ruling.allow && ruling.rule == "near"),
        "{denied:?}"
    );
    let open = judged("{ name: all, action: allow, from: { trust_domains: [example.org] } }");
    assert!(matches!(&open, Judged::Not(why) if why.contains("no more than a SYN")), "{open:?}");
}
