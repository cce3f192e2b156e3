//! Whole walks against servers that are good, or wrong in one way. What is dialled is a listener of the test.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::server::NoClientAuth;
use rustls::{ServerConfig, SupportedProtocolVersion};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::super::Answer;
use super::super::tests::identified_by;
use super::*;
use crate::datapath::relay::outbound::reset;
use crate::datapath::relay::session::{Session, SessionError, linger};
use crate::handshake::tests::trust;
use crate::handshake::{Preface, TlsSettings, WorkloadTls};
use crate::identity::testing::{HOUR, LeafSpec, TestCa, TestLeaf};
use crate::observe::connection::Datapath;
use crate::snapshot::Snapshot;
use crate::workload::Presence;

const API: &str = "spiffe://example.org/api";
const TO: &str = "10.1.0.7:443";
const YAML: &str = r#"
workloads:
  - { name: web, select: { netns: web }, addresses: [10.0.0.2] }
  - { name: db, select: { netns: db }, addresses: [10.0.0.3] }
directory:
  - { name: api, addresses: [10.1.0.7], ports: [443], spiffe_ids: ["spiffe://example.org/api"] }
  - { name: wide, addresses: [10.2.0.0/24], spiffe_ids: ["spiffe://example.org/wide"] }
"#;

struct World {
    ca: TestCa,
    snapshot: Snapshot,
}

impl World {
    fn with(more: &str) -> Self {
        let ca = TestCa::root("root");
        let snapshot = identified_by(&format!("{YAML}{more}"), &ca);
        Self { ca, snapshot }
    }

    fn api(&self) -> WorkloadTls {
        self.tls(&LeafSpec::id(API))
    }

    fn tls(&self, spec: &LeafSpec) -> WorkloadTls {
        WorkloadTls::new(&self.ca.leaf(spec).svid(), trust(&self.ca), TlsSettings::default())
    }

    /// As web, with whatever answers instead of the server.
    async fn ask(&self, to: &str, request: Asked<'_>, server: SocketAddr) -> Result<LiveReport, LiveError> {
        let dial = |_: SocketAddr| -> Dialling { Box::pin(TcpStream::connect(server)) };
        self.dialling(to, request, &dial).await
    }

    async fn dialling(
        &self,
        to: &str,
        request: Asked<'_>,
        dial: &(dyn Fn(SocketAddr) -> Dialling + Sync),
    ) -> Result<LiveReport, LiveError> {
        let absent = request.absent;
        let presence = move |name: &str| match absent {
            true => Some(Presence::Absent(format!("{name} is not there"))),
            false => Some(Presence::Enrolled),
        };
        let diagnosis = Live {
            ground: Ground {
                snapshot: &self.snapshot,
                now: SystemTime::now(),
                presence: &presence,
                revoked: &|_| None,
                datapath: &|_| (Datapath::RelayUserspace, None),
            },
            client: Arc::clone(self.snapshot.by_name("web").unwrap()),
            expect: request.expect,
            limit: request.limit,
            dial,
            datapath: &|_, suite| {
                assert!(suite.is_some(), "the suite that was agreed");
                (Datapath::RelayUserspace, Some("this kernel has no kTLS".to_owned()))
            },
        };
        live(&diagnosis, to).await
    }
}

#[derive(Clone, Copy)]
struct Asked<'a> {
    expect: Option<&'a SpiffeId>,
    limit: Duration,
    absent: bool,
}

const AS_USUAL: Asked<'_> = Asked { expect: None, limit: Duration::from_secs(10), absent: false };
/// For what is waited for in vain.
const BRIEFLY: Asked<'_> = Asked { limit: Duration::from_millis(200), ..AS_USUAL };

/// A listener for one connection.
async fn serve<F: Future<Output = ()> + Send + 'static>(
    serve: impl FnOnce(TcpStream) -> F + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        if let Ok((tcp, _)) = listener.accept().await {
            serve(tcp).await;
        }
    });
    address
}

