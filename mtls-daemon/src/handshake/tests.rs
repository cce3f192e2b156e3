//! Whole handshakes in memory: what each side finds, and which alert is on the wire.

use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use rcgen::ExtendedKeyUsagePurpose;
use rustls::pki_types::ServerName;
use rustls::{
    AlertDescription, ClientConfig, ClientConnection, Connection, Error as TlsError, HandshakeKind,
    NamedGroup, ProtocolVersion, ServerConfig, ServerConnection, SupportedProtocolVersion,
};

use super::*;
use crate::identity::revocation::{Entry, Target};
use crate::identity::testing::{HOUR, LeafSpec, TestCa, TestLeaf};
use crate::identity::{PeerName, Revocations, TrustBundles};
use crate::observe::{Reason, Refusal};

pub(crate) const CLIENT: &str = "spiffe://example.org/web";
pub(crate) const SERVER: &str = "spiffe://example.org/db";

pub(crate) fn trust(ca: &TestCa) -> Arc<Trust> {
    let bundles = TrustBundles::from_iter([("example.org".parse().unwrap(), ca.bundle())]);
    Arc::new(Trust {
        bundles: Arc::new(bundles),
        trust_domain: "example.org".parse().unwrap(),
        names: PeerNameSettings::default(),
        max_certificates: 10,
        max_bytes: 65_536,
        revocations: Arc::new(Revocations::in_memory()),
        clock_skew: Trust::CLOCK_SKEW,
    })
}

pub(super) fn tls(leaf: &TestLeaf, trust: Arc<Trust>) -> WorkloadTls {
    WorkloadTls::new(&leaf.svid(), trust, TlsSettings::default())
}

pub(crate) fn expected(id: &str) -> Arc<ExpectedServer> {
    Arc::new(ExpectedServer { ids: vec![id.parse().unwrap()], dns_names: vec![] })
}

/// One end after the handshake went as far as it could.
pub(crate) struct End<C> {
    pub(crate) connection: C,
    pub(crate) error: Option<TlsError>,
}

/// Moves bytes both ways until nothing moves. An end that failed still gets its alert out.
pub(crate) fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
) -> (End<Connection>, End<Connection>) {
    // By address: the usual case, since the directory knows addresses.
    let name = ServerName::from(std::net::IpAddr::from([10, 0, 0, 2]));
    let mut client = end(ClientConnection::new(client, name).unwrap().into());
    let mut server = end(ServerConnection::new(server).unwrap().into());
    while carry(&mut client, &mut server) | carry(&mut server, &mut client) {}
    (client, server)
}

fn end(connection: Connection) -> End<Connection> {
    End { connection, error: None }
}

fn carry(from: &mut End<Connection>, to: &mut End<Connection>) -> bool {
    let mut wire = Vec::new();
    while from.connection.wants_write() {
        from.connection.write_tls(&mut wire).unwrap();
    }
    let mut rest = wire.as_slice();
    while !rest.is_empty() && to.error.is_none() {
        to.connection.read_tls(&mut rest).unwrap();
        to.error = to.connection.process_new_packets().err();
    }
    !wire.is_empty()
}

pub(super) struct World {
    pub(super) ca: TestCa,
    pub(super) client: TestLeaf,
    pub(super) server: TestLeaf,
}

pub(super) fn world() -> World {
    let ca = TestCa::root("root");
    let intermediate = ca.intermediate("intermediate");
    let client = intermediate.leaf(&LeafSpec::id(CLIENT));
    let server = intermediate.leaf(&LeafSpec::id(SERVER));
    World { ca, client, server }
}

