//! Which mount of cgroup v2 shows the whole hierarchy.
//!
//! A container has a mount of its own, which begins at its own cgroup: programs attached there see nobody else. /proc/self/mountinfo
//! does not tell it from the host's: it writes a mount's root as seen from the reader's cgroup namespace (cgroup_namespaces(7)), so that
//! a container's own is `/` and the host's `/../../..`. The files of the root do.

use std::path::{Path, PathBuf};

use crate::capture::error::CaptureError;

/// The mount of the whole hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// Where it is.
    pub point: PathBuf,
    /// The reader is in a cgroup namespace that begins somewhere below: what /proc says of cgroups counts from there.
    pub from_below: bool,
}

/// The mount that shows everything, of this process.
///
/// # Errors
/// [`CaptureError::NoCgroup2`] when there is no cgroup v2, [`CaptureError::OwnCgroupOnly`] when there are only parts of it.
pub(super) fn whole() -> Result<Mount, CaptureError> {
    choose(&std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default(), is_root)
}

/// Every cgroup but the root has a `cgroup.type` (the kernel's cgroup-v2.rst).
fn is_root(directory: &Path) -> bool {
    super::is_cgroup2(directory) && !directory.join("cgroup.type").exists()
}

fn choose(mountinfo: &str, is_root: impl Fn(&Path) -> bool) -> Result<Mount, CaptureError> {
    let mut mounts: Vec<(PathBuf, &str)> = Vec::new();
    for (point, root) in mountinfo.lines().filter_map(cgroup2) {
        // A later mount on the same directory hides the one before.
        mounts.retain(|(hidden, _)| *hidden != point);
        mounts.push((point, root));
    }
    let whole = mounts.iter().find(|(point, _)| is_root(point));
    match (whole, mounts.first()) {
        (Some((point, root)), _) => Ok(Mount { point: point.clone(), from_below: *root != "/" }),
        (None, Some((point, _))) => Err(CaptureError::OwnCgroupOnly(point.clone())),
        (None, None) => Err(CaptureError::NoCgroup2),
    }
}

/// Mount point and root of a line of mountinfo (proc_pid_mountinfo(5)), if it is cgroup v2. The fields before ` - ` vary in number.
fn cgroup2(line: &str) -> Option<(PathBuf, &str)> {
    let (fields, kind) = line.split_once(" - ")?;
    let mut fields = fields.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    (kind.split(' ').next() == Some("cgroup2")).then(|| (PathBuf::from(point), root))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "31 30 0:27 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n\
                          32 31 0:28 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu\n\
                          41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:10 master:1 - cgroup2 cgroup2 rw\n";

    fn mount(point: &str, from_below: bool) -> Mount {
        Mount { point: point.into(), from_below }
    }

    #[test]
    fn the_mount_is_found_where_it_is() {
        assert_eq!(choose(HYBRID, |_| true).unwrap(), mount("/sys/fs/cgroup/unified", false));
        for nothing in ["31 30 0:5 / /proc rw - proc proc rw\n", "garbage", "1 2 3 - cgroup2\n", ""] {
            assert!(matches!(choose(nothing, |_| true), Err(CaptureError::NoCgroup2)), "{nothing}");
        }
    }

    /// As containerd mounts it, and then kubelet the host's over it.
    const OWN: &str = "130 120 0:38 / /sys/fs/cgroup ro - cgroup2 cgroup rw\n";
    const HOSTS: &str = "140 120 0:38 /../../.. /sys/fs/cgroup ro - cgroup2 cgroup2 rw\n";

    #[test]
    fn a_containers_own_mount_is_refused_by_name_whatever_its_root_is_called() {
        let error = choose(OWN, |_| false).unwrap_err().to_string();
        assert!(error.contains("/sys/fs/cgroup: ") && error.contains("hostPath"), "{error}");
        let asked = std::cell::RefCell::new(Vec::new());
        let is_root = |point: &Path| {
            asked.borrow_mut().push(point.to_owned());
            true
        };
        assert_eq!(choose(&format!("{OWN}{HOSTS}"), is_root).unwrap(), mount("/sys/fs/cgroup", true));
        assert_eq!(asked.borrow().len(), 1, "one directory has one mount that can be seen");
    }

    #[test]
    fn the_hosts_mount_elsewhere_is_preferred_to_the_containers_own() {
        let both = format!("{OWN}{}", HOSTS.replace("/sys/fs/cgroup ", "/host/cgroup "));
        let is_root = |point: &Path| point == Path::new("/host/cgroup");
        assert_eq!(choose(&both, is_root).unwrap(), mount("/host/cgroup", true));
    }

    #[test]
    fn this_machines_mount_is_the_whole_hierarchy_and_a_cgroup_in_it_is_not() {
        let mount = whole().unwrap();
        let child = mount.point.join(format!("mtlsd-mounts-{}", std::process::id()));
        std::fs::create_dir(&child).unwrap();
        let found = is_root(&child);
        std::fs::remove_dir(&child).unwrap();
        assert!(is_root(&mount.point) && !found);
        assert!(!is_root(Path::new("/tmp")));
    }
}
