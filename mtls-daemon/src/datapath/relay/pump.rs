//! Moving bytes both ways between the application and the peer, byte-exact, with back-pressure, half-close and RST as RST,
//! where the peer's side is plain, or rustls does its records: TLS 1.2, and the few connections of TLS 1.3 that cannot be
//! taken out of it.
//!
//! One task per connection and no lock: each direction reads only when what it read before is written, so a
//! connection never holds more than one read's worth of bytes per direction.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::ReadHalf;

use super::session::end_politely;
use crate::datapath::PumpError;
use crate::datapath::buffer::{Buffer, READ_SIZE, with_scratch};
use crate::datapath::ends::{Failures, close_politely, count, end, reset_unless_ended, write};
use crate::handshake::{Progress, Records};
use crate::observe::observer::Observed;

/// Largest TLS 1.3 record with its header (RFC 8446, section 5.2).
const MAX_RECORD: usize = 5 + 16384 + 256;

/// What stands between the two sockets.
pub enum Codec {
    /// The peer's side is TLS.
    Tls {
        /// The connection without its socket.
        records: Records,
        /// The peer's close_notify was seen already; rustls tells only once.
        peer_ended: bool,
    },
    /// Both sides are plain.
    Plain,
}

/// A connection with both ends open.
pub struct Pump<'a> {
    application: TcpStream,
    peer: TcpStream,
    flow: Flow<'a>,
}

/// The two sockets, each to be read from and written to independently.
struct Ends<'s> {
    from_application: ReadHalf<'s>,
    application: &'s TcpStream,
    from_peer: ReadHalf<'s>,
    peer: &'s TcpStream,
}

/// What is between the sockets.
struct Flow<'a> {
    codec: Codec,
    observed: &'a Observed,
    /// Bytes from the peer that are not decrypted yet.
    incoming: Buffer,
    to_application: Buffer,
    to_peer: Buffer,
    application_ended: bool,
    peer_ended: bool,
    told_application: bool,
    told_peer: bool,
}

impl<'a> Pump<'a> {
    /// `incoming`: what was read from the peer after the handshake; `to_application`: what of it is
    /// decrypted; `to_peer`: what is encrypted and not sent.
    pub fn new(
        application: TcpStream,
        peer: TcpStream,
        codec: Codec,
        observed: &'a Observed,
        mut incoming: Buffer,
        mut to_application: Buffer,
        mut to_peer: Buffer,
    ) -> Self {
        for socket in [&application, &peer] {
            reset_unless_ended(socket);
        }
        for buffer in [&mut incoming, &mut to_application, &mut to_peer] {
            buffer.consume(0);
        }
        observed.add_received(count(to_application.waiting().len()));
        let peer_ended = matches!(codec, Codec::Tls { peer_ended: true, .. });
        let flow = Flow {
            codec,
            observed,
            incoming,
            to_application,
            to_peer,
            application_ended: false,
            peer_ended,
            told_application: false,
            told_peer: false,
        };
        Self { application, peer, flow }
    }

    /// Where what is moved is counted.
    pub fn observed(&self) -> &'a Observed {
        self.flow.observed
    }

    /// Moves bytes until both directions have ended, or one end fails.
    ///
    /// # Errors
    /// Why the connection was cut.
    pub async fn run(&mut self) -> Result<(), PumpError> {
        move_bytes(&mut self.application, &mut self.peer, &mut self.flow).await
    }

    /// Closes both sockets: with FIN after a good end, with RST otherwise; after a TLS error the peer gets its
    /// alert first.
    pub fn end(self, result: &Result<(), PumpError>) {
        let Self { application, peer, flow } = self;
        match result {
            Ok(()) => close_politely(&[&application, &peer]),
            Err(PumpError::Tls(_)) => {
                // The alert goes out, then FIN rather than RST, which would overtake it.
                let _ = peer.try_write(flow.to_peer.waiting());
                close_politely(&[&peer]);
                end_politely(peer);
            }
            Err(_) => {}
        }
    }
}

async fn move_bytes(
    application: &mut TcpStream,
    peer: &mut TcpStream,
    flow: &mut Flow<'_>,
) -> Result<(), PumpError> {
    let (from_application, application) = application.split();
    let (from_peer, peer) = peer.split();
    let (application, peer) = (application.as_ref(), peer.as_ref());
    let mut ends = Ends { from_application, application, from_peer, peer };
    let mut failures = Failures::default();
    poll_fn(|cx| {
        if let Poll::Ready(result) = flow.poll(&mut ends, cx) {
            return Poll::Ready(result);
        }
        let ended = (flow.told_peer.then_some(application), flow.told_application.then_some(peer));
        failures.poll(ended.0, ended.1, cx).map(Err)
    })
    .await
}

