//! Other people's programs at the places of ours, and whether they can undo what ours do.
//!
//! At a cgroup, the programs of a process's own cgroup run first, then those of its parent, up to the root; at one
//! cgroup in the order in which they were attached (`compute_effective_progs` in the kernel). All of them run, and all
//! must allow. So what is attached to a cgroup *below* ours runs before ours, and what is attached above, or later at the
//! same cgroup, after ours: such a program may write another destination over the one that ours wrote. At a network
//! namespace all `sk_lookup` programs run, the last socket that one selects is taken, and a selected socket overrules a
//! drop: whichever its place, another program may take a connection that ours would give to the daemon, or refuse.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap as KernelMap, Map, MapData, MapInfo};
use aya::programs::ProgramInfo;
use mtls_common::Namespace;

use super::held::Held;
use super::programs::{CGROUP_PROGRAMS, NETNS_PROGRAM, attach_type};
use crate::sys::bpf::{self, AttachType};
use crate::sys::netns::Netns;

/// cgroups below the root that are looked at; a node with more has its answer cut short, and is told so.
const MOST_CGROUPS: usize = 20_000;

/// When a program runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Turn {
    /// Before ours.
    Before,
    /// After ours.
    After,
}

/// A program that is not ours, where one of ours is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Its ID.
    pub id: u32,
    /// Its name; empty if the kernel does not tell.
    pub name: String,
    /// Which of ours is there.
    pub beside: &'static str,
    /// When it runs.
    pub turn: Turn,
    /// Where it was found.
    pub place: PathBuf,
    /// It is another mtlsd's, and that one knows none of our namespaces: it leaves them alone.
    pub other_mtlsd: bool,
}

impl Neighbour {
    /// Whether it can undo what ours does.
    #[must_use]
    pub fn can_undo(&self) -> bool {
        if self.other_mtlsd {
            return false;
        }
        match attach_type(self.beside) {
            AttachType::Connect4 | AttachType::Connect6 => self.turn == Turn::After,
            AttachType::SkLookup => true,
            AttachType::SetSockOpt => self.turn == Turn::After,
            _ => false,
        }
    }

    /// What it may mean.
    #[must_use]
    pub fn meaning(&self) -> &'static str {
        if self.other_mtlsd {
            return "it is another mtlsd's, which knows none of these namespaces; if nobody needs it, uninstall that one";
        }
        match (attach_type(self.beside), self.turn) {
            (AttachType::Connect4 | AttachType::Connect6, Turn::After) => {
                "it may write another destination over the one that mtlsd wrote"
            }
            (AttachType::Connect4 | AttachType::Connect6, Turn::Before) => {
                "mtlsd decides on the destination that it leaves"
            }
            (AttachType::SkLookup, _) => "it may take connections that mtlsd would take or refuse",
            (AttachType::SetSockOpt, Turn::After) => {
                "it may set TCP_NOTSENT_LOWAT on a direct connection before both ends have keys"
            }
            (AttachType::SetSockOpt, Turn::Before) => "mtlsd sees the socket options that it leaves",
            (AttachType::Egress | AttachType::Ingress, _) => {
                "it may drop packets, and let none pass that mtlsd drops"
            }
            (AttachType::SockOps, _) => {
                "it may switch off mtlsd's hearing that an application gave up a connect()"
            }
            (AttachType::PostBind4 | AttachType::PostBind6, _) => "it may forbid bind()",
            _ => "applications may be shown the addresses that it says",
        }
    }
}

impl fmt::Display for Neighbour {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let turn = match self.turn {
            Turn::Before => "before",
            Turn::After => "after",
        };
        let name = if self.name.is_empty() { "without a name" } else { &self.name };
        let place = self.place.display();
        write!(f, "program {} ({name}) runs {turn} {} at {place}: {}", self.id, self.beside, self.meaning())
    }
}

/// Every neighbour at the cgroup root and above, at `connect4` and `connect6` of the cgroups below, and in these
/// namespaces.
///
/// # Errors
/// When the kernel cannot be asked.
pub fn neighbours<'a>(
    held: &Held,
    root: &Path,
    namespaces: impl IntoIterator<Item = (u64, &'a Netns)>,
) -> io::Result<Vec<Neighbour>> {
    let mut found = Vec::new();
    let mut cookies = HashSet::new();
    for (program, target, cgroup) in held.places() {
        if let (Some(cgroup), Some(ours)) = (cgroup, held.program_at(program, target)) {
            let ids = bpf::attached(cgroup, attach_type(program), true)?;
            found.extend(beside(&ids, ours, program, root));
        }
    }
    for (cookie, netns) in namespaces {
        cookies.insert(cookie);
        if let Some(ours) = held.program_at(NETNS_PROGRAM, cookie) {
            let ids = bpf::attached(netns.as_fd(), AttachType::SkLookup, false)?;
            found.extend(beside(&ids, ours, NETNS_PROGRAM, netns.path()));
        }
    }
    for directory in below(root) {
        // One that is gone meanwhile has no programs.
        let Ok(cgroup) = File::open(&directory) else { continue };
        for program in CGROUP_PROGRAMS.iter().filter(|name| name.starts_with("connect")) {
            let ids = bpf::attached(cgroup.as_fd(), attach_type(program), false).unwrap_or_default();
            found.extend(ids.iter().map(|id| neighbour(*id, program, Turn::Before, &directory)));
        }
    }
    describe(&mut found, &cookies);
    Ok(found)
}

