//! One thread, a non-blocking socket, and something that tells when to go on.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::select::{FdSet, select};
use nix::sys::time::{TimeVal, TimeValLike};
use rustix::buffer::spare_capacity;
use rustix::event::{PollFd, PollFlags, Timespec, epoll, poll};

use super::Manner;
use super::part::{Part, Sink, Source};
use crate::flow::bad;
use crate::slow;

/// How long nothing may happen, seconds.
const STALL: u64 = 30;

pub(super) fn carry(
    manner: Manner,
    stream: &TcpStream,
    out: Option<Part>,
    inward: Option<Part>,
) -> io::Result<()> {
    stream.set_nonblocking(true)?;
    let mut waiter = Waiter::new(manner, stream.as_fd())?;
    let (mut source, mut sink) = (Source::new(out), Sink::new(inward));
    while !source.done() || !sink.done() {
        let (readable, writable) = waiter.wait(!sink.done(), !source.done()).map_err(|error| {
            let what = format!("{error}; all sent: {}, all received: {}", source.done(), sink.done());
            io::Error::new(error.kind(), what)
        })?;
        if writable {
            source.push(stream)?;
        }
        if readable {
            sink.pull(stream)?;
        }
    }
    stream.set_nonblocking(false)
}

/// Tells when a descriptor can be read or written.
pub(super) enum Waiter<'a> {
    Spin(Instant),
    Epoll { edge: bool, epoll: OwnedFd, of: BorrowedFd<'a> },
    Poll(BorrowedFd<'a>),
    Select(BorrowedFd<'a>),
}

impl<'a> Waiter<'a> {
    pub(super) fn new(manner: Manner, of: BorrowedFd<'a>) -> io::Result<Self> {
        Ok(match manner {
            Manner::EpollEdge | Manner::EpollLevel => {
                let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
                let edge = manner == Manner::EpollEdge;
                let events = if edge {
                    epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET
                } else {
                    epoll::EventFlags::empty()
                };
                epoll::add(&epoll, of, epoll::EventData::new_u64(0), events)?;
                Self::Epoll { edge, epoll, of }
            }
            Manner::Poll => Self::Poll(of),
            Manner::Select => Self::Select(of),
            _ => Self::Spin(Instant::now()),
        })
    }

    /// Waits for one of them; both are true where nobody knows.
    pub(super) fn wait(&mut self, read: bool, write: bool) -> io::Result<(bool, bool)> {
        let limit = slow::limit(STALL);
        let told = match self {
            Self::Spin(since) => {
                thread::yield_now();
                (since.elapsed() < limit * 4).then_some((true, true))
            }
            Self::Epoll { edge, epoll, of } => epoll_wait(epoll, *of, *edge, (read, write), limit)?,
            Self::Poll(of) => {
                let mut events = PollFlags::empty();
                events.set(PollFlags::IN, read);
                events.set(PollFlags::OUT, write);
                let mut fds = [PollFd::from_borrowed_fd(*of, events)];
                poll(&mut fds, Some(&timespec(limit)))?;
                let got = fds[0].revents();
                let ended = PollFlags::ERR | PollFlags::HUP;
                let (r, w) = (got.intersects(PollFlags::IN | ended), got.intersects(PollFlags::OUT | ended));
                (r || w).then_some((r, w))
            }
            Self::Select(of) => {
                let (mut reading, mut writing) = (FdSet::new(), FdSet::new());
                if read {
                    reading.insert(*of);
                }
                if write {
                    writing.insert(*of);
                }
                let seconds = i64::try_from(limit.as_secs()).unwrap_or(i64::MAX);
                let mut time = TimeVal::seconds(seconds);
                select(None, &mut reading, &mut writing, None, &mut time)?;
                let (r, w) = (reading.contains(*of), writing.contains(*of));
                (r || w).then_some((r, w))
            }
        };
        told.ok_or_else(|| {
            bad(format!("not ready for {} seconds (read {read}, write {write})", limit.as_secs()))
        })
    }
}

fn epoll_wait(
    epoll: &OwnedFd,
    of: BorrowedFd<'_>,
    edge: bool,
    (read, write): (bool, bool),
    limit: Duration,
) -> io::Result<Option<(bool, bool)>> {
    use epoll::EventFlags;
    if !edge {
        let mut events = EventFlags::empty();
        events.set(EventFlags::IN, read);
        events.set(EventFlags::OUT, write);
        epoll::modify(epoll, of, epoll::EventData::new_u64(0), events)?;
    }
    let mut events: Vec<epoll::Event> = Vec::with_capacity(4);
    epoll::wait(epoll, spare_capacity(&mut events), Some(&timespec(limit)))?;
    Ok(events.first().map(|event| {
        let got = event.flags;
        let ended = EventFlags::ERR | EventFlags::HUP;
        (got.intersects(EventFlags::IN | ended), got.intersects(EventFlags::OUT | ended))
    }))
}

fn timespec(limit: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 }
}
