//! The handshake of a session, both ends: mutual TLS 1.3 under [`ALPN_DIRECT`], verified as the relays do it, without tickets,
//! resumption or early data.

use std::net::SocketAddr;
use std::sync::Arc;

use mtls_direct::Role;
use rustls::server::Acceptor;
use rustls::{AlertDescription, ClientConnection, Connection, Error as TlsError, ServerConnection};
use tokio::net::TcpStream;

use super::link::{Incoming, Limits, Link, Shaken};
use super::stream::{self, Heard};
use super::wire::{self, Frame};
use super::{ALPN_DIRECT, name};
use crate::datapath::relay::outbound::refusal_of;
use crate::datapath::relay::session::{SessionError, end_politely};
use crate::handshake::{ExpectedServer, Verdict, WorkloadTls};
use crate::observe::{Reason, Refusal};

/// Whom a client's daemon calls.
#[derive(Debug, Clone)]
pub struct Call {
    /// The own workload's identity and trust.
    pub tls: WorkloadTls,
    /// Where the application's connections go, as the directory knows it.
    pub destination: SocketAddr,
    /// Who must be there.
    pub expected: Arc<ExpectedServer>,
}

/// Finds the workload that a destination means: its identity and trust, or why not.
pub type Workloads = dyn Fn(SocketAddr) -> Result<WorkloadTls, Refusal> + Send + Sync;

/// Opens a session on a connection to the other node's daemon. The server has verified us when this returns.
///
/// # Errors
/// Why there is no session.
pub async fn connect(tcp: TcpStream, call: &Call, limits: &Limits) -> Result<(Link, Incoming), Refusal> {
    let destination = wire::canonical(call.destination);
    let internal = |error: String| Refusal::new(Reason::Internal, error);
    stream::watch_peer(&tcp).map_err(|error| internal(error.to_string()))?;
    let (config, verdict) = call
        .tls
        .tls13_only()
        .client(Arc::clone(&call.expected))
        .map_err(|error| internal(error.to_string()))?;
    let mut config = Arc::unwrap_or_clone(config);
    config.alpn_protocols = vec![ALPN_DIRECT.to_vec()];
    let tls = name::server_name(destination)
        .and_then(|name| ClientConnection::new(Arc::new(config), name))
        .map_err(|error| internal(error.to_string()))?;
    let mut tls = Connection::from(tls);
    let mut plaintext = Vec::new();
    let opening = async {
        stream::shake_hands(&tcp, &mut tls).await?;
        if tls.alpn_protocol() != Some(ALPN_DIRECT) {
            return Err(TlsError::NoApplicationProtocol.into());
        }
        await_welcome(&tcp, &mut tls, &mut plaintext).await
    };
    match tokio::time::timeout(limits.handshake, opening).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => return Err(refused(tcp, &error, &verdict)),
        Err(_) => return Err(too_late(limits)),
    }
    let (peer, suite) = verdict
        .peer()
        .zip(tls.negotiated_cipher_suite())
        .ok_or_else(|| internal("a handshake without a peer".to_owned()))?;
    let peer = Arc::new(peer.clone());
    Ok(Shaken { tcp, tls, suite, destination, peer, end: Role::Client, plaintext }.start(limits))
}

/// Reads the server's first frame; what came behind it stays.
async fn await_welcome(
    tcp: &TcpStream,
    tls: &mut Connection,
    plaintext: &mut Vec<u8>,
) -> Result<(), SessionError> {
    loop {
        stream::take_plaintext(tls, plaintext)?;
        match wire::read(plaintext) {
            Ok(Some((Frame::Welcome, length))) => {
                plaintext.drain(..length);
                return Ok(());
            }
            Ok(None) => stream::listen(tcp, tls).await?,
            Ok(Some((Frame::Message(_), _))) => {
                return Err(TlsError::General("the server sent no welcome first".to_owned()).into());
            }
            Err(error) => return Err(TlsError::General(format!("the server sent {error}")).into()),
        }
    }
}

