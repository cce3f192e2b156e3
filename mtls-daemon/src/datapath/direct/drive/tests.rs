//! Two drivers, joined by sessions that are channels; nodes that note what they are asked to do.
use std::collections::HashSet;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use mtls_direct::{
    About, By, ConnectionId, Counts, Decision, FourTuple, Limits, Message, Nonce, Outcome, Owner, Reason,
    Socket,
};
use tokio::sync::mpsc;

use super::{Driver, LinkId, Node, NotInstalled, NotTaken, Session, Teller, Told};

const LINK: LinkId = LinkId(1);
const OWNER: Owner = Owner { pid: 1, fd: 3 };

/// A session whose other end is a channel.
struct Pipe(mpsc::UnboundedSender<Message>);

impl Session for Pipe {
    type Keys = (FourTuple, Nonce, Nonce);

    fn send(&self, message: Message) {
        let _ = self.0.send(message);
    }

    fn keys(&self, id: &ConnectionId, server: Nonce) -> Option<Self::Keys> {
        Some((id.tuple, id.nonce, server))
    }
}

/// Which step of this node fails.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Fails {
    Duplicate,
    Decide,
    Expect,
    Install,
    Established,
    Empty,
    Guard,
    Release,
}

#[derive(Default)]
struct Noted {
    steps: Vec<String>,
    keys: Vec<(FourTuple, Nonce, Nonce)>,
    outcomes: Vec<Outcome>,
    carried: Vec<Counts>,
}

struct Fake {
    fails: HashSet<Fails>,
    noted: Mutex<Noted>,
    told: mpsc::UnboundedSender<&'static str>,
}

impl Fake {
    fn note(&self, step: &'static str, may_fail: Option<Fails>) -> bool {
        let well = !may_fail.is_some_and(|fails| self.fails.contains(&fails));
        self.noted().steps.push(format!("{step}{}", if well { "" } else { ": failed" }));
        let _ = self.told.send(step);
        well
    }

    fn noted(&self) -> std::sync::MutexGuard<'_, Noted> {
        self.noted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node for Fake {
    type Session = Pipe;
    type Taken = File;

    fn duplicate(&self, _: &About<LinkId>) -> Result<File, NotTaken> {
        let well = self.note("duplicate", Some(Fails::Duplicate));
        well.then(|| File::open("/dev/null").unwrap()).ok_or(NotTaken::Failed)
    }

    async fn decide(&self, _: About<LinkId>) -> Decision {
        if self.note("decide", Some(Fails::Decide)) {
            Decision::Allow(2, Nonce([2; 16]))
        } else {
            Decision::Refuse(Reason::Denied)
        }
    }

    fn expect(&self, netns: u64, _: FourTuple) -> bool {
        assert_eq!(netns, 2);
        self.note("expect", Some(Fails::Expect))
    }

    fn unexpect(&self, _: u64, _: FourTuple) {
        self.note("unexpect", None);
    }

    fn release_syn(&self, _: &About<LinkId>) {
        self.note("release_syn", None);
    }

    fn refuse_connect(&self, _: Socket, _: FourTuple, _: Reason) {
        self.note("refuse_connect", None);
    }

    fn install(
        &self,
        _: &About<LinkId>,
        _: &File,
        keys: (FourTuple, Nonce, Nonce),
    ) -> Result<(), NotInstalled> {
        self.noted().keys.push(keys);
        if self.fails.contains(&Fails::Established) {
            return Err(NotInstalled::NotEstablished);
        }
        self.note("install", Some(Fails::Install)).then_some(()).ok_or(NotInstalled::Failed)
    }

    fn empty(&self, _: &About<LinkId>, _: &File) -> bool {
        self.note("empty", Some(Fails::Empty))
    }

    fn open_guard(&self, _: &About<LinkId>, _: &File) -> bool {
        self.note("open_guard", Some(Fails::Guard))
    }

    fn release_writer(&self, _: &About<LinkId>, _: &File) -> bool {
        self.note("release_writer", Some(Fails::Release))
    }

    fn destroy(&self, _: u64, _: Option<u64>, _: FourTuple, _: Reason) {
        self.note("destroy", None);
    }

    fn remember(&self, _: &About<LinkId>, _: Reason) {
        self.note("remember", None);
    }

    fn carried(&self, _: &About<LinkId>, counts: Counts) {
        self.noted().carried.push(counts);
    }

    fn report(&self, _: &About<LinkId>, outcome: Outcome) {
        self.noted().outcomes.push(outcome);
        self.note("report", None);
    }
}

struct End {
    node: Arc<Fake>,
    teller: Teller<Pipe>,
    told: mpsc::UnboundedReceiver<&'static str>,
}

impl End {
    /// Waits until the node was asked for `step`.
    async fn comes_to(&mut self, step: &str) {
        let wait = async {
            while let Some(told) = self.told.recv().await {
                if told == step {
                    return true;
                }
            }
            false
        };
        let came = tokio::time::timeout(Duration::from_secs(60), wait).await;
        assert!(matches!(came, Ok(true)), "it never came to {step}: {:?}", self.node.noted().steps);
    }

