//! Files of policy tests: what is taken, and what is refused with its place.

use super::super::*;
use super::source;

fn parse(tests: &str) -> Result<Vec<PolicyTest>, ConfigError> {
    parse_policy_tests(&source("T", tests))
}

#[test]
fn each_kind_of_end_is_taken() {
    let tests = parse(
        "tests:\n\
         - { name: a, from: { workload: web }, to: { workload: db, port: 80 }, expect: allow, rule: r }\n\
         - name: b\n  from:\n    spiffe_id: spiffe://a/x\n    organizations: [O]\n    organizational_units: [U]\n    \
         extensions: [{ oid: 1.2, value: v }]\n    address: ::ffff:10.0.0.1\n  to: { workload: db, port: 80 }\n  expect: deny\n\
         - { name: c, from: { address: 10.0.0.2 }, to: { workload: db, port: 80 }, expect: deny }\n\
         - { name: d, from: {}, to: { workload: db, port: 80 }, expect: deny }\n",
    )
    .unwrap();
    assert_eq!((tests[0].allow, tests[0].rule.as_deref(), tests[0].port), (true, Some("r"), 80));
    assert_eq!(tests[0].from.who, Who::Workload("web".to_owned()));
    let Who::Peer { id, attributes } = &tests[1].from.who else { panic!("{:?}", tests[1]) };
    assert_eq!(id.as_str(), "spiffe://a/x");
    assert_eq!(
        (&attributes.organizations, &attributes.organizational_units),
        (&vec!["O".into()], &vec!["U".into()])
    );
    assert_eq!(attributes.extensions, [("1.2".into(), "v".into())]);
    assert_eq!(tests[1].from.address, Some("10.0.0.1".parse().unwrap()), "as the kernel shows it");
    assert_eq!((&tests[2].from.who, &tests[3].from.who), (&Who::Nobody, &Who::Nobody));
}

#[track_caller]
fn refused(tests: &str, part: &str) {
    let error = parse(tests).expect_err(tests).to_string();
    assert!(
        error.starts_with("T:") && error.lines().count() == 1 && error.contains(part),
        "{tests}: {error}"
    );
}

#[test]
fn what_says_nothing_or_two_things_is_refused() {
    let one = |from: &str, to: &str| format!("tests: [{{ name: t, from: {from}, to: {to}, expect: allow }}]");
    let db = "{ workload: db, port: 80 }";
    refused("tests: []", "a file without any would always pass");
    refused("test: []", "did you mean `tests`?");
    refused(&one("{ workload: w }", "{ workload: db }"), "the key `port` is missing");
    refused(&one("{ workload: w, port: 80 }", db), "the port belongs to `to`");
    refused(&one("{ workload: w }", "{ workload: db, port: 0 }"), "T:1:");
    refused(&one("{ workload: w, spiffe_id: spiffe://a/x }", db), "write either `workload`");
    refused(&one("{ workload: w, organizations: [x] }", db), "write either `workload`");
    refused(&one("{ organizations: [x] }", db), "write either `workload`");
    refused(&one("{ spiffe_id: x }", db), "it does not start with spiffe://");
    refused(&one("{ address: x }", db), "`x` is not an IP address");
    refused(&one("{ spiffe_id: spiffe://a/x, extensions: [{ oid: x, value: y }] }", db), "the OID `x`");
    refused(
        &one("{ spiffe_id: spiffe://a/x }", "{ spiffe_id: spiffe://a/y, port: 80 }"),
        "neither end is a workload",
    );
    refused(&one("{ workload: w }", db).replace("allow", "maybe"), "write one of: allow, deny");
    let missing = load_policy_tests(std::path::Path::new("/nonexistent/t.yaml")).unwrap_err().to_string();
    assert!(missing.contains("/nonexistent/t.yaml"), "{missing}");
}
