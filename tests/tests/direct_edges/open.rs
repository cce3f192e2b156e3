//! What was open before its namespace was held.

use mtls_tests::direct::{HTTP, World, direct_records};
use mtls_tests::hold::{App, why_not_direct};
use mtls_tests::{could_not_run, eventually, programs, slow};
use nix::libc::SYS_accept4;

use super::PORT;

/// Both pods may be direct.
fn wait_held(world: &World) {
    for daemon in [&world.here, &world.there] {
        eventually(slow::limit(30), "a held namespace", || {
            daemon.printed().contains("its connections may be direct from now on").then_some(())
        });
    }
}

#[test]
fn connections_from_before_the_hold_go_on_and_new_ones_are_direct() {
    if let Some(why) = why_not_direct() {
        return could_not_run(connections_from_before_the_hold_go_on_and_new_ones_are_direct, why);
    }
    let mut world = World::prepare(&[HTTP], "", "");
    let _nginx = programs::nginx(world.far(), HTTP);
    let (one, other) = (App::new(world.web()), App::new(world.web()));
    let at = format!("127.0.0.1:{PORT}");
    other.does("main", &format!("listen l {at}"), "ok");
    for name in ["plain", "own"] {
        one.does("main", &format!("connect {name} {at}"), "ok");
        other.does("main", &format!("accept {name} l"), "ok");
    }
    one.does("main", "lowat own 5000", "ok");
    // Nobody has this one: a connection that is not accepted cannot be let go.
    one.does("main", &format!("connect queued {at}"), "ok");
    world.start();
    let to = world.far().at(HTTP);
    assert_eq!(world.get(to).ok().text(), "hello from far");
    assert!(
        !world.here.printed().contains("its connections may be direct from now on"),
        "one is in nobody's hands: {}",
        world.here.printed()
    );
    other.does("main", "accept queued l", "ok");
    wait_held(&world);
    for name in ["plain", "own", "queued"] {
        for (from, to) in [(&one, &other), (&other, &one)] {
            // More than a held socket takes, which is one segment.
            for _ in 0..3 {
                from.does("main", &format!("send {name} hello"), "5");
                to.does("main", &format!("recv {name}"), "5 hello");
            }
        }
    }
    one.does("main", "lowat own", "5000");
    assert_eq!(world.get(to).ok().text(), "hello from far");
    world.wait_session(to);
    assert_eq!(world.get(to).ok().text(), "hello from far");
    for record in direct_records(&world.here, "web", 1) {
        assert_eq!(record.reason(), "", "{record:?}");
    }
}

#[test]
fn a_server_that_waits_in_accept_since_before_the_programs_came_is_found() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_server_that_waits_in_accept_since_before_the_programs_came_is_found, why);
    }
    let mut world = World::prepare(&[PORT], "", "");
    let to = world.far().at(PORT);
    let far = App::new(world.far());
    far.does("main", &format!("listen l {to}"), "ok");
    // The first one takes the relayed connection; no program sees the second one's accept() either.
    let waiting: Vec<_> =
        (0..2).map(|n| far.blocks(&format!("t{n}"), &format!("accept s{n} l"), &[SYS_accept4])).collect();
    world.start();
    let web = App::new(world.web());
    web.does("main", &format!("connect relayed {to}"), "ok");
    web.does("main", "send relayed hello", "5");
    let first = eventually(slow::limit(20), "an accept()", || {
        waiting.iter().position(|ticket| far.answered(ticket).is_some())
    });
    far.does("main", &format!("recv s{first}"), "5 hello");
    world.wait_session(to);
    let second = 1 - first;
    web.does("main", &format!("connect x {to}"), "ok");
    assert_eq!(far.answer(&waiting[second]), "ok");
    web.does("main", "send x hello", "5");
    far.does("main", &format!("recv s{second}"), "5 hello");
    far.does("main", &format!("send s{second} back"), "4");
    web.does("main", "recv x", "4 back");
    web.does("main", "close x", "ok");
    far.does("main", &format!("close s{second}"), "ok");
    world.all_direct_ended_well(1);
}

#[test]
fn a_client_may_send_before_its_server_accepts() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_client_may_send_before_its_server_accepts, why);
    }
    let world = World::bare(&[PORT], "", "");
    let to = world.far().at(PORT);
    let (web, far) = world.applications(to);
    let capture = world.lab.capture();
    web.does("main", &format!("connect x {to}"), "ok");
    // It returns, though nobody accepts: or who does both in one thread would wait for ever.
    web.does("main", "send x hello", "5");
    far.does("main", "accept x l", "ok");
    far.does("main", "recv x", "5 hello");
    far.does("main", "send x back", "4");
    web.does("main", "recv x", "4 back");
    web.does("main", "close x", "ok");
    far.does("main", "close x", "ok");
    world.all_direct_ended_well(1);
    let traffic = capture.stop();
    traffic.assert_absent(b"hello");
    traffic.assert_only_tls(PORT);
}
