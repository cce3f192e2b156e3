//! A node whose daemon authorises a connection, and which then does not keep to it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use mtls_tests::hold::why_not_direct;
use mtls_tests::lab::{NODE, Pod};
use mtls_tests::rogue::{Id, Rogue, kind};
use mtls_tests::{could_not_run, eventually, slow};
use socket2::{Domain, Socket, Type};

use super::{Attack, EVIL, SECRET, assert_errno, assert_silent, at};

/// The traitor's port.
const CLIENT: u16 = 50_002;

/// A TCP connection from the traitor's port, in no hold.
fn connect(evil: &Pod, to: SocketAddr) -> TcpStream {
    let from = at(evil, CLIENT);
    evil.inside(|| {
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
        socket.bind(&from.into()).and_then(|()| socket.connect(&to.into())).expect("the SYN is expected");
        socket.set_read_timeout(Some(slow::limit(30))).expect("a limit");
        socket.into()
    })
}

struct Traitor {
    attack: Attack,
    session: Rogue,
    id: Id,
    tcp: TcpStream,
}

/// It has been accepted by the daemon, and by TCP; not by the application yet.
#[track_caller]
fn traitor() -> Traitor {
    let mut attack = Attack::new();
    attack.world.lab.add_pod(NODE, "evil");
    let evil = attack.world.lab.pod("evil").clone();
    let identity = attack.world.there.issue("spiffe://example.org/web", "traitor").into();
    let mut session = Rogue::session(attack.world.node(), attack.to, &identity).expect("a session");
    let id = Id::new(at(&evil, CLIENT), attack.to, 7);
    let (kind, nonce) = session.open(&id);
    assert_eq!((kind, nonce.len()), (kind::ACCEPT, 16));
    let tcp = connect(&evil, attack.to);
    Traitor { attack, session, id, tcp }
}

impl Traitor {
    /// The server's daemon has said why; the application has read nothing.
    #[track_caller]
    fn end_found_out(mut self, refused: bool) {
        let text = "what came first on a direct connection was no TLS record: it is cut";
        self.attack.world.there.wait_for_output(text);
        assert_errno(&self.attack.far.ask("main", "recv x"), &["ECONNABORTED"]);
        assert_silent(&self.attack.far, "x");
        let client = at(self.attack.world.lab.pod("evil"), CLIENT);
        let record = self.attack.record(&self.attack.world.there, "far", client);
        assert_eq!((record.reason(), record.refused()), ("direct_failed", refused), "{record:?}");
        assert!(record.detail().contains("one end is at fault"), "{record:?}");
        // An application that was let go may have said something; what came of it is not for the traitor to read.
        let mut heard = Vec::new();
        let _ = self.tcp.read_to_end(&mut heard);
        assert!(!String::from_utf8_lossy(&heard).contains(SECRET), "{heard:?}");
        self.attack.says_of_a_new_one(&format!("{SECRET}-afterwards"));
        let printed = self.attack.world.printed();
        assert!(!printed.contains("panicked"), "{printed}");
        // Not only TLS this time: the traitor's own words were not.
        self.attack.capture.stop().assert_absent(SECRET.as_bytes());
    }
}

#[test]
fn a_peer_that_authorises_and_then_sends_plaintext_is_cut_and_no_application_reads_it() {
    let test = a_peer_that_authorises_and_then_sends_plaintext_is_cut_and_no_application_reads_it;
    if let Some(why) = why_not_direct() {
        return could_not_run(test, why);
    }
    let mut traitor = traitor();
    // Nobody takes it: the server's side is closed until it may answer, and TCP sends it again and again.
    traitor.tcp.write_all(EVIL.as_bytes()).expect("TCP takes it");
    traitor.attack.far.does("main", "accept x l", "ok");
    let dropped =
        || traitor.attack.world.there.metric("mtlsd_ebpf_events_total", &[("event", "direct_guard_dropped")]);
    eventually(slow::limit(20), "the guard to drop it", || (dropped() > 1.5).then_some(()));
    // Only when it says that it is ready is it looked at.
    traitor.session.say(&traitor.id.frame(kind::READY, &[])).expect("the session takes it");
    traitor.end_found_out(false);
}

#[test]
fn a_peer_that_says_it_is_ready_and_then_sends_plaintext_is_cut_and_no_application_reads_it() {
    let test = a_peer_that_says_it_is_ready_and_then_sends_plaintext_is_cut_and_no_application_reads_it;
    if let Some(why) = why_not_direct() {
        return could_not_run(test, why);
    }
    let mut traitor = traitor();
    traitor.session.say(&traitor.id.frame(kind::READY, &[])).expect("the session takes it");
    traitor.attack.far.does("main", "accept x l", "ok");
    // Our application believes that it speaks to `web`; what it says is sealed with keys of that session.
    traitor.attack.far.does("main", &format!("send x {SECRET}"), "10");
    let mut record = [0; 5];
    traitor.tcp.read_exact(&mut record).expect("a record");
    assert_eq!(record[..3], [23, 3, 3]);
    traitor.tcp.write_all(EVIL.as_bytes()).expect("TCP takes it");
    traitor.end_found_out(false);
}
