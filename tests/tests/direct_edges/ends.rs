//! Ends that come before the connection is armed.

use mtls_tests::could_not_run;
use mtls_tests::direct::{World, wait_empty};
use mtls_tests::hold::why_not_direct;

use super::PORT;

/// Ends a connection as soon as connect() has returned; `how`: a command of the application.
#[track_caller]
fn ends_early(how: &str) {
    let world = World::bare(&[PORT], "", "");
    let to = world.far().at(PORT);
    let (web, far) = world.applications(to);
    let capture = world.lab.capture();
    for n in 0..3 {
        web.does("main", &format!("connect x{n} {to}"), "ok");
        web.does("main", &format!("{how} x{n}"), "ok");
        // It may be gone before it could be accepted; then nobody waits.
        let accepting = far.tell("main", &format!("accept x{n} l"));
        let reads = (far.answer(&accepting) == "ok").then(|| far.ask("main", &format!("recv x{n}")));
        if let Some(read) = reads {
            assert!(["0 ", "ECONNRESET"].contains(&read.as_str()), "{how}: {read}\n{}", world.printed());
        }
        far.ask("main", &format!("close x{n}"));
        web.ask("main", &format!("close x{n}"));
    }
    for daemon in [&world.here, &world.there] {
        wait_empty(&world.lab, daemon, "DIRECT_SOCKETS");
        wait_empty(&world.lab, daemon, "EXPECTED");
    }
    // Whatever became of those, the next one works, direct or by relay.
    web.does("main", &format!("connect y {to}"), "ok");
    far.does("main", "accept y l", "ok");
    web.does("main", "send y plaintext", "9");
    far.does("main", "recv y", "9 plaintext");
    let traffic = capture.stop();
    traffic.assert_absent(b"plaintext");
}

#[test]
fn a_close_before_it_is_armed_leaves_nothing() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_close_before_it_is_armed_leaves_nothing, why);
    }
    ends_early("close");
}

#[test]
fn a_half_close_before_it_is_armed_leaves_nothing() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_half_close_before_it_is_armed_leaves_nothing, why);
    }
    ends_early("fin");
}

#[test]
fn a_reset_before_it_is_armed_leaves_nothing() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_reset_before_it_is_armed_leaves_nothing, why);
    }
    ends_early("reset");
}
