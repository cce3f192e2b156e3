//! Workloads on this node: where those that the configuration names are now.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use mtls_common::MAX_CGROUP_LEVEL;

use crate::capture::cgroup::{self, Cgroup};
use crate::config::Workload;
use crate::sys::netns::Netns;

/// How a workload stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Presence {
    /// Captured.
    Enrolled,
    /// Its namespace or cgroup does not exist.
    Absent(String),
    /// It exists, but something stands in the way.
    Failed(String),
}

/// Where a workload is.
pub struct Here {
    /// The namespaces that its processes are in.
    pub namespaces: Vec<Netns>,
    /// Its cgroup.
    pub cgroup: Option<Cgroup>,
    /// It has its namespace to itself.
    pub whole: bool,
}

/// Looks for what a workload's selector names. `mount`: where cgroup v2 is mounted.
///
/// # Errors
/// [`Presence::Absent`] or [`Presence::Failed`] with the reason.
pub fn find(workload: &Workload, mount: Option<&Path>) -> Result<Here, Presence> {
    let select = &workload.select;
    let cgroup = match &select.cgroup {
        None => None,
        Some(path) => {
            let cgroup = mount.and_then(|mount| cgroup::find(mount, path));
            let absent = || Presence::Absent(format!("cgroup {} does not exist", path.display()));
            let cgroup = cgroup.ok_or_else(absent)?;
            if cgroup.level > MAX_CGROUP_LEVEL {
                let depth = format!("cgroup {} is more than {MAX_CGROUP_LEVEL} levels deep", path.display());
                return Err(Presence::Failed(format!("{depth}; select one of its ancestors")));
            }
            Some((cgroup, path))
        }
    };
    let namespaces = match (&select.netns, &cgroup) {
        (Some(path), _) => {
            let netns = Netns::open(path).map_err(|error| {
                Presence::Absent(format!("network namespace {}: {error}", path.display()))
            })?;
            vec![netns]
        }
        (None, Some((_, path))) => namespaces_of_cgroup(mount, path),
        (None, None) => Vec::new(),
    };
    Ok(Here { namespaces, whole: cgroup.is_none(), cgroup: cgroup.map(|(cgroup, _)| cgroup) })
}

/// The namespaces of the processes in a cgroup and below it. Not also the host's: the workload's ports there
/// may be somebody else's.
fn namespaces_of_cgroup(mount: Option<&Path>, configured: &Path) -> Vec<Netns> {
    let mut found = HashMap::new();
    let mut add = |path: &Path| {
        if let Ok(netns) = Netns::open(path) {
            found.entry(netns.identity()).or_insert(netns);
        }
    };
    if let Some(mount) = mount {
        let root = cgroup::directory(mount, configured);
        for pid in processes_below(&root) {
            add(&PathBuf::from(format!("/proc/{pid}/ns/net")));
        }
    }
    found.into_values().collect()
}

/// The processes of a cgroup and its descendants.
#[must_use]
pub fn processes_below(cgroup: &Path) -> Vec<u32> {
    let mut processes = Vec::new();
    for directory in directories_below(cgroup) {
        let list = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        processes.extend(list.lines().filter_map(|line| line.parse::<u32>().ok()));
    }
    processes
}

/// A cgroup and its descendants, each before its children.
#[must_use]
pub fn directories_below(cgroup: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![cgroup.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
        directories.extend(
            entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()),
        );
        found.push(directory);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Source};

    fn workload(select: &str) -> Workload {
        let text = format!("trust_domain: a\nworkloads: [ {{ name: w, select: {{ {select} }} }}]\n");
        Config::parse(&Source { path: "F".into(), text }, &[]).unwrap().workloads.remove(0)
    }

    #[test]
    fn what_does_not_exist_is_absent_with_its_name() {
        let absent = |select: &str| match find(&workload(select), cgroup::mount_point().ok().as_deref()) {
            Err(Presence::Absent(why)) => why,
            Err(other) => panic!("{other:?}"),
            Ok(_) => panic!("found"),
        };
        assert!(absent("netns: mtlsd-no-such").contains("/run/netns/mtlsd-no-such"));
        assert!(absent("cgroup: /mtlsd/no/such").contains("/mtlsd/no/such"));
        assert!(absent("netns: /dev/null").contains("/dev/null"), "a file that is no namespace");
    }

    #[test]
    fn the_own_namespace_is_found_through_a_cgroup_of_its_processes() {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned();
        let mount = cgroup::mount_point().unwrap();
        let namespaces = namespaces_of_cgroup(Some(&mount), Path::new(&own));
        let here = Netns::open(Path::new("/proc/self/ns/net")).unwrap().identity();
        assert!(namespaces.iter().any(|netns| netns.identity() == here));
    }
}
