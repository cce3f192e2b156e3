//! What the allocator keeps of freed memory.

#![allow(unsafe_code)]

use nix::libc::c_int;

/// Most arenas. glibc would have eight for each processor, each of which comes to hold the most that was ever in use there at one time;
/// what is locked is not given back.
const MOST_ARENAS: usize = 8;
/// Fewer would have the threads wait for each other.
const FEWEST_ARENAS: usize = 2;

/// From so many bytes on an allocation is a mapping of its own, and goes back to the system with it. By itself glibc raises this up to
/// 32 MiB as the program frees larger pieces, and the next one to twice as much: reading the kernel's type information once would
/// have an arena keep 10 MiB for ever. The buffers of relays are smaller.
const OWN_MAPPING: c_int = 1 << 20;
/// So much may stay free at an arena's end.
const KEPT: c_int = 2 << 20;

/// Has the threads share few arenas, one for each processor, since no more threads allocate at one time, that keep little. Before there
/// are threads.
pub fn keep_little() {
    let processors = std::thread::available_parallelism().map_or(FEWEST_ARENAS, usize::from);
    let arenas = c_int::try_from(processors.clamp(FEWEST_ARENAS, MOST_ARENAS)).unwrap_or(c_int::MAX);
    #[cfg(target_env = "gnu")]
    // SAFETY: sets numbers of the allocator's own, under its lock.
    unsafe {
        nix::libc::mallopt(nix::libc::M_ARENA_MAX, arenas);
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, OWN_MAPPING);
        nix::libc::mallopt(nix::libc::M_TRIM_THRESHOLD, KEPT);
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = (arenas, OWN_MAPPING, KEPT);
}

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
