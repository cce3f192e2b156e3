//! Map keys.

use crate::Endpoint;

/// Data of a longest-prefix-match key: an address that is looked up for one workload (0: for all).
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AddressKey {
    /// The workload's number in network byte order (the trie compares from the first bit on).
    pub workload: [u8; 4],
    /// The address; IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
}

/// Data of a longest-prefix-match key: the address of a client of a workload's port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SourceKey {
    /// The workload's number in network byte order.
    pub workload: [u8; 4],
    /// The port in network byte order; 0 stands for every port without entries of its own.
    pub port: [u8; 2],
    /// Always zero.
    pub reserved: [u8; 2],
    /// The client's address; IPv4 as `::ffff:a.b.c.d`.
    pub address: [u8; 16],
}

impl SourceKey {
    /// Bits before the address.
    pub const FIXED_BITS: u32 = 64;

    /// The key of an address.
    #[inline(always)]
    #[must_use]
    pub const fn new(workload: u32, port: u16, address: [u8; 16]) -> Self {
        Self { workload: workload.to_be_bytes(), port: port.to_be_bytes(), reserved: [0; 2], address }
    }
}

/// A port of a set of destination addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DestinationPort {
    /// The set that the address lookup gave.
    pub set: u32,
    /// The port, host byte order; 0 stands for every port.
    pub port: u16,
    /// Always zero.
    pub reserved: u16,
}

/// A port of a workload.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WorkloadPort {
    /// The workload's number.
    pub workload: u32,
    /// The port, host byte order.
    pub port: u16,
    /// Always zero.
    pub reserved: u16,
}

/// A decision made in advance: may this workload reach that destination's port?
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct VerdictKey {
    /// The connecting workload's number.
    pub workload: u32,
    /// The destination's number in the directory.
    pub destination: u32,
    /// The port, host byte order; 0 stands for every port without a verdict of its own.
    pub port: u16,
    /// Always zero.
    pub reserved: u16,
}

/// Which of the daemon's listeners takes the inbound connections of a namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerKey {
    /// The namespace's cookie (`SO_NETNS_COOKIE`).
    pub netns: u64,
    /// `AF_INET` or `AF_INET6`.
    pub family: u32,
    /// Always zero.
    pub reserved: u32,
}

/// A delivery under way, as the receiving socket sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DeliveryKey {
    /// The namespace's cookie.
    pub netns: u64,
    /// The daemon's end.
    pub from: Endpoint,
    /// The application's end.
    pub to: Endpoint,
}

/// A port of a namespace that several workloads share.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SharedPort {
    /// The namespace's cookie.
    pub netns: u64,
    /// The port, host byte order.
    pub port: u16,
    /// Always zero.
    pub reserved: [u16; 3],
}

/// A user in a network namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct UidKey {
    /// The namespace's cookie.
    pub netns: u64,
    /// The user ID, as the initial user namespace counts.
    pub uid: u32,
    /// Always zero.
    pub reserved: u32,
}

/// A workload and where its connections go: there is a session for them, so that they may be direct.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DirectPair {
    /// The connecting workload's number.
    pub workload: u32,
    /// Where it connects to.
    pub to: Endpoint,
}

/// One of the endpoints behind a Service's address and port.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackendKey {
    /// The number of the set of endpoints.
    pub set: u32,
    /// Which of them, from 0.
    pub index: u32,
}