    fn steps(&self) -> Vec<String> {
        self.node.noted().steps.clone()
    }

    fn outcomes(&self) -> Vec<Outcome> {
        self.node.noted().outcomes.clone()
    }
}

struct Pair {
    client: End,
    server: End,
}

fn tuple() -> FourTuple {
    FourTuple { client: "10.0.0.1:4000".parse().unwrap(), server: "10.0.0.2:80".parse().unwrap() }
}

fn socket(netns: u64) -> Socket {
    Socket { netns, cookie: 100 + netns }
}

impl Pair {
    fn new(client: &[Fails], server: &[Fails], limits: Limits) -> Self {
        let (to_client, from_server) = mpsc::unbounded_channel();
        let (to_server, from_client) = mpsc::unbounded_channel();
        let end = |fails: &[Fails], to, mut from: mpsc::UnboundedReceiver<Message>| {
            let (told_to, told) = mpsc::unbounded_channel();
            let fails = fails.iter().copied().collect();
            let node = Arc::new(Fake { fails, noted: Mutex::default(), told: told_to });
            let (driver, teller) = Driver::new(Arc::clone(&node), limits);
            tokio::spawn(driver.run());
            teller.tell(Told::SessionUp(LINK, Pipe(to)));
            let hears = teller.clone();
            tokio::spawn(async move {
                while let Some(message) = from.recv().await {
                    hears.tell(Told::Peer(LINK, message));
                }
            });
            End { node, teller, told }
        };
        Self { client: end(client, to_server, from_server), server: end(server, to_client, from_client) }
    }

    fn connect(&self) {
        let id = ConnectionId { tuple: tuple(), nonce: Nonce([1; 16]) };
        self.client.teller.tell(Told::Syn { link: LINK, socket: socket(1), owner: OWNER, id });
    }

    /// The kernels' part, up to where both applications have the connection.
    async fn shake_hands(&mut self) {
        self.client.comes_to("release_syn").await;
        self.server.teller.tell(Told::Established { socket: socket(2), tuple: tuple() });
        self.client.teller.tell(Told::Established { socket: socket(1), tuple: tuple() });
        self.server.teller.tell(Told::Accepted { socket: socket(2), tuple: tuple(), owner: OWNER });
    }

