//! Why a session ended must stand in the log of the daemon that ended it.

use mtls_tests::could_not_run;
use mtls_tests::hold::why_not_direct;

use super::Attack;
use super::garbage::say_all;

#[test]
fn the_daemon_says_why_it_ended_a_session() {
    if let Some(why) = why_not_direct() {
        return could_not_run(the_daemon_says_why_it_ended_a_session, why);
    }
    let mut attack = Attack::new();
    for word in say_all(&attack) {
        attack.world.there.wait_for_output(word);
    }
    attack.ends();
}
