//! SYNs that the daemon expects from another daemon's client: they are the application's own.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use mtls_common::{DeliveryKey, Endpoint, Expected};

use crate::maps::{DIRECT, EXPECTED};

/// Whether any workload may be direct. Where none is, this look is all that it costs.
#[inline(always)]
pub fn direct_is_on() -> bool {
    DIRECT.get(0).copied().unwrap_or(0) != 0
}

/// What is expected of this connection, in time or too late.
#[inline(always)]
pub fn entry(key: &DeliveryKey) -> Option<Expected> {
    // SAFETY: copied at once.
    unsafe { EXPECTED.get(key) }.copied()
}

/// Whether this connection is expected now.
#[inline(always)]
pub fn is_live(key: &DeliveryKey) -> bool {
    // SAFETY: no pointer is involved.
    entry(key).is_some_and(|expected| expected.deadline > unsafe { bpf_ktime_get_boot_ns() })
}

/// Whether a connection between these is expected in any namespace, in time or too late.
#[inline(always)]
pub fn is_anywhere(from: Endpoint, to: Endpoint) -> bool {
    entry(&DeliveryKey { netns: 0, from, to }).is_some()
}

/// It has come. The namespace's entry goes last: while the other one is there, the guard is closed by it.
#[inline(always)]
pub fn forget(key: &DeliveryKey) {
    let _ = EXPECTED.remove(&DeliveryKey { netns: 0, ..*key });
    let _ = EXPECTED.remove(key);
}
