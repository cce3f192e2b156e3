//! Names that carry the test process's pid, and the sweep that removes what dead test processes left.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

use super::cgroup;

/// What every name of a lab starts with: cgroups, namespaces, bpffs and temporary directories.
const PREFIX: &str = "mtt";

/// Where the labs' bpffs directories are.
pub const BPFFS: &str = "/sys/fs/bpf";

static COUNTER: AtomicU32 = AtomicU32::new(1);
static SWEPT: Once = Once::new();

/// A name for one lab: `mtt<pid>x<counter>`.
pub fn unique() -> String {
    format!("{PREFIX}{}x{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// The bpffs directory of a lab's node.
pub fn bpffs_dir(lab: &str, node: &str) -> PathBuf {
    Path::new(BPFFS).join(format!("mtlsd-test-{lab}-{node}"))
}

/// The lab's directory for files.
pub fn files_dir(lab: &str) -> PathBuf {
    std::env::temp_dir().join(format!("mtlsd-test-{lab}"))
}

/// Removes, once per process, what dead test processes left behind.
pub fn sweep_once() {
    SWEPT.call_once(|| {
        for (path, kind) in leftovers() {
            eprintln!("lab: removing {} of a dead test process", path.display());
            kind.remove(&path);
        }
    });
}

/// Kinds of leftovers, in the order in which they can be removed: processes die first.
#[derive(Clone, Copy)]
enum Kind {
    Cgroup,
    Netns,
    Dir,
}

impl Kind {
    fn remove(self, path: &Path) {
        match self {
            Self::Cgroup => cgroup::destroy(path),
            Self::Netns => delete_netns(path),
            Self::Dir => {
                let _ = fs::remove_dir_all(path);
            }
        }
    }
}

/// Deletes a named network namespace.
pub fn delete_netns(path: &Path) {
    if let Some(name) = path.file_name() {
        let _ = Command::new("ip").args(["netns", "del"]).arg(name).output();
    }
}

fn leftovers() -> Vec<(PathBuf, Kind)> {
    let places = [
        (cgroup::mount(), Kind::Cgroup, ""),
        (PathBuf::from("/run/netns"), Kind::Netns, ""),
        (PathBuf::from(BPFFS), Kind::Dir, "mtlsd-test-"),
        (std::env::temp_dir(), Kind::Dir, "mtlsd-test-"),
    ];
    let mut found = Vec::new();
    for (place, kind, before) in places {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(lab) = name.to_str().and_then(|n| n.strip_prefix(before)) else { continue };
            if owner(lab).is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists()) {
                found.push((entry.path(), kind));
            }
        }
    }
    found
}

/// The pid in `mtt<pid>x<counter>[-anything]`; `None` for names that are not ours.
fn owner(name: &str) -> Option<u32> {
    let (pid, rest) = name.strip_prefix(PREFIX)?.split_once('x')?;
    let counter = rest.split('-').next()?;
    counter.parse::<u32>().ok()?;
    pid.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_labs_have_an_owner() {
        assert_eq!(owner("mtt123x4"), Some(123));
        assert_eq!(owner("mtt123x4-web"), Some(123));
        for other in ["mtt", "mttx1", "mtt12", "mtt12x", "mtt12xa", "web", "mtlsd", "mtt-1x2", "cni-mtt1x1"] {
            assert_eq!(owner(other), None, "{other}");
        }
    }
}
