//! TCP_NOTSENT_LOWAT of the application's own, while the connection is held by that very option.

use mtls_tests::direct::{World, direct_records};
use mtls_tests::hold::{App, why_not_direct};
use mtls_tests::{could_not_run, eventually, slow};
use nix::libc::SYS_sendto;
use nix::sys::signal::Signal;

use super::PORT;

/// A little each way: afterwards both ends have been let go.
#[track_caller]
fn talk(web: &App, far: &App, name: &str) {
    web.does("main", &format!("send {name} ping"), "4");
    far.does("main", &format!("recv {name}"), "4 ping");
    far.does("main", &format!("send {name} pong"), "4");
    web.does("main", &format!("recv {name}"), "4 pong");
}

#[track_caller]
fn waits_for(app: &App, name: &str, limit: &str) {
    eventually(slow::limit(20), &format!("TCP_NOTSENT_LOWAT {limit} of {name}"), || {
        (app.ask("main", &format!("lowat {name}")) == limit).then_some(())
    });
}

#[test]
fn a_limit_set_before_the_connection_waits_for_its_release() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_limit_set_before_the_connection_waits_for_its_release, why);
    }
    let world = World::bare(&[PORT], "", "");
    let to = world.far().at(PORT);
    let (web, far) = world.applications(to);
    let capture = world.lab.capture();
    // An unconnected socket and a listener have it as anywhere.
    web.does("main", &format!("make x {to}"), "ok");
    web.does("main", "lowat x 2000", "ok");
    web.does("main", "lowat x", "2000");
    far.does("main", "lowat l 3000", "ok");
    far.does("main", "lowat l", "3000");
    web.does("main", &format!("dial x {to}"), "ok");
    far.does("main", "accept x l", "ok");
    talk(&web, &far, "x");
    waits_for(&web, "x", "2000");
    waits_for(&far, "x", "3000");
    // Then it can be lowered and put back, but not beyond what keeps records whole; 0 would hold it again.
    for limit in ["100", "1", "2500"] {
        web.does("main", &format!("lowat x {limit}"), "ok");
        web.does("main", "lowat x", limit);
        talk(&web, &far, "x");
    }
    web.does("main", "lowat x 4294967295", "ok");
    let most: u32 = web.ask("main", "lowat x").parse().expect("a number");
    assert!((2500..100_000).contains(&most), "{most}");
    web.does("main", "lowat x 0", "ok");
    web.does("main", "lowat x", &most.to_string());
    talk(&web, &far, "x");
    for app in [&web, &far] {
        app.does("main", "close x", "ok");
    }
    for (daemon, workload) in [(&world.here, "web"), (&world.there, "far")] {
        let records = direct_records(daemon, workload, 1);
        assert_eq!(records[0].reason(), "", "{records:?}");
    }
    let traffic = capture.stop();
    traffic.assert_absent(b"ping");
    traffic.assert_absent(b"pong");
    traffic.assert_only_tls(PORT);
}

#[test]
fn a_limit_set_while_it_is_held_does_not_end_the_hold() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_limit_set_while_it_is_held_does_not_end_the_hold, why);
    }
    let mut world = World::bare(&[PORT], "", "");
    let to = world.far().at(PORT);
    let (web, far) = world.applications(to);
    let capture = world.lab.capture();
    web.does("main", &format!("connect x {to}"), "ok");
    // The server's daemon does not hear that it is accepted: it stays held.
    world.there.process().signal(Signal::SIGSTOP);
    far.does("main", "accept x l", "ok");
    far.does("main", "lowat x", "0");
    far.does("main", "lowat x 1500", "ok");
    far.does("main", "lowat x", "0");
    let sender = far.blocks("sender", "send x held-back", &[SYS_sendto]);
    far.does("main", "lowat x 4294967295", "ok");
    far.does("main", "lowat x 1700", "ok");
    far.waits_in(&sender, &[SYS_sendto]);
    far.does("main", "poll x out 0", "0 ");
    let sent_by_far: usize =
        capture.so_far().of_port(PORT).filter(|s| s.from.port() == PORT).map(|s| s.bytes.len()).sum();
    assert_eq!(sent_by_far, 0, "nothing may leave");
    world.there.process().signal(Signal::SIGCONT);
    assert_eq!(far.answer(&sender), "9", "{}", world.printed());
    web.does("main", "recv x", "9 held-back");
    waits_for(&far, "x", "1700");
    talk(&web, &far, "x");
    let traffic = capture.stop();
    traffic.assert_absent(b"held-back");
    traffic.assert_only_tls(PORT);
}

#[test]
fn a_relayed_connection_of_the_same_workload_has_its_limit_at_once_and_is_never_held() {
    if let Some(why) = why_not_direct() {
        return could_not_run(
            a_relayed_connection_of_the_same_workload_has_its_limit_at_once_and_is_never_held,
            why,
        );
    }
    let world = World::bare(&[PORT], "", "");
    let (web, far) = world.applications(world.far().at(PORT));
    for app in [&web, &far] {
        app.does("main", "lowat relayed", "4294967295");
        app.does("main", "lowat relayed 5000", "ok");
        app.does("main", "lowat relayed", "5000");
        talk(&web, &far, "relayed");
        // The namespace's value is 0, which would hold.
        app.does("main", "lowat relayed 0", "ok");
        app.does("main", "lowat relayed", "4294967295");
        talk(&web, &far, "relayed");
    }
}
