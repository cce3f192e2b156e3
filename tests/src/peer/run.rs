//! Runs a script.

use std::io::{self, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};
use socket2::SockRef;

use super::handshake;
use super::keys::{self, MAX_CONTENT, kind};
use super::options::{Layer, Options, Role};
use super::script::{Action, alert_name};
use super::seen::{End, Seen, Shared};
use super::wire::{Out, SharedOut, lock, start};
use crate::bytes::Bytes;
use crate::slow;

/// The preface of `mtlsd/1` that says ready (docs/protocol.md).
const READY: [u8; 4] = [1, 0, 0, 0];

/// The program.
pub fn main() -> ExitCode {
    let options = match Options::parse(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("peer: {error}");
            return ExitCode::from(2);
        }
    };
    let seen = Arc::new(Shared::default());
    let outcome = converse(&options, &seen);
    let mut report = seen.lock().report();
    if let (Value::Object(fields), Err(error)) = (&mut report, &outcome) {
        fields.insert("error".into(), json!(error.to_string()));
    }
    println!("{report}");
    if outcome.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn converse(options: &Options, seen: &Arc<Shared>) -> io::Result<()> {
    let socket = open(options)?;
    socket.set_nodelay(true)?;
    socket.set_write_timeout(Some(slow::limit(60)))?;
    let done = match options.layer {
        Layer::Plain => None,
        Layer::Own | Layer::Rustls => {
            socket.set_read_timeout(Some(slow::limit(30)))?;
            Some(handshake::handshake(options, &socket)?)
        }
    };
    socket.set_read_timeout(None)?;
    let out = start(&socket, options.layer, done, seen)?;
    // Both ends know both streams.
    let (sent, received) = if options.role == Role::Client { (1, 2) } else { (2, 1) };
    let mut player = Player {
        socket,
        out,
        seen: Arc::clone(seen),
        sent: Bytes::new(sent),
        received: Bytes::new(received),
    };
    for (at, (words, action)) in options.script.iter().enumerate() {
        let failed = |e: io::Error| io::Error::other(format!("action {at}, {words}: {e}"));
        player.act(action).map_err(failed)?;
    }
    Ok(())
}

