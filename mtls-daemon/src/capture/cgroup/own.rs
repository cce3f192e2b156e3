//! The cgroups of processes, also as a process in a cgroup namespace of its own reads them: `0::/../../x` (cgroup_namespaces(7)).

use std::path::{Component, Path, PathBuf};
use std::sync::OnceLock;

use super::mounts;

/// Where the paths in /proc begin, relative to the mount. It never changes for a process.
static BEGIN: OnceLock<PathBuf> = OnceLock::new();

/// The directory of the cgroup that /proc/PID/cgroup names, below the mount of the whole hierarchy.
#[must_use]
pub fn of(mount: &Path, memberships: &str) -> Option<PathBuf> {
    Some(mount.join(resolve(begin()?, super::own_path(memberships)?)?))
}

/// The daemon's own.
pub(super) fn own() -> Option<PathBuf> {
    of(&mounts::whole().ok()?.point, &std::fs::read_to_string("/proc/self/cgroup").ok()?)
}

fn begin() -> Option<&'static Path> {
    if let Some(known) = BEGIN.get() {
        return Some(known);
    }
    let mount = mounts::whole().ok()?;
    let found = if mount.from_below {
        let memberships = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let own = holder(&mount.point, std::process::id())?;
        ancestor(own.strip_prefix(&mount.point).ok()?, super::own_path(&memberships)?)?
    } else {
        PathBuf::new()
    };
    Some(BEGIN.get_or_init(|| found))
}

/// The cgroup below `top` that has the process. /proc cannot name it: it knows only the way from the namespace's own begin.
fn holder(top: &Path, pid: u32) -> Option<PathBuf> {
    let mut left = vec![top.to_owned()];
    while let Some(directory) = left.pop() {
        let members = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        if members.lines().any(|line| line.parse() == Ok(pid)) {
            return Some(directory);
        }
        let Ok(entries) = std::fs::read_dir(&directory) else { continue };
        let inner = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        left.extend(inner.map(|entry| entry.path()));
    }
    None
}

/// What is left of `directory` without `relative` at its end.
fn ancestor(directory: &Path, relative: &str) -> Option<PathBuf> {
    let depth = Path::new(relative).components().count();
    directory.ends_with(relative).then(|| directory.ancestors().nth(depth).map(Path::to_owned)).flatten()
}

/// `begin` and a path that may go up.
fn resolve(begin: &Path, relative: &str) -> Option<PathBuf> {
    let mut path = begin.to_owned();
    for part in Path::new(relative).components() {
        match part {
            Component::Normal(name) => path.push(name),
            Component::ParentDir if path.pop() => {}
            Component::CurDir | Component::RootDir => {}
            Component::ParentDir | Component::Prefix(_) => return None,
        }
    }
    Some(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_goes_up_leads_to_another_pod() {
        let begin = Path::new("kubepods/pod1/c1");
        let to = |relative| resolve(begin, relative).unwrap();
        assert_eq!(to(""), begin);
        assert_eq!(to("../../pod2/c2"), Path::new("kubepods/pod2/c2"));
        assert_eq!(resolve(Path::new("a"), "../../etc"), None, "there is nothing above the root");
        assert_eq!(ancestor(begin, "").unwrap(), begin);
        assert_eq!(ancestor(begin, "pod1/c1").unwrap(), Path::new("kubepods"));
        assert_eq!(ancestor(begin, "pod2/c1"), None);
    }

    #[test]
    fn the_cgroup_of_a_process_is_found_by_its_members() {
        let mount = mounts::whole().unwrap().point;
        let own = own().unwrap();
        assert_eq!(holder(&mount, std::process::id()), Some(own));
        assert_eq!(holder(&mount, u32::MAX), None);
        assert_eq!(of(&mount, "8:pids:/x\n"), None);
        assert_eq!(of(&mount, "0::/a/b\n").unwrap(), mount.join("a/b"));
    }
}
