//! Why a connection was not, or no longer is, direct.
use std::fmt;

/// Why a connection ended before its applications ended it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The policy of the server's side denies it.
    Denied,
    /// The server's port or workload cannot be direct.
    NotCapable,
    /// pidfd_getfd did not give a duplicate of the application's descriptor.
    NoDescriptor,
    /// The kernel did not take the TLS keys.
    NoKernelTls,
    /// An application had ended its side, or both, before the keys could be set.
    NotEstablished,
    /// A thread could not be made to leave its plain call (traced, or not to be interrupted).
    NotEmptied,
    /// The writer could not be let go.
    NotReleased,
    /// The other daemon did not answer `Open` in time.
    NoAnswer,
    /// The TCP handshake did not end in time.
    NoHandshake,
    /// The application did not accept() in time.
    NotAccepted,
    /// Own arming did not end in time.
    ArmingTimeout,
    /// The other side's `Ready` did not come in time.
    PeerNotReady,
    /// The session between the daemons died before both sides were armed.
    SessionLost,
    /// The application was gone before its descriptor could be had.
    ApplicationGone,
    /// The socket ended (RST, time-out, the application's end) before both sides were armed.
    SocketEnded,
    /// The lease of an identity ended.
    LeaseEnded,
    /// The other daemon sent what does not belong there.
    Protocol,
    /// A daemon that started found the socket still held.
    Recovered,
    /// The other daemon does not know the connection.
    Unknown,
    /// Too many connections are being set up, or these addresses are taken.
    Busy,
}

impl Reason {
    /// Whether it speaks against trying `direct` again soon for the same workload and port.
    pub fn speaks_against_direct(self) -> bool {
        match self {
            Self::NotCapable
            | Self::NoDescriptor
            | Self::NoKernelTls
            | Self::NotEstablished
            | Self::NotEmptied
            | Self::NotReleased
            | Self::NoAnswer
            | Self::NoHandshake
            | Self::ArmingTimeout
            | Self::PeerNotReady
            | Self::Protocol
            | Self::NotAccepted => true,
            // Policy and leases hold for a relay as well; the others say nothing of the next connection.
            Self::Denied
            | Self::SessionLost
            | Self::ApplicationGone
            | Self::SocketEnded
            | Self::LeaseEnded
            | Self::Recovered
            | Self::Unknown
            | Self::Busy => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Denied => "denied by the policy of the server's side",
            Self::NotCapable => "the server's port cannot be direct",
            Self::NoDescriptor => "the application's descriptor could not be duplicated",
            Self::NoKernelTls => "the kernel did not take the TLS keys",
            Self::NotEstablished => "an application had ended the connection before it could be armed",
            Self::NotEmptied => "a thread could not be moved out of its call",
            Self::NotReleased => "the writer could not be let go",
            Self::NoAnswer => "the other daemon did not answer in time",
            Self::NoHandshake => "the TCP handshake did not end in time",
            Self::NotAccepted => "the application did not accept() in time",
            Self::ArmingTimeout => "arming did not end in time",
            Self::PeerNotReady => "the other side was not ready in time",
            Self::SessionLost => "the session between the daemons was lost",
            Self::ApplicationGone => "the application was gone",
            Self::SocketEnded => "the socket ended before it was armed",
            Self::LeaseEnded => "the lease of an identity ended",
            Self::Protocol => "the other daemon sent a message out of place",
            Self::Recovered => "a daemon that started found the socket still held",
            Self::Unknown => "the other daemon does not know the connection",
            Self::Busy => "too many connections are being set up",
        })
    }
}
