//! cgroup/post_bind4 and 6: the ports of workloads that name none are theirs from bind() on. User space learns of a port only when it
//! looks; until then it is closed, since nobody would ask whoever comes for a certificate.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::macros::cgroup_sock;
use aya_ebpf::programs::SockContext;
use mtls_common::{Endpoint, NEVER_LEARNED, SharedPort, workload_flags};

use crate::address::{endpoint, from_v4, from_v6, is_loopback, words};
use crate::classify::workload_of_current;
use crate::maps::{BOUND, settings};

/// Nothing is forbidden here.
const ALLOW: i32 = 1;
const IPPROTO_TCP: u32 = 6;

#[cgroup_sock(post_bind4)]
pub fn bound4(ctx: SockContext) -> i32 {
    // SAFETY: context fields.
    let (address, port) = unsafe { ((*ctx.sock).src_ip4, (*ctx.sock).src_port) };
    bound(&ctx, endpoint(from_v4(address), port as u16));
    ALLOW
}

#[cgroup_sock(post_bind6)]
pub fn bound6(ctx: SockContext) -> i32 {
    // SAFETY: context fields, word by word.
    let (address, port) = unsafe { (words(&raw const (*ctx.sock).src_ip6), (*ctx.sock).src_port) };
    bound(&ctx, endpoint(from_v6(address), port as u16));
    ALLOW
}

/// Whoever binds last has the port: where it is nobody's to learn, it is not what it was before either.
#[inline(always)]
fn bound(ctx: &SockContext, at: Endpoint) {
    // SAFETY: a context field.
    let protocol = unsafe { (*ctx.sock).protocol };
    if protocol != IPPROTO_TCP || is_loopback(&at.address) || NEVER_LEARNED.contains(&at.port) {
        return;
    }
    // SAFETY: cgroup_sock programs may ask for the namespace cookie.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let workload = workload_of_current(netns);
    let port = SharedPort { netns, port: at.port, reserved: [0; 3] };
    if workload != 0 && settings(workload).flags & workload_flags::LEARNS != 0 {
        let _ = BOUND.insert(&port, &workload, 0);
    } else {
        let _ = BOUND.remove(&port);
    }
}
