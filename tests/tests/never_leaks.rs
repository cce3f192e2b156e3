//! No plaintext byte of a strict workload is ever on the wire: not during `kill -9`, not after, not while mtlsd is down.

use std::time::Duration;

use mtls_tests::programs::{self, raw};
use mtls_tests::slow;
use mtls_tests::{Cmd, Pair, STRICT_PAIR, eventually};

/// A port on which `db` echoes what it is sent.
const ECHO: u16 = 7000;
/// What no capture may hold.
const MARKER: &str = "TOP-SECRET-0123456789";

/// An application in `web` that connects to the echo and sends the marker.
fn tell(pair: &Pair, v6: bool) -> Cmd {
    let to = if v6 { pair.db().at6(ECHO) } else { pair.db().at(ECHO) };
    pair.web().own("probe").args(["connect", &to.to_string(), "--send", MARKER])
}

/// Checks that the application fails with ECONNREFUSED over both families.
#[track_caller]
fn connects_are_refused(pair: &Pair) {
    for v6 in [false, true] {
        let said = tell(pair, v6).run().ok().text();
        assert!(said.contains("\"ECONNREFUSED\""), "while mtlsd is down: {said}");
    }
}

/// Checks that the application gets its marker back over both families.
#[track_caller]
fn connects_work(pair: &Pair) {
    for v6 in [false, true] {
        let said = tell(pair, v6).run().ok().text();
        assert!(said.contains(&format!("\"received\":\"{MARKER}\"")), "{said}");
    }
}

#[test]
fn kill_9_under_traffic_puts_no_plaintext_on_the_wire() {
    let mut pair = Pair::strict();
    let _echo = programs::probe(pair.db(), ECHO, &[]);
    let file = programs::nginx_files(pair.db()).join("big");
    programs::random_file(pair.db(), &file, 64);
    let capture = pair.lab.capture();
    connects_work(&pair);
    // A long transfer (slow, so that the capture stays small) and a storm of short connections go on while the daemon dies.
    let url = format!("http://{}/files/big", pair.db().at(80));
    let received = pair.lab.dir().join("received");
    let to = received.to_str().expect("UTF-8");
    let mut transfer = pair.web().spawn(&["curl", "-sS", "--limit-rate", "1M", "-o", to, &url]).quiet();
    let storm = format!(
        "while :; do {} connect {} --send {MARKER}; {} connect {} --send {MARKER}; done",
        mtls_tests::lab::program_beside_the_test("probe").display(),
        pair.db().at(ECHO),
        mtls_tests::lab::program_beside_the_test("probe").display(),
        pair.db().at6(ECHO),
    );
    let mut storm = pair.web().spawn(&["sh", "-c", &storm]).quiet();
    eventually(slow::limit(10), "the storm to blow", || {
        (storm.printed().matches(MARKER).count() > 3).then_some(())
    });
    eventually(slow::limit(10), "the transfer to begin", || {
        std::fs::metadata(&received).is_ok_and(|file| file.len() > 0).then_some(())
    });
    assert!(transfer.poll().is_none(), "the transfer still goes on");
    pair.daemon.kill9();
    let ended = transfer.ends_within(slow::limit(20)).expect("the transfer notices");
    assert!(!ended.success(), "a cut transfer is never reported as complete");
    connects_are_refused(&pair);
    std::thread::sleep(Duration::from_millis(500));

    pair.daemon.start();
    storm.kill();
    connects_work(&pair);
    let traffic = capture.stop();
    traffic.assert_absent(MARKER.as_bytes());
    for port in [ECHO, 80] {
        traffic.assert_only_tls(port);
    }
}

#[test]
fn between_a_clean_stop_and_the_next_start_strict_holds() {
    let mut pair = Pair::strict();
    let _echo = programs::probe(pair.db(), ECHO, &[]);
    pair.daemon.stop();
    let capture = pair.lab.capture();
    connects_are_refused(&pair);
    let traffic = capture.stop();
    traffic.assert_no_payload(ECHO);
    pair.daemon.start();
    connects_work(&pair);
}

#[test]
fn a_strict_port_takes_no_plaintext_while_the_daemon_is_dead() {
    let mut pair = Pair::strict();
    let echo = programs::probe(pair.db(), ECHO, &[]);
    connects_work(&pair);
    let accepted = echo.printed().matches("\"accept\"").count();
    pair.daemon.kill9();
    for to in [pair.db().at(ECHO), pair.db().at6(ECHO)] {
        let outcome = raw(pair.out(), to, MARKER.as_bytes(), true);
        assert!(outcome.as_ref().map_or(true, Vec::is_empty), "the application answered: {outcome:?}");
    }
    assert_eq!(echo.printed().matches("\"accept\"").count(), accepted, "{}", echo.printed());
}

