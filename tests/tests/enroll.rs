//! `mtlsd enroll`, `unenroll`, `confirm` and `list` on a host.

use std::fs;
use std::path::PathBuf;

use mtls_tests::hosts::{Hosts, enrolled, launch};
use mtls_tests::lab::{Daemon, cgroup};
use mtls_tests::{eventually, slow};

/// The server's host has no workload yet.
fn bare() -> Hosts {
    Hosts::with("")
}

fn drop_in(daemon: &Daemon) -> PathBuf {
    PathBuf::from(format!("{}.d/enrolled-server.yaml", daemon.config().display()))
}

fn enroll(hosts: &Hosts, more: &[&str]) -> (Option<i32>, String) {
    let words = [&["enroll", "unit:server.service", "--name", "server"], more].concat();
    hosts.there.cli(&words)
}

fn mode(daemon: &Daemon) -> Option<String> {
    let all = daemon.ask(&["list"]);
    Some(all.as_array()?.iter().find(|one| one["name"] == "server")?["mode"].as_str()?.to_owned())
}

#[test]
fn a_unit_is_enrolled_by_command_also_after_a_restart_until_it_is_taken_back() {
    let mut hosts = bare();
    let _client = hosts.client_runs();
    let _server = hosts.serves("server.service", 7000);
    assert!(hosts.asks("other.service", 7000).contains("hello"), "nobody is a workload there");
    let (code, text) = enroll(&hosts, &[]);
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("7000") && text.contains("spiffe://example.org/server"), "{text}");
    assert_eq!(mode(&hosts.there).as_deref(), Some("permissive"));
    hosts.waits_for_answer(7000);
    hosts.there.wait_for_log("mutual TLS", |r| r.inbound() && r.peer() == "spiffe://example.org/client");
    assert!(hosts.asks("other.service", 7000).contains("hello"), "permissive takes plaintext");
    // Once more, stricter; and it stays so when the daemon starts again.
    assert_eq!(enroll(&hosts, &["--mode", "strict"]).0, Some(0));
    hosts.there.kill9();
    launch(&mut hosts.there);
    enrolled(&hosts.there, "server");
    assert_eq!(mode(&hosts.there).as_deref(), Some("strict"));
    hosts.waits_for_answer(7000);
    assert!(!hosts.asks("other.service", 7000).contains("hello"), "strict refuses plaintext");
    let (code, text) = hosts.there.cli(&["unenroll", "server"]);
    assert_eq!(code, Some(0), "{text}");
    assert!(!drop_in(&hosts.there).exists());
    assert_eq!(hosts.there.ask(&["list"]).as_array().map(Vec::len), Some(0));
    eventually(slow::limit(10), "plaintext to be nobody's business", || {
        hosts.asks("other.service", 7000).contains("hello").then_some(())
    });
}

#[test]
fn what_nobody_confirms_is_undone_also_by_the_next_daemon() {
    let mut hosts = bare();
    let _server = hosts.serves("server.service", 7000);
    assert_eq!(enroll(&hosts, &[]).0, Some(0));
    let before = fs::read_to_string(drop_in(&hosts.there)).expect("it is written");
    let undone = |hosts: &Hosts| {
        eventually(slow::limit(20), "the change to be undone", || {
            (mode(&hosts.there).as_deref() == Some("permissive")).then_some(())
        });
        assert_eq!(fs::read_to_string(drop_in(&hosts.there)).expect("it is there"), before);
    };
    let (code, text) = enroll(&hosts, &["--mode", "strict", "--confirm-within", "2s"]);
    assert_eq!(code, Some(0), "{text}");
    assert_eq!(mode(&hosts.there).as_deref(), Some("strict"));
    undone(&hosts);
    assert!(hosts.there.printed().contains("was not confirmed in time and is undone"));
    // The daemon is killed before the time is over, and started after it.
    assert_eq!(enroll(&hosts, &["--mode", "strict", "--confirm-within", "2s"]).0, Some(0));
    hosts.there.kill9();
    std::thread::sleep(std::time::Duration::from_secs(3));
    launch(&mut hosts.there);
    undone(&hosts);
}

