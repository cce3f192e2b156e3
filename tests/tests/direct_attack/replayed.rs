//! True records, sent once more or elsewhere.

use mtls_tests::could_not_run;
use mtls_tests::hold::why_not_direct;
use mtls_tests::middle::flag;

use super::{Attack, SECRET, assert_errno, assert_silent};

#[test]
fn a_record_sent_again_by_the_attacker_reaches_no_application() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_record_sent_again_by_the_attacker_reaches_no_application, why);
    }
    let attack = Attack::new();
    let client = attack.armed("x");
    attack.says("x", SECRET);
    attack.answers("x", SECRET);
    let record = attack.middle.payload(client, attack.server(), 0);
    assert_eq!(record[..3], [23, 3, 3], "{record:?}");
    attack.middle.inject_plaintext(client, attack.server(), &record);
    assert_errno(&attack.far.ask("main", "recv x"), &["EBADMSG"]);
    assert_silent(&attack.far, "x");
    attack.ends();
}

#[test]
fn a_record_sent_again_at_its_own_place_is_not_read_twice() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_record_sent_again_at_its_own_place_is_not_read_twice, why);
    }
    let attack = Attack::new();
    let client = attack.armed("x");
    attack.says("x", SECRET);
    let seen = attack.middle.seen();
    let first = seen.iter().find(|s| s.from == client && !s.payload.is_empty()).expect("a record");
    for _ in 0..3 {
        attack.middle.inject(first);
    }
    attack.far.does("main", "nonblocking x", "ok");
    attack.far.does("main", "recv x", "EAGAIN");
    attack.says_when_ready("x", &format!("{SECRET}-2"));
    attack.answers("x", SECRET);
    for app in [&attack.web, &attack.far] {
        app.does("main", "close x", "ok");
    }
    let record = attack.record(&attack.world.there, "far", client);
    assert_eq!((record.datapath(), record.reason()), ("direct", ""), "{record:?}");
    attack.ends();
}

#[test]
fn a_record_of_one_connection_reaches_no_application_of_another() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_record_of_one_connection_reaches_no_application_of_another, why);
    }
    let attack = Attack::new();
    let (a, b) = (attack.armed("a"), attack.armed("b"));
    attack.says("a", SECRET);
    let record = attack.middle.payload(a, attack.server(), 0);
    // It is one, and comes first: the guard has nothing against it.
    attack.middle.inject_plaintext(b, attack.server(), &record);
    assert_errno(&attack.far.ask("main", "recv b"), &["EBADMSG"]);
    assert_silent(&attack.far, "b");
    // Nor does the server's own come back to it as the client's.
    attack.answers("a", SECRET);
    let reflected = attack.middle.payload(attack.server(), a, 0);
    let forged = attack.middle.forged(a, attack.server(), flag::PSH | flag::ACK, &reflected);
    attack.middle.inject(&forged);
    assert_errno(&attack.far.ask("main", "recv a"), &["EBADMSG"]);
    assert_silent(&attack.far, "a");
    for name in ["a", "b"] {
        for app in [&attack.far, &attack.web] {
            app.does("main", &format!("close {name}"), "ok");
        }
    }
    attack.ends();
}

impl Attack {
    /// As [`Attack::says`], where the server does not block.
    #[track_caller]
    fn says_when_ready(&self, name: &str, text: &str) {
        self.web.does("main", &format!("send {name} {text}"), &text.len().to_string());
        self.far.does("main", &format!("poll {name} in 20000"), "1 in");
        self.far.does("main", &format!("recv {name}"), &format!("{} {text}", text.len()));
    }
}
