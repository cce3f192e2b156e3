//! Plain-old-data shared by mtlsd's eBPF programs and its daemon: map keys, map values and events.
//!
//! Everything is `repr(C)` without implicit padding, so that both sides and `bpftool` agree on the bytes.
//! Addresses are 16 bytes, IPv4 as `::ffff:a.b.c.d`; ports are in host byte order.
#![no_std]

pub mod event;
pub mod keys;
pub mod socket;
pub mod table;

pub use event::{Event, EventKind, SYN_CAPACITY, UNREPORTED};
pub use keys::{
    AddressKey, BackendKey, DeliveryKey, DestinationPort, DirectPair, ListenerKey, SharedPort, SourceKey,
    UidKey, VerdictKey, WorkloadPort,
};
pub use socket::{
    DirectSocket, Direction, Endpoint, Expected, LetGo, Phase, Role, SocketKind, SocketState, UnsentLimit,
};
pub use table::{
    Counter, Destination, Enclosure, INSIDE_KNOWN, INSIDE_UNKNOWN, Namespace, PortMode, Service,
    VERDICT_ALLOW, VERDICT_DENY, Workload, enclosure_flags, workload_flags,
};

/// Changes whenever the layout or the meaning of a pinned map changes; names the pin directory.
pub const ABI: u32 = 10;

/// Ports that are learned for nobody: by these a node is managed, and finds names and the time. Named by a workload they are captured
/// all the same.
pub const NEVER_LEARNED: [u16; 3] = [22, 53, 123];

/// Deepest cgroup that is looked at; the root of the hierarchy is 0.
pub const MAX_CGROUP_LEVEL: u32 = 31;

/// The interface index of `lo` in every network namespace (`LOOPBACK_IFINDEX` in the kernel).
pub const LOOPBACK_IFINDEX: u32 = 1;

#[cfg(feature = "user")]
mod pod {
    //! `aya::Pod` says that any bytes may be copied to and from a map.

    use crate::{
        AddressKey, BackendKey, DeliveryKey, Destination, DestinationPort, DirectPair, DirectSocket,
        Enclosure, Endpoint, Event, Expected, ListenerKey, Namespace, Service, SharedPort, SocketState,
        SourceKey, UidKey, UnsentLimit, VerdictKey, Workload, WorkloadPort,
    };

    macro_rules! pod {
        ($($name:ty),* $(,)?) => {
            $(
                // SAFETY: repr(C), only integers and arrays of integers, no implicit padding, 'static.
                #[allow(unsafe_code)]
                unsafe impl aya::Pod for $name {}
            )*
        };
    }

    pod!(
        AddressKey,
        BackendKey,
        DeliveryKey,
        Destination,
        DestinationPort,
        DirectPair,
        DirectSocket,
        Enclosure,
        Endpoint,
        Event,
        Expected,
        ListenerKey,
        Namespace,
        Service,
        SharedPort,
        SocketState,
        SourceKey,
        UidKey,
        UnsentLimit,
        VerdictKey,
        Workload,
        WorkloadPort,
    );

    #[cfg(test)]
    mod tests {
        use super::*;

        #[test]
        fn the_layouts_have_no_implicit_padding() {
            assert_eq!(size_of::<Endpoint>(), 20);
            assert_eq!(size_of::<SocketState>(), 4 * 4 + 8 + 2 * 20 + 2 * 24 + 2 * 4 + 8);
            assert_eq!(size_of::<UnsentLimit>(), 8);
            assert_eq!(size_of::<Expected>(), 16);
            assert_eq!(size_of::<DirectSocket>(), 2 * 8 + 4 * 4 + 2 * 20);
            assert_eq!(size_of::<Destination>(), 8);
            assert_eq!(size_of::<DirectPair>(), 4 + 20);
            assert_eq!(size_of::<DeliveryKey>(), 8 + 2 * 20);
            assert_eq!(size_of::<ListenerKey>(), 16);
            assert_eq!(size_of::<UidKey>(), 16);
            assert_eq!(size_of::<BackendKey>(), 8);
            assert_eq!(size_of::<Service>(), 8);
            assert_eq!(size_of::<Namespace>(), 8);
            assert_eq!(size_of::<Workload>(), 32);
            assert_eq!(size_of::<Enclosure>(), 16);
            assert_eq!(size_of::<SourceKey>() * 8, SourceKey::FIXED_BITS as usize + 128);
            assert_eq!(size_of::<Event>(), 4 + 4 + 8 + 8 + 4 + 4 + 2 * 20 + 4 + 128 + 4 + 2 * 8 + 2 * 4);
        }
    }
}
