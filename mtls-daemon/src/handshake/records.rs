//! rustls' unbuffered connections, client and server as one type: bytes in, bytes out, no socket.
//!
//! Unbuffered because the datapath then owns every buffer: an idle connection holds none, and nothing that
//! belongs to the kernel's records can hide in a library (RFC 8446, section 5).

use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::crypto::SupportedKxGroup;
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedConnectionCommon,
    UnbufferedStatus,
};
use rustls::{
    ClientConfig, Error as TlsError, ExtractedSecrets, ProtocolVersion, ServerConfig, SupportedCipherSuite,
};

use super::schedule::{Heard, KeySchedule};
use crate::datapath::ktls::Suite;

/// Where a connection stands after its input was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The handshake waits for the peer.
    Handshaking,
    /// Both sides may send.
    Open,
    /// The peer has ended its direction with close_notify.
    PeerClosed,
}

/// One TLS connection without its socket.
pub enum Records {
    /// We opened it.
    Client(Box<UnbufferedClientConnection>, Arc<Heard>),
    /// We accepted it.
    Server(Box<UnbufferedServerConnection>, Arc<Heard>),
}

/// What the handshake agreed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// Such as `TLSv1.3`.
    pub version: &'static str,
    /// IANA name of the cipher suite.
    pub suite: &'static str,
    /// Name of the key exchange group.
    pub group: &'static str,
}

/// What both connection types have in common, spelled once.
trait Process {
    type Data;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    fn common(&self) -> &UnbufferedConnectionCommon<Self::Data>;
}

impl Process for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &UnbufferedConnectionCommon<Self::Data> {
        self
    }
}

impl Process for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn common(&self) -> &UnbufferedConnectionCommon<Self::Data> {
        self
    }
}

macro_rules! either {
    ($self:expr, $connection:ident => $body:expr) => {
        match $self {
            Self::Client($connection, _) => {
                let $connection = $connection.as_mut();
                $body
            }
            Self::Server($connection, _) => {
                let $connection = $connection.as_mut();
                $body
            }
        }
    };
}

impl Records {
    /// A client's connection.
    ///
    /// # Errors
    /// When the configuration is inconsistent.
    pub fn client(config: Arc<ClientConfig>, server: ServerName<'static>) -> Result<Self, TlsError> {
        let (mut config, heard) = (Arc::unwrap_or_clone(config), Arc::new(Heard::default()));
        config.key_log = Arc::clone(&heard) as _;
        Ok(Self::Client(Box::new(UnbufferedClientConnection::new(Arc::new(config), server)?), heard))
    }

    /// A server's connection.
    ///
    /// # Errors
    /// When the configuration is inconsistent.
    pub fn server(config: Arc<ServerConfig>) -> Result<Self, TlsError> {
        let (mut config, heard) = (Arc::unwrap_or_clone(config), Arc::new(Heard::default()));
        config.key_log = Arc::clone(&heard) as _;
        Ok(Self::Server(Box::new(UnbufferedServerConnection::new(Arc::new(config))?), heard))
    }

    /// Works through `incoming`, which is changed in place: what is not done with must be kept as it is then
    /// and passed again, to this and to the other methods, since rustls remembers positions in it. Decrypted
    /// bytes are appended to `plaintext`, what is to be sent to `outgoing`. Returns how many bytes of `incoming`
    /// are done with, and where the connection stands.
    ///
    /// # Errors
    /// rustls' error; the alert that tells the peer is in `outgoing` then, and the connection is of no more use.
    pub fn advance(
        &mut self,
        incoming: &mut [u8],
        plaintext: &mut Vec<u8>,
        outgoing: &mut Vec<u8>,
    ) -> (usize, Result<Progress, TlsError>) {
        either!(self, connection => advance(connection, incoming, plaintext, outgoing))
    }

    /// Appends `plaintext` to `outgoing` as records. `incoming`: what [`Records::advance`] was not done with.
    ///
    /// Not to be called after [`Records::close`]: the peer ignores what follows close_notify.
    ///
    /// # Errors
    /// When the connection may not send: the handshake is not done, or it failed.
    pub fn encrypt(
        &mut self,
        plaintext: &[u8],
        incoming: &mut [u8],
        outgoing: &mut Vec<u8>,
    ) -> Result<(), TlsError> {
        either!(self, connection => write_traffic(connection, incoming, outgoing, |traffic, out| {
            traffic.encrypt(plaintext, out)
        }))
    }

