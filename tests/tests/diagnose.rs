//! `mtlsd diagnose` against real programs: each way a connection can fail stops at its own question, with its evidence.

use std::net::SocketAddr;

use mtls_tests::certs::{Authority, Leaf};
use mtls_tests::programs::{self, Identity, s_server};
use mtls_tests::scenario::{HTTP, two_nodes_with};
use mtls_tests::{Daemon, Pair, Process, STRICT_PAIR, slow};
use serde_json::Value;

const API: &str = "spiffe://example.org/api";
const PORT: u16 = 4433;

/// The questions, in order.
const QUESTIONS: [&str; 19] = [
    "workload",
    "address",
    "destination",
    "identity",
    "connect-policy",
    "tcp",
    "tls",
    "client-certificate",
    "their-certificate",
    "key-usage",
    "trusted-here",
    "validity",
    "revocation",
    "name",
    "key",
    "policy-here",
    "trusted-there",
    "policy-there",
    "application",
];

/// `mtlsd diagnose TO --as web`; the exit code is that of the answer.
#[track_caller]
fn diagnosed(daemon: &Daemon, to: &str, more: &[&str]) -> Value {
    let (code, text) = daemon.cli(&[&["diagnose", to, "--as", "web"], more].concat());
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert_eq!(code, Some(i32::from(report["answer"] != "allowed")), "{report:#}");
    let steps = report["steps"].as_array().expect("a list");
    assert_eq!(steps.iter().map(|step| step["step"].as_str()).collect::<Vec<_>>(), QUESTIONS.map(Some));
    assert!(report["mend"].as_str().is_some_and(|mend| !mend.is_empty()), "{report:#}");
    report
}

fn step<'a>(report: &'a Value, name: &str) -> &'a Value {
    let steps = report["steps"].as_array().expect("a list");
    steps.iter().find(|step| step["step"] == name).unwrap_or_else(|| panic!("no {name}: {report:#}"))
}

/// All that is said of a question.
fn told(report: &Value, name: &str) -> String {
    let step = step(report, name);
    let evidence = step["evidence"].as_array().cloned().unwrap_or_default();
    let all = std::iter::once(&step["detail"]).chain(&evidence);
    all.map(|text| text.as_str().expect("text")).collect::<Vec<_>>().join("\n")
}

/// It stops at this question, for this reason, with all of this said of it; what is before holds, what is after was not reached.
#[track_caller]
fn stops(report: &Value, at: &str, reason: Option<&str>, parts: &[&str]) {
    assert_eq!(report["answer"], "denied", "{report:#}");
    let place = QUESTIONS.iter().position(|question| *question == at).expect("a question");
    for (number, question) in QUESTIONS.iter().enumerate() {
        let outcome = step(report, question)["outcome"].as_str().expect("text");
        let fits = match number.cmp(&place) {
            std::cmp::Ordering::Less => matches!(outcome, "passed" | "not-asked"),
            std::cmp::Ordering::Equal => outcome == "failed",
            std::cmp::Ordering::Greater => outcome == "not-reached",
        };
        assert!(fits, "{question} is {outcome}: {report:#}");
    }
    assert_eq!(step(report, at)["reason"].as_str(), reason, "{report:#}");
    let told = told(report, at);
    for part in parts {
        assert!(told.contains(part), "{part:?} is not said: {told}");
    }
}

/// `api` on `out` is in the directory, and a CA of the test is believed; `more`: further top-level keys, `trust` what else is in it.
fn with_api(trust: &str, more: &str) -> (Pair, Authority) {
    let lab = Pair::lab();
    let authority = Authority::new(lab.dir(), "site");
    let yaml = format!(
        r#"{STRICT_PAIR}
trust: {{ bundles: [ {{ trust_domain: example.org, file: {} }} ]{trust} }}
directory:
  - {{ name: api, addresses: ["$out.v4", "$out.v6"], spiffe_ids: ["{API}"] }}
{more}"#,
        authority.root.display()
    );
    let yaml = yaml.replace("$dir", &lab.dir().display().to_string());
    if trust.contains("site.crl") {
        authority.revoke(&[], time::Duration::MINUTE * 2, &lab.dir().join("site.crl"));
    }
    (Pair::configured(lab, &yaml), authority)
}