#[test]
fn an_mptcp_socket_does_not_leak() {
    let pair = Pair::strict();
    let _echo = programs::probe(pair.db(), ECHO, &["--mptcp"]);
    let capture = pair.lab.capture();
    for v6 in [false, true] {
        let said = tell(&pair, v6).arg("--mptcp").run().ok().text();
        // Either the connection is refused with a clean error, or it went over TLS like any other.
        assert!(!said.contains("\"ok\"") || said.contains(&format!("\"received\":\"{MARKER}\"")), "{said}");
    }
    capture.stop().assert_absent(MARKER.as_bytes());
}

#[test]
fn tcp_fast_open_does_not_leak() {
    let pair = Pair::strict();
    for pod in [pair.web(), pair.db()] {
        // Clients and servers, without asking for a cookie first: data would be in the very first SYN.
        pod.sysctl("net.ipv4.tcp_fastopen", "1543");
    }
    let _echo = programs::probe(pair.db(), ECHO, &[]);
    let capture = pair.lab.capture();
    for v6 in [false, true, false, true] {
        tell(&pair, v6).arg("--fastopen").run().ok();
    }
    let traffic = capture.stop();
    traffic.assert_absent(MARKER.as_bytes());
}

#[test]
fn a_connection_from_before_the_enrolment_does_not_leak_after_it() {
    let lab = Pair::lab();
    let echo = programs::probe(lab.pod("db"), ECHO, &[]);
    let mut old = Vec::new();
    for to in [lab.pod("db").at(ECHO), lab.pod("db").at6(ECHO)] {
        let mut process =
            lab.pod("web").own("probe").args(["connect", &to.to_string(), "--ask"]).piped().spawn();
        process.wait_for("\"ok\"");
        process.write(b"before-enrolment\n");
        old.push(process);
    }
    let pair = Pair::configured(lab, STRICT_PAIR);
    if let Err(why) = pair.daemon.ability("guard") {
        assert!(why.contains("Linux 6.15"), "it says what is missing: {why}");
        let test = a_connection_from_before_the_enrolment_does_not_leak_after_it;
        return mtls_tests::could_not_run(test, &why);
    }
    let capture = pair.lab.capture();
    for process in &mut old {
        process.write(format!("{MARKER}\n").as_bytes());
        process.close_stdin();
    }
    std::thread::sleep(Duration::from_secs(1));
    old.iter_mut().for_each(mtls_tests::Process::kill);
    std::thread::sleep(Duration::from_millis(200));
    // The processes' death must not push it out either: unsent bytes go with the FIN.
    capture.stop().assert_absent(MARKER.as_bytes());
    assert!(!echo.printed().contains(MARKER), "{}", echo.printed());
}

#[test]
fn nothing_leaks_while_the_daemon_starts_under_traffic() {
    let mut pair = Pair::strict();
    let _echo = programs::probe(pair.db(), ECHO, &[]);
    let capture = pair.lab.capture();
    let probe = mtls_tests::lab::program_beside_the_test("probe");
    let storm =
        format!("while :; do {} connect {} --send {MARKER}; done", probe.display(), pair.db().at6(ECHO));
    let mut storm = pair.web().spawn(&["sh", "-c", &storm]).quiet();
    for _ in 0..3 {
        pair.daemon.kill9();
        std::thread::sleep(Duration::from_millis(200));
        pair.daemon.start();
        let got_through = || storm.printed().matches(&format!("\"received\":\"{MARKER}\"")).count();
        let before = got_through();
        eventually(slow::limit(10), "connections to get through again", || {
            (got_through() > before).then_some(())
        });
    }
    assert!(storm.printed().contains("ECONNREFUSED"), "some were refused");
    storm.kill();
    let traffic = capture.stop();
    traffic.assert_only_tls(ECHO);
    traffic.assert_absent(MARKER.as_bytes());
}

#[test]
fn a_broken_configuration_at_start_leaves_strict_in_force() {
    let mut pair = Pair::strict();
    let _echo = programs::probe(pair.db(), ECHO, &[]);
    pair.daemon.kill9();
    pair.daemon.configure("workloads: [ { name: web, nonsense: true } ]\n");
    pair.daemon.run_to_end().fails();
    let capture = pair.lab.capture();
    connects_are_refused(&pair);
    capture.stop().assert_no_payload(ECHO);
}