#[test]
fn both_ends_learn_who_the_other_is() {
    let w = world();
    let (client, client_saw) = tls(&w.client, trust(&w.ca)).client(expected(SERVER)).unwrap();
    let (server, server_saw) = tls(&w.server, trust(&w.ca)).server(true, None).unwrap();
    let (client, server) = handshake(client, server);
    assert!(client.error.is_none() && server.error.is_none(), "{:?} {:?}", client.error, server.error);
    assert_eq!(client_saw.peer().unwrap().name, PeerName::Spiffe(SERVER.parse().unwrap()));
    assert_eq!(server_saw.peer().unwrap().name, PeerName::Spiffe(CLIENT.parse().unwrap()));
    for end in [&client.connection, &server.connection] {
        assert!(!end.is_handshaking());
        assert_eq!(end.protocol_version(), Some(ProtocolVersion::TLSv1_3));
        assert_eq!(end.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        assert_eq!(end.alpn_protocol(), Some(ALPN_MTLSD));
    }
}

#[test]
fn no_session_is_ever_resumed() {
    let w = world();
    let (client_config, _) = tls(&w.client, trust(&w.ca)).client(expected(SERVER)).unwrap();
    // rustls would resume if one configuration were used twice and tickets were sent; ours never is and never
    // sends any, so the second use fails on the verdict that is already there.
    let (server, _) = tls(&w.server, trust(&w.ca)).server(true, None).unwrap();
    let (mut client, _) = handshake(Arc::clone(&client_config), server);
    let Connection::Client(connection) = &mut client.connection else { panic!("a client") };
    assert_eq!(connection.tls13_tickets_received(), 0);
    assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full));
    let (server, _) = tls(&w.server, trust(&w.ca)).server(true, None).unwrap();
    let (client, _) = handshake(client_config, server);
    assert!(client.error.is_some(), "a configuration serves one connection");
}

#[test]
fn a_server_that_knows_no_alpn_is_accepted() {
    let w = world();
    let (client, saw) = tls(&w.client, trust(&w.ca)).client(expected(SERVER)).unwrap();
    let (server, _) = tls(&w.server, trust(&w.ca)).server(false, None).unwrap();
    let (client, server) = handshake(client, server);
    assert!(client.error.is_none() && server.error.is_none());
    assert_eq!(client.connection.alpn_protocol(), None);
    assert!(saw.peer().is_some());
}

#[test]
fn a_client_with_another_alpn_or_none_is_accepted() {
    let w = world();
    for protocols in [vec![], vec![b"h2".to_vec(), b"http/1.1".to_vec()]] {
        let (client, _) = tls(&w.client, trust(&w.ca)).client(expected(SERVER)).unwrap();
        let mut client = ClientConfig::clone(&client);
        client.alpn_protocols = protocols;
        assert!(!offers_mtlsd(client.alpn_protocols.iter().map(Vec::as_slice)));
        let (server, saw) = tls(&w.server, trust(&w.ca)).server(false, None).unwrap();
        let (client, server) = handshake(Arc::new(client), server);
        assert!(client.error.is_none() && server.error.is_none());
        assert_eq!(server.connection.alpn_protocol(), None);
        assert!(saw.peer().is_some());
    }
    assert!(offers_mtlsd([b"h2".as_slice(), ALPN_MTLSD]));
}

/// What a bad client's certificate leads to: the server's reason and the alert that the client gets.
#[track_caller]
fn refused_client(w: &World, leaf: &TestLeaf, reason: Reason, alert: AlertDescription) {
    let (client, client_saw) = client_of(leaf, w);
    let (server, saw) = tls(&w.server, trust(&w.ca)).server(true, None).unwrap();
    let (client, server) = handshake(client, server);
    let refusal = saw.refusal_of(&server.error.expect("the server must refuse"));
    assert_eq!(refusal.reason, reason, "{refusal}");
    assert!(saw.peer().is_none());
    let claim = saw.claim().expect("what it claims is kept");
    assert!(refusal.detail.contains(&claim.serial), "{refusal} / {claim:?}");
    assert_eq!(claim, Claim::read(&leaf.chain[0], 65_536).unwrap());
    assert_eq!(client.error, Some(TlsError::AlertReceived(alert)));
    let at_client = client_saw.refusal_of(&client.error.unwrap());
    assert_eq!(at_client.reason, Reason::PeerAlert);
}

/// A client configuration for any leaf, also one that we would not use ourselves.
fn client_of(leaf: &TestLeaf, w: &World) -> (Arc<ClientConfig>, Verdict) {
    let (good, verdict) = tls(&w.client, trust(&w.ca)).client(expected(SERVER)).unwrap();
    let mut config = ClientConfig::clone(&good);
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&leaf.private_key()).unwrap();
    let certified = rustls::sign::CertifiedKey::new(leaf.chain.clone(), key);
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    (Arc::new(config), verdict)
}

