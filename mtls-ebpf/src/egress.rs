//! cgroup_skb/egress: holds the SYN of a captured connection until the daemon knows the peer's answer, and
//! guards strict workloads: what no captured connection accounts for does not leave.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_sk_fullsock, bpf_skb_load_bytes,
};
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use mtls_common::{
    Counter, EventKind, LOOPBACK_IFINDEX, PortMode, Role, SYN_CAPACITY, SharedPort, SocketKind, SocketState,
    WorkloadPort, workload_flags,
};

use crate::enclosure::Owner;
use crate::listener::{Receiver, is_alive};
use crate::maps::{NAMESPACES, PORT_MODES, SHARED_PORTS, count, settings};
use crate::packet::{FLAG_FIN, Tcp, parse};
use crate::{enclosure, event, features, guard, storage};

pub const PASS: i32 = 1;
pub const DROP: i32 = 0;
/// Each look takes about 0.1 µs, and the ACK is on its way: it is seldom more than a few.
const ACCEPTANCE_LOOKS: u32 = 256;

/// What is done with a packet is a function of its own each, called with nothing on the stack: together they would not
/// fit on it.
#[cgroup_skb(egress)]
pub fn egress(ctx: SkBuffContext) -> i32 {
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
    let sk = sk.cast::<c_void>();
    // SAFETY: a full socket, not null.
    let state = unsafe { storage::get(sk) };
    let netns = match &state {
        Some(state) => state.netns,
        None if !features::has(features::SKB_NETNS_COOKIE) => return PASS,
        // SAFETY: the feature says that this kernel allows the helper here.
        None => unsafe { bpf_get_netns_cookie(ctx.as_ptr()) },
    };
    let Some(state) = state.filter(|state| state.kind != SocketKind::Unclassified.raw()) else {
        // One call: the verifier goes through the function for each.
        return unseen(SkBuffContext::new(skb), sk, netns);
    };
    if state.kind == SocketKind::DirectFlowing.raw() {
        return guard::flows(&ctx, state, true);
    }
    if state.kind == SocketKind::Captured.raw() || state.kind == SocketKind::DirectSyn.raw() {
        return hold(SkBuffContext::new(skb), state);
    }
    if state.kind == SocketKind::Established.raw() {
        return first_bytes(SkBuffContext::new(skb), state);
    }
    if state.kind == SocketKind::Blocked.raw() {
        count(Counter::GuardDropped);
        return DROP;
    }
    if SocketKind::is_direct(state.kind) {
        return guard::sends(SkBuffContext::new(skb), state);
    }
    PASS
}

#[inline(never)]
fn hold(ctx: SkBuffContext, state: &mut SocketState) -> i32 {
    let ctx = &ctx;
    let Some(tcp) = parse(ctx) else {
        return DROP;
    };
    let direct = state.kind == SocketKind::DirectSyn.raw();
    if !tcp.opens() {
        return PASS; // the handshake's last ACK, or a RST: the daemon's listener is the other end
    }
    let skb = ctx.skb.skb;
    if state.announced > 0 && !direct {
        let v4 = tcp.destination.is_ipv4();
        // SAFETY: cgroup_skb programs may look sockets up.
        if !unsafe { is_alive(skb.cast(), v4, tcp.destination.port) } {
            return PASS; // the daemon is gone: nothing listens at the rewritten address, RST is the answer
        }
    }
    // SAFETY: cgroup_skb programs may ask for the socket cookie.
    let cookie = unsafe { bpf_get_socket_cookie(skb.cast()) };
    let whose = event::Whose { workload: state.workload, netns: state.netns };
    let kind = if direct { EventKind::DirectSyn } else { EventKind::Held };
    let Some(mut entry) = event::reserve(kind, &whose, cookie, state.destination, &state.peer) else {
        return DROP; // unannounced: the kernel sends the SYN again in a second
    };
    let event = entry.as_mut_ptr();
    // Opaque, or the compiler drops the check that the verifier needs to see. Before Linux 6.8 the verifier learns
    // nothing from `length != 0`, to which the compiler turns `length >= 1`: so one is taken off and added again.
    let last = core::hint::black_box(tcp.header_end.wrapping_sub(1));
    if last >= SYN_CAPACITY as u32 {
        entry.discard(0);
        return DROP;
    }
    let length = last + 1;
    // SAFETY: the reservation has room for SYN_CAPACITY bytes, and `length` is at most that.
    let copied = unsafe {
        (*event).announced = state.announced;
        (*event).packet_len = length;
        (*event).descriptor = state.descriptor;
        if direct {
            (*event).source = tcp.source;
            (*event).pid = state.pid;
            (*event).role = Role::Client as u32;
        }
        bpf_skb_load_bytes(skb.cast(), 0, (&raw mut (*event).packet).cast(), length)
    };
    if copied != 0 {
        entry.discard(0);
        return DROP;
    }
    entry.submit(0);
    state.announced = state.announced.saturating_add(1);
    count(Counter::Held);
    DROP
}

