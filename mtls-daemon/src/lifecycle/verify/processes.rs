//! Processes: those that no program can see, and who holds a socket.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use super::{Finding, places};
use crate::capture::cgroup;
use crate::lifecycle::daemon::Daemon;
use crate::sys::netns::Netns;
use crate::workload::processes_below;

const MOST_NAMED: usize = 10;

/// A process in an enrolled namespace but outside the cgroup root is not captured.
pub(super) fn look(daemon: &Daemon) -> Vec<Finding> {
    let root = daemon.relay.capture.cgroup_root();
    if cgroup::mount_point().is_ok_and(|mount| mount == root) {
        let detail = format!("{} is the root of the hierarchy: every process is below it", root.display());
        return vec![Finding::good(None, detail)];
    }
    let inside: HashSet<u32> = processes_below(root).into_iter().collect();
    let places: Vec<_> = places(daemon)
        .into_iter()
        .filter(|place| place.owners.load().whole.is_some())
        .map(|place| (place.netns.identity(), place.netns.path().display().to_string()))
        .collect();
    let mut strays = Vec::new();
    for (pid, directory) in processes() {
        if inside.contains(&pid) {
            continue;
        }
        let Ok(netns) = Netns::open(&directory.join("ns/net")) else { continue };
        if let Some((_, path)) = places.iter().find(|(identity, _)| *identity == netns.identity()) {
            strays.push(format!("pid {pid} in {path}"));
        }
    }
    if strays.is_empty() {
        let detail = format!("every process of an enrolled namespace is below {}", root.display());
        return vec![Finding::good(None, detail)];
    }
    strays.truncate(MOST_NAMED);
    let mend = "Set cgroup_root to the root of the hierarchy, or move these processes below it.";
    vec![Finding::bad(None, format!("outside {}: {}", root.display(), strays.join(", ")), mend)]
}

fn processes() -> impl Iterator<Item = (u32, PathBuf)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
}

/// Who holds the sockets with these inodes, as `pid 7 (curl)`. Reads every descriptor of the node.
pub(super) fn holders(inodes: &HashSet<u32>) -> HashMap<u32, String> {
    let mut found = HashMap::new();
    for (pid, directory) in processes() {
        let descriptors = std::fs::read_dir(directory.join("fd")).into_iter().flatten().flatten();
        for target in descriptors.filter_map(|entry| std::fs::read_link(entry.path()).ok()) {
            if let Some(inode) = socket_inode(&target).filter(|inode| inodes.contains(inode)) {
                found.entry(inode).or_insert_with(|| {
                    let name = std::fs::read_to_string(directory.join("comm")).unwrap_or_default();
                    format!("pid {pid} ({})", name.trim_end())
                });
            }
        }
    }
    found
}

/// `socket:[4242]` (proc(5)).
fn socket_inode(target: &Path) -> Option<u32> {
    target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn a_socket_is_found_with_whoever_holds_it() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let file = std::fs::File::from(socket.as_fd().try_clone_to_owned().unwrap());
        let inode = u32::try_from(file.metadata().unwrap().ino()).unwrap();
        let found = holders(&HashSet::from([inode]));
        assert!(found[&inode].starts_with(&format!("pid {} (", std::process::id())), "{found:?}");
    }

    #[test]
    fn only_sockets_have_an_inode_here() {
        assert_eq!(socket_inode(Path::new("socket:[4242]")), Some(4242));
        for other in ["pipe:[4242]", "socket:[x]", "socket:[42", "/tmp/a", ""] {
            assert_eq!(socket_inode(Path::new(other)), None, "{other}");
        }
    }
}
