//! What both pumps do with the two sockets of a connection.

use std::io::{self, IoSliceMut, Read as _};
use std::net::Shutdown;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{Interest, Ready};
use tokio::net::TcpStream;

use super::PumpError;
use super::buffer::Buffer;
use crate::observe::observer::Observed;

/// Whatever ends this process or task, nobody must take it for a clean end: until both directions have ended,
/// closing means RST.
pub fn reset_unless_ended(socket: &TcpStream) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
    let _ = socket.set_nodelay(true);
}

/// From now on closing means FIN again.
pub fn close_politely(sockets: &[&TcpStream]) {
    for socket in sockets {
        let _ = SockRef::from(*socket).set_linger(None);
    }
}

/// What a socket that reports an error has to say.
pub fn error_of(socket: &TcpStream) -> io::Error {
    socket.take_error().ok().flatten().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into())
}

/// Looks for the errors of sockets whose direction has ended, and which are therefore not read any more.
#[derive(Default)]
pub struct Failures<'s> {
    application: Reported<'s>,
    peer: Reported<'s>,
}

/// Boxed, and only once it is asked for: most connections wait with both directions open.
type Reported<'s> = Option<Pin<Box<dyn Future<Output = io::Result<Ready>> + Send + 's>>>;

impl<'s> Failures<'s> {
    /// Ready with the error of an end that is given as soon as it has one.
    pub fn poll(
        &mut self,
        application: Option<&'s TcpStream>,
        peer: Option<&'s TcpStream>,
        cx: &mut Context<'_>,
    ) -> Poll<PumpError> {
        if let Poll::Ready(error) = poll_error(&mut self.application, application, cx) {
            return Poll::Ready(PumpError::Application(error));
        }
        poll_error(&mut self.peer, peer, cx).map(PumpError::Peer)
    }
}

fn poll_error<'s>(
    reported: &mut Reported<'s>,
    socket: Option<&'s TcpStream>,
    cx: &mut Context<'_>,
) -> Poll<io::Error> {
    let Some(socket) = socket else { return Poll::Pending };
    let reported = reported.get_or_insert_with(|| Box::pin(socket.ready(Interest::ERROR)));
    reported.as_mut().poll(cx).map(|_| error_of(socket))
}

/// Writes some of what waits in `buffer`.
///
/// # Errors
/// The socket's.
pub fn write(socket: &TcpStream, buffer: &mut Buffer, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    loop {
        ready!(socket.poll_write_ready(cx))?;
        match socket.try_write(buffer.waiting()) {
            Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Ok(written) => {
                buffer.consume(written);
                return Poll::Ready(Ok(()));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
        }
    }
}

/// How many bytes a write took that was tried at once: none where there is no room now.
///
/// # Errors
/// The socket's.
pub fn taken(written: io::Result<usize>) -> io::Result<usize> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
        written => written,
    }
}

/// Reads from a plain socket. One that did not fill the room is empty: it is not asked again before the kernel
/// reports more, which saves a system call per message.
pub fn poll_read(socket: &TcpStream, room: &mut [u8], cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
    let full = room.len();
    poll_call(socket, full, cx, || (&*SockRef::from(socket)).read(room))
}

/// As [`poll_read`], into several rooms, which have `full` bytes together.
pub fn poll_read_vectored(
    socket: &TcpStream,
    rooms: &mut [IoSliceMut<'_>],
    full: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    poll_call(socket, full, cx, || (&*SockRef::from(socket)).read_vectored(rooms))
}

fn poll_call(
    socket: &TcpStream,
    full: usize,
    cx: &mut Context<'_>,
    mut call: impl FnMut() -> io::Result<usize>,
) -> Poll<io::Result<usize>> {
    loop {
        ready!(socket.poll_read_ready(cx))?;
        let mut last = None;
        let read = socket.try_io(Interest::READABLE, || {
            let length = call()?;
            if length == 0 || length == full {
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

/// Sends FIN. A socket that is no longer connected needs none.
///
/// # Errors
/// The socket's.
pub fn end(socket: &TcpStream) -> io::Result<()> {
    match SockRef::from(socket).shutdown(Shutdown::Write) {
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error),
        _ => Ok(()),
    }
}

/// Ends when no byte was moved for `limit`. Wakes once per `limit`, not per byte.
pub async fn idle_for(limit: Duration, observed: &Observed) {
    let mut before = observed.connection().bytes();
    loop {
        tokio::time::sleep(limit).await;
        let now = observed.connection().bytes();
        if now == before {
            return;
        }
        before = now;
    }
}

/// A length as the counters have it.
#[must_use]
pub fn count(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