    /// Appends close_notify: our direction ends here. `incoming` as for [`Records::encrypt`].
    ///
    /// # Errors
    /// As [`Records::encrypt`].
    pub fn close(&mut self, incoming: &mut [u8], outgoing: &mut Vec<u8>) -> Result<(), TlsError> {
        either!(self, connection => write_traffic(connection, incoming, outgoing, |traffic, out| {
            traffic.queue_close_notify(out)
        }))
    }

    /// True until both sides have shown their Finished message.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        match self {
            Self::Client(connection, _) => connection.common().is_handshaking(),
            Self::Server(connection, _) => connection.common().is_handshaking(),
        }
    }

    /// Both sides agreed on ALPN [`super::ALPN_MTLSD`].
    #[must_use]
    pub fn speaks_mtlsd(&self) -> bool {
        let alpn = match self {
            Self::Client(connection, _) => connection.common().alpn_protocol(),
            Self::Server(connection, _) => connection.common().alpn_protocol(),
        };
        alpn == Some(super::ALPN_MTLSD)
    }

    /// The cipher suite that was agreed.
    #[must_use]
    pub fn suite(&self) -> Option<SupportedCipherSuite> {
        match self {
            Self::Client(connection, _) => connection.common().negotiated_cipher_suite(),
            Self::Server(connection, _) => connection.common().negotiated_cipher_suite(),
        }
    }

    /// We opened it.
    #[must_use]
    pub fn is_client(&self) -> bool {
        matches!(self, Self::Client(..))
    }

    /// Gives the record keys of a TLS 1.3 connection away, and what later ones are derived from. Everything received and
    /// sent must have gone through before, and no key may have been changed.
    ///
    /// # Errors
    /// When the handshake is not done, or something waits to be sent. The connection is lost then.
    pub fn into_secrets(self) -> Result<(ExtractedSecrets, KeySchedule), TlsError> {
        let agreed = self.suite();
        let is_client = self.is_client();
        let (secrets, heard) = match self {
            Self::Client(connection, heard) => (connection.dangerous_into_kernel_connection()?.0, heard),
            Self::Server(connection, heard) => (connection.dangerous_into_kernel_connection()?.0, heard),
        };
        let suite = agreed.and_then(|agreed| Suite::of(agreed).zip(agreed.tls13()));
        let ((suite, rustls), (client, server)) = suite.zip(heard.take()).ok_or_else(|| {
            TlsError::General("rustls did not tell the traffic secrets of TLS 1.3".to_owned())
        })?;
        let (tx, rx) = if is_client { (client, server) } else { (server, client) };
        Ok((secrets, KeySchedule::new(suite, rustls, tx, rx)))
    }

    /// What was agreed; `None` before both sides have said what they can.
    #[must_use]
    pub fn agreed(&self) -> Option<Agreed> {
        match self {
            Self::Client(connection, _) => agreed(connection.common()),
            Self::Server(connection, _) => agreed(connection.common()),
        }
    }
}

fn agreed<D>(connection: &UnbufferedConnectionCommon<D>) -> Option<Agreed> {
    let suite = connection.negotiated_cipher_suite();
    Agreed::of(connection.protocol_version(), suite, connection.negotiated_key_exchange_group())
}

impl Agreed {
    /// What rustls says of a connection; `None` until its handshake has come so far.
    #[must_use]
    pub fn of(
        version: Option<ProtocolVersion>,
        suite: Option<SupportedCipherSuite>,
        group: Option<&'static dyn SupportedKxGroup>,
    ) -> Option<Self> {
        Some(Self {
            version: match version? {
                ProtocolVersion::TLSv1_2 => "TLSv1.2",
                ProtocolVersion::TLSv1_3 => "TLSv1.3",
                other => other.as_str()?,
            },
            suite: suite?.suite().as_str()?,
            group: group?.name().as_str()?,
        })
    }
}