/// An mtlsd that says this.
async fn mtlsd(tls: WorkloadTls, preface: Preface) -> SocketAddr {
    serve(move |tcp| async move {
        let records = Records::server(tls.server(true, None).unwrap().0).unwrap();
        let mut session = Session::new(tcp, records, Vec::new());
        // What goes wrong shows at the client.
        if session.handshake().await.is_ok() && session.send_preface(&preface).await.is_ok() {
            session.close().await;
        } else {
            linger(session.into_socket()).await;
        }
    })
    .await
}

/// A server that is no mtlsd, with whatever it does after its handshake.
async fn foreign<F: Future<Output = ()> + Send + 'static>(
    tls: WorkloadTls,
    then: impl FnOnce(Session) -> F + Send + 'static,
) -> SocketAddr {
    serve(move |tcp| async move {
        let records = Records::server(tls.server(false, None).unwrap().0).unwrap();
        let mut session = Session::new(tcp, records, Vec::new());
        match session.handshake().await {
            Ok(()) => then(session).await,
            Err(_) => linger(session.into_socket()).await,
        }
    })
    .await
}

/// A server of rustls that asks for no certificate.
async fn asks_nothing(leaf: &TestLeaf, version: &'static SupportedProtocolVersion) -> SocketAddr {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let config = config.with_client_cert_verifier(Arc::new(NoClientAuth));
    let config = config.with_single_cert(leaf.chain.clone(), leaf.private_key()).unwrap();
    serve(move |tcp| async move {
        let records = Records::server(Arc::new(config)).unwrap();
        let mut session = Session::new(tcp, records, Vec::new());
        let _client_may_have_gone = session.handshake().await;
        linger(session.into_socket()).await;
    })
    .await
}

/// Every question has its place; those before `step` hold or do not apply, and those after it were not reached.
#[track_caller]
fn stops<'a>(report: &'a LiveReport, step: Question, reason: Option<Reason>, parts: &[&str]) -> &'a LiveStep {
    assert_eq!(report.answer, Answer::Denied, "{report:#?}");
    assert!(!report.holds() && !report.protected && report.datapath.is_none(), "{report:#?}");
    let failed = report.step(step).unwrap();
    assert_eq!(failed.outcome, Outcome::Failed, "{report:#?}");
    assert_eq!(failed.reason.as_deref(), reason.map(Reason::code), "{report:#?}");
    for other in &report.steps {
        match other.step.cmp(&step) {
            std::cmp::Ordering::Less => {
                assert!(matches!(other.outcome, Outcome::Passed | Outcome::NotAsked), "{other:#?}");
            }
            std::cmp::Ordering::Equal => {}
            std::cmp::Ordering::Greater => assert_eq!(other.outcome, Outcome::NotReached, "{other:#?}"),
        }
    }
    assert!(!report.mend.is_empty() && report.sentence.ends_with(step.text()), "{report:#?}");
    let text = format!("{} {}", failed.detail, failed.evidence.join(" "));
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in {text:?}");
    }
    failed
}

fn passed(report: &LiveReport, step: Question) {
    assert_eq!(report.step(step).unwrap().outcome, Outcome::Passed, "{report:#?}");
}

#[tokio::test]
async fn between_two_mtlsd_everything_passes() {
    let world = World::with("");
    for to in [TO, "api:443", "api", "spiffe://example.org/api:443"] {
        let server = mtlsd(world.api(), Preface::Ready).await;
        let report = world.ask(to, AS_USUAL, server).await.unwrap();
        assert!(report.holds() && report.protected, "{report:#?}");
        assert_eq!(report.steps.len(), Question::ALL.len());
        for step in &report.steps {
            let given = to == TO && step.step == Question::Address;
            let want = if given { Outcome::NotAsked } else { Outcome::Passed };
            assert_eq!(step.outcome, want, "{step:#?}");
        }
        assert_eq!(report.datapath, Some(Datapath::RelayUserspace));
        assert_eq!(report.mend, "Nothing needs mending.");
        let tls = report.step(Question::Tls).unwrap();
        assert!(tls.detail.contains("another mtlsd") && tls.evidence[0].starts_with("TLSv1.3, "), "{tls:#?}");
        assert!(tls.took_us.is_some());
    }
}

