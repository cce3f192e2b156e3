//! From the peer to the application: spliced, one record at a time. Receiving is as fast for small messages, but stays
//! in the kernel for as long as a peer sends nothing but empty records.

use std::io;
use std::task::{Context, Poll, ready};

use nix::errno::Errno;
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::{Flow, Step, forgive, poll_io};
use crate::datapath::PumpError;
use crate::datapath::buffer::with_scratch;
use crate::datapath::ends::{count, end, error_of, taken, write};
use crate::datapath::ktls::pipe::Pipe;
use crate::datapath::ktls::socket::{Received, TlsSocket};
use crate::datapath::tls::ChannelError;
use crate::datapath::tls::ContentType;

/// Room for one record's content, twice over.
const RECORD_ROOM: usize = 32 * 1024;

impl Flow<'_> {
    /// One step from the peer to the application; pending when nothing can be done now.
    pub(super) fn poll_inbound(
        &mut self,
        application: &TcpStream,
        peer: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Step {
        let way = &mut self.to_application;
        if let Some(pipe) = &mut way.pipe {
            ready!(poll_io(application, Interest::WRITABLE, cx, || pipe.drain(application)))
                .map_err(PumpError::Application)?;
            if pipe.is_empty() {
                way.pipe = None;
            }
            return Poll::Ready(Ok(()));
        }
        if !way.held.is_empty() {
            return write(application, &mut way.held, cx).map_err(PumpError::Application);
        }
        if self.told_application {
            return Poll::Pending;
        }
        if way.ended {
            self.told_application = true;
            return Poll::Ready(end(application).map_err(PumpError::Application));
        }
        if self.peer_failed {
            return self.poll_record(application, peer, cx);
        }
        let Ok(mut pipe) = Pipe::take_or_borrow() else {
            // Out of descriptors: the connection need not suffer from it.
            return self.poll_record(application, peer, cx);
        };
        match ready!(poll_io(peer, Interest::READABLE, cx, || pipe.fill(peer))) {
            Ok(length) => Poll::Ready(self.came(pipe, length, application, peer)),
            // A control record is next, or something that is none: receiving it tells.
            Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {
                self.poll_record(application, peer, cx)
            }
            Err(error) => Poll::Ready(Err(reading(error))),
        }
    }

    /// The content of a record is in the pipe; no byte of an empty one, or at EOF.
    fn came(
        &mut self,
        mut pipe: Pipe,
        length: usize,
        application: &TcpStream,
        peer: &TcpStream,
    ) -> Result<(), PumpError> {
        if length == 0 {
            // EOF comes again and again.
            let fin = TlsSocket::new(peer).peer_has_ended().map_err(PumpError::Peer)?;
            return match self.channel.received_nothing() {
                Err(_) if fin => Err(PumpError::Truncated),
                counted => Ok(counted?),
            };
        }
        self.channel.application_data_may_come()?;
        self.channel.received();
        self.observed.add_received(count(length));
        // Most of the time there is room, and nothing has to be kept.
        match application.try_io(Interest::WRITABLE, || pipe.drain(application)) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => Err(PumpError::Application(error)),
            _ => self.to_application.keep(pipe).map_err(PumpError::Peer),
        }
    }

    /// Receives what cannot be spliced: a control record, and what came before an error.
    fn poll_record(&mut self, application: &TcpStream, peer: &TcpStream, cx: &mut Context<'_>) -> Step {
        let Self { channel, to_application: way, observed, peer_failed, .. } = self;
        let failed = *peer_failed;
        let socket = TlsSocket::new(peer);
        with_scratch(RECORD_ROOM, |room| {
            let room = room.get_mut(..RECORD_ROOM).unwrap_or_default();
            let received = if failed {
                // What came before the error is still there; nothing more will come.
                match socket.receive(room) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(error_of(peer)),
                    received => received,
                }
            } else {
                ready!(poll_io(peer, Interest::READABLE, cx, || socket.receive(room)))
            };
            let received = received.map_err(reading)?;
            let (kind, record) = match received {
                Received::Eof => return Poll::Ready(Err(PumpError::Truncated)),
                Received::Record(kind, length) => (kind, room.get(..length).unwrap_or_default()),
            };
            if kind != ContentType::ApplicationData {
                way.ended = channel.control(socket, kind, record)?;
                if way.ended {
                    *peer_failed = false;
                    forgive(peer)?;
                }
                return Poll::Ready(Ok(()));
            }
            channel.application_data_may_come()?;
            channel.received();
            observed.add_received(count(record.len()));
            let written = taken(application.try_write(record)).map_err(PumpError::Application)?;
            let rest = record.get(written..).unwrap_or_default();
            if !rest.is_empty() {
                way.held.tail().extend_from_slice(rest);
            }
            Poll::Ready(Ok(()))
        })
    }
}

fn reading(error: io::Error) -> PumpError {
    match ChannelError::of_reading(&error) {
        Some(protocol) => PumpError::Channel(protocol),
        None => PumpError::Peer(error),
    }
}
