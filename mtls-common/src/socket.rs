//! What the programs remember about one socket (a `BPF_MAP_TYPE_SK_STORAGE` value).

/// An address and a port. Aligned so that eBPF copies it by words.
#[repr(C, align(4))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The address; IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
    /// The port, host byte order.
    pub port: u16,
    /// Always zero.
    pub reserved: u16,
}

impl Endpoint {
    /// The first 12 bytes of an IPv4-mapped address (RFC 4291, section 2.5.5.2).
    pub const V4_PREFIX: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];

    /// True for `::ffff:a.b.c.d`.
    #[inline(always)]
    #[must_use]
    pub fn is_ipv4(&self) -> bool {
        is_ipv4(&self.address)
    }
}

/// True for `::ffff:a.b.c.d`.
#[inline(always)]
#[must_use]
pub fn is_ipv4(address: &[u8; 16]) -> bool {
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = *address;
    [a, b, c, d, e, f, g, h, i, j, k, l] == Endpoint::V4_PREFIX
}

/// What a socket is to mtlsd. Discriminants are the values in [`SocketState::kind`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SocketKind {
    /// The daemon's own: never captured.
    Own = 1,
    /// An application's outbound socket, rewritten to the daemon's listener; its SYN is held.
    Captured = 2,
    /// The application's end of a delivery by the daemon.
    Delivered = 3,
    /// Seen and left alone.
    Untouched = 4,
    /// May not send: it tried to leave a strict workload in a way that cannot be captured.
    Blocked = 5,
    /// A captured socket whose connection is established, and that has sent nothing yet.
    Established = 6,
    /// A captured socket that has sent its first bytes.
    Flowing = 7,
    /// Opened where every process must belong to a workload, and not known yet to belong to one. `netns` is set.
    Unclassified = 8,
    /// A client's socket that is to become direct: it kept its address, and its SYN is held.
    DirectSyn = 9,
    /// A direct connection that is established: it may send and receive nothing yet.
    DirectHeld = 10,
    /// It has its keys: the next bytes in each direction must be a TLS record.
    DirectArmed = 11,
    /// They were, in both directions.
    DirectFlowing = 12,
    /// A prober's socket, on its way to a port that some workload is probed on.
    Probing = 13,
    /// The workload's end of a probe: plain, and let in past the daemon.
    Probed = 14,
}

impl SocketKind {
    /// True for the kind of a captured socket whose connection is established.
    #[inline(always)]
    #[must_use]
    pub const fn is_connected(raw: u32) -> bool {
        raw == Self::Established.raw() || raw == Self::Flowing.raw()
    }

    /// True for the kinds of a direct connection.
    #[inline(always)]
    #[must_use]
    pub const fn is_direct(raw: u32) -> bool {
        raw >= Self::DirectSyn.raw() && raw <= Self::DirectFlowing.raw()
    }

    /// The value stored in [`SocketState::kind`].
    #[inline(always)]
    #[must_use]
    pub const fn raw(self) -> u32 {
        self as u32
    }
}

/// One direction of a direct connection, in TCP's sequence numbers.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direction {
    /// The number of the first byte, known from ESTABLISHED on.
    pub first: u32,
    /// The number behind the FIN, when [`Direction::FIN`] is seen.
    pub fin: u32,
    /// [`Direction::RECORD`], [`Direction::FIN`] and [`Direction::WITH_WRITER`].
    pub seen: u32,
    /// Always zero.
    pub reserved: u32,
    /// Bytes of packets since records flow in both directions: never fewer than those of the records.
    pub bytes: u64,
}

impl Direction {
    /// The first bytes were seen, and are a TLS record.
    pub const RECORD: u32 = 1;
    /// A FIN was seen.
    pub const FIN: u32 = 1 << 1;
    /// Nothing comes in before this end's writer was let go: a server that reads a request must be able to answer it.
    pub const WITH_WRITER: u32 = 1 << 2;

