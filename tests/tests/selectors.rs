//! Which processes are whose, and what is left alone.

use std::fs;
use std::path::PathBuf;

use mtls_tests::lab::{NODE, cgroup, program_beside_the_test};
use mtls_tests::slow;
use mtls_tests::{Pair, STRICT_PAIR, eventually, programs};

#[test]
fn the_daemon_may_be_below_its_own_cgroup_root() {
    // As on a real node, where the root of the hierarchy is the cgroup root: the programs see the daemon's sockets.
    let pair = Pair::with("cgroup_root: $group\n");
    let capture = pair.lab.capture();
    for _ in 0..3 {
        pair.works();
    }
    capture.stop().assert_only_tls(80);
    assert!(pair.daemon.metric("mtlsd_ebpf_events_total", &[("event", "guard_dropped")]) < 0.5);
    let (code, text) = pair.daemon.cli(&["verify"]);
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn two_workloads_of_one_namespace_authenticate_each_other() {
    let yaml = r#"
workloads:
  - { name: client, select: { netns: $web.netns, cgroup: $web.cgroup } }
  - { name: server, select: { netns: $web.netns, cgroup: $db.cgroup }, listen_ports: [7000], addresses: ["$web.v4", "$web.v6"] }
policy: [ { name: client-only, action: allow, to: { workloads: [server] }, from: { spiffe_ids: ["spiffe://example.org/client"] } } ]
"#;
    let pair = Pair::configured(Pair::lab(), yaml);
    let binary = program_beside_the_test("probe");
    let _server = pair
        .web()
        .cmd_in_cgroup_of(pair.db(), binary)
        .args(["serve", "[::]:7000", "--greet", "from the server"])
        .spawn();
    pair.web().wait_port(7000);
    for to in [pair.web().at(7000), pair.web().at6(7000)] {
        let said = pair.web().own("probe").args(["connect", &to.to_string()]).run().ok().text();
        assert!(said.contains("from the server"), "{said}");
        let record = pair
            .daemon
            .wait_for_log("the server's side", |r| r.inbound() && r.destination() == to.to_string());
        assert_eq!((record.workload(), record.peer()), ("server", "spiffe://example.org/client"));
    }
    // Whoever shares the namespace but is no workload is a stranger to the server.
    let stranger = pair.web().inside(|| {
        use std::io::{Read, Write};
        let mut stream = std::net::TcpStream::connect(pair.web().at(7000)).expect("it is taken by mtlsd");
        stream.set_read_timeout(Some(slow::limit(10))).expect("a socket option");
        let _ = stream.write_all(b"hello");
        stream.read(&mut [0; 64])
    });
    assert!(stranger.is_err() || stranger.is_ok_and(|n| n == 0), "a stranger got an answer");
    pair.daemon.wait_for_log("the stranger's refusal", |r| r.inbound() && r.reason() == "plaintext");
}

/// What systemd does with a unit's cgroup: made at its start, removed at its end, made again with another ID.
struct Unit(PathBuf);

impl Unit {
    fn start(pair: &Pair, path: &str) -> Self {
        let unit = Self(pair.lab.node(NODE).cgroup_root.join(path));
        fs::create_dir_all(&unit.0).expect("cgroup v2 is writable");
        unit
    }

    fn stop(self) {
        cgroup::destroy(&self.0);
    }

    /// Asks db, as a program of this unit in web's namespace.
    fn get(&self, pair: &Pair) -> Option<i32> {
        let url = format!("http://{}/", pair.http()[0]);
        pair.web().cmd_in_cgroup(self.0.clone(), "curl").args(["-sS", "--max-time", "10", &url]).run().code
    }
}

#[test]
fn a_unit_is_found_in_its_slice_and_again_at_each_start() {
    let yaml = STRICT_PAIR.replacen("select: { netns: $web.netns }", "select: { unit: app.service }", 1);
    let pair = Pair::configured(Pair::lab(), &yaml);
    let presence = |pair: &Pair| {
        let workloads = pair.daemon.ask(&["workloads"]);
        let all = workloads.as_array().expect("a list").clone();
        let web = all.into_iter().find(|one| one["name"] == "web").expect("web");
        format!("{} {} {}", web["selector"], web["state"], web["detail"])
    };
    assert!(presence(&pair).contains("unit app.service"), "{}", presence(&pair));
    assert!(presence(&pair).contains("does not run there"), "{}", presence(&pair));
    let capture = pair.lab.capture();
    for path in ["system.slice/app.service", "system.slice/system-app.slice/app.service"] {
        let unit = Unit::start(&pair, path);
        let _main = pair.web().cmd_in_cgroup(unit.0.clone(), "sleep").arg("600").spawn();
        // What it sends before the daemon has seen it is not captured: its unit has it wait for that.
        let (code, text) = pair.daemon.cli(&["wait-enrolled", "web"]);
        assert_eq!(code, Some(0), "{text}");
        assert_eq!(unit.get(&pair), Some(0));
        let record = pair
            .daemon
            .wait_for_log("web's record", |r| !r.inbound() && r.workload() == "web" && !r.refused());
        assert_eq!(record.local(), "spiffe://example.org/web");
        unit.stop();
        eventually(slow::limit(10), "the unit to be gone", || {
            presence(&pair).contains("does not run there").then_some(())
        });
    }
    let traffic = capture.stop();
    traffic.assert_absent(b"GET / HTTP");
    traffic.assert_only_tls(80);
}

#[test]
fn a_unit_inside_another_workloads_slice_is_not_enrolled_and_says_so() {
    let yaml = STRICT_PAIR.replacen(
        "select: { netns: $web.netns }",
        "select: { unit: app.slice } }\n  - { name: inner, select: { unit: app.service }",
        1,
    );
    let pair = Pair::configured(Pair::lab(), &yaml);
    let unit = Unit::start(&pair, "app.slice/app.service");
    let _main = pair.web().cmd_in_cgroup(unit.0.clone(), "sleep").arg("600").spawn();
    eventually(slow::limit(10), "the slice to be enrolled", || (unit.get(&pair) == Some(0)).then_some(()));
    let record = pair.daemon.wait_for_log("the slice's record", |r| !r.inbound() && !r.refused());
    assert_eq!(record.workload(), "web");
    let text = pair.daemon.ask(&["workloads"]).to_string();
    assert!(text.contains("its cgroup lies inside that of workload web"), "{text}");
    unit.stop();
}

#[test]
fn a_workload_that_talks_to_itself_is_left_alone() {
    let pair = Pair::strict();
    let _server = programs::probe(pair.web(), 7000, &["--greet", "myself"]);
    for to in [pair.web().at(7000), pair.web().at6(7000)] {
        let said = pair.web().own("probe").args(["connect", &to.to_string()]).run().ok().text();
        assert!(said.contains("myself"), "{said}");
    }
    assert!(pair.daemon.access_log().is_empty(), "nothing of it concerns mtlsd");
}

#[test]
fn connect_may_complete_before_the_peer_has_answered() {
    for hold in ["handshake", "off"] {
        let yaml = STRICT_PAIR
            .replacen("{ name: web,", &format!("{{ name: web, connect_hold: {hold},"), 1)
            .replace("addresses: [\"$db.v4\"", "ports: { 9999: strict }, addresses: [\"$db.v4\"");
        let pair = Pair::configured(Pair::lab(), &yaml);
        let capture = pair.lab.capture();
        pair.works();
        // Nothing listens there: connect() succeeds, and the connection is reset, never silently closed.
        let output =
            pair.web().own("probe").args(["connect", &pair.db().at(9999).to_string(), "--send", "x"]).run();
        let text = format!("{}{}", output.text(), output.stderr);
        assert!(text.contains("ECONNRESET") || text.contains("ECONNREFUSED"), "{hold}: {text}");
        let record = pair.daemon.wait_for_log("web's record", |r| !r.inbound() && r.refused());
        assert_eq!(record.reason(), "application_refused", "{hold}");
        capture.stop().assert_only_tls(80);
    }
}

#[test]
fn the_programs_in_the_kernel_log_when_asked() {
    let pair = Pair::with("log: { level: debug, ebpf: debug }\n");
    pair.works();
    eventually(slow::limit(5), "a line of the eBPF programs", || {
        pair.daemon.printed().contains("captured connection of workload").then_some(())
    });
    let quiet = Pair::strict();
    quiet.works();
    assert!(!quiet.daemon.printed().contains("captured connection"), "off by default");
}

#[test]
fn a_workload_in_a_namespace_that_is_not_entered_yet_is_closed() {
    let yaml = STRICT_PAIR
        .replacen("select: { netns: $web.netns }", "select: { cgroup: $web.cgroup }", 1)
        .replacen("addresses: [\"$db.v4\"", "mode: permissive, addresses: [\"$db.v4\"", 1);
    let pair = Pair::configured(Pair::lab(), &yaml);
    let capture = pair.lab.capture();
    // No process of web was there before, so the daemon cannot know the namespace. db would take plaintext.
    let first = pair.curl(pair.http()[0]);
    if first.code == Some(0) {
        // The daemon was quicker than curl.
        pair.daemon.wait_for_log("the first request in TLS", |r| !r.inbound() && r.workload() == "web");
    } else {
        assert!(pair.daemon.metric("mtlsd_ebpf_events_total", &[("event", "daemon_away")]) > 0.5);
    }
    let _pause = pair.web().spawn(&["sleep", "600"]);
    eventually(slow::limit(10), "the namespace to be entered", || {
        (pair.curl(pair.http()[1]).code == Some(0)).then_some(())
    });
    let traffic = capture.stop();
    traffic.assert_absent(b"GET / HTTP");
    traffic.assert_only_tls(80);
}
