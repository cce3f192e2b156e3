//! Two connected sockets on loopback, and a pipe. Nothing here waits longer than [`PATIENCE`] without
//! anything moving.

use std::cell::Cell;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{OFlag, SpliceFFlags, splice};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, send};
use nix::unistd::{pipe2, read};
use rustls::crypto::SecureRandom;
use socket2::SockRef;

use super::answer::Failure;
use crate::datapath::ktls::keys::{RecordKeys, Suite};
use crate::datapath::ktls::socket::{Received, TlsSocket, enable};
use crate::datapath::tls::ContentType;
use crate::sys::ktls as sys;

/// How long nothing may move. Far more than the kernel needs, also on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// Largest content of a record (RFC 8446, section 5.1).
pub const RECORD: usize = 16_384;

/// A connection with both of its ends.
pub struct Pair {
    /// The end that connected.
    pub near: TcpStream,
    /// The end that accepted.
    pub far: TcpStream,
    patience: Patience,
}

/// When to give up.
struct Patience {
    deadline: Cell<Instant>,
    /// The time was over once already. It is looked once more then: perhaps it was we who did not run.
    over: Cell<bool>,
}

impl Patience {
    fn new() -> Self {
        Self { deadline: Cell::new(Instant::now() + PATIENCE), over: Cell::new(false) }
    }

    /// Something moved, or may have taken long for a good reason, such as loading a cipher's module.
    fn renew(&self) {
        self.deadline.set(Instant::now() + PATIENCE);
        self.over.set(false);
    }

    /// False when nothing has happened for too long.
    fn wait(&self, events: &[(BorrowedFd<'_>, PollFlags)]) -> io::Result<bool> {
        loop {
            let left = self.deadline.get().saturating_duration_since(Instant::now());
            if left.is_zero() && self.over.replace(true) {
                return Ok(false);
            }
            let mut events: Vec<_> = events.iter().map(|(fd, flags)| PollFd::new(*fd, *flags)).collect();
            let left = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
            match poll(&mut events, left) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) => return Ok(true),
                Err(errno) => return Err(errno.into()),
            }
        }
    }
}

impl Pair {
    /// A fresh connection.
    pub fn connect() -> Result<Self, Arc<io::Error>> {
        Self::connect_by(None)
    }

    /// One whose segments are at most `mss` bytes.
    fn connect_by(mss: Option<u32>) -> Result<Self, Arc<io::Error>> {
        let v6 = || Self::connect_on(Ipv6Addr::LOCALHOST.into(), mss);
        Self::connect_on(Ipv4Addr::LOCALHOST.into(), mss).or_else(|error| v6().map_err(|_| Arc::new(error)))
    }