    /// Bytes of payload, from how many numbers were used since ESTABLISHED by the kernel's count and the number that is
    /// next. The low half of the count is corrected by the numbers: the kernel counts a client's SYN too.
    #[inline(always)]
    #[must_use]
    pub const fn payload(&self, counted: u64, next: u32) -> u64 {
        let numbers = next.wrapping_sub(self.first);
        let [.., a, b, c, d] = counted.to_be_bytes();
        let surplus = u32::from_be_bytes([a, b, c, d]).wrapping_sub(numbers);
        let fin = self.seen & Self::FIN != 0 && self.fin == next;
        counted.wrapping_sub(surplus as u64).wrapping_sub(fin as u64)
    }
}

/// One socket's state.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SocketState {
    /// A [`SocketKind`]; 0 is unused.
    pub kind: u32,
    /// The workload's number.
    pub workload: u32,
    /// Cookie of the socket's network namespace.
    pub netns: u64,
    /// The destination's number in the directory, 0 when none.
    pub destination: u32,
    /// Held SYNs announced so far.
    pub announced: u32,
    /// What `getpeername()` must say: the original destination (captured) or the true client (delivered,
    /// and on the daemon's own delivery socket, from where it is handed over).
    pub peer: Endpoint,
    /// What `getsockname()` must say: the address that the wire shows. Zero while unknown.
    pub local: Endpoint,
    /// Of a direct connection: what this end sends.
    pub sent: Direction,
    /// Of a direct connection: what this end receives.
    pub received: Direction,
    /// [`SocketKind::DirectSyn`]: the process that called connect().
    pub pid: u32,
    /// [`SocketKind::DirectSyn`]: the descriptor that it called it with.
    pub descriptor: i32,
    /// Of a direct connection: how many bytes one key may protect. 0: any number.
    pub key_limit: u64,
}

/// TCP_NOTSENT_LOWAT of a direct connection, bytes (a `BPF_MAP_TYPE_SK_STORAGE` value, which the programs alone write).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnsentLimit {
    /// What the application wants. 0: nothing, or the system's default.
    pub wish: u32,
    /// The largest with which no record is cut, as the daemon found when it let the writer go. 0: it is held.
    pub ceiling: u32,
}

impl UnsentLimit {
    /// The value of a socket that was let go.
    #[inline(always)]
    #[must_use]
    pub const fn in_force(&self) -> u32 {
        // 0 would be the namespace's, which holds.
        if self.wish == 0 || self.wish > self.ceiling { self.ceiling } else { self.wish }
    }
}

/// What the daemon gives setsockopt() as TCP_NOTSENT_LOWAT to let a direct connection go. The program at setsockopt() knows it
/// by that from the application's own call; a kernel without the program reads the first word, as of every such option.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LetGo {
    /// The value, bytes.
    pub limit: u32,
    /// See [`UnsentLimit::ceiling`].
    pub ceiling: u32,
    /// [`LetGo::MARK`].
    pub mark: u32,
}

impl LetGo {
    /// No secret: an application that says it ends its own hold, and the guard drops what it then writes too early.
    pub const MARK: u32 = u32::from_be_bytes(*b"mtls");

    /// What the daemon says.
    #[must_use]
    pub const fn new(limit: u32, ceiling: u32) -> Self {
        Self { limit, ceiling, mark: Self::MARK }
    }

    /// Whether it is that, and not what an application wants.
    #[inline(always)]
    #[must_use]
    pub const fn is_from_the_daemon(&self) -> bool {
        self.mark == Self::MARK && self.ceiling != 0
    }

    /// As the kernel takes it.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 12] {
        let [a, b, c, d] = self.limit.to_ne_bytes();
        let [e, f, g, h] = self.ceiling.to_ne_bytes();
        let [i, j, k, l] = self.mark.to_ne_bytes();
        [a, b, c, d, e, f, g, h, i, j, k, l]
    }
}

/// A SYN that shall reach the application's own listener.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Expected {
    /// Until when, in ns of CLOCK_BOOTTIME.
    pub deadline: u64,
    /// The server's workload.
    pub workload: u32,
    /// Always zero.
    pub reserved: u32,
}

