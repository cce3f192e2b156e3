//! Keys in sockets that applications are using.

use mtls_tests::hold::arm::RELEASED;
use mtls_tests::hold::world::PORT;
use mtls_tests::hold::{Taken, World, kick};
use mtls_tests::{eventually, slow};

use super::{RECV, SEND, ktls};

const WAYS: [&str; 3] = ["block", "poll", "edge"];

#[test]
fn both_directions_are_byte_exact_and_only_tls_whatever_way_the_ends_wait() {
    if !ktls(both_directions_are_byte_exact_and_only_tls_whatever_way_the_ends_wait) {
        return;
    }
    let world = World::held();
    let capture = world.lab.capture();
    let ways = || WAYS.into_iter().flat_map(|client| WAYS.map(|server| (client, server)));
    for lowat in [RELEASED, 1] {
        for (client, server) in ways() {
            let x = format!("{client}-{server}-{lowat}");
            world.connect(&x);
            let (c, s) = (&world.client, &world.server);
            let told = [
                (c, c.tell("w", &format!("write {x} {client} 1 300000 20000"))),
                (c, c.tell("r", &format!("check {x} {client} 2 300000 more"))),
                (s, s.tell("w", &format!("write {x} {server} 2 300000 20000"))),
                (s, s.tell("r", &format!("check {x} {server} 1 300000 more"))),
            ];
            // Writers and readers are in their calls, or will be.
            world.arm_and_release_to(&x, lowat);
            for (app, ticket) in &told {
                assert_eq!(app.answer(ticket), "ok", "{x}: {ticket:?}");
            }
        }
    }
    assert!(capture.stop().assert_only_tls(PORT) > 18 * 600_000);
}

#[test]
fn thousands_of_small_messages_come_back() {
    if !ktls(thousands_of_small_messages_come_back) {
        return;
    }
    let world = World::held();
    let capture = world.lab.capture();
    let count = slow::scaled(4000, 1000);
    for (client, server) in WAYS.into_iter().zip(["edge", "block", "poll"]) {
        world.connect(client);
        let echo = world.server.tell("w", &format!("echo {client} {server}"));
        let ping = world.client.tell("w", &format!("ping {client} {client} 7 {count}"));
        world.arm(client);
        assert_eq!(eventually(slow::limit(120), "the pings", || world.client.answered(&ping)), "ok");
        world.client.does("w", &format!("close {client}"), "ok");
        assert_eq!(world.server.answer(&echo), "ok");
    }
    capture.stop().assert_only_tls(PORT);
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    if !ktls(a_server_that_speaks_first_is_heard) {
        return;
    }
    let world = World::held();
    let capture = world.lab.capture();
    world.connect("x");
    let read = world.client.blocks("a", "recv x", RECV);
    let sent = world.server.blocks("a", "send x greeting", SEND);
    world.arm("x");
    assert_eq!(world.client.answer(&read), "8 greeting");
    assert_eq!(world.server.answer(&sent), "8");
    capture.stop().assert_only_tls(PORT);
}

#[test]
fn a_blocking_server_that_writes_and_closes_at_once_is_heard_to_the_end() {
    if !ktls(a_blocking_server_that_writes_and_closes_at_once_is_heard_to_the_end) {
        return;
    }
    let world = World::held();
    let capture = world.lab.capture();
    for (number, bytes) in [1, 100, 5000, 200_000].into_iter().cycle().take(12).enumerate() {
        let x = format!("x{number}");
        world.connect(&x);
        let ends = world.take(&x);
        let sent = world.server.blocks("a", &format!("write {x} block {bytes} {bytes} 20000"), SEND);
        let closed = world.server.tell("a", &format!("close {x}"));
        world.keys(&ends);
        world.kick();
        World::let_go(&ends);
        drop(ends);
        world.client.does("a", &format!("check {x} block {bytes} {bytes} end"), "ok");
        assert_eq!([world.server.answer(&sent), world.server.answer(&closed)], ["ok", "ok"]);
    }
    capture.stop().assert_only_tls(PORT);
}

#[test]
fn without_the_kick_a_blocked_sender_sends_plaintext() {
    if !ktls(without_the_kick_a_blocked_sender_sends_plaintext) {
        return;
    }
    let world = World::held();
    let capture = world.lab.capture();
    world.connect("x");
    let sent = world.client.blocks("a", "send x leaked-plaintext", SEND);
    let ends = world.take("x");
    world.keys(&ends);
    World::let_go(&ends);
    assert_eq!(world.client.answer(&sent), "16");
    world.readable(&world.server, "x");
    assert!(capture.stop().find(b"leaked-plaintext").is_some());
}

#[test]
fn without_the_kick_a_blocked_receiver_reads_ciphertext() {
    if !ktls(without_the_kick_a_blocked_receiver_reads_ciphertext) {
        return;
    }
    let world = World::held();
    world.connect("x");
    let read = world.client.blocks("a", "recv x", RECV);
    let ends = world.take("x");
    world.keys(&ends);
    World::let_go(&ends);
    world.server.does("a", "send x secret", "6");
    let got = world.client.answer(&read);
    // A record of application data, RFC 8446 5.2: 5 bytes of header, 6 of text, 1 of type, 16 of tag.
    assert!(got.starts_with(r"28 \x17\x03\x03\x00\x17"), "{got}");
}

#[test]
fn a_child_that_inherited_the_descriptor_needs_the_kick_as_well() {
    if !ktls(a_child_that_inherited_the_descriptor_needs_the_kick_as_well) {
        return;
    }
    for kicked in [false, true] {
        let world = World::held();
        world.connect("x");
        let cat = world.client.tell("a", "cat x");
        let child = world.client.child("x");
        world.client.does("b", "close x", "ok");
        let ends = [Taken::new(child, 0).unwrap(), world.server.take("x")];
        eventually(slow::limit(20), "the child to read", || {
            let call = std::fs::read_to_string(format!("/proc/{child}/syscall")).unwrap_or_default();
            call.starts_with("0 0x0 ").then_some(())
        });
        world.keys(&ends);
        world.kick();
        if kicked {
            kick(child, true).unwrap();
        }
        World::let_go(&ends);
        drop(ends);
        world.server.does("a", "send x secret", "6");
        world.server.does("a", "close x", "ok");
        let read = world.client.answer(&cat);
        if kicked {
            assert_eq!(read, "6 secret");
        } else {
            assert!(read.starts_with(r"28 \x17\x03\x03"), "{read}");
        }
    }
}