fn advance<C: Process>(
    connection: &mut C,
    incoming: &mut [u8],
    plaintext: &mut Vec<u8>,
    outgoing: &mut Vec<u8>,
) -> (usize, Result<Progress, TlsError>) {
    let mut done = 0;
    let mut peer_closed = false;
    loop {
        let UnbufferedStatus { discard, state } =
            connection.process(incoming.get_mut(done..).unwrap_or_default());
        let mut finished = None;
        match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    match record {
                        Ok(record) => plaintext.extend_from_slice(record.payload),
                        Err(error) => finished = Some(Err(error)),
                    }
                }
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                let encoded = append(outgoing, |out| data.encode(out).map_err(Shortage::from));
                if let Err(error) = encoded {
                    finished = Some(Err(error));
                }
            }
            // What was encoded is in `outgoing`, which the caller sends.
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::BlockedHandshake) => finished = Some(Ok(Progress::Handshaking)),
            Ok(ConnectionState::WriteTraffic(_)) => finished = Some(Ok(Progress::Open)),
            Ok(ConnectionState::PeerClosed) => peer_closed = true,
            Ok(ConnectionState::Closed) => finished = Some(Ok(Progress::PeerClosed)),
            // Early data is never accepted, and states that do not exist yet cannot be answered.
            Ok(_) => finished = Some(Err(TlsError::General("unexpected state of rustls".to_owned()))),
            Err(error) => {
                finished = Some(drain_alert(connection, outgoing).and(Err(error)));
            }
        }
        done += discard;
        match finished {
            Some(Ok(_)) if peer_closed => return (done, Ok(Progress::PeerClosed)),
            Some(result) => return (done, result),
            None => {}
        }
    }
}

/// After an error rustls still has the alert for the peer to be encoded. It must not see the input again: it
/// would fail on it again and make one more alert.
fn drain_alert<C: Process>(connection: &mut C, outgoing: &mut Vec<u8>) -> Result<(), TlsError> {
    while connection.common().wants_write() {
        match connection.process(&mut []).state? {
            ConnectionState::EncodeTlsData(mut data) => {
                append(outgoing, |out| data.encode(out).map_err(Shortage::from))?;
            }
            _ => return Ok(()),
        }
    }
    Ok(())
}

/// Why bytes could not be written into the room given.
enum Shortage {
    Room(usize),
    Other(TlsError),
}

impl From<EncodeError> for Shortage {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(InsufficientSizeError { required_size }) => {
                Self::Room(required_size)
            }
            EncodeError::AlreadyEncoded => {
                Self::Other(TlsError::General("a message was encoded twice".to_owned()))
            }
        }
    }
}

impl From<EncryptError> for Shortage {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(InsufficientSizeError { required_size }) => {
                Self::Room(required_size)
            }
            EncryptError::EncryptExhausted => Self::Other(TlsError::EncryptError),
        }
    }
}

/// Lets `write` fill the room behind `outgoing`, which grows to what it asks for.
fn append(
    outgoing: &mut Vec<u8>,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Shortage>,
) -> Result<(), TlsError> {
    let start = outgoing.len();
    let mut room = (outgoing.capacity() - start).max(512);
    loop {
        outgoing.resize(start + room, 0);
        match write(outgoing.get_mut(start..).unwrap_or_default()) {
            Ok(written) => {
                outgoing.truncate(start + written);
                return Ok(());
            }
            Err(Shortage::Room(required)) if required > room => room = required,
            Err(shortage) => {
                outgoing.truncate(start);
                return Err(match shortage {
                    Shortage::Other(error) => error,
                    Shortage::Room(_) => TlsError::General("rustls asked for no more room".to_owned()),
                });
            }
        }
    }
}

fn write_traffic<C: Process>(
    connection: &mut C,
    incoming: &mut [u8],
    outgoing: &mut Vec<u8>,
    mut write: impl FnMut(
        &mut rustls::unbuffered::WriteTraffic<'_, C::Data>,
        &mut [u8],
    ) -> Result<usize, EncryptError>,
) -> Result<(), TlsError> {
    loop {
        let UnbufferedStatus { state, .. } = connection.process(incoming);
        match state? {
            ConnectionState::WriteTraffic(mut traffic) => {
                return append(outgoing, |out| write(&mut traffic, out).map_err(Shortage::from));
            }
            // A KeyUpdate of ours or our answer to the peer's goes first.
            ConnectionState::EncodeTlsData(mut data) => {
                append(outgoing, |out| data.encode(out).map_err(Shortage::from))?;
            }
            ConnectionState::TransmitTlsData(data) => data.done(),
            ConnectionState::PeerClosed => {}
            _ => return Err(TlsError::HandshakeNotComplete),
        }
    }
}

#[cfg(test)]
mod tests;
