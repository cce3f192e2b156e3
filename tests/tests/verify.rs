//! `mtlsd verify`: what is not in place is found and named, put back where that is possible, and counted.

use std::fs;
use std::path::{Path, PathBuf};

use mtls_tests::programs::{self, raw};
use mtls_tests::{Pair, Process, STRICT_PAIR, eventually, slow};
use serde_json::Value;

/// A port on which a program echoes what it is sent.
const ECHO: u16 = 7000;

/// Exit code and checks of `mtlsd verify`.
#[track_caller]
fn verify(pair: &Pair) -> (Option<i32>, Vec<Value>) {
    let (code, text) = pair.daemon.cli(&["verify"]);
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
    (code, report["checks"].as_array().expect("a list of checks").clone())
}

/// The details of checks that failed (or held) of this name.
fn details(checks: &[Value], name: &str, ok: bool) -> Vec<String> {
    let wanted = |check: &&Value| check["name"] == name && check["ok"] == ok;
    checks.iter().filter(wanted).map(|c| c["detail"].as_str().unwrap_or_default().to_owned()).collect()
}

/// Waits until every check holds.
#[track_caller]
fn holds(pair: &Pair) -> Vec<Value> {
    let mut last = Vec::new();
    let found = mtls_tests::lab::within(slow::limit(30), || {
        let (code, checks) = verify(pair);
        last.clone_from(&checks);
        (code == Some(0)).then_some(checks)
    });
    found.unwrap_or_else(|| {
        panic!("verify does not hold: {:#?}", last.iter().filter(|c| c["ok"] == false).collect::<Vec<_>>())
    })
}

/// Spoils something until verify sees it, since the daemon mends it by itself; gives what verify says.
#[track_caller]
fn found_by_verify(pair: &Pair, check: &str, words: &str, spoil: impl Fn()) -> String {
    eventually(slow::limit(30), &format!("verify to say {words:?}"), || {
        spoil();
        let (code, checks) = verify(pair);
        let found = details(&checks, check, false).into_iter().find(|detail| detail.contains(words))?;
        assert_eq!(code, Some(1), "{checks:?}");
        Some(found)
    })
}

fn repairs(pair: &Pair, what: &str) -> f64 {
    pair.daemon.metric("mtlsd_repairs_total", &[("what", what)])
}

/// The pins of links of a program.
fn links(pair: &Pair, program: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(pair.daemon.bpffs().join("links")).expect("the links are pinned").flatten();
    let wanted = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(program));
    entries.map(|entry| entry.path()).filter(wanted).collect()
}

fn bpftool(pair: &Pair, args: &[&str]) -> mtls_tests::Output {
    pair.lab.tool("bpftool").args(args).run()
}

/// Takes a program away as `bpftool link detach` does. One that is away already stays so.
fn detach(pair: &Pair, program: &str) {
    for link in links(pair, program) {
        bpftool(pair, &["link", "detach", "pinned", &link.to_string_lossy()]);
    }
}

/// Deletes the first entry of a table.
#[track_caller]
fn delete_an_entry(pair: &Pair, name: &str) {
    let path = pair.daemon.table(name).to_string_lossy().into_owned();
    let next = pair.lab.tool("bpftool").args(["-j", "map", "getnext", "pinned", &path]).run().ok().json();
    let key = next["next_key"].as_array().unwrap_or_else(|| panic!("{next}"));
    let key: Vec<_> = key.iter().filter_map(|byte| byte.as_str()).collect();
    pair.lab.tool("bpftool").args(["map", "delete", "pinned", &path, "key"]).args(&key).run().ok();
}

