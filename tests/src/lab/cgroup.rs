//! cgroup v2 directories: found, made, emptied and removed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::wait::within;
use crate::slow;

/// The cgroup v2 mount; on hybrid systems it is not /sys/fs/cgroup.
///
/// # Panics
/// If there is none.
pub fn mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").expect("/proc/mounts is readable");
    let found = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let place = fields.next()?;
        (fields.next()? == "cgroup2").then(|| PathBuf::from(place))
    });
    found.expect("no cgroup v2 is mounted; mount -t cgroup2 none /sys/fs/cgroup/unified")
}

/// Kills every process in `group` and below (by the kernel's own list) and removes the directories.
pub fn destroy(group: &Path) {
    if !group.exists() {
        return;
    }
    if fs::write(group.join("cgroup.kill"), "1").is_err() {
        kill_members(group);
    }
    // The kernel reaps asynchronously: rmdir gives EBUSY until the last member is gone.
    let gone = within(slow::limit(10), || remove(group).is_ok().then_some(()));
    if gone.is_none() {
        eprintln!("lab: could not remove {}: processes remain", group.display());
    }
}

/// Before Linux 5.14 there is no cgroup.kill.
fn kill_members(group: &Path) {
    for pid in fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default().lines() {
        if let Ok(pid) = pid.parse() {
            let _ =
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::Signal::SIGKILL);
        }
    }
    for child in children(group) {
        kill_members(&child);
    }
}

fn children(group: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(group) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|t| t.is_dir())).map(|e| e.path()).collect()
}

fn remove(group: &Path) -> io::Result<()> {
    for child in children(group) {
        remove(&child)?;
    }
    match fs::remove_dir(group) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