#[tokio::test]
async fn what_the_other_mtlsd_says_arrives_with_its_reason_and_its_mend() {
    let world = World::with("");
    let denied = Refusal::new(Reason::PolicyDenied, "spiffe://example.org/web to api port 443: no-web");
    let server = mtlsd(world.api(), Preface::refusing(&denied)).await;
    let report = world.ask(TO, AS_USUAL, server).await.unwrap();
    let parts =
        ["A policy rule denies this connection.", "port 443: no-web", "in the preface, as policy_denied"];
    stops(&report, Question::PolicyThere, Some(Reason::PolicyDenied), &parts);
    assert_eq!(report.remote_reason.as_ref().unwrap().code, "policy_denied");
    assert!(report.mend.starts_with("At the server's node: Change the rule"), "{}", report.mend);

    let refused = Refusal::new(Reason::ApplicationRefused, "connecting to 10.1.0.7:443: Connection refused");
    let server = mtlsd(world.api(), Preface::refusing(&refused)).await;
    let report = world.ask(TO, AS_USUAL, server).await.unwrap();
    stops(&report, Question::Application, Some(Reason::ApplicationRefused), &["Connection refused"]);

    // A reason of a later version.
    let server = mtlsd(world.api(), Preface::Refused(255, "new".into())).await;
    let report = world.ask(TO, AS_USUAL, server).await.unwrap();
    let failed = report.step(Question::Application).unwrap();
    assert_eq!((failed.outcome, failed.reason.as_deref()), (Outcome::Failed, None), "{report:#?}");
    assert_eq!(report.remote_reason.unwrap().code, "unknown_255");
}

#[tokio::test]
async fn a_server_that_does_not_trust_us_says_so_by_its_alert() {
    let world = World::with("");
    let stranger = TestCa::root("stranger");
    let leaf = world.ca.leaf(&LeafSpec::id(API)).svid();
    let tls = || WorkloadTls::new(&leaf, trust(&stranger), TlsSettings::default());
    for server in [mtlsd(tls(), Preface::Ready).await, foreign(tls(), |_| async {}).await] {
        let report = world.ask(TO, AS_USUAL, server).await.unwrap();
        let part = "It says by its alert unknown_ca: The peer's check of our chain failed";
        stops(&report, Question::TrustedThere, Some(Reason::PeerAlert), &[part]);
        assert_eq!(report.alert.as_deref(), Some("unknown_ca"));
        assert!(report.mend.contains("Add our root there"), "{}", report.mend);
    }
}

#[tokio::test]
async fn a_server_that_is_no_mtlsd_has_answered_when_it_goes_on_or_ends_properly() {
    let world = World::with("");
    let ends = foreign(world.api(), |session| session.close()).await;
    let report = world.ask(TO, AS_USUAL, ends).await.unwrap();
    assert!(report.holds(), "{report:#?}");
    let ours = report.step(Question::TrustedThere).unwrap();
    assert!(ours.detail.contains("close_notify, and no alert"), "{ours:#?}");
    for step in [Question::PolicyThere, Question::Application] {
        assert_eq!(report.step(step).unwrap().outcome, Outcome::NotAsked);
    }
    // As much as it likes: no more is read than the limit.
    let floods = foreign(world.api(), |mut session| async move {
        let preface = Preface::Refused(1, "x".repeat(1000));
        while session.send_preface(&preface).await.is_ok() {}
    })
    .await;
    let report = world.ask(TO, AS_USUAL, floods).await.unwrap();
    assert!(report.holds(), "{report:#?}");
    assert!(report.step(Question::TrustedThere).unwrap().detail.contains("went on"), "{report:#?}");
}

