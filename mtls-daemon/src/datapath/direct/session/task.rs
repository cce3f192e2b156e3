//! The task that carries one session: frames in, frames out, until something ends it.

use std::io::{self, Write as _};
use std::sync::Arc;
use std::time::Duration;

use mtls_direct::Message;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::link::{LinkEnd, Shared};
use super::stream::{self, Direction, Heard};
use super::wire::{self, Frame};
use crate::datapath::relay::outbound::reset;
use crate::datapath::relay::session::{SessionError, linger};

/// So long the last words may take.
const FAREWELL: Duration = Duration::from_secs(2);

pub(super) struct Task {
    tcp: TcpStream,
    shared: Arc<Shared>,
    outgoing: mpsc::Receiver<Message>,
    incoming: mpsc::Sender<Message>,
    /// Frames that were not given to the driver yet, the last of them perhaps in part.
    plaintext: Vec<u8>,
    /// The peer will say no more.
    ended: Option<LinkEnd>,
}

impl Task {
    pub(super) fn new(
        tcp: TcpStream,
        shared: Arc<Shared>,
        outgoing: mpsc::Receiver<Message>,
        incoming: mpsc::Sender<Message>,
        plaintext: Vec<u8>,
    ) -> Self {
        Self { tcp, shared, outgoing, incoming, plaintext, ended: None }
    }

    pub(super) async fn run(mut self) {
        let why = self.carry().await;
        self.shared.conclude(why);
        self.shared.say_end();
        match self.shared.why() {
            // Nobody listens there.
            Some(LinkEnd::QueueFull(_) | LinkEnd::Cut | LinkEnd::Io(_)) | None => reset(&self.tcp),
            Some(_) => {
                if tokio::time::timeout(FAREWELL, self.last_words()).await.is_ok_and(|said| said.is_ok()) {
                    linger(self.tcp).await;
                } else {
                    reset(&self.tcp);
                }
            }
        }
    }

    async fn carry(&mut self) -> LinkEnd {
        let mut over = self.shared.watch();
        loop {
            let blocked = match self.deliver() {
                Ok(blocked) => blocked,
                Err(why) => return why,
            };
            if let Some(why) = self.ended.take_if(|_| !blocked) {
                return why;
            }
            let (saying, hearing) = (self.shared.tls().wants_write(), !blocked);
            let concluded = async { over.wait_for(Option::is_some).await.ok().and_then(|why| why.clone()) };
            let room = async { self.incoming.reserve().await.map(drop) };
            let next = tokio::select! {
                why = concluded => Err(why.unwrap_or(LinkEnd::Unused)),
                message = self.outgoing.recv(), if !saying => self.say(message),
                ready = self.tcp.writable(), if saying => ready.map_err(failed).and_then(|()| self.flush()),
                ready = self.tcp.readable(), if hearing => ready.map_err(failed).and_then(|()| self.hear()),
                room = room, if blocked => room.map_err(|_| LinkEnd::Unused),
                () = self.incoming.closed() => Err(LinkEnd::Unused),
            };
            if let Err(why) = next {
                return why;
            }
        }
    }

    /// Gives whole frames to the driver; true: it must take some before more can be read.
    fn deliver(&mut self) -> Result<bool, LinkEnd> {
        let mut done = 0;
        let blocked = loop {
            let waiting = self.plaintext.get(done..).unwrap_or_default();
            let Some((frame, length)) = wire::read(waiting)? else { break false };
            let Frame::Message(message) = frame else { return Err(LinkEnd::Unexpected) };
            let server = message.id.tuple.server;
            if server != self.shared.destination {
                return Err(LinkEnd::OtherDestination(server));
            }
            match self.incoming.try_send(message) {
                Ok(()) => done += length,
                Err(TrySendError::Full(_)) => break true,
                Err(TrySendError::Closed(_)) => return Err(LinkEnd::Unused),
            }
        };
        self.plaintext.drain(..done);
        Ok(blocked)
    }

    fn say(&self, message: Option<Message>) -> Result<(), LinkEnd> {
        self.put(&message.ok_or(LinkEnd::Unused)?).map_err(failed)?;
        self.flush()
    }

    fn put(&self, message: &Message) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(1 + wire::MAX_FRAME);
        wire::write(&Frame::Message(*message), &mut bytes);
        self.shared.tls().writer().write_all(&bytes)
    }

    fn flush(&self) -> Result<(), LinkEnd> {
        stream::say(&self.tcp, &mut self.shared.tls()).map_err(failed)
    }

    fn hear(&mut self) -> Result<(), LinkEnd> {
        let mut tls = self.shared.tls();
        let heard = match stream::hear(&self.tcp, &mut tls) {
            Ok(Heard::Nothing) => return Ok(()),
            Ok(heard) => heard,
            Err(SessionError::Io(error)) => return Err(failed(error)),
            Err(error) => return Err(LinkEnd::Tls(error.to_string())),
        };
        let direction = stream::take_plaintext(&mut tls, &mut self.plaintext).map_err(failed)?;
        self.ended = match (direction, heard) {
            (Direction::Closed, _) if !is_whole(&self.plaintext) => Some(LinkEnd::HalfFrame),
            (Direction::Closed, _) => Some(LinkEnd::PeerClosed),
            (Direction::Cut, _) | (Direction::Open, Heard::End) => Some(LinkEnd::Cut),
            (Direction::Open, _) => None,
        };
        Ok(())
    }

    /// What was queued before the end, and that it is the end.
    async fn last_words(&mut self) -> io::Result<()> {
        self.outgoing.close();
        while let Ok(message) = self.outgoing.try_recv() {
            self.put(&message)?;
            self.drain().await?;
        }
        self.shared.tls().send_close_notify();
        self.drain().await
    }

    async fn drain(&self) -> io::Result<()> {
        while self.shared.tls().wants_write() {
            self.tcp.writable().await?;
            stream::say(&self.tcp, &mut self.shared.tls())?;
        }
        Ok(())
    }
}

/// Nothing but whole frames, as far as can be seen.
fn is_whole(mut bytes: &[u8]) -> bool {
    while let Ok(Some((_, length))) = wire::read(bytes) {
        bytes = bytes.get(length..).unwrap_or_default();
    }
    // What is no frame has an error of its own.
    bytes.is_empty() || wire::read(bytes).is_err()
}

fn failed(error: io::Error) -> LinkEnd {
    LinkEnd::Io(error.to_string())
}