impl Flow<'_> {
    fn poll(&mut self, ends: &mut Ends<'_>, cx: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
        loop {
            let outbound = self.poll_outbound(ends, cx)?;
            let inbound = self.poll_inbound(ends, cx)?;
            if self.told_application && self.told_peer {
                return Poll::Ready(Ok(()));
            }
            if outbound.is_pending() && inbound.is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// One step from the application to the peer; pending when nothing can be done now.
    fn poll_outbound(&mut self, ends: &mut Ends<'_>, cx: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
        if !self.to_peer.is_empty() {
            return write(ends.peer, &mut self.to_peer, cx).map_err(PumpError::Peer);
        }
        if self.told_peer {
            return Poll::Pending;
        }
        if self.application_ended {
            self.told_peer = true;
            return Poll::Ready(end(ends.peer).map_err(PumpError::Peer));
        }
        let Self { codec, to_peer, incoming, observed, .. } = self;
        let read = with_scratch(READ_SIZE, |scratch| {
            let room = scratch.get_mut(..READ_SIZE).unwrap_or_default();
            match read(&mut ends.from_application, room, cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(Err(error)) => Poll::Ready(Err(PumpError::Application(error))),
                Poll::Ready(Ok(bytes)) => {
                    Poll::Ready(encode(codec, bytes, incoming, to_peer).map(|()| bytes.len()))
                }
            }
        });
        read.map_ok(|length| {
            observed.add_sent(count(length));
            self.application_ended |= length == 0;
        })
    }

    /// One step from the peer to the application; pending when nothing can be done now.
    fn poll_inbound(&mut self, ends: &mut Ends<'_>, cx: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
        if !self.to_application.is_empty() {
            return write(ends.application, &mut self.to_application, cx).map_err(PumpError::Application);
        }
        if self.told_application {
            return Poll::Pending;
        }
        if self.peer_ended {
            self.told_application = true;
            return Poll::Ready(end(ends.application).map_err(PumpError::Application));
        }
        let Self { codec, incoming, to_application, to_peer, observed, .. } = self;
        let step = with_scratch(READ_SIZE + MAX_RECORD, |scratch| {
            let kept = incoming.waiting().len();
            let (old, new) = scratch.split_at_mut_checked(kept).unwrap_or_default();
            let length = match read(&mut ends.from_peer, new, cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(PumpError::Peer(error))),
                Poll::Ready(Ok(bytes)) => bytes.len(),
            };
            old.copy_from_slice(incoming.waiting());
            incoming.clear();
            let bytes = scratch.get_mut(..kept + length).unwrap_or_default();
            Poll::Ready(decode(codec, bytes, length == 0, incoming, to_application, to_peer))
        });
        step.map_ok(|ended| {
            observed.add_received(count(self.to_application.waiting().len()));
            self.peer_ended = ended;
        })
    }
}

/// Application bytes become bytes for the peer; none means EOF.
fn encode(
    codec: &mut Codec,
    bytes: &[u8],
    incoming: &mut Buffer,
    to_peer: &mut Buffer,
) -> Result<(), PumpError> {
    match codec {
        Codec::Tls { records, .. } if bytes.is_empty() => {
            records.close(incoming.waiting_mut(), to_peer.tail())?
        }
        Codec::Tls { records, .. } => records.encrypt(bytes, incoming.waiting_mut(), to_peer.tail())?,
        Codec::Plain => to_peer.tail().extend_from_slice(bytes),
    }
    Ok(())
}

/// Bytes of the peer become bytes for the application. True when the peer has ended its direction.
fn decode(
    codec: &mut Codec,
    bytes: &mut [u8],
    eof: bool,
    incoming: &mut Buffer,
    to_application: &mut Buffer,
    to_peer: &mut Buffer,
) -> Result<bool, PumpError> {
    let Codec::Tls { records, .. } = codec else {
        to_application.tail().extend_from_slice(bytes);
        return Ok(eof);
    };
    let (done, progress) = records.advance(bytes, to_application.tail(), to_peer.tail());
    if to_application.is_empty() {
        to_application.clear();
    }
    if to_peer.is_empty() {
        to_peer.clear();
    }
    match progress? {
        Progress::PeerClosed => Ok(true),
        _ if eof => Err(PumpError::Truncated),
        _ => {
            let rest = bytes.get(done..).unwrap_or_default();
            if !rest.is_empty() {
                incoming.tail().extend_from_slice(rest);
            }
            Ok(false)
        }
    }
}

fn read<'b>(
    socket: &mut ReadHalf<'_>,
    room: &'b mut [u8],
    cx: &mut Context<'_>,
) -> Poll<io::Result<&'b [u8]>> {
    let mut buffer = ReadBuf::new(room);
    match Pin::new(socket).poll_read(cx, &mut buffer) {
        Poll::Pending => Poll::Pending,
        Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
        Poll::Ready(Ok(())) => {
            let length = buffer.filled().len();
            Poll::Ready(Ok(room.get(..length).unwrap_or_default()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::tests::ends::Watched;

    impl Watched for Pump<'_> {
        fn step(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), PumpError>> {
            let (from_application, application) = self.application.split();
            let (from_peer, peer) = self.peer.split();
            let (application, peer) = (application.as_ref(), peer.as_ref());
            self.flow.poll(&mut Ends { from_application, application, from_peer, peer }, cx)
        }

        fn buffers(&self) -> [&Buffer; 3] {
            [&self.flow.incoming, &self.flow.to_application, &self.flow.to_peer]
        }
    }
}
