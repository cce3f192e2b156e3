//! Who sends when, and how a connection ends.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};

use super::part::{Part, Sink, Source};
use super::{Manner, both};
use crate::flow::{arm_reset, bad, clean_end, reset_end};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Client,
    Server,
}

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// Both send at the same time, then both end.
    Duplex,
    /// The client ends its direction; the server answers after it has seen that.
    HalfClose,
    /// The server ends its direction; the client answers after it has seen that.
    ServerHalfClose,
    /// The server speaks first, and the client answers.
    ServerFirst,
    /// The client sends and closes at once.
    ClientCloses,
    /// The server sends and closes at once.
    ServerCloses,
    /// The client resets after both have everything.
    Reset,
    /// The server resets after both have everything.
    ServerReset,
    /// Both send until the other end is gone, whatever the lengths. Says `moving` when the first byte came.
    Endless,
}

enum Step {
    Send,
    Receive,
    Both,
    /// SHUT_WR.
    Finish,
    /// The other end's FIN, and nothing before it.
    End,
    /// close() will send RST.
    Reset,
    /// The other end's RST, and nothing before it.
    IsReset,
}

impl Shape {
    /// All, with their names.
    pub const ALL: [(Self, &'static str); 9] = [
        (Self::Duplex, "duplex"),
        (Self::HalfClose, "half-close"),
        (Self::ServerHalfClose, "server-half-close"),
        (Self::ServerFirst, "server-first"),
        (Self::ClientCloses, "client-closes"),
        (Self::ServerCloses, "server-closes"),
        (Self::Reset, "reset"),
        (Self::ServerReset, "server-reset"),
        (Self::Endless, "endless"),
    ];

    pub(super) fn named(name: &str) -> io::Result<Self> {
        let found = Self::ALL.iter().find(|(_, n)| *n == name);
        found.map(|(shape, _)| *shape).ok_or_else(|| bad(format!("no shape {name}")))
    }

    fn steps(self, role: Role) -> &'static [Step] {
        use Role::{Client, Server};
        use Step::{Both, End, Finish, IsReset, Receive, Reset, Send};
        match (self, role) {
            (Self::Duplex, _) => &[Both, Finish, End],
            (Self::HalfClose, Client) | (Self::ServerHalfClose, Server) => &[Send, Finish, Receive, End],
            (Self::HalfClose, Server) | (Self::ServerHalfClose, Client) => &[Receive, End, Send, Finish],
            (Self::ServerFirst, Client) => &[Receive, Send, Finish, End],
            (Self::ServerFirst, Server) => &[Send, Receive, Finish, End],
            (Self::ClientCloses, Client) | (Self::ServerCloses, Server) => &[Send],
            (Self::ClientCloses, Server) | (Self::ServerCloses, Client) => &[Receive, End],
            (Self::Reset, Client) | (Self::ServerReset, Server) => &[Send, Receive, Reset],
            (Self::Reset, Server) | (Self::ServerReset, Client) => &[Receive, Send, IsReset],
            (Self::Endless, _) => &[],
        }
    }

    /// One connection, from the first byte to its end.
    pub(super) fn play(
        self,
        role: Role,
        manner: Manner,
        stream: &TcpStream,
        up: Part,
        down: Part,
    ) -> io::Result<()> {
        let (out, inward) = ends(role, up, down);
        for step in self.steps(role) {
            match step {
                Step::Send => manner.carry(stream, Some(out), None),
                Step::Receive => {
                    println!("receiving");
                    manner.carry(stream, None, Some(inward))
                }
                Step::Both => manner.carry(stream, Some(out), Some(inward)),
                Step::Finish => stream.shutdown(Shutdown::Write),
                Step::End => patient(stream).and_then(|()| clean_end(stream)),
                Step::Reset => arm_reset(stream),
                Step::IsReset => patient(stream).and_then(|()| reset_end(stream)),
            }?;
        }
        Ok(())
    }
}

/// Without the timeout that a manner has set.
fn patient(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(None)
}

/// What this end sends and what it receives.
fn ends(role: Role, up: Part, down: Part) -> (Part, Part) {
    match role {
        Role::Client => (up, down),
        Role::Server => (down, up),
    }
}

/// See [`Shape::Endless`]. Whatever came must be the beginning of what the other end sends.
pub(super) fn endless(role: Role, stream: &TcpStream, up: Part, down: Part) -> io::Result<()> {
    let (out, inward) = ends(role, up, down);
    let without_end = |part: Part| Part { total: u64::MAX, ..part };
    both(
        stream,
        Some(without_end(out)),
        Some(without_end(inward)),
        |mut stream, part| gone(Source::new(Some(part)).drain(|bytes| stream.write(bytes))),
        |stream, part| {
            let received = receive_until_gone(stream, part);
            // The sender may wait for room that never comes.
            let _ = stream.shutdown(Shutdown::Both);
            received
        },
    )
}

fn receive_until_gone(mut stream: &TcpStream, part: Part) -> io::Result<()> {
    let mut sink = Sink::new(Some(part));
    let mut buffer = vec![0; 1 << 16];
    let mut told = false;
    loop {
        let got = match stream.read(&mut buffer) {
            Err(error) => return gone(Err(error)),
            Ok(0) => return Ok(()),
            Ok(got) => got,
        };
        sink.take(&buffer[..got])?;
        if !told {
            println!("moving");
            told = true;
        }
    }
}

/// An end by the other side is none of ours.
fn gone(outcome: io::Result<()>) -> io::Result<()> {
    use io::ErrorKind::{BrokenPipe, ConnectionReset};
    match outcome {
        Err(error) if [BrokenPipe, ConnectionReset].contains(&error.kind()) => Ok(()),
        other => other,
    }
}
