//! `kill -9` of either application of a `direct` connection, in every state: what came is a beginning of what was sent, nothing
//! but TLS was on the wire, no connection is left over, and the next one is direct again.
//!
//! Needs kernel TLS and tracing programs: a virtual machine (`cargo xtask test --only integration --kernel 6.12=direct_kill`).

use mtls_tests::direct_watch::Watch;
use mtls_tests::hold::why_not_direct;
use mtls_tests::lab::Process;
use mtls_tests::manners::play::Play;
use mtls_tests::{could_not_run, eventually, slow};
use nix::sys::signal::Signal;

const PORT: u16 = 7000;

/// So much that it has not arrived when somebody is killed.
const MUCH: u64 = 1 << 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Client,
    Server,
}

const BOTH: [Who; 2] = [Who::Client, Who::Server];

fn watch() -> Watch {
    Watch::start(PORT, |world, to| Play::new("blocking", "duplex", 1).run(world, to).expect("by a relay"))
}

/// The other one ends by itself, and has seen no byte that was not sent.
#[track_caller]
fn survives(who: Who, mut client: Process, mut server: Process) {
    let (killed, other) =
        if who == Who::Client { (&mut client, &mut server) } else { (&mut server, &mut client) };
    killed.kill();
    let ended = other.ends_within(slow::limit(20));
    let printed = other.printed();
    assert!(ended.is_some(), "the other end hangs after {who:?} was killed: {printed}");
    assert!(!printed.contains("wrong") && !printed.contains("panicked"), "{who:?} was killed: {printed}");
}

/// Nothing of those before is left, and a new connection is direct.
#[track_caller]
fn goes_on(watch: &mut Watch, what: &str) {
    for daemon in [&watch.world.here, &watch.world.there] {
        eventually(slow::limit(20), &format!("{what}: no connection to be left"), || {
            let listed = daemon.ask(&["connections"]);
            let open = |connection: &serde_json::Value| connection["event"] == "open";
            (!listed.as_array().expect("a list").iter().any(open)).then_some(())
        });
    }
    watch.skip_unequal();
    let ran = Play::new("blocking", "duplex", 9).run(&watch.world, watch.to());
    ran.unwrap_or_else(|told| panic!("after {what}: {told}\n{}", watch.world.printed()));
    watch.all_direct(&format!("after {what}"), 1);
}

#[test]
fn while_bytes_move_in_both_directions() {
    if let Some(why) = why_not_direct() {
        return could_not_run(while_bytes_move_in_both_directions, why);
    }
    let mut watch = watch();
    for who in BOTH {
        let play = Play::new("blocking", "endless", 20);
        let server = play.serve(&watch.world, watch.to());
        let mut client = play.connect(&watch.world, watch.to());
        client.wait_for("moving");
        survives(who, client, server);
        goes_on(&mut watch, &format!("{who:?} killed while bytes move"));
    }
    watch.only_tls();
}

#[test]
fn after_one_direction_has_ended() {
    if let Some(why) = why_not_direct() {
        return could_not_run(after_one_direction_has_ended, why);
    }
    let mut watch = watch();
    for who in BOTH {
        // The client has ended its direction, the server sends.
        let play = Play { down: MUCH, ..Play::new("blocking", "half-close", 30) };
        let server = play.serve(&watch.world, watch.to());
        let mut client = play.connect(&watch.world, watch.to());
        client.wait_for("receiving");
        survives(who, client, server);
        goes_on(&mut watch, &format!("{who:?} killed after a half-close"));
    }
    watch.only_tls();
}

#[test]
fn before_the_server_has_accepted() {
    if let Some(why) = why_not_direct() {
        return could_not_run(before_the_server_has_accepted, why);
    }
    let mut watch = watch();
    for who in BOTH {
        let play = Play::new("blocking", "endless", 40);
        let mut server = play.serve(&watch.world, watch.to());
        server.signal(Signal::SIGSTOP);
        let mut client = play.connect(&watch.world, watch.to());
        client.wait_for("connected");
        if who == Who::Client {
            client.kill();
            server.signal(Signal::SIGCONT);
        }
        survives(who, client, server);
        goes_on(&mut watch, &format!("{who:?} killed before the server has accepted"));
    }
    watch.only_tls();
}

#[test]
fn at_any_moment_while_it_becomes_direct() {
    if let Some(why) = why_not_direct() {
        return could_not_run(at_any_moment_while_it_becomes_direct, why);
    }
    let mut watch = watch();
    for step in 0..slow::scaled(48, 4) {
        for who in BOTH {
            let play = Play::new("blocking", "endless", 50 + step);
            let mut server = play.serve(&watch.world, watch.to());
            let mut client = play.connect(&watch.world, watch.to());
            if step % 2 == 0 {
                client.wait_for("connecting");
            } else {
                client.wait_for("connected");
            }
            // The moment is what differs: no condition names it.
            std::thread::sleep(std::time::Duration::from_micros(step * step * 300));
            if who == Who::Client {
                client.kill();
                // It may have been killed before there was a connection.
                server.kill();
            } else {
                survives(who, client, server);
            }
            // Two in a row would be taken for the application's way.
            goes_on(&mut watch, "a kill while a connection became direct");
        }
    }
    watch.only_tls();
}
