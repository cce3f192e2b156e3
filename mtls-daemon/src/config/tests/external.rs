//! The external decision: what is left out, and what cannot be.

use std::collections::BTreeSet;
use std::time::Duration;

use super::super::*;
use super::faults::one;
use super::{EVERYTHING, parse};

const URL: &str = "url: http://127.0.0.1:8181/v1/data/mtlsd/allow";

fn external(rest: &str) -> String {
    format!("policy_external: {{ {URL}, {rest} }}")
}

#[test]
fn nobody_else_is_asked_unless_it_is_said_and_then_about_inbound_connections() {
    assert_eq!(parse("trust_domain: a").unwrap().policy_external, None);
    let config = parse(&format!("trust_domain: a\npolicy_external: {{ {URL} }}")).unwrap();
    let external = config.policy_external.unwrap();
    let wanted = ExternalPolicy {
        url: "http://127.0.0.1:8181/v1/data/mtlsd/allow".into(),
        timeout: Duration::from_millis(500),
        cache: ExternalCache {
            allow: Duration::from_secs(30),
            deny: Duration::from_secs(5),
            entries: 16_384,
        },
        on_failure: OnFailure::Deny,
        inbound: true,
        outbound: false,
        workloads: None,
        ca_file: None,
        token_file: None,
    };
    assert_eq!(external, wanted);
    assert!(external.is_about("anybody"));
}

#[test]
fn the_example_sets_every_key() {
    let external = parse(EVERYTHING).unwrap().policy_external.unwrap();
    assert_eq!((external.inbound, external.outbound), (true, true));
    assert_eq!(external.workloads, Some(BTreeSet::from(["shared".to_owned(), "web".to_owned()])));
    assert!(external.is_about("web") && !external.is_about("jobs"));
    let cache =
        ExternalCache { allow: Duration::from_secs(60), deny: Duration::from_secs(10), entries: 4096 };
    assert_eq!((external.timeout, external.cache), (Duration::from_millis(400), cache));
    assert_eq!(external.ca_file, Some("/p/opa-ca.pem".into()));
    assert_eq!(external.token_file, Some("/p/opa-token".into()));
}

#[test]
fn what_cannot_be_asked_is_refused_with_its_place() {
    one("policy_external: { §timeout: 1s }", &["the key `url` is missing"]);
    one("policy_external: { url: §'http://10.0.0.1/v1/data/x' }", &["could answer in its place", "https://"]);
    one("policy_external: { url: §opa }", &["the URL `opa` cannot be", "http://127.0.0.1:8181/v1/data/"]);
    one(&external("timeout: §9ms"), &["the duration `9ms` cannot be", "from 10ms to 10s"]);
    one(&external("timeout: §11s"), &["from 10ms to 10s"]);
    one(
        &format!("timeouts: {{ handshake: 400ms }}\npolicy_external: §{{ {URL} }}"),
        &["not less than `timeouts.handshake`"],
    );
    one(
        &format!("timeouts: {{ handshake: 1s }}\npolicy_external: {{ {URL}, timeout: §1s }}"),
        &["not less than `timeouts.handshake`"],
    );
    one(&external("cache: { allow: §2h }"), &["the duration `2h` cannot be", "from 0s to 1h"]);
    one(&external("cache: { deny: §off }"), &["it may not be off here"]);
    one(&external("cache: { entries: §0 }"), &["from 1 to 262144"]);
    one(&external("cache: { entries: §262145 }"), &["from 1 to 262144"]);
    one(&external("on_failure: §retry"), &["write one of: deny, allow"]);
    one(&external("directions: §[]"), &["this list is empty"]);
    one(&external("directions: [§both]"), &["write one of: inbound, outbound"]);
    one(&external("directions: [¤inbound, §inbound]"), &["the direction `inbound` is taken already, at ¤"]);
    one(&external("workloads: §[]"), &["this list is empty"]);
    one(&external("workloads: [§W]"), &["`W`"]);
    one(&external("ca_file: §roots.pem"), &["the path `roots.pem` cannot be"]);
    one(&external("token_file: §token"), &["the path `token` cannot be"]);
    one(&external("§tokn_file: /t"), &["did you mean `token_file`?"]);
}

#[test]
fn a_workload_that_is_not_here_is_only_a_warning() {
    let config = parse(&format!("trust_domain: a\n{}", external("workloads: [other]"))).unwrap();
    assert!(
        config.warnings.iter().any(|warning| warning.to_string().contains("other")),
        "{:?}",
        config.warnings
    );
}

#[test]
fn a_drop_in_cannot_ask_others() {
    let main = super::source("F", "trust_domain: a");
    let drop_in = super::source("D", format!("policy_external: {{ {URL} }}"));
    let error = Config::parse(&main, &[drop_in]).unwrap_err().to_string();
    assert!(error.contains("the key `policy_external` is not known here"), "{error}");
}
