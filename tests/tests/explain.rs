//! `mtlsd explain` on a running daemon: why a connection was refused, and what would become of one.

use mtls_tests::programs::{Identity, s_client};
use mtls_tests::scenario::HTTP;
use mtls_tests::{Pair, STRICT_PAIR};

const GUEST: &str = "spiffe://example.org/guest";

/// `web` may call `db` on port 80; `guest` only on port 81; whoever is of Shop may call port 83. Port 82 is left alone, and so is
/// every port 84.
fn configured() -> Pair {
    let (workloads, _) = STRICT_PAIR.split_once("policy:").expect("a policy");
    let workloads = workloads.replace("name: db,", "name: db, ports: { 82: disabled },");
    let workloads = workloads.replace("name: web,", "name: web, unknown_destinations: deny,");
    let rules = "policy:\n\
        \x20 - { name: web-to-db, action: allow, from: { spiffe_ids: [\"spiffe://example.org/web\"] }, to: { ports: [80] } }\n\
        \x20 - { name: guest-to-81, action: allow, from: { spiffe_ids: [\"spiffe://example.org/guest\"] }, to: { ports: [81] } }\n\
        \x20 - { name: shop-to-83, action: allow, from: { organizations: [Shop] }, to: { ports: [83] } }\n\
        exclude: { ports: [84] }\n";
    Pair::configured(Pair::lab(), &format!("{workloads}{rules}"))
}

/// All sentences of an answer, one a line.
fn sentences(answer: &serde_json::Value) -> Vec<String> {
    let sentences = answer["sentences"].as_array().unwrap_or_else(|| panic!("no sentences: {answer}"));
    sentences.iter().map(|sentence| sentence.as_str().expect("text").to_owned()).collect()
}

/// `mtlsd explain --from … --to …`: what it says; checks its exit code, its JSON and its mend.
#[track_caller]
fn foretold(pair: &Pair, from: &str, to: &str, answer: &str) -> (String, serde_json::Value) {
    let (code, text) = pair.daemon.cli(&["explain", "--from", from, "--to", to]);
    let report: serde_json::Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(report["answer"], answer, "{report:#}");
    assert_eq!(code, Some(i32::from(answer != "allowed")), "{report:#}");
    let sentences = sentences(&report);
    let mend = report["mend"].as_str().expect("a mend");
    assert!(!mend.is_empty() && sentences.last().is_some_and(|last| last.ends_with(mend)), "{report:#}");
    (sentences.join("\n"), report)
}

