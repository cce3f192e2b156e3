//! The lab itself, without mtlsd: what the other tests rely on is true.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use mtls_tests::certs::{Authority, Leaf};
use mtls_tests::slow;
use mtls_tests::{Lab, programs};

const MARKER: &str = "MARKER-that-nobody-may-read";

#[test]
fn plain_traffic_is_captured_in_clear_and_the_checks_notice() {
    let lab = Lab::new(&["web", "db"]);
    let _server = programs::probe(lab.pod("db"), 7000, &[]);
    let capture = lab.capture();
    for to in [lab.pod("db").at(7000), lab.pod("db").at6(7000)] {
        let answer =
            lab.pod("web").own("probe").args(["connect", &to.to_string(), "--send", MARKER]).run().ok();
        assert!(answer.text().contains(MARKER), "{answer}");
    }
    let traffic = capture.stop();
    assert!(traffic.find(MARKER.as_bytes()).is_some());
    // Both directions of both families were put together: the marker went there and came back.
    let streams: Vec<_> = traffic.of_port(7000).filter(|s| s.bytes == MARKER.as_bytes()).collect();
    assert_eq!(streams.len(), 4);
    assert!(streams.iter().all(|s| s.from_start && s.ended && s.beyond_gap == 0));
    assert!(fails(|| traffic.assert_absent(MARKER.as_bytes())));
    assert!(
        fails(|| {
            traffic.assert_only_tls(7000);
        }),
        "plain bytes are not TLS"
    );
    assert!(
        fails(|| {
            traffic.assert_only_tls(7001);
        }),
        "no bytes prove nothing"
    );
    assert!(fails(|| traffic.assert_no_payload(7000)));
    traffic.assert_no_payload(7001);
}

fn fails(check: impl FnOnce()) -> bool {
    catch_unwind(AssertUnwindSafe(check)).is_err()
}

#[test]
fn real_tls_passes_the_record_check() {
    let lab = Lab::new(&["web", "db"]);
    let ca = Authority::new(lab.dir(), "site");
    let server = ca.issue("server", &Leaf::good("spiffe://example.org/db"));
    let client = ca.issue("client", &Leaf { intermediates: 2, ..Leaf::good("spiffe://example.org/web") });
    let listen =
        lab.pod("db").cmd("openssl").args(["s_server", "-accept", "4433", "-Verify", "5", "-www", "-CAfile"]);
    let _server = listen.arg(&ca.root).arg("-cert").arg(&server.cert).arg("-key").arg(&server.key).spawn();
    lab.pod("db").wait_port(4433);
    let capture = lab.capture();
    let curl =
        lab.pod("web").cmd("curl").args(["-sSk", "--cert"]).arg(&client.chain).arg("--key").arg(&client.key);
    curl.arg(format!("https://{}/", lab.pod("db").at(4433))).run().ok();
    let traffic = capture.stop();
    assert!(traffic.assert_only_tls(4433) > 1000);
    traffic.assert_absent(b"HTTP/1");
}

#[test]
fn the_programs_serve_each_other_in_plain() {
    let lab = Lab::new(&["web", "db"]);
    let (web, db) = (lab.pod("web"), lab.pod("db"));
    let _nginx = programs::nginx(db, 80);
    let _redis = programs::redis(db, 6379);
    let _postgres = programs::postgres(db, 5432);
    let _sshd = programs::sshd(db, 22);
    let _iperf = programs::iperf3(db, 5201);
    let address = db.v4.to_string();
    assert_eq!(web.run(&["curl", "-sS", &format!("http://[{}]/", db.v6)]).ok().text(), "hello from db");
    let http2 = format!("http://{address}:81/addresses");
    let seen = web.run(&["curl", "-sS", "--http2-prior-knowledge", &http2]).ok().text();
    assert!(seen.starts_with(&web.v4.to_string()) && seen.ends_with("HTTP/2.0"), "{seen}");
    assert_eq!(web.run(&["redis-cli", "-h", &address, "ping"]).ok().text(), "PONG");
    let psql = ["psql", "-h", &address, "-U", "postgres", "-Atc", "select 6*7"];
    assert_eq!(web.run(&psql).ok().text(), "42");
    let iperf = web.run(&["iperf3", "-c", &address, "-n", "10M", "-J"]).ok().json();
    // iperf3's server stops counting when the client says so on its control connection: what is in flight is not counted.
    assert!(iperf["end"]["sum_received"]["bytes"].as_u64() > Some(1_000_000), "{iperf}");
    let banner = web.own("probe").args(["connect", &db.at6(22).to_string()]).run().ok();
    assert!(banner.text().contains("SSH-2.0-"), "{banner}");
}

