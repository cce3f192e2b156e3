//! A FIN of the attacker's, with the right numbers, before the server has accepted.

use mtls_tests::could_not_run;
use mtls_tests::hold::why_not_direct;
use mtls_tests::middle::flag;

use super::{Attack, SECRET};

#[test]
fn a_forged_fin_before_it_is_armed_ends_nothing() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_forged_fin_before_it_is_armed_ends_nothing, why);
    }
    let attack = Attack::new();
    let before = Attack::count(&attack.world.there, "direct_guard_dropped");
    let (client, server) = (attack.connected("x"), attack.server());
    attack.middle.inject(&attack.middle.forged(client, server, flag::FIN | flag::ACK, b""));
    let dropped = [("event", "direct_guard_dropped")];
    attack.world.there.wait_metric("mtlsd_ebpf_events_total", &dropped, before + 1.0);
    attack.far.does("main", "accept x l", "ok");
    attack.says("x", SECRET);
    attack.answers("x", SECRET);
    for app in [&attack.web, &attack.far] {
        app.does("main", "close x", "ok");
    }
    let record = attack.record(&attack.world.there, "far", client);
    assert_eq!((record.datapath(), record.reason()), ("direct", ""), "{record:?}");
    attack.ends();
}
