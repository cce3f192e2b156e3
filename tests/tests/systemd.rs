//! The package under a real systemd: installed, two units of two hosts enrolled, killed, upgraded and downgraded. The suite
//! `systemd_reboot` goes on with the same disk after a boot.
//!
//! Needs systemd as the first program: `cargo xtask test --only integration --kernel 6.12=systemd,systemd_reboot`.

use std::path::Path;

use mtls_tests::booted::{
    self, answers, as_version, assert_sealed, forget_answers, has_systemd, journal, package, property, run,
    try_run, wait_active, wait_for_answers, write,
};
use mtls_tests::{could_not_run, eventually, slow};

/// What has happened is the start of what comes: one test, step by step.
#[test]
fn two_units_of_two_hosts_are_enrolled_and_stay_so_across_a_kill_an_upgrade_and_a_downgrade() {
    let test = two_units_of_two_hosts_are_enrolled_and_stay_so_across_a_kill_an_upgrade_and_a_downgrade;
    if !has_systemd() {
        return could_not_run(test, "systemd is not the first program of this machine");
    }
    step("installed_it_waits_for_a_trust_domain", installed_it_waits_for_a_trust_domain);
    step("both_units_are_enrolled", both_units_are_enrolled);
    step(
        "only_the_client_gets_an_answer_and_nothing_in_the_clear",
        only_the_client_gets_an_answer_and_nothing_in_the_clear,
    );
    step(
        "killed_it_is_started_again_and_nothing_opens_meanwhile",
        killed_it_is_started_again_and_nothing_opens_meanwhile,
    );
    step(
        "an_upgrade_and_a_downgrade_restart_it_and_no_other_unit",
        an_upgrade_and_a_downgrade_restart_it_and_no_other_unit,
    );
    step(
        "a_version_that_refuses_the_configuration_does_not_take_over",
        a_version_that_refuses_the_configuration_does_not_take_over,
    );
    // What the next boot finds.
    run(&["systemctl", "stop", "ask-stranger.service", "ask-client.service"]);
    forget_answers();
}

/// Says where it is: a step takes a minute where every instruction is translated.
fn step(name: &str, step: fn()) {
    let begun = std::time::Instant::now();
    step();
    println!("{name}: {:.0} s", begun.elapsed().as_secs_f64());
}

#[track_caller]
fn install(package: &Path) -> String {
    run(&["dpkg", "-i", package.to_str().expect("a readable name")])
}

fn installed_it_waits_for_a_trust_domain() {
    let said = install(&package());
    assert!(said.contains("trust_domain: example.org"), "{said}");
    assert_eq!(property("mtlsd.service", "UnitFileState"), "enabled");
    assert_eq!(property("mtlsd.service", "ActiveState"), "inactive");
    assert_eq!(property("mtlsd.service", "ConditionResult"), "no");
}

fn both_units_are_enrolled() {
    booted::prepare_hosts();
    // Before the others: what they answer from their first moment on is seen.
    booted::provision("stranger", "");
    booted::provision("server", "mtlsd");
    booted::provision("client", "mtlsd-h2");
    assert_eq!(property("mtlsd.service", "StatusText"), "ready");
    let list = run(&["mtlsd", "list"]);
    assert!(list.contains("nginx") && list.contains("strict"), "{list}");
}

fn only_the_client_gets_an_answer_and_nothing_in_the_clear() {
    wait_for_answers(3);
    assert_eq!(answers("stranger"), 0, "{}", journal());
    assert_sealed();
    let status = run(&["mtlsd", "status"]);
    assert!(status.contains("Ready."), "{status}");
    // What the sandbox forbids and the daemon would need.
    let said = journal();
    assert!(!said.contains("Operation not permitted"), "{said}");
}

fn killed_it_is_started_again_and_nothing_opens_meanwhile() {
    let before = property("mtlsd.service", "MainPID");
    run(&["systemctl", "kill", "--signal=KILL", "--kill-whom=main", "mtlsd.service"]);
    eventually(slow::limit(30), "systemd to start it again", || {
        let now = property("mtlsd.service", "MainPID");
        (now != "0" && now != before && property("mtlsd.service", "ActiveState") == "active").then_some(())
    });
    wait_for_answers(2);
    assert_eq!(answers("stranger"), 0, "{}", journal());
    assert_sealed();
}

fn an_upgrade_and_a_downgrade_restart_it_and_no_other_unit() {
    let dir = Path::new("/var/tmp/mtlsd-test");
    let nginx = property("nginx.service", "MainPID");
    for version in ["9.0.0-1", "0.0.1-1"] {
        let before = property("mtlsd.service", "MainPID");
        install(&as_version(version, dir));
        wait_active("mtlsd.service");
        assert_ne!(property("mtlsd.service", "MainPID"), before, "the daemon of the old version still runs");
        wait_for_answers(2);
    }
    assert_eq!(property("nginx.service", "MainPID"), nginx, "nginx was restarted");
    assert_eq!(answers("stranger"), 0, "{}", journal());
    assert_sealed();
}

fn a_version_that_refuses_the_configuration_does_not_take_over() {
    let before = property("mtlsd.service", "MainPID");
    write("/etc/mtlsd/mtlsd.yaml.d/wrong.yaml", "workloads: nonsense\n");
    let said = install(&as_version("9.0.1-1", Path::new("/var/tmp/mtlsd-test")));
    assert!(said.contains("this version refuses") && said.contains("wrong.yaml"), "{said}");
    assert_eq!(property("mtlsd.service", "MainPID"), before);
    wait_for_answers(1);
    let (said, good) = try_run(&["systemctl", "reload", "mtlsd.service"]);
    assert!(!good, "a reload that is refused fails: {said}");
    run(&["rm", "/etc/mtlsd/mtlsd.yaml.d/wrong.yaml"]);
    run(&["systemctl", "reload", "mtlsd.service"]);
}
