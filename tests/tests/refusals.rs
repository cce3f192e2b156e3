//! Whatever comes in that should not is refused with its reason, counted, and harms nobody else.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use mtls_tests::certs::{Authority, Leaf};
use mtls_tests::lab::{NODE, Output};
use mtls_tests::programs::{self, Identity, raw, s_client, s_server};
use mtls_tests::slow;
use mtls_tests::{Lab, Pair, STRICT_PAIR, eventually};

/// The first bytes of a ClientHello of 508 bytes, cut in the middle.
fn half_a_client_hello() -> Vec<u8> {
    let mut hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
    hello.extend(0..100_u8);
    hello
}

/// Checks that the answer to raw bytes is nothing, or a TLS alert.
#[track_caller]
fn only_an_alert(answer: std::io::Result<Vec<u8>>) -> Vec<u8> {
    let answer = answer.expect("the connection ends by itself");
    assert!(answer.is_empty() || answer[0] == 0x15, "{:?}", String::from_utf8_lossy(&answer));
    answer
}

#[test]
fn plain_http_on_a_strict_port_is_refused() {
    let pair = Pair::strict();
    let record = pair.refuses("plaintext", |to| {
        only_an_alert(raw(pair.out(), to, b"GET / HTTP/1.1\r\nHost: db\r\n\r\n", false))
    });
    assert!(record.source().starts_with(&format!("[{}]", pair.out().v6)), "{record:?}");
}

#[test]
fn garbage_is_refused() {
    let pair = Pair::strict();
    let garbage: Vec<u8> =
        (0..5000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8 | 0x80).collect();
    pair.refuses("plaintext", |to| only_an_alert(raw(pair.out(), to, &garbage, false)));
}

#[test]
fn a_tls_record_full_of_garbage_is_refused_with_an_alert() {
    let pair = Pair::strict();
    let mut bytes = b"\x16\x03\x01\x00\x40\x01\x00\x00\x3c".to_vec();
    bytes.extend([0xee; 60]);
    pair.refuses("malformed_tls", |to| {
        let answer = only_an_alert(raw(pair.out(), to, &bytes, false));
        assert!(!answer.is_empty(), "a TLS peer is told by an alert");
        answer
    });
}

#[test]
fn half_a_client_hello_and_an_end_is_refused() {
    let pair = Pair::strict();
    pair.refuses("handshake_closed", |to| only_an_alert(raw(pair.out(), to, &half_a_client_hello(), true)));
}