    fn connect_on(address: IpAddr, mss: Option<u32>) -> io::Result<Self> {
        let patience = Patience::new();
        let listener = TcpListener::bind(SocketAddr::new(address, 0))?;
        if let Some(mss) = mss {
            SockRef::from(&listener).set_tcp_mss(mss)?;
        }
        let near = TcpStream::connect_timeout(&listener.local_addr()?, PATIENCE)?;
        let own = near.local_addr()?;
        listener.set_nonblocking(true)?;
        while patience.wait(&[(listener.as_fd(), PollFlags::POLLIN)])? {
            // Anybody on this machine may have connected meanwhile.
            match listener.accept() {
                Ok((far, peer)) if peer == own => {
                    near.set_nonblocking(true)?;
                    far.set_nonblocking(true)?;
                    return Ok(Self { near, far, patience });
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// With the kernel's TLS on both ends, and a key for each direction.
    pub fn with_keys(suite: Suite, random: &dyn SecureRandom) -> Result<Self, Failure> {
        Self::with_keys_and_segments(suite, random, None)
    }

    /// The same, whose segments are at most `mss` bytes.
    pub fn with_keys_and_segments(
        suite: Suite,
        random: &dyn SecureRandom,
        mss: Option<u32>,
    ) -> Result<Self, Failure> {
        let pair = Self::connect_by(mss)
            .map_err(|error| Failure::Wrong(format!("there is no loopback connection: {error}")))?;
        pair.enable().map_err(Failure::call("setsockopt(TCP_ULP)"))?;
        for (from, to) in [(&pair.near, &pair.far), (&pair.far, &pair.near)] {
            let keys = fresh(suite, random)?;
            TlsSocket::new(from).install_tx(&keys).map_err(Failure::call("setsockopt(TLS_TX)"))?;
            TlsSocket::new(to).install_rx(&keys).map_err(Failure::call("setsockopt(TLS_RX)"))?;
        }
        pair.patience.renew();
        Ok(pair)
    }

    /// Puts the kernel's TLS on both ends.
    pub fn enable(&self) -> Result<(), Errno> {
        enable(&self.near)?;
        enable(&self.far)
    }

    /// Sends and receives at the same time, and compares.
    pub fn transfer(&self, from: &TcpStream, to: &TcpStream, bytes: &[u8]) -> Result<(), Failure> {
        let mut sent = 0;
        let mut received = Vec::new();
        let mut room = vec![0; RECORD];
        while received.len() < bytes.len() {
            let mut moved = false;
            if let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty())
                && let Some(more) = self.send(from, rest)?
            {
                sent += more;
                moved = true;
            }
            match sys::receive(to, &mut room) {
                Ok((Some(23), length)) => {
                    received.extend_from_slice(room.get(..length).unwrap_or_default());
                    moved = true;
                }
                Ok((kind, length)) => {
                    return Err(Failure::Wrong(format!(
                        "data came as {length} bytes of record type {kind:?} instead of 23"
                    )));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(Failure::io("recvmsg()")(error)),
            }
            if moved {
                self.patience.renew();
            } else {
                let sending = if sent < bytes.len() { PollFlags::POLLOUT } else { PollFlags::empty() };
                self.wait("data", &[(from.as_fd(), sending), (to.as_fd(), PollFlags::POLLIN)])?;
            }
        }
        if received == bytes { Ok(()) } else { Err(Failure::Wrong("data came altered".to_owned())) }
    }

    /// Sends what there is room for; `None` when there is none.
    pub fn send(&self, from: &TcpStream, bytes: &[u8]) -> Result<Option<usize>, Failure> {
        match send(from.as_raw_fd(), bytes, MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL) {
            Ok(length) => Ok(Some(length)),
            Err(Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(Failure::Call("send()", errno)),
        }
    }

    /// Sends everything, without anybody who reads: for less than a socket buffer.
    pub fn send_all(&self, from: &TcpStream, mut bytes: &[u8]) -> Result<(), Failure> {
        while !bytes.is_empty() {
            match self.send(from, bytes)? {
                Some(length) => bytes = bytes.get(length..).unwrap_or_default(),
                None => self.wait_to_write(from)?,
            }
        }
        Ok(())
    }

    /// Sends a record that is not data.
    pub fn send_control(&self, from: &TcpStream, kind: ContentType, bytes: &[u8]) -> Result<(), Failure> {
        loop {
            match TlsSocket::new(from).send(kind, bytes) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_to_write(from)?,
                Err(error) => return Err(Failure::io("sendmsg() with a record type")(error)),
            }
        }
    }

    /// Receives a record that is not data, and compares.
    pub fn expect_control(&self, to: &TcpStream, kind: ContentType, bytes: &[u8]) -> Result<(), Failure> {
        let mut room = [0; 64];
        match self.receive(to, &mut room)? {
            Received::Record(came, length) if came == kind && room.get(..length) == Some(bytes) => Ok(()),
            other => Err(Failure::Wrong(format!("{other:?} came instead of {kind:?} with {bytes:?}"))),
        }
    }

    /// TCP must end here.
    pub fn expect_eof(&self, to: &TcpStream) -> Result<(), Failure> {
        match self.receive(to, &mut [0; 64])? {
            Received::Eof => Ok(()),
            other => Err(Failure::Wrong(format!("{other:?} came after the end"))),
        }
    }

    fn receive(&self, to: &TcpStream, room: &mut [u8]) -> Result<Received, Failure> {
        loop {
            match TlsSocket::new(to).receive(room) {
                Ok(received) => return Ok(received),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait_to_read(to)?,
                Err(error) => return Err(Failure::io("recvmsg()")(error)),
            }
        }
    }

    /// Waits until there is something to read.
    pub fn wait_to_read(&self, to: &TcpStream) -> Result<(), Failure> {
        self.wait("something to read", &[(to.as_fd(), PollFlags::POLLIN)])
    }

    /// Waits until there is room to send.
    pub fn wait_to_write(&self, from: &TcpStream) -> Result<(), Failure> {
        self.wait("room to send", &[(from.as_fd(), PollFlags::POLLOUT)])
    }

    fn wait(&self, what: &'static str, events: &[(BorrowedFd<'_>, PollFlags)]) -> Result<(), Failure> {
        match self.patience.wait(events) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::NoAnswer(what)),
            Err(error) => Err(Failure::io("poll()")(error)),
        }
    }
}