#[test]
fn what_is_confirmed_stays_and_only_one_change_waits() {
    let hosts = bare();
    let _server = hosts.serves("server.service", 7000);
    let strict = ["--mode", "strict", "--confirm-within", "30s"];
    assert_eq!(enroll(&hosts, &strict).0, Some(0));
    let said = hosts.there.shown(&["enroll", "unit:other.service"]);
    assert!(said.code == Some(1) && said.stderr.contains("waits to be confirmed"), "{}", said.stderr);
    assert!(hosts.there.ask(&["list"])[0]["undone_in"].as_u64().is_some_and(|left| left <= 30));
    assert_eq!(hosts.there.cli(&["confirm"]).0, Some(0));
    assert!(hosts.there.ask(&["list"])[0]["undone_in"].is_null());
    let said = hosts.there.shown(&["confirm"]);
    assert!(said.code == Some(1) && said.stderr.contains("nothing waits"), "{}", said.stderr);
    assert_eq!(mode(&hosts.there).as_deref(), Some("strict"));
}

#[test]
fn what_would_be_refused_changes_nothing_and_a_dry_run_neither() {
    let hosts = Hosts::new();
    let _server = hosts.serves("server.service", 7000);
    enrolled(&hosts.there, "server");
    // The main file has this name and this unit already.
    let said = hosts.there.shown(&["enroll", "unit:server.service", "--name", "server"]);
    assert!(said.code == Some(1) && said.stderr.contains("is taken already"), "{}", said.stderr);
    assert!(said.stderr.contains("nothing was changed"), "{}", said.stderr);
    let said = hosts.there.shown(&["unenroll", "server"]);
    assert!(said.code == Some(1) && said.stderr.contains("was not enrolled by"), "{}", said.stderr);
    let said = hosts.there.shown(&["enroll", "unit:other.service", "--mode", "strict", "--dry-run"]);
    assert_eq!(said.code, Some(0), "{}", said.stderr);
    assert!(
        said.text().contains("Nothing was changed")
            && said.text().contains("select: { unit: 'other.service' }")
    );
    let directory = drop_in(&hosts.there).parent().expect("it has one").to_owned();
    assert_eq!(fs::read_dir(directory).map(Iterator::count).unwrap_or(0), 0, "nothing is written");
    enrolled(&hosts.there, "server");
}

/// As a unit does that has `ExecStartPre=+/usr/bin/mtlsd wait-enrolled`, each time it starts.
#[test]
fn a_unit_that_waits_to_be_enrolled_sends_nothing_earlier() {
    let hosts = Hosts::new();
    let _server = hosts.serves("server.service", 7000);
    enrolled(&hosts.there, "server");
    let said = hosts.here.shown(&["wait-enrolled", "client", "--timeout", "1s"]);
    assert!(said.code == Some(1) && said.text().contains("is not enrolled"), "{}", said.text());
    let capture = hosts.lab.capture();
    for _ in 0..4 {
        // The cgroup is there when the first command runs, and a process in it, which is in the unit's network by then.
        let mut waits =
            hosts.probe("n1", "client.service").args(["serve", "127.0.0.1:9", "--greet", ""]).spawn();
        waits.wait_for("listening");
        let (code, text) = hosts.here.cli(&["wait-enrolled", "client"]);
        assert_eq!(code, Some(0), "{text}");
        let said = hosts.asks("client.service", 7000);
        let records = || [hosts.here.access_log(), hosts.there.access_log()].concat();
        assert!(said.contains("hello"), "{said}\n{:?}", records());
        drop(waits);
        cgroup::destroy(&hosts.unit("n1", "client.service"));
    }
    capture.stop().assert_only_tls(7000);
}
