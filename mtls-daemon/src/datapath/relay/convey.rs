//! The long part of a connection's life, in a task of its own: what its opening needed is given back by then.

use std::borrow::Cow;
use std::time::Duration;

use tokio::net::TcpStream;

use super::admission::ConnectionPermit;
use super::carrier::{Carrier, NotDirect};
use super::context::Offload;
use super::pump::{Codec, Pump};
use super::session::Session;
use crate::datapath::PumpError;
use crate::datapath::buffer::Buffer;
use crate::lease::Lease;
use crate::observe::connection::{Datapath, Ending};
use crate::observe::observer::Observed;

/// The peer's side of an open connection.
pub enum Peer {
    /// TLS of ours.
    Tls {
        /// After its handshake.
        session: Session,
        /// On what terms the kernel may take it, or why not.
        offload: Result<Offload, Cow<'static, str>>,
        /// How many records one key may protect.
        records_per_key: Option<u64>,
        /// Why it is not direct.
        not_direct: NotDirect,
    },
    /// Bytes that are passed on as they are.
    Plain {
        /// The socket.
        tcp: TcpStream,
        /// What was read from it already.
        first: Vec<u8>,
        /// What they are.
        datapath: Datapath,
    },
}

/// An open connection: both ends are there.
pub struct Open {
    /// The application's socket.
    pub application: TcpStream,
    /// The other one.
    pub peer: Peer,
}

/// What ends it besides its ends.
pub struct Limits {
    /// Time without a byte.
    pub idle: Option<Duration>,
    /// What keeps it alive.
    pub lease: Lease,
    /// Its place among the connections that may be open.
    pub permit: ConnectionPermit,
}

/// Moves bytes until the end, which is reported.
pub fn spawn(open: Open, limits: Limits, observed: Observed) {
    observed.connection().learn(|learned| learned.standing = limits.lease.standing());
    // Boxed: a future keeps the place of its arguments for its whole life.
    tokio::spawn(convey(Box::new((open, limits, observed))));
}

async fn convey(all: Box<(Open, Limits, Observed)>) {
    let (open, Limits { idle, mut lease, permit }, observed) = *all;
    let mut carrier = match begin(open, &observed) {
        Ok(carrier) => carrier,
        Err(error) => {
            observed.end(Ending::Cut(error.refusal()));
            return;
        }
    };
    let result = carrier.run_until(idle, &mut lease).await;
    carrier.end(&result);
    drop((lease, permit));
    observed.end(match result {
        Ok(()) => Ending::Closed,
        Err(error) => Ending::Cut(error.refusal()),
    });
}

/// Not a part of the future: it would keep what is needed here only.
fn begin(open: Open, observed: &Observed) -> Result<Carrier<'_>, PumpError> {
    let Open { application, peer } = open;
    match peer {
        Peer::Tls { session, offload, records_per_key, not_direct } => {
            Ok(Carrier::new(session, application, observed, offload, records_per_key, not_direct)?)
        }
        Peer::Plain { tcp, first, datapath } => {
            observed.established(datapath, None);
            let none = Buffer::default;
            let pump = Pump::new(application, tcp, Codec::Plain, observed, none(), first.into(), none());
            Ok(Carrier::Other(pump))
        }
    }
}

/// Bytes of the task of an open connection.
#[cfg(test)]
pub fn size_of_task() -> usize {
    fn of<A, F: Future>(_: impl Fn(A) -> F) -> usize {
        size_of::<F>()
    }
    of(convey)
}
