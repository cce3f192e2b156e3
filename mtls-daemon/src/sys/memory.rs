//! What the allocator keeps of freed memory.

#![allow(unsafe_code)]

/// Gives memory that was freed back to the system (`malloc_trim(3)`). The kernel's type information alone is 20 MB at start, of
/// which nothing is needed afterwards, and which glibc would keep for ever. Other allocators do it by themselves.
pub fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes an amount of memory to keep and touches nothing but the allocator's own, under its locks.
    unsafe {
        nix::libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    /// Resident anonymous memory, in KiB.
    fn resident() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    #[test]
    fn freed_memory_between_what_is_kept_goes_back_to_the_system() {
        const PIECES: usize = 20_000;
        const SIZE: usize = 4096;
        let mut kept = Vec::with_capacity(PIECES / 16 + 1);
        let pieces: Vec<Vec<u8>> = (0..PIECES).map(|_| vec![1; SIZE]).collect();
        let full = resident();
        for (number, piece) in pieces.into_iter().enumerate() {
            if number % 16 == 0 {
                kept.push(piece);
            }
        }
        super::give_back();
        let freed = u64::try_from(PIECES * SIZE / 1024 / 2).unwrap();
        let after = resident();
        assert!(!kept.is_empty() && full.saturating_sub(after) > freed, "{full} KiB, then {after} KiB");
    }
}
