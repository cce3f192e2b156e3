//! Where every process must belong to a workload, nothing leaves between the birth of a workload and its enrolment.

use mtls_tests::programs::{self, raw};
use mtls_tests::{Cmd, Daemon, Lab, Pod, eventually, slow};
use nix::sys::signal::Signal;

/// A port on which servers echo what they are sent.
const ECHO: u16 = 7000;
/// What no capture may hold.
const MARKER: &str = "TOP-SECRET-0123456789";
const NO_WORKLOAD: &str = "(none)";

/// `db` is a strict workload; `late` is one that does not exist when the daemon starts; `out` is left alone; nobody has
/// heard of `stranger`.
fn world(select_late: &str, unclassified: &str) -> (Lab, Daemon) {
    let lab = Lab::new(&["db", "late", "out", "stranger"]);
    lab.remove_pod("late");
    let yaml = format!(
        r#"
workloads:
  - {{ name: db, select: {{ netns: $db.netns }}, addresses: ["$db.v4", "$db.v6"] }}
  - {{ name: late, select: {{ {select_late} }}, addresses: ["$late.v4", "$late.v6"], listen_ports: [{ECHO}] }}
  - {{ name: out, select: {{ netns: $out.netns }}, mode: disabled }}
policy: [ {{ name: all, action: allow, from: {{ trust_domains: [example.org] }} }} ]
{unclassified}
"#
    );
    let yaml = match select_late.contains("cgroup") {
        true => yaml,
        false => yaml.replace(&format!(", listen_ports: [{ECHO}]"), ""),
    };
    let daemon = lab.daemon(&yaml);
    (lab, daemon)
}

fn tell(from: &Pod, to: &Pod, v6: bool) -> Cmd {
    let to = if v6 { to.at6(ECHO) } else { to.at(ECHO) };
    from.own("probe").args(["connect", &to.to_string(), "--send", MARKER])
}

fn unclassified(daemon: &Daemon) -> f64 {
    daemon.metric("mtlsd_ebpf_events_total", &[("event", "unclassified")])
}

/// The daemon sleeps while `late` is born, so that the time before its enrolment is as long as the test needs.
fn born_while_the_daemon_sleeps(select_late: &str, enclosure: &str) {
    let (lab, mut daemon) = world(select_late, enclosure);
    let _db = programs::probe(lab.pod("db"), ECHO, &[]);
    let capture = lab.capture();
    daemon.process().signal(Signal::SIGSTOP);
    lab.restore_pod("late");
    for v6 in [false, true] {
        let said = tell(lab.pod("late"), lab.pod("db"), v6).run().ok().text();
        assert!(said.contains("ECONNREFUSED"), "before the daemon knows it: {said}");
    }
    // It serves as well: what it answers stays inside.
    let _late = programs::probe(lab.pod("late"), ECHO, &["--greet", MARKER]);
    for to in [lab.pod("late").at(ECHO), lab.pod("late").at6(ECHO)] {
        let answer = raw(lab.pod("out"), to, b"hello", true);
        assert!(answer.as_ref().map_or(true, Vec::is_empty), "an answer came out: {answer:?}");
    }
    // A client that waits for longer: TCP sends again what was dropped, also after the enrolment.
    let patient: Vec<_> = [lab.pod("late").at(ECHO), lab.pod("late").at6(ECHO)]
        .map(|to| lab.pod("out").own("probe").args(["connect", &to.to_string(), "--ask"]).piped().spawn())
        .into();
    daemon.process().signal(Signal::SIGCONT);
    for v6 in [false, true] {
        eventually(slow::limit(20), "late to be enrolled", || {
            let said = tell(lab.pod("late"), lab.pod("db"), v6).run().ok().text();
            said.contains(&format!("\"received\":\"{MARKER}\"")).then_some(())
        });
    }
    // Retransmissions come after 0.2, 0.6, 1.4 and 3 s.
    std::thread::sleep(slow::stretched(std::time::Duration::from_secs(4)));
    drop(patient);
    let traffic = capture.stop();
    traffic.assert_absent(MARKER.as_bytes());
    assert!(unclassified(&daemon) > 3.0, "they are counted");
    let record = daemon.wait_for_log("the refusal", |r| r.reason() == "unclassified");
    assert_eq!((record.workload(), record.local(), record.refused()), (NO_WORKLOAD, "", true), "{record:?}");
    assert!(record.mend().contains("mode: disabled"), "{record:?}");
    let (code, text) = daemon.cli(&["explain", record.id()]);
    assert!(code == Some(0) && text.contains("belongs to no workload"), "{text}");
}

