//! The form of a session's frames: one byte with the length of what follows, one with its type, then the fields, numbers in
//! network byte order. Every message has the same head: client's address and port, server's, the client's nonce.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use mtls_direct::{Body, ConnectionId, Counts, FourTuple, Message, Nonce};

use super::reasons;

/// Bytes of the longest frame, without the byte of its length.
pub const MAX_FRAME: usize = 128;

const WELCOME: u8 = 0;
const OPEN: u8 = 1;
const ACCEPT: u8 = 2;
const REFUSE: u8 = 3;
const READY: u8 = 4;
const ABORT: u8 = 5;
const CLOSED: u8 = 6;

/// What one daemon says to the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame {
    /// The server has verified the client and takes its messages: a TLS 1.3 client cannot tell by its handshake.
    Welcome,
    /// About one connection.
    Message(Message),
}

/// Why bytes are no frame. The session ends: nothing that follows can be trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Longer than any frame.
    #[error(
        "a frame of {0} bytes, of which the longest has {MAX_FRAME}; the other daemon speaks another protocol"
    )]
    TooLong(u8),
    /// Nothing in it.
    #[error("a frame without a type; the other daemon speaks another protocol")]
    Empty,
    /// A type that this version does not know.
    #[error("a frame of the unknown type {0}; do both daemons run versions that go together?")]
    UnknownType(u8),
    /// Shorter than its fields.
    #[error("a frame of type {0} that ends before its last field; the other daemon speaks another protocol")]
    Short(u8),
    /// Longer than its fields.
    #[error(
        "a frame of type {kind} with {count} bytes behind its last field; the other daemon speaks another protocol"
    )]
    TrailingBytes {
        /// The frame's type.
        kind: u8,
        /// Bytes too many.
        count: usize,
    },
    /// A reason that this version does not know.
    #[error("the unknown reason {0}; do both daemons run versions that go together?")]
    UnknownReason(u8),
    /// Client and server of one TCP connection have addresses of the same family.
    #[error("a connection between {0} and {1}, one IPv4 and one IPv6; the other daemon is at fault")]
    MixedFamilies(IpAddr, IpAddr),
    /// TCP has no port 0 on the wire.
    #[error("a connection with port 0; the other daemon is at fault")]
    PortZero,
}

/// As the other side reads it: IPv4-mapped addresses are IPv4, and neither flow label nor scope is told.
#[must_use]
pub fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Appends a frame. Addresses arrive in their [`canonical`] form.
pub fn write(frame: &Frame, out: &mut Vec<u8>) {
    let mut bytes = Fields { bytes: [0; MAX_FRAME + 1], length: 1 };
    match frame {
        Frame::Welcome => bytes.put(&[WELCOME]),
        Frame::Message(Message { id, body }) => {
            bytes.put(&[kind(body)]);
            bytes.put(&connection(id));
            match body {
                Body::Open | Body::Ready => {}
                Body::Accept(nonce) => bytes.put(&nonce.0),
                Body::Refuse(reason) | Body::Abort(reason) => bytes.put(&[reasons::number(*reason)]),
                Body::Closed(Counts { sent, received }) => {
                    bytes.put(&sent.to_be_bytes());
                    bytes.put(&received.to_be_bytes());
                }
            }
        }
    }
    out.extend_from_slice(bytes.finish());
}

fn kind(body: &Body) -> u8 {
    match body {
        Body::Open => OPEN,
        Body::Accept(_) => ACCEPT,
        Body::Refuse(_) => REFUSE,
        Body::Ready => READY,
        Body::Abort(_) => ABORT,
        Body::Closed(_) => CLOSED,
    }
}

/// Bytes of an address and its port.
const ADDRESS: usize = 18;
/// Bytes that say which connection is meant: both addresses, and the client's nonce.
pub const CONNECTION: usize = 2 * ADDRESS + 16;

/// The fields that say which connection is meant, as frames have them and as its keys are bound to them.
#[must_use]
pub fn connection(id: &ConnectionId) -> [u8; CONNECTION] {
    let mut bytes = [0; CONNECTION];
    let fields = address(id.tuple.client).into_iter().chain(address(id.tuple.server)).chain(id.nonce.0);
    bytes.iter_mut().zip(fields).for_each(|(place, byte)| *place = byte);
    bytes
}

