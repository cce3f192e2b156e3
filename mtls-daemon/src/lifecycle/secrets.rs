//! Keys stay in memory: the daemon's memory is not swapped, and not written into a core dump.
//!
//! All of it, since keys are also where the TLS libraries put them. Pages are locked when they are touched
//! (`MCL_ONFAULT`), so that reserved address space costs nothing.

use std::fs;

use nix::errno::Errno;
use nix::libc;
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};

/// The bit of CAP_IPC_LOCK (`linux/capability.h`).
const CAP_IPC_LOCK: u32 = 14;

/// What could be done for the keys in memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Secrets {
    /// Why the memory may be swapped; `None`: it may not.
    pub swapped: Option<Swapped>,
    /// Why a crash may write a core dump; `None`: it may not.
    pub dumped: Option<Errno>,
}

/// Why memory is not locked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Swapped {
    /// With a finite limit a later allocation would fail instead.
    #[error(
        "memory may be swapped, keys with it: RLIMIT_MEMLOCK is finite and CAP_IPC_LOCK is missing; set LimitMEMLOCK=infinity \
         in the unit, or switch swap off"
    )]
    Limit,
    /// The kernel refused.
    #[error("memory may be swapped, keys with it: mlockall failed ({0}); switch swap off")]
    Refused(Errno),
}

/// Locks all memory, now and later, and forbids core dumps and debuggers of other users.
#[must_use]
pub fn protect() -> Secrets {
    let dumped = prctl::set_dumpable(false).and_then(|()| setrlimit(Resource::RLIMIT_CORE, 0, 0)).err();
    Secrets { swapped: lock().err(), dumped }
}

fn lock() -> Result<(), Swapped> {
    let unlimited = || getrlimit(Resource::RLIMIT_MEMLOCK).is_ok_and(|(soft, _)| soft == RLIM_INFINITY);
    // Root may raise it; where it may not, the capability does without.
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
    if !unlimited() && !has_capability() {
        return Err(Swapped::Limit);
    }
    let on_fault = MlockAllFlags::from_bits_retain(libc::MCL_ONFAULT);
    mlockall(MlockAllFlags::MCL_CURRENT | MlockAllFlags::MCL_FUTURE | on_fault).map_err(Swapped::Refused)
}

fn has_capability() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .is_some_and(|bits| bits >> CAP_IPC_LOCK & 1 == 1)
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::identity::testing::key_address;

    const CHILD: &str = "MTLSD_TEST_SECRETS";

    /// `VmFlags` and `Locked` of the mapping that holds an address.
    fn mapping(address: usize) -> (String, u64) {
        let maps = fs::read_to_string("/proc/self/smaps").unwrap();
        let (mut here, mut locked) = (false, 0);
        for line in maps.lines() {
            let range = line.split_whitespace().next().and_then(|word| word.split_once('-'));
            if let Some((from, to)) = range
                && let (Ok(from), Ok(to)) = (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16))
            {
                here = (from..to).contains(&address);
            } else if here && let Some(size) = line.strip_prefix("Locked:") {
                locked = size.trim().trim_end_matches(" kB").parse().unwrap();
            } else if here && let Some(flags) = line.strip_prefix("VmFlags:") {
                return (flags.to_owned(), locked);
            }
        }
        panic!("{address:x} is not mapped")
    }

    /// In a process of its own, this test run again: locking is for the whole process and for good.
    #[test]
    fn a_key_that_is_made_later_is_in_locked_memory_and_in_no_core_dump() {
        if std::env::var_os(CHILD).is_none() {
            let name =
                "lifecycle::secrets::tests::a_key_that_is_made_later_is_in_locked_memory_and_in_no_core_dump";
            let mut child = Command::new(std::env::current_exe().unwrap());
            let output = child.args(["--exact", name, "--nocapture"]).env(CHILD, "1").output().unwrap();
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && text.contains("1 passed"), "{output:?}");
            return;
        }
        let before = mapping(key_address(&crate::identity::testing::secret_key()));
        assert!(!before.0.contains(" lo"), "{before:?}");
        let secrets = protect();
        assert_eq!(secrets.dumped, None);
        assert!(!prctl::get_dumpable().unwrap());
        assert_eq!(getrlimit(Resource::RLIMIT_CORE).unwrap(), (0, 0));
        // Also for an allocation of a thread that begins later, in an arena of its own.
        let (flags, locked) = std::thread::spawn(|| {
            let key = crate::identity::testing::secret_key();
            mapping(key_address(&key))
        })
        .join()
        .unwrap();
        match secrets.swapped {
            None => assert!(flags.contains(" lo") && locked > 0, "{flags} {locked}"),
            // Without rights the test can only see that it is told.
            Some(why) => {
                assert!(why.to_string().contains("swap") && !nix::unistd::geteuid().is_root(), "{why}");
            }
        }
    }
}
