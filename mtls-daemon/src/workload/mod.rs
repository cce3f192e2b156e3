//! Workloads on this node: where those that the configuration names are now.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use mtls_common::MAX_CGROUP_LEVEL;

use crate::capture::cgroup::{self, Cgroup};
use crate::config::{Config, Prober, Selector, Workload, nested};
use crate::sys::netns::Netns;

mod pod;
mod unit;

pub use pod::Witnesses;

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

/// The hierarchy of cgroup v2 that workloads are looked for in.
#[derive(Debug, Clone)]
pub struct Hierarchy {
    mount: PathBuf,
    /// Where systemd's slices begin.
    root: PathBuf,
}

impl Hierarchy {
    /// The one that is mounted; `None`: there is none.
    #[must_use]
    pub fn of(config: &Config) -> Option<Self> {
        let mount = cgroup::mount_point().ok()?;
        let root = config.cgroup_root.clone().unwrap_or_else(|| mount.clone());
        Some(Self { mount, root })
    }

    /// Where it is mounted.
    #[must_use]
    pub fn mount(&self) -> &Path {
        &self.mount
    }

    /// Where systemd's slices and kubelet's cgroups begin.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The directory that a selector's cgroup or unit has, or would have. `None`: it is not by cgroup.
    ///
    /// # Errors
    /// [`Presence::Absent`] or [`Presence::Failed`] with the reason: a unit's place is known only while it runs.
    pub fn directory(&self, select: &Selector) -> Result<Option<PathBuf>, Presence> {
        if let Some(pod) = &select.pod {
            return pod::directory(&self.root, pod).map(Some);
        }
        match (&select.cgroup, &select.unit) {
            (Some(path), _) => Ok(Some(cgroup::directory(&self.mount, path))),
            (None, Some(unit)) => unit::directory(&self.root, unit).map(Some).map_err(|error| match error {
                unit::NoPlace::Absent(..) => Presence::Absent(error.to_string()),
                unit::NoPlace::Several { .. } => Presence::Failed(error.to_string()),
            }),
            (None, None) => Ok(None),
        }
    }

    /// The ID of the cgroup whose processes a prober is; `None`: it does not run now.
    #[must_use]
    pub fn prober(&self, prober: &Prober) -> Option<u64> {
        let directory = match prober {
            Prober::Cgroup(path) => cgroup::directory(&self.mount, path),
            Prober::Unit(unit) => unit::directory(&self.root, unit).ok()?,
        };
        cgroup::id(&directory)
    }

    fn cgroup(&self, directory: &Path) -> Result<Cgroup, Presence> {
        let name = format!("cgroup /{}", directory.strip_prefix(&self.mount).unwrap_or(directory).display());
        let cgroup = cgroup::find(&self.mount, directory);
        let cgroup = cgroup.ok_or_else(|| Presence::Absent(format!("{name} does not exist")))?;
        if cgroup.level > MAX_CGROUP_LEVEL {
            let depth = format!("{name} is more than {MAX_CGROUP_LEVEL} levels deep");
            return Err(Presence::Failed(format!("{depth}; select one of its ancestors")));
        }
        Ok(cgroup)
    }
}

/// Where a workload is.
pub struct Here {
    /// The namespaces that its processes are in.
    pub namespaces: Vec<Netns>,
    /// Its cgroup.
    pub cgroup: Option<Cgroup>,
    /// The directory of its cgroup.
    pub directory: Option<PathBuf>,
    /// It has its namespace to itself.
    pub whole: bool,
}

impl Here {
    /// How it stands, as far as it is known from where it is.
    #[must_use]
    pub fn presence(&self) -> Presence {
        match self.namespaces.is_empty() {
            true => Presence::Absent("its cgroup has no process".to_owned()),
            false => Presence::Enrolled,
        }
    }
}

/// Looks for what a workload's selector names.
///
/// # Errors
/// [`Presence::Absent`] or [`Presence::Failed`] with the reason.
pub fn find(select: &Selector, hierarchy: Option<&Hierarchy>) -> Result<Here, Presence> {
    find_by(select, hierarchy, &mut Witnesses::default(), Instant::now())
}

/// As [`find`], by what was found before.
///
/// # Errors
/// As [`find`].
pub fn find_by(
    select: &Selector,
    hierarchy: Option<&Hierarchy>,
    witnesses: &mut Witnesses,
    now: Instant,
) -> Result<Here, Presence> {
    let (directory, cgroup) = match hierarchy {
        Some(hierarchy) => {
            let directory = hierarchy.directory(select)?;
            let cgroup = directory.as_deref().map(|directory| hierarchy.cgroup(directory)).transpose()?;
            (directory, cgroup)
        }
        None if select.is_by_cgroup() || select.pod.is_some() => {
            return Err(Presence::Absent("no cgroup v2 is mounted".to_owned()));
        }
        None => (None, None),
    };
    let namespaces = match (&select.netns, &directory) {
        (Some(path), _) => {
            let netns = Netns::open(path).map_err(|error| {
                Presence::Absent(format!("network namespace {}: {error}", path.display()))
            })?;
            vec![netns]
        }
        (None, Some(directory)) => match &select.pod {
            Some(pod) => pod::namespaces(pod, directory, witnesses, now)?,
            None => namespaces_of(&processes_below(directory)),
        },
        (None, None) if select.uid.is_some() => {
            let own = Netns::open(Path::new("/proc/self/ns/net"));
            vec![own.map_err(|error| Presence::Failed(format!("the node's network namespace: {error}")))?]
        }
        (None, None) => Vec::new(),
    };
    let whole = match &select.pod {
        Some(pod) => !pod.host_network,
        None => !select.shares_its_namespace(),
    };
    Ok(Here { namespaces, whole, cgroup, directory })
}