#[test]
fn no_plaintext_leaves_a_namespace_between_its_creation_and_its_enrolment() {
    born_while_the_daemon_sleeps("netns: $late.netns", "unclassified: { namespaces: refuse }");
}

#[test]
fn no_plaintext_leaves_a_cgroup_between_its_creation_and_its_enrolment() {
    born_while_the_daemon_sleeps(
        "cgroup: $late.cgroup",
        "cgroup_root: $group\nunclassified: { cgroups: [$group/n1] }",
    );
}

#[test]
fn no_plaintext_leaves_a_workload_that_is_born_while_the_daemon_is_dead() {
    let (lab, mut daemon) = world("netns: $late.netns", "unclassified: { namespaces: refuse }");
    let _db = programs::probe(lab.pod("db"), ECHO, &[]);
    let capture = lab.capture();
    daemon.kill9();
    lab.restore_pod("late");
    let probe = mtls_tests::lab::program_beside_the_test("probe");
    let to = lab.pod("db").at(ECHO);
    let storm = format!("while :; do {} connect {to} --send {MARKER}; done", probe.display());
    let mut storm = lab.pod("late").spawn(&["sh", "-c", &storm]).quiet();
    storm.wait_for("ECONNREFUSED");
    daemon.start();
    storm.wait_for(&format!("\"received\":\"{MARKER}\""));
    storm.kill();
    let traffic = capture.stop();
    traffic.assert_absent(MARKER.as_bytes());
    traffic.assert_only_tls(ECHO);
}

#[test]
fn a_stranger_stays_closed_and_what_is_left_alone_or_excluded_stays_open() {
    let (lab, daemon) = world(
        "netns: $late.netns",
        "unclassified: { namespaces: refuse, cgroups: [$group/n1] }\ncgroup_root: $group\nexclude: { ports: [7001] }",
    );
    let _open = programs::probe(lab.pod("out"), ECHO, &[]);
    let _excluded = programs::probe(lab.pod("out"), 7001, &[]);
    for (v6, to) in [(false, lab.pod("out").at(7001)), (true, lab.pod("out").at6(7001))] {
        let said = tell(lab.pod("stranger"), lab.pod("out"), v6).run().ok().text();
        assert!(said.contains("ECONNREFUSED"), "{said}");
        let excluded = lab.pod("stranger").own("probe").args(["connect", &to.to_string(), "--send", MARKER]);
        let said = excluded.run().ok().text();
        assert!(said.contains(&format!("\"received\":\"{MARKER}\"")), "an excluded port: {said}");
    }
    let record = daemon.wait_for_log("the refusal", |r| r.reason() == "unclassified");
    assert!(record.detail().contains("probe") || record.detail().contains("ended"), "{record:?}");
    // `out` serves and asks as before.
    let _serves = programs::probe(lab.pod("stranger"), 7002, &[]);
    let to = lab.pod("stranger").at(7002).to_string();
    let said = lab.pod("out").own("probe").args(["connect", &to, "--ask"]).run();
    assert!(said.text().contains("\"ok\""), "out may connect: {}", said.text());
}

#[test]
fn without_it_what_is_not_enrolled_speaks_as_it_always_did() {
    let (lab, daemon) = world("netns: $late.netns", "");
    let _open = programs::probe(lab.pod("out"), ECHO, &[]);
    for v6 in [false, true] {
        let said = tell(lab.pod("stranger"), lab.pod("out"), v6).run().ok().text();
        assert!(said.contains(&format!("\"received\":\"{MARKER}\"")), "{said}");
    }
    assert!(unclassified(&daemon) < 0.5);
}
