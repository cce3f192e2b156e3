//! The state of everything.
use std::hash::{Hash, Hasher};

use mtls_direct::{
    Action, Body, Client, ClientState, ConnectionId, FourTuple, Half, Input, Message, Nonce, Server,
    ServerState, Step, Timer,
};

/// The client's side in every array of two.
pub const A: usize = 0;
/// The server's side.
pub const B: usize = 1;
/// The only handle there is.
pub const DUP: u8 = 1;

/// What is wrong on purpose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// Nothing.
    None,
    /// Threads stay where they were.
    NoKick,
    /// The guard passes everything.
    NoGuard,
    /// The guard passes everything and the writer is let go with the own `Ready`.
    NoGuardAndHasty,
    /// The guard opens when the keys are set, before the threads have left.
    GuardBeforeKick,
    /// Any record of the right keys is taken, whatever its number.
    NoRecordNumbers,
    /// Not ours: TCP's FIN is not authenticated, an attacker may send one.
    ForgedFin,
    /// The duplicate is never closed.
    NoClose,
    /// A failure leaves the socket alone.
    NoDestroy,
    /// A writer let go early is destroyed when the session dies.
    EarlyDiesWithSession,
    /// A daemon that starts leaves held sockets alone.
    NoRecovery,
    /// A daemon that starts destroys what was released, too.
    RecoveryOfAll,
}

/// What is explored.
#[derive(Clone, Copy, Debug)]
pub struct Direct {
    /// What is wrong on purpose.
    pub flaw: Flaw,
    /// Whether the client's writer may be let go early.
    pub early_release: bool,
    /// Bytes that client and server send; each is a segment of its own.
    pub length: [u8; 2],
    /// Whether the attacker plays.
    pub attacker: bool,
    /// Whether daemons and the session may die.
    pub deaths: bool,
    /// Whether system calls, time-outs, leases and applications may fail.
    pub failures: bool,
}

/// A daemon's part.
#[derive(Clone, Copy, Debug)]
pub enum Daemon {
    /// Nothing heard yet (server's side).
    Idle,
    /// The client's machine.
    Client(Client<u8>),
    /// The server's machine.
    Server(Server<u8>),
    /// Killed.
    Dead,
    /// Started again, without a machine.
    Restarted,
}

/// A machine that is over behaves alike whatever it ended by, so the reason makes no state of its own; and all that
/// a machine has besides its state is the same in every world.
#[derive(PartialEq, Eq, Hash)]
enum Seen<'a> {
    Idle,
    Client(&'a ClientState<u8>),
    Server(&'a ServerState<u8>),
    Over,
    Dead,
    Restarted,
}

impl PartialEq for Daemon {
    fn eq(&self, other: &Self) -> bool {
        self.seen() == other.seen()
    }
}

impl Eq for Daemon {}

impl Hash for Daemon {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.seen().hash(state);
    }
}

impl Daemon {
    fn seen(&self) -> Seen<'_> {
        match self {
            Self::Idle => Seen::Idle,
            Self::Client(machine) if !machine.is_over() => Seen::Client(machine.state()),
            Self::Server(machine) if !machine.is_over() => Seen::Server(machine.state()),
            Self::Client(_) | Self::Server(_) => Seen::Over,
            Self::Dead => Seen::Dead,
            Self::Restarted => Seen::Restarted,
        }
    }

    /// Hands an input to the machine.
    pub fn step(&mut self, input: Input<u8>) -> Step<u8> {
        match self {
            Self::Client(machine) => machine.step(input),
            Self::Server(machine) => machine.step(input),
            Self::Idle | Self::Dead | Self::Restarted => Step { actions: Vec::new(), ignored: None },
        }
    }

    pub fn timers(&self) -> &'static [Timer] {
        match self {
            Self::Client(machine) => machine.timers(),
            Self::Server(machine) => machine.timers(),
            Self::Idle | Self::Dead | Self::Restarted => &[],
        }
    }

    pub fn is_over(&self) -> bool {
        match self {
            Self::Client(machine) => machine.is_over(),
            Self::Server(machine) => machine.is_over(),
            Self::Idle | Self::Dead | Self::Restarted => true,
        }
    }

    /// The writer was let go before the other side's `Ready`.
    pub fn is_early(&self) -> bool {
        matches!(self, Self::Client(machine) if *machine.state() == ClientState::Half(Half::Early))
    }

    pub fn has_machine(&self) -> bool {
        matches!(self, Self::Client(_) | Self::Server(_))
    }
}

/// What the driver is busy with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Job {
    Duplicate,
    Decide,
    Install,
    Empty,
}

/// The socket in its kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Socket {
    /// Not there yet.
    None,
    /// The SYN is held or on its way.
    Opening,
    /// Established, in the listener's queue.
    Queued,
    /// Established, in the application's hands.
    Up,
    /// Ended.
    Gone,
}

/// What an application's thread is inside of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Thread {
    Out,
    PlainSend,
    PlainRecv,
}