#[test]
fn a_detached_program_is_found_by_name_and_put_back_and_counted() {
    let pair = Pair::strict();
    holds(&pair);
    for program in ["connect4", "egress", "steer_inbound"] {
        let before = repairs(&pair, "program");
        let said = found_by_verify(&pair, "programs attached", program, || detach(&pair, program));
        assert!(said.contains("not attached"), "{said}");
        pair.daemon.wait_metric("mtlsd_repairs_total", &[("what", "program")], before + 1.0);
        holds(&pair);
        let capture = pair.lab.capture();
        pair.works();
        capture.stop().assert_only_tls(80);
    }
}

#[test]
fn a_pin_that_is_removed_detaches_nothing_and_is_made_again() {
    let mut pair = Pair::strict();
    let removed: Vec<_> = ["connect6", "steer_inbound"].iter().flat_map(|name| links(&pair, name)).collect();
    assert!(removed.len() >= 3, "{removed:?}");
    let workloads = pair.daemon.table("WORKLOADS");
    let capture = pair.lab.capture();
    for pin in removed.iter().chain([&workloads]) {
        fs::remove_file(pin).unwrap_or_else(|e| panic!("{}: {e}", pin.display()));
    }
    pair.works();
    let all = u8::try_from(removed.len() + 1).expect("a few");
    pair.daemon.wait_metric("mtlsd_repairs_total", &[("what", "pin")], all.into());
    holds(&pair);
    assert!(removed.iter().chain([&workloads]).all(|pin| pin.exists()));
    // They are the same objects as before: what they keep in force outlives the daemon.
    pair.daemon.kill9();
    let said = pair.curl(pair.http()[1]);
    assert_ne!(said.code, Some(0), "strict holds: {said}");
    capture.stop().assert_only_tls(80);
    pair.daemon.start();
    pair.works();
}

#[test]
fn a_table_entry_that_somebody_deletes_is_found_and_put_back() {
    let pair = Pair::strict();
    holds(&pair);
    for (table, check) in
        [("WORKLOADS", "tables"), ("DESTINATIONS", "tables"), ("NAMESPACES", "namespaces known")]
    {
        let before = repairs(&pair, "table");
        let said = found_by_verify(&pair, check, table, || delete_an_entry(&pair, table));
        assert!(said.contains("missing"), "{said}");
        // Tables are looked at every 20 s.
        eventually(slow::limit(45), "the table to be put back", || {
            (repairs(&pair, "table") >= before + 1.0).then_some(())
        });
        holds(&pair);
    }
    let capture = pair.lab.capture();
    pair.works();
    capture.stop().assert_only_tls(80);
}

#[test]
fn a_workload_whose_settings_somebody_deletes_is_strict_until_they_are_back() {
    let mut pair = Pair::strict();
    let _echo = programs::probe(pair.db(), ECHO, &[]);
    holds(&pair);
    let capture = pair.lab.capture();
    delete_an_entry(&pair, "WORKLOADS");
    delete_an_entry(&pair, "WORKLOADS");
    pair.works();
    let connect = |pair: &Pair| {
        let to = pair.db().at(ECHO).to_string();
        pair.web().own("probe").args(["connect", &to, "--send", "hello"]).run()
    };
    let answered =
        |said: &mtls_tests::Output| String::from_utf8_lossy(&said.stdout).contains("\"received\":\"hello\"");
    assert!(answered(&connect(&pair)));
    pair.daemon.kill9();
    let said = connect(&pair);
    assert!(!answered(&said), "{said}");
    capture.stop().assert_only_tls(ECHO);
}

#[test]
fn a_listener_that_is_not_steered_to_any_more_is_opened_again() {
    let pair = Pair::strict();
    holds(&pair);
    let said =
        found_by_verify(&pair, "namespaces known", "LISTENERS", || delete_an_entry(&pair, "LISTENERS"));
    assert!(said.contains("missing"), "{said}");
    pair.daemon.wait_metric("mtlsd_repairs_total", &[("what", "listener")], 1.0);
    holds(&pair);
    let capture = pair.lab.capture();
    pair.works();
    capture.stop().assert_only_tls(80);
}

