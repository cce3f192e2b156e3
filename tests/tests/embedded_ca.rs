//! The embedded CA while daemons run with it.

use mtls_tests::scenario::two_nodes;
use mtls_tests::{Daemon, Pair, eventually, slow};

fn ca(daemon: &Daemon) -> serde_json::Value {
    daemon.ask(&["status"])["embedded_ca"].clone()
}

/// Waits until the daemon says that its CA is in a phase, with so many roots.
#[track_caller]
fn in_phase(daemon: &Daemon, phase: &str, roots: usize) {
    eventually(slow::limit(20), phase, || {
        let ca = ca(daemon);
        (ca["phase"] == phase && ca["roots"].as_array().map(Vec::len) == Some(roots)).then_some(())
    });
}

/// Waits until the certificate of a workload is another one, and gives its serial.
#[track_caller]
fn another_certificate(daemon: &Daemon, before: &str) -> String {
    eventually(slow::limit(20), "another certificate", || {
        let serial = serial(daemon);
        (serial != before).then_some(serial)
    })
}

fn serial(daemon: &Daemon) -> String {
    daemon.ask(&["workloads"])[0]["certificate"]["serial"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_root_of_two_nodes_changes_step_by_step_without_a_restart_or_a_refusal() {
    let (lab, _nginx, here, there) = two_nodes();
    let pids = || [&here, &there].map(|daemon| daemon.ask(&["status"])["pid"].clone());
    let works = || {
        let to = lab.pod("far").at(80);
        let answer = lab.pod("web").run(&["curl", "-sS", &format!("http://{to}/")]).ok();
        assert_eq!(answer.text(), "hello from far");
    };
    let rotate = |daemon: &Daemon, step: &[&str]| {
        daemon.ca_tool("rotate").args(step).run().ok();
    };
    let before = pids();
    works();

    rotate(&here, &["--begin"]);
    there.share_next_ca(&here);
    for daemon in [&here, &there] {
        in_phase(daemon, "begun", 2);
    }
    works();

    let old = serial(&here);
    rotate(&here, &["--switch"]);
    in_phase(&here, "switched", 2);
    another_certificate(&here, &old);
    // One side has a certificate of the new root and the other one of the old.
    works();
    let old = serial(&there);
    rotate(&there, &["--switch"]);
    in_phase(&there, "switched", 2);
    another_certificate(&there, &old);
    works();

    for daemon in [&here, &there] {
        rotate(daemon, &["--finish", "--force"]);
        in_phase(daemon, "steady", 1);
    }
    works();
    assert_eq!(ca(&here)["roots"], ca(&there)["roots"]);
    assert_eq!(pids(), before, "nobody was restarted");
    let refused = |daemon: &Daemon| daemon.ask(&["status"])["connections"]["refused"].clone();
    assert_eq!((refused(&here), refused(&there)), (0.into(), 0.into()));
}

#[test]
fn a_revoked_certificate_of_a_running_daemon_is_replaced_and_the_log_says_for_whom() {
    let pair = Pair::strict();
    pair.works();
    let old = serial(&pair.daemon);
    pair.daemon.ca_tool("revoke").args(["--serial", &old, "--reason", "keyCompromise"]).run().ok();
    another_certificate(&pair.daemon, &old);
    pair.works();
    let listed = pair.daemon.ca_tool("list").arg("--json").run().ok().text();
    let listed: serde_json::Value = serde_json::from_str(&listed).expect("JSON");
    let certificates = listed["certificates"].as_array().expect("a list");
    let revoked = certificates.iter().find(|one| one["serial"] == old.as_str()).expect("it was logged");
    assert_eq!(revoked["revoked"], true);
    assert!(revoked["requested_by"].as_str().is_some_and(|who| who.starts_with("workload ")), "{revoked}");
}

#[test]
fn a_daemons_memory_is_locked_and_cannot_be_dumped() {
    let pair = Pair::strict();
    pair.works();
    let status = pair.daemon.ask(&["status"]);
    let abilities = status["abilities"].as_array().expect("a list");
    let locked = abilities.iter().find(|one| one["name"] == "locked-memory").expect("it is always listed");
    assert_eq!(locked["available"], true, "{locked}");
    let process = std::path::PathBuf::from(format!("/proc/{}", status["pid"]));
    let memory = std::fs::read_to_string(process.join("status")).expect("it runs");
    let locked = memory.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("Linux says so");
    let kib: u64 = locked.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(kib > 0, "{memory}");
    let limits = std::fs::read_to_string(process.join("limits")).expect("it runs");
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).expect("Linux says so");
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
}