fn open(options: &Options) -> io::Result<TcpStream> {
    if options.role == Role::Client {
        return TcpStream::connect_timeout(&options.address, slow::limit(30));
    }
    let listener = TcpListener::bind(options.address)?;
    let at: SocketAddr = listener.local_addr()?;
    eprintln!("listening on {at}");
    let mut waiting = [PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
    if poll(&mut waiting, PollTimeout::try_from(slow::limit(60)).unwrap_or(PollTimeout::MAX))? == 0 {
        return Err(io::Error::other("nobody connected"));
    }
    Ok(listener.accept()?.0)
}

struct Player {
    socket: TcpStream,
    out: SharedOut,
    seen: Arc<Shared>,
    sent: Bytes,
    received: Bytes,
}

impl Player {
    fn act(&mut self, action: &Action) -> io::Result<()> {
        let out = || lock(&self.out);
        match action {
            Action::Data(text) => out().data(text.as_bytes()),
            Action::Send(bytes, record) => self.send(*bytes, *record),
            Action::Receive(bytes) => self.receive(*bytes),
            Action::Empty(count) => {
                (0..*count).try_for_each(|_| out().record(kind::APPLICATION_DATA, b"", 0))
            }
            Action::Padded(padding, text) => out().record(kind::APPLICATION_DATA, text.as_bytes(), *padding),
            Action::Tiny(text) => text.as_bytes().chunks(1).try_for_each(|byte| out().data(byte)),
            Action::Segments(size, pause) => {
                out().segments = (*size, *pause);
                Ok(())
            }
            Action::KeyUpdate(count, request) => (0..*count).try_for_each(|_| out().key_update(*request)),
            Action::Ticket(fragmented) => ticket(&mut out(), *fragmented),
            Action::Alert(level, description) => out().record(kind::ALERT, &[*level, *description], 0),
            Action::CloseNotify => out().close_notify(),
            Action::Fin => self.socket.shutdown(Shutdown::Write),
            // The process ends after its script, which closes the socket.
            Action::Rst => SockRef::from(&self.socket).set_linger(Some(Duration::ZERO)),
            Action::Corrupt(text) => out().spoilt(text.as_bytes(), |record| {
                // A byte of the ciphertext, if there is any before the tag.
                if let Some(byte) = record.get_mut(5) {
                    *byte ^= 1;
                }
            }),
            Action::Oversize => out().record(kind::APPLICATION_DATA, &[b'x'; MAX_CONTENT + 1], 0),
            Action::BadType(0) => out().record(0, b"", 300),
            Action::BadType(kind) => out().record(*kind, b"what is this", 0),
            Action::Half(text) => out().spoilt(text.as_bytes(), |record| record.truncate(record.len() / 2)),
            // HelloRequest's number, which TLS 1.3 does not have, with a body.
            Action::HandshakeGarbage => out().record(kind::HANDSHAKE, &keys::message(0, b"garbage"), 0),
            Action::Plaintext(kind, text) => out().write(&keys::plain(*kind, text.as_bytes())),
            Action::PlaintextAlert(level, description) => {
                out().write(&keys::plain(kind::ALERT, &[*level, *description]))
            }
            Action::Preface(text) => out().data(&[&READY, text.as_bytes()].concat()),
            Action::PrefaceTiny => READY.chunks(1).try_for_each(|byte| out().data(byte)),
            Action::Expect(text) => self.expect(text.as_bytes()),
            Action::ExpectPreface => self.expect(&READY),
            Action::ExpectCloseNotify => self.first("close_notify", |seen| seen.alerts.contains(&0)),
            Action::ExpectAlert(alerts) => {
                let names: Vec<_> = alerts.iter().map(|a| alert_name(*a)).collect();
                let what = format!("the alert {}", names.join(" or "));
                self.first(&what, |seen| alerts.iter().any(|alert| seen.alerts.contains(alert)))
            }
            Action::ExpectEof => self.first("FIN", |seen| seen.end == Some(End::Eof)),
            Action::ExpectRst => self.first("RST", |seen| seen.end == Some(End::Reset)),
            Action::ExpectEnd => {
                self.first("FIN or RST", |seen| matches!(seen.end, Some(End::Eof | End::Reset)))
            }
            Action::ExpectBroken(by_reset) => self.broken(*by_reset),
            Action::ExpectKeyUpdate(count) => {
                let enough = |seen: &mut Seen| (seen.key_updates.0 >= *count).then_some(());
                self.seen.wait(&format!("{count} KeyUpdates"), enough)
            }
            Action::Sleep(pause) => {
                thread::sleep(crate::slow::stretched(*pause));
                Ok(())
            }
            Action::Try(action) => {
                let outcome = self.act(action);
                let _ = writeln!(io::stderr(), "tried {action:?}: {outcome:?}");
                Ok(())
            }
        }
    }

    fn send(&mut self, bytes: usize, record: usize) -> io::Result<()> {
        let mut content = vec![0; bytes];
        self.sent.fill(&mut content);
        content.chunks(record).try_for_each(|content| lock(&self.out).data(content))
    }

    fn receive(&mut self, bytes: usize) -> io::Result<()> {
        let mut left = bytes;
        while left > 0 {
            let part = self.seen.take(left.min(1 << 20))?;
            left -= part.len();
            if let Some(at) = self.received.differs(&part) {
                return Err(io::Error::other(format!("byte {at} of a part of {} is wrong", part.len())));
            }
        }
        Ok(())
    }

    fn expect(&self, text: &[u8]) -> io::Result<()> {
        let got = self.seen.take(text.len())?;
        if got == text {
            return Ok(());
        }
        Err(io::Error::other(format!("{:?} came instead", String::from_utf8_lossy(&got))))
    }

    fn broken(&self, by_reset: bool) -> io::Result<()> {
        let start = Instant::now();
        while start.elapsed() < slow::limit(30) {
            let outcome = lock(&self.out).data(b"more");
            match outcome {
                Ok(()) => thread::sleep(Duration::from_millis(20)),
                // The kernel tells of RST once, to whoever asks first.
                Err(e) if !by_reset || e.kind() == io::ErrorKind::ConnectionReset => return Ok(()),
                Err(_) => return self.first("RST", |seen| seen.end == Some(End::Reset)),
            }
        }
        Err(io::Error::other("writing went on"))
    }

    /// Waits until `happened`, and accepts no data before it.
    fn first(&self, what: &str, happened: impl Fn(&Seen) -> bool) -> io::Result<()> {
        self.seen.wait(what, |seen| happened(seen).then_some(()))?;
        let seen = self.seen.lock();
        if seen.data.is_empty() {
            return Ok(());
        }
        let first: Vec<u8> = seen.data.iter().copied().take(40).collect();
        let text = String::from_utf8_lossy(&first);
        Err(io::Error::other(format!("{} bytes came first: {text:?}", seen.data.len())))
    }
}

/// A well-formed NewSessionTicket (RFC 8446, section 4.6.1) that nobody will ever accept.
fn ticket(out: &mut Out, fragmented: bool) -> io::Result<()> {
    let lifetime = 7200_u32.to_be_bytes();
    let body = [&lifetime[..], &[0; 4], &[2, 1, 2], &[0, 32], &[0xab; 32], &[0, 0]].concat();
    let message = keys::message(4, &body);
    let cut = if fragmented { message.len() / 2 } else { message.len() };
    let (start, rest) = message.split_at(cut);
    out.record(kind::HANDSHAKE, start, 0)?;
    if rest.is_empty() { Ok(()) } else { out.record(kind::HANDSHAKE, rest, 0) }
}