/// A connection of `web` that stays open until the process ends.
#[track_caller]
fn open(pair_or_lab: &mtls_tests::Lab, from: &str, to: std::net::SocketAddr) -> Process {
    let mut process =
        pair_or_lab.pod(from).own("probe").args(["connect", &to.to_string(), "--ask"]).piped().spawn();
    process.wait_for("\"ok\"");
    process
}

#[test]
fn a_connection_from_before_the_enrolment_is_listed_and_counted_until_it_is_closed() {
    let lab = Pair::lab();
    let _echo = programs::probe(lab.pod("db"), ECHO, &[]);
    let db = lab.pod("db");
    let (v4, v6) = (db.at(ECHO), db.at6(ECHO));
    let mut old = [open(&lab, "web", v4), open(&lab, "web", v6)];
    let pair = Pair::configured(lab, STRICT_PAIR);
    let (code, checks) = verify(&pair);
    assert_eq!(code, Some(1));
    let listed = details(&checks, "connections accounted for", false);
    assert_eq!(listed.len(), 4, "both ends of two connections: {listed:?}");
    for (to, process) in [v4, v6].iter().zip(&old) {
        let of = |local: bool| {
            let start = format!("{to} to ");
            listed.iter().filter(move |l| l.starts_with(&start) == local && l.contains(&to.to_string()))
        };
        let [client] = &of(false).collect::<Vec<_>>()[..] else { panic!("{listed:?}") };
        assert!(client.contains("(ESTABLISHED)") && client.contains("no program saw it begin"), "{client}");
        assert!(client.contains(&format!("pid {} (probe)", process.pid())), "{client}");
        assert_eq!(of(true).count(), 1, "the server's end: {listed:?}");
    }
    let whose = |name: &str| {
        let wanted = |c: &&Value| c["name"] == "connections accounted for" && c["workload"] == name;
        checks.iter().filter(wanted).count()
    };
    assert_eq!((whose("web"), whose("db")), (2, 2));
    for workload in ["web", "db"] {
        pair.daemon.wait_metric("mtlsd_unaccounted_connections", &[("workload", workload)], 2.0);
    }
    pair.daemon.wait_metric("mtlsd_verify_failed", &[("check", "connections")], 1.0);
    let alarms = pair.daemon.ask(&["status"])["alarms"].to_string();
    assert!(alarms.contains("verify: connections accounted for"), "{alarms}");

    old.iter_mut().for_each(Process::kill);
    holds(&pair);
    eventually(slow::limit(20), "nothing to be unaccounted", || {
        (pair.daemon.metric("mtlsd_unaccounted_connections", &[]) < 0.5).then_some(())
    });
    pair.works();
}

#[test]
fn under_ordinary_mixed_traffic_every_connection_is_accounted_for() {
    const DISABLED: u16 = 9100;
    const EXCLUDED: u16 = 7022;
    const PERMISSIVE: u16 = 8080;
    let lab = Pair::lab();
    let mut echoes = Vec::new();
    for port in [ECHO, DISABLED, EXCLUDED, PERMISSIVE] {
        echoes.push(programs::probe(lab.pod("db"), port, &[]));
    }
    echoes.push(programs::probe(lab.pod("out"), ECHO, &[]));
    echoes.push(programs::probe(lab.pod("web"), ECHO, &[]));
    let yaml = STRICT_PAIR.replace(
        r#"addresses: ["$db.v4", "$db.v6"] }"#,
        r#"addresses: ["$db.v4", "$db.v6"], ports: { 9100: disabled, 8080: permissive } }"#,
    );
    let pair = Pair::configured(lab, &format!("{yaml}exclude: {{ ports: [{EXCLUDED}] }}\n"));
    let (web, db, out) = (pair.web(), pair.db(), pair.out());
    let mut live = Vec::new();
    for to in [
        db.at(ECHO),
        db.at6(ECHO),
        db.at(DISABLED),
        db.at6(EXCLUDED),
        db.at(PERMISSIVE),
        out.at(ECHO),
        out.at6(ECHO),
        web.at(ECHO),
        format!("127.0.0.1:{ECHO}").parse().expect("an address"),
    ] {
        live.push(open(&pair.lab, "web", to));
    }
    for to in [db.at(PERMISSIVE), db.at6(DISABLED)] {
        live.push(open(&pair.lab, "out", to));
    }
    for process in &mut live {
        process.write(b"hello\n");
    }
    pair.works();
    let (code, checks) = verify(&pair);
    assert_eq!(code, Some(0), "{:?}", checks.iter().filter(|c| c["ok"] == false).collect::<Vec<_>>());
    let counted = details(&checks, "connections accounted for", true).join(" ");
    for words in
        ["carried", "mtlsd's own", "disabled", "excluded", "to unknown destinations", "to itself", "local"]
    {
        assert!(counted.contains(words), "{words:?} is not in {counted:?}");
    }
    pair.daemon.wait_metric("mtlsd_connections_live", &[], 5.0);
    assert!(pair.daemon.metric("mtlsd_unaccounted_connections", &[]) < 0.5);
    assert!(pair.daemon.metrics().contains("mtlsd_unaccounted_connections{workload=\"web\"} 0"));
}

