//! What is found in a set of rules, and what is not.

use super::super::check::{FindingKind, check};
use super::*;

/// Kinds of what is found, by rule.
fn found(yaml: &str) -> Vec<(String, FindingKind, Option<String>)> {
    let findings = check(&config(yaml));
    assert!(findings.iter().all(|finding| !finding.text.is_empty()));
    findings.into_iter().map(|finding| (finding.rule, finding.kind, finding.other)).collect()
}

fn rules(rules: &[&str]) -> Vec<(String, FindingKind, Option<String>)> {
    let lines: String = (1..).zip(rules).map(|(n, rule)| format!("- {{ name: r{n}, {rule} }}\n")).collect();
    found(&format!("workloads: [{{ name: w, select: {{ netns: w }} }}]\npolicy:\n{lines}"))
}

fn one(rule: &str, kind: FindingKind, other: Option<&str>) -> Vec<(String, FindingKind, Option<String>)> {
    vec![(rule.to_owned(), kind, other.map(str::to_owned))]
}

#[test]
fn an_allow_rule_that_is_denied_as_a_whole_is_a_contradiction() {
    let allow = "action: allow, to: { ports: [80] }, from: { spiffe_ids: ['spiffe://a/ns/x/sa/y'] }";
    for deny in [
        "action: deny, from: { trust_domains: [a] }",
        "action: deny, from: [{ namespaces: ['*'], not: { spiffe_ids: ['spiffe://a/other'] } }]",
        "action: deny, to: { not: { ports: [81] } }, from: { spiffe_id_prefixes: ['spiffe://a/ns/'] }",
        "action: deny",
    ] {
        assert_eq!(rules(&[allow, deny]), one("r1", FindingKind::Contradiction, Some("r2")), "{deny}");
    }
    for deny in [
        "action: deny, to: { ports: [81] }",
        "action: deny, dry_run: true",
        "action: deny, from: [{ namespaces: ['*'], not: { spiffe_ids: ['spiffe://a/ns/x/sa/y'] } }]",
        "action: deny, from: [{ trust_domains: [a], organizations: [x] }]",
        "action: deny, from: [{ cidrs: [10.0.0.0/8] }]",
        // A peer may have two organizational units.
        "action: deny, from: [{ not: { organizational_units: [x] } }]",
    ] {
        assert_eq!(rules(&[allow, deny]), [], "{deny}");
    }
}

#[test]
fn a_rule_after_one_that_says_the_same_of_more_is_shadowed() {
    let more = "action: allow, from: [{ namespaces: ['sh*'] }, { cidrs: [10.0.0.0/8], trust_domains: [a] }]";
    for less in [
        "action: allow, to: { workloads: [w] }, from: { namespaces: [shop] }",
        "action: allow, from: [{ service_accounts: [shop/x], namespaces: [shop] }]",
        "action: allow, from: [{ spiffe_ids: ['spiffe://a/x'], cidrs: [10.1.0.0/16], organizations: [y] }]",
    ] {
        assert_eq!(rules(&[more, less]), one("r2", FindingKind::Shadowed, Some("r1")), "{less}");
        assert_eq!(rules(&[less, more]), [], "the wider one adds something: {less}");
    }
    assert_eq!(rules(&[more, "action: allow, from: { namespaces: [ops] }"]), []);
}

#[test]
fn a_rule_that_can_match_nothing_is_found() {
    for rule in [
        "action: allow, to: { workloads: [w], not: { workloads: [w] } }, from: { trust_domains: [a] }",
        "action: allow, to: { namespaces: [nowhere] }, from: { trust_domains: [a] }",
        "action: deny, to: { ports: [80], not: { ports: [80] } }",
        "action: deny, from: [{ spiffe_ids: ['spiffe://a/x'], not: { trust_domains: [a] } }, { namespaces: [x], not: { namespaces: ['*'] } }]",
        "action: deny, from: [{ spiffe_ids: ['spiffe://a/ns/x/sa/y'], namespaces: [z] }]",
        "action: deny, from: [{ namespaces: [x], service_accounts: [z/y] }]",
        "action: deny, from: [{ cidrs: [10.1.0.0/16], not: { cidrs: [10.0.0.0/8] } }]",
    ] {
        let found = rules(&[rule]);
        // Impossible by what IDs imply is told only where it is certain.
        assert_eq!(found, one("r1", FindingKind::MatchesNothing, None), "{rule}");
    }
    assert_eq!(rules(&["action: deny, from: [{ organizations: [x], not: { organizations: [y] } }]"]), []);
}

#[test]
fn a_trust_domain_without_roots_is_found() {
    assert_eq!(
        rules(&["action: allow, from: { spiffe_ids: ['spiffe://partner/x'] }"]),
        one("r1", FindingKind::UnknownTrustDomain, None)
    );
    assert_eq!(rules(&["action: allow, from: { trust_domains: [partner, a] }"]), []);
    let known = "trust: { bundles: [{ trust_domain: partner, file: /p }] }\n\
                 policy: [{ name: r, action: allow, from: { trust_domains: [partner] } }]";
    assert_eq!(found(known), []);
}

#[test]
fn letting_in_everybody_is_found() {
    for rule in [
        "action: allow",
        "action: allow, from: [{ cidrs: [0.0.0.0/0] }]",
        "action: allow, from: [{ spiffe_ids: ['spiffe://a/x'] }, { cidrs: ['::/0'] }]",
    ] {
        assert_eq!(rules(&[rule]), one("r1", FindingKind::AllowAll, None), "{rule}");
    }
    assert_eq!(rules(&["action: deny"]), []);
    assert_eq!(rules(&["action: audit"]), []);
}

#[test]
fn an_outbound_rule_that_changes_nothing_is_found() {
    let outbound = |default: &str| {
        found(&format!(
            "workloads: [{{ name: w, select: {{ netns: w }}, outbound_default: {default} }}]\n\
             outbound_policy: [{{ name: o, action: allow, to: {{ trust_domains: [a] }} }}]"
        ))
    };
    assert_eq!(outbound("allow"), one("o", FindingKind::WithoutEffect, None));
    assert_eq!(outbound("deny"), []);
}
