//! A TLS connection with its socket, from the first byte to the point where the pump takes over.

use std::io;

use rustls::Error as TlsError;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::boundary::{Boundary, WholeRecords};
use super::pump::Codec;
use crate::datapath::buffer::Buffer;
use crate::datapath::ends::reset_unless_ended;
use crate::datapath::ktls::{self, Channel, Terms};
use crate::datapath::tls::channel::Handed;
use crate::datapath::tls::{ChannelError, UserChannel};
use crate::handshake::preface::UnknownPreface;
use crate::handshake::{Preface, Progress, Records};

/// Why a handshake did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// rustls' verdict; the alert was sent.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The socket failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// EOF in the middle.
    #[error("the peer closed the connection")]
    Closed,
    /// The preface is of another version.
    #[error(transparent)]
    Preface(#[from] UnknownPreface),
}

/// A TLS connection under way.
pub struct Session {
    tcp: TcpStream,
    records: Records,
    incoming: Buffer,
    plaintext: Buffer,
    outgoing: Buffer,
    boundary: Boundary,
    kernel_enabled: bool,
    peer_ended: bool,
    /// Something else than data came after the handshake: perhaps a KeyUpdate.
    key_may_have_changed: bool,
}

/// A connection after its handshake whose records rustls does not do any more.
pub struct Opened<C> {
    /// The peer's socket.
    pub tcp: TcpStream,
    /// The connection on it.
    pub channel: C,
    /// What the peer said that was decrypted before.
    pub plaintext: Buffer,
}

/// Why nobody took over.
#[derive(Debug)]
pub enum NotTaken {
    /// The session is as it was.
    Stays(Box<Session>, String),
    /// The keys are out and not in: the connection is lost.
    Lost(ChannelError),
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("tcp", &self.tcp).finish_non_exhaustive()
    }
}

impl Session {
    /// `incoming`: what was read from the socket already.
    #[must_use]
    pub fn new(tcp: TcpStream, records: Records, incoming: Vec<u8>) -> Self {
        // A handshake has small messages one behind the other: with Nagle's algorithm the second waits for the peer's
        // delayed acknowledgement, 40 ms. Without it, a connection is only slower.
        let _ = tcp.set_nodelay(true);
        let mut boundary = Boundary::default();
        boundary.pass(&incoming);
        Self {
            tcp,
            records,
            boundary,
            incoming: incoming.into(),
            plaintext: Buffer::default(),
            outgoing: Buffer::default(),
            kernel_enabled: false,
            peer_ended: false,
            key_may_have_changed: false,
        }
    }

    /// Puts the kernel's TLS on the socket, still without keys, because it takes only a connection whose peer has
    /// not sent FIN; a short one may have by the end of the handshake. Failing is found out again in
    /// [`Session::into_kernel`].
    #[must_use]
    pub fn ready_for_kernel(mut self, wanted: bool) -> Self {
        self.kernel_enabled = wanted && ktls::enable(&self.tcp).is_ok();
        self
    }

    /// The connection's TLS side.
    #[must_use]
    pub fn records(&self) -> &Records {
        &self.records
    }

    /// Shakes hands. For the client this means only that *it* has accepted the server.
    ///
    /// # Errors
    /// After a TLS error the alert has been sent, so that the peer can tell why.
    pub async fn handshake(&mut self) -> Result<(), SessionError> {
        loop {
            let progress = self.advance();
            self.flush().await?;
            progress?;
            if !self.records.is_handshaking() {
                return Ok(());
            }
            self.read().await?;
        }
    }

    /// Waits for the server's preface (ALPN `mtlsd/1` only).
    ///
    /// # Errors
    /// Also when the server refuses us by an alert instead.
    pub async fn read_preface(&mut self) -> Result<Preface, SessionError> {
        loop {
            if let Some((preface, length)) = Preface::decode(self.plaintext.waiting())? {
                self.plaintext.consume(length);
                return Ok(preface);
            }
            if self.peer_ended {
                return Err(SessionError::Closed);
            }
            self.read().await?;
            let progress = self.advance();
            self.flush().await?;
            progress?;
        }
    }

    /// Sends the server's preface.
    ///
    /// # Errors
    /// When the peer is gone.
    pub async fn send_preface(&mut self, preface: &Preface) -> Result<(), SessionError> {
        self.records.encrypt(&preface.encode(), self.incoming.waiting_mut(), self.outgoing.tail())?;
        self.flush().await
    }

    /// Ends our direction properly and waits a moment for the peer to take it in: closing at once could send
    /// RST over what we said.
    pub async fn close(mut self) {
        if self.records.close(self.incoming.waiting_mut(), self.outgoing.tail()).is_ok()
            && self.flush().await.is_ok()
        {
            let _ = self.tcp.shutdown().await;
        }
        linger(self.tcp).await;
    }