/// A direct connection that is established, for a daemon that starts again.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectSocket {
    /// Cookie of the socket's network namespace.
    pub netns: u64,
    /// The daemon's number for the session that it was made on, noted with [`Phase::Released`]; 0 before.
    pub session: u64,
    /// The workload's number.
    pub workload: u32,
    /// The destination's number in the directory; 0 for the server's end.
    pub destination: u32,
    /// A [`Role`].
    pub role: u32,
    /// A [`Phase`]. The programs write it once, when the connection is established; then it is the daemon's.
    pub phase: u32,
    /// This end.
    pub local: Endpoint,
    /// The other end.
    pub remote: Endpoint,
}

/// Whether the writer of a direct connection was let go. Discriminants are the values in [`DirectSocket::phase`].
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Nothing has left it: whoever finds it without a daemon ends it.
    Held = 1,
    /// Both ends have their keys, and the writer was let go or was about to be: it goes on without a daemon.
    Released = 2,
}

impl Phase {
    /// The phase for a number in the map; `None` for one this version does not know.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Held),
            2 => Some(Self::Released),
            _ => None,
        }
    }
}

/// Which end of a connection a socket is. Discriminants are the values in maps and events.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// It called connect().
    Client = 1,
    /// accept() gave it.
    Server = 2,
}

impl Role {
    /// The role for a number in a map or event; `None` for one this version does not know.
    #[must_use]
    pub const fn from_raw(raw: u32) -> Option<Self> {
        match raw {
            1 => Some(Self::Client),
            2 => Some(Self::Server),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payload_leaves_out_a_syn_that_the_kernel_counted_and_a_fin_that_it_reached() {
        let mut sent = Direction { first: u32::MAX - 9, ..Direction::default() };
        assert_eq!(sent.payload(101, 90), 100, "the SYN is no payload");
        assert_eq!(sent.payload(100, 90), 100);
        sent.seen = Direction::FIN;
        sent.fin = 91;
        assert_eq!(sent.payload(101, 91), 100, "the FIN is no payload");
        assert_eq!(sent.payload(100, 90), 100, "the FIN was seen, but not reached");
    }

    #[test]
    fn payload_may_be_more_than_the_sequence_numbers_can_count() {
        let sent = Direction { first: 5, ..Direction::default() };
        let total = (1u64 << 33) + 7;
        assert_eq!(sent.payload(total + 1, 12), total);
    }

    #[test]
    fn an_application_can_only_lower_the_limit_of_a_socket_that_was_let_go() {
        let of = |wish| UnsentLimit { wish, ceiling: 15_000 }.in_force();
        assert_eq!([0, 1, 15_000, 15_001, u32::MAX].map(of), [15_000, 1, 15_000, 15_000, 15_000]);
    }

    #[test]
    fn the_daemon_is_told_from_an_application_by_more_than_the_length() {
        let order = LetGo::new(700, 15_000);
        assert!(order.is_from_the_daemon());
        assert!(!LetGo { mark: 0, ..order }.is_from_the_daemon() && !LetGo::new(700, 0).is_from_the_daemon());
        let bytes = order.to_bytes();
        assert_eq!(bytes.len(), size_of::<LetGo>());
        assert_eq!(bytes[..4], 700u32.to_ne_bytes());
        assert_eq!(bytes[4..8], 15_000u32.to_ne_bytes());
    }

    #[test]
    fn the_kinds_of_direct_connections_are_known_as_such() {
        let direct = [
            SocketKind::DirectSyn,
            SocketKind::DirectHeld,
            SocketKind::DirectArmed,
            SocketKind::DirectFlowing,
        ];
        assert!(direct.iter().all(|kind| SocketKind::is_direct(kind.raw())));
        assert!(
            !SocketKind::is_direct(SocketKind::Unclassified.raw())
                && !SocketKind::is_direct(SocketKind::Probing.raw())
        );
        assert_eq!([1, 2, 3].map(Role::from_raw), [Some(Role::Client), Some(Role::Server), None]);
        assert_eq!([0, 1, 2, 3].map(Phase::from_raw), [None, Some(Phase::Held), Some(Phase::Released), None]);
    }
}
