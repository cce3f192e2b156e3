//! Moving bytes between the application and a peer whose records are the kernel's.
//!
//! Small messages are received and sent, large ones spliced through a pipe without being copied; each direction
//! goes by what it moved last. One task per connection and no lock; a direction reads only when what it read
//! before has gone on.

use std::future::poll_fn;
use std::io::{self, Read};
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::errno::Errno;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::channel::{Channel, ChannelError};
use super::pipe::Pipe;
use super::socket::{ContentType, Received, TlsSocket};
use crate::datapath::PumpError;
use crate::datapath::buffer::{Buffer, READ_SIZE, with_scratch};
use crate::datapath::ends::{close_politely, count, end, error_of, reset_unless_ended, write};
use crate::observe::observer::Observed;

/// A direction whose last read brought at least this many bytes is spliced.
const BULK_FROM_APPLICATION: usize = 32 * 1024;
const BULK_FROM_PEER: usize = 8 * 1024;
/// Room for one record's content, twice over.
const RECORD_ROOM: usize = 32 * 1024;
/// How long the kernel is given before it is asked again whether all records are TCP's; doubled up to the last.
const FIRST_WAIT: Duration = Duration::from_millis(1);
const LONGEST_WAIT: Duration = Duration::from_millis(64);
/// For the alert to reach the peer before the socket closes.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// A connection with both ends open.
pub struct KernelPump<'a> {
    application: TcpStream,
    peer: TcpStream,
    flow: Flow<'a>,
}

struct Flow<'a> {
    channel: Channel,
    observed: &'a Observed,
    to_peer: Way,
    to_application: Way,
    closing: Closing,
    told_application: bool,
    told_peer: bool,
    /// The peer's socket reported an error, which may be alone: it need not become readable.
    peer_failed: bool,
}

/// One direction: what was read and has not gone on.
#[derive(Default)]
struct Way {
    held: Buffer,
    pipe: Option<Pipe>,
    bulk: bool,
    ended: bool,
}

/// How far the end of our direction to the peer has come.
enum Closing {
    Open,
    /// close_notify is the kernel's; what it holds is not all TCP's yet.
    Draining {
        asked_again: Pin<Box<Sleep>>,
        wait: Duration,
    },
}

impl<'a> KernelPump<'a> {
    /// `plaintext`: what the peer said that was decrypted, and counted, before the kernel took over.
    pub fn new(
        application: TcpStream,
        peer: TcpStream,
        channel: Channel,
        observed: &'a Observed,
        plaintext: Buffer,
    ) -> Self {
        for socket in [&application, &peer] {
            reset_unless_ended(socket);
        }
        let to_application = Way { held: plaintext, ..Way::default() };
        let flow = Flow {
            channel,
            observed,
            to_peer: Way::default(),
            to_application,
            closing: Closing::Open,
            told_application: false,
            told_peer: false,
            peer_failed: false,
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
        move_bytes(&self.application, &self.peer, &mut self.flow).await
    }

    /// Closes both sockets: with FIN after a good end, with RST otherwise; after a TLS error the peer gets its
    /// alert first.
    pub fn end(self, result: &Result<(), PumpError>) {
        let Self { application, peer, .. } = self;
        match result {
            Ok(()) => close_politely(&[&application, &peer]),
            Err(PumpError::Channel(error)) => {
                if let Some(alert) = error.alert() {
                    // The kernel remembers a bad record as the socket's error; the alert is to go out all the same.
                    let _ = peer.take_error();
                    Channel::alert(TlsSocket::new(&peer), alert);
                    tokio::spawn(say_and_close(peer));
                }
            }
            Err(_) => {}
        }
    }
}

/// FIN rather than RST, which would overtake the alert; bounded in time.
async fn say_and_close(peer: TcpStream) {
    close_politely(&[&peer]);
    let _ = end(&peer);
    let _ = tokio::time::timeout(LAST_WORDS, peer.ready(Interest::ERROR)).await;
}

async fn move_bytes(application: &TcpStream, peer: &TcpStream, flow: &mut Flow<'_>) -> Result<(), PumpError> {
    // An end that has ended its direction is not read any more, so that its RST must be looked for.
    let mut application_failed = pin!(application.ready(Interest::ERROR));
    let mut peer_failed = pin!(peer.ready(Interest::ERROR));
    poll_fn(|cx| {
        if let Poll::Ready(result) = flow.poll(application, peer, cx) {
            return Poll::Ready(result);
        }
        if flow.to_peer.ended && application_failed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(PumpError::Application(error_of(application))));
        }
        if !flow.peer_failed && peer_failed.as_mut().poll(cx).is_ready() {
            flow.peer_failed = true;
            if flow.to_application.ended {
                return Poll::Ready(Err(PumpError::Peer(error_of(peer))));
            }
            return flow.poll(application, peer, cx);
        }
        Poll::Pending
    })
    .await
}

type Step = Poll<Result<(), PumpError>>;

