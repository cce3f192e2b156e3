//! Moving to strict: a permissive port takes both, and tells them apart.

use std::time::Duration;

use mtls_tests::certs::{Authority, Leaf};
use mtls_tests::programs::{self, Identity, raw, s_server};
use mtls_tests::slow;
use mtls_tests::{Pair, STRICT_PAIR};

fn permissive_db() -> String {
    STRICT_PAIR.replacen("{ name: db,", "{ name: db, mode: permissive,", 1)
}

#[test]
fn plaintext_is_accepted_and_counted() {
    let pair = Pair::configured(Pair::lab(), &permissive_db());
    for to in pair.http() {
        let url = format!("http://{to}/addresses");
        let seen = pair.out().run(&["curl", "-sS", "--max-time", "10", &url]).ok().text();
        let client = if to.is_ipv4() { pair.out().v4.to_string() } else { pair.out().v6.to_string() };
        assert!(seen.starts_with(&client), "nginx sees the true client: {seen}");
        let record =
            pair.daemon.wait_for_log("a plaintext connection", |r| r.destination() == to.to_string());
        assert_eq!(
            (record.datapath(), record.peer(), record.refused()),
            ("plaintext", "", false),
            "{record:?}"
        );
    }
    pair.daemon.wait_metric("mtlsd_plaintext_accepted_total", &[("workload", "db")], 2.0);
}

#[test]
fn mutual_tls_is_accepted_on_the_same_port_and_not_counted_as_plaintext() {
    let pair = Pair::configured(Pair::lab(), &permissive_db());
    let capture = pair.lab.capture();
    pair.works();
    capture.stop().assert_only_tls(80);
    let record = pair.daemon.wait_for_log("web's request", |r| r.inbound());
    assert_eq!(record.peer(), "spiffe://example.org/web");
    assert!(pair.daemon.metric("mtlsd_plaintext_accepted_total", &[]) < 0.1);
}

#[test]
fn a_server_that_speaks_first_is_heard_by_a_plaintext_client() {
    let pair = Pair::configured(Pair::lab(), &permissive_db());
    let _sshd = programs::sshd(pair.db(), 2222);
    for to in [pair.db().at(2222), pair.db().at6(2222)] {
        // The client says nothing until it has the banner.
        let output = pair.out().own("probe").args(["connect", &to.to_string(), "--ask"]).piped().spawn();
        let mut output = output;
        output.wait_for("\"ok\"");
        std::thread::sleep(slow::stretched(Duration::from_secs(1)));
        output.close_stdin();
        let said = output.output(slow::limit(10)).text();
        assert!(said.contains("SSH-2.0-"), "{said}");
    }
    pair.daemon.wait_metric("mtlsd_plaintext_accepted_total", &[("workload", "db")], 2.0);
}

#[test]
fn the_applications_own_tls_is_passed_through() {
    let pair = Pair::configured(Pair::lab(), &permissive_db());
    let own = Authority::new(pair.lab.dir(), "application");
    let leaf =
        Leaf { uris: vec![], dns: vec!["shop.example".into()], ..Leaf::good("spiffe://unused.example/x") };
    let files = own.issue("shop", &leaf);
    let _server = s_server(pair.db(), 8443, &own.root, &Identity::from(&files), &[]);
    let resolve = format!("shop.example:8443:[{}]", pair.db().v6);
    let curl = pair
        .out()
        .cmd("curl")
        .args(["-sS", "--max-time", "10", "--resolve", &resolve, "--cacert"])
        .arg(&own.root);
    let curl = curl.arg("--cert").arg(&files.chain).arg("--key").arg(&files.key);
    // It verifies the application's certificate: nobody stands in between.
    let page = curl.arg("https://shop.example:8443/").run().ok().text();
    assert!(page.contains("TLSv1.3"), "{page}");
    let record = pair.daemon.wait_for_log("the passed connection", |r| r.inbound());
    assert_eq!((record.datapath(), record.peer()), ("passthrough", ""), "{record:?}");
}

#[test]
fn a_permissive_port_of_a_strict_workload_is_alone_in_that() {
    let yaml = STRICT_PAIR.replacen("{ name: db,", "{ name: db, ports: { 81: permissive },", 1);
    let pair = Pair::configured(Pair::lab(), &yaml);
    let url = format!("http://{}/", pair.db().at(81));
    pair.out().run(&["curl", "-sS", "--http2-prior-knowledge", &url]).ok();
    pair.refuses("plaintext", |to| raw(pair.out(), to, b"GET / HTTP/1.1\r\n\r\n", false).unwrap_or_default());
}

#[test]
fn a_disabled_health_check_port_is_left_alone() {
    let yaml = STRICT_PAIR.replacen("{ name: db,", "{ name: db, ports: { 8080: disabled },", 1);
    let pair = Pair::configured(Pair::lab(), &yaml);
    let _health = programs::probe(pair.db(), 8080, &["--greet", "healthy"]);
    for to in [pair.db().at(8080), pair.db().at6(8080)] {
        assert_eq!(raw(pair.out(), to, b"", true).expect("it is served"), b"healthy");
    }
    assert!(pair.daemon.metric("mtlsd_plaintext_accepted_total", &[]) < 0.1, "not captured at all");
    let answer = raw(pair.out(), pair.db().at(80), b"GET / HTTP/1.1\r\n\r\n", false).unwrap_or_default();
    assert!(!String::from_utf8_lossy(&answer).contains("hello"), "every other port is strict");
}

#[test]
fn a_denied_client_is_denied_in_permissive_too() {
    let rule = "  - { name: keep-out, action: deny, to: { workloads: [db], ports: [80] } }\n";
    let pair = Pair::configured(Pair::lab(), &format!("{}{rule}", permissive_db()));
    for to in pair.http() {
        let answer = raw(pair.out(), to, b"GET / HTTP/1.0\r\n\r\n", false).unwrap_or_default();
        assert!(answer.is_empty(), "{:?}", String::from_utf8_lossy(&answer));
        let record =
            pair.daemon.wait_for_log("the denial", |r| r.inbound() && r.destination() == to.to_string());
        assert_eq!((record.reason(), record.policy()), ("policy_denied", "keep-out"));
    }
}

#[test]
fn a_disabled_workload_is_left_alone() {
    let yaml = STRICT_PAIR.replacen("{ name: db,", "{ name: db, mode: disabled,", 1);
    let pair = Pair::configured(Pair::lab(), &yaml);
    for to in pair.http() {
        assert_eq!(pair.out().run(&["curl", "-sS", &format!("http://{to}/")]).ok().text(), "hello from db");
    }
    assert!(pair.daemon.access_log().iter().all(|r| r.workload() != "db"));
}
