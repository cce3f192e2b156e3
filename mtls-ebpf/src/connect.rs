//! cgroup/connect4 and cgroup/connect6: an enrolled workload's connect() to a directory destination is
//! turned to the daemon's listener in the same namespace; what policy forbids fails here.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{
    bpf_get_current_pid_tgid, bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_set_retval,
};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::debug;
use mtls_common::socket::is_ipv4;
use mtls_common::{
    Counter, DirectPair, Endpoint, EventKind, SocketKind, SocketState, UNREPORTED, workload_flags,
};

use crate::address::{endpoint, from_v4, from_v6, port_from_network, set_words, words};
use crate::classify::{Decision, Place, outbound, place};
use crate::listener::{LOCALHOST_V4, LOCALHOST_V6, is_alive};
use crate::maps::{CONNECTING, DIRECT_PAIRS, count};
use crate::{enclosure, event, features, probe, service, storage};

const ALLOW: i32 = 1;
const REFUSE: i32 = 0;
const IPPROTO_TCP: u32 = 6;
const EACCES: i32 = 13;
const ECONNREFUSED: i32 = 111;
const LOCALHOST_MAPPED: [u32; 4] = [0, 0, 0xffff_u32.to_be(), LOCALHOST_V4];

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    // SAFETY: the context's fields, read as the kernel lays them out.
    let (address, port) = unsafe { ((*ctx.sock_addr).user_ip4, (*ctx.sock_addr).user_port) };
    decide(&ctx, endpoint(from_v4(address), port_from_network(port)), false)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    // SAFETY: as in `connect4`.
    let (address, port) =
        unsafe { (from_v6(words(&raw const (*ctx.sock_addr).user_ip6)), (*ctx.sock_addr).user_port) };
    decide(&ctx, endpoint(address, port_from_network(port)), true)
}

#[inline(always)]
fn decide(ctx: &SockAddrContext, mut to: Endpoint, v6_socket: bool) -> i32 {
    // SAFETY: context fields.
    let (protocol, sk) =
        unsafe { ((*ctx.sock_addr).protocol, (*ctx.sock_addr).__bindgen_anon_1.sk.cast::<c_void>()) };
    if protocol != IPPROTO_TCP || sk.is_null() {
        return ALLOW;
    }
    // SAFETY: `sk` comes from the context and is not null.
    if let Some(state) = unsafe { storage::get(sk) } {
        if state.kind == SocketKind::Own.raw() {
            return ALLOW;
        }
        if state.kind == SocketKind::Probing.raw() {
            state.kind = SocketKind::Untouched.raw(); // it was one to where it led before
        }
    }
    // SAFETY: `sk` comes from the context and is not null.
    unsafe { service::forget(sk) };
    // SAFETY: sock_addr programs may ask for the namespace cookie.
    let place = unsafe { place(ctx.sock_addr.cast(), true) };
    // SAFETY: sock_addr programs may ask for the socket cookie.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.sock_addr.cast()) };
    let Some(place) = place else {
        let answer = unclassified(ctx, cookie, &to);
        if answer == ALLOW && probe::begins(to.port) {
            remember(sk, &mut SocketState { kind: SocketKind::Probing.raw(), ..SocketState::default() });
        }
        return answer;
    };
    service::resolve(SockAddrContext::new(ctx.sock_addr), sk, &place, &mut to, v6_socket);
    match outbound(&place, &to) {
        Decision::Untouched => leave(sk, &place),
        Decision::DeniedPolicy(destination) => {
            count(Counter::DeniedPolicy);
            event::send(EventKind::DeniedPolicy, &place.whose(), cookie, destination.id, &to);
            refuse(EACCES)
        }
        Decision::DeniedUnknown => {
            count(Counter::DeniedUnknown);
            event::send(EventKind::DeniedUnknown, &place.whose(), cookie, 0, &to);
            refuse(EACCES)
        }
        Decision::Capture(destination) => {
            let v4 = is_ipv4(&to.address);
            let port = if v4 { place.namespace.outbound_v4 } else { place.namespace.outbound_v6 };
            if port == 0 || !alive(ctx, v4, port) {
                if place.settings.flags & workload_flags::STRICT == 0 {
                    return leave(sk, &place);
                }
                count(Counter::DaemonAway);
                if port == 0 {
                    event::send(EventKind::NotEntered, &place.whose(), cookie, destination.id, &to);
                }
                return refuse(ECONNREFUSED);
            }
            let (kind, pid, descriptor) = match caller(&place, &to) {
                Caller::NotDirect => (SocketKind::Captured, 0, 0),
                Caller::Unreported => {
                    count(Counter::DirectUnreported);
                    (SocketKind::Captured, 0, UNREPORTED)
                }
                Caller::Known { pid, descriptor } => (SocketKind::DirectSyn, pid, descriptor),
            };
            let mut state = SocketState {
                kind: kind.raw(),
                workload: place.workload,
                netns: place.netns,
                destination: destination.id,
                announced: 0,
                peer: to,
                pid,
                descriptor,
                ..SocketState::default()
            };
            if !remember(sk, &mut state) {
                return refuse(ECONNREFUSED);
            }
            if kind.raw() == SocketKind::DirectSyn.raw() {
                count(Counter::DirectCaptured);
                return ALLOW; // the address stays: egress holds the SYN
            }
            count(Counter::Captured);
            debug!(ctx, "captured connection of workload {} to port {}", place.workload, to.port);
            redirect(ctx, v6_socket, v4, port);
            ALLOW
        }
    }
}

