//! One end of a connection: it sends and receives at the same time, and compares each byte.

use std::io::{self, ErrorKind, Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use socket2::Socket;

use super::plan::{Plan, Waiting};
use crate::flow::bad;

/// How far it came, also where it failed.
#[derive(Debug, Default)]
pub struct Progress {
    pub sent: AtomicUsize,
    pub received: AtomicUsize,
}

/// A call that nothing wakes is looked at so often.
const STEP: Duration = Duration::from_millis(700);

/// Plays one end, at most until `end`.
pub fn play(socket: &Socket, plan: &Plan, progress: &Progress, end: Instant) -> io::Result<()> {
    match plan.waiting {
        Waiting::Block => {
            // Blocks, but not for ever: the socket is shut down by the watchman of the program.
        }
        Waiting::TimeOut => {
            socket.set_read_timeout(Some(STEP))?;
            socket.set_write_timeout(Some(STEP))?;
        }
        Waiting::Poll => socket.set_nonblocking(true)?,
    }
    std::thread::scope(|scope| {
        let sender = scope.spawn(|| send(socket, plan, progress, end));
        let received = receive(socket, plan, progress, end);
        if received.is_err() {
            // A sender that waits for room would wait for ever.
            let _ = socket.shutdown(Shutdown::Both);
        }
        let sent = sender.join().unwrap_or_else(|_| Err(bad("the sender panicked")));
        received.and(sent)
    })
}

fn send(socket: &Socket, plan: &Plan, progress: &Progress, end: Instant) -> io::Result<()> {
    std::thread::sleep(plan.pause);
    let (mut bytes, mut sizes, mut left) = (plan.outgoing(), plan.sizes.clone(), plan.sends);
    while left > 0 {
        let mut piece = vec![0; sizes.chunk().min(left)];
        bytes.fill(&mut piece);
        left -= piece.len();
        let mut rest = &piece[..];
        while !rest.is_empty() {
            let sent = again(socket, plan, PollFlags::OUT, end, || (&mut &*socket).write(rest))?;
            progress.sent.fetch_add(sent, Ordering::Relaxed);
            rest = &rest[sent..];
        }
        if sizes.once_in(8) {
            std::thread::sleep(Duration::from_millis(sizes.next() % 10));
        }
    }
    if plan.shuts_down() { socket.shutdown(Shutdown::Write) } else { Ok(()) }
}

fn receive(socket: &Socket, plan: &Plan, progress: &Progress, end: Instant) -> io::Result<()> {
    let (mut bytes, mut at, mut buffer) = (plan.incoming(), 0, vec![0; 1 << 15]);
    let to_the_end = plan.hears_the_end();
    while at < plan.receives || to_the_end {
        let got = again(socket, plan, PollFlags::IN, end, || (&mut &*socket).read(&mut buffer))?;
        if got == 0 {
            let whole = to_the_end && at == plan.receives;
            return if whole {
                Ok(())
            } else {
                Err(bad(format!("it ended after {at} of {}", plan.receives)))
            };
        }
        // Before anything else: what was read was read, right or wrong.
        progress.received.fetch_add(got, Ordering::Relaxed);
        if let Some(wrong) = bytes.differs(&buffer[..got]) {
            // What it looks like says where it came from: a TLS record, or another connection's bytes.
            let first = &buffer[wrong..got.min(wrong + 16)];
            return Err(bad(format!("WRONG BYTE {} of {}: {first:02x?}", at + wrong, plan.receives)));
        }
        at += got;
        if at > plan.receives {
            return Err(bad(format!("WRONG LENGTH {at} of {}", plan.receives)));
        }
    }
    Ok(())
}

/// Calls until it is neither interrupted nor too early.
fn again(
    socket: &Socket,
    plan: &Plan,
    flags: PollFlags,
    end: Instant,
    mut call: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    loop {
        match call() {
            Err(error) if matches!(error.kind(), ErrorKind::Interrupted | ErrorKind::WouldBlock) => {}
            other => return other,
        }
        if Instant::now() > end {
            return Err(bad("STUCK"));
        }
        if plan.waiting == Waiting::Poll {
            let step = Timespec::try_from(STEP).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(socket, flags)], Some(&step)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}