/// `openssl s_server` as `api` with this certificate, which insists on one of the embedded CA.
#[track_caller]
fn api(pair: &Pair, authority: &Authority, leaf: &Leaf, options: &[&str]) -> Process {
    let identity = Identity::from(&authority.issue("api", leaf));
    s_server(pair.out(), PORT, &pair.root(), &identity, options)
}

fn at(pair: &Pair) -> [SocketAddr; 2] {
    [pair.out().at(PORT), pair.out().at6(PORT)]
}

/// A server with this certificate stops the walk at a question, over IPv4 and IPv6.
#[track_caller]
fn server_stops(leaf: &Leaf, options: &[&str], question: &str, reason: &str, parts: &[&str]) {
    let (pair, authority) = with_api("", "");
    let server = api(&pair, &authority, leaf, options);
    for to in at(&pair) {
        let report = diagnosed(&pair.daemon, &to.to_string(), &[]);
        stops(&report, question, Some(reason), parts);
        assert_eq!(report["address"], to.to_string());
    }
    // Our certificate is for those only who have shown a good one.
    assert!(!server.printed().contains("depth=0"), "{}", server.printed());
}

fn good() -> Leaf {
    Leaf::good(API)
}

#[test]
fn between_two_workloads_everything_passes_and_the_application_sees_a_short_connection() {
    let pair = Pair::strict();
    let server = programs::probe(pair.db(), 7000, &[]);
    for to in [pair.db().at(7000).to_string(), pair.db().at6(7000).to_string(), "db:7000".to_owned()] {
        let report = diagnosed(&pair.daemon, &to, &[]);
        assert_eq!(
            (&report["answer"], &report["protected"]),
            (&"allowed".into(), &true.into()),
            "{report:#}"
        );
        for question in QUESTIONS {
            let outcome = &step(&report, question)["outcome"];
            assert!(*outcome == "passed" || (question == "address" && *outcome == "not-asked"), "{report:#}");
        }
        assert_eq!(report["datapath"], pair.daemon.best_relay(), "{report:#}");
        assert!(told(&report, "tls").contains("another mtlsd"), "{report:#}");
        assert!(told(&report, "trusted-here").contains("mtlsd root CA"), "{report:#}");
    }
    let seen = |text: &str| server.printed().matches(text).count();
    mtls_tests::eventually(slow::limit(15), "three connections at the application", || {
        (seen("\"accept\"") == 3).then_some(())
    });
    // The other end has them as what they are; this one is no connection of the workload's application.
    let is_one =
        |r: &mtls_tests::Record| r.inbound() && !r.refused() && r.workload() == "db" && r.bytes() == 0;
    pair.daemon.wait_for_log("db's record", is_one);
    assert!(!pair.daemon.access_log().iter().any(|r| !r.inbound()), "{:?}", pair.daemon.access_log());
}

#[test]
fn with_openssl_that_trusts_us_everything_passes_that_can_be_asked() {
    let (pair, authority) = with_api("", "");
    let server = api(&pair, &authority, &Leaf { intermediates: 1, ..good() }, &[]);
    for to in at(&pair) {
        let report = diagnosed(&pair.daemon, &to.to_string(), &[]);
        assert_eq!(report["answer"], "allowed", "{report:#}");
        assert!(told(&report, "tls").contains("not an mtlsd"), "{report:#}");
        // It names the CA that it believes, which has issued ours.
        let asks = told(&report, "client-certificate");
        assert!(asks.contains("mtlsd root CA") && asks.contains("one of them has issued ours"), "{asks}");
        assert!(told(&report, "trusted-here").contains("through 1 intermediate"), "{report:#}");
        assert_eq!(step(&report, "trusted-there")["outcome"], "passed", "{report:#}");
        assert_eq!(step(&report, "policy-there")["outcome"], "not-asked", "{report:#}");
    }
    // The test of those that must not see our certificate looks for this.
    assert!(server.printed().contains("depth=0"), "{}", server.printed());
    // What people see.
    let text = pair.daemon.shown(&["diagnose", "api:4433", "--as", "web"]).ok().text();
    for part in [
        "passed       Is it reachable over TCP?",
        "not asked    Does its policy allow us?",
        "works, with mutual TLS.",
    ] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
}