fn server_of(leaf: &TestLeaf, w: &World) -> (Arc<ServerConfig>, Verdict) {
    let (good, verdict) = tls(&w.server, trust(&w.ca)).server(true, None).unwrap();
    let mut config = ServerConfig::clone(&good);
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&leaf.private_key()).unwrap();
    let certified = rustls::sign::CertifiedKey::new(leaf.chain.clone(), key);
    config.cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(certified));
    (Arc::new(config), verdict)
}

#[test]
fn each_refusal_of_a_client_has_its_reason_here_and_its_alert_there() {
    let w = world();
    let spec = LeafSpec::id(CLIENT);
    let sign = |spec: &LeafSpec| w.ca.leaf(spec);
    let now = SystemTime::now();
    let minute = Duration::from_secs(60);
    use AlertDescription as A;
    for (leaf, reason, alert) in [
        (TestCa::root("theirs").leaf(&spec), Reason::UnknownIssuer, A::UnknownCA),
        (sign(&LeafSpec::id("spiffe://other.example/web")), Reason::TrustDomain, A::UnknownCA),
        (
            sign(&LeafSpec { not_after: now - minute, ..spec.clone() }),
            Reason::CertificateExpired,
            A::CertificateExpired,
        ),
        (
            sign(&LeafSpec { not_before: now + HOUR / 2, ..spec.clone() }),
            Reason::CertificateNotYetValid,
            A::CertificateExpired,
        ),
        (
            sign(&LeafSpec { extended: vec![ExtendedKeyUsagePurpose::CodeSigning], ..spec.clone() }),
            Reason::CertificateUsage,
            A::UnsupportedCertificate,
        ),
        (sign(&LeafSpec { uris: vec![], ..spec.clone() }), Reason::NoSpiffeId, A::CertificateUnknown),
        (
            sign(&LeafSpec { uris: vec![CLIENT.into(), SERVER.into()], ..spec.clone() }),
            Reason::SeveralSpiffeIds,
            A::CertificateUnknown,
        ),
        (sign(&LeafSpec::id("https://example.org/")), Reason::MalformedSpiffeId, A::CertificateUnknown),
    ] {
        refused_client(&w, &leaf, reason, alert);
    }
}

#[test]
fn a_client_that_was_revoked_hears_it_by_the_alert_that_says_so() {
    let w = world();
    let revoked = trust(&w.ca);
    let target = Target::SpiffeId { id: CLIENT.parse().unwrap() };
    let (reason, by) = (String::new(), String::new());
    let entry = Entry { target, reason, by, at: time::OffsetDateTime::UNIX_EPOCH, until: None };
    revoked.revocations.revoke(entry, SystemTime::now()).unwrap();
    let (client, _) = tls(&w.client, trust(&w.ca)).client(expected(SERVER)).unwrap();
    let (server, saw) = tls(&w.server, revoked).server(true, None).unwrap();
    let (client, server) = handshake(client, server);
    assert_eq!(saw.refusal_of(&server.error.unwrap()).reason, Reason::Revoked);
    assert!(saw.peer().is_none());
    assert_eq!(client.error, Some(TlsError::AlertReceived(AlertDescription::CertificateRevoked)));
}

#[test]
fn a_client_without_a_certificate_is_told_so() {
    let w = world();
    let (good, _) = tls(&w.client, trust(&w.ca)).client(expected(SERVER)).unwrap();
    #[derive(Debug)]
    struct Nothing;
    impl rustls::client::ResolvesClientCert for Nothing {
        fn resolve(
            &self,
            hints: &[&[u8]],
            _: &[rustls::SignatureScheme],
        ) -> Option<Arc<rustls::sign::CertifiedKey>> {
            assert!(hints.is_empty(), "strangers are not told whom we trust");
            None
        }
        fn has_certs(&self) -> bool {
            false
        }
    }
    let mut config = ClientConfig::clone(&good);
    config.client_auth_cert_resolver = Arc::new(Nothing);
    let (server, saw) = tls(&w.server, trust(&w.ca)).server(true, None).unwrap();
    let (client, server) = handshake(Arc::new(config), server);
    assert_eq!(saw.refusal_of(&server.error.unwrap()).reason, Reason::NoCertificate);
    assert_eq!(saw.claim(), None);
    assert_eq!(client.error, Some(TlsError::AlertReceived(AlertDescription::CertificateRequired)));
}