#[tokio::test]
async fn a_server_that_shows_nothing_has_given_no_answer_which_is_no_success() {
    let world = World::with("");
    let (stay, stays) = tokio::sync::oneshot::channel::<()>();
    let silent = foreign(world.api(), |session| async move {
        let _gone = stays.await;
        drop(session);
    })
    .await;
    let resets = foreign(world.api(), |session| async move {
        reset(&session.into_socket());
    })
    .await;
    for (server, part) in [(silent, "said nothing for 200ms"), (resets, "did not go on either: it ")] {
        let report = world.ask(TO, BRIEFLY, server).await.unwrap();
        assert_eq!(report.answer, Answer::Unknown, "{report:#?}");
        assert!(!report.holds() && !report.protected, "{report:#?}");
        let ours = report.step(Question::TrustedThere).unwrap();
        assert!(ours.outcome == Outcome::Unknown && ours.detail.contains(part), "{ours:#?}");
        assert!(report.mend.contains("server's log"), "{}", report.mend);
    }
    drop(stay);
}

#[tokio::test]
async fn what_is_no_tls_is_told_by_its_first_bytes() {
    let world = World::with("");
    for (answer, parts) in [
        (
            &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
            ["speaks plain HTTP", "began with \"HTTP/1.1 400 Bad Request\""],
        ),
        (b"220 plain mail\r\n", ["SMTP", "220 plain mail"]),
        (b"\x1b[2J", ["not TLS", "\\u{1b}[2J"]),
    ] {
        let server = serve(move |mut tcp| async move {
            tcp.write_all(answer).await.unwrap();
            linger(tcp).await;
        })
        .await;
        let report = world.ask(TO, AS_USUAL, server).await.unwrap();
        stops(&report, Question::Tls, Some(Reason::MalformedTls), &parts);
        assert!(report.mend.contains("enrol it"), "{}", report.mend);
    }
    let closes = serve(|mut tcp| async move {
        let _hello = tcp.read(&mut [0; 8192]).await;
    })
    .await;
    let report = world.ask(TO, AS_USUAL, closes).await.unwrap();
    stops(&report, Question::Tls, Some(Reason::HandshakeClosed), &[]);
    // The kernel takes the connection, and nobody answers.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let report = world.ask(TO, BRIEFLY, listener.local_addr().unwrap()).await.unwrap();
    stops(
        &report,
        Question::Tls,
        Some(Reason::HandshakeTimeout),
        &["TCP is open", "not a byte came within 200ms"],
    );
}

#[tokio::test]
async fn no_more_is_read_of_a_server_that_never_comes_to_the_point() {
    let world = World::with("");
    // Endless change_cipher_spec is refused by TLS itself, a record of a large handshake message by its length; what is left
    // is to send slowly, which the time limit ends.
    let server = serve(|mut tcp| async move {
        loop {
            if tcp.write_all(&[22, 3, 3, 0, 1, 2]).await.is_err() {
                return;
            }
        }
    })
    .await;
    let report = world.ask(TO, AS_USUAL, server).await.unwrap();
    let failed = report.step(Question::Tls).unwrap();
    assert_eq!(failed.outcome, Outcome::Failed, "{report:#?}");
    assert_eq!(failed.reason.as_deref(), Some("malformed_tls"), "{report:#?}");
}

#[tokio::test]
async fn another_version_of_tls_and_a_server_that_asks_for_nothing_are_told() {
    let world = World::with("");
    let leaf = world.ca.leaf(&LeafSpec::id(API));
    let old = asks_nothing(&leaf, &rustls::version::TLS12).await;
    let report = world.ask(TO, AS_USUAL, old).await.unwrap();
    stops(&report, Question::Tls, Some(Reason::TlsVersion), &["protocol_version"]);
    assert!(report.mend.contains("tls.min_version"), "{}", report.mend);

    let careless = asks_nothing(&leaf, &rustls::version::TLS13).await;
    let report = world.ask(TO, AS_USUAL, careless).await.unwrap();
    stops(
        &report,
        Question::ClientCertificate,
        None,
        &["does not know who connects", "would carry the connection"],
    );
    assert!(report.mend.contains("require a client certificate"), "{}", report.mend);
}

