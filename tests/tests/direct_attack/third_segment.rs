//! A FIN of the attacker's in place of the segment that completes the handshake.

use mtls_tests::could_not_run;
use mtls_tests::hold::why_not_direct;
use mtls_tests::middle::{Fate, flag};

use super::{Attack, SECRET};

#[test]
fn a_forged_fin_that_completes_the_handshake_ends_nothing() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_forged_fin_that_completes_the_handshake_ends_nothing, why);
    }
    let attack = Attack::new();
    let before = Attack::count(&attack.world.there, "direct_guard_dropped");
    let server = attack.server();
    attack.middle.rule(move |segment| {
        let last = segment.to == server && !segment.has(flag::SYN);
        if last { Fate::Keep } else { Fate::Pass }
    });
    let client = attack.connected("x");
    // The server has a request and no connection yet: this would be its third segment.
    attack.middle.inject(&attack.middle.forged(client, server, flag::FIN | flag::ACK, b""));
    let dropped = [("event", "direct_guard_dropped")];
    attack.world.there.wait_metric("mtlsd_ebpf_events_total", &dropped, before + 1.0);
    attack.middle.let_go();
    attack.far.does("main", "accept x l", "ok");
    attack.says("x", SECRET);
    attack.answers("x", SECRET);
    attack.ends();
}
