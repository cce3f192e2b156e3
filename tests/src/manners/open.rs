//! How a connection comes to be, in the manner in which it is used.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;

use nix::errno::Errno;
use socket2::{Domain, Socket, Type};

use super::Manner;
use super::event::Waiter;

fn by_events(manner: Manner) -> bool {
    use Manner::{EpollEdge, EpollLevel, NonBlocking, Poll, Select};
    matches!(manner, NonBlocking | EpollEdge | EpollLevel | Poll | Select)
}

pub(super) fn listen(manner: Manner, at: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(at)?;
    listener.set_nonblocking(by_events(manner))?;
    Ok(listener)
}

pub(super) fn accept(manner: Manner, listener: &TcpListener) -> io::Result<TcpStream> {
    let mut waiter = Waiter::new(manner, listener.as_fd())?;
    loop {
        if by_events(manner) {
            waiter.wait(true, false)?;
        }
        match listener.accept() {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
            Ok((stream, _)) => return adopt(manner, stream),
        }
    }
}

pub(super) fn connect(manner: Manner, to: SocketAddr) -> io::Result<TcpStream> {
    if !by_events(manner) {
        return adopt(manner, TcpStream::connect(to)?);
    }
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() == Some(Errno::EINPROGRESS as i32) => {}
        other => other?,
    }
    let mut waiter = Waiter::new(manner, socket.as_fd())?;
    // A loop, because who only spins learns of it by the peer's address.
    loop {
        waiter.wait(false, true)?;
        if let Some(error) = socket.take_error()? {
            return Err(error);
        }
        match socket.peer_addr() {
            Err(error) if error.kind() == ErrorKind::NotConnected => {}
            Err(error) => return Err(error),
            Ok(_) => break,
        }
    }
    drop(waiter);
    Ok(socket.into())
}

fn adopt(manner: Manner, stream: TcpStream) -> io::Result<TcpStream> {
    // The first number is free again before anything was done with it.
    if manner == Manner::Dup { stream.try_clone() } else { Ok(stream) }
}
