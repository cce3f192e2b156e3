//! cgroup_skb/ingress, attached from when a workload is direct: the guard of what comes to direct connections.

use core::ffi::c_void;

use aya_ebpf::bindings::{BPF_TCP_LISTEN, BPF_TCP_SYN_RECV};
use aya_ebpf::helpers::generated::bpf_sk_fullsock;
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use mtls_common::{Counter, Direction, SocketKind, SocketState};

use crate::egress::{DROP, PASS};
use crate::maps::count;
use crate::packet::{FLAG_FIN, parse};
use crate::{expected, guard, limit, storage};

#[cgroup_skb(ingress)]
pub fn ingress(ctx: SkBuffContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: context field, checked for null; a full socket or null comes back.
    let sk = unsafe {
        let sk = (*skb).__bindgen_anon_2.sk;
        if sk.is_null() {
            return PASS;
        }
        bpf_sk_fullsock(sk)
    };
    if sk.is_null() {
        return PASS;
    }
    // SAFETY: a full socket, not null.
    if let Some(state) = unsafe { storage::get(sk.cast::<c_void>()) } {
        return known(&ctx, sk.cast::<c_void>(), state);
    }
    if !expected::direct_is_on() {
        return PASS;
    }
    // SAFETY: a field of a full socket.
    let state = unsafe { (*sk).state };
    if (state == BPF_TCP_LISTEN || state == BPF_TCP_SYN_RECV) && brings_too_early(SkBuffContext::new(skb)) {
        count(Counter::DirectGuardDropped);
        return DROP;
    }
    // Between the first look and here another processor may have made a direct connection of it.
    // SAFETY: a full socket, not null.
    match unsafe { storage::get(sk.cast::<c_void>()) } {
        Some(state) => known(&ctx, sk.cast::<c_void>(), state),
        None => PASS,
    }
}

#[inline(always)]
fn known(ctx: &SkBuffContext, sk: *mut c_void, state: &mut SocketState) -> i32 {
    if state.kind == SocketKind::DirectFlowing.raw() {
        return guard::flows(ctx, state, false);
    }
    if SocketKind::is_direct(state.kind) {
        // SAFETY: a full socket, not null.
        if state.received.seen & Direction::WITH_WRITER != 0 && unsafe { limit::is_let_go(sk) } {
            state.received.seen &= !Direction::WITH_WRITER;
        }
        return guard::receives(SkBuffContext::new(ctx.skb.skb), state);
    }
    // A violation leaves no way in either. What else is blocked has no way out, and answers nothing.
    if state.kind == SocketKind::Blocked.raw() { DROP } else { PASS }
}

/// The segment that completes the handshake is judged at the listener, before its connection exists; and never again. A FIN in it
/// would have the application read an end that nobody has sent.
#[inline(never)]
fn brings_too_early(ctx: SkBuffContext) -> bool {
    parse(&ctx).is_some_and(|tcp| {
        (tcp.has_payload || tcp.flags & FLAG_FIN != 0) && expected::is_anywhere(tcp.source, tcp.destination)
    })
}
