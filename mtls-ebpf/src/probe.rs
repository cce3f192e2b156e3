//! Probes: what a prober of this node (kubelet) asks of a workload's ports reaches the application as it is.
//!
//! A probe is known by the process that calls connect(), never by an address: its socket is marked there, its four-tuple is noted when
//! the SYN is about to leave, and the namespace that the SYN comes to lets it in if its workload is probed on that port.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_TCP_CLOSE, BPF_TCP_SYN_SENT};
use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_ktime_get_boot_ns};
use aya_ebpf::programs::SockOpsContext;
use mtls_common::{DeliveryKey, Endpoint, SharedPort, SocketKind, SocketState, WorkloadPort};

use crate::maps::{NAMESPACES, PROBE_PORTS, PROBERS, PROBES, SHARED_PORTS};
use crate::sock_ops::{local, remote, socket};
use crate::storage;

/// How long a SYN is let in after it was sent: time for one retransmission, which comes after a second.
const LIFE_NS: u64 = 2_000_000_000;

/// Whether a workload is probed on this port; 0: whether any is.
#[inline(always)]
fn is_probed(workload: u32, port: u16) -> bool {
    // SAFETY: only presence is asked for.
    unsafe { PROBE_PORTS.get(&WorkloadPort { workload, port, reserved: 0 }) }.is_some()
}

/// Whether a connection of the current process to this port may be a probe.
#[inline(always)]
pub fn begins(port: u16) -> bool {
    // SAFETY: no pointer is involved; only presence is asked for.
    is_probed(0, port) && unsafe { PROBERS.get(&bpf_get_current_cgroup_id()) }.is_some()
}

/// The four-tuple of a prober's socket, with namespace 0; `None`: it is none.
#[inline(always)]
fn of_prober(ctx: &SockOpsContext) -> Option<DeliveryKey> {
    let sk = socket(ctx);
    if sk.is_null() {
        return None;
    }
    // SAFETY: from the context, not null.
    let state = unsafe { storage::get(sk) }?;
    (state.kind == SocketKind::Probing.raw()).then(|| DeliveryKey {
        netns: 0,
        from: local(ctx),
        to: remote(ctx),
    })
}

/// The SYN of a prober's socket is about to leave.
#[inline(never)]
pub fn connecting(ctx: SockOpsContext) {
    let Some(key) = of_prober(&ctx) else {
        return;
    };
    // SAFETY: no pointer is involved.
    let until = unsafe { bpf_ktime_get_boot_ns() }.wrapping_add(LIFE_NS);
    let _ = PROBES.insert(&key, &until, 0);
}

/// A connect() that failed: whoever has the prober's port next is not let in by it.
#[inline(never)]
pub fn state_changed(ctx: SockOpsContext) {
    // SAFETY: the two arguments of this callback: old state, new state.
    let (old, new) = unsafe { ((*ctx.ops).__bindgen_anon_1.args[0], (*ctx.ops).__bindgen_anon_1.args[1]) };
    if old != BPF_TCP_SYN_SENT || new != BPF_TCP_CLOSE {
        return;
    }
    if let Some(key) = of_prober(&ctx) {
        let _ = PROBES.remove(&key);
    }
}

/// Whether this SYN is a probe's, and its workload's port one that is probed.
#[inline(always)]
pub fn is_due(workload: u32, from: Endpoint, to: Endpoint) -> bool {
    if !is_probed(workload, to.port) {
        return false;
    }
    // SAFETY: copied at once; no other pointer is involved.
    unsafe {
        PROBES.get(&DeliveryKey { netns: 0, from, to }).is_some_and(|until| *until > bpf_ktime_get_boot_ns())
    }
}

/// A connection of a listener. One that was let in as a probe is marked, so that what it answers may leave; `false`: it is none.
#[inline(never)]
pub fn arrived(ctx: SockOpsContext) -> bool {
    let sk = socket(&ctx);
    if sk.is_null() || !is_probed(0, ctx.local_port() as u16) {
        return false;
    }
    let probe = DeliveryKey { netns: 0, from: remote(&ctx), to: local(&ctx) };
    // SAFETY: only presence is asked for.
    if unsafe { PROBES.get(&probe) }.is_none() {
        return false;
    }
    // SAFETY: sock_ops programs may ask for the namespace cookie.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let port = SharedPort { netns, port: probe.to.port, reserved: [0; 3] };
    // SAFETY: copied at once.
    let workload = unsafe {
        let whole = NAMESPACES.get(&netns).map_or(0, |namespace| namespace.workload);
        SHARED_PORTS.get(&port).copied().unwrap_or(whole)
    };
    if workload == 0 || !is_probed(workload, probe.to.port) {
        return false;
    }
    // One connection each.
    let _ = PROBES.remove(&probe);
    let mut state = SocketState { kind: SocketKind::Probed.raw(), workload, netns, ..SocketState::default() };
    // SAFETY: from the context, not null. One that came too late was accepted by the daemon, and stays its own.
    let _ = unsafe { storage::get_or_create(sk, &mut state) };
    true
}
