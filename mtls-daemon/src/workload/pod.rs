//! Where a pod's processes are.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Presence, namespaces_of, processes_below};
use crate::capture::cgroup;
use crate::config::PodSelector;
use crate::sys::netns::Netns;

/// The first of its cgroups that exists. `root`: where kubelet's begin.
///
/// # Errors
/// [`Presence::Absent`]: none does.
pub(super) fn directory(root: &Path, pod: &PodSelector) -> Result<PathBuf, Presence> {
    let mut candidates = pod.cgroups.iter().map(|path| root.join(path));
    let found = candidates.find(|directory| cgroup::id(directory).is_some());
    found.ok_or_else(|| Presence::Absent("kubelet has made no cgroup for it yet".to_owned()))
}

/// The namespace of its processes. Never the host's, unless that is its own: a process that only passes through would give the
/// node away.
///
/// # Errors
/// [`Presence::Failed`]: the daemon itself is in it, or the node's namespace cannot be told.
pub(super) fn namespaces(pod: &PodSelector, directory: &Path) -> Result<Vec<Netns>, Presence> {
    let processes = processes_below(directory);
    let mut found = namespaces_of(&processes);
    if processes.contains(&std::process::id()) {
        let mend = "remove the label mtlsd.io/mode from its namespace, or set it to disabled on the pod";
        return Err(Presence::Failed(format!("this is mtlsd itself, which is nobody's workload; {mend}")));
    }
    if pod.host_network {
        return Ok(found);
    }
    let own = Netns::open(Path::new("/proc/self/ns/net")).map_err(|error| {
        Presence::Failed(format!("the daemon's own network namespace cannot be told: {error}"))
    })?;
    found.retain(|netns| netns.identity() != own.identity());
    if found.len() > 1 {
        let first = oldest(&processes, own.identity());
        found.retain(|netns| Some(netns.identity()) == first);
    }
    Ok(found)
}

/// The namespace, by device and inode, of the process that runs for longest and is not in the host's: the sandbox is made before
/// the containers, and whoever makes another namespace came later.
fn oldest(processes: &[u32], host: (u64, u64)) -> Option<(u64, u64)> {
    let mut by_age = BTreeMap::new();
    for pid in processes {
        let netns = Netns::open(&PathBuf::from(format!("/proc/{pid}/ns/net")));
        let started =
            std::fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|text| started(&text));
        if let (Ok(netns), Some(started)) = (netns, started)
            && netns.identity() != host
        {
            by_age.entry((started, pid)).or_insert(netns.identity());
        }
    }
    by_age.into_values().next()
}

/// Field 22 of /proc/PID/stat (proc(5)): clock ticks since boot. The name, field 2, may hold anything, also `)`.
fn started(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(19)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(cgroups: &[&str]) -> PodSelector {
        PodSelector { cgroups: cgroups.iter().map(PathBuf::from).collect(), host_network: false }
    }

    #[test]
    fn the_first_cgroup_that_exists_is_the_pods() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("kubepods/pod1")).unwrap();
        let found = directory(root.path(), &pod(&["kubepods.slice/kubepods-pod1.slice", "kubepods/pod1"]));
        assert_eq!(found, Ok(root.path().join("kubepods/pod1")));
        let absent = directory(root.path(), &pod(&["kubepods/pod2"]));
        assert!(matches!(absent, Err(Presence::Absent(_))), "{absent:?}");
    }

    #[test]
    fn the_start_of_a_process_is_read_whatever_its_name() {
        let fields = (3..=30).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        assert_eq!(started(&format!("7 (a) b) (c) {fields}")), Some(22));
        assert_eq!(started("7 (a"), None);
        assert_eq!(started("7 (a) S 1"), None);
        let own = std::fs::read_to_string("/proc/self/stat").unwrap();
        assert!(started(&own).unwrap() > 0);
    }
}
