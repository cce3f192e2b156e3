//! Sessions over loopback with real certificates.

mod accept;
mod ends;
mod pool;
mod refusals;
mod talk;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mtls_direct::{Body, ConnectionId, FourTuple, Message, Nonce};
use rustls::{ClientConfig, ClientConnection, Connection};
use tokio::net::{TcpListener, TcpStream};

use super::open::{Call, accept, connect};
use super::stream::{flush, listen, shake_hands, take_plaintext};
use super::{ALPN_DIRECT, Incoming, Limits, Link, LinkEnd, WeakLink, name};
use crate::datapath::relay::session::SessionError;
use crate::handshake::tests::{CLIENT, SERVER, expected, trust};
use crate::handshake::{TlsSettings, WorkloadTls};
use crate::identity::X509Svid;
use crate::identity::testing::{LeafSpec, TestCa};
use crate::observe::Refusal;

/// Longer than anything here takes on a busy machine; beyond it something hangs.
const HANG: Duration = Duration::from_secs(30);

async fn in_time<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(HANG, future).await.expect("it hangs")
}

fn destination() -> SocketAddr {
    "10.0.0.3:5432".parse().unwrap()
}

fn message(number: u8, body: Body) -> Message {
    let tuple = FourTuple { client: "10.0.0.2:40000".parse().unwrap(), server: destination() };
    Message { id: ConnectionId { tuple, nonce: Nonce([number; 16]) }, body }
}

async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (a, b) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (a.unwrap(), b.unwrap().0)
}

type Outcome = Result<(Link, Incoming), Refusal>;

struct World {
    ca: TestCa,
    client: WorkloadTls,
    server: WorkloadTls,
    limits: Limits,
}

fn world() -> World {
    let ca = TestCa::root("root");
    let client = workload(&ca, &ca, &LeafSpec::id(CLIENT));
    let server = workload(&ca, &ca, &LeafSpec::id(SERVER));
    World { ca, client, server, limits: Limits::default() }
}

/// Signed by `issuer`, trusting `trusted`; an expired one was good when it was loaded.
fn workload(issuer: &TestCa, trusted: &TestCa, spec: &LeafSpec) -> WorkloadTls {
    let leaf = issuer.leaf(spec);
    let loaded = SystemTime::now().min(spec.not_after - Duration::from_secs(1));
    let svid = X509Svid::from_der(leaf.chain.clone(), &leaf.private_key(), loaded).unwrap();
    WorkloadTls::new(&svid, trust(trusted), TlsSettings::default())
}

impl World {
    fn call(&self) -> Call {
        Call { tls: self.client.clone(), destination: destination(), expected: expected(SERVER) }
    }

    async fn accept(&self, tcp: TcpStream) -> Outcome {
        let server = self.server.clone();
        let workloads = move |asked: SocketAddr| {
            assert_eq!(asked, destination());
            Ok(server.clone())
        };
        in_time(accept(tcp, &workloads, &self.limits)).await
    }

    /// What both ends make of each other.
    async fn meet(&self, call: &Call) -> (Outcome, Outcome) {
        let (near, far) = tcp().await;
        tokio::join!(in_time(connect(near, call, &self.limits)), self.accept(far))
    }

    async fn session(&self) -> ((Link, Incoming), (Link, Incoming)) {
        let (client, server) = self.meet(&self.call()).await;
        (client.unwrap(), server.unwrap())
    }

    /// A client whose configuration is changed, by hand.
    fn raw_client(&self, change: impl FnOnce(&mut ClientConfig)) -> Connection {
        let (config, _verdict) = self.client.tls13_only().client(expected(SERVER)).unwrap();
        let mut config = Arc::unwrap_or_clone(config);
        config.alpn_protocols = vec![ALPN_DIRECT.to_vec()];
        change(&mut config);
        let name = name::server_name(destination()).unwrap();
        ClientConnection::new(Arc::new(config), name).unwrap().into()
    }

    /// A peer that says what it wants behind a good handshake, and the server's end.
    async fn raw_session(&self) -> ((TcpStream, Connection), (Link, Incoming)) {
        let (near, far) = tcp().await;
        let mut tls = self.raw_client(|_| {});
        let (shaken, server) = tokio::join!(in_time(shake_hands(&near, &mut tls)), self.accept(far));
        shaken.unwrap();
        let mut welcome = Vec::new();
        while take_plaintext(&mut tls, &mut welcome).is_ok() && welcome.is_empty() {
            in_time(listen(&near, &mut tls)).await.unwrap();
        }
        assert_eq!(welcome, [1, 0]);
        ((near, tls), server.unwrap())
    }
}

/// Shakes hands and listens until the peer ends it.
async fn until_refused(tcp: &TcpStream, tls: &mut Connection) -> SessionError {
    in_time(async {
        if let Err(error) = shake_hands(tcp, tls).await {
            return error;
        }
        loop {
            take_plaintext(tls, &mut Vec::new()).unwrap();
            if let Err(error) = listen(tcp, tls).await {
                return error;
            }
        }
    })
    .await
}

async fn put(tcp: &TcpStream, tls: &mut Connection, bytes: &[u8]) {
    std::io::Write::write_all(&mut tls.writer(), bytes).unwrap();
    in_time(flush(tcp, tls)).await.unwrap();
}

async fn ended(link: &Link) -> LinkEnd {
    in_time(link.downgrade().ended()).await
}