#[test]
fn a_strict_port_is_tried_for_real_and_one_that_lets_plaintext_in_is_found() {
    let pair = Pair::strict();
    // Whoever listens on loopback only cannot be reached by a peer.
    let _local = pair.db().own("probe").args(["serve", "127.0.0.1:7001"]).spawn();
    pair.db().wait_port(7001);
    let before = pair.daemon.access_log().len();
    let checks = holds(&pair);
    let tried = details(&checks, "strict ports refuse plaintext", true);
    for to in pair.http() {
        let wanted = format!("{to} took a plaintext request and refused it: plaintext");
        assert!(tried.contains(&wanted), "{wanted:?} is not in {tried:?}");
    }
    assert!(!tried.iter().any(|detail| detail.contains("7001")), "{tried:?}");
    assert!(pair.refusals("db", "plaintext") < 0.5, "the daemon's own trial is no attack");
    assert_eq!(pair.daemon.access_log().len(), before);
    let flows_refused = || {
        let (_, text) = pair.daemon.cli(&["rollout", "status", "--workload", "db"]);
        let report: Value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let ports = report["ports"].as_array().cloned().unwrap_or_default();
        let peers = ports.iter().flat_map(|port| port["peers"].as_array().cloned().unwrap_or_default());
        peers.filter(|peer| peer["fate"] == "refused-now").collect::<Vec<_>>()
    };
    assert!(flows_refused().is_empty(), "nor a client that strict refuses: {:?}", flows_refused());
    // A real one still is.
    pair.refuses("plaintext", |to| raw(pair.out(), to, b"GET / HTTP/1.1\r\n\r\n", false));
    assert!(!flows_refused().is_empty());

    let said =
        found_by_verify(&pair, "strict ports refuse plaintext", ":80", || detach(&pair, "steer_inbound"));
    assert!(said.contains("the application itself takes plain connections"), "{said}");
    holds(&pair);
    pair.works();
}

#[test]
fn a_namespace_that_is_made_again_is_verified_again() {
    let mut pair = Pair::strict();
    holds(&pair);
    pair.nginx.kill();
    pair.lab.remove_pod("db");
    eventually(slow::limit(20), "db to be absent", || {
        let (_, checks) = verify(&pair);
        details(&checks, "workload enrolled", true)
            .iter()
            .any(|d| d.starts_with("not on this node"))
            .then_some(())
    });
    pair.lab.restore_pod("db");
    pair.nginx = programs::nginx(pair.lab.pod("db"), 80);
    let at = pair.http()[0];
    eventually(slow::limit(20), "its port to be tried again", || {
        let tried = details(&holds(&pair), "strict ports refuse plaintext", true);
        tried.iter().any(|d| d.starts_with(&format!("{at} took a plaintext request"))).then_some(())
    });
    let capture = pair.lab.capture();
    pair.works();
    capture.stop().assert_only_tls(80);
}

