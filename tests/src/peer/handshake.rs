//! The handshake is rustls'; its key log gives the secrets from which the records are then made by hand.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{
    ClientConfig, ClientConnection, Connection, KeyLog, RootCertStore, ServerConfig, ServerConnection,
};

use super::keys::{Keys, kind};
use super::options::{Options, Role};

/// A connection that is done with its handshake.
pub struct Done {
    /// rustls' connection; its own record layer was used for the handshake only.
    pub connection: Connection,
    /// Our keys and the other side's, for application data.
    pub keys: (Keys, Keys),
}

/// Remembers the two secrets of application data.
#[derive(Default)]
struct Secrets(Mutex<[Vec<u8>; 2]>);

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets")
    }
}

impl KeyLog for Secrets {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        let mut secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match label {
            "CLIENT_TRAFFIC_SECRET_0" => secrets[0] = secret.to_vec(),
            "SERVER_TRAFFIC_SECRET_0" => secrets[1] = secret.to_vec(),
            _ => {}
        }
    }
}

impl Secrets {
    fn of(&self, role: Role) -> Vec<u8> {
        let secrets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        secrets[usize::from(role == Role::Server)].clone()
    }
}

/// Shakes hands on `socket`, reading record by record, so that no byte of what follows is taken.
///
/// # Errors
/// When one of the two refuses.
pub fn handshake(options: &Options, mut socket: &TcpStream) -> io::Result<Done> {
    let secrets = Arc::new(Secrets::default());
    let mut connection = begin(options, &secrets)?;
    // Our first record of application data may travel with our Finished (or, from a server, before the client's).
    let mut early = options.with_finished.clone();
    let mut ours = None;
    loop {
        let mut flight = Vec::new();
        while connection.wants_write() {
            connection.write_tls(&mut flight)?;
        }
        let finished = options.role == Role::Server || !connection.is_handshaking();
        let secret = secrets.of(options.role);
        if ours.is_none() && finished && !secret.is_empty() {
            let mut keys = Keys::new(suite(&connection)?, secret)?;
            if let Some(text) = early.take() {
                flight.extend(keys.seal(kind::APPLICATION_DATA, text.as_bytes(), 0));
            }
            ours = Some(keys);
        }
        socket.write_all(&flight)?;
        if !connection.is_handshaking() {
            break;
        }
        let (header, body) = read_record(socket)?.ok_or_else(|| io::Error::other("EOF in the handshake"))?;
        connection.read_tls(&mut &[&header[..], &body].concat()[..])?;
        if let Err(error) = connection.process_new_packets() {
            let mut alert = Vec::new();
            let _ = connection.write_tls(&mut alert);
            let _ = socket.write_all(&alert);
            return Err(io::Error::other(error));
        }
    }
    let theirs = Keys::new(suite(&connection)?, secrets.of(options.role.other()))?;
    let ours = ours.ok_or_else(|| io::Error::other("rustls logged no secret"))?;
    Ok(Done { connection, keys: (ours, theirs) })
}

fn suite(connection: &Connection) -> io::Result<rustls::CipherSuite> {
    let suite =
        connection.negotiated_cipher_suite().ok_or_else(|| io::Error::other("no suite was agreed"))?;
    Ok(suite.suite())
}

/// Reads a record's header and its body; `None` at the end of the stream.
///
/// # Errors
/// If the stream fails, or ends in a record.
pub fn read_record(mut socket: impl Read) -> io::Result<Option<([u8; 5], Vec<u8>)>> {
    let mut header = [0; 5];
    let got = socket.read(&mut header)?;
    if got == 0 {
        return Ok(None);
    }
    socket.read_exact(&mut header[got..])?;
    let mut body = vec![0; usize::from(u16::from_be_bytes([header[3], header[4]]))];
    socket.read_exact(&mut body)?;
    Ok(Some((header, body)))
}

fn begin(options: &Options, secrets: &Arc<Secrets>) -> io::Result<Connection> {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    if let Some(wanted) = &options.suite {
        provider.cipher_suites.retain(|suite| format!("{:?}", suite.suite()).ends_with(wanted.as_str()));
    }
    let provider = Arc::new(provider);
    let versions = &[&rustls::version::TLS13];
    let chain = certificates(&options.cert)?;
    let key = PrivateKeyDer::from_pem_file(&options.key).map_err(io::Error::other)?;
    let mut roots = RootCertStore::empty();
    for root in certificates(&options.ca)? {
        roots.add(root).map_err(io::Error::other)?;
    }
    let roots = Arc::new(roots);
    let alpn = options.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    if options.role == Role::Client {
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions);
        let config = config.map_err(io::Error::other)?.with_root_certificates(roots);
        let mut config = config.with_client_auth_cert(chain, key).map_err(io::Error::other)?;
        config.alpn_protocols = alpn;
        config.key_log = Arc::clone(secrets) as Arc<dyn KeyLog>;
        let name = ServerName::try_from(options.name.clone()).map_err(io::Error::other)?;
        let client = ClientConnection::new(Arc::new(config), name).map_err(io::Error::other)?;
        return Ok(client.into());
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions);
    let config = config.map_err(io::Error::other)?;
    let config = config.with_client_cert_verifier(verifier.map_err(io::Error::other)?);
    let mut config = config.with_single_cert(chain, key).map_err(io::Error::other)?;
    config.alpn_protocols = alpn;
    config.send_tls13_tickets = 0;
    config.key_log = Arc::clone(secrets) as Arc<dyn KeyLog>;
    Ok(ServerConnection::new(Arc::new(config)).map_err(io::Error::other)?.into())
}

fn certificates(file: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let read = CertificateDer::pem_file_iter(file).map_err(io::Error::other)?;
    read.collect::<Result<_, _>>().map_err(io::Error::other)
}
