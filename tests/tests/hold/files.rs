//! sendfile() on an armed socket whose release leaves room for one record (`ends::ROOM_FOR_A_RECORD`).
//!
//! Up to Linux 6.4 a record that is not the last of a splice is queued without a push (MSG_SENDPAGE_NOTLAST); where it
//! alone is more than TCP_NOTSENT_LOWAT, nothing is on its way, so that nothing ever makes room.

use mtls_tests::hold::arm::RELEASED;
use mtls_tests::hold::{World, kernel};
use mtls_tests::{eventually, slow};

use super::ends::ROOM_FOR_A_RECORD;
use super::ktls;

/// A record of 16,384 bytes of text on the wire: 5 bytes of header, 1 of type, 16 of tag.
const RECORD: u64 = 16_406;
const BYTES: u64 = 9_000_007;

/// Whether sendfile() of this kernel hands a record over and does not send it.
fn stalls(world: &World) -> bool {
    world.connect("probe");
    world.arm_and_release_to("probe", ROOM_FOR_A_RECORD);
    let taken: u64 = world.server.ask("a", "sendfile-once probe 65536").parse().expect("a count");
    let waits = queued(world) == [RECORD, 0];
    assert_eq!(waits, taken == 16_384, "{taken} taken, {:?} unsent and on their way", queued(world));
    world.server.does("a", "close probe", "ok");
    world.client.does("a", "drain probe", &taken.to_string());
    world.client.does("a", "close probe", "ok");
    assert_eq!(waits, kernel() < (6, 5));
    waits
}

/// Bytes unsent and segments on their way, of the server's only connection.
fn queued(world: &World) -> [u64; 2] {
    let shown = world.lab.pod("s").run(&["ss", "-Htin", "state", "established"]).ok().text();
    ["notsent:", "unacked:"].map(|name| {
        let found = shown.split_whitespace().find_map(|word| word.strip_prefix(name));
        found.map_or(0, |number| number.parse().expect("a number"))
    })
}

/// A download as a web server makes it, and its end.
#[track_caller]
fn download(world: &World, waiting: &str, bytes: u64, end: &str, lowat: u32) {
    let x = format!("{waiting}-{bytes}-{end}");
    world.connect(&x);
    world.arm_and_release_to(&x, lowat);
    let told = [
        (&world.server, world.server.tell("w", &format!("sendfile {x} {waiting} 3 {bytes}"))),
        (&world.server, world.server.tell("w", &format!("{end} {x}"))),
        (&world.client, world.client.tell("r", &format!("check {x} block 3 {bytes} end"))),
    ];
    for (app, ticket) in &told {
        let answer = eventually(slow::limit(120), &format!("{x}: {ticket:?}"), || app.answered(ticket));
        assert_eq!(answer, "ok", "{x}: {ticket:?}");
    }
    for app in [&world.client, &world.server] {
        app.ask("a", &format!("close {x}"));
    }
}

#[test]
fn files_arrive_whole_whatever_way_the_sender_waits_unless_the_kernel_stalls() {
    if !ktls(files_arrive_whole_whatever_way_the_sender_waits_unless_the_kernel_stalls) {
        return;
    }
    let world = World::held();
    let stalls = stalls(&world);
    let capture = world.lab.capture();
    // Where it stalls, `direct` is not offered; that it does not with the largest value shows what it depends on.
    let lowat = if stalls { RELEASED } else { ROOM_FOR_A_RECORD };
    for waiting in ["block", "poll", "level", "edge"] {
        download(&world, waiting, BYTES, "close", lowat);
        for (bytes, end) in
            [(1, "close"), (16_384, "close"), (16_385, "fin"), (70_000, "close"), (70_000, "fin")]
        {
            download(&world, waiting, bytes, end, lowat);
        }
    }
    assert!(capture.stop().assert_only_tls(mtls_tests::hold::world::PORT) as u64 > 4 * BYTES);
}

#[test]
fn where_sendfile_stalls_there_is_no_event_until_something_pushes() {
    if !ktls(where_sendfile_stalls_there_is_no_event_until_something_pushes) {
        return;
    }
    let world = World::held();
    if !stalls(&world) {
        return;
    }
    world.connect("x");
    world.arm_and_release_to("x", ROOM_FOR_A_RECORD);
    for round in 1..4 {
        world.server.does("a", "sendfile-once x 65536", "16384");
        world.server.does("a", "sendfile-once x 65536", "EAGAIN");
        assert_eq!(queued(&world), [RECORD, 0], "{round}");
        // A second, far beyond any timer of TCP that could send it.
        for event in ["poll x out 1000", "epoll x level out 0", "epoll x edge out 0"] {
            assert!(world.server.ask("a", event).starts_with('0'), "{round}: {event}");
        }
        assert_eq!(queued(&world), [RECORD, 0], "{round}");
        // What pushes: TCP_NODELAY does, whoever sets it.
        world.server.does("a", "nodelay x", "ok");
        world.server.does("a", "poll x out 20000", "1 out");
        world.client.does("a", "drain x 16384", "16384");
    }
}