impl Flow<'_> {
    fn poll(&mut self, application: &TcpStream, peer: &TcpStream, cx: &mut Context<'_>) -> Step {
        loop {
            let outbound = self.poll_outbound(application, peer, cx)?;
            let inbound = self.poll_inbound(application, peer, cx)?;
            if self.told_application && self.told_peer {
                return Poll::Ready(Ok(()));
            }
            if outbound.is_pending() && inbound.is_pending() {
                return Poll::Pending;
            }
        }
    }

    /// One step from the application to the peer; pending when nothing can be done now.
    fn poll_outbound(&mut self, application: &TcpStream, peer: &TcpStream, cx: &mut Context<'_>) -> Step {
        if self.told_peer {
            return Poll::Pending;
        }
        if self.channel.owes_answer() || self.to_peer.is_waiting() || self.to_peer.ended {
            return self.poll_to_peer(peer, cx);
        }
        if self.to_peer.bulk
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
        self.to_peer.bulk = length >= BULK_FROM_APPLICATION;
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
            if self.channel.is_drained(TlsSocket::new(peer)).map_err(PumpError::Peer)? {
                self.told_peer = true;
                return Poll::Ready(end(peer).map_err(PumpError::Peer));
            }
            *wait = (*wait * 2).min(LONGEST_WAIT);
            *asked_again = Box::pin(tokio::time::sleep(*wait));
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
                if channel.is_drained(socket)? {
                    *told_peer = true;
                    end(peer)?;
                } else {
                    let asked_again = Box::pin(tokio::time::sleep(FIRST_WAIT));
                    *closing = Closing::Draining { asked_again, wait: FIRST_WAIT };
                }
            }
            Ok(Ok(()))
        }));
        Poll::Ready(sent.map_err(PumpError::Peer)?.map_err(PumpError::Channel))
    }

    /// One step from the peer to the application; pending when nothing can be done now.
    fn poll_inbound(&mut self, application: &TcpStream, peer: &TcpStream, cx: &mut Context<'_>) -> Step {
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
        if way.bulk
            && !self.peer_failed
            && let Some(mut pipe) = Pipe::take()
        {
            match ready!(poll_io(peer, Interest::READABLE, cx, || pipe.fill(peer))) {
                // EOF or an empty record: receiving tells.
                Ok(0) => {}
                Ok(length) => {
                    way.bulk = length >= BULK_FROM_PEER;
                    way.pipe = Some(pipe);
                    self.channel.received();
                    self.observed.add_received(count(length));
                    return Poll::Ready(Ok(()));
                }
                // A control record is next, or something that is none: receiving it tells.
                Err(error) if error.raw_os_error() == Some(Errno::EINVAL as i32) => {}
                Err(error) => return Poll::Ready(Err(reading(error))),
            }
        }
        self.poll_record(application, peer, cx)
    }

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
                return Poll::Ready(Ok(()));
            }
            channel.application_data_may_come()?;
            channel.received();
            observed.add_received(count(record.len()));
            way.bulk = record.len() >= BULK_FROM_PEER;
            // Most of the time there is room, and nothing has to be kept.
            let written = match application.try_write(record) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) => return Poll::Ready(Err(PumpError::Application(error))),
            };
            let rest = record.get(written..).unwrap_or_default();
            if !rest.is_empty() {
                way.held.tail().extend_from_slice(rest);
            }
            Poll::Ready(Ok(()))
        })
    }
}

impl Way {
    fn is_waiting(&self) -> bool {
        self.pipe.is_some() || !self.held.is_empty()
    }
}

fn reading(error: io::Error) -> PumpError {
    match ChannelError::of_reading(&error) {
        Some(protocol) => PumpError::Channel(protocol),
        None => PumpError::Peer(error),
    }
}

/// Reads from a plain socket. One that did not fill the room is empty: it is not asked again before the kernel
/// reports more, which saves a system call per message. (kTLS may hold a control record back, so it is asked.)
fn poll_read(socket: &TcpStream, room: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_read_ready(cx))?;
        let mut last = None;
        let read = socket.try_io(Interest::READABLE, || {
            let length = (&*SockRef::from(socket)).read(room)?;
            if length == 0 || length == room.len() {
                return Ok(length);
            }
            last = Some(length);
            Err(io::ErrorKind::WouldBlock.into())
        });
        match (last, read) {
            (Some(length), _) => return Poll::Ready(Ok(length)),
            (None, Err(error)) if error.kind() == io::ErrorKind::WouldBlock => {}
            (None, Err(error)) if error.kind() == io::ErrorKind::Interrupted => {}
            (None, result) => return Poll::Ready(result),
        }
    }
}

/// Tries `call` whenever the socket may be ready for it, until it does not say `EAGAIN`.
fn poll_io<T>(
    socket: &TcpStream,
    interest: Interest,
    cx: &mut Context<'_>,
    mut call: impl FnMut() -> io::Result<T>,
) -> Poll<io::Result<T>> {
    loop {
        if interest.is_readable() {
            ready!(socket.poll_read_ready(cx))?;
        } else {
            ready!(socket.poll_write_ready(cx))?;
        }
        match socket.try_io(interest, &mut call) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            result => return Poll::Ready(result),
        }
    }
}
