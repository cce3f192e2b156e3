//! What one connection does, by its number: both ends know it without a word.

use std::time::Duration;

use crate::bytes::{Bytes, Random};

/// A client's port is this and the connection's number; below the range that the kernel chooses from.
pub const BASE: u16 = 20_000;

/// How an end waits. A signal's handler makes the second and third return EINTR, whatever SA_RESTART says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// In a call that the kernel begins again by itself after a signal.
    Block,
    /// In a call with a time-out, SO_RCVTIMEO and SO_SNDTIMEO.
    TimeOut,
    /// In poll().
    Poll,
}

/// Who ends it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// Each end says that it is done, by shutdown().
    Both,
    /// The client closes when it has everything.
    Client,
    /// The server does.
    Server,
}

/// One end of one connection.
#[derive(Debug, Clone)]
pub struct Plan {
    /// How it waits.
    pub waiting: Waiting,
    /// Who ends it.
    pub ending: Ending,
    /// Whether this is the client's end.
    pub client: bool,
    /// Bytes that it sends.
    pub sends: usize,
    /// Bytes that it receives.
    pub receives: usize,
    /// Before its first byte.
    pub pause: Duration,
    /// Sizes of its pieces.
    pub sizes: Random,
    seed: u64,
}

impl Plan {
    /// Of connection `number`.
    pub fn new(seed: u64, number: u16, client: bool) -> Self {
        let seed = Random(seed ^ (u64::from(number) << 32)).next();
        let mut random = Random(seed);
        let sizes = [random.chunk(), random.chunk()];
        let ending = match random.next() % 3 {
            0 => Ending::Client,
            1 => Ending::Server,
            _ => Ending::Both,
        };
        // What follows differs between the ends.
        let mut own = Random(seed.rotate_left(if client { 7 } else { 11 }));
        let waiting = match own.next() % 3 {
            0 => Waiting::Block,
            1 => Waiting::TimeOut,
            _ => Waiting::Poll,
        };
        let pause = if own.once_in(2) { Duration::ZERO } else { Duration::from_millis(own.next() % 60) };
        let [sends, receives] = if client { sizes } else { [sizes[1], sizes[0]] };
        Self { waiting, ending, client, sends, receives, pause, sizes: own, seed }
    }

    /// What it sends.
    pub fn outgoing(&self) -> Bytes {
        Bytes::new(self.seed ^ u64::from(self.client))
    }

    /// What it must receive.
    pub fn incoming(&self) -> Bytes {
        Bytes::new(self.seed ^ u64::from(!self.client))
    }

    /// Whether this end says that it is done before it closes.
    pub fn shuts_down(&self) -> bool {
        self.ending == Ending::Both
    }

    /// Whether the other end says that it is done, before this one closes.
    pub fn hears_the_end(&self) -> bool {
        match self.ending {
            Ending::Both => true,
            Ending::Client => !self.client,
            Ending::Server => self.client,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ends_have_the_same_plan() {
        for number in 0..200 {
            let [client, server] = [true, false].map(|client| Plan::new(9, number, client));
            assert_eq!((client.sends, client.receives), (server.receives, server.sends));
            assert_eq!(client.ending, server.ending);
            let (mut sent, mut heard) = ([0; 64], server.incoming());
            client.outgoing().fill(&mut sent);
            assert_eq!(heard.differs(&sent), None);
            // Somebody ends it.
            assert!(client.hears_the_end() || server.hears_the_end());
            assert!(client.sends > 0 && server.sends > 0);
        }
    }
}
