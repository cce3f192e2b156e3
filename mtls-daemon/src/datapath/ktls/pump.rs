//! Moving bytes between the application and a peer whose records are the kernel's.
//!
//! One task per connection and no lock; a direction reads only when what it read before has gone on.

mod inbound;
mod outbound;

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::channel::Channel;
use super::pipe::Pipe;
use super::socket::TlsSocket;
use crate::datapath::PumpError;
use crate::datapath::buffer::Buffer;
use crate::datapath::ends::{close_politely, end, error_of, reset_unless_ended};
use crate::datapath::tls::ChannelError;
use crate::observe::observer::Observed;

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
    /// The application's last read was a large one.
    bulk: bool,
    closing: Closing,
    told_application: bool,
    told_peer: bool,
    /// The peer's socket reported an error, which may be alone: it need not become readable. Cleared by
    /// close_notify.
    peer_failed: bool,
}

/// One direction: what was read and has not gone on.
#[derive(Default)]
struct Way {
    held: Buffer,
    pipe: Option<Pipe>,
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
            bulk: false,
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
        // First, because what is written while an error waits gets that error.
        while let Poll::Ready(reported) = peer_failed.as_mut().poll(cx) {
            reported.map_err(PumpError::Peer)?;
            peer_failed.set(peer.ready(Interest::ERROR));
            clear_error(peer);
            if flow.to_application.ended {
                forgive(peer)?;
            } else {
                flow.peer_failed = true;
            }
        }
        if let Poll::Ready(result) = flow.poll(application, peer, cx) {
            return Poll::Ready(result);
        }
        if flow.to_peer.ended && application_failed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(PumpError::Application(error_of(application))));
        }
        Poll::Pending
    })
    .await
}

/// Forgets that the socket reported an error, so that the next one is seen.
fn clear_error(socket: &TcpStream) {
    let _ = socket.try_io(Interest::ERROR, || Err::<(), _>(io::ErrorKind::WouldBlock.into()));
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
}

/// The peer has said its last word. The kernel goes on reading and makes what is no record the socket's error; nobody
/// is to hear of that (RFC 8446, section 6.1). Any other error is the socket's.
fn forgive(peer: &TcpStream) -> Result<(), PumpError> {
    match peer.take_error().map_err(PumpError::Peer)? {
        Some(error) if ChannelError::of_reading(&error).is_none() => Err(PumpError::Peer(error)),
        _ => Ok(()),
    }
}

impl Way {
    fn is_waiting(&self) -> bool {
        self.pipe.is_some() || !self.held.is_empty()
    }

    /// Keeps what is left in a pipe, and the pipe itself if it may be kept.
    fn keep(&mut self, mut pipe: Pipe) -> io::Result<()> {
        if pipe.is_borrowed() {
            pipe.empty_into(self.held.tail())?;
        } else if !pipe.is_empty() {
            self.pipe = Some(pipe);
        }
        Ok(())
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
