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
}

impl SocketKind {
    /// True for the kind of a captured socket whose connection is established.
    #[inline(always)]
    #[must_use]
    pub const fn is_connected(raw: u32) -> bool {
        raw == Self::Established.raw() || raw == Self::Flowing.raw()
    }

    /// The value stored in [`SocketState::kind`].
    #[inline(always)]
    #[must_use]
    pub const fn raw(self) -> u32 {
        self as u32
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
}
