//! What the tests put at both sides of a pump.

use std::io;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::datapath::PumpError;
use crate::datapath::buffer::Buffer;
use crate::datapath::ktls::{self, Abilities, Channel, KernelPump, Suite, Terms};
use crate::datapath::relay::carrier::{Carrier, NotDirect};
use crate::datapath::relay::pump::{Codec, Pump};
use crate::datapath::tls::channel::Handed;
use crate::datapath::tls::pump::{Handover, UserPump};
use crate::datapath::tls::{ChannelError, UserChannel};
use crate::handshake::{
    ExpectedServer, PeerNameSettings, Progress, Records, TlsSettings, Trust, WorkloadTls,
};
use crate::identity::testing::{LeafSpec, TestCa};
use crate::identity::{Revocations, TrustBundles};
use crate::observe::access_log::{AccessLog, Target};
use crate::observe::connection::Direction;
use crate::observe::metrics::Metrics;
use crate::observe::observer::{Captured, Observed, Observer};
use crate::observe::recorder::Recorder;

/// Longer than anything here takes on a busy machine; beyond it something hangs.
pub const HANG: Duration = Duration::from_secs(30);

const CLIENT: &str = "spiffe://example.org/web";
const SERVER: &str = "spiffe://example.org/db";

static WORKLOADS: LazyLock<(WorkloadTls, WorkloadTls)> = LazyLock::new(|| {
    let ca = TestCa::root("root");
    let bundles = TrustBundles::from_iter([("example.org".parse().unwrap(), ca.bundle())]);
    let trust = Arc::new(Trust {
        bundles: Arc::new(bundles),
        trust_domain: "example.org".parse().unwrap(),
        names: PeerNameSettings::default(),
        max_certificates: 10,
        max_bytes: 65_536,
        revocations: Arc::new(Revocations::in_memory()),
        clock_skew: Trust::CLOCK_SKEW,
    });
    let tls =
        |id| WorkloadTls::new(&ca.leaf(&LeafSpec::id(id)).svid(), Arc::clone(&trust), TlsSettings::default());
    (tls(CLIENT), tls(SERVER))
});

static OBSERVER: LazyLock<Arc<Observer>> = LazyLock::new(|| {
    let metrics = Metrics::new("0");
    let log = AccessLog::start(Target::Off, metrics.access_log_lost()).unwrap();
    Arc::new(Observer::new(Recorder::new(NonZeroUsize::MIN), metrics, log))
});

pub fn observed() -> Observed {
    let captured = Captured {
        direction: Direction::Outbound,
        local_identity: None,
        source: "10.0.0.2:1".parse().unwrap(),
        destination: "10.0.0.3:2".parse().unwrap(),
    };
    OBSERVER.begin(&OBSERVER.metrics().workload("w"), captured)
}

/// A client and a server that have not said anything yet.
pub fn fresh_records() -> (Records, Records) {
    let (client, server) = &*WORKLOADS;
    let expected = Arc::new(ExpectedServer { ids: vec![SERVER.parse().unwrap()], dns_names: vec![] });
    let name = ServerName::from(std::net::IpAddr::from([10, 0, 0, 2]));
    let client = Records::client(client.client(expected).unwrap().0, name).unwrap();
    (client, Records::server(server.server(true, None).unwrap().0).unwrap())
}

/// As [`fresh_records`], with a server that cuts its messages into small records and sends a ticket.
pub fn fresh_records_in_fragments() -> (Records, Records) {
    let mut config = rustls::ServerConfig::clone(&WORKLOADS.1.server(true, None).unwrap().0);
    config.max_fragment_size = Some(40);
    config.send_tls13_tickets = 1;
    config.session_storage = rustls::server::ServerSessionMemoryCache::new(10);
    (fresh_records().0, Records::server(Arc::new(config)).unwrap())
}

/// A client and a server that have shaken hands.
pub fn records() -> (Records, Records) {
    shaken(fresh_records())
}