fn address(address: SocketAddr) -> [u8; ADDRESS] {
    let ip = match address.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut bytes = [0; ADDRESS];
    let fields = ip.octets().into_iter().chain(address.port().to_be_bytes());
    bytes.iter_mut().zip(fields).for_each(|(place, byte)| *place = byte);
    bytes
}

/// A frame under construction, its first byte kept for the length.
struct Fields {
    bytes: [u8; MAX_FRAME + 1],
    length: usize,
}

impl Fields {
    fn put(&mut self, field: &[u8]) {
        let places = self.bytes.iter_mut().skip(self.length);
        places.zip(field).for_each(|(place, byte)| *place = *byte);
        self.length += field.len();
    }

    fn finish(&mut self) -> &[u8] {
        if let (Some(first), Ok(length)) = (self.bytes.first_mut(), u8::try_from(self.length - 1)) {
            *first = length;
        }
        self.bytes.get(..self.length).unwrap_or(&self.bytes)
    }
}

/// The frame that `bytes` begin with, and how many bytes it took; `None`: there are not enough yet.
///
/// # Errors
/// As soon as it is clear that no frame begins like this.
pub fn read(bytes: &[u8]) -> Result<Option<(Frame, usize)>, WireError> {
    let Some((&length, rest)) = bytes.split_first() else { return Ok(None) };
    match usize::from(length) {
        0 => Err(WireError::Empty),
        length if length > MAX_FRAME => Err(WireError::TooLong(bytes.first().copied().unwrap_or(u8::MAX))),
        length => match rest.get(..length) {
            Some(frame) => Ok(Some((parse(frame)?, 1 + length))),
            None => Ok(None),
        },
    }
}

fn parse(frame: &[u8]) -> Result<Frame, WireError> {
    let (&kind, rest) = frame.split_first().ok_or(WireError::Empty)?;
    let mut fields = Reader { kind, rest };
    let frame = match kind {
        WELCOME => Frame::Welcome,
        OPEN..=CLOSED => {
            let id = fields.connection()?;
            let body = fields.body()?;
            Frame::Message(Message { id, body })
        }
        unknown => return Err(WireError::UnknownType(unknown)),
    };
    match fields.rest.len() {
        0 => Ok(frame),
        count => Err(WireError::TrailingBytes { kind, count }),
    }
}

struct Reader<'b> {
    kind: u8,
    rest: &'b [u8],
}

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (field, rest) = self.rest.split_first_chunk().ok_or(WireError::Short(self.kind))?;
        self.rest = rest;
        Ok(*field)
    }

    fn address(&mut self) -> Result<SocketAddr, WireError> {
        let ip = Ipv6Addr::from(self.take::<16>()?).to_canonical();
        match u16::from_be_bytes(self.take()?) {
            0 => Err(WireError::PortZero),
            port => Ok(SocketAddr::new(ip, port)),
        }
    }

    fn connection(&mut self) -> Result<ConnectionId, WireError> {
        let (client, server) = (self.address()?, self.address()?);
        if client.is_ipv4() != server.is_ipv4() {
            return Err(WireError::MixedFamilies(client.ip(), server.ip()));
        }
        Ok(ConnectionId { tuple: FourTuple { client, server }, nonce: Nonce(self.take()?) })
    }

    fn reason(&mut self) -> Result<mtls_direct::Reason, WireError> {
        let [number] = self.take()?;
        reasons::reason(number).ok_or(WireError::UnknownReason(number))
    }

    fn body(&mut self) -> Result<Body, WireError> {
        Ok(match self.kind {
            OPEN => Body::Open,
            ACCEPT => Body::Accept(Nonce(self.take()?)),
            REFUSE => Body::Refuse(self.reason()?),
            READY => Body::Ready,
            ABORT => Body::Abort(self.reason()?),
            CLOSED => {
                let (sent, received) = (self.take()?, self.take()?);
                Body::Closed(Counts {
                    sent: u64::from_be_bytes(sent),
                    received: u64::from_be_bytes(received),
                })
            }
            unknown => return Err(WireError::UnknownType(unknown)),
        })
    }
}

#[cfg(test)]
mod tests;