/// Who calls connect().
enum Caller {
    /// It does not matter: the connection is not to become direct.
    NotDirect,
    /// The connection may, but the call did not come by the system call (io_uring), or the program there was not run: the
    /// kernel leaves a tracing program out while another thread is inside it on the same processor.
    Unreported,
    Known {
        pid: u32,
        descriptor: i32,
    },
}

#[inline(always)]
fn caller(place: &Place, to: &Endpoint) -> Caller {
    if !place.settings.is_direct(place.netns) {
        return Caller::NotDirect;
    }
    if place.settings.flags & workload_flags::DIRECT_REQUIRED == 0 {
        // SAFETY: nothing of it is kept.
        let pair = unsafe { DIRECT_PAIRS.get(&DirectPair { workload: place.workload, to: *to }) };
        if pair.is_none() {
            return Caller::NotDirect;
        }
    }
    // SAFETY: no pointer is involved.
    let thread = unsafe { bpf_get_current_pid_tgid() };
    // SAFETY: copied at once.
    match unsafe { CONNECTING.get(&thread) }.copied() {
        Some(descriptor) => Caller::Known { pid: (thread >> 32) as u32, descriptor },
        None => Caller::Unreported,
    }
}

/// A process that belongs to no workload.
#[inline(always)]
fn unclassified(ctx: &SockAddrContext, cookie: u64, to: &Endpoint) -> i32 {
    // SAFETY: sock_addr programs may ask for the namespace cookie.
    if !unsafe { enclosure::refuses_current(ctx.sock_addr.cast(), to) } {
        return ALLOW;
    }
    count(Counter::Unclassified);
    // SAFETY: sock_addr programs may ask for the namespace cookie; no other pointer is involved.
    let (netns, pid) =
        unsafe { (bpf_get_netns_cookie(ctx.sock_addr.cast()), bpf_get_current_pid_tgid() >> 32) };
    event::send_unclassified(netns, cookie, pid as u32, &Endpoint::default(), to);
    refuse(ECONNREFUSED)
}

/// Marks the socket as seen, so that the guard lets it pass.
#[inline(always)]
fn leave(sk: *mut c_void, place: &Place) -> i32 {
    let mut state =
        SocketState { kind: SocketKind::Untouched.raw(), workload: place.workload, ..SocketState::default() };
    count(Counter::Untouched);
    remember(sk, &mut state);
    ALLOW
}

/// A socket may connect() more than once: the last call counts.
#[inline(always)]
fn remember(sk: *mut c_void, state: &mut SocketState) -> bool {
    // SAFETY: `sk` comes from the context and is not null.
    match unsafe { storage::get_or_create(sk, state) } {
        Some(slot) => {
            *slot = *state;
            true
        }
        None => false,
    }
}

#[inline(always)]
fn refuse(errno: i32) -> i32 {
    if features::has(features::SET_RETVAL) {
        // SAFETY: no pointer is involved.
        unsafe { bpf_set_retval(-errno) };
    }
    REFUSE
}

#[inline(always)]
fn redirect(ctx: &SockAddrContext, v6_socket: bool, v4: bool, port: u16) {
    // SAFETY: context fields that this hook may write.
    unsafe {
        if !v6_socket {
            (*ctx.sock_addr).user_ip4 = LOCALHOST_V4;
        } else {
            let words = if v4 { LOCALHOST_MAPPED } else { LOCALHOST_V6 };
            set_words(&raw mut (*ctx.sock_addr).user_ip6, words);
        }
        (*ctx.sock_addr).user_port = u32::from(port.to_be());
    }
}

#[inline(always)]
fn alive(ctx: &SockAddrContext, v4: bool, port: u16) -> bool {
    // SAFETY: sock_addr programs may look sockets up.
    unsafe { is_alive(ctx.sock_addr.cast(), v4, port) }
}