/// As [`records`], with this cipher suite.
pub fn records_with(suite: Suite) -> (Records, Records) {
    let mut config = rustls::ServerConfig::clone(&WORKLOADS.1.server(true, None).unwrap().0);
    let mut provider = rustls::crypto::CryptoProvider::clone(config.crypto_provider());
    provider.cipher_suites.retain(|known| Suite::of(*known) == Some(suite));
    let mut restricted = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(Arc::clone(&config.cert_resolver));
    std::mem::swap(&mut restricted.alpn_protocols, &mut config.alpn_protocols);
    restricted.enable_secret_extraction = true;
    restricted.send_tls13_tickets = 0;
    shaken((fresh_records().0, Records::server(Arc::new(restricted)).unwrap()))
}

fn shaken((mut client, mut server): (Records, Records)) -> (Records, Records) {
    let (mut to_client, mut to_server) = (Vec::new(), Vec::new());
    while client.is_handshaking() || server.is_handshaking() {
        let (done, progress) = client.advance(&mut to_client, &mut Vec::new(), &mut to_server);
        progress.unwrap();
        to_client.drain(..done);
        let (done, progress) = server.advance(&mut to_server, &mut Vec::new(), &mut to_client);
        progress.unwrap();
        to_server.drain(..done);
    }
    assert!(to_client.is_empty() && to_server.is_empty());
    (client, server)
}

/// Two ends of a TCP connection.
pub async fn tcp() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (a, b) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (a.unwrap(), b.unwrap().0)
}

/// `relay-ktls` in this variable makes the tests of the TLS side run on the kernel's TLS, which must be there, and
/// `auto` has it take over soon.
const DATAPATH: &str = "MTLSD_TEST_DATAPATH";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Offload {
    AtOnce,
    Soon,
}

static KERNEL: LazyLock<Option<(Offload, Abilities)>> = LazyLock::new(|| {
    let offload = match std::env::var(DATAPATH).as_deref() {
        Ok("relay-ktls") => Offload::AtOnce,
        Ok("auto") => Offload::Soon,
        Ok(other) => panic!("{DATAPATH}={other} is neither relay-ktls nor auto"),
        Err(_) => return None,
    };
    Some((offload, ktls::probe().unwrap()))
});

/// What large reads bring before a handover: each test meets several.
static WORTH: [usize; 4] = [1, 0, 3_000, 40_000];
static TURN: AtomicUsize = AtomicUsize::new(0);

pub fn plain_pump(application: TcpStream, peer: TcpStream, observed: &Observed) -> Carrier<'_> {
    Carrier::Other(pump(application, peer, Codec::Plain, observed))
}

pub fn tls_pump(
    application: TcpStream,
    peer: TcpStream,
    records: Records,
    observed: &Observed,
) -> Carrier<'_> {
    let Some((offload, abilities)) = &*KERNEL else {
        return Carrier::UserSpace(
            user_pump(application, peer, records, observed),
            None,
            NotDirect::NoSession,
        );
    };
    let suite = records.suite().and_then(Suite::of).unwrap();
    let terms = Terms { suite, rekey: abilities.rekey, records_per_key: suite.records_per_key() };
    if *offload == Offload::Soon {
        let worth = WORTH[TURN.fetch_add(1, Ordering::Relaxed) % WORTH.len()];
        let mut pump = user_pump(application, peer, records, observed);
        pump.hand_over(Some(Handover::after(worth)));
        return Carrier::UserSpace(pump, Some(terms), NotDirect::NoSession);
    }
    if ktls::enable(&peer).is_err() {
        // The peer has ended its direction already; so does the daemon then.
        return Carrier::UserSpace(
            user_pump(application, peer, records, observed),
            None,
            NotDirect::NoSession,
        );
    }
    let channel = Channel::install(&peer, Handed::of(records).unwrap(), &terms).unwrap();
    Carrier::Kernel(KernelPump::new(application, peer, channel, observed, Buffer::default()))
}

pub fn user_pump(
    application: TcpStream,
    peer: TcpStream,
    records: Records,
    observed: &Observed,
) -> UserPump<'_> {
    let channel = UserChannel::new(records, None).unwrap();
    UserPump::new(application, peer, channel, observed, Buffer::default())
}

