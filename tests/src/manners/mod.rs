//! An ordinary application, client or server, that does its IO in a chosen manner. It knows nothing of TLS.
//!
//! `manners serve ADDRESS MANNER SHAPE SEED UP DOWN COUNT` accepts so many connections, one after another, and
//! `manners connect ADDRESS …` opens them. Both send bytes of the seed, check each one that they receive and how the
//! connection ends. Exit code 0: everything was as it should be; else one line on standard error says what was not.
//! `manners part SEED TOTAL` sends on standard input: a child of [`Manner::Child`].
//!
//! EINTR is an error here: no signal has a handler, so no call may give it.

mod blocking;
mod event;
mod files;
mod open;
mod part;
pub mod play;
mod shape;
mod shared;
mod uring;

use std::io;
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;

use crate::flow::bad;
pub use part::Part;
pub use shape::Shape;
use shape::{Role, endless};

/// How bytes are moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// Calls that wait; a thread for each direction.
    Blocking,
    /// A non-blocking socket that is tried again and again.
    NonBlocking,
    /// One thread, edge-triggered epoll.
    EpollEdge,
    /// One thread, level-triggered epoll.
    EpollLevel,
    /// One thread, poll().
    Poll,
    /// One thread, select().
    Select,
    /// io_uring: its reads and writes wait in the kernel by poll.
    Uring,
    /// Several threads write at the same time and several read, each byte by whoever comes first.
    Threads,
    /// A child process writes on its standard input while its parent reads.
    Child,
    /// As `Blocking`, on duplicates of the descriptor; the first one is closed at once.
    Dup,
    /// sendfile() from a file.
    SendFile,
    /// splice() between pipes and the socket.
    Splice,
    /// writev() and readv() with pieces of odd sizes.
    Vectored,
    /// MSG_PEEK before each read; both must give the same.
    Peek,
    /// MSG_WAITALL: a receive gives exactly what was asked for.
    WaitAll,
    /// SO_RCVTIMEO and SO_SNDTIMEO of some milliseconds, and again after each timeout.
    TimeOut,
}

impl Manner {
    /// All, with their names.
    pub const ALL: [(Self, &'static str); 16] = [
        (Self::Blocking, "blocking"),
        (Self::NonBlocking, "non-blocking"),
        (Self::EpollEdge, "epoll-edge"),
        (Self::EpollLevel, "epoll-level"),
        (Self::Poll, "poll"),
        (Self::Select, "select"),
        (Self::Uring, "io_uring"),
        (Self::Threads, "threads"),
        (Self::Child, "child"),
        (Self::Dup, "dup"),
        (Self::SendFile, "sendfile"),
        (Self::Splice, "splice"),
        (Self::Vectored, "writev"),
        (Self::Peek, "peek"),
        (Self::WaitAll, "waitall"),
        (Self::TimeOut, "timeout"),
    ];

    fn named(name: &str) -> io::Result<Self> {
        let found = Self::ALL.iter().find(|(_, n)| *n == name);
        found.map(|(manner, _)| *manner).ok_or_else(|| bad(format!("no manner {name}")))
    }

    /// Sends `out` and receives `inward`, at the same time where there are both.
    fn carry(self, stream: &TcpStream, out: Option<Part>, inward: Option<Part>) -> io::Result<()> {
        match self {
            Self::NonBlocking | Self::EpollEdge | Self::EpollLevel | Self::Poll | Self::Select => {
                event::carry(self, stream, out, inward)
            }
            Self::Uring => uring::carry(stream, out, inward),
            Self::Threads => both(stream, out, inward, shared::write, shared::read),
            Self::Child => both(stream, out, inward, shared::write_by_child, |stream, part| {
                blocking::receive(self, stream, part)
            }),
            Self::SendFile => {
                both(stream, out, inward, files::send, |stream, part| blocking::receive(self, stream, part))
            }
            Self::Splice => both(stream, out, inward, files::splice_out, files::splice_in),
            _ => both(
                stream,
                out,
                inward,
                |stream, part| blocking::send(self, stream, part),
                |stream, part| blocking::receive(self, stream, part),
            ),
        }
    }
}

/// Sends on a thread of its own while the caller receives.
fn both(
    stream: &TcpStream,
    out: Option<Part>,
    inward: Option<Part>,
    send: impl FnOnce(&TcpStream, Part) -> io::Result<()> + Send,
    receive: impl FnOnce(&TcpStream, Part) -> io::Result<()>,
) -> io::Result<()> {
    let named = |what: &'static str| move |e: io::Error| io::Error::new(e.kind(), format!("{what}: {e}"));
    std::thread::scope(|scope| {
        let sender = out.map(|part| scope.spawn(move || send(stream, part)));
        let received = inward.map_or(Ok(()), |part| receive(stream, part)).map_err(named("receiving"));
        let sent = sender.map_or(Ok(()), |sender| {
            sender.join().unwrap_or_else(|_| Err(bad("the sender panicked"))).map_err(named("sending"))
        });
        sent.and(received)
    })
}

/// See the module.
pub fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["serve", at, manner, shape, seed, up, down, count] => {
            run(Role::Server, at, [manner, shape], [seed, up, down, count])
        }
        ["connect", to, manner, shape, seed, up, down, count] => {
            run(Role::Client, to, [manner, shape], [seed, up, down, count])
        }
        ["part", seed, total] => number(seed)
            .and_then(|seed| Ok(Part { seed, total: number(total)? }))
            .and_then(shared::write_to_standard_input),
        _ => Err(bad("usage: see the source's first lines")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("manners {}: {error}", args.join(" "));
            ExitCode::FAILURE
        }
    }
}

fn number(text: &str) -> io::Result<u64> {
    text.parse().map_err(|e| bad(format!("{text}: {e}")))
}

fn run(role: Role, address: &str, [manner, shape]: [&str; 2], numbers: [&str; 4]) -> io::Result<()> {
    let address: SocketAddr = address.parse().map_err(|e| bad(format!("{address}: {e}")))?;
    let (manner, shape) = (Manner::named(manner)?, Shape::named(shape)?);
    let [seed, up, down, count] = numbers.map(number);
    let (seed, up, down, count) = (seed?, up?, down?, count?);
    let listener = match role {
        Role::Server => Some(open::listen(manner, address)?),
        Role::Client => None,
    };
    for serial in 0..count {
        let (up, down) =
            (Part { seed: seed + 2 * serial, total: up }, Part { seed: seed + 2 * serial + 1, total: down });
        let stream = match &listener {
            Some(listener) => open::accept(manner, listener),
            None => {
                println!("connecting");
                open::connect(manner, address).inspect(|_| println!("connected"))
            }
        };
        let played = stream.and_then(|stream| match shape {
            Shape::Endless => endless(role, &stream, up, down),
            _ => shape.play(role, manner, &stream, up, down),
        });
        played.map_err(|e| io::Error::new(e.kind(), format!("connection {serial}: {e}")))?;
    }
    Ok(())
}