    fn end(&self, received: u64) {
        let told = |netns, counts| Told::Ended { socket: socket(netns), counts };
        self.client.teller.tell(told(1, Counts { sent: 10, received: 20 }));
        self.server.teller.tell(told(2, Counts { sent: 20, received }));
    }
}

fn failed(by: By, reason: Reason) -> Vec<Outcome> {
    vec![Outcome::Failed(by, reason)]
}

#[tokio::test]
async fn both_ends_are_armed_and_let_go_and_agree_on_the_end() {
    let mut pair = Pair::new(&[], &[], Limits::default());
    pair.connect();
    pair.shake_hands().await;
    pair.client.comes_to("release_writer").await;
    pair.server.comes_to("release_writer").await;
    pair.end(10);
    pair.client.comes_to("report").await;
    pair.server.comes_to("report").await;
    let arming = ["install", "empty", "open_guard", "release_writer", "report"];
    assert_eq!(pair.client.steps(), [&["duplicate", "release_syn"][..], &arming].concat());
    assert_eq!(pair.server.steps(), [&["decide", "expect", "unexpect", "duplicate"][..], &arming].concat());
    assert_eq!(pair.client.outcomes(), [Outcome::Complete]);
    assert_eq!(pair.server.outcomes(), [Outcome::Complete]);
    let keys = |end: &End| end.node.noted().keys.clone();
    assert_eq!(keys(&pair.client), keys(&pair.server));
    assert_eq!(pair.client.node.noted().carried, [Counts { sent: 10, received: 20 }]);
    assert_eq!(keys(&pair.client), [(tuple(), Nonce([1; 16]), Nonce([2; 16]))]);
}

#[tokio::test]
async fn a_stream_that_lost_its_end_is_reported_on_both_sides() {
    let mut pair = Pair::new(&[], &[], Limits::default());
    pair.connect();
    pair.shake_hands().await;
    pair.client.comes_to("release_writer").await;
    pair.server.comes_to("release_writer").await;
    pair.end(7);
    pair.client.comes_to("report").await;
    pair.server.comes_to("report").await;
    assert_eq!(pair.client.outcomes(), [Outcome::Truncated { sent: 3, received: 0 }]);
    assert_eq!(pair.server.outcomes(), [Outcome::Truncated { sent: 0, received: 3 }]);
}

#[tokio::test]
async fn what_fails_at_the_client_before_the_syn_refuses_the_connect() {
    let mut pair = Pair::new(&[Fails::Duplicate], &[], Limits::default());
    pair.connect();
    pair.client.comes_to("report").await;
    let steps = pair.client.steps();
    assert_eq!(steps, ["duplicate: failed", "refuse_connect", "remember", "report"]);
    assert_eq!(pair.client.outcomes(), failed(By::Us, Reason::NoDescriptor));
    assert!(pair.server.steps().is_empty(), "nobody else heard of it");
}

#[tokio::test]
async fn a_denial_of_the_server_refuses_the_connect() {
    let mut pair = Pair::new(&[], &[Fails::Decide], Limits::default());
    pair.connect();
    pair.client.comes_to("report").await;
    pair.server.comes_to("report").await;
    assert_eq!(pair.client.steps(), ["duplicate", "refuse_connect", "report"]);
    assert_eq!(pair.client.outcomes(), failed(By::Peer, Reason::Denied));
    assert_eq!(pair.server.outcomes(), failed(By::Us, Reason::Denied));
}

#[tokio::test]
async fn a_syn_that_cannot_be_expected_ends_on_both_sides() {
    let mut pair = Pair::new(&[], &[Fails::Expect], Limits::default());
    pair.connect();
    pair.client.comes_to("report").await;
    pair.server.comes_to("report").await;
    assert_eq!(pair.client.outcomes(), failed(By::Peer, Reason::NoHandshake));
    assert_eq!(pair.server.outcomes(), failed(By::Us, Reason::NoHandshake));
    assert!(pair.client.steps().contains(&"destroy".to_owned()));
}

#[tokio::test]
async fn a_socket_that_no_process_has_ends_on_both_sides() {
    let mut pair = Pair::new(&[], &[], Limits::default());
    pair.connect();
    pair.client.comes_to("release_syn").await;
    pair.server.teller.tell(Told::Unreachable(socket(7)));
    pair.server.teller.tell(Told::Established { socket: socket(2), tuple: tuple() });
    pair.server.teller.tell(Told::Unreachable(socket(2)));
    pair.server.comes_to("report").await;
    pair.client.comes_to("report").await;
    assert_eq!(pair.server.outcomes(), failed(By::Us, Reason::NoDescriptor));
    assert_eq!(pair.client.outcomes(), failed(By::Peer, Reason::NoDescriptor));
    assert!(pair.server.steps().contains(&"destroy".to_owned()));
}

#[tokio::test]
async fn each_step_of_arming_that_fails_destroys_both_ends() {
    for (fails, reason) in [
        (Fails::Install, Reason::NoKernelTls),
        (Fails::Established, Reason::NotEstablished),
        (Fails::Empty, Reason::NotEmptied),
        (Fails::Guard, Reason::NotReleased),
        (Fails::Release, Reason::NotReleased),
    ] {
        for at_the_server in [false, true] {
            let fault = &[fails][..];
            let (client, server) = if at_the_server { (&[][..], fault) } else { (fault, &[][..]) };
            let mut pair = Pair::new(client, server, Limits::default());
            pair.connect();
            pair.shake_hands().await;
            pair.client.comes_to("report").await;
            pair.server.comes_to("report").await;
            let (us, other) =
                if at_the_server { (&pair.server, &pair.client) } else { (&pair.client, &pair.server) };
            assert_eq!(us.outcomes(), failed(By::Us, reason), "{fails:?}");
            assert_eq!(other.outcomes(), failed(By::Peer, reason), "{fails:?}");
            for end in [us, other] {
                let steps = end.steps();
                assert!(steps.contains(&"destroy".to_owned()), "{fails:?}: {steps:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_that_does_not_come_ends_the_wait() {
    let mut pair = Pair::new(&[], &[], Limits { answer: Duration::from_millis(20), ..Limits::default() });
    pair.client.teller.tell(Told::SessionUp(LINK, Pipe(mpsc::unbounded_channel().0)));
    pair.connect();
    pair.client.comes_to("report").await;
    assert_eq!(pair.client.outcomes(), failed(By::Us, Reason::NoAnswer));
}

#[tokio::test]
async fn a_session_that_dies_before_the_end_of_arming_ends_the_connection_and_later_it_does_not() {
    let mut pair = Pair::new(&[], &[], Limits::default());
    pair.connect();
    pair.client.comes_to("release_syn").await;
    pair.client.teller.tell(Told::SessionLost(LINK));
    pair.client.comes_to("report").await;
    assert_eq!(pair.client.outcomes(), failed(By::Us, Reason::SessionLost));

    let mut pair = Pair::new(&[], &[], Limits::default());
    pair.connect();
    pair.shake_hands().await;
    pair.client.comes_to("release_writer").await;
    pair.client.teller.tell(Told::SessionLost(LINK));
    pair.client.teller.tell(Told::Ended { socket: socket(1), counts: Counts::default() });
    pair.client.comes_to("report").await;
    assert_eq!(pair.client.outcomes(), [Outcome::Unverified]);
    assert!(!pair.client.steps().contains(&"destroy".to_owned()));
}

#[tokio::test]
async fn the_end_of_a_lease_destroys_what_is_let_go() {
    let mut pair = Pair::new(&[], &[], Limits::default());
    pair.connect();
    pair.shake_hands().await;
    pair.client.comes_to("release_writer").await;
    pair.server.comes_to("release_writer").await;
    pair.client.teller.tell(Told::LeaseEnded(mtls_direct::Key(1)));
    pair.client.comes_to("destroy").await;
    pair.server.comes_to("destroy").await;
    pair.server.comes_to("report").await;
    assert_eq!(pair.client.outcomes(), failed(By::Us, Reason::LeaseEnded));
    assert_eq!(pair.server.outcomes(), failed(By::Peer, Reason::LeaseEnded));
}

#[tokio::test]
async fn a_driver_ends_when_nobody_can_tell_it_anything_more() {
    let (to, _told) = mpsc::unbounded_channel();
    let node = Fake { fails: HashSet::new(), noted: Mutex::default(), told: to };
    let (driver, teller) = Driver::new(Arc::new(node), Limits::default());
    let running = tokio::spawn(driver.run());
    drop(teller);
    running.await.unwrap();
}
