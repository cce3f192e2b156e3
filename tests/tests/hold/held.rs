//! The hold itself: needs no kTLS.

use mtls_tests::hold::{World, release};

use super::{EPOLL, POLL, SELECT, SEND};

#[test]
fn without_the_sysctl_a_socket_is_writable_at_once() {
    let world = World::free();
    world.connect("x");
    for app in [&world.client, &world.server] {
        app.does("a", "poll x out 0", "1 out");
        app.does("a", "send x hello", "5");
    }
}

#[test]
fn a_socket_is_born_held_on_both_sides_and_the_release_wakes_every_waiter() {
    let world = World::held();
    world.connect("x");
    for app in [&world.client, &world.server] {
        app.does("a", "poll x out 0", "0 ");
        app.does("a", "select x out 0", "0");
        for trigger in ["level", "edge"] {
            app.does("a", &format!("epoll x {trigger} out 0"), "0");
        }
        let waiters = [
            app.blocks("poller", "poll x out 60000", POLL),
            app.blocks("selector", "select x out 60000", SELECT),
            app.blocks("level", "epoll x level out 60000", EPOLL),
            app.blocks("edge", "epoll x edge out 60000", EPOLL),
            app.blocks("sender", "send x hello", SEND),
        ];
        release(app.take("x")).unwrap();
        let answers = waiters.map(|waiter| app.answer(&waiter));
        assert_eq!(answers, ["1 out", "1", "1", "1", "5"]);
    }
    for app in [&world.client, &world.server] {
        app.does("a", "recv x", "5 hello");
    }
}

#[test]
fn a_non_blocking_send_gives_eagain_until_the_release() {
    let world = World::held();
    world.connect("x");
    for app in [&world.client, &world.server] {
        app.does("a", "nonblocking x", "ok");
        app.does("a", "send x hello", "EAGAIN");
        release(app.take("x")).unwrap();
        app.does("a", "send x hello", "5");
    }
}

#[test]
fn a_non_blocking_connect_is_not_reported_before_the_release() {
    let world = World::held();
    world.client.does("main", &format!("connect-nb x {}", world.at), "EINPROGRESS");
    // Accepted, so the handshake is over on both sides.
    world.server.does("main", "accept x l", "ok");
    world.client.does("a", "poll x out 0", "0 ");
    let waiters = [
        world.client.blocks("poller", "poll x out 60000", POLL),
        world.client.blocks("edge", "epoll x edge out 60000", EPOLL),
    ];
    release(world.client.take("x")).unwrap();
    assert_eq!(waiters.map(|waiter| world.client.answer(&waiter)), ["1 out", "1"]);
}

#[test]
fn a_non_blocking_connect_that_is_refused_is_reported_in_spite_of_the_hold() {
    let world = World::held();
    let nobody = world.lab.pod("s").at(1);
    world.client.does("main", &format!("connect-nb x {nobody}"), "EINPROGRESS");
    world.client.does("a", "poll x out 20000", "1 out+err+hup");
    world.client.does("a", "send x hello", "ECONNREFUSED");
}

#[test]
fn an_application_that_sets_the_option_itself_releases_its_own_hold() {
    let world = World::held();
    world.connect("x");
    let sender = world.client.blocks("sender", "send x hello", SEND);
    world.client.does("a", "lowat x 16384", "ok");
    assert_eq!(world.client.answer(&sender), "5");
    world.client.does("a", "poll x out 0", "1 out");
}

#[test]
fn zero_is_what_an_application_sees_and_may_set_without_a_release() {
    let world = World::held();
    world.connect("x");
    world.client.does("a", "lowat x", "0");
    world.client.does("a", "lowat x 0", "ok");
    world.client.does("a", "poll x out 0", "0 ");
}

#[test]
fn a_connection_inherits_the_option_of_its_listener_and_is_not_held() {
    let world = World::held();
    world.server.does("main", "lowat l 16384", "ok");
    world.connect("x");
    world.server.does("a", "lowat x", "16384");
    world.server.does("a", "poll x out 0", "1 out");
}

#[test]
fn a_socket_that_was_open_before_the_sysctl_is_held_too() {
    let world = World::free();
    world.connect("x");
    world.client.does("a", "poll x out 0", "1 out");
    world.lab.pod("c").sysctl("net.ipv4.tcp_notsent_lowat", "0");
    world.client.does("a", "poll x out 0", "0 ");
    world.release("x");
    world.client.does("a", "poll x out 0", "1 out");
}
