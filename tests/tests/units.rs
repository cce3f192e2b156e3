//! Services of systemd on hosts: the daemon is in the same namespace as they and all else of the host.

use mtls_tests::hosts::{Hosts, SERVER, enrolled, launch};
use mtls_tests::lab::cgroup;
use mtls_tests::{Record, eventually, slow};
use nix::sys::signal::Signal;

#[test]
fn services_of_two_hosts_authenticate_each_other_and_their_ports_are_learned() {
    let hosts = Hosts::new();
    let _client = hosts.client_runs();
    let first = hosts.serves("server.service", 7000);
    enrolled(&hosts.there, "server");
    closed_to_strangers(&hosts, 7000);
    let capture = hosts.lab.capture();
    hosts.waits_for_answer(7000);
    let inbound = |r: &Record, port: &str| r.inbound() && !r.refused() && r.destination().ends_with(port);
    let record = hosts.there.wait_for_log("the server's side", |r| inbound(r, ":7000"));
    assert_eq!((record.workload(), record.peer()), ("server", "spiffe://example.org/client"));
    let record = hosts.here.wait_for_log("the client's side", |r| !r.inbound() && !r.refused());
    assert_eq!((record.workload(), record.peer()), ("client", "spiffe://example.org/server"));
    // A listener that comes later is learned, too; and when the first one is gone nobody takes its port for the unit's.
    let _second = hosts.serves("server.service", 7001);
    capture.stop().assert_only_tls(7000);
    closed_to_strangers(&hosts, 7001);
    let capture = hosts.lab.capture();
    hosts.waits_for_answer(7001);
    hosts.there.wait_for_log("the later port", |r| inbound(r, ":7001"));
    drop(first);
    capture.stop().assert_only_tls(7001);
}

/// Waits until a port is learned: whoever is no workload gets nothing from it then.
#[track_caller]
fn closed_to_strangers(hosts: &Hosts, port: u16) {
    eventually(slow::limit(20), &format!("port {port} to be closed to strangers"), || {
        (!hosts.asks("other.service", port).contains("hello")).then_some(())
    });
}

#[test]
fn whoever_is_no_client_is_refused_by_a_learned_strict_port() {
    let hosts = Hosts::new();
    let _server = hosts.serves("server.service", 7000);
    enrolled(&hosts.there, "server");
    // Of no unit: its plaintext goes out as it is, and the server's daemon refuses it.
    closed_to_strangers(&hosts, 7000);
    hosts.there.wait_for_log("the stranger's refusal", |r| r.inbound() && r.reason() == "plaintext");
}

#[test]
fn the_rest_of_the_host_is_left_alone_and_what_manages_it_is_never_learned() {
    let hosts = Hosts::new();
    let _client = hosts.client_runs();
    let _server = hosts.serves("server.service", 7000);
    // ssh of the unit itself, and a port of another one.
    let _ssh = hosts.serves("server.service", 22);
    let _other = hosts.serves("other.service", 8000);
    enrolled(&hosts.there, "server");
    hosts.waits_for_answer(7000);
    for port in [22, 8000] {
        let said = hosts.asks("other.service", port);
        assert!(said.contains("hello"), "port {port}: {said}");
    }
    let taken = hosts.there.access_log();
    assert!(taken.iter().all(|record| record.destination().ends_with(":7000")), "{taken:?}");
}

#[test]
fn a_strict_port_takes_no_plaintext_before_it_is_learned() {
    let mut hosts = Hosts::new();
    let _client = hosts.client_runs();
    // The unit is known; nobody learns its port while the daemon stands still, and nobody when it is dead.
    let idle = hosts.unit("n2", "server.service");
    std::fs::create_dir_all(&idle).expect("cgroup v2 is writable");
    let _idle = hosts.h2().cmd_in_cgroup(idle, "sleep").arg("600").spawn();
    enrolled(&hosts.there, "server");
    hosts.there.process().signal(Signal::SIGSTOP);
    let first = hosts.serves("server.service", 7000);
    // Not of the unit: open as ever, also on a port that was the unit's a moment ago.
    let other = hosts.serves("other.service", 8000);
    let refused = hosts.asks("other.service", 7000);
    assert!(refused.contains("ECONNREFUSED") && !refused.contains("hello"), "{refused}");
    assert!(hosts.asks("other.service", 8000).contains("hello"));
    drop(first);
    let taken_over = hosts.serves("other.service", 7000);
    assert!(hosts.asks("other.service", 7000).contains("hello"));
    drop((taken_over, other));
    hosts.there.process().signal(Signal::SIGCONT);
    hosts.there.kill9();
    let _second = hosts.serves("server.service", 7000);
    let refused = hosts.asks("other.service", 7000);
    assert!(refused.contains("ECONNREFUSED") && !refused.contains("hello"), "{refused}");
    launch(&mut hosts.there);
    hosts.waits_for_answer(7000);
    assert!(!hosts.asks("other.service", 7000).contains("hello"));
}

#[test]
fn a_unit_without_a_process_for_a_moment_is_closed_when_the_next_one_listens() {
    let mut hosts = Hosts::new();
    let unit = hosts.unit("n2", "server.service");
    std::fs::create_dir_all(&unit).expect("cgroup v2 is writable");
    // As systemd's ExecStartPre= and ExecStart=: one process ends before the next one begins.
    let before = hosts.h2().cmd_in_cgroup(unit, "sleep").arg("600").spawn();
    enrolled(&hosts.there, "server");
    drop(before);
    eventually(slow::limit(20), "a look at the empty unit", || {
        hosts.there.ask(&["workloads"]).to_string().contains("has no process").then_some(())
    });
    hosts.there.process().signal(Signal::SIGSTOP);
    let _server = hosts.serves("server.service", 7000);
    let refused = hosts.asks("other.service", 7000);
    hosts.there.process().signal(Signal::SIGCONT);
    assert!(refused.contains("ECONNREFUSED") && !refused.contains("hello"), "{refused}");
}

#[test]
fn a_port_of_a_permissive_unit_is_open_before_it_is_learned() {
    let mut hosts = Hosts::with(&SERVER.replace("} ]", ", mode: permissive } ]"));
    let idle = hosts.unit("n2", "server.service");
    std::fs::create_dir_all(&idle).expect("cgroup v2 is writable");
    let _idle = hosts.h2().cmd_in_cgroup(idle, "sleep").arg("600").spawn();
    enrolled(&hosts.there, "server");
    hosts.there.process().signal(Signal::SIGSTOP);
    let _server = hosts.serves("server.service", 7000);
    let said = hosts.asks("other.service", 7000);
    hosts.there.process().signal(Signal::SIGCONT);
    assert!(said.contains("hello"), "{said}");
}

#[test]
fn a_unit_that_starts_again_has_its_ports_learned_again() {
    let hosts = Hosts::new();
    let _client = hosts.client_runs();
    for _ in 0..2 {
        let server = hosts.serves("server.service", 7000);
        hosts.waits_for_answer(7000);
        drop(server);
        cgroup::destroy(&hosts.unit("n2", "server.service"));
        eventually(slow::limit(20), "the unit to be gone", || {
            hosts.there.ask(&["workloads"]).to_string().contains("does not run there").then_some(())
        });
    }
    assert!(hosts.there.access_log().iter().any(|record| record.inbound() && !record.refused()));
}
