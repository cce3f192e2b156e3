//! sock_ops: the moments of a connection at which its four-tuple is known.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_STATE_CB,
    BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE, BPF_TCP_SYN_SENT,
};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use mtls_common::{Counter, DeliveryKey, Endpoint, EventKind, Role, SocketKind, SocketState, workload_flags};

use crate::address::{endpoint, from_v4, from_v6, words};
use crate::classify::{Decision, outbound, place};
use crate::maps::{DELIVERIES, NAMESPACES, WIRE_ADDRESSES, count};
use crate::{enclosure, event, expected, hold, probe, storage};

const AF_INET: u32 = 2;

/// Each moment is a function of its own, called with nothing on the stack: together they would not fit on it.
#[sock_ops]
pub fn tcp_events(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => {
            connecting(SockOpsContext::new(ctx.ops));
            probe::connecting(SockOpsContext::new(ctx.ops));
            if expected::direct_is_on() {
                hold::settle(SockOpsContext::new(ctx.ops));
            }
        }
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => connected(SockOpsContext::new(ctx.ops)),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => {
            let direct = expected::direct_is_on();
            if direct && hold::arrived(SockOpsContext::new(ctx.ops)) {
                hold::established(SockOpsContext::new(ctx.ops), Role::Server);
                return 0;
            }
            if !probe::arrived(SockOpsContext::new(ctx.ops)) {
                accepted(SockOpsContext::new(ctx.ops));
            }
            if direct {
                hold::block_unexpected(SockOpsContext::new(ctx.ops));
                hold::settle(SockOpsContext::new(ctx.ops));
            }
        }
        BPF_SOCK_OPS_STATE_CB => {
            state_changed(SockOpsContext::new(ctx.ops));
            probe::state_changed(SockOpsContext::new(ctx.ops));
        }
        _ => {}
    }
    0
}

#[inline(always)]
pub fn socket(ctx: &SockOpsContext) -> *mut c_void {
    // SAFETY: context field; null when the socket is not a full one.
    unsafe { (*ctx.ops).__bindgen_anon_2.sk.cast() }
}

/// Before the SYN: hand the true client of a delivery over to the receiving end, ask to hear when a captured
/// connection ends, and classify what did not come through connect() (MPTCP subflows, for one).
#[inline(never)]
fn connecting(ctx: SockOpsContext) {
    let ctx = &ctx;
    let sk = socket(ctx);
    if sk.is_null() {
        return;
    }
    // SAFETY: from the context, not null.
    if let Some(state) = unsafe { storage::get(sk) } {
        if state.kind == SocketKind::Own.raw() {
            if state.peer.port != 0 {
                announce_delivery(ctx, state.peer);
            }
            return;
        }
        if state.kind == SocketKind::Untouched.raw()
            && local(ctx).address == remote(ctx).address
            && has_its_namespace_alone(ctx)
        {
            // A workload that talks to itself by its own address: not to be steered to the daemon.
            announce_delivery(ctx, Endpoint::default());
        }
        if state.kind == SocketKind::Captured.raw()
            || state.kind == SocketKind::DirectSyn.raw()
            || state.kind == SocketKind::Probing.raw()
        {
            let _ = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32);
        }
        return;
    }
    guard(ctx, sk);
}

/// Where several workloads share a namespace, the same address is no sign of the same workload.
#[inline(always)]
fn has_its_namespace_alone(ctx: &SockOpsContext) -> bool {
    // SAFETY: sock_ops programs may ask for the namespace cookie.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    // SAFETY: copied at once.
    unsafe { NAMESPACES.get(&netns) }.is_some_and(|namespace| namespace.workload != 0)
}

/// Lets the SYN of this socket pass the sk_lookup program, with what the accepting end shall see as its
/// peer (zero: the truth).
#[inline(always)]
fn announce_delivery(ctx: &SockOpsContext, peer: Endpoint) {
    // SAFETY: sock_ops programs may ask for the namespace cookie.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let key = DeliveryKey { netns, from: local(ctx), to: remote(ctx) };
    let _ = DELIVERIES.insert(&key, &peer, 0);
}

#[inline(always)]
fn guard(ctx: &SockOpsContext, sk: *mut c_void) {
    // SAFETY: sock_ops programs may ask for the namespace cookie.
    let Some(place) = (unsafe { place(ctx.as_ptr(), false) }) else {
        note_unclassified(ctx, sk);
        return;
    };
    if place.settings.flags & workload_flags::STRICT == 0 {
        return;
    }
    let to = remote(ctx);
    let kind = match outbound(&place, &to) {
        Decision::Untouched => SocketKind::Untouched,
        _ => {
            count(Counter::GuardDropped);
            // SAFETY: sock_ops programs may ask for the socket cookie.
            let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
            event::send(EventKind::Unaccounted, &place.whose(), cookie, 0, &to);
            SocketKind::Blocked
        }
    };
    let mut state = SocketState { kind: kind.raw(), workload: place.workload, ..SocketState::default() };
    // SAFETY: from the context, not null.
    let _ = unsafe { storage::get_or_create(sk, &mut state) };
}