/// As with TLS 1.2: rustls does the records.
pub fn rustls_pump(
    application: TcpStream,
    peer: TcpStream,
    records: Records,
    observed: &Observed,
) -> Pump<'_> {
    pump(application, peer, Codec::Tls { records, peer_ended: false }, observed)
}

/// A pump whose insides can be looked at.
pub trait Watched {
    /// Moves what can be moved now.
    fn step(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PumpError>>;

    /// What waits in it.
    fn buffers(&self) -> [&Buffer; 3];
}

fn pump(application: TcpStream, peer: TcpStream, codec: Codec, observed: &Observed) -> Pump<'_> {
    let none = Buffer::default;
    Pump::new(application, peer, codec, observed, none(), none(), none())
}

/// A record that is not authentic, as either pump says it.
pub fn is_forgery(error: &PumpError) -> bool {
    use rustls::Error as TlsError;
    matches!(error, PumpError::Tls(TlsError::DecryptError) | PumpError::Channel(ChannelError::BadRecord))
}

/// A fatal alert of the peer, as either pump says it.
pub fn is_alert(error: &PumpError) -> bool {
    use rustls::Error as TlsError;
    matches!(error, PumpError::Tls(TlsError::AlertReceived(_)) | PumpError::Channel(ChannelError::Control(_)))
}

/// From the first byte to the closed sockets.
pub async fn run(mut carrier: Carrier<'_>, idle: Option<Duration>) -> Result<(), PumpError> {
    let result = carrier.run(idle).await;
    carrier.end(&result);
    result
}

pub type Outcome = tokio::task::JoinHandle<Result<(), PumpError>>;

/// An application and a TLS client with the pump of a server between them.
pub async fn served(idle: Option<Duration>) -> (TcpStream, Peer, Outcome) {
    let (application, at_pump) = tcp().await;
    let (tcp, from_peer) = tcp().await;
    let (client, server) = records();
    let outcome = tokio::spawn(async move {
        let observed = observed();
        run(tls_pump(at_pump, from_peer, server, &observed), idle).await
    });
    (application, Peer { tcp, records: client, incoming: Vec::new() }, outcome)
}

/// A TLS client in the hands of the test.
pub struct Peer {
    pub tcp: TcpStream,
    pub records: Records,
    pub incoming: Vec<u8>,
}

impl Peer {
    /// Records with these bytes in them.
    pub fn sealed(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        self.records.encrypt(bytes, &mut self.incoming, &mut wire).unwrap();
        wire
    }

    /// A record that says close_notify.
    pub fn close_notify(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        self.records.close(&mut self.incoming, &mut wire).unwrap();
        wire
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        let wire = self.sealed(bytes);
        self.tcp.write_all(&wire).await.unwrap();
    }

    /// Everything until the other end ends its direction; `Err`: how it ended otherwise.
    pub async fn read_all(&mut self) -> Result<Vec<u8>, String> {
        let mut plaintext = Vec::new();
        loop {
            let (done, progress) = self.records.advance(&mut self.incoming, &mut plaintext, &mut Vec::new());
            self.incoming.drain(..done);
            match progress {
                Ok(Progress::PeerClosed) => return Ok(plaintext),
                Ok(_) => {}
                Err(error) => return Err(error.to_string()),
            }
            match in_time(self.tcp.read_buf(&mut self.incoming)).await {
                Ok(0) => return Err("EOF".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(format!("{:?}", error.kind())),
            }
        }
    }
}

/// Closes with RST.
pub fn reset(stream: TcpStream) {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// The next byte, EOF or error of a socket.
pub async fn next(stream: &mut TcpStream) -> io::Result<Option<u8>> {
    let mut byte = [0];
    Ok(in_time(stream.read(&mut byte)).await?.eq(&1).then_some(byte[0]))
}

pub async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, future).await.expect("it hangs")
}

pub fn is_reset(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
}