#[test]
fn a_refusal_by_default_is_explained_with_the_rule_that_nearly_allows_and_the_whole_chain() {
    let pair = configured();
    let identity: Identity = pair.issue("guest");
    s_client(pair.out(), pair.db().at(HTTP), &pair.root(), Some(&identity)).run().fails();
    let record = pair.daemon.wait_for_log("the refusal", |r| r.inbound() && r.refused());
    assert_eq!((record.reason(), record.peer(), record.peer_proven()), ("policy_default", GUEST, true));
    assert!(record.0.get("peer_chain").is_none(), "the log does without: {record:?}");
    let explained = pair.daemon.ask(&["explain", record.id()]);
    let near = &explained["near_misses"];
    assert_eq!(near["rules"][0]["rule"], "web-to-db", "{explained:#}");
    assert_eq!(near["rules"][1]["rule"], "guest-to-81", "{explained:#}");
    assert_eq!(near["rules"].as_array().map(Vec::len), Some(2), "{explained:#}");
    assert!(near["changed_since"].is_null(), "{explained:#}");
    let told = sentences(&explained);
    let text = told.join("\n");
    for part in [
        "Rule web-to-db nearly allows it, but the peer's SPIFFE ID is not one that it names.",
        "Rule guest-to-81 nearly allows it, but it is for other ports.",
        "Compared: the peer, the workload and the port with the rules",
        "of this node vouches for it.",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
    assert!(told.last().is_some_and(|last| last.ends_with(record.mend())), "{text}");
    // Leaf, intermediate, root; the leaf is the one of the log.
    let chain = &explained["peer_chain"];
    assert_eq!(chain["verified"], true, "{chain:#}");
    let certificates = chain["certificates"].as_array().expect("a list");
    assert_eq!(certificates.len(), 3, "{chain:#}");
    assert_eq!(certificates[0]["serial"], record.peer_serial(), "{chain:#}");

    // The rules are those of now, and it is said that they are not those that decided.
    let (workloads, _) = STRICT_PAIR.split_once("policy:").expect("a policy");
    let yaml = format!("{workloads}policy: [{{ name: everybody, action: allow }}]\n");
    pair.daemon.configure(&pair.lab.expand(&yaml));
    assert_eq!(pair.daemon.cli(&["reload"]).0, Some(0));
    let text = sentences(&pair.daemon.ask(&["explain", record.id()])).join("\n");
    assert!(text.contains("Rule everybody allows it by the rules of now."), "{text}");
    assert!(text.contains("The configuration was loaded again since"), "{text}");
}

#[test]
fn a_connection_that_was_let_in_is_told_with_its_near_denials_only_when_asked() {
    let pair = configured();
    pair.works();
    let record = pair.daemon.wait_for_log("db's record", |r| r.inbound() && !r.refused());
    let explained = pair.daemon.ask(&["explain", record.id()]);
    assert!(explained.get("near_misses").is_none(), "{explained:#}");
    let explained = pair.daemon.ask(&["explain", record.id(), "--near"]);
    assert_eq!(explained["near_misses"]["says"], "deny", "{explained:#}");
    let text = sentences(&explained).join("\n");
    assert!(text.contains("No other rule denies it or nearly does."), "{text}");
}

#[test]
fn what_would_become_of_a_connection_is_what_becomes_of_it() {
    let pair = configured();
    let at = |port: u16| pair.db().at(port).to_string();
    let (text, report) = foretold(&pair, "web", &at(HTTP), "allowed");
    assert!(text.contains("By policy, rule web-to-db allows it."), "{text}");
    assert_eq!((&report["protected"], &report["recent"]), (&true.into(), &serde_json::json!([])));
    assert!(report["datapath"].is_string(), "{report:#}");
    pair.works();
    let outbound = |r: &mtls_tests::lab::Record| !r.inbound() && r.destination() == at(HTTP);
    let record = pair.daemon.wait_for_log("web's record", outbound);
    for (from, to) in [("web", at(HTTP)), ("spiffe://example.org/web", at(HTTP))] {
        let (text, report) = foretold(&pair, from, &to, "allowed");
        // Both ends are on this node, and each has its record.
        let recent = report["recent"].as_array().expect("a list");
        assert!(recent.iter().any(|one| one["id"] == record.id()), "{report:#}");
        assert!(
            text.contains(&format!("connection {} was closed by the applications", record.id())),
            "{text}"
        );
    }
    // By its name it is also the one over IPv6.
    let (_, report) = foretold(&pair, "web", "db:80", "allowed");
    let recent = report["recent"].as_array().expect("a list");
    let over = |of: &str| recent.iter().any(|one| one["destination"] == of);
    assert!(recent.len() <= 3 && over(&pair.db().at6(HTTP).to_string()), "{report:#}");

    let (text, report) = foretold(&pair, "web", "db:81", "denied");
    assert!(text.contains("Rule web-to-db nearly allows it, but it is for other ports."), "{text}");
    assert_eq!(report["near_misses"]["rules"].as_array().map(Vec::len), Some(2), "{report:#}");
    let said = pair.web().own("probe").args(["connect", &at(81)]).run().ok().text();
    assert!(said.contains("EACCES"), "{said}");
    pair.daemon.wait_for_log("the refusal", |r| r.refused() && r.destination() == at(81));
    let (text, _) = foretold(&pair, "web", &at(81), "denied");
    assert!(text.contains("was refused (policy_default)"), "{text}");
}

#[test]
fn what_is_not_captured_is_told_as_such_and_what_is_not_known_is_no_success() {
    let pair = configured();
    let denied = |to: &str, part: &str, reason: &str| {
        let (text, report) = foretold(&pair, "web", to, "denied");
        let last = report["steps"].as_array().and_then(|steps| steps.last()).expect("a step");
        assert_eq!((&last["reason"], &report["protected"]), (&reason.into(), &false.into()), "{report:#}");
        assert!(text.contains(part), "{text}");
    };
    denied("192.0.2.7:443", "The directory does not have 192.0.2.7 port 443.", "unknown_destination");
    let (text, report) = foretold(&pair, "web", "db:82", "allowed");
    assert!(text.contains("Port 82 of db is disabled") && report["protected"] == false, "{text}");
    let (text, report) = foretold(&pair, "web", "db:84", "allowed");
    assert!(text.contains("in the node's `exclude`") && report["protected"] == false, "{text}");
    // What web's certificate says besides its name is not looked up.
    let (text, _) = foretold(&pair, "web", "db:83", "unknown");
    assert!(text.contains("the peer's organization for rule shop-to-83, which is not known here"), "{text}");
    // From elsewhere.
    foretold(&pair, GUEST, "db:81", "allowed");
    foretold(&pair, GUEST, "db:80", "denied");
    pair.daemon.ask(&["revoke", "--spiffe-id", GUEST, "--for", "1h", "--reason", "keyCompromise"]);
    let (text, _) = foretold(&pair, GUEST, "db:81", "denied");
    assert!(text.contains("is revoked on this node"), "{text}");
}

#[test]
fn a_question_about_nobody_is_an_error_with_a_mend() {
    let pair = configured();
    for (from, to) in [("nobody", "db:80"), ("web", "nobody:80"), ("web", "db"), (GUEST, "192.0.2.7:1")] {
        let (code, text) = pair.daemon.cli(&["explain", "--from", from, "--to", to]);
        assert_eq!((code, text.as_str()), (Some(1), ""), "{from} to {to}");
    }
}

#[test]
fn an_alert_of_a_peer_that_does_not_trust_us_is_explained_from_our_side() {
    let (pair, authority) = Pair::with_authority("");
    // A client that trusts another CA than the one that issued db's certificate.
    let identity = pair.issue("guest");
    let refused = s_client(pair.out(), pair.db().at(HTTP), &authority.root, Some(&identity)).run();
    assert!(!refused.text().contains("hello from db"), "{refused}");
    let record = pair.daemon.wait_for_log("the alert", |r| r.inbound() && r.refused());
    assert_eq!((record.reason(), record.detail()), ("peer_alert", "the peer's alert: unknown_ca"));
    let told = sentences(&pair.daemon.ask(&["explain", record.id()]));
    let text = told.join("\n");
    assert!(
        text.contains("The peer says by its alert unknown_ca: ")
            && text.contains("does not trust our issuer"),
        "{text}"
    );
    assert!(told.last().is_some_and(|last| last.contains("Add our root there")), "{text}");
}