#[tokio::test]
async fn each_fault_of_their_chain_stops_at_its_question_and_ours_is_not_shown() {
    let world = World::with("");
    let now = SystemTime::now();
    let good = LeafSpec::id(API);
    let expired = LeafSpec { not_before: now - 3 * HOUR, not_after: now - HOUR, ..good.clone() };
    let early = LeafSpec { not_before: now + HOUR, not_after: now + 2 * HOUR, ..good.clone() };
    for (spec, step, reason) in [
        (LeafSpec { uris: vec![], ..good.clone() }, Question::TheirCertificate, Reason::NoSpiffeId),
        (expired, Question::Validity, Reason::CertificateExpired),
        (early, Question::Validity, Reason::CertificateNotYetValid),
        (LeafSpec::id("spiffe://example.org/other"), Question::Name, Reason::UnexpectedServer),
    ] {
        let leaf = world.ca.leaf(&spec);
        let server = asks_nothing_but_a_certificate(&leaf).await;
        let report = world.ask(TO, AS_USUAL, server.0).await.unwrap();
        stops(&report, step, Some(reason), &[]);
        assert!(!server.1.await.unwrap(), "our certificate was sent to {reason:?}");
    }
    let stranger = TestCa::root("stranger");
    let server = asks_nothing_but_a_certificate(&stranger.leaf(&good)).await;
    let report = world.ask(TO, AS_USUAL, server.0).await.unwrap();
    stops(&report, Question::TrustedHere, Some(Reason::UnknownIssuer), &["trusted roots: root"]);
    assert!(!server.1.await.unwrap(), "our certificate was sent to a stranger");
}

/// A server with any certificate; says whether it saw one of the client.
async fn asks_nothing_but_a_certificate(
    leaf: &TestLeaf,
) -> (SocketAddr, tokio::sync::oneshot::Receiver<bool>) {
    let (chain, key) = (leaf.chain.clone(), leaf.private_key());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let roots = {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(TestCa::root("any").der.clone()).unwrap();
        Arc::new(roots)
    };
    let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider))
        .build()
        .unwrap();
    let config =
        ServerConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13]);
    let config = config.unwrap().with_client_cert_verifier(verifier).with_single_cert(chain, key).unwrap();
    let (tell, told) = tokio::sync::oneshot::channel();
    let address = serve(move |tcp| async move {
        let mut session = Session::new(tcp, Records::server(Arc::new(config)).unwrap(), Vec::new());
        let failed = session.handshake().await.unwrap_err();
        // The verifier of the test trusts nobody: had it seen a certificate, this would be its error.
        let seen = matches!(failed, SessionError::Tls(rustls::Error::InvalidCertificate(_)));
        let _asked = tell.send(seen);
    })
    .await;
    (address, told)
}

#[tokio::test]
async fn what_tcp_says_is_told_with_its_errno_for_each_address() {
    let world = World::with("");
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap().local_addr().unwrap();
    let report = world.ask(TO, AS_USUAL, free).await.unwrap();
    stops(&report, Question::Tcp, Some(Reason::DialRefused), &["10.1.0.7:443: ECONNREFUSED"]);
    let never = |_: SocketAddr| -> Dialling { Box::pin(std::future::pending()) };
    let report = world.dialling(TO, BRIEFLY, &never).await.unwrap();
    stops(&report, Question::Tcp, Some(Reason::DialTimeout), &["no answer to SYN from 10.1.0.7:443 within"]);
    let unreachable = |_: SocketAddr| -> Dialling {
        Box::pin(async { Err(io::Error::from_raw_os_error(nix::libc::EHOSTUNREACH)) })
    };
    let report = world.dialling(TO, AS_USUAL, &unreachable).await.unwrap();
    stops(&report, Question::Tcp, Some(Reason::DialUnreachable), &["EHOSTUNREACH"]);
}