#[test]
fn a_workload_that_gets_another_name_is_captured_all_the_while() {
    let pair = Pair::strict();
    let _echo = programs::probe(pair.db(), ECHO, &[]);
    pair.works();
    let capture = pair.lab.capture();
    let probe = mtls_tests::lab::program_beside_the_test("probe");
    let connect = format!("{} connect {} --send hello", probe.display(), pair.db().at(ECHO));
    let mut storm = pair.web().spawn(&["sh", "-c", &format!("while :; do {connect}; done")]).quiet();
    let got_through = |storm: &Process| storm.printed().matches("\"received\":\"hello\"").count();
    eventually(slow::limit(20), "the storm to blow", || (got_through(&storm) > 3).then_some(()));
    // The looks come once a second: many changes, so that some meet one.
    for name in ["shop", "store", "web"].into_iter().cycle().take(15) {
        let applied = pair.daemon.metric("mtlsd_config_reloads_total", &[("result", "applied")]);
        let renamed = STRICT_PAIR.replace("name: web,", &format!("name: {name},"));
        pair.daemon.configure(&pair.lab.expand(&renamed));
        pair.daemon.wait_metric("mtlsd_config_reloads_total", &[("result", "applied")], applied + 1.0);
        let before = got_through(&storm);
        eventually(slow::limit(20), "connections under the new name", || {
            (got_through(&storm) > before + 3).then_some(())
        });
        holds(&pair);
    }
    storm.kill();
    capture.stop().assert_only_tls(ECHO);
}

#[test]
fn a_foreign_program_is_found_with_what_it_can_undo() {
    let pair = Pair::strict();
    holds(&pair);
    let group = pair.daemon.cgroup_root().parent().map(Path::to_path_buf).expect("below the lab's own");
    let child = pair.daemon.cgroup_root().join("web");
    let program = pair.daemon.bpffs().join("programs").join("connect4").to_string_lossy().into_owned();
    let cgroup = |what: &str, at: &Path| {
        let at = at.to_string_lossy();
        let mut args = vec!["cgroup", what, &*at, "connect4", "pinned", &program];
        if what == "attach" {
            args.push("multi");
        }
        bpftool(&pair, &args).ok();
    };
    // Below: it runs before, and mtlsd's has the last word.
    cgroup("attach", &child);
    let told = details(&holds(&pair), "order of programs", true).join(" ");
    assert!(told.contains("runs before connect4") && told.contains("/web"), "{told}");
    cgroup("detach", &child);
    // Above: it has the last word.
    cgroup("attach", &group);
    let (code, checks) = verify(&pair);
    cgroup("detach", &group);
    assert_eq!(code, Some(1));
    let told = details(&checks, "order of programs", false).join(" ");
    assert!(
        told.contains("(connect4) runs after connect4") && told.contains("another destination"),
        "{told}"
    );
    holds(&pair);
}

#[test]
fn after_a_kill_and_a_restart_everything_is_accounted_for_again() {
    let mut pair = Pair::strict();
    let _echo = programs::probe(pair.db(), ECHO, &[]);
    let mut cut = open(&pair.lab, "web", pair.db().at(ECHO));
    let capture = pair.lab.capture();
    pair.daemon.kill9();
    // What the daemon carried is cut, not left open and unaccounted for.
    cut.write(b"after the kill\n");
    cut.close_stdin();
    cut.ends_within(slow::limit(20)).expect("it notices");
    pair.daemon.start();
    let checks = holds(&pair);
    assert!(details(&checks, "connections accounted for", false).is_empty());
    pair.works();
    let traffic = capture.stop();
    traffic.assert_absent(b"after the kill");
    traffic.assert_only_tls(80);
}
