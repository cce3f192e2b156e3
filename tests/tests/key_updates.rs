//! TLS 1.3 KeyUpdate from peers of every kind: mtlsd follows, answers, and loses no byte. A kernel that cannot rekey must
//! end the connection with a stated reason instead.

use std::net::SocketAddr;

use mtls_tests::foreign::{BOTH_WAYS, Foreign, Told, serve, then_ends};
use mtls_tests::programs::{s_client_commands, s_server_commands};
use mtls_tests::{Process, Record, slow};

/// Runs the two scripts with the partner as the client and as the server. The peer sends KeyUpdates.
#[track_caller]
fn follows(foreign: &Foreign, application: &[&str], peer: &[&str]) {
    for inbound in BOTH_WAYS {
        let told = foreign.run(inbound, application, peer);
        if foreign.pair.daemon.rekeys() {
            told.ends("");
        } else {
            cannot_rekey(&told);
        }
    }
}

/// What is promised where the kernel cannot rekey: a stated reason, and no end that looks like success.
#[track_caller]
fn cannot_rekey(told: &Told) {
    states_a_key_update(&told.record, "key_update");
    // A socket's error is told once: to the reader, or to the writer.
    let seen = told.application.json();
    let writer = seen["error"].as_str().unwrap_or_default();
    assert!(seen["end"] == "rst" || writer.contains("reset by peer"), "{told:?}");
}

#[track_caller]
fn states_a_key_update(record: &Record, reason: &str) {
    assert_eq!(record.reason(), reason, "{record:?}");
    assert!(record.detail().contains("KeyUpdate"), "{record:?}");
}

#[test]
fn key_updates_of_the_peer_are_followed() {
    let foreign = Foreign::new();
    let application = ["expect:one", "data:two", "expect:three", "data:four", "expect-eof", "fin"];
    for updates in ["keyupdate", "keyupdate:5"] {
        let peer = ["data:one", "expect:two", updates, "data:three", "expect:four"];
        follows(&foreign, &application, &then_ends(&peer));
    }
}

#[test]
fn key_updates_that_ask_for_ours_are_answered() {
    let foreign = Foreign::new();
    let application = ["expect:one", "data:two", "expect:three", "data:four", "expect-eof", "fin"];
    for updates in ["keyupdate-requested", "keyupdate-requested:5"] {
        let peer = ["data:one", "expect:two", updates, "data:three", "expect:four", "expect-keyupdate"];
        follows(&foreign, &application, &then_ends(&peer));
    }
}

#[test]
fn key_updates_in_the_middle_of_a_transfer_cost_no_byte() {
    let foreign = Foreign::new();
    let application = ["send:3000000", "receive:3000000", "expect-eof", "fin"];
    let mut peer = Vec::new();
    for _ in 0..10 {
        peer.extend(["send:150000:1000", "keyupdate", "send:150000", "keyupdate-requested"]);
    }
    peer.extend(["receive:3000000", "expect-keyupdate"]);
    follows(&foreign, &application, &then_ends(&peer));
}

#[test]
fn key_updates_around_the_moment_when_the_kernel_takes_over_cost_no_byte() {
    let foreign = Foreign::auto();
    // A kernel that cannot change keys does not take over by default, so all are followed.
    let application = ["receive:8000000", "data:small", "receive:8000000", "expect-eof", "fin"];
    let early = ["keyupdate:3", "send:700000", "keyupdate-requested", "send:7300000"];
    let late = ["keyupdate-requested", "expect:small", "expect-keyupdate", "send:4000000", "keyupdate"];
    for inbound in BOTH_WAYS {
        let peer = [&early[..], &["expect:small", "send:8000000"]].concat();
        foreign.run(inbound, &application, &then_ends(&peer)).ends("");
        let peer = [&early[..], &late, &["send:4000000"]].concat();
        foreign.run(inbound, &application, &then_ends(&peer)).ends("");
    }
}

#[test]
fn a_key_update_as_the_very_first_record_is_followed() {
    let foreign = Foreign::new();
    let application = ["expect:one", "data:two", "expect-eof", "fin"];
    follows(&foreign, &application, &then_ends(&["keyupdate-requested", "data:one", "expect:two"]));
}