#[test]
fn nothing_that_listens_is_refused_by_tcp() {
    let (pair, _) = with_api("", "");
    for to in at(&pair) {
        let report = diagnosed(&pair.daemon, &to.to_string(), &[]);
        stops(&report, "tcp", Some("dial_refused"), &[&format!("{to}: ECONNREFUSED")]);
    }
    // By its name, one address after the other.
    let report = diagnosed(&pair.daemon, &format!("api:{PORT}"), &[]);
    stops(
        &report,
        "tcp",
        Some("dial_refused"),
        &at(&pair).map(|to| to.to_string()).each_ref().map(|to| to.as_str()),
    );
    // Where an mtlsd serves, its listener takes it, and the application is a question of its own.
    let report = diagnosed(&pair.daemon, &pair.db().at(9999).to_string(), &[]);
    stops(&report, "application", Some("application_refused"), &["refuses", "Connection refused"]);
}

#[test]
fn what_is_filtered_is_a_timeout_in_time() {
    let directory =
        format!("directory: [ {{ name: hole, addresses: [10.77.0.97], spiffe_ids: [\"{API}\"] }} ]\n");
    let pair = Pair::with(&directory);
    // A neighbour by decree, whom nobody is: packets go out and nothing comes back.
    let neighbour = [
        "ip",
        "neigh",
        "replace",
        "10.77.0.97",
        "lladdr",
        "02:77:00:00:00:97",
        "dev",
        "eth0",
        "nud",
        "permanent",
    ];
    pair.web().run(&neighbour).ok();
    let report = diagnosed(&pair.daemon, "10.77.0.97:443", &["--timeout", "700"]);
    stops(&report, "tcp", Some("dial_timeout"), &["no answer to SYN from 10.77.0.97:443 within"]);
    let took = step(&report, "tcp")["took_us"].as_u64().expect("a time");
    assert!(took >= 690_000, "{report:#}");
    // A neighbour that is looked for in vain.
    pair.web().run(&["ip", "neigh", "del", "10.77.0.97", "dev", "eth0"]).ok();
    pair.web().sysctl("net.ipv4.neigh.eth0.retrans_time_ms", "100");
    let report = diagnosed(&pair.daemon, "hole:443", &["--timeout", "12000"]);
    stops(&report, "tcp", Some("dial_unreachable"), &["EHOSTUNREACH"]);
}

#[test]
fn a_server_in_plain_text_is_told_by_what_it_says() {
    let (pair, _) = with_api("", "");
    let _http = programs::nginx(pair.out(), 8000);
    let mail = programs::probe(pair.out(), 7000, &["--greet", "220 plain mail\r\n"]);
    let mute = programs::probe(pair.out(), 7001, &[]);
    let ask = |port: u16| diagnosed(&pair.daemon, &pair.out().at(port).to_string(), &["--timeout", "1000"]);
    stops(&ask(8000), "tls", Some("malformed_tls"), &["speaks plain HTTP", "HTTP/1.1 400 Bad Request"]);
    stops(&ask(7000), "tls", Some("malformed_tls"), &["SMTP", "220 plain mail"]);
    stops(&ask(7001), "tls", Some("handshake_timeout"), &["TCP is open, and not a byte came within 1s"]);
    for server in [mail, mute] {
        assert!(!server.printed().contains("GET"), "{}", server.printed());
    }
}

