//! Where a pod's processes are.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Presence, inhabited, of_process, processes_below};
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

/// How long a witness is believed before all processes are looked at again.
const BELIEVED: Duration = Duration::from_secs(5);

/// One process of each pod, by the directory of the pod's cgroup, that shows in one step where the pod still is: looking at every
/// process of every pod twice a second is what a busy node has no time for.
#[derive(Debug, Default)]
pub struct Witnesses {
    known: HashMap<PathBuf, Witness>,
    /// Those that were asked for since the last [`Witnesses::forget_others`].
    asked: HashMap<PathBuf, Witness>,
}

#[derive(Debug, Clone, Copy)]
struct Witness {
    process: u32,
    /// Of the namespace that it was seen in.
    netns: (u64, u64),
    /// When all processes were looked at.
    at: Instant,
}

impl Witnesses {
    /// The namespace, if the witness is still there.
    fn ask(&mut self, directory: &Path, now: Instant) -> Option<Netns> {
        let witness = *self.known.get(directory)?;
        if now.duration_since(witness.at) >= BELIEVED {
            return None;
        }
        let netns = of_process(witness.process).ok().filter(|netns| netns.identity() == witness.netns)?;
        self.asked.insert(directory.to_owned(), witness);
        Some(netns)
    }

    fn remember(&mut self, directory: &Path, process: u32, netns: &Netns, now: Instant) {
        self.asked.insert(directory.to_owned(), Witness { process, netns: netns.identity(), at: now });
    }

    /// Forgets pods that were not asked for since the last call.
    pub fn forget_others(&mut self) {
        self.known = std::mem::take(&mut self.asked);
    }
}

/// The namespace of its processes. Never the host's, unless that is its own: a process that only passes through would give the
/// node away.
///
/// # Errors
/// [`Presence::Failed`]: the daemon itself is in it, or the node's namespace cannot be told.
pub(super) fn namespaces(
    pod: &PodSelector,
    directory: &Path,
    witnesses: &mut Witnesses,
    now: Instant,
) -> Result<Vec<Netns>, Presence> {
    if let Some(netns) = witnesses.ask(directory, now) {
        return Ok(vec![netns]);
    }
    let processes = processes_below(directory);
    if processes.contains(&std::process::id()) {
        let mend = "remove the label mtlsd.io/mode from its namespace, or set it to disabled on the pod";
        return Err(Presence::Failed(format!("this is mtlsd itself, which is nobody's workload; {mend}")));
    }
    let mut found = inhabited(&processes);
    if !pod.host_network {
        let own = Netns::open(Path::new("/proc/self/ns/net")).map_err(|error| {
            Presence::Failed(format!("the daemon's own network namespace cannot be told: {error}"))
        })?;
        found.remove(&own.identity());
        if found.len() > 1 {
            let first = oldest(&processes, own.identity());
            found.retain(|netns, _| Some(*netns) == first);
        }
    }
    if let [(process, netns)] = found.values().collect::<Vec<_>>().as_slice() {
        witnesses.remember(directory, *process, netns, now);
    }
    Ok(found.into_values().map(|(_, netns)| netns).collect())
}

/// The namespace, by device and inode, of the process that runs for longest and is not in the host's: the sandbox is made before
/// the containers, and whoever makes another namespace came later.
fn oldest(processes: &[u32], host: (u64, u64)) -> Option<(u64, u64)> {
    let mut by_age = BTreeMap::new();
    for pid in processes {
        let started =
            std::fs::read_to_string(format!("/proc/{pid}/stat")).ok().and_then(|text| started(&text));
        if let (Ok(netns), Some(started)) = (of_process(*pid), started)
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
    fn a_witness_saves_the_walk_until_it_is_gone_or_was_asked_for_long_enough() {
        let cgroup = tempfile::tempdir().unwrap();
        let list = |pids: &[u32]| {
            let text: String = pids.iter().map(|pid| format!("{pid}\n")).collect();
            std::fs::write(cgroup.path().join("cgroup.procs"), text).unwrap();
        };
        let selector = PodSelector { cgroups: Vec::new(), host_network: true };
        let (mut witnesses, begin) = (Witnesses::default(), Instant::now());
        let mut look = |now| {
            let found = namespaces(&selector, cgroup.path(), &mut witnesses, now).unwrap();
            witnesses.forget_others();
            found.len()
        };
        let mut sleeper = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        list(&[sleeper.id()]);
        assert_eq!(look(begin), 1);
        list(&[]);
        assert_eq!(look(begin + BELIEVED / 2), 1, "the witness was asked, not the list");
        assert_eq!(look(begin + BELIEVED), 0, "all are looked at again");
        list(&[sleeper.id()]);
        assert_eq!(look(begin), 1);
        sleeper.kill().unwrap();
        sleeper.wait().unwrap();
        list(&[]);
        assert_eq!(look(begin), 0, "it is gone");
    }

    #[test]
    fn witnesses_of_pods_that_are_gone_are_forgotten() {
        let netns = Netns::open(Path::new("/proc/self/ns/net")).unwrap();
        let (mut witnesses, now) = (Witnesses::default(), Instant::now());
        for pod in ["/a", "/b"] {
            witnesses.remember(Path::new(pod), std::process::id(), &netns, now);
        }
        witnesses.forget_others();
        assert!(witnesses.ask(Path::new("/a"), now).is_some());
        witnesses.forget_others();
        assert!(witnesses.ask(Path::new("/b"), now).is_none());
        assert!(witnesses.ask(Path::new("/a"), now).is_some());
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
