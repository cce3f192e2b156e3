//! Calls that wait.

use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, recv};

use super::Manner;
use super::part::{Part, Sink, Source};
use crate::flow::bad;
use crate::slow;

/// SO_RCVTIMEO and SO_SNDTIMEO of [`Manner::TimeOut`]: so short that arming takes several of them.
const SHORT: Duration = Duration::from_millis(7);
/// How long timeouts may follow each other, seconds.
const STALL: u64 = 30;

pub(super) fn send(manner: Manner, stream: &TcpStream, part: Part) -> io::Result<()> {
    let mut source = Source::new(Some(part));
    match manner {
        Manner::Vectored => source.drain(|bytes| write_vectored(stream, bytes)),
        Manner::TimeOut => {
            stream.set_write_timeout(Some(SHORT))?;
            source.drain(|bytes| patiently(|| (&*stream).write(bytes)))
        }
        Manner::Dup => {
            let other = stream.try_clone()?;
            source.drain(|bytes| (&other).write(bytes))
        }
        _ => source.drain(|bytes| (&*stream).write(bytes)),
    }
}

pub(super) fn receive(manner: Manner, stream: &TcpStream, part: Part) -> io::Result<()> {
    let mut sink = Sink::new(Some(part));
    match manner {
        Manner::Vectored => sink.fill(|buffer| read_vectored(stream, buffer)),
        Manner::Peek => sink.fill(|buffer| peek_and_read(stream, buffer)),
        Manner::WaitAll => sink.fill(|buffer| {
            let got = recv(stream.as_raw_fd(), buffer, MsgFlags::MSG_WAITALL)?;
            if got != 0 && got != buffer.len() {
                return Err(bad(format!("MSG_WAITALL gave {got} of {} bytes", buffer.len())));
            }
            Ok(got)
        }),
        Manner::TimeOut => {
            stream.set_read_timeout(Some(SHORT))?;
            sink.fill(|buffer| patiently(|| (&*stream).read(buffer)))
        }
        _ => sink.fill(|buffer| (&*stream).read(buffer)),
    }
}

fn write_vectored(mut stream: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let slices: Vec<_> = bytes.chunks((bytes.len() / 7).max(1)).map(IoSlice::new).collect();
    stream.write_vectored(&slices)
}

fn read_vectored(mut stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let size = (buffer.len() / 5).max(1);
    let mut slices: Vec<_> = buffer.chunks_mut(size).map(IoSliceMut::new).collect();
    stream.read_vectored(&mut slices)
}

fn peek_and_read(mut stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut peeked = vec![0; buffer.len()];
    let seen = stream.peek(&mut peeked)?;
    let got = stream.read(&mut buffer[..seen.max(1)])?;
    if buffer[..got] != peeked[..got] {
        return Err(bad(format!("MSG_PEEK showed other bytes than the read of {got} after it gave")));
    }
    Ok(got)
}

/// Again after each timeout.
fn patiently(mut call: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    let start = Instant::now();
    loop {
        match call() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if start.elapsed() > slow::limit(STALL) {
                    return Err(bad("nothing moved although it was tried again and again"));
                }
            }
            other => return other,
        }
    }
}
