//! Pipes that bytes pass through without being copied (splice(2)), from a bounded pool.
//!
//! A pipe is filled only when it is empty: splicing from kTLS into one that is not loses bytes on Linux 6.12.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;

use crate::datapath::ends::count;

/// Bytes that one pipe holds at most.
pub const CAPACITY: usize = 256 * 1024;
/// Buffers of a pipe of that size, one page each at least.
pub const MAX_PIECES: usize = CAPACITY / 4096;
/// A pipe may not be smaller.
const LEAST: usize = 64 * 1024;
/// Pipes in use at one time; who gets none copies. They bind at most 128 MiB.
const MAX_PIPES: usize = if cfg!(test) { 32 } else { 512 };
/// Empty pipes kept for reuse.
const SPARES: usize = 64;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static SPARE: Mutex<Vec<Ends>> = Mutex::new(Vec::new());

#[derive(Debug)]
struct Ends {
    read: File,
    write: OwnedFd,
}

/// A pipe with the bytes that are in it.
#[derive(Debug)]
pub struct Pipe {
    ends: Option<Ends>,
    filled: usize,
    borrowed: bool,
}

impl Pipe {
    /// An empty pipe; `None` when the pool has no more, or the process no descriptor.
    #[must_use]
    pub fn take() -> Option<Self> {
        Self::take_or_borrow().ok().filter(|pipe| !pipe.borrowed)
    }

    /// An empty pipe, also when the pool has no more: a borrowed one, which is emptied and given back at once.
    ///
    /// # Errors
    /// When the process has no descriptor left.
    pub fn take_or_borrow() -> io::Result<Self> {
        let borrowed = IN_USE.fetch_add(1, Ordering::Relaxed) >= MAX_PIPES;
        // Counted from here on: dropping it uncounts.
        let mut pipe = Self { ends: None, filled: 0, borrowed };
        let spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner).pop();
        pipe.ends = Some(match spare {
            Some(ends) => ends,
            None => open()?,
        });
        Ok(pipe)
    }

    /// True when it may not be kept.
    #[must_use]
    pub fn is_borrowed(&self) -> bool {
        self.borrowed
    }

    /// True when every byte has left.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Moves bytes from a socket into the empty pipe, as much as is there; does not wait. 0 at EOF, and from
    /// kTLS for an empty record.
    ///
    /// # Errors
    /// `EAGAIN` when nothing is there; `EINVAL` from kTLS when a control record is next.
    pub fn fill(&mut self, from: &impl AsFd) -> io::Result<usize> {
        let Some(ends) = self.ends.as_ref().filter(|_| self.filled == 0) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        self.filled = splice(from, None, &ends.write, None, CAPACITY, flags())?;
        Ok(self.filled)
    }

    /// Moves bytes on to a socket; does not wait.
    ///
    /// # Errors
    /// `EAGAIN` when there is no room.
    pub fn drain(&mut self, to: &impl AsFd) -> io::Result<usize> {
        let Some(ends) = self.ends.as_ref() else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let moved = splice(&ends.read, None, to, None, self.filled, flags())?;
        self.filled = self.filled.saturating_sub(moved);
        Ok(moved)
    }

    /// Copies everything in it to the end of `bytes`.
    ///
    /// # Errors
    /// None that read(2) of a pipe is known for.
    pub fn empty_into(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        if let Some(ends) = &self.ends {
            let copied = (&ends.read).take(count(self.filled)).read_to_end(bytes)?;
            self.filled = self.filled.saturating_sub(copied);
        }
        Ok(())
    }
}

/// kTLS heeds only SPLICE_F_NONBLOCK and plain TCP only O_NONBLOCK, which tokio sets. SPLICE_F_MORE would leave
/// the tail of what is sent in the kernel.
fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_NONBLOCK | SpliceFFlags::SPLICE_F_MOVE
}

fn open() -> io::Result<Ends> {
    let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
    // Refused above the user's limit of pipe pages; the usual 64 KiB serve as well, two pages would not: a record
    // takes two, and Linux 6.12 loses what does not fit.
    let _ = fcntl(&write, FcntlArg::F_SETPIPE_SZ(i32::try_from(CAPACITY).unwrap_or(i32::MAX)));
    if usize::try_from(fcntl(&write, FcntlArg::F_GETPIPE_SZ)?).is_ok_and(|size| size < LEAST) {
        return Err(io::ErrorKind::QuotaExceeded.into());
    }
    Ok(Ends { read: read.into(), write })
}

impl Drop for Pipe {
    fn drop(&mut self) {
        IN_USE.fetch_sub(1, Ordering::Relaxed);
        let Some(ends) = self.ends.take().filter(|_| self.filled == 0) else {
            return; // what is left in it goes with it
        };
        let mut spare = SPARE.lock().unwrap_or_else(PoisonError::into_inner);
        if spare.len() < SPARES {
            spare.push(ends);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let far = listener.accept().unwrap().0;
        near.set_nonblocking(true).unwrap();
        (near, far)
    }

    // The pool belongs to the process: one test at a time looks at it.
    static ALONE: Mutex<()> = Mutex::new(());

    #[test]
    fn bytes_pass_and_a_pipe_is_filled_only_when_it_is_empty() {
        let _alone = ALONE.lock().unwrap();
        let ((source, mut into), (sink, mut out)) = (pair(), pair());
        let mut pipe = Pipe::take().unwrap();
        assert_eq!(pipe.fill(&source).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        into.write_all(b"hello").unwrap();
        assert_eq!(pipe.fill(&source).unwrap(), 5);
        assert_eq!(pipe.fill(&source).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        assert_eq!(pipe.drain(&sink).unwrap(), 5);
        assert!(pipe.is_empty());
        let mut bytes = [0; 5];
        out.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
        drop(into);
        assert_eq!(pipe.fill(&source).unwrap(), 0, "EOF");
    }

    #[test]
    fn the_pool_is_bounded_and_a_pipe_with_bytes_in_it_is_not_used_again() {
        let _alone = ALONE.lock().unwrap();
        let (source, mut into) = pair();
        into.write_all(b"secret of another connection").unwrap();
        let mut pipe = Pipe::take().unwrap();
        while pipe.fill(&source).is_err() {}
        drop(pipe);
        let mut taken: Vec<Pipe> = std::iter::from_fn(Pipe::take).take(MAX_PIPES + 1).collect();
        assert!(taken.len() <= MAX_PIPES);
        let (sink, _out) = pair();
        for pipe in &mut taken {
            pipe.filled = 1;
            assert_eq!(pipe.drain(&sink).unwrap_err().kind(), io::ErrorKind::WouldBlock, "it is empty");
            pipe.filled = 0;
        }
        let mut borrowed = Pipe::take_or_borrow().unwrap();
        assert!(borrowed.is_borrowed());
        into.write_all(b"not to be kept").unwrap();
        while borrowed.fill(&source).is_err() {}
        let mut bytes = b"in order and ".to_vec();
        borrowed.empty_into(&mut bytes).unwrap();
        assert!(borrowed.is_empty());
        assert_eq!(bytes, b"in order and not to be kept");
        drop((taken, borrowed));
        assert!(SPARE.lock().unwrap().len() <= SPARES);
        assert!(Pipe::take().is_some());
    }
}