#[test]
fn a_key_update_as_the_very_last_record_is_followed() {
    let foreign = Foreign::new();
    let application = ["expect:one", "expect-eof", "send:500000", "fin"];
    let peer =
        ["data:one", "keyupdate-requested", "close-notify", "fin", "receive:500000", "expect-close-notify"];
    follows(&foreign, &application, &peer);
}

#[test]
fn rustls_peers_that_refresh_their_keys_are_followed() {
    let foreign = Foreign::new();
    let application = ["receive:400000", "send:400000", "receive:400000", "expect-eof", "fin"];
    let peer =
        ["--rustls", "send:200000", "keyupdate", "send:200000", "receive:400000", "keyupdate", "send:400000"];
    follows(&foreign, &application, &then_ends(&peer));
}

#[test]
fn a_flood_of_key_updates_is_ended_with_a_stated_reason() {
    let foreign = Foreign::new();
    for flood in ["keyupdate:5000", "keyupdate-requested:5000"] {
        for inbound in BOTH_WAYS {
            let told = foreign.run(
                inbound,
                &["expect:hello", "data:welcome", "expect-rst"],
                &["data:hello", "expect:welcome", &format!("try:{flood}"), "sleep:1000", "rst"],
            );
            let reason = if foreign.pair.daemon.rekeys() { "record_error" } else { "key_update" };
            states_a_key_update(&told.ends(reason).record, reason);
        }
    }
    foreign.pair.works();
}

/// The application that OpenSSL's programs talk to, up to its end.
const APPLICATION: [&str; 5] =
    ["expect:one\n", "data:two\n", "expect:three\n", "data:four\n", "expect:five\n"];

/// Lines of the conversation, with KeyUpdates between them, to a program of OpenSSL that takes commands.
#[track_caller]
fn converse(
    foreign: &Foreign,
    openssl: &mut Process,
    application: &mut Process,
    at: SocketAddr,
    inbound: bool,
) {
    let rekeys = foreign.pair.daemon.rekeys();
    openssl.write(b"one\n");
    openssl.wait_for("two\n");
    let mut command = |letter: &[u8]| {
        openssl.write(letter);
        // It looks for a command at the start of what one read() gives.
        std::thread::sleep(slow::limit(1) / 2);
    };
    command(b"k\n");
    if !rekeys {
        openssl.kill();
        let ended = application.output(slow::limit(60));
        states_a_key_update(&foreign.record(at, inbound, &format!("{ended}")), "key_update");
        assert_eq!(ended.json()["end"], "rst", "{ended}");
        return;
    }
    command(b"K\n");
    command(b"K\n");
    command(b"three\n");
    openssl.wait_for("four\n");
    openssl.write(b"five\n");
    if inbound {
        std::thread::sleep(slow::limit(1) / 2);
        openssl.write(b"Q\n");
    }
    let ended = application.output(slow::limit(60)).ok();
    let record = foreign.record(at, inbound, &format!("{ended}\n{}", openssl.printed()));
    assert_eq!((record.reason(), record.bytes()), ("", 24), "{record:?}");
    // s_server does not say that it took a command; had it sent the letters, the application would have seen them.
    let updates = openssl.printed().matches("KEYUPDATE").count();
    assert!(updates == 3 || !inbound, "{}", openssl.printed());
}

#[test]
fn openssls_client_may_update_its_keys() {
    let foreign = Foreign::new();
    for _ in 0..2 {
        let (out, db) = (foreign.pair.out(), foreign.pair.db());
        let at = foreign.next(db);
        let mut application = serve(db, at, &[&APPLICATION[..], &["expect-eof", "fin"]].concat()).spawn();
        db.wait_port(at.port());
        let mut client = s_client_commands(out, at, &foreign.pair.root(), &foreign.identity).spawn();
        converse(&foreign, &mut client, &mut application, at, true);
    }
}

#[test]
fn openssls_server_may_update_its_keys() {
    let foreign = Foreign::new();
    for _ in 0..2 {
        let (out, web) = (foreign.pair.out(), foreign.pair.web());
        let at = foreign.next(out);
        let mut server = s_server_commands(out, at.port(), &foreign.pair.root(), &foreign.identity);
        let client = web.own("peer").args(["connect", &at.to_string(), "--plain"]).args(APPLICATION);
        // s_server sends close_notify only after the client's.
        let mut application = client.args(["fin", "expect-eof"]).spawn();
        converse(&foreign, &mut server, &mut application, at, false);
    }
}
