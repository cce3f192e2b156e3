//! Who comes to a direct port without having been announced meets the daemon, and the application hears nothing of it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use mtls_tests::direct::records;
use mtls_tests::hold::why_not_direct;
use mtls_tests::lab::NODE;
use mtls_tests::{could_not_run, eventually, rogue, slow};

use super::{Attack, EVIL, SECRET, at};

/// What a stranger who says `text` in plain hears, to the end.
fn plain(to: SocketAddr, text: &str) -> Vec<u8> {
    let mut socket = TcpStream::connect(to).expect("the daemon's listener takes it");
    socket.set_read_timeout(Some(slow::limit(30))).expect("a limit");
    // It may be over before all of this is said.
    let _ = socket.write_all(text.as_bytes());
    let mut heard = Vec::new();
    let ended = socket.read_to_end(&mut heard);
    let over =
        ended.as_ref().map_or_else(|error| error.kind() == std::io::ErrorKind::ConnectionReset, |_| true);
    assert!(over, "the stranger waits: {ended:?}");
    heard
}

#[test]
fn a_syn_that_was_not_announced_goes_to_the_daemon_and_plaintext_is_refused() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_syn_that_was_not_announced_goes_to_the_daemon_and_plaintext_is_refused, why);
    }
    let mut attack = Attack::new();
    attack.world.lab.add_pod(NODE, "evil");
    let evil = attack.world.lab.pod("evil").clone();
    let accepting = attack.far.tell("acceptor", "accept stranger l");
    let to = attack.to;
    let heard = evil.inside(|| plain(to, &format!("{EVIL}\r\n\r\n")));
    assert!(!String::from_utf8_lossy(&heard).contains("stranger"), "{heard:?}");
    let refused = eventually(slow::limit(20), "the refusal", || {
        let all = records(&attack.world.there, "far");
        all.into_iter().find(|record| record.source().contains(&at(&evil, 0).ip().to_string()))
    });
    assert!(refused.refused() && refused.reason() == "plaintext", "{refused:?}");
    assert!(!refused.mend().is_empty() && refused.bytes() == 0, "{refused:?}");
    assert_eq!(attack.far.answered(&accepting), None, "the application was given a stranger");

    // With the right certificate and standard TLS it is a client as any.
    let identity = attack.world.there.issue("spiffe://example.org/web", "standard").into();
    let mut tls = evil.inside(|| {
        let socket = TcpStream::connect(to).expect("the daemon's listener takes it");
        rogue::tls(socket, "far.example.org", &[], &identity).expect("a handshake")
    });
    tls.write_all(SECRET.as_bytes()).and_then(|()| tls.flush()).expect("it takes it");
    assert_eq!(attack.far.answer(&accepting), "ok");
    attack.far.does("main", "recv stranger", &format!("{} {SECRET}", SECRET.len()));
    attack.says_of_a_new_one(&format!("{SECRET}-afterwards"));
    // Not only TLS this time: the stranger's own words were not.
    attack.capture.stop().assert_absent(SECRET.as_bytes());
}