/// Lets the first bytes go when the daemon's socket is there to take them.
///
/// The daemon's SYN was sent on another processor than the application runs on, so that these bytes can be
/// looked up while the ACK before them replaces the request by the new socket. Before Linux 6.19 that lookup
/// may find neither (`inet_ehash_insert`), and the listener answers with a RST.
#[inline(never)]
fn first_bytes(ctx: SkBuffContext, state: &mut SocketState) -> i32 {
    let ctx = &ctx;
    let Some(tcp) = parse(ctx) else {
        return PASS;
    };
    if !tcp.has_payload && tcp.flags & FLAG_FIN == 0 {
        return PASS;
    }
    state.kind = SocketKind::Flowing.raw();
    // SAFETY: cgroup_skb programs may look sockets up.
    unsafe { Receiver::of(&tcp.source, &tcp.destination).wait(ctx.skb.skb.cast(), ACCEPTANCE_LOOKS) }
    PASS
}

/// A socket that no hook has classified: opened before its workload was enrolled, or a raw socket.
#[inline(never)]
fn unseen(ctx: SkBuffContext, sk: *mut c_void, netns: u64) -> i32 {
    let ctx = &ctx;
    let skb = ctx.skb.skb;
    // SAFETY: context field.
    if unsafe { (*skb).ifindex } == LOOPBACK_IFINDEX {
        return PASS;
    }
    // SAFETY: copied at once.
    let owner = unsafe { NAMESPACES.get(&netns) }.map_or(0, |namespace| namespace.workload);
    if owner == 0 {
        return unclassified(ctx, sk, netns);
    }
    account(ctx, sk, netns, owner)
}

/// A packet of a socket that may belong to no workload: dropped where it must, so that TCP sends it again and a
/// workload that is enrolled meanwhile loses nothing.
#[inline(always)]
fn unclassified(ctx: &SkBuffContext, sk: *mut c_void, netns: u64) -> i32 {
    if enclosure::is_classified_whole(netns) {
        return leave(sk);
    }
    // Before the headers: behind them the verifier would go through the cgroups for each version of IP.
    // SAFETY: this is a cgroup_skb program.
    let owner = unsafe { enclosure::owner(ctx.as_ptr(), netns) };
    let Some(tcp) = parse(ctx) else {
        return PASS;
    };
    match owner {
        Owner::Missing => {}
        Owner::Nobody => return leave(sk),
        Owner::Workload(workload) => {
            let port = SharedPort { netns, port: tcp.source.port, reserved: [0; 3] };
            // A connection to a captured port that did not come through the daemon is older than the capture.
            // SAFETY: copied at once.
            return match unsafe { SHARED_PORTS.get(&port) }.copied() == Some(workload) {
                true => account(ctx, sk, netns, workload),
                false => leave(sk),
            };
        }
    }
    if (!tcp.opens() && !tcp.has_payload) || enclosure::is_excluded_pair(&tcp.source, &tcp.destination) {
        return PASS;
    }
    count(Counter::Unclassified);
    // SAFETY: a full socket, not null.
    if let Some(state) = unsafe { storage::get_or_zeroed(sk) }
        && state.announced == 0
    {
        state.kind = SocketKind::Unclassified.raw();
        state.netns = netns;
        state.announced = 1;
        // SAFETY: cgroup_skb programs may ask for the socket cookie.
        let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
        event::send_unclassified(netns, cookie, 0, &tcp.source, &tcp.destination);
    }
    DROP
}

/// The socket is nobody's to look at again.
#[inline(always)]
fn leave(sk: *mut c_void) -> i32 {
    // SAFETY: a full socket, not null.
    if let Some(state) = unsafe { storage::get(sk) } {
        state.kind = SocketKind::Untouched.raw();
    }
    PASS
}

/// A packet of a workload's socket that no hook has seen.
#[inline(always)]
fn account(ctx: &SkBuffContext, sk: *mut c_void, netns: u64, workload: u32) -> i32 {
    let settings = settings(workload);
    if settings.flags & workload_flags::STRICT == 0 {
        return PASS;
    }
    let Some(tcp) = parse(ctx) else {
        return PASS;
    };
    if !tcp.opens() && !tcp.has_payload {
        return PASS;
    }
    let key = WorkloadPort { workload, port: tcp.source.port, reserved: 0 };
    // SAFETY: copied at once.
    let mode = unsafe { PORT_MODES.get(&key) }.copied().unwrap_or(settings.default_mode);
    if mode == PortMode::Disabled.raw() {
        return PASS;
    }
    block(ctx, sk, &event::Whose { workload, netns }, &tcp)
}

/// Drops, and remembers it on the socket so that the event is sent once.
#[inline(always)]
fn block(ctx: &SkBuffContext, sk: *mut c_void, whose: &event::Whose, tcp: &Tcp) -> i32 {
    count(Counter::GuardDropped);
    // SAFETY: a full socket, not null.
    if let Some(state) = unsafe { storage::get_or_zeroed(sk) } {
        state.kind = SocketKind::Blocked.raw();
        state.workload = whose.workload;
    }
    // SAFETY: cgroup_skb programs may ask for the socket cookie.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    event::send(EventKind::Unaccounted, whose, cookie, 0, &tcp.destination);
    DROP
}
