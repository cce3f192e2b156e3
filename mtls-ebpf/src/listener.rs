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

/// The receiving end of a segment, to be looked up often: the tuple is made once, or the verifier would go through its making
/// at each look.
pub struct Receiver {
    tuple: bpf_sock_tuple,
    v4: bool,
}

impl Receiver {
    /// Of a segment from `source` to `destination`.
    #[inline(always)]
    pub fn of(source: &Endpoint, destination: &Endpoint) -> Self {
        // SAFETY: zeroes are a valid tuple.
        let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
        let (sport, dport) = (source.port.to_be(), destination.port.to_be());
        let v4 = destination.is_ipv4();
        if v4 {
            tuple.__bindgen_anon_1.ipv4 =
                TupleV4 { saddr: to_v4(&source.address), daddr: to_v4(&destination.address), sport, dport };
        } else {
            tuple.__bindgen_anon_1.ipv6 =
                TupleV6 { saddr: to_v6(&source.address), daddr: to_v6(&destination.address), sport, dport };
        }
        Self { tuple, v4 }
    }

    /// Waits, for so many looks at most, for as long as it is a listener or a request to one. Not when it is a connection, nor
    /// when nobody is there any more.
    ///
    /// # Safety
    /// As [`is_alive`].
    #[inline(always)]
    pub unsafe fn wait(&mut self, ctx: *mut c_void, looks: u32) {
        // Two loops: the helper's size is a constant to the verifier in each.
        if self.v4 {
            // SAFETY: the caller's promise.
            unsafe { self.wait_sized::<{ size_of::<TupleV4>() as u32 }>(ctx, looks) }
        } else {
            // SAFETY: as above.
            unsafe { self.wait_sized::<{ size_of::<TupleV6>() as u32 }>(ctx, looks) }
        }
    }

    /// # Safety
    /// As [`is_alive`].
    #[inline(always)]
    unsafe fn wait_sized<const SIZE: u32>(&mut self, ctx: *mut c_void, looks: u32) {
        for _ in 0..looks {
            // SAFETY: `SIZE` bytes of the tuple count; the socket is released.
            let state = unsafe {
                let sk =
                    bpf_skc_lookup_tcp(ctx.cast(), &raw mut self.tuple, SIZE, BPF_F_CURRENT_NETNS as u64, 0);
                if sk.is_null() {
                    return;
                }
                let state = (*sk).state;
                bpf_sk_release(sk.cast());
                state
            };
            if state != BPF_TCP_LISTEN && state != BPF_TCP_NEW_SYN_RECV {
                return;
            }
        }
    }
}
