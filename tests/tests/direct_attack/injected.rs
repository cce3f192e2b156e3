//! Plaintext with the right addresses and numbers, before and after the connection is armed.

use std::time::Duration;

use mtls_tests::could_not_run;
use mtls_tests::hold::why_not_direct;
use mtls_tests::middle::{Fate, flag};
use mtls_tests::{eventually, slow};
use nix::sys::signal::Signal;

use super::{Attack, EVIL, SECRET, assert_errno, assert_silent};

#[test]
fn plaintext_injected_before_the_server_is_armed_reaches_no_application() {
    let test = plaintext_injected_before_the_server_is_armed_reaches_no_application;
    if let Some(why) = why_not_direct() {
        return could_not_run(test, why);
    }
    let attack = Attack::new();
    let before = Attack::count(&attack.world.there, "direct_guard_dropped");
    // Nobody has accepted: the server cannot be armed.
    let client = attack.connected("x");
    for _ in 0..3 {
        attack.middle.inject_plaintext(client, attack.server(), EVIL.as_bytes());
    }
    attack.world.there.wait_metric(
        "mtlsd_ebpf_events_total",
        &[("event", "direct_guard_dropped")],
        before + 3.0,
    );
    attack.far.does("main", "accept x l", "ok");
    // It took no sequence numbers, so that the connection works on.
    attack.says("x", SECRET);
    attack.answers("x", SECRET);
    for app in [&attack.web, &attack.far] {
        app.does("main", "close x", "ok");
    }
    let record = attack.record(&attack.world.there, "far", client);
    assert_eq!((record.datapath(), record.reason()), ("direct", ""), "{record:?}");
    attack.ends();
}

#[test]
fn plaintext_injected_before_the_client_is_armed_reaches_no_application() {
    let test = plaintext_injected_before_the_client_is_armed_reaches_no_application;
    if let Some(why) = why_not_direct() {
        return could_not_run(test, why);
    }
    let mut attack = Attack::new();
    let before = Attack::count(&attack.world.here, "direct_guard_dropped");
    let server = attack.server();
    attack.middle.rule(move |segment| {
        let answer = segment.from == server && segment.has(flag::SYN | flag::ACK);
        if answer { Fate::Keep } else { Fate::Pass }
    });
    let connecting = attack.web.tell("main", &format!("connect x {}", attack.to));
    eventually(slow::limit(20), "a SYN-ACK", || (attack.middle.kept() > 0).then_some(()));
    // From here to SIGCONT the client's daemon cannot arm it.
    attack.world.here.process().signal(Signal::SIGSTOP);
    attack.middle.let_go();
    assert_eq!(attack.web.answer(&connecting), "ok");
    let client = attack.middle.newest(attack.to);
    for _ in 0..3 {
        attack.middle.inject_plaintext(server, client, EVIL.as_bytes());
    }
    // They are judged as they arrive, within the time of a context switch or two.
    std::thread::sleep(Duration::from_secs(1));
    attack.world.here.process().signal(Signal::SIGCONT);
    attack.world.here.wait_metric(
        "mtlsd_ebpf_events_total",
        &[("event", "direct_guard_dropped")],
        before + 3.0,
    );
    attack.far.does("main", "accept x l", "ok");
    attack.answers("x", SECRET);
    attack.says("x", SECRET);
    attack.ends_with_plaintext_of_others();
}

#[test]
fn plaintext_injected_into_an_armed_connection_ends_it_and_reaches_no_application() {
    let test = plaintext_injected_into_an_armed_connection_ends_it_and_reaches_no_application;
    if let Some(why) = why_not_direct() {
        return could_not_run(test, why);
    }
    for to_the_server in [true, false] {
        let mut attack = Attack::new();
        let (client, server) = (attack.armed("x"), attack.server());
        let (from, to) = if to_the_server { (client, server) } else { (server, client) };
        attack.middle.inject_plaintext(from, to, EVIL.as_bytes());
        let Attack { web, far, world, .. } = &mut attack;
        let (victim, daemon, workload) =
            if to_the_server { (&*far, &mut world.there, "far") } else { (&*web, &mut world.here, "web") };
        daemon.wait_for_output("what came first on a direct connection was no TLS record: it is cut");
        assert_errno(&victim.ask("main", "recv x"), &["ECONNABORTED"]);
        assert!(Attack::count(daemon, "direct_violation") > 0.5);
        for app in [&attack.web, &attack.far] {
            assert_silent(app, "x");
        }
        let daemon = if to_the_server { &attack.world.there } else { &attack.world.here };
        let record = attack.record(daemon, workload, client);
        assert_eq!((record.reason(), record.refused()), ("direct_failed", false), "{record:?}");
        assert!(record.detail().contains("somebody is on the path"), "{record:?}");
        assert_eq!(record.bytes(), 0, "{record:?}");
        // Towards the client it crossed the bridge.
        attack.ends_as(to_the_server);
    }
}

#[test]
fn plaintext_injected_between_records_reaches_no_application() {
    let test = plaintext_injected_between_records_reaches_no_application;
    if let Some(why) = why_not_direct() {
        return could_not_run(test, why);
    }
    let attack = Attack::new();
    let client = attack.armed("x");
    attack.says("x", SECRET);
    attack.answers("x", SECRET);
    attack.middle.inject_plaintext(client, attack.server(), EVIL.as_bytes());
    // kTLS' words for a header that is none.
    assert_errno(&attack.far.ask("main", "recv x"), &["EINVAL", "EMSGSIZE", "EBADMSG", "EPROTO"]);
    // What the client says now comes where the attacker's bytes already are.
    attack.web.does("main", &format!("send x {SECRET}-lost"), "15");
    assert_silent(&attack.far, "x");
    attack.ends();
}
