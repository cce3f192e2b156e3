//! Asking the kernel whether the daemon's listener still exists: no heartbeat can be fresher.

use core::ffi::c_void;

use aya_ebpf::bindings::{
    BPF_F_CURRENT_NETNS, BPF_TCP_LISTEN, BPF_TCP_NEW_SYN_RECV, bpf_sock_tuple,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_1 as TupleV4,
    bpf_sock_tuple__bindgen_ty_1__bindgen_ty_2 as TupleV6,
};
use aya_ebpf::helpers::generated::{bpf_sk_release, bpf_skc_lookup_tcp};
use mtls_common::Endpoint;

use crate::address::{to_v4, to_v6};

pub const LOCALHOST_V4: u32 = u32::from_ne_bytes([127, 0, 0, 1]);
pub const LOCALHOST_V6: [u32; 4] = [0, 0, 0, 1u32.to_be()];

/// True when something listens on `port` of the loopback address, in the namespace of the context's socket.
///
/// # Safety
/// `ctx` is the context of a program that may call `bpf_skc_lookup_tcp`.
#[inline(always)]
pub unsafe fn is_alive(ctx: *mut c_void, v4: bool, port: u16) -> bool {
    // SAFETY: zeroes are a valid tuple.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = if v4 {
        tuple.__bindgen_anon_1.ipv4 =
            TupleV4 { saddr: LOCALHOST_V4, daddr: LOCALHOST_V4, sport: 0, dport: port.to_be() };
        size_of::<TupleV4>()
    } else {
        tuple.__bindgen_anon_1.ipv6 =
            TupleV6 { saddr: LOCALHOST_V6, daddr: LOCALHOST_V6, sport: 0, dport: port.to_be() };
        size_of::<TupleV6>()
    };
    // SAFETY: the tuple is on the stack and `size` says how much of it counts; the socket is released.
    unsafe {
        let sk = bpf_skc_lookup_tcp(ctx.cast(), &raw mut tuple, size as u32, BPF_F_CURRENT_NETNS as u64, 0);
        if sk.is_null() {
            return false;
        }
        bpf_sk_release(sk.cast());
    }
    true
}

/// False while the receiving end of a segment from `source` to `destination` is still a listener or a request
/// to it. True when it is a connection, and when nobody is there any more.
///
/// # Safety
/// As [`is_alive`].
#[inline(always)]
pub unsafe fn is_accepted(ctx: *mut c_void, source: &Endpoint, destination: &Endpoint) -> bool {
    // SAFETY: zeroes are a valid tuple.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let (sport, dport) = (source.port.to_be(), destination.port.to_be());
    let size = if destination.is_ipv4() {
        tuple.__bindgen_anon_1.ipv4 =
            TupleV4 { saddr: to_v4(&source.address), daddr: to_v4(&destination.address), sport, dport };
        size_of::<TupleV4>()
    } else {
        tuple.__bindgen_anon_1.ipv6 =
            TupleV6 { saddr: to_v6(&source.address), daddr: to_v6(&destination.address), sport, dport };
        size_of::<TupleV6>()
    };
    // SAFETY: as in `is_alive`.
    unsafe {
        let sk = bpf_skc_lookup_tcp(ctx.cast(), &raw mut tuple, size as u32, BPF_F_CURRENT_NETNS as u64, 0);
        if sk.is_null() {
            return true;
        }
        let state = (*sk).state;
        bpf_sk_release(sk.cast());
        state != BPF_TCP_LISTEN && state != BPF_TCP_NEW_SYN_RECV
    }
}