#[test]
fn a_server_that_speaks_only_tls_1_2_says_so_by_its_alert() {
    server_stops(&good(), &["-tls1_2"], "tls", "tls_version", &["its alert protocol_version"]);
}

#[test]
fn with_tls_1_2_where_it_is_configured_the_walk_is_the_same() {
    let (pair, authority) = with_api("", "tls: { min_version: \"1.2\" }\n");
    let _server = api(&pair, &authority, &good(), &["-tls1_2"]);
    for to in at(&pair) {
        let report = diagnosed(&pair.daemon, &to.to_string(), &[]);
        assert_eq!(report["answer"], "allowed", "{report:#}");
        assert!(told(&report, "tls").contains("TLSv1.2"), "{report:#}");
    }
}

#[test]
fn a_server_that_asks_for_no_certificate_is_not_mutual() {
    let (pair, authority) = with_api("", "");
    let files = authority.issue("api", &good());
    let accept = PORT.to_string();
    let command = pair.out().cmd("openssl").args(["s_server", "-www", "-accept", &accept, "-cert"]);
    let _server = command.arg(&files.cert).arg("-key").arg(&files.key).spawn();
    pair.out().wait_port(PORT);
    for to in at(&pair) {
        let report = diagnosed(&pair.daemon, &to.to_string(), &[]);
        stops(&report, "client-certificate", None, &["asks for no certificate", "only the server"]);
        assert!(report["mend"].as_str().is_some_and(|mend| mend.contains("require a client certificate")));
    }
}

#[test]
fn a_server_of_an_unknown_ca_is_not_trusted_here() {
    let (pair, _) = with_api("", "");
    let stranger = Authority::new(pair.lab.dir(), "stranger");
    let _server = api(&pair, &stranger, &good(), &[]);
    for to in at(&pair) {
        let report = diagnosed(&pair.daemon, &to.to_string(), &[]);
        let parts = ["lab CA stranger", "trusted roots: ", "lab CA site"];
        stops(&report, "trusted-here", Some("unknown_issuer"), &parts);
        assert!(told(&report, "their-certificate").contains(API), "{report:#}");
    }
}

#[test]
fn an_expired_server_is_told_with_both_clocks() {
    let leaf = Leaf { until: -time::Duration::MINUTE * 5, ..good() };
    let parts = ["expired 5 min ago", "this node's clock says "];
    server_stops(&leaf, &[], "validity", "certificate_expired", &parts);
}

#[test]
fn a_server_that_is_not_yet_valid_is_told_with_the_tolerance() {
    let leaf = Leaf { from: time::Duration::HOUR, until: time::Duration::HOUR * 2, ..good() };
    let parts = ["not yet valid by ", "trust.clock_skew"];
    server_stops(&leaf, &[], "validity", "certificate_not_yet_valid", &parts);
}

#[test]
fn a_server_with_a_clients_certificate_is_told_by_its_usage() {
    let leaf = Leaf { usages: vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth], ..good() };
    server_stops(&leaf, &[], "key-usage", "certificate_usage", &["lacks serverAuth"]);
}

#[test]
fn a_server_of_another_name_is_told_with_whom_the_directory_expects() {
    let parts = ["spiffe://example.org/impostor", "expected spiffe://example.org/api"];
    server_stops(&Leaf::good("spiffe://example.org/impostor"), &[], "name", "unexpected_server", &parts);
}