#[tokio::test]
async fn of_many_addresses_so_many_are_tried_in_order_and_the_rest_is_said_to_be_left_out() {
    let addresses: Vec<_> = (1..=11).map(|last| format!("10.3.0.{last}")).collect();
    let many =
        format!("  - {{ name: many, addresses: [{}], spiffe_ids: [\"{API}\"] }}\n", addresses.join(", "));
    let world = World::with(&many);
    let refused = |_: SocketAddr| -> Dialling {
        Box::pin(async { Err(io::Error::from_raw_os_error(nix::libc::ECONNREFUSED)) })
    };
    let report = world.dialling("many:443", AS_USUAL, &refused).await.unwrap();
    let failed = stops(&report, Question::Tcp, Some(Reason::DialRefused), &["10.3.0.8:443: ECONNREFUSED"]);
    assert_eq!(failed.evidence.len(), 8, "{failed:#?}");
    assert_eq!(report.address, Some("10.3.0.8:443".parse().unwrap()));
    assert_eq!(report.step(Question::Address).unwrap().evidence, ["3 more are not looked at"]);
}

#[tokio::test]
async fn before_a_packet_is_sent_everything_that_is_known_is_asked() {
    let nobody = |_: SocketAddr| -> Dialling { panic!("nothing may be dialled") };
    let denies = "outbound_policy: [ { name: no-api, action: deny, from: { workloads: [web] } } ]\n";
    let world = World::with(denies);
    let report = world.dialling(TO, AS_USUAL, &nobody).await.unwrap();
    let parts = ["api port 443: no-api, by outbound policy of this node, at connect()"];
    stops(&report, Question::ConnectPolicy, Some(Reason::PolicyDenied), &parts);
    // The server's own policy, where it is on this node: nothing allows web there.
    let world = World::with("");
    let report = world.dialling("db:5432", AS_USUAL, &nobody).await.unwrap();
    let parts = ["by policy of this node for the server, at connect()"];
    stops(&report, Question::ConnectPolicy, Some(Reason::PolicyDefault), &parts);

    let report = world.dialling(TO, Asked { absent: true, ..AS_USUAL }, &nobody).await.unwrap();
    stops(&report, Question::Workload, None, &["web is not there"]);
    let report = world.dialling("wide:443", AS_USUAL, &nobody).await.unwrap();
    stops(&report, Question::Address, None, &["only networks", "10.2.0.0/24"]);
    let report = world.dialling("no-such-host.invalid:443", BRIEFLY, &nobody).await.unwrap();
    stops(&report, Question::Address, None, &["The directory does not have no-such-host.invalid"]);
    assert!(report.step(Question::Address).unwrap().took_us.is_some());

    let strict = YAML.replace("name: web,", "name: web, unknown_destinations: deny,");
    let snapshot = identified_by(&strict, &world.ca);
    let world = World { ca: TestCa::root("other"), snapshot };
    let report = world.dialling("10.9.9.9:443", AS_USUAL, &nobody).await.unwrap();
    stops(
        &report,
        Question::Destination,
        Some(Reason::UnknownDestination),
        &["does not have 10.9.9.9 port 443"],
    );

    let mut world = World::with("");
    world.snapshot = crate::snapshot::testing::snapshot(crate::snapshot::testing::config(YAML));
    let report = world.dialling(TO, AS_USUAL, &nobody).await.unwrap();
    stops(&report, Question::Identity, Some(Reason::NoIdentity), &[]);
}

#[tokio::test]
async fn what_mtlsd_leaves_alone_is_only_dialled_and_said_to_be_unprotected() {
    let more = "exclude: { ports: [22] }\n";
    let world = World::with(more);
    for (to, part, mend) in [
        ("10.9.9.9:443", "does not have 10.9.9.9 port 443", "--expect SPIFFE-ID"),
        ("api:80", "does not have port 80", "--expect SPIFFE-ID"),
        ("10.1.0.7:22", "in the node's `exclude`", "take it out of `exclude`"),
        ("web:80", "talks to itself", "Nothing needs mending."),
        ("127.0.0.1:443", "never captures loopback", "take it out of `exclude`"),
    ] {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let report = world.ask(to, AS_USUAL, listener.local_addr().unwrap()).await.unwrap();
        assert!(report.holds() && !report.protected, "{to}: {report:#?}");
        let destination = report.step(Question::Destination).unwrap();
        assert!(destination.detail.contains(part), "{to}: {destination:#?}");
        passed(&report, Question::Tcp);
        assert_eq!(report.step(Question::Tls).unwrap().outcome, Outcome::NotAsked);
        assert!(report.sentence.contains("nobody is authenticated"), "{}", report.sentence);
        assert!(report.mend.contains(mend), "{to}: {}", report.mend);
        // Not a byte was sent.
        let (mut tcp, _) = listener.accept().await.unwrap();
        assert_eq!(tcp.read(&mut [0; 10]).await.unwrap_or(0), 0, "{to}");
    }
}