/// What a segment carries. The number is the place of the byte in the stream, for TLS that of the record too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Content {
    Tls(u8),
    Plain(u8),
    /// The attacker's plaintext.
    Evil,
}

/// One node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Side {
    pub daemon: Daemon,
    pub job: Option<Job>,
    /// Reports of the kernel that the daemon has had.
    pub told_established: bool,
    pub told_accepted: bool,
    pub told_ended: bool,
    pub told_lost: bool,
    pub told_gone: bool,
    pub socket: Socket,
    pub held: bool,
    pub tls: bool,
    /// The guard passes TLS records.
    pub open: bool,
    /// The daemon has a duplicate.
    pub dup: bool,
    /// The application has closed the socket or was killed.
    pub ended: bool,
    pub threads: [Thread; 2],
    pub sent: Vec<Content>,
    /// How many of `sent` went past the guard onto the wire.
    pub passed: u8,
    /// How many segments TCP took in.
    pub taken: u8,
    pub queue: Vec<Content>,
    /// Bytes that the application has read, in order.
    pub read: u8,
    /// A record was refused: every later read fails.
    pub broken: bool,
    pub fin: bool,
    pub rst: bool,
}

/// Everything.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct World {
    pub side: [Side; 2],
    /// Messages on their way *to* the side.
    pub channel: [Vec<Body>; 2],
    pub session: bool,
    /// The SYN was let go.
    pub syn_free: bool,
    /// The connection went to the server's daemon's own listener.
    pub strayed: bool,
    pub expected: bool,
    pub can_inject: bool,
    pub can_replay: bool,
    pub can_end_lease: bool,
    /// Both writers were let go.
    pub settled: bool,
    /// Properties that were broken on the way here.
    pub broken: Vec<&'static str>,
}

pub fn id() -> ConnectionId {
    let address = |last| (std::net::Ipv4Addr::new(10, 0, 0, last), 1000).into();
    ConnectionId { tuple: FourTuple { client: address(1), server: address(2) }, nonce: Nonce([7; 16]) }
}

pub fn message(body: Body) -> Message {
    Message { id: id(), body }
}

impl Side {
    fn new(daemon: Daemon, socket: Socket) -> Self {
        Self {
            daemon,
            job: None,
            told_established: false,
            told_accepted: false,
            told_ended: false,
            told_lost: false,
            told_gone: false,
            socket,
            held: true,
            tls: false,
            open: false,
            dup: false,
            ended: false,
            threads: [Thread::Out; 2],
            sent: Vec::new(),
            passed: 0,
            taken: 0,
            queue: Vec::new(),
            read: 0,
            broken: false,
            fin: false,
            rst: false,
        }
    }

    pub fn alive(&self) -> bool {
        matches!(self.socket, Socket::Queued | Socket::Up)
    }
}

impl World {
    pub fn new(direct: &Direct) -> Self {
        let (client, actions) = Client::new(id(), direct.early_release);
        assert_eq!(actions, [Action::Duplicate]);
        let mut client = Side::new(Daemon::Client(client), Socket::Opening);
        client.job = Some(Job::Duplicate);
        Self {
            side: [client, Side::new(Daemon::Idle, Socket::None)],
            channel: [Vec::new(), Vec::new()],
            session: true,
            syn_free: false,
            strayed: false,
            expected: false,
            can_inject: direct.attacker,
            can_replay: direct.attacker,
            can_end_lease: direct.failures,
            settled: false,
            broken: Vec::new(),
        }
    }

    /// Gives what can no longer matter one value, so that states which differ in nothing else are one.
    pub fn normalise(&mut self) {
        let past = |side: &Side| matches!(side.socket, Socket::None | Socket::Gone);
        let over = self.side.iter().all(|side| side.daemon.is_over() && side.daemon != Daemon::Idle);
        for i in [A, B] {
            let side = &mut self.side[i];
            if side.socket == Socket::Gone {
                (side.held, side.tls, side.open, side.fin, side.broken) = (true, false, false, false, false);
                (side.ended, side.told_gone, side.read, side.rst) = (true, true, 0, false);
            }
            if side.daemon.is_over() && side.daemon != Daemon::Idle {
                (side.told_ended, side.told_lost, side.told_gone) = (true, true, true);
                if side.socket == Socket::Gone {
                    (side.told_established, side.told_accepted) = (true, true);
                }
                self.channel[i].clear();
            }
        }
        if over {
            (self.session, self.can_end_lease) = (true, false);
        }
        if self.side.iter().all(past) && self.side[A].socket == Socket::Gone {
            for side in &mut self.side {
                (side.sent, side.passed, side.taken) = (Vec::new(), 0, 0);
            }
            (self.can_inject, self.can_replay, self.settled) = (false, false, false);
        }
    }

    pub fn breaks(&mut self, property: &'static str) {
        if !self.broken.contains(&property) {
            self.broken.push(property);
            self.broken.sort_unstable();
        }
    }
}
