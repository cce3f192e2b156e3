//! Probes: what a prober of this node (kubelet) asks of a workload's ports reaches the application as it is.
//!
//! A probe is known by the process that calls connect(), never by an address: its socket is marked there, its four-tuple is noted when
//! the SYN is about to leave, and the namespace that the SYN comes to lets it in if its workload is probed on that port.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{bpf_get_current_cgroup_id, bpf_ktime_get_boot_ns};
use mtls_common::{DeliveryKey, Endpoint, SharedPort, SocketKind, SocketState, WorkloadPort};

use crate::maps::{NAMESPACES, PROBE_PORTS, PROBERS, PROBES, SHARED_PORTS};
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

/// The SYN of a prober's socket is about to leave.
#[inline(always)]
pub fn announce(from: Endpoint, to: Endpoint) {
    // SAFETY: no pointer is involved.
    let until = unsafe { bpf_ktime_get_boot_ns() }.wrapping_add(LIFE_NS);
    let _ = PROBES.insert(&DeliveryKey { netns: 0, from, to }, &until, 0);
}

/// It will not be answered any more: whoever has the prober's port next is not let in by it.
#[inline(always)]
pub fn give_up(from: Endpoint, to: Endpoint) {
    let _ = PROBES.remove(&DeliveryKey { netns: 0, from, to });
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
#[inline(always)]
pub fn arrived(key: &DeliveryKey, sk: *mut c_void) -> bool {
    if !is_probed(0, key.to.port) {
        return false;
    }
    let probe = DeliveryKey { netns: 0, ..*key };
    // SAFETY: only presence is asked for.
    if unsafe { PROBES.get(&probe) }.is_none() {
        return false;
    }
    let port = SharedPort { netns: key.netns, port: key.to.port, reserved: [0; 3] };
    // SAFETY: copied at once.
    let workload = unsafe {
        let whole = NAMESPACES.get(&key.netns).map_or(0, |namespace| namespace.workload);
        SHARED_PORTS.get(&port).copied().unwrap_or(whole)
    };
    if workload == 0 || !is_probed(workload, key.to.port) {
        return false;
    }
    // One connection each.
    let _ = PROBES.remove(&probe);
    let mut state =
        SocketState { kind: SocketKind::Probed.raw(), workload, netns: key.netns, ..SocketState::default() };
    // SAFETY: from the context, not null. One that came too late was accepted by the daemon, and stays its own.
    let _ = unsafe { storage::get_or_create(sk, &mut state) };
    true
}
