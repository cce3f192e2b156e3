//! SYNs of direct connections that are refused, or never come.

use mtls_tests::direct::{HTTP, World, entries, records, wait_empty};
use mtls_tests::hold::{App, why_not_direct};
use mtls_tests::{could_not_run, eventually, slow};

use super::PORT;

#[test]
fn a_server_that_does_not_listen_refuses_at_once() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_server_that_does_not_listen_refuses_at_once, why);
    }
    let mut world = World::with_session();
    let to = world.far().at(HTTP);
    world.nginx.take().expect("nginx").terminate();
    let web = App::new(world.web());
    for _ in 0..2 {
        // A time-out would be another errno.
        web.does("main", &format!("connect x {to}"), "ECONNREFUSED");
    }
    wait_empty(&world.lab, &world.there, "EXPECTED");
    wait_empty(&world.lab, &world.here, "DIRECT_SOCKETS");
    // That says nothing against direct.
    world.nginx = Some(mtls_tests::programs::nginx(world.far(), HTTP));
    assert_eq!(world.get(to).ok().text(), "hello from far");
    eventually(slow::limit(20), "a direct connection", || {
        records(&world.here, "web")
            .iter()
            .any(|record| record.datapath() == "direct" && record.reason().is_empty())
            .then_some(())
    });
}

#[test]
fn a_syn_that_never_comes_leaves_nothing_and_the_next_connection_goes_by_relay() {
    if let Some(why) = why_not_direct() {
        return could_not_run(
            a_syn_that_never_comes_leaves_nothing_and_the_next_connection_goes_by_relay,
            why,
        );
    }
    let world = World::bare(&[PORT], "", "");
    let to = world.far().at(PORT);
    let (web, far) = world.applications(to);
    // SYNs go out, and nobody hears them; the daemons' session does not go that way.
    world.lab.cable("far", false);
    let connecting = web.tell("main", &format!("connect x {to}"));
    eventually(slow::limit(20), "an expected SYN", || {
        (entries(&world.lab, &world.there, "EXPECTED") == 2).then_some(())
    });
    let errno = web.answer(&connecting);
    assert!(["ECONNABORTED", "ETIMEDOUT", "EHOSTUNREACH"].contains(&errno.as_str()), "{errno}");
    wait_empty(&world.lab, &world.there, "EXPECTED");
    wait_empty(&world.lab, &world.here, "DIRECT_SOCKETS");
    world.lab.cable("far", true);
    web.does("main", &format!("connect y {to}"), "ok");
    far.does("main", "accept y l", "ok");
    web.does("main", "send y hello", "5");
    far.does("main", "recv y", "5 hello");
    web.does("main", "close y", "ok");
    far.does("main", "recv y", "0 ");
    far.does("main", "close y", "ok");
    let relayed = eventually(slow::limit(20), "its record", || {
        let all = records(&world.here, "web");
        all.into_iter().find(|record| record.datapath().starts_with("relay") && record.sent() == 5)
    });
    assert_eq!(relayed.reason(), "", "{relayed:?}");
}

#[test]
fn what_a_killed_daemon_expected_is_gone_with_the_next_start() {
    if let Some(why) = why_not_direct() {
        return could_not_run(what_a_killed_daemon_expected_is_gone_with_the_next_start, why);
    }
    let mut world = World::bare(&[PORT], "", "");
    let to = world.far().at(PORT);
    let (web, _far) = world.applications(to);
    world.lab.cable("far", false);
    let connecting = web.tell("main", &format!("connect x {to}"));
    eventually(slow::limit(20), "an expected SYN", || {
        (entries(&world.lab, &world.there, "EXPECTED") == 2).then_some(())
    });
    world.there.kill9();
    assert_eq!(entries(&world.lab, &world.there, "EXPECTED"), 2);
    world.there.start();
    assert_eq!(entries(&world.lab, &world.there, "EXPECTED"), 0);
    assert_ne!(web.answer(&connecting), "ok");
}