#[tokio::test]
async fn a_destination_outside_the_directory_can_be_tried_with_whom_one_expects() {
    let world = World::with("");
    let expect: SpiffeId = API.parse().unwrap();
    let server = mtlsd(world.api(), Preface::Ready).await;
    let request = Asked { expect: Some(&expect), ..AS_USUAL };
    let report = world.ask("10.9.9.9:443", request, server).await.unwrap();
    assert!(report.holds() && report.protected, "{report:#?}");
    let destination = report.step(Question::Destination).unwrap();
    assert!(destination.detail.contains("must prove to be spiffe://example.org/api, as was asked for"));
    // In place of what the directory says.
    let other: SpiffeId = "spiffe://example.org/other".parse().unwrap();
    let server = mtlsd(world.api(), Preface::Ready).await;
    let report = world.ask(TO, Asked { expect: Some(&other), ..AS_USUAL }, server).await.unwrap();
    stops(&report, Question::Name, Some(Reason::UnexpectedServer), &["expected spiffe://example.org/other"]);
}

#[tokio::test]
async fn what_is_no_host_and_port_is_no_question() {
    let world = World::with("");
    let nobody = |_: SocketAddr| -> Dialling { panic!("nothing may be dialled") };
    let long = format!("{}:1", "a".repeat(300));
    for to in ["", ":", ":1", "host", "host:", "host:0", "host:x", "10.0.0.1", "::1", "a b:1", "a/b:1", &long]
    {
        let error = world.dialling(to, AS_USUAL, &nobody).await.unwrap_err();
        assert!(matches!(error, LiveError::NoTarget(_)), "{to}: {error}");
        assert!(error.to_string().contains("NAME:PORT"));
    }
}

#[test]
fn the_workload_and_the_limit_of_a_request_are_checked() {
    let world = World::with("");
    let ask = |workload: Option<&str>| LiveRequest {
        to: TO.into(),
        workload: workload.map(str::to_owned),
        expect: None,
        timeout_ms: None,
    };
    for who in ["web", "spiffe://example.org/web", "10.0.0.2"] {
        assert_eq!(ask(Some(who)).client(&world.snapshot).unwrap().settings.name, "web");
    }
    for who in ["nobody", "spiffe://example.org/far", "10.0.0.9"] {
        assert_eq!(ask(Some(who)).client(&world.snapshot).unwrap_err(), LiveError::NoWorkload(who.into()));
    }
    assert_eq!(ask(None).client(&world.snapshot).unwrap_err(), LiveError::WhichWorkload(2));
    let one = identified_by("workloads: [ { name: only, select: { netns: only } } ]\n", &world.ca);
    assert_eq!(ask(None).client(&one).unwrap().settings.name, "only");
    let none = identified_by("workloads: []\n", &world.ca);
    assert_eq!(ask(None).client(&none).unwrap_err(), LiveError::WhichWorkload(0));

    assert_eq!(ask(None).limit(), Ok(LIMIT));
    for (milliseconds, want) in [(99, None), (100, Some(100)), (12_000, Some(12_000)), (12_001, None)] {
        let limit = LiveRequest { timeout_ms: Some(milliseconds), ..ask(None) }.limit();
        assert_eq!(limit.ok().map(|limit| limit.as_millis()), want, "{milliseconds}");
    }
}
