//! rustls' buffered connection on a socket: few and small messages need no more.

use std::io::{self, Read, Write};
use std::time::Duration;

use rustls::Connection;
use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

use crate::datapath::relay::session::SessionError;

/// After so much silence the kernel asks whether the peer is there.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// And again after so long.
const KEEPALIVE_AGAIN: Duration = Duration::from_secs(5);
/// So long may data, or a question, be without an answer (TCP_USER_TIMEOUT), also when the peer's window is closed.
const DEAD_AFTER: Duration = Duration::from_secs(30);

/// A peer that is dead, or stopped reading, ends the session.
pub(super) fn watch_peer(tcp: &TcpStream) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    let socket = SockRef::from(tcp);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE_AGAIN).with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(DEAD_AFTER))
}

/// A socket as `std::io` sees it: what would wait is an error.
struct Now<'s>(&'s TcpStream);

impl Read for Now<'_> {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(room)
    }
}

impl Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What a look at the socket found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    /// Bytes, which rustls has worked through.
    Bytes,
    /// Nothing new.
    Nothing,
    /// EOF.
    End,
}

pub(super) fn hear(tcp: &TcpStream, tls: &mut Connection) -> Result<Heard, SessionError> {
    match tls.read_tls(&mut Now(tcp)) {
        Ok(0) => Ok(Heard::End),
        Ok(_) => {
            tls.process_new_packets()?;
            Ok(Heard::Bytes)
        }
        Err(error) if waits(&error) => Ok(Heard::Nothing),
        Err(error) => Err(error.into()),
    }
}

/// Reads for somebody who is no connection yet.
pub(super) fn hear_first(
    tcp: &TcpStream,
    acceptor: &mut rustls::server::Acceptor,
) -> Result<Heard, SessionError> {
    match acceptor.read_tls(&mut Now(tcp)) {
        Ok(0) => Ok(Heard::End),
        Ok(_) => Ok(Heard::Bytes),
        Err(error) if waits(&error) => Ok(Heard::Nothing),
        Err(error) => Err(error.into()),
    }
}

/// Sends as much of what rustls has ready as the socket takes now.
pub(super) fn say(tcp: &TcpStream, tls: &mut Connection) -> io::Result<()> {
    while tls.wants_write() {
        match tls.write_tls(&mut Now(tcp)) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(_) => {}
            Err(error) if waits(&error) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn waits(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// How the peer's direction stands once its plaintext was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Direction {
    /// More may come.
    Open,
    /// It said close_notify.
    Closed,
    /// EOF without close_notify (RFC 8446, section 6.1).
    Cut,
}

/// Appends what was decrypted.
pub(super) fn take_plaintext(tls: &mut Connection, into: &mut Vec<u8>) -> io::Result<Direction> {
    let mut chunk = [0; 1024];
    loop {
        match tls.reader().read(&mut chunk) {
            Ok(0) => return Ok(Direction::Closed),
            Ok(count) => into.extend_from_slice(chunk.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Direction::Open),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Direction::Cut),
            Err(error) => return Err(error),
        }
    }
}

/// Shakes hands; an alert that tells why not is sent.
pub(super) async fn shake_hands(tcp: &TcpStream, tls: &mut Connection) -> Result<(), SessionError> {
    loop {
        flush(tcp, tls).await?;
        if !tls.is_handshaking() {
            return Ok(());
        }
        listen(tcp, tls).await?;
    }
}

/// Waits for something from the peer.
pub(super) async fn listen(tcp: &TcpStream, tls: &mut Connection) -> Result<(), SessionError> {
    tcp.readable().await?;
    match hear(tcp, tls) {
        Ok(Heard::End) => Err(SessionError::Closed),
        Ok(Heard::Bytes | Heard::Nothing) => Ok(()),
        Err(error) => {
            let _ = flush(tcp, tls).await;
            Err(error)
        }
    }
}

/// Sends all that rustls has ready.
pub(super) async fn flush(tcp: &TcpStream, tls: &mut Connection) -> io::Result<()> {
    while tls.wants_write() {
        tcp.writable().await?;
        say(tcp, tls)?;
    }
    Ok(())
}
