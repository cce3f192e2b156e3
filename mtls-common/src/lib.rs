//! Plain-old-data shared by mtlsd's eBPF programs and its daemon: map keys, map values and events.
//!
//! Everything is `repr(C)` without implicit padding, so that both sides and `bpftool` agree on the bytes.
//! Addresses are 16 bytes, IPv4 as `::ffff:a.b.c.d`; ports are in host byte order.
#![no_std]

pub mod event;
pub mod keys;
pub mod socket;
pub mod table;

pub use event::{Event, EventKind, SYN_CAPACITY};
pub use keys::{AddressKey, DeliveryKey, DestinationPort, ListenerKey, SharedPort, VerdictKey, WorkloadPort};
pub use socket::{Endpoint, SocketKind, SocketState};
pub use table::{
    Counter, Destination, Namespace, PortMode, VERDICT_ALLOW, VERDICT_DENY, Workload, workload_flags,
};

/// Changes whenever the layout or the meaning of a pinned map changes; names the pin directory.
pub const ABI: u32 = 2;

/// The interface index of `lo` in every network namespace (`LOOPBACK_IFINDEX` in the kernel).
pub const LOOPBACK_IFINDEX: u32 = 1;

#[cfg(feature = "user")]
mod pod {
    //! `aya::Pod` says that any bytes may be copied to and from a map.

    use crate::{
        AddressKey, DeliveryKey, Destination, DestinationPort, Endpoint, Event, ListenerKey, Namespace,
        SharedPort, SocketState, VerdictKey, Workload, WorkloadPort,
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
        DeliveryKey,
        Destination,
        DestinationPort,
        Endpoint,
        Event,
        ListenerKey,
        Namespace,
        SharedPort,
        SocketState,
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
            assert_eq!(size_of::<SocketState>(), 4 * 4 + 8 + 2 * 20);
            assert_eq!(size_of::<DeliveryKey>(), 8 + 2 * 20);
            assert_eq!(size_of::<ListenerKey>(), 16);
            assert_eq!(size_of::<Namespace>(), 8);
            assert_eq!(size_of::<Workload>(), 24);
            assert_eq!(size_of::<Event>(), 4 + 4 + 8 + 8 + 4 + 4 + 20 + 4 + 128 + 8);
        }
    }
}