/// The neighbours in a list of what runs, in its order. Where ours is not, nobody is its neighbour: that it is detached is
/// another finding.
fn beside(ids: &[u32], ours: u32, program: &'static str, place: &Path) -> Vec<Neighbour> {
    let Some(at) = ids.iter().position(|id| *id == ours) else {
        return Vec::new();
    };
    let turn = |n| if n < at { Turn::Before } else { Turn::After };
    let others = ids.iter().enumerate().filter(|(n, _)| *n != at);
    others.map(|(n, id)| neighbour(*id, program, turn(n), place)).collect()
}

fn neighbour(id: u32, beside: &'static str, turn: Turn, place: &Path) -> Neighbour {
    Neighbour { id, name: String::new(), beside, turn, place: place.to_owned(), other_mtlsd: false }
}

/// Only where there is a neighbour: it takes a look at every program of the node. `ours`: cookies of our namespaces.
fn describe(found: &mut [Neighbour], ours: &HashSet<u64>) {
    let wanted: HashSet<u32> = found.iter().map(|neighbour| neighbour.id).collect();
    if wanted.is_empty() {
        return;
    }
    for program in aya::programs::loaded_programs().filter_map(Result::ok) {
        if wanted.contains(&program.id()) {
            let known = namespaces_of_mtlsd(&program);
            for neighbour in found.iter_mut().filter(|neighbour| neighbour.id == program.id()) {
                neighbour.name = program.name_as_str().unwrap_or_default().to_owned();
                neighbour.other_mtlsd = known.as_ref().is_some_and(|known| known.is_disjoint(ours));
            }
        }
    }
}

/// The namespaces that a program of an mtlsd, this or another one, knows; `None`: it is none of mtlsd's.
fn namespaces_of_mtlsd(program: &ProgramInfo) -> Option<HashSet<u64>> {
    let maps = program.map_ids().ok()??;
    let maps = maps.into_iter().filter_map(|id| Some((id, MapInfo::from_id(id).ok()?)));
    let maps: HashMap<String, u32> =
        maps.filter_map(|(id, info)| Some((info.name_as_str()?.to_owned(), id))).collect();
    if !maps.contains_key("WORKLOADS") {
        return None;
    }
    let map = MapData::from_id(*maps.get("NAMESPACES")?).and_then(Map::from_map_data).ok()?;
    let map: KernelMap<MapData, u64, Namespace> = map.try_into().ok()?;
    map.keys().collect::<Result<_, _>>().ok()
}

fn below(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
        let children = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        for child in children.map(|entry| entry.path()) {
            if found.len() >= MOST_CGROUPS {
                tracing::warn!(most = MOST_CGROUPS, "too many cgroups: not all were searched for programs");
                return found;
            }
            found.push(child.clone());
            directories.push(child);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_runs_later_at_connect_can_undo_it_and_who_runs_before_cannot() {
        let found = beside(&[5, 7, 9], 7, "connect4", Path::new("/sys/fs/cgroup"));
        let told: Vec<_> = found.iter().map(|n| (n.id, n.turn, n.can_undo())).collect();
        assert_eq!(told, [(5, Turn::Before, false), (9, Turn::After, true)]);
        let told = found[1].to_string();
        assert!(told.contains("program 9 (without a name) runs after connect4 at /sys/fs/cgroup"), "{told}");
    }

    #[test]
    fn at_a_namespace_every_other_program_can_undo_ours() {
        let found = beside(&[1, 2, 3], 2, NETNS_PROGRAM, Path::new("/run/netns/a"));
        assert_eq!(found.len(), 2);
        assert!(found.iter().all(Neighbour::can_undo));
    }

    #[test]
    fn what_may_drop_or_show_otherwise_cannot_undo() {
        for program in ["egress", "ingress", "tcp_events", "bound4", "getpeername4", "getsockname6"] {
            let found = beside(&[1, 2], 1, program, Path::new("/"));
            assert!(!found[0].can_undo() && !found[0].meaning().is_empty(), "{program}");
        }
    }

    #[test]
    fn another_mtlsd_that_knows_none_of_our_namespaces_undoes_nothing_and_is_told() {
        let mut found = beside(&[1, 2], 1, "connect4", Path::new("/"));
        assert!(found[0].can_undo());
        found[0].other_mtlsd = true;
        assert!(!found[0].can_undo());
        assert!(found[0].to_string().contains("another mtlsd's"));
    }

    #[test]
    fn alone_or_away_there_is_no_neighbour() {
        assert!(beside(&[7], 7, "connect4", Path::new("/")).is_empty());
        assert!(beside(&[1, 2], 7, "connect4", Path::new("/")).is_empty());
    }
}
