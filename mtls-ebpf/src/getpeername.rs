//! cgroup/getpeername4 and 6: the application sees the peer that it would see without us. The kernel runs
//! them for accept() too.

use core::ffi::c_void;

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use mtls_common::{Endpoint, SocketKind};

use crate::address::{set_words, to_v4, to_v6};
use crate::{service, storage};

#[cgroup_sock_addr(getpeername4)]
pub fn getpeername4(ctx: SockAddrContext) -> i32 {
    if let Some(peer) = true_peer(&ctx) {
        write_v4(&ctx, &peer);
    }
    1
}

#[cgroup_sock_addr(getpeername6)]
pub fn getpeername6(ctx: SockAddrContext) -> i32 {
    if let Some(peer) = true_peer(&ctx) {
        write_v6(&ctx, &peer);
    }
    1
}

#[inline(always)]
fn true_peer(ctx: &SockAddrContext) -> Option<Endpoint> {
    // SAFETY: context field.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk.cast::<c_void>() };
    if sk.is_null() {
        return None;
    }
    // SAFETY: from the context, not null.
    if let Some(asked) = unsafe { service::asked(sk) } {
        return Some(*asked);
    }
    // SAFETY: from the context, not null.
    let state = unsafe { storage::get(sk) }?;
    let kind = state.kind;
    let known = kind == SocketKind::Captured.raw()
        || SocketKind::is_connected(kind)
        || kind == SocketKind::Delivered.raw();
    known.then_some(state.peer)
}

#[inline(always)]
pub fn write_v4(ctx: &SockAddrContext, address: &Endpoint) {
    // SAFETY: context fields that these hooks may write.
    unsafe {
        (*ctx.sock_addr).user_ip4 = to_v4(&address.address);
        (*ctx.sock_addr).user_port = u32::from(address.port.to_be());
    }
}

#[inline(always)]
pub fn write_v6(ctx: &SockAddrContext, address: &Endpoint) {
    let words = to_v6(&address.address);
    // SAFETY: as in `write_v4`.
    unsafe {
        set_words(&raw mut (*ctx.sock_addr).user_ip6, words);
        (*ctx.sock_addr).user_port = u32::from(address.port.to_be());
    }
}
