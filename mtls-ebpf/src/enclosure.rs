//! Where every process must belong to a workload: who belongs to none may not send. This is what closes the time
//! between the birth of a container and its enrolment.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_netns_cookie, bpf_get_socket_uid, bpf_skb_ancestor_cgroup_id,
};
use mtls_common::{Enclosure, Endpoint, WorkloadPort, enclosure_flags};

use crate::address::is_always_excluded;
use crate::classify::{each_level, is_excluded, opaque_zero, workload_of_current_user, workload_of_user};
use crate::maps::{CGROUP_LEVELS, CGROUPS, ENCLOSED, ENCLOSURE, EXCLUDED_PORTS, LEFT_ALONE, NAMESPACES};

/// `None`: nowhere, which costs no more than this look.
#[inline(always)]
pub fn configured() -> Option<&'static Enclosure> {
    ENCLOSURE.get(0).filter(|enclosure| enclosure.levels != 0 || enclosure.flags != 0)
}

/// Whether whoever is in this namespace belongs to a workload, or the namespace is known to be left alone.
#[inline(always)]
pub fn is_classified_whole(netns: u64) -> bool {
    // SAFETY: copied at once.
    let owned = unsafe { NAMESPACES.get(&netns) }.is_some_and(|namespace| namespace.workload != 0);
    // SAFETY: only presence is asked for.
    owned || unsafe { LEFT_ALONE.get(&netns) }.is_some()
}

/// Whether the namespace itself is one that no workload is in, where this is not allowed.
#[inline(always)]
fn is_unknown_namespace(enclosure: &Enclosure, netns: u64) -> bool {
    // SAFETY: only presence is asked for.
    enclosure.flags & enclosure_flags::NAMESPACES != 0
        && netns != enclosure.own_netns
        && unsafe { NAMESPACES.get(&netns) }.is_none()
}

/// What the cgroups above a process say, from the root down.
struct Ancestry {
    /// The workload, 0 for none.
    workload: u32,
    /// CLASSIFIED and ENCLOSED.
    facts: u32,
}

/// A cgroup of a workload, or one that is known to be left alone.
const CLASSIFIED: u32 = 1;
/// A cgroup in which everybody must be classified.
const ENCLOSED_CGROUP: u32 = 1 << 1;

impl Ancestry {
    #[inline(always)]
    fn new() -> Self {
        Self { workload: opaque_zero(), facts: opaque_zero() }
    }

    #[inline(always)]
    fn add(&mut self, id: u64) {
        // SAFETY: copied at once; of the other only presence is asked for.
        unsafe {
            if let Some(workload) = CGROUPS.get(&id) {
                self.facts |= CLASSIFIED;
                self.workload = if *workload == 0 { self.workload } else { *workload };
            }
            if ENCLOSED.get(&id).is_some() {
                self.facts |= ENCLOSED_CGROUP;
            }
        }
    }

    #[inline(always)]
    fn is_unclassified(&self, unknown_namespace: bool) -> bool {
        self.facts & CLASSIFIED == 0 && (self.facts & ENCLOSED_CGROUP != 0 || unknown_namespace)
    }
}

/// Whether the current process may not connect to `to`: it belongs to no workload, where it must.
///
/// # Safety
/// `ctx` is the context of a program that may call `bpf_get_netns_cookie`.
#[inline(always)]
pub unsafe fn refuses_current(ctx: *mut c_void, to: &Endpoint) -> bool {
    let Some(enclosure) = configured() else {
        return false;
    };
    if is_always_excluded(&to.address) || is_excluded(0, to) {
        return false;
    }
    // SAFETY: the caller's promise.
    let netns = unsafe { bpf_get_netns_cookie(ctx) };
    if is_classified_whole(netns) {
        return false;
    }
    if workload_of_current_user(netns).is_some() {
        return false;
    }
    let levels = enclosure.levels | CGROUP_LEVELS.get(0).copied().unwrap_or(0);
    let mut ancestry = Ancestry::new();
    // SAFETY: no pointer is involved; 0, which is no cgroup, where there is no such ancestor.
    each_level(levels, |level| ancestry.add(unsafe { bpf_get_current_ancestor_cgroup_id(level) }));
    ancestry.is_unclassified(is_unknown_namespace(enclosure, netns))
}

/// Whose a packet's socket is.
pub enum Owner {
    /// A workload's that is found by cgroup or user.
    Workload(u32),
    /// Nobody's, where it must be somebody's.
    Missing,
    /// Nobody's, which is allowed.
    Nobody,
}

/// Whose a packet's socket is, in a namespace that no workload has to itself.
///
/// # Safety
/// `skb` is the context of a cgroup_skb program.
#[inline(always)]
pub unsafe fn owner(skb: *mut c_void, netns: u64) -> Owner {
    let Some(enclosure) = configured() else {
        return Owner::Nobody;
    };
    let levels = enclosure.levels | CGROUP_LEVELS.get(0).copied().unwrap_or(0);
    let mut ancestry = Ancestry::new();
    // SAFETY: the caller's promise; 0 where there is no such ancestor.
    each_level(levels, |level| ancestry.add(unsafe { bpf_skb_ancestor_cgroup_id(skb.cast(), level) }));
    if ancestry.workload != 0 {
        return Owner::Workload(ancestry.workload);
    }
    // SAFETY: the caller's promise.
    match workload_of_user(netns, unsafe { bpf_get_socket_uid(skb.cast()) }) {
        Some(0) => return Owner::Nobody,
        Some(workload) => return Owner::Workload(workload),
        None => {}
    }
    if ancestry.is_unclassified(is_unknown_namespace(enclosure, netns)) {
        Owner::Missing
    } else {
        Owner::Nobody
    }
}

/// Whether a connection between these is nobody's to capture: neither end is a workload's port.
#[inline(always)]
pub fn is_excluded_pair(source: &Endpoint, destination: &Endpoint) -> bool {
    let port = WorkloadPort { workload: 0, port: source.port, reserved: 0 };
    is_always_excluded(&destination.address)
        || is_excluded(0, destination)
        // SAFETY: only presence is asked for.
        || unsafe { EXCLUDED_PORTS.get(&port) }.is_some()
}
