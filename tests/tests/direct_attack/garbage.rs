//! A session on which something else than the protocol is spoken ends, and only that.

use std::net::SocketAddr;

use mtls_tests::could_not_run;
use mtls_tests::direct::entries;
use mtls_tests::hold::why_not_direct;
use mtls_tests::rogue::{Id, Rogue, address, frame, kind};

use super::{Attack, at};

/// What is said, and the daemon's word for it.
fn garbage(attack: &Attack) -> Vec<(&'static str, Vec<u8>)> {
    let (client, server) = (at(attack.world.web(), 50_003), attack.to);
    let id = Id::new(client, server, 9);
    let zero = SocketAddr::new(client.ip(), 0);
    let elsewhere = Id::new(client, at(attack.world.web(), 22), 9);
    let web = attack.world.web();
    let other = if server.is_ipv6() { web.at(50_003) } else { web.at6(50_003) };
    vec![
        ("a frame of 200 bytes, of which the longest has", frame(&[kind::OPEN; 200])),
        ("a frame without a type", vec![0]),
        ("a frame of the unknown type 9", frame(&[9; 53])),
        ("that ends before its last field", frame(&[kind::OPEN, 0, 0, 0])),
        ("with 3 bytes behind its last field", id.frame(kind::OPEN, b"abc")),
        ("the unknown reason 99", id.frame(kind::ABORT, &[99])),
        ("a connection with port 0", Id::new(zero, server, 9).frame(kind::OPEN, &[])),
        ("one IPv4 and one IPv6", Id::new(other, server, 9).frame(kind::OPEN, &[])),
        ("about a connection to another destination", elsewhere.frame(kind::OPEN, &[])),
        ("a second welcome", frame(&[kind::WELCOME])),
        ("a frame of 71 bytes", [b"GET / HTTP/1.0\r\n\r\n".to_vec(), address(client)].concat()),
    ]
}

/// Says each of them in a session of its own, which must end without an answer.
#[track_caller]
pub fn say_all(attack: &Attack) -> Vec<&'static str> {
    let identity = attack.world.there.issue("spiffe://example.org/web", "garbage").into();
    let mut words = Vec::new();
    for (word, bytes) in garbage(attack) {
        let mut session = Rogue::session(attack.world.node(), attack.to, &identity).expect("a session");
        session.say(&bytes).expect("TLS takes it");
        // "GET " reads as a frame of 71 bytes, which is not whole: that session ends with its client.
        if !bytes.starts_with(b"GET") {
            let heard = session.hear().unwrap_or_else(|error| panic!("after {word}: {error}"));
            assert_eq!(heard, None, "after {word}");
            words.push(word);
        }
    }
    words
}

#[test]
fn garbage_ends_its_session_and_nothing_else() {
    if let Some(why) = why_not_direct() {
        return could_not_run(garbage_ends_its_session_and_nothing_else, why);
    }
    let attack = Attack::new();
    let client = attack.armed("x");
    assert!(say_all(&attack).len() >= 10);
    assert_eq!(entries(&attack.world.lab, &attack.world.there, "EXPECTED"), 0);
    // The true daemons' session and its connections do not notice.
    attack.says("x", super::SECRET);
    attack.answers("x", super::SECRET);
    for app in [&attack.web, &attack.far] {
        app.does("main", "close x", "ok");
    }
    let record = attack.record(&attack.world.there, "far", client);
    assert_eq!((record.datapath(), record.reason()), ("direct", ""), "{record:?}");
    attack.ends();
}
