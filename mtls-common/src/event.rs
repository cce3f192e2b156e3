//! Events: what the programs tell user space, one record in the ring buffer each.

use crate::Endpoint;

/// Room for an IP header and a TCP header with all their options (60 bytes each), rounded up.
pub const SYN_CAPACITY: usize = 128;

/// In place of a descriptor: the connection could have been direct, but no program saw the system call of its connect().
pub const UNREPORTED: i32 = -1;

/// What happened. Discriminants are the values in [`Event::kind`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A captured connection's SYN is held; `packet` has its headers.
    Held = 1,
    /// The application gave up on a captured connection before it was established.
    Abandoned = 2,
    /// connect() refused by policy.
    DeniedPolicy = 3,
    /// connect() refused because the destination is unknown.
    DeniedUnknown = 4,
    /// A socket of a strict workload was blocked, or one of its packets dropped, by the guard.
    Unaccounted = 5,
    /// A strict workload's connection was refused because the daemon is not in its namespace.
    NotEntered = 6,
    /// A SYN was refused by policy, for the address that it comes from.
    DeniedSource = 7,
    /// A process that belongs to no workload was refused where every process must belong to one.
    Unclassified = 8,
    /// The SYN of a connection that is to become direct is held; `packet`, `pid` and `descriptor` say of whom.
    DirectSyn = 9,
    /// A direct connection is established; `role` says which end.
    DirectEstablished = 10,
    /// accept() gave a direct connection to `pid` as `descriptor`.
    DirectAccepted = 11,
    /// A direct connection, or the attempt at one, is closed; `sent` and `received` count its bytes.
    DirectEnded = 12,
    /// A direct connection is blocked: what came first was no TLS record.
    DirectViolation = 13,
    /// A key of a direct connection has protected as much as it may.
    DirectKeyLimit = 14,
}

impl EventKind {
    /// The kind for a number read from the ring; `None` for one this version does not know.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Held),
            2 => Some(Self::Abandoned),
            3 => Some(Self::DeniedPolicy),
            4 => Some(Self::DeniedUnknown),
            5 => Some(Self::Unaccounted),
            6 => Some(Self::NotEntered),
            7 => Some(Self::DeniedSource),
            8 => Some(Self::Unclassified),
            9 => Some(Self::DirectSyn),
            10 => Some(Self::DirectEstablished),
            11 => Some(Self::DirectAccepted),
            12 => Some(Self::DirectEnded),
            13 => Some(Self::DirectViolation),
            14 => Some(Self::DirectKeyLimit),
            _ => None,
        }
    }
}

/// One record of the ring.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// An [`EventKind`].
    pub kind: u32,
    /// The workload's number.
    pub workload: u32,
    /// The socket's cookie (`SO_COOKIE`).
    pub cookie: u64,
    /// Cookie of the socket's network namespace.
    pub netns: u64,
    /// The directory's number of the destination, 0 when none.
    pub destination: u32,
    /// How many SYNs of this socket were announced before; 0 the first time.
    pub announced: u32,
    /// The destination that the application asked for; of an inbound connection, the address of the workload; of a
    /// direct one, the server.
    pub original: Endpoint,
    /// Where an inbound connection comes from; of a direct one, the client.
    pub source: Endpoint,
    /// Bytes used in `packet`.
    pub packet_len: u32,
    /// The held SYN from its IP header on.
    pub packet: [u8; SYN_CAPACITY],
    /// The process that called connect() or accept(), where the kind says so; 0 when it is not known.
    pub pid: u32,
    /// [`EventKind::DirectEnded`]: bytes of payload that TCP sent, acknowledged or not.
    pub sent: u64,
    /// [`EventKind::DirectEnded`]: bytes of payload that TCP received.
    pub received: u64,
    /// The descriptor of connect() or accept(), where the kind says so. [`EventKind::Held`]: [`UNREPORTED`] or 0.
    pub descriptor: i32,
    /// The [`Role`](crate::Role) of a direct connection's socket, 0 when it is not known.
    pub role: u32,
}