    /// Hands the keys to the kernel. What is received from now on is decrypted there; nothing was read beyond
    /// the last record that rustls has seen.
    ///
    /// # Errors
    /// See [`NotTaken`].
    pub fn into_kernel(self, terms: &Terms) -> Result<Opened<Channel>, NotTaken> {
        if let Err(why) = self.is_at_rest() {
            return Err(NotTaken::Stays(Box::new(self), why.to_owned()));
        }
        if !self.kernel_enabled
            && let Err(errno) = ktls::enable(&self.tcp)
        {
            return Err(NotTaken::Stays(
                Box::new(self),
                format!("setsockopt(TCP_ULP, \"tls\") says {errno}"),
            ));
        }
        let taken = Handed::of(self.records).and_then(|handed| Channel::install(&self.tcp, handed, terms));
        opened(self.tcp, self.plaintext, taken)
    }

    /// Takes the keys out of rustls, to do the records of TLS 1.3 in place. `records_per_key`: how many one key may
    /// protect.
    ///
    /// # Errors
    /// See [`NotTaken`].
    pub fn into_user_space(self, records_per_key: Option<u64>) -> Result<Opened<UserChannel>, NotTaken> {
        if let Err(why) = self.is_at_rest() {
            return Err(NotTaken::Stays(Box::new(self), why.to_owned()));
        }
        opened(self.tcp, self.plaintext, UserChannel::new(self.records, records_per_key))
    }

    /// Nothing is half said, so that others may go on with the records.
    fn is_at_rest(&self) -> Result<(), &'static str> {
        if self.records.suite().is_none_or(|suite| suite.tls13().is_none()) {
            return Err("TLS 1.2 was agreed");
        }
        if self.peer_ended {
            return Err("the peer has ended its direction already");
        }
        if !self.incoming.is_empty() || !self.boundary.is_between_records() {
            return Err("bytes arrived together with the end of the handshake");
        }
        if self.key_may_have_changed {
            return Err("more than data arrived before the first data, which may be a KeyUpdate");
        }
        Ok(())
    }

    /// Hands everything to the pump: socket, codec, undecrypted input, decrypted input, unsent output.
    #[must_use]
    pub fn into_parts(self) -> (TcpStream, Codec, Buffer, Buffer, Buffer) {
        let codec = Codec::Tls { records: self.records, peer_ended: self.peer_ended };
        (self.tcp, codec, self.incoming, self.plaintext, self.outgoing)
    }

    /// The socket alone, to be closed after an error.
    #[must_use]
    pub fn into_socket(self) -> TcpStream {
        self.tcp
    }

    fn advance(&mut self) -> Result<(), TlsError> {
        let whole = WholeRecords::of(self.incoming.waiting());
        let (handshaking, before) = (self.records.is_handshaking(), self.plaintext.waiting().len());
        let bytes = self.incoming.waiting_mut();
        let (done, progress) = self.records.advance(bytes, self.plaintext.tail(), self.outgoing.tail());
        self.incoming.consume(done);
        let produced = self.plaintext.waiting().len() - before;
        self.key_may_have_changed |= !handshaking && !whole.were_data(done, produced);
        self.peer_ended |= progress? == Progress::PeerClosed;
        Ok(())
    }

    async fn read(&mut self) -> Result<(), SessionError> {
        let room = self.incoming.tail();
        let before = room.len();
        room.resize(before + self.boundary.wanted(), 0);
        let read = self.tcp.read(room.get_mut(before..).unwrap_or_default()).await;
        room.truncate(before + read.as_ref().copied().unwrap_or(0));
        let read = read?;
        self.boundary.pass(room.get(before..).unwrap_or_default());
        if read == 0 { Err(SessionError::Closed) } else { Ok(()) }
    }

    async fn flush(&mut self) -> Result<(), SessionError> {
        if !self.outgoing.is_empty() {
            self.tcp.write_all(self.outgoing.waiting()).await?;
            self.outgoing.clear();
        }
        Ok(())
    }
}

fn opened<C>(
    tcp: TcpStream,
    plaintext: Buffer,
    taken: Result<C, ChannelError>,
) -> Result<Opened<C>, NotTaken> {
    match taken {
        Ok(channel) => Ok(Opened { tcp, channel, plaintext }),
        Err(error) => {
            // Closed with RST: nobody has said close_notify.
            reset_unless_ended(&tcp);
            Err(NotTaken::Lost(error))
        }
    }
}

/// [`linger`] in a task of its own.
pub fn end_politely(tcp: TcpStream) {
    tokio::spawn(linger(tcp));
}

/// Reads away what a refused peer still sends, for a bounded time and amount, so that our last words are not
/// overtaken by the RST that unread bytes would cause (RFC 1122, section 4.2.2.13).
pub async fn linger(mut tcp: TcpStream) {
    const PATIENCE: std::time::Duration = std::time::Duration::from_millis(500);
    const MAX_READS: usize = 16;
    let _ = SockRef::from(&tcp).set_linger(None);
    let _ = tcp.shutdown().await;
    let drain = async {
        let mut bytes = vec![0; 4096];
        for _ in 0..MAX_READS {
            match tcp.read(&mut bytes).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    let _ = tokio::time::timeout(PATIENCE, drain).await;
}