#[test]
fn a_revoked_server_is_told_by_the_list_that_names_it() {
    let (pair, authority) =
        with_api(", crls: [ { trust_domain: example.org, file: $dir/site.crl } ], crl_policy: prefer", "");
    let files = authority.issue("api", &good());
    let serial =
        pair.lab.tool("openssl").args(["x509", "-noout", "-serial", "-in"]).arg(&files.cert).run().ok();
    let serial = serial.text().trim().trim_start_matches("serial=").to_owned();
    let _server = s_server(pair.out(), PORT, &pair.root(), &Identity::from(&files), &[]);
    let to = pair.out().at(PORT).to_string();
    let report = diagnosed(&pair.daemon, &to, &[]);
    assert_eq!(report["answer"], "allowed", "{report:#}");
    let known = told(&report, "revocation");
    assert!(
        known.contains("the deny list is empty") && known.contains("site.crl) does not name it"),
        "{known}"
    );

    authority.revoke(&[&serial], time::Duration::MINUTE, &pair.lab.dir().join("site.crl"));
    let list = mtls_tests::eventually(slow::limit(30), "the list to be loaded", || {
        let report = diagnosed(&pair.daemon, &to, &[]);
        (report["answer"] == "denied").then_some(report)
    });
    let named = format!("serial {} is on the CRL of", serial.to_lowercase());
    stops(&list, "revocation", Some("revoked"), &[&named, "site.crl"]);

    // The operator's own list is asked first.
    pair.daemon.ask(&["revoke", "--spiffe-id", API, "--for", "1h", "--reason", "stolen laptop"]);
    let report = diagnosed(&pair.daemon, &to, &[]);
    stops(&report, "revocation", Some("revoked"), &["stolen laptop"]);
}

#[test]
fn a_server_that_refuses_ours_says_why_by_its_alert() {
    let (pair, authority) = with_api("", "");
    let other = Authority::new(pair.lab.dir(), "other");
    let identity = Identity::from(&authority.issue("api", &good()));
    let _server = s_server(pair.out(), PORT, &other.root, &identity, &[]);
    for to in at(&pair) {
        let report = diagnosed(&pair.daemon, &to.to_string(), &[]);
        let parts = ["by its alert unknown_ca: The peer's check of our chain failed"];
        stops(&report, "trusted-there", Some("peer_alert"), &parts);
        assert_eq!(report["alert"], "unknown_ca");
        // The hint was there before.
        assert!(told(&report, "client-certificate").contains("none of them has issued ours"), "{report:#}");
        assert!(
            report["mend"].as_str().is_some_and(|mend| mend.contains("Add our root there")),
            "{report:#}"
        );
    }
}

#[test]
fn what_the_other_nodes_policy_says_arrives_with_its_rule() {
    let (lab, _nginx, here, there) = two_nodes_with("", "");
    let to = lab.pod("far").at(HTTP).to_string();
    let report = diagnosed(&here, &to, &[]);
    assert_eq!(report["answer"], "allowed", "{report:#}");
    let rule =
        "policy: [ { name: no-web, action: deny, from: { spiffe_ids: [\"spiffe://example.org/web\"] } } ]";
    there.configure(
        &lab.expand(&format!("workloads: [ {{ name: far, select: {{ netns: $far.netns }} }} ]\n{rule}\n")),
    );
    assert_eq!(there.ask(&["reload"])["applied"], true);
    let report = diagnosed(&here, "far", &[]);
    let parts = ["Its mtlsd refuses: A policy rule denies this connection.", "no-web", "as policy_denied"];
    stops(&report, "policy-there", Some("policy_denied"), &parts);
    assert_eq!(report["remote_reason"]["code"], "policy_denied", "{report:#}");
    assert!(
        report["mend"].as_str().is_some_and(|mend| mend.starts_with("At the server's node: ")),
        "{report:#}"
    );
    assert_eq!(step(&report, "trusted-there")["outcome"], "passed");
    // The other node has it on record as any other refusal.
    let record = there.wait_for_log("far's refusal", |r| r.inbound() && r.refused());
    assert_eq!((record.policy(), record.peer()), ("no-web", "spiffe://example.org/web"));
}