#[test]
fn the_lab_programs_tell_errors_from_success() {
    let lab = Lab::new(&["web", "db"]);
    let (web, db) = (lab.pod("web"), lab.pod("db"));
    let refused = web.own("probe").args(["connect", &db.at(9).to_string(), "--nonblocking"]).run().ok();
    assert_eq!(refused.json()["connect"], "ECONNREFUSED");

    let server = programs::pattern(db, 7100);
    for mode in ["duplex", "half-close", "reset", "server-reset", "simultaneous"] {
        let to = db.at6(7100).to_string();
        web.own("pattern").args(["send", &to, mode, "42", "300000", "500000"]).run().ok();
    }
    let lines = mtls_tests::eventually(slow::limit(5), "5 results of pattern", || {
        let text = String::from_utf8(server.stdout()).ok()?;
        (text.lines().count() == 5).then_some(text)
    });
    assert!(lines.lines().all(|l| l.contains("\"ok\"")), "{lines}");

    let _server = programs::load(db, 7200);
    let to = db.at(7200).to_string();
    assert_eq!(web.own("load").args(["hold", &to, "300"]).run().ok().json()["total"], 300);
    assert_eq!(web.own("load").args(["short", &to, "500", "20"]).run().ok().json()["failed"], 0);
    web.own("load").args(["short", &db.at(9).to_string(), "5", "1"]).run().fails();
}

#[test]
fn a_lab_leaves_nothing_behind() {
    let lab = Lab::new(&["web"]);
    let pod = lab.pod("web");
    let sleeper = pod.spawn(&["sleep", "1000"]);
    let (pid, files, netns) = (sleeper.pid(), lab.dir().to_owned(), Path::new("/run/netns").join(&pod.netns));
    // Even if the handle is lost, the cgroup knows the process.
    std::mem::forget(sleeper);
    assert!(netns.exists());
    lab.remove_pod("web");
    assert!(!netns.exists());
    lab.restore_pod("web");
    assert!(netns.exists());
    pod.run(&["ip", "addr", "show", "eth0"]).ok();
    let wire = Path::new("/run/netns").join(lab.wire());
    drop(lab);
    assert!(!files.exists() && !netns.exists() && !wire.exists());
    let state = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(state.is_empty() || state.contains(") Z "), "{state}");
}

#[test]
fn scripted_peers_see_what_the_other_does_and_tell_when_it_was_not_expected() {
    let lab = Lab::new(&["web", "db"]);
    let authority = Authority::new(lab.dir(), "peers");
    let leaf = Leaf { dns: vec!["db".into()], ..Leaf::good("spiffe://example.org/peer") };
    let files = authority.issue("peer", &leaf);
    let port = Cell::new(7300);
    let talk = |server: &[&str], client: &[&str]| {
        let at = lab.pod("db").at(port.replace(port.get() + 1));
        let peer = |pod: &str, verb: &str, script: &[&str]| {
            let command =
                lab.pod(pod).own("peer").args([verb, &at.to_string()]).arg("--ca").arg(&authority.root);
            command.arg("--cert").arg(&files.chain).arg("--key").arg(&files.key).args(script)
        };
        let mut server = peer("db", "serve", server).spawn();
        lab.pod("db").wait_port(at.port());
        let client = peer("web", "connect", client).run();
        (server.output(slow::limit(30)), client)
    };
    let ends = ["close-notify", "fin", "expect-close-notify", "expect-eof"];
    for options in [&[][..], &["--rustls"]] {
        let script = ["receive:30000", "keyupdate", "data:answer", "expect:last"];
        let client = ["send:20000", "keyupdate:3", "send:10000:999", "expect:answer", "padded:99:last"];
        let (server, client) =
            talk(&[options, &script, &ends].concat(), &[&client[..], &["expect-keyupdate"], &ends].concat());
        server.ok();
        assert_eq!(client.ok().json()["key_updates"], 1);
    }
    let (_, client) = talk(&["data:one", "rst"], &["expect:two"]);
    assert!(client.fails().json()["error"].as_str().is_some_and(|e| e.contains("\"one\" came instead")));
    for (last, expected, other) in [
        ("rst", "expect-rst", "expect-eof"),
        ("fin", "expect-eof", "expect-rst"),
        ("close-notify", "expect-close-notify", "expect-alert:internal_error"),
        ("alert:2:internal_error", "expect-alert:internal_error", "expect-close-notify"),
    ] {
        for (expectation, holds) in [(expected, true), (other, false)] {
            let (_, client) = talk(&["expect:x", last], &["data:x", expectation]);
            assert_eq!(client.code == Some(0), holds, "{last}, {expectation}: {client}");
        }
        // Data before the end is not overlooked.
        let (_, client) = talk(&["data:x", "expect:x", last], &["sleep:100", "data:x", expected]);
        assert!(client.fails().json()["error"].as_str().is_some_and(|e| e.contains("1 bytes came first")));
    }
    let (server, _) = talk(&["expect:x", "expect-broken-by-rst"], &["data:x", "expect:more", "rst"]);
    server.ok();
    let (server, _) = talk(&["expect:x", "expect-broken-by-rst"], &["data:x", "expect:more", "fin"]);
    server.fails();
    let (server, _) = talk(&["expect:x", "expect:y"], &["data:x", "try:corrupt:y", "expect-end"]);
    assert!(server.fails().json()["end"].as_str().is_some_and(|e| e.contains("not authenticate")));
}
