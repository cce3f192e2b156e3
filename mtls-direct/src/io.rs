//! What goes into a machine and what comes out.
use crate::{Counts, FourTuple, Message, Nonce, Reason};

/// Something that happened. `D` is the driver's handle for a duplicate descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Input<D> {
    /// [`Action::Duplicate`] gave this.
    Duplicated(D),
    /// [`Action::Duplicate`] gave nothing, or what was accepted is under no number of any process.
    DuplicateFailed,
    /// The kernel ended the TCP handshake on this node.
    Established,
    /// The application's accept() returned: its process and descriptor are known.
    Accepted,
    /// [`Action::Install`] set both directions.
    Installed,
    /// [`Action::Install`] failed; whatever it set stays.
    InstallFailed,
    /// [`Action::Install`] found that a side had ended.
    NotEstablished,
    /// [`Action::Empty`] saw every thread outside since the keys were set.
    Emptied,
    /// [`Action::Empty`] cannot.
    EmptyFailed,
    /// [`Action::ReleaseWriter`] or [`Action::OpenGuard`] failed.
    ReleaseFailed,
    /// The policy allows it and the port can be direct; with a fresh nonce.
    Allowed(Nonce),
    /// The answer to [`Action::Decide`] is no.
    Refused(Reason),
    /// The other daemon says.
    Peer(Message),
    /// The session died.
    SessionLost,
    /// A timer of [`timers`](crate::Client::timers) ran out.
    Timer(Timer),
    /// No process has the socket any more.
    ApplicationGone,
    /// The kernel's socket reached CLOSE, by FIN on both sides, RST or time-out.
    SocketEnded(Counts),
    /// An identity's lease ended.
    LeaseEnded,
}

/// What a state waits for at most so long. A driver starts the timers of a new state and stops all others; one that both
/// states have goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Timer {
    /// The descriptor, and the answer to `Open`.
    Answer,
    /// The TCP handshake. The kernel's entry in EXPECTED must not outlive it by itself.
    Handshake,
    /// The application's accept().
    Accept,
    /// Duplicate, keys and the moving of threads.
    Arming,
    /// The other side's `Ready`.
    PeerReady,
    /// How long the client's writer waits for a slow accept(); only where early release is on.
    EarlyRelease,
    /// The other side's `Closed`.
    PeerCounts,
}

/// Something to do, in the order given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action<D> {
    /// Take a duplicate of the application's descriptor (pidfd_getfd); answer `Duplicated` or `DuplicateFailed`.
    Duplicate,
    /// Ask policy and capability; answer `Allowed` or `Refused`.
    Decide,
    /// Send to the other daemon. A session that is gone swallows it.
    Send(Message),
    /// Enter the addresses into EXPECTED, with a deadline that the kernel's program keeps by itself.
    Expect(FourTuple),
    /// Take them out again. Before [`Action::Destroy`], so that no SYN slips in between.
    Unexpect(FourTuple),
    /// Let the held SYN go.
    ReleaseSyn,
    /// End the held connect() with an errno that fits the reason.
    RefuseConnect(Reason),
    /// Derive both keys from the session's exporter and the nonces, set TCP_ULP, TLS_RX and TLS_TX, wipe the keys.
    Install {
        /// The duplicate to set them on.
        descriptor: D,
        /// The client's nonce.
        client: Nonce,
        /// The server's nonce.
        server: Nonce,
    },
    /// Move every thread of every process that has the socket out of the calls it was in when the keys were set.
    Empty(D),
    /// Let the guard pass TLS records from the next byte in both directions.
    OpenGuard(D),
    /// Lift the write hold.
    ReleaseWriter(D),
    /// Close the duplicate.
    Close(D),
    /// SOCK_DESTROY whatever has these addresses, a request socket too. Nothing there is no error.
    Destroy(Reason),
    /// For some time this workload and port go by relay.
    Remember(Reason),
    /// For records; always the last action of a connection.
    Report(Outcome),
}

/// Who ended a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// This daemon.
    Us,
    /// The other daemon said so.
    Peer,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// Before the applications ended it.
    Failed(By, Reason),
    /// Every byte that one socket sent arrived at the other.
    Complete,
    /// Bytes are missing; zero bytes in both fields never occurs.
    Truncated {
        /// What the other side did not get of ours.
        sent: u64,
        /// What we did not get of the other side's.
        received: u64,
    },
    /// So many bytes arrived at one of the sides that the other one had not sent.
    Forged(u64),
    /// The other side's counts never came.
    Unverified,
}

/// Why an input changed nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Ignored {
    /// The connection is over already.
    Over,
    /// A timer or an answer that belongs to an earlier state.
    Late,
    /// A message about another connection.
    OtherConnection,
    /// The kernel or driver reported again what is known.
    Known,
    /// The duplicate keeps the socket: arming goes on, and closing the duplicate sends the FIN of plain TCP.
    KeptByDuplicate,
    /// The connection is armed: nothing that the other daemon says out of place may end it.
    Armed,
}

/// What one input led to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step<D> {
    /// What to do, in this order.
    pub actions: Vec<Action<D>>,
    /// Set when the input changed nothing.
    pub ignored: Option<Ignored>,
}

impl<D> Step<D> {
    pub(crate) fn of(actions: Vec<Action<D>>) -> Self {
        Self { actions, ignored: None }
    }

    pub(crate) fn ignored(why: Ignored) -> Self {
        Self { actions: Vec::new(), ignored: Some(why) }
    }
}