/// An `authorise` that notes whom it was asked about and answers `answer`.
fn asked(answer: Result<(), Refusal>) -> (Authorise, Arc<Mutex<Vec<String>>>) {
    let about = Arc::new(Mutex::new(Vec::new()));
    let note = Arc::clone(&about);
    let authorise = Box::new(move |peer: &crate::identity::PeerIdentity| {
        note.lock().unwrap().push(peer.name.to_string());
        answer.clone()
    });
    (authorise, about)
}

#[test]
fn a_client_that_policy_denies_gets_access_denied_and_is_proven_nevertheless() {
    let w = world();
    let old = TlsSettings { min_version: MinVersion::Tls12, ..TlsSettings::default() };
    for only in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let refusal = Refusal::new(Reason::PolicyDenied, "rule no-web");
        let (authorise, about) = asked(Err(refusal.clone()));
        let (client, client_saw) = client_of_version(&w, only);
        let workload = WorkloadTls::new(&w.server.svid(), trust(&w.ca), old.clone());
        let (server, saw) = workload.server(false, Some(authorise)).unwrap();
        let (client, server) = handshake(client, server);
        assert_eq!(saw.refusal_of(&server.error.unwrap()), refusal);
        assert_eq!(saw.peer().unwrap().name.to_string(), CLIENT);
        assert_eq!(*about.lock().unwrap(), [CLIENT]);
        assert_eq!(client.error, Some(TlsError::AlertReceived(AlertDescription::AccessDenied)));
        let at_client = client_saw.refusal_of(&client.error.unwrap());
        assert!(at_client.detail.contains("access_denied"), "{at_client}");
    }
}

#[test]
fn a_client_that_policy_allows_is_let_in() {
    let w = world();
    let (authorise, about) = asked(Ok(()));
    let (client, _) = tls(&w.client, trust(&w.ca)).client(expected(SERVER)).unwrap();
    let (server, saw) = tls(&w.server, trust(&w.ca)).server(true, Some(authorise)).unwrap();
    let (client, server) = handshake(client, server);
    assert!(client.error.is_none() && server.error.is_none());
    assert_eq!(*about.lock().unwrap(), [CLIENT]);
    assert!(saw.peer().is_some() && saw.refusal().is_none());
}

#[test]
fn policy_is_not_asked_about_a_client_that_has_proven_nothing() {
    let w = world();
    let mut stolen = w.ca.leaf(&LeafSpec::id(CLIENT));
    stolen.key = rcgen::KeyPair::generate().unwrap();
    let strange = TestCa::root("theirs").leaf(&LeafSpec::id(CLIENT));
    for leaf in [stolen, strange] {
        let (authorise, about) = asked(Err(Reason::PolicyDenied.into()));
        let (client, _) = client_of(&leaf, &w);
        let (server, saw) = tls(&w.server, trust(&w.ca)).server(true, Some(authorise)).unwrap();
        let (_, server) = handshake(client, server);
        assert_ne!(saw.refusal_of(&server.error.unwrap()).reason, Reason::PolicyDenied);
        assert!(about.lock().unwrap().is_empty(), "a stranger must not learn what policy says about others");
    }
}

#[test]
fn a_server_that_is_not_the_expected_workload_is_refused_by_the_client() {
    let w = world();
    let (client, saw) = tls(&w.client, trust(&w.ca)).client(expected("spiffe://example.org/cache")).unwrap();
    let (server, server_saw) = tls(&w.server, trust(&w.ca)).server(true, None).unwrap();
    let (client, server) = handshake(client, server);
    let refusal = saw.refusal_of(&client.error.unwrap());
    assert_eq!(refusal.reason, Reason::UnexpectedServer);
    assert!(refusal.detail.contains(SERVER) && refusal.detail.contains("spiffe://example.org/cache"));
    assert_eq!(saw.claim().unwrap().name.as_deref(), Some(SERVER));
    assert_eq!(server.error, Some(TlsError::AlertReceived(AlertDescription::BadCertificate)));
    let at_server = server_saw.refusal_of(&server.error.unwrap());
    assert_eq!(at_server.reason, Reason::PeerAlert);
    assert!(at_server.detail.contains("bad_certificate"), "{}", at_server.detail);
}

#[test]
fn a_server_of_another_ca_is_refused_by_the_client() {
    let w = world();
    let leaf = TestCa::root("theirs").leaf(&LeafSpec::id(SERVER));
    let (client, saw) = tls(&w.client, trust(&w.ca)).client(expected(SERVER)).unwrap();
    let (server, _) = server_of(&leaf, &w);
    let (client, server) = handshake(client, server);
    assert_eq!(saw.refusal_of(&client.error.unwrap()).reason, Reason::UnknownIssuer);
    assert_eq!(server.error, Some(TlsError::AlertReceived(AlertDescription::UnknownCA)));
}

