//! What the running kernel can do. User space sets these before loading; the verifier then sees constants
//! and never visits the branches that an older kernel would refuse.

/// `bpf_set_retval()`: connect() may fail with an errno of our choice (5.18).
pub const SET_RETVAL: u32 = 1;
/// `bpf_get_netns_cookie()` in cgroup_skb programs (6.15).
pub const SKB_NETNS_COOKIE: u32 = 1 << 1;

#[unsafe(no_mangle)]
static FEATURES: u32 = 0;

/// The cookie of the namespace that this instance of the sk_lookup program is attached to.
#[unsafe(no_mangle)]
static NETNS_COOKIE: u64 = 0;

#[inline(always)]
pub fn has(feature: u32) -> bool {
    // SAFETY: a plain static; volatile so that the compiler does not fold the zero that is patched at load.
    unsafe { core::ptr::read_volatile(&raw const FEATURES) & feature != 0 }
}

#[inline(always)]
pub fn netns_cookie() -> u64 {
    // SAFETY: as above.
    unsafe { core::ptr::read_volatile(&raw const NETNS_COOKIE) }
}
