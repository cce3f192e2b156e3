//! cgroup/getsockname4 and 6: a captured socket says the address that the wire shows for it, so that both
//! ends of the connection name the same four-tuple.

use core::ffi::c_void;

use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use mtls_common::{Endpoint, SocketKind};

use crate::getpeername::{write_v4, write_v6};
use crate::storage;

#[cgroup_sock_addr(getsockname4)]
pub fn getsockname4(ctx: SockAddrContext) -> i32 {
    if let Some(local) = wire_address(&ctx) {
        write_v4(&ctx, &local);
    }
    1
}

#[cgroup_sock_addr(getsockname6)]
pub fn getsockname6(ctx: SockAddrContext) -> i32 {
    if let Some(local) = wire_address(&ctx) {
        write_v6(&ctx, &local);
    }
    1
}

#[inline(always)]
fn wire_address(ctx: &SockAddrContext) -> Option<Endpoint> {
    // SAFETY: context field.
    let sk = unsafe { (*ctx.sock_addr).__bindgen_anon_1.sk.cast::<c_void>() };
    if sk.is_null() {
        return None;
    }
    // SAFETY: from the context, not null.
    let state = unsafe { storage::get(sk) }?;
    (SocketKind::is_connected(state.kind) && state.local.port != 0).then_some(state.local)
}
