//! sock_ops: where a workload may be direct, its sockets are born held. Direct ones stay so until the daemon lets them
//! go; every other one is let go here.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::BPF_SOCK_OPS_STATE_CB_FLAG;
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_getsockopt, bpf_setsockopt,
};
use aya_ebpf::programs::SockOpsContext;
use mtls_common::{
    DeliveryKey, DirectSocket, Direction, EventKind, Phase, PortMode, Role, SocketKind, SocketState,
    Workload, WorkloadPort, workload_flags,
};

use crate::address::is_always_excluded;
use crate::maps::{DIRECT_SOCKETS, NAMESPACES, PORT_MODES, settings};
use crate::sock_ops::{local, remote, socket};
use crate::{event, expected, limit, storage};

pub const SOL_TCP: i32 = 6;
pub const TCP_NOTSENT_LOWAT: i32 = 25;

/// The workload that has the socket's namespace to itself, if it may be direct.
pub struct Owner {
    pub netns: u64,
    pub workload: u32,
    pub settings: Workload,
}

#[inline(always)]
pub fn owner(ctx: &SockOpsContext) -> Option<Owner> {
    if !expected::direct_is_on() {
        return None;
    }
    // SAFETY: sock_ops programs may ask for the namespace cookie.
    owner_in(unsafe { bpf_get_netns_cookie(ctx.as_ptr()) })
}

/// The same, of a namespace by its cookie.
#[inline(always)]
pub fn owner_in(netns: u64) -> Option<Owner> {
    // SAFETY: copied at once.
    let workload = unsafe { NAMESPACES.get(&netns) }.map_or(0, |namespace| namespace.workload);
    if workload == 0 {
        return None;
    }
    let settings = settings(workload);
    settings.is_direct(netns).then_some(Owner { netns, workload, settings })
}

/// Holds a direct socket by its own option, since it may have inherited another value; lets any other one go, unless
/// the application has chosen a value for it.
#[inline(never)]
pub fn settle(ctx: SockOpsContext) {
    let sk = socket(&ctx);
    if sk.is_null() {
        return;
    }
    let Some(owner) = owner(&ctx) else {
        return;
    };
    // SAFETY: from the context, not null.
    if let Some(state) = unsafe { storage::get(sk) }
        && SocketKind::is_direct(state.kind)
    {
        hold(&ctx, sk);
    } else if limit(&ctx) == 0 {
        // A socket that was to be direct and could not connect may have a wish.
        // SAFETY: from the context, not null.
        let wish = unsafe { limit::get(sk) }.map_or(0, |limit| limit.wish);
        set_limit(&ctx, if wish == 0 { owner.settings.unheld } else { wish });
    }
}

#[inline(always)]
fn hold(ctx: &SockOpsContext, sk: *mut c_void) {
    let inherited = limit(ctx);
    // SAFETY: from the context, not null.
    let known = unsafe { if inherited == 0 { limit::get(sk) } else { limit::get_or_zeroed(sk) } };
    if let Some(limit) = known {
        // Otherwise it is what an earlier connection of the socket was let go with.
        if inherited != 0 && limit.ceiling == 0 {
            limit.wish = inherited;
        }
        limit.ceiling = 0;
    }
    set_limit(ctx, 0);
}

/// The socket's own TCP_NOTSENT_LOWAT; 0: it has none, or this kernel does not tell.
#[inline(always)]
fn limit(ctx: &SockOpsContext) -> u32 {
    let mut value = 0u32;
    // SAFETY: `value` is as long as the helper is told.
    let failed = unsafe {
        bpf_getsockopt(
            ctx.as_ptr(),
            SOL_TCP,
            TCP_NOTSENT_LOWAT,
            (&raw mut value).cast(),
            size_of::<u32>() as i32,
        )
    };
    if failed == 0 { value } else { 0 }
}

#[inline(always)]
fn set_limit(ctx: &SockOpsContext, mut value: u32) {
    // SAFETY: `value` is as long as the helper is told.
    unsafe {
        bpf_setsockopt(
            ctx.as_ptr(),
            SOL_TCP,
            TCP_NOTSENT_LOWAT,
            (&raw mut value).cast(),
            size_of::<u32>() as i32,
        );
    }
}

/// A connection of a listener in a namespace whose workload may be direct. `false`: it is none that was expected.
#[inline(never)]
pub fn arrived(ctx: SockOpsContext) -> bool {
    let sk = socket(&ctx);
    if sk.is_null() {
        return false;
    }
    // SAFETY: from the context, not null.
    if let Some(state) = unsafe { storage::get(sk) }
        && state.kind == SocketKind::Own.raw()
    {
        return false;
    }
    let Some(owner) = owner(&ctx) else {
        return false;
    };
    let key = DeliveryKey { netns: owner.netns, from: remote(&ctx), to: local(&ctx) };
    // Also one that comes too late is held: the daemon ends it.
    let Some(expected) = expected::entry(&key) else {
        return false;
    };
    let mut initial = SocketState {
        kind: SocketKind::DirectHeld.raw(),
        workload: expected.workload,
        netns: owner.netns,
        ..SocketState::default()
    };
    if keep(sk, &mut initial).is_none() {
        return true; // no memory: held as it was born, until the daemon's patience ends
    }
    let _ = ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32);
    hold(&ctx, sk);
    // Last: the guard goes by this entry until the socket has its state.
    expected::forget(&key);
    true
}

