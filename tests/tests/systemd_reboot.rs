//! After a reboot with what the suite `systemd` has left: enforcement is back before the units' first packet. And the end of it:
//! the package is purged.

use mtls_tests::booted::{
    ASKED, SAID, answers, assert_sealed, has_systemd, journal, moment, property, run, try_run, wait_active,
    wait_for_answers,
};
use mtls_tests::{could_not_run, eventually, slow};

#[test]
fn after_a_reboot_enforcement_is_back_before_the_units_first_packet_and_a_purge_ends_it() {
    let test = after_a_reboot_enforcement_is_back_before_the_units_first_packet_and_a_purge_ends_it;
    if !has_systemd() {
        return could_not_run(test, "systemd is not the first program of this machine");
    }
    enforcement_is_back_before_the_units();
    a_purge_leaves_nothing_and_the_units_go_on_in_the_clear();
}

fn enforcement_is_back_before_the_units() {
    for unit in ["mtlsd", "mtlsd-h2", "nginx", "ask-client", "ask-stranger"] {
        wait_active(&format!("{unit}.service"));
    }
    // The one who asks all the time began before there was any daemon.
    let asked = moment("ask-stranger.service", "ExecMainStartTimestampMonotonic");
    let in_force = moment("mtlsd.service", "ActiveEnterTimestampMonotonic");
    let answered = moment("nginx.service", "ActiveEnterTimestampMonotonic");
    assert!(asked < in_force && in_force < answered, "{asked} {in_force} {answered}\n{}", journal());
    wait_for_answers(5);
    assert_eq!(answers("stranger"), 0, "{}", journal());
    assert_sealed();
    let list = run(&["mtlsd", "list"]);
    assert!(list.contains("nginx") && list.contains("strict"), "{list}");
}

fn a_purge_leaves_nothing_and_the_units_go_on_in_the_clear() {
    let nginx = property("nginx.service", "MainPID");
    run(&["systemctl", "disable", "--now", "mtlsd-h2.service"]);
    run(&["mtlsd", "uninstall", "--config", "/etc/mtlsd-h2/mtlsd.yaml"]);
    run(&[
        "rm",
        "-r",
        "/etc/systemd/system/nginx.service.d",
        "/etc/systemd/system/ask-client.service.d/mtlsd.conf",
    ]);
    run(&["dpkg", "-P", "mtlsd"]);
    for place in [
        "/usr/bin/mtlsd",
        "/etc/mtlsd",
        "/var/lib/mtlsd",
        "/var/log/mtlsd",
        "/run/mtlsd",
        "/sys/fs/bpf/mtlsd",
    ] {
        assert!(!std::path::Path::new(place).exists(), "{place} is still there");
    }
    let (said, _) = try_run(&["systemctl", "is-enabled", "mtlsd.service"]);
    assert!(said.contains("not-found") || said.contains("No such file"), "{said}");
    // In the clear, as before there was mtlsd: or nothing of the above would have shown anything.
    eventually(slow::limit(30), "an answer for everybody", || (answers("stranger") > 0).then_some(()));
    assert_eq!(property("nginx.service", "MainPID"), nginx);
    let (said, _) = try_run(&["curl", "-s", "-H", &format!("X-Word: {ASKED}"), "http://127.0.0.1/"]);
    assert!(said.contains(SAID), "{said}");
}
