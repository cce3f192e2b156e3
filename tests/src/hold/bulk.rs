//! Many bytes over a socket, by a blocking program, one that polls, and ones that wait in epoll for levels or edges.

use std::fs::File;
use std::io::{self, Read, Write};

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::sendfile::sendfile;

use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, epoll, poll};
use socket2::Socket;

use crate::bytes::{Bytes, Random};
use crate::flow::bad;

/// How a program waits.
#[derive(Debug)]
pub enum Waiting {
    /// Inside send() and recv().
    Block,
    /// In poll().
    Poll,
    /// In epoll_wait(), for levels.
    Level(std::os::fd::OwnedFd),
    /// In epoll_wait(), for edges.
    Edge(std::os::fd::OwnedFd),
}

impl Waiting {
    /// `block`, `poll`, `level` or `edge`; sets O_NONBLOCK where it is needed.
    pub fn named(name: &str, socket: &Socket) -> io::Result<Self> {
        socket.set_nonblocking(name != "block")?;
        match name {
            "block" => Ok(Self::Block),
            "poll" => Ok(Self::Poll),
            "level" | "edge" => {
                let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
                let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
                epoll::add(&epoll, socket, epoll::EventData::new_u64(0), flags)?;
                Ok(if name == "edge" { Self::Edge(epoll) } else { Self::Level(epoll) })
            }
            _ => Err(bad(format!("no way to wait: {name}"))),
        }
    }

    /// Repeats `call` until it does not say EAGAIN. EINTR is an error: no signal was sent.
    fn until(
        &self,
        socket: &Socket,
        flags: PollFlags,
        mut call: impl FnMut() -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            match call() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                other => return other,
            }
            match self {
                Self::Block => return Err(bad("EAGAIN from a blocking socket")),
                Self::Poll => {
                    poll(&mut [PollFd::new(socket, flags)], None)?;
                }
                Self::Level(epoll) => {
                    let flags = epoll::EventFlags::from_bits_retain(u32::from(flags.bits()));
                    epoll::modify(epoll, socket, epoll::EventData::new_u64(0), flags)?;
                    epoll::wait(epoll, spare_capacity(&mut Vec::with_capacity(4)), None)?;
                }
                Self::Edge(epoll) => {
                    epoll::wait(epoll, spare_capacity(&mut Vec::with_capacity(4)), None)?;
                }
            }
        }
    }

    /// Sends the first `total` bytes of a stream in pieces of at most `piece` bytes.
    pub fn write(&self, socket: &Socket, seed: u64, total: usize, piece: usize) -> io::Result<()> {
        let (mut bytes, mut sizes) = (Bytes::new(seed), Random(!seed));
        let mut left = total;
        while left > 0 {
            let mut buffer = vec![0; sizes.chunk().min(piece).min(left)];
            bytes.fill(&mut buffer);
            left -= buffer.len();
            let mut rest = &buffer[..];
            while !rest.is_empty() {
                let sent = self.until(socket, PollFlags::OUT, || (&mut &*socket).write(rest))?;
                rest = &rest[sent..];
            }
        }
        Ok(())
    }

    /// Sends the first `total` bytes of a stream out of a file, as a web server does: sendfile() of all that is left.
    pub fn send_file(&self, socket: &Socket, seed: u64, total: usize) -> io::Result<()> {
        let file = stream_file(seed, total)?;
        let (mut at, mut left) = (0, total);
        while left > 0 {
            let sent =
                self.until(socket, PollFlags::OUT, || Ok(sendfile(socket, &file, Some(&mut at), left)?))?;
            if sent == 0 {
                return Err(bad(format!("sendfile() ended with {left} of {total} bytes left")));
            }
            left -= sent;
        }
        Ok(())
    }

    /// Receives `total` bytes and compares each; with `end`, EOF must follow.
    pub fn check(&self, socket: &Socket, seed: u64, total: usize, end: bool) -> io::Result<()> {
        let (mut bytes, mut at) = (Bytes::new(seed), 0);
        let mut buffer = vec![0; 1 << 16];
        while at < total || end {
            let most = if end { buffer.len() } else { buffer.len().min(total - at) };
            let got = self.until(socket, PollFlags::IN, || (&mut &*socket).read(&mut buffer[..most]))?;
            if got == 0 {
                let whole = end && at == total;
                return if whole { Ok(()) } else { Err(bad(format!("ended after {at} of {total} bytes"))) };
            }
            if let Some(wrong) = bytes.differs(&buffer[..got]) {
                return Err(bad(format!("byte {} of {total} is wrong", at + wrong)));
            }
            at += got;
        }
        Ok(())
    }

    /// Small messages, one at a time, each of which must come back before the next.
    pub fn ping(&self, socket: &Socket, seed: u64, count: usize) -> io::Result<()> {
        let mut sizes = Random(!seed);
        for number in 0..count {
            let size = usize::try_from(sizes.next() % 200).unwrap_or_default() + 1;
            let seed = seed + number as u64;
            self.write(socket, seed, size, size)?;
            self.check(socket, seed, size, false)?;
        }
        Ok(())
    }

    /// Sends back what comes, until EOF.
    pub fn echo(&self, socket: &Socket) -> io::Result<()> {
        let mut buffer = vec![0; 1 << 16];
        loop {
            let got = self.until(socket, PollFlags::IN, || (&mut &*socket).read(&mut buffer))?;
            let mut rest = &buffer[..got];
            if got == 0 {
                return Ok(());
            }
            while !rest.is_empty() {
                let sent = self.until(socket, PollFlags::OUT, || (&mut &*socket).write(rest))?;
                rest = &rest[sent..];
            }
        }
    }
}

/// The first bytes of a stream as a file in memory.
pub fn stream_file(seed: u64, total: usize) -> io::Result<File> {
    let mut file = File::from(memfd_create(c"stream", MFdFlags::MFD_CLOEXEC)?);
    let mut bytes = vec![0; total];
    Bytes::new(seed).fill(&mut bytes);
    file.write_all(&bytes)?;
    Ok(file)
}