#[inline(always)]
fn keep<'a>(sk: *mut c_void, initial: &mut SocketState) -> Option<&'a mut SocketState> {
    // SAFETY: from the context, not null.
    let state = unsafe { storage::get_or_create(sk, initial) }?;
    *state = *initial;
    Some(state)
}

/// A connection that came past the daemon although its port is strict: the SYN was expected, and is no more.
#[inline(never)]
pub fn block_unexpected(ctx: SockOpsContext) {
    let sk = socket(&ctx);
    if sk.is_null() {
        return;
    }
    let Some(owner) = owner(&ctx) else {
        return;
    };
    let to = local(&ctx);
    // SAFETY: from the context, not null.
    if is_always_excluded(&to.address) || unsafe { storage::get(sk) }.is_some() {
        return;
    }
    let (workload, netns, port) = (owner.workload, owner.netns, to.port);
    // SAFETY: copied at once.
    let mode = unsafe { PORT_MODES.get(&WorkloadPort { workload, port, reserved: 0 }) }
        .copied()
        .unwrap_or(owner.settings.default_mode);
    let strict = mode == PortMode::Strict.raw() || owner.settings.flags & workload_flags::STRICT != 0;
    if !strict || mode == PortMode::Disabled.raw() {
        return;
    }
    let mut initial =
        SocketState { kind: SocketKind::Blocked.raw(), workload, netns, ..SocketState::default() };
    keep(sk, &mut initial);
    // SAFETY: sock_ops programs may ask for the socket cookie.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    event::send(EventKind::Unaccounted, &event::Whose { workload, netns }, cookie, 0, &to);
}

/// TCP's handshake is over: from here on the bytes are counted, and the daemon's leases reach the connection.
#[inline(never)]
pub fn established(ctx: SockOpsContext, role: Role) {
    let sk = socket(&ctx);
    if sk.is_null() {
        return;
    }
    // SAFETY: from the context, not null.
    let Some(state) = (unsafe { storage::get(sk) }) else {
        return;
    };
    // SAFETY: context fields; the socket is a full one.
    let (send, receive) = unsafe { ((*ctx.ops).snd_nxt, (*ctx.ops).rcv_nxt) };
    state.sent = Direction { first: send, ..Direction::default() };
    let opens = if matches!(role, Role::Server) { Direction::WITH_WRITER } else { 0 };
    state.received = Direction { first: receive, seen: opens, ..Direction::default() };
    // SAFETY: sock_ops programs may ask for the socket cookie.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    let socket = DirectSocket {
        netns: state.netns,
        session: 0,
        workload: state.workload,
        destination: state.destination,
        role: role as u32,
        phase: Phase::Held as u32,
        local: local(&ctx),
        remote: remote(&ctx),
    };
    if DIRECT_SOCKETS.insert(&cookie, &socket, 0).is_err() {
        state.kind = SocketKind::Blocked.raw(); // no lease would ever reach it
        return;
    }
    state.kind = SocketKind::DirectHeld.raw();
    let whose = event::Whose { workload: state.workload, netns: state.netns };
    let kind = EventKind::DirectEstablished;
    let of = event::Direct { role: role as u32, local: &socket.local, remote: &socket.remote };
    event::send_direct(kind, &whose, cookie, state.destination, &of);
}

/// The socket is closed, for whatever reason.
#[inline(never)]
pub fn ended(ctx: SockOpsContext) {
    let sk = socket(&ctx);
    if sk.is_null() {
        return;
    }
    // SAFETY: from the context, not null.
    let Some(state) = (unsafe { storage::get(sk) }) else {
        return;
    };
    // SAFETY: sock_ops programs may ask for the socket cookie.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.as_ptr()) };
    // SAFETY: copied at once.
    let role = unsafe { DIRECT_SOCKETS.get(&cookie) }.map_or(0, |socket| socket.role);
    let _ = DIRECT_SOCKETS.remove(&cookie);
    if role == 0 && state.kind != SocketKind::DirectSyn.raw() {
        return;
    }
    let (local, remote) = (local(&ctx), remote(&ctx));
    let server = role == Role::Server as u32;
    let (server_end, client_end) = if server { (&local, &remote) } else { (&remote, &local) };
    let whose = event::Whose { workload: state.workload, netns: state.netns };
    let kind = EventKind::DirectEnded;
    let Some(mut entry) = event::reserve(kind, &whose, cookie, state.destination, server_end) else {
        return;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: room for an Event, whose fields are all written; context fields of a full socket.
    unsafe {
        (*event).source = *client_end;
        (*event).role = if server { Role::Server } else { Role::Client } as u32;
        if role != 0 {
            // Acknowledged or on its way: a forged end makes the other side acknowledge no more, and what was sent then
            // must be missed.
            let (next, unacknowledged) = ((*ctx.ops).snd_nxt, (*ctx.ops).snd_una);
            let sent = (*ctx.ops).bytes_acked + u64::from(next.wrapping_sub(unacknowledged));
            (*event).sent = state.sent.payload(sent, next);
            (*event).received = state.received.payload((*ctx.ops).bytes_received, (*ctx.ops).rcv_nxt);
        }
    }
    entry.submit(0);
}
