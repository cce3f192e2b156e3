//! A daemon that lies: it has a certificate of the site's CA and speaks the session's protocol, written here a second time
//! from its description.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme, StreamOwned};

use crate::programs::Identity;
use crate::slow;

/// What a frame is about.
pub mod kind {
    #![allow(missing_docs)]
    pub const WELCOME: u8 = 0;
    pub const OPEN: u8 = 1;
    pub const ACCEPT: u8 = 2;
    pub const REFUSE: u8 = 3;
    pub const READY: u8 = 4;
    pub const ABORT: u8 = 5;
    pub const CLOSED: u8 = 6;
}

/// Reasons of a refusal, by their numbers.
pub mod reason {
    #![allow(missing_docs)]
    pub const DENIED: u8 = 1;
    pub const BUSY: u8 = 19;
}

/// A TLS connection that believes every server.
pub type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A session of the liar's.
#[derive(Debug)]
pub struct Rogue {
    tls: Tls,
}

impl Rogue {
    /// Opens a session for `destination` with the daemon at `node`.
    ///
    /// # Errors
    /// If the daemon refuses.
    pub fn session(node: SocketAddr, destination: SocketAddr, identity: &Identity) -> io::Result<Self> {
        let name = server_name(destination);
        let tls = tls(TcpStream::connect(node)?, &name, &[b"mtlsd-direct/1"], identity)?;
        let mut rogue = Self { tls };
        match rogue.hear()? {
            Some((kind::WELCOME, _)) => Ok(rogue),
            other => Err(io::Error::other(format!("no welcome: {other:?}"))),
        }
    }

    /// Sends bytes as they are.
    ///
    /// # Errors
    /// If the session is over.
    pub fn say(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.tls.write_all(bytes)?;
        self.tls.flush()
    }

    /// The next frame's type and fields; `None` at the end of the session.
    ///
    /// # Errors
    /// If there is none in time.
    pub fn hear(&mut self) -> io::Result<Option<(u8, Vec<u8>)>> {
        let mut length = [0];
        match self.tls.read(&mut length) {
            Ok(0) => return Ok(None),
            Ok(_) => {}
            // An end without close_notify, or with RST, is one too.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
            Err(error) => return Err(error),
        }
        let mut frame = vec![0; usize::from(length[0])];
        self.tls.read_exact(&mut frame)?;
        let fields = frame.split_off(1);
        Ok(Some((frame[0], fields)))
    }

    /// Asks for a connection, and gives the answer's type and its last field: the server's nonce, or a reason.
    ///
    /// # Panics
    /// If there is no answer about this connection.
    #[track_caller]
    pub fn open(&mut self, id: &Id) -> (u8, Vec<u8>) {
        self.say(&id.frame(kind::OPEN, &[])).expect("the session takes it");
        let (kind, fields) = self.hear().expect("an answer").expect("a session that goes on");
        assert!(fields.starts_with(&id.0), "an answer about something else: {kind} {fields:?}");
        (kind, fields[id.0.len()..].to_vec())
    }
}

/// A TLS 1.3 connection as this identity.
///
/// # Errors
/// If the handshake fails.
pub fn tls(socket: TcpStream, name: &str, alpn: &[&[u8]], identity: &Identity) -> io::Result<Tls> {
    socket.set_read_timeout(Some(slow::limit(20)))?;
    let provider = Arc::new(aws_lc_rs::default_provider());
    let chain: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(&identity.chain).map_err(io::Error::other)?.collect();
    let key = PrivateKeyDer::from_pem_file(&identity.key).map_err(io::Error::other)?;
    let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous(provider)))
        .with_client_auth_cert(chain.map_err(io::Error::other)?, key);
    let mut config = config.map_err(io::Error::other)?;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from(name.to_owned()).map_err(io::Error::other)?;
    let client = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
    let mut tls = StreamOwned::new(client, socket);
    while tls.conn.is_handshaking() {
        tls.conn.complete_io(&mut tls.sock)?;
    }
    Ok(tls)
}

/// Names a connection: both addresses and the client's nonce.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Id(Vec<u8>);

impl Id {
    /// With a nonce of this byte.
    pub fn new(client: SocketAddr, server: SocketAddr, nonce: u8) -> Self {
        Self([&address(client)[..], &address(server), &[nonce; 16]].concat())
    }

    /// A frame about it.
    pub fn frame(&self, kind: u8, fields: &[u8]) -> Vec<u8> {
        frame(&[&[kind], &self.0[..], fields].concat())
    }
}

/// Bytes with their length before them.
///
/// # Panics
/// If they are too many for one byte.
pub fn frame(bytes: &[u8]) -> Vec<u8> {
    let length = u8::try_from(bytes.len()).expect("short");
    [&[length], bytes].concat()
}

/// An address and port as frames have them.
pub fn address(address: SocketAddr) -> Vec<u8> {
    [&mapped(address.ip())[..], &address.port().to_be_bytes()].concat()
}

fn mapped(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

fn server_name(destination: SocketAddr) -> String {
    let ip = u128::from_be_bytes(mapped(destination.ip()));
    format!("{ip:032x}-{}.mtlsd-direct.invalid", destination.port())
}

/// Believes everybody: whom it talks to is not what it is about.
#[derive(Debug)]
struct Credulous(Arc<CryptoProvider>);

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let schemes = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, signature, schemes)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