#[test]
fn a_certificate_without_its_key_is_a_bad_signature() {
    let w = world();
    let mut stolen = w.ca.leaf(&LeafSpec::id(CLIENT));
    stolen.key = rcgen::KeyPair::generate().unwrap();
    let (client, _) = client_of(&stolen, &w);
    let (server, saw) = tls(&w.server, trust(&w.ca)).server(true, None).unwrap();
    let (client, server) = handshake(client, server);
    let refusal = saw.refusal_of(&server.error.unwrap());
    assert_eq!(refusal.reason, Reason::BadSignature);
    assert!(refusal.detail.contains(CLIENT), "{}", refusal.detail);
    assert_eq!(saw.peer(), None, "a certificate alone proves nothing");
    assert_eq!(saw.claim().unwrap().name.as_deref(), Some(CLIENT));
    assert_eq!(client.error, Some(TlsError::AlertReceived(AlertDescription::DecryptError)));
}

/// The good client, speaking one version only.
fn client_of_version(w: &World, only: &'static SupportedProtocolVersion) -> (Arc<ClientConfig>, Verdict) {
    let (good, verdict) = tls(&w.client, trust(&w.ca)).client(expected(SERVER)).unwrap();
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms;
    let verifier =
        verifier::PeerServerVerifier::new(trust(&w.ca), expected(SERVER), algorithms, verdict.clone());
    let config = ClientConfig::builder_with_provider(Arc::clone(good.crypto_provider()))
        .with_protocol_versions(&[only])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::clone(&good.client_auth_cert_resolver));
    (Arc::new(config), verdict)
}

#[test]
fn tls_1_2_is_spoken_only_where_it_is_configured() {
    let w = world();
    let old = TlsSettings { min_version: MinVersion::Tls12, ..TlsSettings::default() };
    let tls12_client = || client_of_version(&w, &rustls::version::TLS12);
    let (client, client_saw) = tls12_client();
    let (server, saw) = tls(&w.server, trust(&w.ca)).server(false, None).unwrap();
    let (client, server) = handshake(client, server);
    assert_eq!(saw.refusal_of(&server.error.unwrap()).reason, Reason::TlsVersion);
    assert_eq!(client.error, Some(TlsError::AlertReceived(AlertDescription::ProtocolVersion)));
    let at_client = client_saw.refusal_of(&client.error.unwrap());
    assert_eq!(at_client.reason, Reason::TlsVersion, "the alert says as much as our own finding would");

    let (client, client_saw) = tls12_client();
    let (server, server_saw) =
        WorkloadTls::new(&w.server.svid(), trust(&w.ca), old).server(false, None).unwrap();
    let (client, server) = handshake(client, server);
    assert!(client.error.is_none() && server.error.is_none(), "{:?} {:?}", client.error, server.error);
    assert_eq!(server.connection.protocol_version(), Some(ProtocolVersion::TLSv1_2));
    assert!(client_saw.peer().is_some() && server_saw.peer().is_some());
}

#[test]
fn bytes_that_are_not_tls_are_malformed() {
    let w = world();
    let (server, saw) = tls(&w.server, trust(&w.ca)).server(false, None).unwrap();
    for junk in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0x16, 3, 1, 0, 4, 9, 0, 0, 0]] {
        let mut connection = ServerConnection::new(Arc::clone(&server)).unwrap();
        connection.read_tls(&mut &*junk).unwrap();
        let error = connection.process_new_packets().unwrap_err();
        assert_eq!(saw.refusal_of(&error).reason, Reason::MalformedTls, "{error}");
    }
}

#[test]
fn the_cost_of_a_configuration_per_connection_is_small() {
    let w = world();
    let workload = tls(&w.server, trust(&w.ca));
    let rounds = 200;
    let start = std::time::Instant::now();
    for _ in 0..rounds {
        std::hint::black_box(workload.server(true, None).unwrap());
    }
    let each = start.elapsed() / rounds;
    eprintln!("one server configuration: {each:?}");
    assert!(each < Duration::from_millis(1), "{each:?}");
}
