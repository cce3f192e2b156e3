//! Numbers of workloads.

/// A workload's number: stable across restarts, since pinned tables outlive the daemon (FNV-1a, 32 bits).
/// Never 0, which stands for no workload.
#[must_use]
pub fn number_of(name: &str) -> u32 {
    let hash =
        name.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    hash.max(1)
}