/// Where every process must belong to a workload: egress is told of the namespace, and asks for the cgroup.
#[inline(always)]
fn note_unclassified(ctx: &SockOpsContext, sk: *mut c_void) {
    if enclosure::configured().is_none() {
        return;
    }
    // SAFETY: sock_ops programs may ask for the namespace cookie.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    if enclosure::is_classified_whole(netns) {
        return;
    }
    let mut state = SocketState { kind: SocketKind::Unclassified.raw(), netns, ..SocketState::default() };
    // SAFETY: from the context, not null. What is known of a socket already stays.
    let _ = unsafe { storage::get_or_create(sk, &mut state) };
}

#[inline(never)]
fn connected(ctx: SockOpsContext) {
    let ctx = &ctx;
    let sk = socket(ctx);
    if sk.is_null() {
        return;
    }
    // SAFETY: from the context, not null.
    let Some(state) = (unsafe { storage::get(sk) }) else {
        return;
    };
    if state.kind == SocketKind::DirectSyn.raw() {
        hold::established(SockOpsContext::new(ctx.ops), Role::Client);
        return;
    }
    if state.kind != SocketKind::Captured.raw() {
        return;
    }
    // SAFETY: sock_ops programs may ask for the socket cookie.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: copied at once.
    if let Some(address) = unsafe { WIRE_ADDRESSES.get(&cookie) } {
        state.local = *address;
    }
    let _ = WIRE_ADDRESSES.remove(&cookie);
    state.kind = SocketKind::Established.raw();
}

#[inline(never)]
fn accepted(ctx: SockOpsContext) {
    let ctx = &ctx;
    let sk = socket(ctx);
    if sk.is_null() {
        return;
    }
    // SAFETY: sock_ops programs may ask for the namespace cookie.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let key = DeliveryKey { netns, from: remote(ctx), to: local(ctx) };
    // SAFETY: copied at once.
    let Some(peer) = (unsafe { DELIVERIES.get(&key) }).copied() else {
        note_unclassified(ctx, sk);
        return;
    };
    let kind = if peer.port == 0 { SocketKind::Untouched } else { SocketKind::Delivered };
    let mut state = SocketState { kind: kind.raw(), peer, ..SocketState::default() };
    // SAFETY: from the context, not null.
    if let Some(slot) = unsafe { storage::get_or_create(sk, &mut state) } {
        *slot = state;
    }
    let _ = DELIVERIES.remove(&key);
}

#[inline(never)]
fn state_changed(ctx: SockOpsContext) {
    let ctx = &ctx;
    // SAFETY: the two arguments of this callback: old state, new state.
    let (old, new) = unsafe { ((*ctx.ops).__bindgen_anon_1.args[0], (*ctx.ops).__bindgen_anon_1.args[1]) };
    if new != BPF_TCP_CLOSE {
        return;
    }
    let sk = socket(ctx);
    if sk.is_null() {
        return;
    }
    // SAFETY: from the context, not null.
    let Some(state) = (unsafe { storage::get(sk) }) else {
        return;
    };
    if SocketKind::is_direct(state.kind) || state.kind == SocketKind::Blocked.raw() {
        hold::ended(SockOpsContext::new(ctx.ops));
    }
    if state.kind == SocketKind::Captured.raw() && old == BPF_TCP_SYN_SENT {
        // SAFETY: sock_ops programs may ask for the socket cookie.
        let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
        let whose = event::Whose { workload: state.workload, netns: state.netns };
        event::send(EventKind::Abandoned, &whose, cookie, state.destination, &state.peer);
    }
}

#[inline(always)]
pub fn local(ctx: &SockOpsContext) -> Endpoint {
    let port = ctx.local_port() as u16;
    if ctx.family() == AF_INET {
        return endpoint(from_v4(ctx.local_ip4()), port);
    }
    // SAFETY: context fields, word by word: the verifier refuses a wider read.
    endpoint(from_v6(unsafe { words(&raw const (*ctx.ops).local_ip6) }), port)
}

#[inline(always)]
pub fn remote(ctx: &SockOpsContext) -> Endpoint {
    // remote_port is a word in network byte order.
    let port = u32::from_be(ctx.remote_port()) as u16;
    if ctx.family() == AF_INET {
        return endpoint(from_v4(ctx.remote_ip4()), port);
    }
    // SAFETY: as in `local`.
    endpoint(from_v6(unsafe { words(&raw const (*ctx.ops).remote_ip6) }), port)
}
