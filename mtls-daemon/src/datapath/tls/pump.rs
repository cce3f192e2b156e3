//! Moving bytes between the application and a peer whose records are sealed and opened here, in place: what is read from one
//! socket is written to the other out of the same memory.
//!
//! One task per connection and no lock: each direction reads only when what it read before is written, so a connection
//! never holds more than one read's worth of bytes per direction.

mod handover;
mod inbound;
mod outbound;
mod pieces;
mod rest;

use std::future::poll_fn;
use std::task::{Context, Poll};

use rustls::AlertDescription;
use tokio::net::TcpStream;

pub use self::handover::{Handover, WORTH};
use self::rest::Rest;
use super::channel::{Handed, UserChannel};
use super::error::ChannelError;
use super::seal::MAX_SEALED;
use crate::datapath::PumpError;
use crate::datapath::buffer::Buffer;
use crate::datapath::ends::{Failures, close_politely, reset_unless_ended};
use crate::datapath::relay::session::end_politely;
use crate::observe::observer::Observed;

/// Most full records that one read of the application makes; and what is read from the peer at once. With 4 the ends wake each
/// other so often that a download is a quarter slower.
const RECORDS: usize = 16;
/// Bytes of so many records.
const ROOM: usize = RECORDS * MAX_SEALED;

/// Why a pump stopped moving bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// Both directions have ended.
    All,
    /// The kernel may take the connection over now.
    Enough,
}

/// A connection with both ends open.
pub struct UserPump<'a> {
    application: TcpStream,
    peer: TcpStream,
    flow: Flow<'a>,
}

/// What is between the sockets.
struct Flow<'a> {
    channel: UserChannel,
    observed: &'a Observed,
    /// A record of the peer that is not complete.
    incoming: Buffer,
    to_application: Buffer,
    to_peer: Buffer,
    /// The application's last read filled a record.
    bulk: bool,
    application_ended: bool,
    peer_ended: bool,
    told_application: bool,
    told_peer: bool,
    /// `None`: it stays here for good.
    handover: Option<Handover>,
    rest: Rest,
}

impl<'a> UserPump<'a> {
    /// `plaintext`: what the peer said that is decrypted already.
    pub fn new(
        application: TcpStream,
        peer: TcpStream,
        channel: UserChannel,
        observed: &'a Observed,
        mut plaintext: Buffer,
    ) -> Self {
        for socket in [&application, &peer] {
            reset_unless_ended(socket);
        }
        plaintext.consume(0);
        observed.add_received(crate::datapath::ends::count(plaintext.waiting().len()));
        let flow = Flow {
            channel,
            observed,
            incoming: Buffer::default(),
            to_application: plaintext,
            to_peer: Buffer::default(),
            bulk: false,
            application_ended: false,
            peer_ended: false,
            told_application: false,
            told_peer: false,
            handover: None,
            rest: Rest::default(),
        };
        Self { application, peer, flow }
    }

    /// Lets [`UserPump::run`] return when the connection is to be handed to the kernel; `None`: never.
    pub fn hand_over(&mut self, when: Option<Handover>) {
        self.flow.handover = when;
    }

    /// The peer's socket.
    pub fn peer(&self) -> &TcpStream {
        &self.peer
    }

    /// Where what is moved is counted.
    pub fn observed(&self) -> &'a Observed {
        self.flow.observed
    }

    /// After [`Moved::Enough`]: the application's socket, the peer's, the connection between them, and what the
    /// application has not taken yet.
    ///
    /// # Errors
    /// The connection is lost then.
    pub fn into_parts(self) -> Result<(TcpStream, TcpStream, Handed, Buffer), ChannelError> {
        Ok((self.application, self.peer, self.flow.channel.hand_over()?, self.flow.to_application))
    }

    /// Moves bytes until both directions have ended, or one end fails, or the kernel is to go on.
    ///
    /// # Errors
    /// Why the connection was cut.
    pub async fn run(&mut self) -> Result<Moved, PumpError> {
        let Self { application, peer, flow } = self;
        let (application, peer) = (&*application, &*peer);
        let mut failures = Failures::default();
        poll_fn(|cx| {
            if let Poll::Ready(result) = flow.poll(application, peer, cx) {
                return Poll::Ready(result);
            }
            flow.rest.poll(&mut flow.channel, cx);
            let ended = (flow.told_peer.then_some(application), flow.told_application.then_some(peer));
            failures.poll(ended.0, ended.1, cx).map(Err)
        })
        .await
    }

    /// Closes both sockets: with FIN after a good end, with RST otherwise; after a TLS error the peer gets its
    /// alert first.
    pub fn end(self, result: &Result<(), PumpError>) {
        let Self { application, peer, mut flow } = self;
        match result {
            Ok(()) => close_politely(&[&application, &peer]),
            Err(PumpError::Channel(error)) => {
                if let Some(alert) = error.alert() {
                    flow.say(&peer, alert);
                }
                // FIN rather than RST, which would overtake the alert.
                close_politely(&[&peer]);
                end_politely(peer);
            }
            Err(_) => {}
        }
    }
}

type Step = Poll<Result<(), PumpError>>;

impl Flow<'_> {
    fn poll(
        &mut self,
        application: &TcpStream,
        peer: &TcpStream,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Moved, PumpError>> {
        // A direction that waits is left alone until something has changed for it.
        let (mut outbound, mut inbound) = (true, true);
        while outbound || inbound {
            if outbound {
                outbound = self.poll_outbound(application, peer, cx)?.is_ready();
            }
            // Between the directions too: when both carry much, this is when nothing waits to be sent.
            if self.may_hand_over() {
                return Poll::Ready(Ok(Moved::Enough));
            }
            if inbound {
                inbound = self.poll_inbound(application, peer, cx)?.is_ready();
                outbound |= self.channel.owes_key_update() && self.to_peer.is_empty();
            }
            if self.told_application && self.told_peer {
                return Poll::Ready(Ok(Moved::All));
            }
            if self.may_hand_over() {
                return Poll::Ready(Ok(Moved::Enough));
            }
        }
        Poll::Pending
    }

    /// Tells the peer why the connection ends, as far as there is room at once.
    fn say(&mut self, peer: &TcpStream, alert: AlertDescription) {
        let _unsaid = self.channel.alert(alert, self.to_peer.tail());
        let _too_late = peer.try_write(self.to_peer.waiting());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::tests::ends::Watched;

    impl Watched for UserPump<'_> {
        fn step(&mut self, cx: &mut Context<'_>) -> Step {
            self.flow.poll(&self.application, &self.peer, cx).map_ok(|_| ())
        }

        fn buffers(&self) -> [&Buffer; 3] {
            [&self.flow.incoming, &self.flow.to_application, &self.flow.to_peer]
        }
    }
}
