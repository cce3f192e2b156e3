//! A handshake whose other end may be anything: everything that it says is bounded, and its first bytes are kept.

use std::io;
use std::time::Duration;

use rustls::Error as TlsError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::datapath::relay::session::end_politely;
use crate::handshake::preface::UnknownPreface;
use crate::handshake::{Preface, Progress, Records, Verdict};
use crate::observe::{Reason, Refusal};

/// Most bytes that are read of the other end, in all: a chain of the largest size that TLS allows, four times.
pub const MAX_RECEIVED: usize = 256 * 1024;
/// First bytes that are kept, to say what it is that answered.
pub const MAX_FIRST: usize = 128;

/// Why the conversation ended.
#[derive(Debug)]
pub(super) enum Broken {
    Tls(TlsError),
    /// EOF.
    Closed,
    Io(io::Error),
    /// Nothing more came in this time.
    Silent(Duration),
    /// More than [`MAX_RECEIVED`].
    TooMuch,
    Preface(UnknownPreface),
}

impl From<TlsError> for Broken {
    fn from(error: TlsError) -> Self {
        Self::Tls(error)
    }
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl Broken {
    /// The refusal of a connection to which this happens.
    pub fn refusal(&self, verdict: &Verdict) -> Refusal {
        match self {
            Self::Tls(error) => verdict.refusal_of(error),
            Self::Closed => Reason::HandshakeClosed.into(),
            Self::Io(error) => Refusal::new(Reason::HandshakeClosed, error.to_string()),
            Self::Silent(limit) => {
                Refusal::new(Reason::HandshakeTimeout, format!("nothing more came within {limit:?}"))
            }
            Self::TooMuch => {
                Refusal::new(Reason::MalformedTls, format!("it sent more than {MAX_RECEIVED} bytes"))
            }
            Self::Preface(error) => Refusal::new(Reason::NoCommonParameters, error.to_string()),
        }
    }
}

/// A client's side of one connection.
pub(super) struct Talk {
    tcp: TcpStream,
    records: Records,
    incoming: Vec<u8>,
    plaintext: Vec<u8>,
    outgoing: Vec<u8>,
    first: Vec<u8>,
    received: usize,
    /// Bytes of records that TLS took.
    taken: usize,
    ended: bool,
}

/// How a server took our certificate that says nothing in words.
#[derive(Debug)]
pub(super) enum Reaction {
    /// It went on speaking TLS.
    Spoke,
    /// It ended its direction with close_notify.
    Ended,
    /// It broke off, or said nothing.
    Broke(Broken),
}

impl Talk {
    pub fn new(tcp: TcpStream, records: Records) -> Self {
        let _only_slower = tcp.set_nodelay(true);
        let (incoming, plaintext, outgoing) = (Vec::new(), Vec::new(), Vec::new());
        Self {
            tcp,
            records,
            incoming,
            plaintext,
            outgoing,
            first: Vec::new(),
            received: 0,
            taken: 0,
            ended: false,
        }
    }

    pub fn records(&self) -> &Records {
        &self.records
    }

    /// What it said first, as it came.
    pub fn first(&self) -> &[u8] {
        &self.first
    }

    /// As far as the client's side of a handshake goes.
    pub async fn handshake(&mut self, limit: Duration) -> Result<(), Broken> {
        let shake = async {
            loop {
                self.step().await?;
                if !self.records.is_handshaking() {
                    return Ok(());
                }
                self.read().await?;
            }
        };
        tokio::time::timeout(limit, shake).await.unwrap_or(Err(Broken::Silent(limit)))
    }

    /// What an mtlsd says first.
    pub async fn preface(&mut self, limit: Duration) -> Result<Preface, Broken> {
        let wait = async {
            loop {
                if let Some((preface, _)) = Preface::decode(&self.plaintext).map_err(Broken::Preface)? {
                    return Ok(preface);
                }
                if self.ended {
                    return Err(Broken::Closed);
                }
                self.read().await?;
                self.step().await?;
            }
        };
        tokio::time::timeout(limit, wait).await.unwrap_or(Err(Broken::Silent(limit)))
    }

    /// Ends our direction without a word, and waits for how the server takes that: it has to judge our certificate before it
    /// can see the end.
    pub async fn reaction(&mut self, limit: Duration) -> Reaction {
        let before = self.taken;
        let wait = async {
            self.records.close(&mut self.incoming, &mut self.outgoing)?;
            self.flush().await?;
            loop {
                if self.ended {
                    return Ok(());
                }
                self.read().await?;
                self.step().await?;
            }
        };
        let ended = tokio::time::timeout(limit, wait).await.unwrap_or(Err(Broken::Silent(limit)));
        match ended {
            Ok(()) => Reaction::Ended,
            Err(broken @ Broken::Tls(_)) => Reaction::Broke(broken),
            // Records that TLS took: tickets, or the application's first words.
            Err(_) if self.taken > before => Reaction::Spoke,
            Err(broken) => Reaction::Broke(broken),
        }
    }

    /// Says goodbye in the background.
    pub async fn end(mut self, limit: Duration) {
        if !self.records.is_handshaking()
            && self.records.close(&mut self.incoming, &mut self.outgoing).is_ok()
        {
            // It may be gone; then there is nobody to be told.
            let _told = tokio::time::timeout(limit, self.flush()).await;
        }
        self.leave();
    }

    /// Goes without a further word.
    pub fn leave(self) {
        end_politely(self.tcp);
    }

    /// TLS looks at what is there, and what it has to say is sent: an alert too.
    async fn step(&mut self) -> Result<(), Broken> {
        let (done, progress) =
            self.records.advance(&mut self.incoming, &mut self.plaintext, &mut self.outgoing);
        self.incoming.drain(..done.min(self.incoming.len()));
        self.taken += done;
        let flushed = self.flush().await;
        self.ended |= progress? == Progress::PeerClosed;
        Ok(flushed?)
    }

    async fn read(&mut self) -> Result<(), Broken> {
        if self.received >= MAX_RECEIVED {
            return Err(Broken::TooMuch);
        }
        let before = self.incoming.len();
        self.incoming.reserve(4096);
        if self.tcp.read_buf(&mut self.incoming).await? == 0 {
            return Err(Broken::Closed);
        }
        let new = self.incoming.get(before..).unwrap_or_default();
        self.received += new.len();
        let room = MAX_FIRST.saturating_sub(self.first.len());
        self.first.extend(new.iter().take(room));
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.outgoing.is_empty() {
            self.tcp.write_all(&self.outgoing).await?;
            self.outgoing.clear();
        }
        Ok(())
    }
}