#[test]
fn half_a_client_hello_and_silence_is_refused_in_time() {
    let pair = Pair::with("timeouts: { handshake: 1s }\n");
    pair.refuses("handshake_timeout", |to| {
        let start = Instant::now();
        let answer = only_an_alert(raw(pair.out(), to, &half_a_client_hello(), false));
        assert!((1..5).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
        answer
    });
}

#[test]
fn silence_is_refused_in_time() {
    let pair = Pair::with("timeouts: { handshake: 1s }\n");
    pair.refuses("handshake_timeout", |to| only_an_alert(raw(pair.out(), to, b"", false)));
}

#[test]
fn a_byte_at_a_time_does_not_stretch_the_time_limit() {
    let pair = Pair::with("timeouts: { handshake: 1s }\n");
    pair.refuses("handshake_timeout", |to| {
        pair.out().inside(|| {
            let start = Instant::now();
            let mut stream = TcpStream::connect(to).expect("the port is open");
            for byte in half_a_client_hello() {
                if stream.write_all(&[byte]).is_err() || start.elapsed() > Duration::from_secs(8) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            assert!(start.elapsed() < Duration::from_secs(5), "the loris was kept for {:?}", start.elapsed());
        });
    });
}

/// Refuses a client whose certificate of the site's own CA is spoilt in one way; the record says what it `claims`.
#[track_caller]
fn refuses_certificate(reason: &str, more: &str, claims: &str, leaf: &Leaf) {
    let (pair, authority) = Pair::with_authority(more);
    let identity = Identity::from(&authority.issue("spoilt", leaf));
    let record = pair.refuses(reason, |to| {
        let output = s_client(pair.out(), to, &pair.root(), Some(&identity)).run().fails();
        assert!(output.stderr.contains("alert"), "the client is told by an alert: {output}");
        output
    });
    assert_eq!((record.peer(), record.peer_proven()), (claims, false), "{record:?}");
    assert_eq!(record.peer_serial().is_empty(), claims.is_empty(), "{record:?}");
    assert_eq!(record.local(), "spiffe://example.org/db");
    let explained = pair.daemon.ask(&["explain", record.id()]).to_string();
    assert!(explained.contains("claims to be") != claims.is_empty(), "{explained}");
    // The same CA with nothing spoilt: it was that one thing.
    let good = Identity::from(&authority.issue("good", &Leaf::good("spiffe://example.org/guest")));
    s_client(pair.out(), pair.db().at(80), &pair.root(), Some(&good)).run().ok();
}

const GUEST: &str = "spiffe://example.org/guest";

fn guest() -> Leaf {
    Leaf::good(GUEST)
}

#[test]
fn an_expired_certificate_is_refused() {
    let leaf = Leaf { from: -time::Duration::HOUR * 2, until: -time::Duration::HOUR, ..guest() };
    refuses_certificate("certificate_expired", "", GUEST, &leaf);
}

#[test]
fn a_certificate_that_is_not_yet_valid_is_refused() {
    let leaf = Leaf { from: time::Duration::HOUR, until: time::Duration::HOUR * 2, ..guest() };
    refuses_certificate("certificate_not_yet_valid", "", GUEST, &leaf);
}

#[test]
fn a_certificate_without_a_spiffe_id_is_refused() {
    refuses_certificate(
        "no_spiffe_id",
        "",
        "dns:web",
        &Leaf { uris: vec![], dns: vec!["web".into()], ..guest() },
    );
}

#[test]
fn a_certificate_with_two_spiffe_ids_is_refused() {
    let uris = vec!["spiffe://example.org/web".into(), "spiffe://example.org/guest".into()];
    let claims = "spiffe://example.org/web, spiffe://example.org/guest";
    refuses_certificate("several_spiffe_ids", "", claims, &Leaf { uris, ..guest() });
}

#[test]
fn a_certificate_with_a_malformed_spiffe_id_is_refused() {
    let uri = "spiffe://example.org/a//b";
    refuses_certificate("malformed_spiffe_id", "", uri, &Leaf::good(uri));
}

#[test]
fn a_certificate_for_servers_only_is_refused_from_a_client() {
    let usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    refuses_certificate("certificate_usage", "", GUEST, &Leaf { usages, ..guest() });
}

#[test]
fn a_chain_of_too_many_certificates_is_refused() {
    refuses_certificate(
        "chain_too_large",
        "limits: { chain_certificates: 4 }\n",
        GUEST,
        &Leaf { intermediates: 6, ..guest() },
    );
}

#[test]
fn a_chain_of_too_many_bytes_is_refused() {
    let dns = (0..400).map(|n| format!("name-number-{n}.example.org")).collect();
    // The leaf itself is too large to be read.
    refuses_certificate("chain_too_large", "limits: { chain_bytes: 8192 }\n", "", &Leaf { dns, ..guest() });
}

/// A client that is not mtlsd is told by an alert that it is known, but may not.
#[track_caller]
fn denied(pair: &Pair, to: SocketAddr, identity: &Identity) -> Output {
    let output = s_client(pair.out(), to, &pair.root(), Some(identity)).run().fails();
    assert!(output.stderr.contains("alert access denied"), "{output}");
    output
}

#[test]
fn both_daemons_record_a_denial_with_the_rule_and_both_proven_identities() {
    let mut lab = Lab::new(&["web"]);
    lab.add_node("n2");
    lab.add_pod("n2", "db");
    let mut here = lab.prepare(
        NODE,
        r#"
workloads: [ { name: web, select: { netns: $web.netns } } ]
directory: [ { name: db, addresses: ["$db.v4", "$db.v6"], spiffe_ids: ["spiffe://example.org/db"] } ]
"#,
    );
    here.ca_init();
    let mut there = lab.prepare(
        "n2",
        r#"
workloads: [ { name: db, select: { netns: $db.netns } } ]
policy: [ { name: no-web, action: deny, from: { spiffe_ids: ["spiffe://example.org/web"] } } ]
"#,
    );
    there.share_ca(&here);
    here.start();
    there.start();
    lab.pod("web")
        .run(&["curl", "-sS", "--max-time", "20", &format!("http://{}/", lab.pod("db").at(80))])
        .fails();
    let said = here.wait_for_log("web's record", |r| !r.inbound() && r.refused());
    assert_eq!((said.reason(), said.remote_reason()), ("policy_denied", "policy_denied"), "{said:?}");
    assert_eq!((said.peer(), said.peer_proven()), ("spiffe://example.org/db", true));
    let decided = there.wait_for_log("db's record", |r| r.inbound() && r.refused());
    assert_eq!((decided.reason(), decided.policy()), ("policy_denied", "no-web"), "{decided:?}");
    assert_eq!((decided.peer(), decided.peer_proven()), ("spiffe://example.org/web", true));
    assert!(!said.peer_serial().is_empty() && !decided.peer_serial().is_empty());
}

#[test]
fn a_denied_client_is_refused_by_the_rule_that_denies_it() {
    let rule = r#"  - { name: no-guests, action: deny, from: { spiffe_id_prefixes: ["spiffe://example.org/guest/"] } }"#;
    let pair = Pair::configured(Pair::lab(), &format!("{STRICT_PAIR}{rule}\n"));
    let identity = Identity::from(pair.daemon.issue("spiffe://example.org/guest/7", "guest"));
    let record = pair.refuses("policy_denied", |to| denied(&pair, to, &identity));
    assert_eq!((record.policy(), record.peer()), ("no-guests", "spiffe://example.org/guest/7"));
    assert!(record.peer_proven() && !record.peer_serial().is_empty(), "{record:?}");
    pair.daemon.wait_metric("mtlsd_policy_denials_total", &[("workload", "db"), ("rule", "no-guests")], 2.0);
    let failed = [("workload", "db"), ("result", "failed"), ("reason", "policy_denied")];
    pair.daemon.wait_metric("mtlsd_handshakes_total", &failed, 2.0);
}

#[test]
fn a_client_that_no_rule_allows_is_refused_by_a_strict_workload() {
    let yaml =
        STRICT_PAIR.replace("trust_domains: [example.org]", "spiffe_ids: [\"spiffe://example.org/web\"]");
    let pair = Pair::configured(Pair::lab(), &yaml);
    let identity = pair.issue("nobody");
    let record = pair.refuses("policy_default", |to| denied(&pair, to, &identity));
    assert_eq!((record.peer(), record.peer_proven()), ("spiffe://example.org/nobody", true));
    assert!(record.policy().contains("default"), "{record:?}");
}

#[test]
fn a_flood_of_silent_handshakes_is_bounded_and_passes() {
    let more = "limits: { handshakes: 8 }\ntimeouts: { handshake: 2s }\n";
    let pair = Pair::with(more);
    let to = pair.db().at(80);
    let silent: Vec<TcpStream> = pair.out().inside(|| {
        (0..40).filter_map(|_| TcpStream::connect_timeout(&to, Duration::from_secs(5)).ok()).collect()
    });
    assert!(silent.len() > 8);
    let labels = [("workload", "db"), ("reason", "handshake_limit")];
    pair.daemon.wait_metric("mtlsd_connections_refused_total", &labels, 20.0);
    pair.daemon.wait_metric("mtlsd_connections_refused_total", &[("reason", "handshake_timeout")], 8.0);
    drop(silent);
    pair.works();
}

#[test]
fn a_workload_cannot_open_more_connections_than_its_limit() {
    let yaml = STRICT_PAIR.replace("\"$db.v6\"] }", "\"$db.v6\"], limits: { connections: 3 } }");
    let pair = Pair::configured(Pair::lab(), &yaml);
    let _server = programs::probe(pair.db(), 7000, &[]);
    let to = pair.db().at(7000).to_string();
    let open = || pair.web().own("probe").args(["connect", &to, "--ask"]).piped().spawn();
    let mut held: Vec<_> = (0..3).map(|_| open()).collect();
    held.iter_mut().for_each(|p| p.wait_for("\"ok\""));
    let mut fourth = open();
    let record = pair.daemon.wait_for_log("the fourth connection's refusal", |r| r.inbound() && r.refused());
    assert_eq!((record.reason(), record.workload()), ("workload_limit", "db"));
    fourth.kill();
    held.iter_mut().for_each(mtls_tests::Process::kill);
    eventually(slow::limit(10), "the limit to be free again", || {
        (pair.curl(pair.db().at(80)).code == Some(0)).then_some(())
    });
}

#[test]
fn an_idle_connection_is_cut_if_that_is_configured() {
    let pair = Pair::with("timeouts: { idle: 1s }\n");
    let _server = programs::probe(pair.db(), 7000, &[]);
    let mut idle =
        pair.web().own("probe").args(["connect", &pair.db().at(7000).to_string(), "--ask"]).piped().spawn();
    idle.wait_for("\"ok\"");
    let record = pair.daemon.wait_for_log("an idle connection", |r| r.reason() == "idle");
    assert!(!record.refused(), "it was established: {record:?}");
}

/// Refuses a server, as a client: `out` runs `openssl s_server` with a certificate, and the directory expects `api`.
#[track_caller]
fn refuses_server(reason: &str, leaf: &Leaf, options: &[&str]) {
    let lab = Pair::lab();
    let authority = Authority::new(lab.dir(), "site");
    let yaml = format!(
        r#"{STRICT_PAIR}
trust: {{ bundles: [ {{ trust_domain: example.org, file: {} }} ] }}
directory:
  - {{ name: api, addresses: ["$out.v4", "$out.v6"], ports: [4433], spiffe_ids: ["spiffe://example.org/api"] }}
"#,
        authority.root.display()
    );
    let pair = Pair::configured(lab, &yaml);
    let identity = Identity::from(&authority.issue("api", leaf));
    let _server = s_server(pair.out(), 4433, &pair.root(), &identity, options);
    let server_port = |to: SocketAddr| SocketAddr::new(to.ip(), 4433);
    for to in [server_port(pair.out().at(0)), server_port(pair.out().at6(0))] {
        let page = pair.curl(to).fails();
        assert!(page.stdout.is_empty(), "{page}");
        let what = format!("web's refusal of {to}");
        let record = pair
            .daemon
            .wait_for_log(&what, |r| !r.inbound() && r.refused() && r.destination() == to.to_string());
        assert_eq!((record.reason(), record.bytes()), (reason, 0), "{record:?}");
        let presented = reason != "tls_version";
        assert_eq!(record.peer(), if presented { leaf.uris[0].as_str() } else { "" }, "{record:?}");
        assert_eq!(
            (record.peer_serial().is_empty(), record.peer_proven()),
            (!presented, false),
            "{record:?}"
        );
        let labels = [("workload", "web"), ("reason", record.reason())];
        pair.daemon.wait_metric("mtlsd_connections_refused_total", &labels, 1.0);
    }
    pair.works();
}

#[test]
fn a_server_that_is_not_the_expected_workload_is_refused() {
    refuses_server("unexpected_server", &Leaf::good("spiffe://example.org/impostor"), &[]);
}

#[test]
fn an_expired_server_is_refused() {
    let leaf = Leaf { until: -time::Duration::MINUTE, ..Leaf::good("spiffe://example.org/api") };
    refuses_server("certificate_expired", &leaf, &[]);
}

#[test]
fn a_server_with_a_certificate_for_clients_only_is_refused() {
    let usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    refuses_server("certificate_usage", &Leaf { usages, ..Leaf::good("spiffe://example.org/api") }, &[]);
}

#[test]
fn a_server_that_speaks_only_tls_1_2_is_refused() {
    refuses_server("tls_version", &Leaf::good("spiffe://example.org/api"), &["-tls1_2"]);
}

#[test]
fn a_server_that_does_not_speak_tls_is_refused_and_hears_no_request() {
    let lab = Pair::lab();
    let directory = "directory: [ { name: api, addresses: [\"$out.v4\"], spiffe_ids: [\"spiffe://example.org/api\"] } ]\n";
    let pair = Pair::configured(lab, &format!("{STRICT_PAIR}{directory}"));
    let server = programs::probe(pair.out(), 7000, &["--greet", "220 plain mail\r\n"]);
    let output = pair.curl(pair.out().at(7000)).fails();
    assert!(output.stdout.is_empty(), "{output}");
    let record = pair.daemon.wait_for_log("web's refusal", |r| !r.inbound() && r.refused());
    assert_eq!(record.reason(), "malformed_tls");
    assert!(!server.printed().contains("GET /"), "{}", server.printed());
}

#[test]
fn an_application_that_listens_nowhere_is_told_apart_from_a_refused_peer() {
    let pair = Pair::strict();
    let identity = pair.issue("partner");
    // Nobody listens on 9999: the daemon's listener takes the SYN, the peer is verified, and then there is nobody.
    s_client(pair.out(), pair.db().at(9999), &pair.root(), Some(&identity)).run().fails();
    let record = pair.daemon.wait_for_log("db's record", |r| r.inbound() && r.refused());
    assert_eq!((record.reason(), record.peer()), ("application_refused", "spiffe://example.org/partner"));
}

#[test]
fn the_metrics_port_survives_garbage_too() {
    let pair = Pair::strict();
    let mut stream = TcpStream::connect(pair.daemon.metrics_address()).expect("the metrics port is open");
    stream.set_read_timeout(Some(slow::limit(5))).expect("a timeout");
    let _ = stream.write_all(&half_a_client_hello());
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let _ = stream.read(&mut [0; 100]);
    assert!(pair.daemon.ready());
}