/// Answers a client's daemon, for the workload that it asks for.
///
/// # Errors
/// Why there is no session.
pub async fn accept(
    tcp: TcpStream,
    workloads: &Workloads,
    limits: &Limits,
) -> Result<(Link, Incoming), Refusal> {
    let internal = |error: String| Refusal::new(Reason::Internal, error);
    stream::watch_peer(&tcp).map_err(|error| internal(error.to_string()))?;
    let opening = async {
        let Hello { accepted, destination } = read_hello(&tcp).await?;
        let workload = match workloads(destination) {
            Ok(workload) => workload,
            Err(refusal) => {
                alert(&tcp, AlertDescription::UnrecognisedName).await;
                return Err(refusal.into());
            }
        };
        let (config, verdict) =
            workload.tls13_only().server(false, None).map_err(|error| internal(error.to_string()))?;
        let mut config = Arc::unwrap_or_clone(config);
        config.alpn_protocols = vec![ALPN_DIRECT.to_vec()];
        let tls: ServerConnection = match accepted.into_connection(Arc::new(config)) {
            Ok(tls) => tls,
            Err((error, mut alert)) => {
                send_alert(&tcp, |out| alert.write_all(out)).await;
                return Err(verdict.refusal_of(&error).into());
            }
        };
        let mut tls = Connection::from(tls);
        let shaken = stream::shake_hands(&tcp, &mut tls).await;
        shaken.map_err(|error| Refused(refusal_of(&error, &verdict)))?;
        let peer = verdict.peer().ok_or_else(|| Refused(Reason::NoCertificate.into()))?;
        let suite = tls
            .negotiated_cipher_suite()
            .ok_or_else(|| Refused(internal("a handshake without a suite".to_owned())))?;
        welcome(&tcp, &mut tls).await.map_err(|error| Refused(refusal_of(&error, &verdict)))?;
        Ok((tls, suite, destination, Arc::new(peer.clone())))
    };
    match tokio::time::timeout(limits.handshake, opening).await {
        Ok(Ok((tls, suite, destination, peer))) => {
            let plaintext = Vec::new();
            Ok(Shaken { tcp, tls, suite, destination, peer, end: Role::Server, plaintext }.start(limits))
        }
        Ok(Err(Refused(refusal))) => {
            // So that the client reads our alert before its unread bytes make the kernel send RST.
            end_politely(tcp);
            Err(refusal)
        }
        Err(_) => Err(too_late(limits)),
    }
}

/// What `?` makes of the errors on the way.
struct Refused(Refusal);

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self(refusal)
    }
}

impl From<SessionError> for Refused {
    fn from(error: SessionError) -> Self {
        Self(refusal_of(&error, &Verdict::default()))
    }
}

async fn welcome(tcp: &TcpStream, tls: &mut Connection) -> Result<(), SessionError> {
    let mut bytes = Vec::new();
    wire::write(&Frame::Welcome, &mut bytes);
    std::io::Write::write_all(&mut tls.writer(), &bytes)?;
    Ok(stream::flush(tcp, tls).await?)
}

/// A client's first message, and what it asks for.
struct Hello {
    accepted: rustls::server::Accepted,
    destination: SocketAddr,
}

async fn read_hello(tcp: &TcpStream) -> Result<Hello, Refused> {
    let mut acceptor = Acceptor::default();
    let accepted = loop {
        tcp.readable().await.map_err(SessionError::from)?;
        if stream::hear_first(tcp, &mut acceptor)? == Heard::End {
            return Err(SessionError::Closed.into());
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => break accepted,
            Ok(None) => {}
            Err((error, mut alert)) => {
                send_alert(tcp, |out| alert.write_all(out)).await;
                return Err(SessionError::from(error).into());
            }
        }
    };
    let hello = accepted.client_hello();
    // rustls would take a client that names no protocol at all.
    if !hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == ALPN_DIRECT)) {
        alert(tcp, AlertDescription::NoApplicationProtocol).await;
        return Err(SessionError::from(TlsError::NoApplicationProtocol).into());
    }
    let asked = hello.server_name().map(str::to_owned);
    let Some(destination) = asked.as_deref().and_then(name::destination) else {
        alert(tcp, AlertDescription::UnrecognisedName).await;
        let detail = format!("it asked for {asked:?}, which names no destination");
        return Err(Refusal::new(Reason::UnknownDestination, detail).into());
    };
    Ok(Hello { accepted, destination })
}

/// A fatal alert in plaintext (RFC 8446, sections 5.1 and 6.2): there are no keys yet.
async fn alert(tcp: &TcpStream, description: AlertDescription) {
    send_alert(tcp, |out| out.write_all(&[21, 3, 3, 0, 2, 2, description.into()])).await;
}

async fn send_alert(tcp: &TcpStream, write: impl FnOnce(&mut dyn std::io::Write) -> std::io::Result<()>) {
    let mut bytes = Vec::new();
    // A fresh connection takes a few bytes at once; if not, the client hears nothing but the end.
    if write(&mut bytes).is_ok() && tcp.writable().await.is_ok() {
        let _ = tcp.try_write(&bytes);
    }
}

fn refused(tcp: TcpStream, error: &SessionError, verdict: &Verdict) -> Refusal {
    if matches!(error, SessionError::Tls(_)) {
        end_politely(tcp);
    }
    refusal_of(error, verdict)
}

fn too_late(limits: &Limits) -> Refusal {
    let detail = format!("the session was not open after {:?}", limits.handshake);
    Refusal::new(Reason::HandshakeTimeout, detail)
}
