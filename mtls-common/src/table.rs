//! Map values: what user space tells the programs.

/// A network namespace that the daemon is in.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Namespace {
    /// The workload that owns the whole namespace; 0 when it is shared by workloads found by cgroup or user.
    pub workload: u32,
    /// Port of the daemon's outbound listener on 127.0.0.1, host byte order; 0: none.
    pub outbound_v4: u16,
    /// Port of the daemon's outbound listener on ::1, host byte order; 0: none.
    pub outbound_v6: u16,
}

/// Bits of [`Workload::flags`].
pub mod workload_flags {
    /// Fails closed: what the daemon does not carry does not leave.
    pub const STRICT: u32 = 1;
    /// Outbound connections to directory destinations are captured.
    pub const CAPTURE: u32 = 1 << 1;
    /// Destinations that the directory does not know are refused.
    pub const DENY_UNKNOWN: u32 = 1 << 2;
    /// Sockets of the namespace that the workload owns alone are born held (`net.ipv4.tcp_notsent_lowat` is 0
    /// there), and its connections may be direct.
    pub const DIRECT: u32 = 1 << 3;
    /// With [`DIRECT`]: no relay carries its connections; the daemon makes each direct or fails it.
    pub const DIRECT_REQUIRED: u32 = 1 << 4;
    /// It names no port: those that its processes listen on are learned.
    pub const LEARNS: u32 = 1 << 5;
}

/// Bits of [`Enclosure::flags`].
pub mod enclosure_flags {
    /// Processes in network namespaces that belong to no workload may not send.
    pub const NAMESPACES: u32 = 1;
}

/// Where every process must belong to a workload.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Enclosure {
    /// Bit N is set when a cgroup at depth N below the root is an enclosure.
    pub levels: u32,
    /// See [`enclosure_flags`].
    pub flags: u32,
    /// Cookie of the daemon's own network namespace, which is no enclosure.
    pub own_netns: u64,
}

/// A workload's settings.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Workload {
    /// See [`workload_flags`].
    pub flags: u32,
    /// A [`PortMode`]: what an inbound connection must be on a port without an entry of its own.
    pub default_mode: u32,
    /// Cookie of the namespace that the workload owns alone, else 0.
    pub netns: u64,
    /// For a workload selected by cgroup *and* namespace: that namespace's cookie, else 0.
    pub only_netns: u64,
    /// With [`workload_flags::DIRECT`]: TCP_NOTSENT_LOWAT, in bytes, of a socket that needs no hold, which is what the
    /// namespace's sysctl was before. `u32::MAX`: no limit.
    pub unheld: u32,
    /// Always zero.
    pub reserved: u32,
}

impl Workload {
    /// For an owner that has no settings: the tables disagree, which must not open anything.
    pub const UNKNOWN: Self = Self {
        flags: workload_flags::STRICT | workload_flags::CAPTURE,
        default_mode: PortMode::Strict.raw(),
        netns: 0,
        only_netns: 0,
        unheld: 0,
        reserved: 0,
    };

    /// True when sockets of this namespace are born held.
    #[inline(always)]
    #[must_use]
    pub const fn is_direct(&self, netns: u64) -> bool {
        self.flags & workload_flags::DIRECT != 0 && self.netns == netns
    }
}

/// What an inbound connection must be. Discriminants are the values in maps.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortMode {
    /// Goes to the daemon, which refuses anything but mutual TLS.
    Strict = 1,
    /// Goes to the daemon while it lives; plain connections are passed on.
    Permissive = 2,
    /// Left alone.
    Disabled = 3,
}

impl PortMode {
    /// The value stored in maps.
    #[inline(always)]
    #[must_use]
    pub const fn raw(self) -> u32 {
        self as u32
    }
}

/// A destination of the directory as the programs see it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Destination {
    /// Its number in the directory, from 1; 0 for a port that is known and left alone.
    pub id: u32,
    /// The local workload that it is, 0 when it is elsewhere.
    pub workload: u32,
}

/// What is behind a Service's address and port.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// The number of its set of endpoints. One that has gone is never given again, so that no other Service's is found under it.
    pub set: u32,
    /// How many there are.
    pub backends: u32,
}

/// Value of a prefix inside the cluster: strict workloads are refused.
pub const INSIDE_UNKNOWN: u32 = 1;
/// Value of a prefix inside the cluster: it is known, and no destination.
pub const INSIDE_KNOWN: u32 = 2;

/// Value of a verdict: connect() is refused.
pub const VERDICT_DENY: u32 = 1;
/// Value of a verdict: an exception to the verdict of port 0.
pub const VERDICT_ALLOW: u32 = 2;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)*) => {
        /// Per-CPU counters, by index.
        #[repr(u32)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Counter {
            $($(#[$doc])* $name,)*
        }

        impl Counter {
            /// Every counter, in the order of their indexes.
            pub const ALL: &'static [(Self, &'static str)] = &[$((Self::$name, $label),)*];
        }
    };
}

counters! {
    /// Outbound connections handed to the daemon.
    Captured = "captured",
    /// Outbound connections of enrolled workloads left alone.
    Untouched = "untouched",
    /// connect() refused by policy.
    DeniedPolicy = "denied_policy",
    /// connect() refused because the destination is unknown.
    DeniedUnknown = "denied_unknown",
    /// connect() of a strict workload refused because the daemon is away.
    DaemonAway = "daemon_away",
    /// SYNs held.
    Held = "held",
    /// SYNs dropped unannounced because the event ring was full; the kernel sends them again.
    RingFull = "ring_full",
    /// Packets of a strict workload dropped because no captured connection accounts for them.
    GuardDropped = "guard_dropped",
    /// Inbound connections steered to the daemon.
    Steered = "steered",
    /// Inbound connections refused because the daemon is away and the port is strict.
    SteerRefused = "steer_refused",
    /// Inbound connections left alone.
    InboundUntouched = "inbound_untouched",
    /// SYNs refused by policy, for the address that they come from.
    DeniedSource = "denied_source",
    /// Connections and packets refused because their process belongs to no workload.
    Unclassified = "unclassified",
    /// Refusals without a record, because the ring was more than half full.
    Unrecorded = "unrecorded",
    /// Outbound connections that kept their address, to become direct.
    DirectCaptured = "direct_captured",
    /// Inbound SYNs that were expected, and left to the application's listener.
    DirectExpected = "direct_expected",
    /// Segments of direct connections dropped until they may pass; TCP sends them again.
    DirectGuardDropped = "direct_guard_dropped",
    /// Direct connections blocked, since something else than TLS records came first.
    DirectViolation = "direct_violation",
    /// SO_ZEROCOPY on a direct connection, where kTLS refuses MSG_ZEROCOPY.
    DirectZerocopy = "direct_zerocopy",
    /// SIOCINQ or TCP_INQ on a direct connection, where encrypted bytes are counted.
    DirectBytesAsked = "direct_bytes_asked",
    /// TCP_REPAIR on a direct connection, whose queues are encrypted.
    DirectRepair = "direct_repair",
    /// connect() calls that could have become direct, but whose descriptor no program reported.
    DirectUnreported = "direct_unreported",
    /// SYNs of probers that a workload's own listener was left.
    Probed = "probed",
    /// connect() calls to a Service's address for which one of its endpoints was chosen.
    Resolved = "resolved",
}
