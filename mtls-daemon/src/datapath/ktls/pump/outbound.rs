//! From the application to the peer: received and sent, which is faster for small messages, or spliced when the last
//! read was a large one.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::{Closing, Flow, Step, poll_io};
use crate::datapath::PumpError;
use crate::datapath::buffer::{READ_SIZE, with_scratch};
use crate::datapath::ends::{count, end, poll_read};
use crate::datapath::ktls::channel::Channel;
use crate::datapath::ktls::pipe::Pipe;
use crate::datapath::ktls::socket::TlsSocket;

/// Bytes of one read from which on splicing is tried.
const BULK: usize = 32 * 1024;
/// How long the kernel is given before it is asked again whether all records are TCP's; doubled up to the last.
const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(64);

impl Flow<'_> {
    /// One step from the application to the peer; pending when nothing can be done now.
    pub(super) fn poll_outbound(
        &mut self,
        application: &TcpStream,
        peer: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Step {
        if self.told_peer {
            return Poll::Pending;
        }
        if self.channel.owes_answer() || self.to_peer.is_waiting() || self.to_peer.ended {
            return self.poll_to_peer(peer, cx);
        }
        if self.bulk
            && let Some(mut pipe) = Pipe::take()
        {
            let length = ready!(poll_io(application, Interest::READABLE, cx, || pipe.fill(application)))
                .map_err(PumpError::Application)?;
            self.note_read(length);
            if length > 0 {
                self.to_peer.pipe = Some(pipe);
            }
            return Poll::Ready(Ok(()));
        }
        with_scratch(READ_SIZE, |room| {
            let room = room.get_mut(..READ_SIZE).unwrap_or_default();
            let length = ready!(poll_read(application, room, cx)).map_err(PumpError::Application)?;
            self.note_read(length);
            let bytes = room.get(..length).unwrap_or_default();
            // Most of the time there is room, and nothing has to be kept.
            let sent = match self.send_now(peer, bytes) {
                Err(PumpError::Peer(error)) if error.kind() == io::ErrorKind::WouldBlock => 0,
                sent => sent?,
            };
            let rest = bytes.get(sent..).unwrap_or_default();
            if !rest.is_empty() {
                self.to_peer.held.tail().extend_from_slice(rest);
            }
            Poll::Ready(Ok(()))
        })
    }

    fn note_read(&mut self, length: usize) {
        self.observed.add_sent(count(length));
        self.bulk = length >= BULK;
        self.to_peer.ended = length == 0;
    }

    fn send_now(&mut self, peer: &TcpStream, bytes: &[u8]) -> Result<usize, PumpError> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let socket = TlsSocket::new(peer);
        peer.try_io(Interest::WRITABLE, || self.channel.prepare(socket)).map_err(PumpError::Peer)??;
        let sent = peer.try_write(bytes).map_err(PumpError::Peer)?;
        self.channel.sent(sent, false);
        Ok(sent)
    }

    /// Sends what waits: first the answer to a KeyUpdate, then bytes, then the end.
    fn poll_to_peer(&mut self, peer: &TcpStream, cx: &mut Context<'_>) -> Step {
        if let Closing::Draining { asked_again, wait } = &mut self.closing {
            ready!(asked_again.as_mut().poll(cx));
            if end_if_drained(&self.channel, peer).map_err(PumpError::Peer)? {
                self.told_peer = true;
            } else {
                *wait = (*wait * 2).min(LONGEST_WAIT);
                *asked_again = Box::pin(tokio::time::sleep(*wait));
            }
            return Poll::Ready(Ok(()));
        }
        let Self { channel, to_peer, closing, told_peer, .. } = self;
        let socket = TlsSocket::new(peer);
        let sent = ready!(poll_io(peer, Interest::WRITABLE, cx, || {
            if let Err(error) = channel.prepare(socket)? {
                return Ok(Err(error));
            }
            if let Some(pipe) = &mut to_peer.pipe {
                let length = pipe.drain(peer)?;
                channel.sent(length, true);
                if pipe.is_empty() {
                    to_peer.pipe = None;
                }
            } else if !to_peer.held.is_empty() {
                let length = SockRef::from(peer).send(to_peer.held.waiting())?;
                channel.sent(length, false);
                to_peer.held.consume(length);
            } else if to_peer.ended {
                channel.close_notify(socket)?;
                *told_peer = end_if_drained(channel, peer)?;
                if !*told_peer {
                    let asked_again = Box::pin(tokio::time::sleep(FIRST_WAIT));
                    *closing = Closing::Draining { asked_again, wait: FIRST_WAIT };
                }
            }
            Ok(Ok(()))
        }));
        Poll::Ready(sent.map_err(PumpError::Peer)?.map_err(PumpError::Channel))
    }
}

/// Sends FIN behind close_notify once every record is TCP's.
fn end_if_drained(channel: &Channel, peer: &TcpStream) -> io::Result<bool> {
    let drained = channel.is_drained(TlsSocket::new(peer))?;
    if drained {
        end(peer)?;
    }
    Ok(drained)
}
