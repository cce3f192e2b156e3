//! What an outbound connection is: the one decision that connect() and the guard share.

use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_uid_gid, bpf_get_netns_cookie, bpf_ktime_get_ns,
};
use aya_ebpf::maps::lpm_trie::Key;
use mtls_common::{
    AddressKey, Destination, DestinationPort, Endpoint, INSIDE_UNKNOWN, MAX_CGROUP_LEVEL, Namespace, UidKey,
    VERDICT_DENY, VerdictKey, Workload, WorkloadPort, workload_flags,
};

use crate::address::is_always_excluded;
use crate::event::Whose;
use crate::maps::{
    ADDRESSES, CGROUP_LEVELS, CGROUPS, DENIED, DESTINATIONS, EXCLUDED, EXCLUDED_PORTS, INSIDE, NAMESPACES,
    UIDS, WORKLOADS, settings,
};

/// How many levels of cgroups are looked at, the root included.
const CGROUP_LEVELS_SEEN: i32 = MAX_CGROUP_LEVEL as i32 + 1;

/// Calls it with each level that is in the set, from the root down.
#[inline(always)]
pub fn each_level(levels: u32, mut look: impl FnMut(i32)) {
    for level in 0..CGROUP_LEVELS_SEEN {
        if levels & (1 << level) != 0 {
            look(level);
        }
    }
}

/// 0, of which the verifier does not know that it is 0. Of a value that begins as a known one and changes in a loop it keeps
/// apart what was changed and what was not, at each turn.
#[inline(always)]
pub fn opaque_zero() -> u32 {
    // SAFETY: no pointer is involved.
    let time = unsafe { bpf_ktime_get_ns() } as u32;
    core::hint::black_box(time) ^ time
}

/// A workload and the listeners of the namespace that the socket is in.
pub struct Place {
    pub netns: u64,
    pub namespace: Namespace,
    pub workload: u32,
    pub settings: Workload,
}

impl Place {
    #[inline(always)]
    pub fn whose(&self) -> Whose {
        Whose { workload: self.workload, netns: self.netns }
    }
}

/// What to do with a connection.
pub enum Decision {
    Untouched,
    Capture(Destination),
    DeniedPolicy(Destination),
    DeniedUnknown,
}

/// The enrolled workload of the current process, or of the namespace of the socket in `ctx`.
///
/// # Safety
/// `ctx` is the context of a program that may call `bpf_get_netns_cookie`.
#[inline(always)]
pub unsafe fn place(ctx: *mut core::ffi::c_void, current_process: bool) -> Option<Place> {
    // SAFETY: the caller's promise.
    let netns = unsafe { bpf_get_netns_cookie(ctx) };
    // SAFETY: values are copied at once; user space replaces entries whole.
    let entered = unsafe { NAMESPACES.get(&netns) }.copied();
    let mut workload = 0;
    if current_process {
        workload = workload_of_current(netns);
    }
    // A process may be in a namespace that the daemon has not entered yet: no listener there, so the
    // workload's connections fail until it has.
    let namespace = match entered {
        Some(namespace) => namespace,
        None if workload != 0 => Namespace { workload: 0, outbound_v4: 0, outbound_v6: 0 },
        None => return None,
    };
    if workload == 0 {
        workload = namespace.workload;
    }
    if workload == 0 {
        return None;
    }
    Some(Place { netns, namespace, workload, settings: settings(workload) })
}

/// The workload of the current process, by its cgroup, else by its user; 0: neither says one.
#[inline(always)]
pub fn workload_of_current(netns: u64) -> u32 {
    let workload = workload_of_current_cgroup(netns);
    if workload != 0 { workload } else { workload_of_current_user(netns).unwrap_or(0) }
}

/// What is known of the current process by its real user ID; 0: that it is nobody's.
#[inline(always)]
pub fn workload_of_current_user(netns: u64) -> Option<u32> {
    // SAFETY: no pointer is involved. The lower half is the user's.
    let uid = unsafe { bpf_get_current_uid_gid() } as u32;
    workload_of_user(netns, uid)
}

