//! A whole mutual TLS 1.3 handshake in memory: both ends together, with their configurations, of which each
//! connection has its own.

use std::net::IpAddr;
use std::sync::Arc;

use mtls_daemon::handshake::verifier::PeerServerVerifier;
use mtls_daemon::handshake::{Progress, Records, TlsSettings, Verdict, WorkloadTls};
use rustls::crypto::aws_lc_rs::{self, kx_group};
use rustls::pki_types::ServerName;
use rustls::sign::SingleCertAndKey;
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig};

use crate::suite::Suite;
use crate::world::{World, trust};

const COUNTED: u32 = 50;

pub fn add(suite: &mut Suite) {
    suite.bench("handshake/x25519mlkem768", COUNTED, || {
        let world = World::new();
        let (client, server) = (tls(&world, true), tls(&world, false));
        let expected = world.expected();
        let connect = move || {
            let client = client.client(Arc::clone(&expected)).unwrap();
            shake(client, server.server(true, None).unwrap())
        };
        assert_eq!(connect(), "X25519MLKEM768");
        connect
    });
    suite.bench("handshake/x25519", COUNTED, || {
        let world = World::new();
        let server = tls(&world, false);
        let client = client_without_mlkem(&world);
        let connect = move || shake(client(), server.server(true, None).unwrap());
        assert_eq!(connect(), "X25519");
        connect
    });
}

fn tls(world: &World, client: bool) -> WorkloadTls {
    let svid = if client { &world.web } else { &world.db };
    WorkloadTls::new(svid, trust(world.root.clone()), TlsSettings::default())
}

/// A client as a library of old: mtlsd itself always offers the post-quantum group.
fn client_without_mlkem(world: &World) -> impl Fn() -> (Arc<ClientConfig>, Verdict) + use<> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![kx_group::X25519];
    let provider = Arc::new(provider);
    let key = Arc::new(SingleCertAndKey::from(world.web.certified_key()));
    let (trust, expected) = (trust(world.root.clone()), world.expected());
    move || {
        let verdict = Verdict::default();
        let algorithms = provider.signature_verification_algorithms;
        let verifier =
            PeerServerVerifier::new(Arc::clone(&trust), Arc::clone(&expected), algorithms, verdict.clone());
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::clone(&key) as _);
        (Arc::new(config), verdict)
    }
}

struct End {
    records: Records,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
}

impl End {
    fn new(records: Records) -> Self {
        Self { records, incoming: vec![], outgoing: vec![] }
    }

    /// Takes what the other end has sent, and answers.
    fn hear(&mut self, sent: &mut Vec<u8>) -> Progress {
        self.incoming.append(sent);
        let (done, progress) = self.records.advance(&mut self.incoming, &mut vec![], &mut self.outgoing);
        self.incoming.drain(..done);
        progress.unwrap()
    }
}

/// Returns the group that was agreed.
fn shake(client: (Arc<ClientConfig>, Verdict), server: (Arc<ServerConfig>, Verdict)) -> String {
    let name = ServerName::from(IpAddr::from([10, 0, 0, 2]));
    let mut nothing = vec![];
    let (client, server_seen) = client;
    let (server, client_seen) = server;
    let mut client = End::new(Records::client(client, name).unwrap());
    let mut server = End::new(Records::server(server).unwrap());
    assert_eq!(client.hear(&mut nothing), Progress::Handshaking);
    assert_eq!(server.hear(&mut client.outgoing), Progress::Handshaking);
    assert_eq!(client.hear(&mut server.outgoing), Progress::Open);
    assert_eq!(server.hear(&mut client.outgoing), Progress::Open);
    assert!(client_seen.peer().is_some() && server_seen.peer().is_some());
    server.records.agreed().unwrap().group.to_owned()
}
