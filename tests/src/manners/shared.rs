//! Several at one socket: threads that write and read at the same time, and a child process.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use super::part::{Part, Source};
use crate::bytes::Random;
use crate::flow::bad;

/// Threads that write. Each byte has its writer in the upper two bits and counts in the lower six, so that whoever
/// reads can tell whatever the order of the writers.
const WRITERS: u8 = 4;
const READERS: u64 = 3;

fn share(part: Part, writer: u8) -> u64 {
    let writers = u64::from(WRITERS);
    part.total / writers + if u64::from(writer) < part.total % writers { 1 } else { 0 }
}

fn symbol(writer: u8, number: u64) -> u8 {
    writer << 6 | (number % 64).to_le_bytes()[0]
}

pub(super) fn write(stream: &TcpStream, part: Part) -> io::Result<()> {
    let writer = |writer: u8| {
        let mut sizes = Random(part.seed.wrapping_add(u64::from(writer)));
        let (mut at, total) = (0, share(part, writer));
        while at < total {
            let size = (sizes.next() % 3000 + 1).min(total - at);
            let bytes: Vec<u8> = (at..at + size).map(|number| symbol(writer, number)).collect();
            let mut rest = bytes.as_slice();
            while !rest.is_empty() {
                let sent = (&*stream).write(rest)?;
                rest = &rest[sent..];
            }
            at += size;
        }
        Ok(())
    };
    all(thread::scope(|scope| {
        let writers: Vec<_> = (0..WRITERS).map(|number| scope.spawn(move || writer(number))).collect();
        writers
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(bad("a writer panicked"))))
            .collect()
    }))
}

/// What no reader has asked for yet, and what readers have asked for.
struct Left {
    free: u64,
    asked: u64,
}

pub(super) fn read(stream: &TcpStream, part: Part) -> io::Result<()> {
    let left = Mutex::new(Left { free: part.total, asked: 0 });
    let returned = Condvar::new();
    let counts = thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|number| {
                let (left, returned) = (&left, &returned);
                scope.spawn(move || one_reader(stream, Random(part.seed ^ number), left, returned))
            })
            .collect();
        let joined =
            readers.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(bad("a reader panicked"))));
        joined.collect::<io::Result<Vec<_>>>()
    })?;
    for writer in 0..WRITERS {
        for number in 0..64 {
            let wanted = (share(part, writer) + 63 - number) / 64;
            let byte = symbol(writer, number);
            let got: u64 = counts.iter().map(|counts| counts[usize::from(byte)]).sum();
            if got != wanted {
                return Err(bad(format!("byte {byte:02x} came {got} times, not {wanted}")));
            }
        }
    }
    Ok(())
}

/// How often each byte came. What one call gives is a piece of the stream: in it each writer counts up.
fn one_reader(
    mut stream: &TcpStream,
    mut sizes: Random,
    left: &Mutex<Left>,
    returned: &Condvar,
) -> io::Result<[u64; 256]> {
    let mut counts = [0; 256];
    let mut buffer = vec![0; 4096];
    loop {
        let mut now = left.lock().unwrap_or_else(PoisonError::into_inner);
        while now.free == 0 && now.asked > 0 {
            now = returned.wait(now).unwrap_or_else(PoisonError::into_inner);
        }
        let size = (sizes.next() % 4096 + 1).min(now.free);
        if size == 0 {
            return Ok(counts);
        }
        now.free -= size;
        now.asked += size;
        drop(now);
        let read = stream.read(&mut buffer[..usize::try_from(size).unwrap_or(usize::MAX)]);
        let got = *read.as_ref().unwrap_or(&0);
        let mut now = left.lock().unwrap_or_else(PoisonError::into_inner);
        now.asked -= size;
        // After an error nobody shall wait for what does not come.
        now.free = if got == 0 { 0 } else { now.free + size - got as u64 };
        drop(now);
        returned.notify_all();
        read?;
        if got == 0 {
            return Err(bad("ended too early"));
        }
        let mut last = [None; WRITERS as usize];
        for byte in &buffer[..got] {
            let writer = usize::from(byte >> 6);
            if last[writer].is_some_and(|last: u8| (last + 1) % 64 != byte % 64) {
                return Err(bad(format!("writer {writer}'s bytes are out of order")));
            }
            last[writer] = Some(byte % 64);
            counts[usize::from(*byte)] += 1;
        }
    }
}

fn all(outcomes: Vec<io::Result<()>>) -> io::Result<()> {
    outcomes.into_iter().collect()
}

/// The socket is the child's standard input.
pub(super) fn write_by_child(stream: &TcpStream, part: Part) -> io::Result<()> {
    let socket = std::os::fd::OwnedFd::from(stream.try_clone()?);
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["part", &part.seed.to_string(), &part.total.to_string()]).stdin(Stdio::from(socket));
    let status = command.status()?;
    if status.success() { Ok(()) } else { Err(bad(format!("the child that sends: {status}"))) }
}

pub(super) fn write_to_standard_input(part: Part) -> io::Result<()> {
    Source::new(Some(part)).drain(|bytes| Ok(nix::unistd::write(io::stdin(), bytes)?))
}