/// Workloads whose cgroup lies inside another one's, and that one's name: a process would be two workloads. The configuration is
/// refused where it can be seen there; where a unit is, is known only now.
#[must_use]
pub fn overlaps<'a>(present: impl Iterator<Item = (&'a Workload, &'a Here)>) -> HashMap<String, String> {
    let mut placed: Vec<_> =
        present.filter_map(|(workload, here)| Some((here.directory.as_deref()?, &workload.name))).collect();
    placed.sort();
    let pairs = nested(&placed, |(directory, _)| directory);
    pairs.into_iter().map(|((_, outer), (_, inner))| ((*inner).clone(), (*outer).clone())).collect()
}

/// The namespaces of these processes. Not also the host's: the workload's ports there
/// may be somebody else's.
fn namespaces_of(processes: &[u32]) -> Vec<Netns> {
    inhabited(processes).into_values().map(|(_, netns)| netns).collect()
}

/// The namespaces of these processes by device and inode, and in each the one that comes first.
fn inhabited(processes: &[u32]) -> HashMap<(u64, u64), (u32, Netns)> {
    let mut found = HashMap::new();
    for pid in processes {
        if let Ok(netns) = of_process(*pid) {
            found.entry(netns.identity()).or_insert((*pid, netns));
        }
    }
    found
}

fn of_process(pid: u32) -> io::Result<Netns> {
    Netns::open(&PathBuf::from(format!("/proc/{pid}/ns/net")))
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
    use crate::config::Source;

    fn config(select: &str) -> Config {
        let text = format!("trust_domain: a\nworkloads: [ {{ name: w, select: {{ {select} }} }}]\n");
        Config::parse(&Source { path: "F".into(), text }, &[]).unwrap()
    }

    #[test]
    fn what_does_not_exist_is_absent_with_its_name() {
        let absent = |select: &str| {
            let config = config(select);
            match find(&config.workloads[0].select, Hierarchy::of(&config).as_ref()) {
                Err(Presence::Absent(why)) => why,
                Err(other) => panic!("{other:?}"),
                Ok(_) => panic!("found"),
            }
        };
        assert!(absent("netns: mtlsd-no-such").contains("/run/netns/mtlsd-no-such"));
        assert!(absent("cgroup: /mtlsd/no/such").contains("/mtlsd/no/such"));
        assert!(absent("unit: mtlsd-no-such.service").contains("mtlsd-no-such.service"));
        assert!(absent("netns: /dev/null").contains("/dev/null"), "a file that is no namespace");
        let config = config("cgroup: /mtlsd/no/such");
        assert!(
            matches!(find(&config.workloads[0].select, None), Err(Presence::Absent(why)) if why.contains("cgroup v2"))
        );
    }

    #[test]
    fn of_cgroups_that_contain_each_other_the_inner_ones_are_named() {
        let config = Config::parse(
            &Source {
                path: "F".into(),
                text: "trust_domain: a\nworkloads:\n  - { name: slice, select: { unit: a.slice } }\n  \
                       - { name: service, select: { unit: b.service } }\n  \
                       - { name: beside, select: { cgroup: /a.slice-not } }\n  \
                       - { name: same, select: { cgroup: /c } }\n  - { name: whole, select: { netns: n } }\n"
                    .to_owned(),
            },
            &[],
        )
        .unwrap();
        let directories = [
            Some("/m/a.slice"),
            Some("/m/a.slice/b.service"),
            Some("/m/a.slice-not"),
            Some("/m/a.slice"),
            None,
        ];
        let here: Vec<_> = directories
            .iter()
            .map(|directory| Here {
                namespaces: Vec::new(),
                cgroup: None,
                directory: directory.map(PathBuf::from),
                whole: false,
            })
            .collect();
        let found = overlaps(config.workloads.iter().zip(&here));
        let pair = |inner: &str, outer: &str| (inner.to_owned(), outer.to_owned());
        assert_eq!(found, HashMap::from([pair("service", "same"), pair("slice", "same")]));
    }

    #[test]
    fn the_own_namespace_is_found_through_a_cgroup_of_its_processes() {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap();
        let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap().to_owned();
        let mount = cgroup::mount_point().unwrap();
        let namespaces = namespaces_of(&processes_below(&cgroup::directory(&mount, Path::new(&own))));
        let here = Netns::open(Path::new("/proc/self/ns/net")).unwrap().identity();
        assert!(namespaces.iter().any(|netns| netns.identity() == here));
    }
}
