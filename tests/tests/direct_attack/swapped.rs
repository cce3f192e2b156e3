//! An attacker who gives each of two connections the other one's packets.

use std::collections::HashMap;

use mtls_tests::hold::why_not_direct;
use mtls_tests::middle::{Fate, Segment, flag};
use mtls_tests::{could_not_run, eventually, slow};

use super::{Attack, SECRET, assert_errno, assert_silent};

#[test]
fn two_armed_connections_whose_packets_are_exchanged_get_nothing_of_each_other() {
    let test = two_armed_connections_whose_packets_are_exchanged_get_nothing_of_each_other;
    if let Some(why) = why_not_direct() {
        return could_not_run(test, why);
    }
    let attack = Attack::new();
    let (a, b, server) = (attack.armed("a"), attack.armed("b"), attack.server());
    // Both have sent as much by then, so that the numbers of one fit the other after a shift.
    for name in ["a", "b"] {
        attack.says(name, SECRET);
        attack.answers(name, SECRET);
    }
    let next = |from, to| attack.middle.next(from, to);
    let (from_a, from_b) = (next(a, server), next(b, server));
    let (to_a, to_b) = (next(server, a), next(server, b));
    // By the client's port as it comes: the other port, and how far the sender's and the receiver's numbers are moved.
    let shift = |to: u32, from: u32| to.wrapping_sub(from);
    let moves = HashMap::from([
        (a.port(), (b.port(), shift(from_b, from_a), shift(to_b, to_a))),
        (b.port(), (a.port(), shift(from_a, from_b), shift(to_a, to_b))),
    ]);
    attack.middle.rule(move |segment: &mut Segment| {
        let to_server = segment.to == server;
        let client = if to_server { &mut segment.from } else { &mut segment.to };
        if let Some((port, client_shift, server_shift)) = moves.get(&client.port()) {
            client.set_port(*port);
            let (own, other) =
                if to_server { (client_shift, server_shift) } else { (server_shift, client_shift) };
            segment.sequence = segment.sequence.wrapping_add(*own);
            segment.acknowledged = segment.acknowledged.wrapping_add(*other);
            // Time stamps and selective acknowledgements are the other connection's.
            segment.options.clear();
        }
        Fate::Pass
    });
    // The server's first: an end that has read something wrong does not send any more.
    attack.far.does("main", &format!("send a {SECRET}-of-a"), "15");
    assert_errno(&attack.web.ask("main", "recv b"), &["EBADMSG"]);
    attack.web.does("main", &format!("send a {SECRET}-for-a"), "16");
    assert_errno(&attack.far.ask("main", "recv b"), &["EBADMSG"]);
    for app in [&attack.web, &attack.far] {
        for name in ["a", "b"] {
            assert_silent(app, name);
        }
    }
    for name in ["a", "b"] {
        for app in [&attack.far, &attack.web] {
            app.does("main", &format!("close {name}"), "ok");
        }
    }
    attack.middle.let_go();
    attack.ends();
}

#[test]
fn two_connections_exchanged_from_their_syns_on_get_nothing_of_each_other() {
    let test = two_connections_exchanged_from_their_syns_on_get_nothing_of_each_other;
    if let Some(why) = why_not_direct() {
        return could_not_run(test, why);
    }
    let attack = Attack::new();
    let server = attack.server();
    let mut ports: Vec<u16> = Vec::new();
    attack.middle.rule(move |segment: &mut Segment| {
        let to_server = segment.to == server;
        if to_server && segment.has(flag::SYN) && !ports.contains(&segment.from.port()) && ports.len() < 2 {
            ports.push(segment.from.port());
        }
        let client = if to_server { &mut segment.from } else { &mut segment.to };
        match ports[..] {
            [a, b] if client.port() == a => client.set_port(b),
            [a, b] if client.port() == b => client.set_port(a),
            // The first one's SYN waits for the second one's; TCP sends it again.
            [a] if client.port() == a => return Fate::Lose,
            _ => {}
        }
        Fate::Pass
    });
    // Both are expected by the server's daemon: each SYN is taken for the other one's.
    let one = attack.web.tell("one", &format!("connect a {}", attack.to));
    let first = attack.middle.newest(attack.to);
    let two = attack.web.tell("two", &format!("connect b {}", attack.to));
    eventually(slow::limit(20), "a second SYN", || (attack.middle.newest(attack.to) != first).then_some(()));
    for connecting in [&one, &two] {
        assert_eq!(attack.web.answer(connecting), "ok", "{}", attack.world.printed());
    }
    attack.far.does("main", "accept x l", "ok");
    attack.far.does("main", "accept y l", "ok");
    attack.web.does("main", &format!("send a {SECRET}-for-a"), "16");
    attack.web.does("main", &format!("send b {SECRET}-for-b"), "16");
    for name in ["x", "y"] {
        assert_errno(
            &attack.far.ask("main", &format!("recv {name}")),
            &["EBADMSG", "ECONNABORTED", "ECONNRESET"],
        );
        assert_silent(&attack.far, name);
    }
    for (app, names) in [(&attack.far, ["x", "y"]), (&attack.web, ["a", "b"])] {
        for name in names {
            app.does("main", &format!("close {name}"), "ok");
        }
    }
    attack.middle.let_go();
    attack.ends();
}