#[test]
fn our_own_policy_denies_before_a_packet_is_sent_or_once_the_server_is_proven() {
    let rules = "outbound_policy:\n  - { name: not-api, action: deny, from: { ports: [4433] }, to: { spiffe_ids: [\"spiffe://example.org/api\"] } }\n  \
                 - { name: no-shop, action: deny, from: { ports: [4434] }, to: { organizations: [Shop] } }\n";
    let (pair, authority) = with_api("", rules);
    let to = pair.out().at(PORT).to_string();
    // Nobody listens there: it was not dialled.
    let report = diagnosed(&pair.daemon, &to, &[]);
    stops(&report, "connect-policy", Some("policy_denied"), &["not-api, by outbound policy of this node"]);
    let identity =
        Identity::from(&authority.issue("api", &Leaf { organization: Some("Shop".into()), ..good() }));
    let server = s_server(pair.out(), 4434, &pair.root(), &identity, &[]);
    let report = diagnosed(&pair.daemon, &pair.out().at(4434).to_string(), &[]);
    stops(&report, "policy-here", Some("policy_denied"), &["port 4434: no-shop"]);
    drop(server);
    // The server's policy, where the server is on this node.
    let pair = Pair::configured(Pair::lab(), &STRICT_PAIR.replace("[example.org]", "[other.example]"));
    let report = diagnosed(&pair.daemon, &pair.db().at(HTTP).to_string(), &[]);
    let parts = ["by policy of this node for the server", "Rule everyone-here nearly allows it"];
    stops(&report, "connect-policy", Some("policy_default"), &parts);
}

#[test]
fn a_name_is_the_directorys_or_the_resolvers_and_what_is_outside_goes_out_as_it_is() {
    let (pair, authority) = with_api("", "");
    let _server = api(&pair, &authority, &good(), &[]);
    let report = diagnosed(&pair.daemon, "no-such-host.invalid:443", &["--timeout", "2000"]);
    stops(
        &report,
        "address",
        None,
        &["The directory does not have no-such-host.invalid", "resolver does not help"],
    );
    // Whom nobody knows is let go, and that is not called protected.
    let outside = Pair::strict();
    let _plain = programs::probe(outside.out(), 7000, &[]);
    let to = outside.out().at(7000).to_string();
    let report = diagnosed(&outside.daemon, &to, &[]);
    assert_eq!((&report["answer"], &report["protected"]), (&"allowed".into(), &false.into()), "{report:#}");
    assert!(report["sentence"].as_str().is_some_and(|text| text.contains("nobody is authenticated")));
    assert_eq!(step(&report, "tcp")["outcome"], "passed", "{report:#}");
    // Unless one says whom one expects.
    let report = diagnosed(&outside.daemon, &to, &["--expect", API, "--timeout", "500"]);
    stops(&report, "tls", Some("handshake_timeout"), &["TCP is open"]);
}

#[test]
fn wrong_questions_are_errors() {
    let pair = Pair::strict();
    for arguments in [
        &["diagnose", "db:80"][..],
        &["diagnose", "db:80", "--as", "nobody"],
        &["diagnose", "db", "--as", "web"],
    ] {
        let (code, text) = pair.daemon.cli(arguments);
        assert_eq!((code, text.as_str()), (Some(1), ""), "{arguments:?}");
    }
    for arguments in [&["diagnose"][..], &["diagnose", "db:80", "--timeout", "1"]] {
        assert_eq!(pair.daemon.cli(arguments).0, Some(2), "{arguments:?}");
    }
}

#[test]
fn a_name_of_the_hosts_file_is_looked_up_on_the_node() {
    let pair = Pair::strict();
    // Loopback is never captured, so that it is only dialled, and nobody listens in web.
    let report = diagnosed(&pair.daemon, "localhost:4433", &[]);
    assert!(told(&report, "address").contains("This node's resolver says"), "{report:#}");
    assert!(told(&report, "destination").contains("never captures loopback"), "{report:#}");
    stops(&report, "tcp", Some("dial_refused"), &["ECONNREFUSED"]);
}
