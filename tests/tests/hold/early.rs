//! What comes before the keys: records, an end, a close.

use mtls_tests::hold::arm::{receive_with, send_with, ulp};
use mtls_tests::hold::world::{KEYS, PORT};
use mtls_tests::hold::{World, install, release};
use mtls_tests::{eventually, slow};
use nix::errno::Errno;

use super::ktls;

#[test]
fn records_that_came_before_the_key_are_decrypted() {
    if !ktls(records_that_came_before_the_key_are_decrypted) {
        return;
    }
    let world = World::held();
    let [to_server, to_client] = KEYS;
    for text in ["hello", &"long".repeat(900)] {
        let x = &text[..4];
        world.connect(x);
        let [client, server] = world.take(x);
        install(&server, to_server, to_client).unwrap();
        release(&server).unwrap();
        world.server.does("a", &format!("send {x} {text}"), &text.len().to_string());
        world.readable(&world.client, x);
        install(&client, to_client, to_server).unwrap();
        release(&client).unwrap();
        world.client.does("a", &format!("recv {x}"), &format!("{} {text}", text.len()));
        world.client.does("a", &format!("send {x} back"), "4");
        world.server.does("a", &format!("recv {x}"), "4 back");
    }
}

#[test]
fn records_that_came_before_accept_are_decrypted_by_a_key_after_it() {
    if !ktls(records_that_came_before_accept_are_decrypted_by_a_key_after_it) {
        return;
    }
    // The client's records wait in the queue of a connection that is in nobody's hands yet.
    let world = World::held();
    let [to_server, to_client] = KEYS;
    world.client.does("main", &format!("connect x {}", world.at), "ok");
    let client = world.client.take("x");
    install(&client, to_client, to_server).unwrap();
    release(&client).unwrap();
    world.client.does("a", "send x early", "5");
    world.server.does("main", "accept x l", "ok");
    world.readable(&world.server, "x");
    let server = world.server.take("x");
    install(&server, to_server, to_client).unwrap();
    world.server.does("a", "recv x", "5 early");
}

#[test]
fn after_the_peers_fin_the_ulp_is_refused() {
    if !ktls(after_the_peers_fin_the_ulp_is_refused) {
        return;
    }
    let world = World::held();
    let [to_server, to_client] = KEYS;
    world.connect("x");
    let [client, server] = world.take("x");
    install(&server, to_server, to_client).unwrap();
    release(&server).unwrap();
    drop(server);
    world.server.does("a", "send x last", "4");
    world.server.does("a", "close x", "ok");
    eventually(slow::limit(20), "the FIN", || (ulp(&client) == Err(Errno::ENOTCONN)).then_some(()));
}

#[test]
fn with_the_ulp_in_place_keys_may_come_after_the_peers_fin() {
    if !ktls(with_the_ulp_in_place_keys_may_come_after_the_peers_fin) {
        return;
    }
    let world = World::held();
    let [to_server, to_client] = KEYS;
    world.connect("x");
    let [client, server] = world.take("x");
    ulp(&client).unwrap();
    install(&server, to_server, to_client).unwrap();
    release(&server).unwrap();
    drop(server);
    world.server.does("a", "send x last", "4");
    world.server.does("a", "fin x", "ok");
    world.wait_state("CLOSE-WAIT", "c");
    receive_with(&client, to_client).unwrap();
    send_with(&client, to_server).unwrap();
    release(&client).unwrap();
    world.client.does("a", "recv x", "4 last");
    world.client.does("a", "recv x", "0 ");
    world.client.does("a", "send x answer", "6");
    world.server.does("a", "recv x", "6 answer");
}

#[test]
fn with_the_ulp_in_place_keys_may_come_after_the_applications_own_shutdown() {
    if !ktls(with_the_ulp_in_place_keys_may_come_after_the_applications_own_shutdown) {
        return;
    }
    let world = World::held();
    let capture = world.lab.capture();
    let [to_server, to_client] = KEYS;
    world.connect("x");
    let [client, server] = world.take("x");
    ulp(&client).unwrap();
    ulp(&server).unwrap();
    world.client.does("a", "fin x", "ok");
    world.wait_state("CLOSE-WAIT", "s");
    for (end, receive, send) in [(&client, to_client, to_server), (&server, to_server, to_client)] {
        receive_with(end, receive).unwrap();
        send_with(end, send).unwrap();
        release(end).unwrap();
    }
    world.server.does("a", "recv x", "0 ");
    world.server.does("a", "send x answer", "6");
    world.client.does("a", "recv x", "6 answer");
    capture.stop().assert_only_tls(PORT);
}

#[test]
fn a_shutdown_while_held_sends_a_fin_at_once_and_neither_end_takes_the_ulp() {
    if !ktls(a_shutdown_while_held_sends_a_fin_at_once_and_neither_end_takes_the_ulp) {
        return;
    }
    let world = World::held();
    let capture = world.lab.capture();
    world.connect("x");
    let [client, server] = world.take("x");
    world.client.does("a", "fin x", "ok");
    world.wait_state("CLOSE-WAIT", "s");
    assert_eq!(ulp(&client), Err(Errno::ENOTCONN));
    assert_eq!(ulp(&server), Err(Errno::ENOTCONN));
    // The other direction is still held: nothing can be written there.
    world.server.does("a", "poll x out 0", "0 ");
    capture.stop().assert_no_payload(PORT);
}

#[test]
fn a_close_while_held_sends_nothing_as_long_as_a_duplicate_is_open() {
    if !ktls(a_close_while_held_sends_nothing_as_long_as_a_duplicate_is_open) {
        return;
    }
    let world = World::held();
    world.connect("x");
    let ends = world.take("x");
    world.client.does("a", "close x", "ok");
    world.server.does("a", "poll x in 0", "0 ");
    world.keys(&ends);
    World::let_go(&ends);
    world.server.does("a", "poll x in 0", "0 ");
    drop(ends);
    world.readable(&world.server, "x");
    world.server.does("a", "recv x", "0 ");
}

#[test]
fn a_close_without_a_duplicate_sends_a_fin_at_once() {
    if !ktls(a_close_without_a_duplicate_sends_a_fin_at_once) {
        return;
    }
    let world = World::held();
    world.connect("x");
    world.client.does("a", "close x", "ok");
    world.wait_state("CLOSE-WAIT", "s");
    assert_eq!(ulp(world.server.take("x")), Err(Errno::ENOTCONN));
    world.server.does("a", "recv x", "0 ");
}

#[test]
fn the_ulp_is_refused_before_a_connection_is_established() {
    if !ktls(the_ulp_is_refused_before_a_connection_is_established) {
        return;
    }
    let world = World::held();
    assert_eq!(ulp(world.server.take("l")), Err(Errno::ENOTCONN), "LISTEN");
    // Nobody answers there, so it stays in SYN-SENT.
    world.client.does("main", "connect-nb x 10.77.0.99:7000", "EINPROGRESS");
    let taken = world.client.take("x");
    world.wait_state("SYN-SENT", "c");
    assert_eq!(ulp(&taken), Err(Errno::ENOTCONN), "SYN-SENT");
}

#[test]
fn the_ulp_is_refused_a_second_time() {
    if !ktls(the_ulp_is_refused_a_second_time) {
        return;
    }
    let world = World::held();
    world.connect("x");
    let [client, _server] = world.take("x");
    ulp(&client).unwrap();
    assert_eq!(ulp(&client), Err(Errno::EEXIST));
}
