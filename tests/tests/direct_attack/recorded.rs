//! What reached no application, but broke a connection: the daemons' records must not call that a clean end.

use mtls_tests::could_not_run;
use mtls_tests::hold::why_not_direct;

use super::{Attack, SECRET, assert_errno};

/// Both ends close, and neither record says that all is well.
#[track_caller]
fn closed_uncleanly(attack: Attack, client: std::net::SocketAddr) {
    for app in [&attack.far, &attack.web] {
        app.does("main", "close x", "ok");
    }
    let record = attack.record(&attack.world.there, "far", client);
    assert_ne!(record.reason(), "", "a clean end is what it was not: {record:?}");
    attack.ends();
}

#[test]
fn a_connection_broken_by_a_replayed_record_is_not_recorded_as_a_clean_end() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_connection_broken_by_a_replayed_record_is_not_recorded_as_a_clean_end, why);
    }
    let attack = Attack::new();
    let client = attack.armed("x");
    attack.says("x", SECRET);
    let record = attack.middle.payload(client, attack.server(), 0);
    attack.middle.inject_plaintext(client, attack.server(), &record);
    assert_errno(&attack.far.ask("main", "recv x"), &["EBADMSG"]);
    // The server has received more bytes than its client has sent.
    closed_uncleanly(attack, client);
}
