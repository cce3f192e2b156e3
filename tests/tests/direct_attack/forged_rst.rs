//! An RST of the attacker's, with the right numbers, before the server has accepted.

use mtls_tests::could_not_run;
use mtls_tests::direct::wait_empty;
use mtls_tests::hold::why_not_direct;
use mtls_tests::middle::flag;

use super::{Attack, SECRET, assert_errno, assert_silent};

/// Resets one end; both end, nothing of what was said goes anywhere, and both records say that it was reset.
#[track_caller]
pub fn reset(to_the_server: bool) {
    let attack = Attack::new();
    let (client, server) = (attack.connected("x"), attack.server());
    let (from, to) = if to_the_server { (client, server) } else { (server, client) };
    let rst = attack.middle.forged(from, to, flag::RST | flag::ACK, b"");
    // What the application sends meanwhile is held or sealed; it is to be lost, not leaked.
    attack.web.does("main", &format!("send x {SECRET}-lost"), "15");
    attack.middle.inject(&rst);
    assert_errno(&attack.web.ask("main", "recv x"), &["ECONNRESET", "ECONNABORTED"]);
    // What was reset in the queue is given to accept() all the same.
    attack.far.does("main", "accept x l", "ok");
    assert_errno(&attack.far.ask("main", "recv x"), &["ECONNRESET", "ECONNABORTED"]);
    for app in [&attack.web, &attack.far] {
        assert_silent(app, "x");
        app.does("main", "close x", "ok");
    }
    for daemon in [&attack.world.here, &attack.world.there] {
        wait_empty(&attack.world.lab, daemon, "DIRECT_SOCKETS");
        wait_empty(&attack.world.lab, daemon, "EXPECTED");
    }
    for (daemon, workload) in [(&attack.world.there, "far"), (&attack.world.here, "web")] {
        let record = attack.record(daemon, workload, client);
        assert_eq!(record.reason(), "reset", "{record:?}");
    }
    attack.ends();
}

#[test]
fn a_forged_rst_to_the_server_before_it_is_armed_leaks_nothing_and_nobody_waits() {
    if let Some(why) = why_not_direct() {
        return could_not_run(
            a_forged_rst_to_the_server_before_it_is_armed_leaks_nothing_and_nobody_waits,
            why,
        );
    }
    reset(true);
}
