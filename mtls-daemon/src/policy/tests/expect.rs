//! Tests of a policy pass where it decides so, fail where it does not, and never by chance.

use super::super::expect::{Outcome, run};
use super::*;
use crate::config::parse_policy_tests;

const CONFIG: &str = "
workloads:
- { name: web, select: { netns: w }, spiffe_id: 'spiffe://a/ns/shop/sa/web', certificate: { subject: { organizational_unit: Front } } }
- { name: db, select: { netns: d }, outbound_default: deny }
- { name: far, select: { netns: f }, identity: { certificate: /c, key: /k } }
policy:
- { name: shop, action: allow, to: { workloads: [db], ports: [5432] }, from: { namespaces: [shop] } }
- { name: near, action: allow, to: { workloads: [db], ports: [80] }, from: [{ cidrs: [10.0.0.0/8], trust_domains: [a] }] }
- { name: front, action: allow, to: { workloads: [db], ports: [81] }, from: [{ organizations: [a], organizational_units: [Front] }] }
outbound_policy:
- { name: no-db, action: deny, from: { workloads: [web], ports: [99] } }
- { name: db-out, action: allow, from: { workloads: [db] }, to: { spiffe_ids: ['spiffe://a/backup'] } }
";

fn outcomes(tests: &str) -> Vec<Outcome> {
    let tests = parse_policy_tests(&Source { path: "T".into(), text: format!("tests:\n{tests}") }).unwrap();
    run(&config(CONFIG), &tests)
}

#[track_caller]
fn outcome(from: &str, to: &str, expect: &str) -> (bool, String) {
    let test = format!("- {{ name: t, from: {from}, to: {to}, {expect} }}\n");
    let [outcome] = &outcomes(&test)[..] else { panic!("one test") };
    (outcome.passed, outcome.text.clone())
}

#[test]
fn a_test_passes_if_the_decision_and_the_rule_are_those_that_it_expects() {
    let (web, db) = ("{ workload: web }", "{ workload: db, port: 5432 }");
    assert_eq!(outcome(web, db, "expect: allow"), (true, "allowed by shop".to_owned()));
    assert_eq!(outcome(web, db, "expect: allow, rule: shop"), (true, "allowed by shop".to_owned()));
    assert_eq!(
        outcome(web, db, "expect: allow, rule: near").1.split("; rule").next(),
        Some("allowed by shop; it shall be allowed by near")
    );
    let (passed, text) = outcome(web, db, "expect: deny");
    assert!(!passed && text.starts_with("allowed by shop; it shall be denied"), "{text}");
    let (passed, text) = outcome("{ spiffe_id: spiffe://a/ns/ops/sa/x }", db, "expect: allow");
    assert!(!passed && text.contains("denied by default of strict"), "{text}");
    assert!(
        text.contains("rule shop nearly matches, but the peer's namespace is not one that it names"),
        "{text}"
    );
    assert!(outcome("{ address: 10.0.0.1 }", db, "expect: deny").0, "who proves nothing");
}

#[test]
fn both_ends_decide_and_the_certificate_that_mtlsd_makes_is_known() {
    let to = |port: u16| format!("{{ workload: db, port: {port} }}");
    assert_eq!(outcome("{ workload: web }", &to(99), "expect: deny, rule: no-db").1, "denied by no-db");
    assert_eq!(outcome("{ workload: web }", &to(81), "expect: allow"), (true, "allowed by front".to_owned()));
    let backup = "{ spiffe_id: spiffe://a/backup, port: 1 }";
    assert_eq!(outcome("{ workload: db }", backup, "expect: allow"), (true, "allowed by db-out".to_owned()));
    let other = "{ spiffe_id: spiffe://a/other, port: 1 }";
    assert_eq!(
        outcome("{ workload: db }", other, "expect: deny"),
        (true, "denied by outbound_default: deny".to_owned())
    );
}

#[test]
fn what_a_test_leaves_open_and_a_rule_asks_for_fails_it() {
    let to = |port: u16| format!("{{ workload: db, port: {port} }}");
    for expect in ["expect: allow", "expect: deny"] {
        let (passed, text) = outcome("{ workload: web }", &to(80), expect);
        assert!(!passed && text.contains("rule near asks for the peer's address"), "{text}");
        let (passed, text) = outcome("{ workload: far }", &to(81), expect);
        assert!(!passed && text.contains("rule front asks for what the certificate says"), "{text}");
        let (passed, text) = outcome("{ workload: nobody }", &to(81), expect);
        assert!(!passed && text.contains("no workload nobody"), "{text}");
    }
    assert!(outcome("{ workload: web, address: 10.1.1.1 }", &to(80), "expect: allow").0);
    assert!(outcome("{ workload: web, address: 192.0.2.1 }", &to(80), "expect: deny").0);
}
