//! The keys of one connection of the applications, from the session's exporter (RFC 8446, sections 7.5 and 7.3).

use std::fmt;

use mtls_direct::{ConnectionId, Nonce, Role};
use rustls::crypto::tls13::OkmBlock;
use rustls::crypto::{GetRandomFailed, SecureRandom};
use rustls::{Error as TlsError, SupportedCipherSuite};
use zeroize::Zeroizing;

use super::link::LinkEnd;
use super::wire::{CONNECTION, connection};
use crate::datapath::ktls::{RecordKeys, Suite};
use crate::handshake::KeySchedule;

/// The exporter's label.
const LABEL: &[u8] = b"EXPORTER-mtlsd-direct-1";
/// Direction, connection with the client's nonce, the server's nonce.
const CONTEXT: usize = 1 + CONNECTION + 16;

/// Why there are no keys.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum KeyError {
    /// The session is over: what it vouched for does not hold any more.
    #[error("no keys from a session that is over: {0}")]
    Over(LinkEnd),
    /// The session's suite is none of TLS 1.3 that the kernel could know.
    #[error("no keys: the session agreed on {0}, which is no suite of TLS 1.3 that mtlsd knows")]
    Suite(String),
    /// rustls gave none.
    #[error("no keys: the session's exporter says {0}; this build of mtlsd is broken")]
    Exporter(#[from] TlsError),
}

/// The keys of one socket, of which nothing is sealed or opened yet: both sequence numbers are 0. Wiped when dropped.
pub struct SocketKeys {
    /// The session's suite, and so that of the socket.
    pub suite: Suite,
    /// For what the application sends.
    pub tx: RecordKeys,
    /// For what it receives.
    pub rx: RecordKeys,
}

impl fmt::Debug for SocketKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SocketKeys").field("suite", &self.suite).finish_non_exhaustive()
    }
}

/// A nonce for one connection. Keys are fresh if one of its two nonces is, so neither end needs to trust the other's.
///
/// # Errors
/// When there is no randomness.
pub fn fresh_nonce(random: &dyn SecureRandom) -> Result<Nonce, GetRandomFailed> {
    let mut nonce = [0; 16];
    random.fill(&mut nonce)?;
    Ok(Nonce(nonce))
}

/// Of a session with this suite and this exporter, `export(output, label, context)`. Both ends derive the same, each with its
/// own `end`.
///
/// # Errors
/// See [`KeyError`].
pub fn derive(
    suite: SupportedCipherSuite,
    export: impl Fn(&mut [u8], &[u8], &[u8]) -> Result<(), TlsError>,
    id: &ConnectionId,
    server: Nonce,
    end: Role,
) -> Result<SocketKeys, KeyError> {
    let unknown = || KeyError::Suite(format!("{:?}", suite.suite()));
    let (own, tls13) = Suite::of(suite).zip(suite.tls13()).ok_or_else(unknown)?;
    let length = tls13.common.hash_provider.output_len();
    let secret = |sender: Role| {
        let mut bytes = Zeroizing::new([0; OkmBlock::MAX_LEN]);
        let place = bytes.get_mut(..length).ok_or_else(unknown)?;
        export(place, LABEL, &context(sender, id, server))?;
        Ok::<_, KeyError>(OkmBlock::new(place))
    };
    let (client, server) = (secret(Role::Client)?, secret(Role::Server)?);
    let (tx, rx) = match end {
        Role::Client => (client, server),
        Role::Server => (server, client),
    };
    let schedule = KeySchedule::new(own, tls13, tx, rx);
    let (tx, rx) = (schedule.tx().map_err(|_| unknown())?, schedule.rx().map_err(|_| unknown())?);
    Ok(SocketKeys { suite: own, tx: RecordKeys::new(0, &tx), rx: RecordKeys::new(0, &rx) })
}

/// Every field has one length, so that no two connections have the same bytes.
fn context(sender: Role, id: &ConnectionId, server: Nonce) -> [u8; CONTEXT] {
    let direction: u8 = match sender {
        Role::Client => 1,
        Role::Server => 2,
    };
    let mut bytes = [0; CONTEXT];
    let fields = std::iter::once(direction).chain(connection(id)).chain(server.0);
    bytes.iter_mut().zip(fields).for_each(|(place, byte)| *place = byte);
    bytes
}

#[cfg(test)]
pub(super) mod tests;