#[inline(always)]
pub fn workload_of_user(netns: u64, uid: u32) -> Option<u32> {
    // SAFETY: copied at once.
    unsafe { UIDS.get(&UidKey { netns, uid, reserved: 0 }) }.copied()
}

#[inline(always)]
fn workload_of_current_cgroup(netns: u64) -> u32 {
    let levels = CGROUP_LEVELS.get(0).copied().unwrap_or(0);
    if levels == 0 {
        return 0;
    }
    let mut found = opaque_zero();
    each_level(levels, |level| {
        // SAFETY: no pointer is involved; 0 is returned where there is no such ancestor.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level) };
        // SAFETY: copied at once.
        if let Some(workload) = unsafe { CGROUPS.get(&id) }
            && *workload != 0
        {
            found = *workload;
        }
    });
    if found == 0 {
        return 0;
    }
    // SAFETY: copied at once.
    let only = unsafe { WORKLOADS.get(&found) }.map_or(0, |settings| settings.only_netns);
    if only == 0 || only == netns { found } else { 0 }
}

/// Decides for a connection of `place` to `to`.
#[inline(always)]
pub fn outbound(place: &Place, to: &Endpoint) -> Decision {
    let flags = place.settings.flags;
    if flags & workload_flags::CAPTURE == 0
        || is_always_excluded(&to.address)
        || is_excluded(place.workload, to)
    {
        return Decision::Untouched;
    }
    let Some(destination) = destination(to) else {
        let is_strict = flags & workload_flags::STRICT != 0;
        if flags & workload_flags::DENY_UNKNOWN != 0 || is_strict && is_unknown_inside(to) {
            return Decision::DeniedUnknown;
        }
        return Decision::Untouched;
    };
    if destination.id == 0 {
        return Decision::Untouched; // a port that its own workload has disabled
    }
    if destination.workload == place.workload && place.settings.netns != 0 {
        return Decision::Untouched; // a workload that has its namespace to itself talks to itself over lo
    }
    if is_denied(place.workload, destination.id, to.port) {
        return Decision::DeniedPolicy(destination);
    }
    Decision::Capture(destination)
}

/// Is it an address of the cluster's networks of which nobody has said whose it is?
#[inline(always)]
fn is_unknown_inside(to: &Endpoint) -> bool {
    INSIDE.get(&Key::new(128, to.address)).copied() == Some(INSIDE_UNKNOWN)
}

/// The verdict of the port, else that of port 0, which stands for every port without one.
#[inline(always)]
fn is_denied(workload: u32, destination: u32, port: u16) -> bool {
    let mut key = VerdictKey { workload, destination, port, reserved: 0 };
    // SAFETY: copied at once.
    if let Some(verdict) = unsafe { DENIED.get(&key) } {
        return *verdict == VERDICT_DENY;
    }
    key.port = 0;
    // SAFETY: copied at once.
    unsafe { DENIED.get(&key) }.copied() == Some(VERDICT_DENY)
}

#[inline(always)]
pub fn is_excluded(workload: u32, to: &Endpoint) -> bool {
    let mut port = WorkloadPort { workload: 0, port: to.port, reserved: 0 };
    // SAFETY: only presence is asked for.
    if unsafe { EXCLUDED_PORTS.get(&port) }.is_some() {
        return true;
    }
    port.workload = workload;
    // SAFETY: as above.
    if unsafe { EXCLUDED_PORTS.get(&port) }.is_some() {
        return true;
    }
    let mut key = Key::new(160, AddressKey { workload: [0; 4], address: to.address });
    if EXCLUDED.get(&key).is_some() {
        return true;
    }
    key.data.workload = workload.to_be_bytes();
    EXCLUDED.get(&key).is_some()
}

#[inline(always)]
fn destination(to: &Endpoint) -> Option<Destination> {
    let set = *ADDRESSES.get(&Key::new(128, to.address))?;
    let mut key = DestinationPort { set, port: to.port, reserved: 0 };
    // SAFETY: copied at once.
    if let Some(found) = unsafe { DESTINATIONS.get(&key) } {
        return Some(*found);
    }
    key.port = 0;
    // SAFETY: as above.
    unsafe { DESTINATIONS.get(&key) }.copied()
}
