//! Which processes have a socket.
//!
//! Two descriptors are compared by the link /proc/PID/fd/N (`socket:[INODE]`): one readlink, which kernels without
//! CONFIG_KCMP have too, and which, unlike pidfd_getfd, keeps no other file of the process open for a moment. Inode numbers
//! can come again after 2^32 sockets; then a process too many is looked at, never one too few.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;
use nix::time::{ClockId, clock_gettime};

use crate::capture::cgroup;

/// What /proc says of one socket in every process that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link(PathBuf);

impl Link {
    /// Of a socket of ours.
    pub(super) fn of(socket: BorrowedFd<'_>) -> io::Result<Self> {
        fs::read_link(format!("/proc/self/fd/{}", socket.as_raw_fd())).map(Self)
    }

    /// Whether a process has the socket under this number; `None`: there is no such descriptor, or no process.
    pub(super) fn is_in(&self, pid: u32, number: u64) -> Option<bool> {
        Some(fs::read_link(format!("/proc/{pid}/fd/{number}")).ok()? == self.0)
    }

    /// The inode of the socket.
    fn inode(&self) -> Option<u32> {
        self.0.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    }

    /// The number that the socket has in a process; what was opened last is the likeliest.
    fn number_in(&self, pid: u32) -> Option<RawFd> {
        links(pid).into_iter().find_map(|(number, link)| (link == *self).then_some(number))
    }
}

/// The cgroup v2 directory of a process.
pub(super) fn cgroup_of(pid: u32, mount: &Path) -> Option<PathBuf> {
    cgroup::of(mount, &fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?)
}

/// Every other process of the cgroup that has the socket: under the same number, which fork keeps, or under any, if the process
/// is a young one. An older one got it as a message (SCM_RIGHTS), or moved it (`dup2()`) long ago: neither is a matter of the moment
/// in which a connection is armed.
///
/// # Errors
/// When its processes cannot be listed. A cgroup that is gone has none.
pub(super) fn others(link: &Link, pid: u32, number: RawFd, cgroup: &Path) -> io::Result<Vec<u32>> {
    let number = u64::try_from(number).unwrap_or(u64::MAX);
    let mut others = processes(cgroup)?;
    others.retain(|other| {
        let has = || {
            link.is_in(*other, number) == Some(true) || is_young(*other) && link.number_in(*other).is_some()
        };
        *other != pid && has() && !is_ours(*other)
    });
    Ok(others)
}

/// The processes of a cgroup. One that is gone has none.
///
/// # Errors
/// When they cannot be listed.
pub(super) fn processes(cgroup: &Path) -> io::Result<Vec<u32>> {
    let listed = match fs::read_to_string(cgroup.join("cgroup.procs")) {
        Err(error) if is_over(&error) => String::new(),
        other => other?,
    };
    Ok(listed.lines().filter_map(|line| line.parse().ok()).collect())
}

/// A process of the network namespace (device and inode of its file) that has the socket with this inode, and its number there.
pub fn of_inode(inode: u32, netns: (u64, u64)) -> Option<(u32, RawFd)> {
    let wanted = Link(format!("socket:[{inode}]").into());
    living_in(netns).find_map(|pid| Some((pid, wanted.number_in(pid)?)))
}

/// The sockets of this process and of those in the network namespace, by inode: each with one process and its number there.
pub fn by_inode(netns: (u64, u64)) -> HashMap<u32, (u32, RawFd)> {
    let of_process =
        |pid| links(pid).into_iter().filter_map(move |(number, link)| Some((link.inode()?, (pid, number))));
    living_in(netns).chain([std::process::id()]).flat_map(of_process).collect()
}

fn living_in(netns: (u64, u64)) -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.filter(move |pid: &u32| {
        fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|of| (of.dev(), of.ino()) == netns)
    })
}

/// Whether a process is this one, or was started by it: until its exec that one has a copy of each of our duplicates, by which
/// nobody sends or receives.
fn is_ours(pid: u32) -> bool {
    let us = std::process::id();
    pid == us || field(pid, PARENT).is_some_and(|parent| parent.parse() == Ok(us))
}

/// `ppid` of proc_pid_stat(5), counted from `state`.
const PARENT: usize = 1;

/// Longer than it takes from connect() or accept() to the keys.
const YOUNG: Duration = Duration::from_secs(10);

