//! Who does not get a session, and what each end says of it.

use rustls::AlertDescription;
use rustls::client::ResolvesClientCert;
use rustls::sign::CertifiedKey;

use super::*;
use crate::handshake::MinVersion;
use crate::observe::Reason;

const MINUTE: Duration = Duration::from_secs(60);

fn reason(outcome: Outcome) -> Reason {
    outcome.expect_err("there must be no session").reason
}

#[tokio::test]
async fn a_server_that_is_not_who_the_directory_says_is_refused() {
    let w = world();
    let call = Call { expected: expected("spiffe://example.org/cache"), ..w.call() };
    let (client, server) = w.meet(&call).await;
    assert_eq!((reason(client), reason(server)), (Reason::UnexpectedServer, Reason::PeerAlert));
}

#[tokio::test]
async fn an_expired_certificate_of_either_end_is_refused() {
    let w = world();
    let expired = |id| LeafSpec { not_after: SystemTime::now() - MINUTE, ..LeafSpec::id(id) };
    let call = Call { tls: workload(&w.ca, &w.ca, &expired(CLIENT)), ..w.call() };
    let (client, server) = w.meet(&call).await;
    assert_eq!((reason(client), reason(server)), (Reason::PeerAlert, Reason::CertificateExpired));
    let w = World { server: workload(&w.ca, &w.ca, &expired(SERVER)), ..w };
    let (client, server) = w.meet(&w.call()).await;
    assert_eq!((reason(client), reason(server)), (Reason::CertificateExpired, Reason::PeerAlert));
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused_by_either_end() {
    let w = world();
    let theirs = TestCa::root("theirs");
    let call = Call { tls: workload(&theirs, &w.ca, &LeafSpec::id(CLIENT)), ..w.call() };
    let (client, server) = w.meet(&call).await;
    assert_eq!((reason(client), reason(server)), (Reason::PeerAlert, Reason::UnknownIssuer));
    let w = World { server: workload(&theirs, &w.ca, &LeafSpec::id(SERVER)), ..w };
    let (client, server) = w.meet(&w.call()).await;
    assert_eq!((reason(client), reason(server)), (Reason::UnknownIssuer, Reason::PeerAlert));
}

#[derive(Debug)]
struct Nothing;

impl ResolvesClientCert for Nothing {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// The server's reason for a client that was changed, and the alert that the client hears.
async fn refused(w: &World, change: impl FnOnce(&mut ClientConfig)) -> (Reason, AlertDescription) {
    let mut tls = w.raw_client(change);
    let (near, far) = tcp().await;
    let (error, server) = tokio::join!(until_refused(&near, &mut tls), w.accept(far));
    let SessionError::Tls(rustls::Error::AlertReceived(alert)) = error else { panic!("no alert: {error}") };
    (reason(server), alert)
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let found = refused(&world(), |config| config.client_auth_cert_resolver = Arc::new(Nothing)).await;
    assert_eq!(found, (Reason::NoCertificate, AlertDescription::CertificateRequired));
}

#[tokio::test]
async fn a_client_that_speaks_another_protocol_or_names_none_is_refused() {
    for protocols in [vec![], vec![b"mtlsd/1".to_vec()], vec![b"mtlsd-direct/2".to_vec()]] {
        let found = refused(&world(), |config| config.alpn_protocols = protocols).await;
        assert_eq!(found, (Reason::NoCommonParameters, AlertDescription::NoApplicationProtocol));
    }
}

#[tokio::test]
async fn a_client_that_names_no_destination_is_refused() {
    let found = refused(&world(), |config| config.enable_sni = false).await;
    assert_eq!(found, (Reason::UnknownDestination, AlertDescription::UnrecognisedName));
}

#[tokio::test]
async fn a_destination_that_is_not_on_the_node_is_refused_with_the_alert_for_it() {
    let w = world();
    let (near, far) = tcp().await;
    let nobody =
        |asked: SocketAddr| Err(Refusal::new(Reason::UnknownDestination, format!("no {asked} here")));
    let call = w.call();
    let (client, server) =
        tokio::join!(in_time(connect(near, &call, &w.limits)), in_time(accept(far, &nobody, &w.limits)));
    let client = client.expect_err("there must be no session");
    assert_eq!(client.reason, Reason::PeerAlert);
    assert!(client.detail.contains("unrecognized_name"), "{client}");
    assert!(server.expect_err("there must be no session").detail.contains("10.0.0.3:5432"));
}

#[tokio::test]
async fn tls_1_2_is_not_spoken_even_where_a_workload_may() {
    let w = world();
    let old = |ca: &TestCa, id| {
        let settings = TlsSettings { min_version: MinVersion::Tls12, ..TlsSettings::default() };
        WorkloadTls::new(&ca.leaf(&LeafSpec::id(id)).svid(), trust(ca), settings)
    };
    let w = World { server: old(&w.ca, SERVER), client: old(&w.ca, CLIENT), ..w };
    let (config, _) = w.client.client(expected(SERVER)).unwrap();
    let verifier = crate::handshake::verifier::PeerServerVerifier::new(
        trust(&w.ca),
        expected(SERVER),
        config.crypto_provider().signature_verification_algorithms,
        crate::handshake::Verdict::default(),
    );
    let mut only_old = ClientConfig::builder_with_provider(Arc::clone(config.crypto_provider()))
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::clone(&config.client_auth_cert_resolver));
    only_old.alpn_protocols = vec![ALPN_DIRECT.to_vec()];
    let found = refused(&w, |config| *config = only_old).await;
    assert_eq!(found, (Reason::TlsVersion, AlertDescription::ProtocolVersion));
    // Two that may: they agree on 1.3.
    let ((client, _a), (_server, _b)) = w.session().await;
    assert!(client.keys(&message(1, Body::Open).id, Nonce([8; 16])).is_ok());
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_not_waited_for() {
    let w = World { limits: Limits { handshake: Duration::from_millis(50), ..Limits::default() }, ..world() };
    let (_silent, far) = tcp().await;
    assert_eq!(reason(w.accept(far).await), Reason::HandshakeTimeout);
    let (near, _silent) = tcp().await;
    assert_eq!(reason(in_time(connect(near, &w.call(), &w.limits)).await), Reason::HandshakeTimeout);
}

#[tokio::test]
async fn a_peer_that_speaks_no_tls_or_hangs_up_is_refused() {
    let w = world();
    let (near, far) = tcp().await;
    in_time(near.writable()).await.unwrap();
    near.try_write(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(reason(w.accept(far).await), Reason::MalformedTls);
    let (near, far) = tcp().await;
    drop(near);
    assert_eq!(reason(w.accept(far).await), Reason::HandshakeClosed);
    let (near, far) = tcp().await;
    drop(far);
    assert_eq!(reason(in_time(connect(near, &w.call(), &w.limits)).await), Reason::HandshakeClosed);
}
