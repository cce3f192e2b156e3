//! Services: where an enrolled workload connects to a Service's address, one of its endpoints is chosen here, before anything else is
//! decided. All that follows is as for a connection to that endpoint, except that getpeername() says the Service's address.
//!
//! Only an address is chosen: who must be there is looked up afterwards, by that address.

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::helpers::generated::{bpf_get_prandom_u32, bpf_sk_storage_get};
use aya_ebpf::programs::SockAddrContext;
use mtls_common::{BackendKey, Counter, Endpoint, workload_flags};

use crate::classify::{Place, is_excluded};
use crate::getpeername::{write_v4, write_v6};
use crate::listener::is_alive;
use crate::maps::{ASKED, BACKENDS, SERVICES, count};

#[inline(always)]
fn map() -> *mut c_void {
    (&raw const ASKED).cast_mut().cast()
}

/// What the application asked for, if an endpoint was chosen for it.
///
/// # Safety
/// `sk` is a full socket that the verifier knows, not null.
#[inline(always)]
pub unsafe fn asked<'a>(sk: *mut c_void) -> Option<&'a mut Endpoint> {
    // SAFETY: the helper returns null or the value, which the kernel keeps while the program runs.
    let asked =
        unsafe { bpf_sk_storage_get(map(), sk, core::ptr::null_mut(), 0).cast::<Endpoint>().as_mut() }?;
    (asked.port != 0).then_some(asked)
}

/// A socket may connect() more than once.
///
/// # Safety
/// As [`asked`].
#[inline(always)]
pub unsafe fn forget(sk: *mut c_void) {
    // SAFETY: the caller's promise.
    if let Some(asked) = unsafe { asked(sk) } {
        asked.port = 0;
    }
}

/// Turns a Service's address, in `to` and in the context, to one of its endpoints. Where that cannot be done `to` stays, and
/// kube-proxy has the choice: also where the daemon is away, and what is known here may be old.
#[inline(never)]
pub fn resolve(ctx: SockAddrContext, sk: *mut c_void, place: &Place, to: &mut Endpoint, v6_socket: bool) {
    if place.settings.flags & workload_flags::CAPTURE == 0 {
        return;
    }
    // SAFETY: copied at once.
    let Some(service) = (unsafe { SERVICES.get(&*to) }).copied() else {
        return;
    };
    let v4 = to.is_ipv4();
    let port = if v4 { place.namespace.outbound_v4 } else { place.namespace.outbound_v6 };
    // SAFETY: sock_addr programs may look sockets up.
    if service.backends == 0 || port == 0 || !unsafe { is_alive(ctx.sock_addr.cast(), v4, port) } {
        return;
    }
    if is_excluded(place.workload, to) {
        return;
    }
    // SAFETY: no pointer is involved.
    let index = unsafe { bpf_get_prandom_u32() } % service.backends;
    // SAFETY: the kernel keeps it while the program runs.
    let Some(backend) = (unsafe { BACKENDS.get(&BackendKey { set: service.set, index }) }) else {
        return; // it has just been replaced
    };
    // SAFETY: the helper returns null or the value; `to` is as long as the value.
    let asked = unsafe {
        bpf_sk_storage_get(map(), sk, (&raw mut *to).cast(), BPF_SK_STORAGE_GET_F_CREATE.into())
            .cast::<Endpoint>()
            .as_mut()
    };
    let Some(asked) = asked else {
        return;
    };
    *asked = *to;
    *to = *backend;
    if v6_socket {
        write_v6(&ctx, to);
    } else {
        write_v4(&ctx, to);
    }
    count(Counter::Resolved);
}