/// Whether a process was started a moment ago. What cannot be read is looked at.
fn is_young(pid: u32) -> bool {
    age(pid).is_none_or(|age| age < YOUNG)
}

fn age(pid: u32) -> Option<Duration> {
    let started = Duration::from_millis(field(pid, STARTED)?.parse::<u64>().ok()?.checked_mul(10)?);
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).ok()?;
    Some(Duration::from(now).saturating_sub(started))
}

/// `starttime` of proc_pid_stat(5), counted from `state`: in clock ticks, of which the kernel shows 100 a second.
const STARTED: usize = 19;

/// A field of proc_pid_stat(5), counted from `state`.
fn field(pid: u32, number: usize) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name before it may have any character.
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split(' ').nth(number).map(str::to_owned)
}

/// Whether a process is over, also where nobody has waited for it yet (`Z` and `X` of proc_pid_stat(5)): its descriptors are closed.
/// /proc/TID/stat is there for each thread, though not listed.
pub(super) fn is_gone(pid: u32) -> bool {
    field(pid, 0).is_none_or(|state| matches!(state.as_str(), "Z" | "X"))
}

/// The numbers of a process's sockets, the highest first.
pub(super) fn sockets(pid: u32) -> Vec<RawFd> {
    links(pid).into_iter().map(|(number, _)| number).collect()
}

/// A process's sockets, the highest number first: what was opened last has one of those. Of a process that is over, or that may
/// not be looked into, none.
fn links(pid: u32) -> Vec<(RawFd, Link)> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    let socket = |entry: io::Result<fs::DirEntry>| {
        let entry = entry.ok()?;
        let link = fs::read_link(entry.path()).ok()?;
        link.to_str()?.starts_with("socket:").then_some(())?;
        Some((entry.file_name().to_str()?.parse().ok()?, Link(link)))
    };
    let mut found: Vec<(RawFd, Link)> = entries.filter_map(socket).collect();
    found.sort_unstable_by_key(|(number, _)| std::cmp::Reverse(*number));
    found
}

/// The threads of a process. One that is over has none.
///
/// # Errors
/// When /proc cannot be read.
pub(super) fn threads(pid: u32) -> io::Result<Vec<i32>> {
    let entries = match fs::read_dir(format!("/proc/{pid}/task")) {
        Err(error) if is_over(&error) => return Ok(Vec::new()),
        other => other?,
    };
    let name = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    Ok(entries.filter_map(name).collect())
}

/// Whether it says that what a file of /proc or of a cgroup tells of is over.
pub(super) fn is_over(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::NotFound
        || matches!(error.raw_os_error(), Some(libc::ESRCH | libc::ENODEV))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::sys::netns::Netns;

    #[test]
    fn what_this_process_has_started_is_ours_and_what_has_started_it_is_not() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(is_ours(std::process::id()) && is_ours(child.id()));
        assert!(!is_ours(std::os::unix::process::parent_id()) && !is_ours(1));
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_process_is_young_at_first_and_ages() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        assert!(is_young(child.id()));
        let (first, child_is) = (age(1).unwrap(), age(child.id()).unwrap());
        assert!(first > child_is, "{first:?} {child_is:?}");
        std::thread::sleep(Duration::from_millis(30));
        assert!(age(child.id()).unwrap() > child_is);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn the_process_that_has_an_inode_is_found_in_its_own_namespace_only() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = listener.as_raw_fd();
        let inode = u32::try_from(fs::metadata(format!("/proc/self/fd/{number}")).unwrap().ino()).unwrap();
        let (device, netns) = Netns::home().unwrap().identity();
        assert_eq!(of_inode(inode, (device, netns)), Some((std::process::id(), number)));
        assert_eq!(of_inode(inode, (device, netns + 1)), None);
        for netns in [netns, netns + 1] {
            let ours = by_inode((device, netns));
            assert_eq!(ours.get(&inode), Some(&(std::process::id(), number)), "also from elsewhere");
        }
        drop(listener);
        // A child that another test starts has a copy until it becomes its program.
        let gone = || of_inode(inode, (device, netns)).is_none();
        let mut looks = 0..1_000;
        assert!(looks.any(|_| gone() || {
            std::thread::sleep(Duration::from_millis(10));
            false
        }));
    }
}