/// New keys of a suite.
pub fn fresh(suite: Suite, random: &dyn SecureRandom) -> Result<RecordKeys, Failure> {
    RecordKeys::random(suite, random).map_err(|_| Failure::Wrong("there is no randomness".to_owned()))
}

/// What a splice came to.
pub enum Spliced {
    /// So many bytes went into the pipe.
    Bytes(usize),
    /// Nothing to read, or no room in the pipe.
    WouldBlock,
    /// What comes next is not data (EINVAL).
    Control,
}

/// A pipe with its two ends, of the usual size.
pub struct Pipe {
    out: OwnedFd,
    into: OwnedFd,
}

impl Pipe {
    /// An empty one.
    pub fn new() -> Result<Self, Failure> {
        let (out, into) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK).map_err(Failure::call("pipe2()"))?;
        Ok(Self { out, into })
    }

    /// From a socket into the pipe.
    pub fn fill(&self, from: &TcpStream) -> Result<Spliced, Failure> {
        let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
        match splice(from, None, &self.into, None, RECORD * 4, flags) {
            Ok(0) => Err(Failure::Wrong("splice() met the end of the stream in the middle".to_owned())),
            Ok(length) => Ok(Spliced::Bytes(length)),
            Err(Errno::EAGAIN) => Ok(Spliced::WouldBlock),
            Err(Errno::EINVAL) => Ok(Spliced::Control),
            Err(errno) => Err(Failure::Call("splice() out of the socket", errno)),
        }
    }

    /// From the pipe into a socket; `None` when it has no room.
    pub fn drain_into(&self, to: &TcpStream, length: usize) -> Result<Option<usize>, Failure> {
        let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
        match splice(&self.out, None, to, None, length, flags) {
            Ok(length) => Ok(Some(length)),
            Err(Errno::EAGAIN) => Ok(None),
            Err(errno) => Err(Failure::Call("splice() into the socket", errno)),
        }
    }

    /// Puts in what there is room for; at least one byte, since it is empty.
    pub fn write(&self, bytes: &[u8]) -> Result<usize, Failure> {
        nix::unistd::write(&self.into, bytes).map_err(Failure::call("write() into a pipe"))
    }

    /// Takes everything that is in it.
    pub fn empty(&self, bytes: &mut Vec<u8>) -> Result<(), Failure> {
        while self.take(RECORD, bytes)? > 0 {}
        Ok(())
    }

    /// Takes at most so many bytes; 0 when it is empty.
    pub fn take(&self, most: usize, bytes: &mut Vec<u8>) -> Result<usize, Failure> {
        let mut room = vec![0; most];
        match read(&self.out, &mut room) {
            Ok(length) => {
                bytes.extend_from_slice(room.get(..length).unwrap_or_default());
                Ok(length)
            }
            Err(Errno::EAGAIN) => Ok(0),
            Err(errno) => Err(Failure::Call("read() from a pipe", errno)),
        }
    }
}
