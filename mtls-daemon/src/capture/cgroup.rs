//! Where cgroup v2 is mounted, and which cgroup has which ID.

mod mounts;
mod own;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};

pub use self::own::of;
use super::error::CaptureError;

/// The mount of the whole cgroup v2 hierarchy; on hybrid systems it is not /sys/fs/cgroup itself.
///
/// # Errors
/// [`CaptureError::NoCgroup2`] when there is none, [`CaptureError::OwnCgroupOnly`] when there is only a container's own part.
pub fn mount_point() -> Result<PathBuf, CaptureError> {
    Ok(mounts::whole()?.point)
}

/// The configured root, or the mount point; checked to be cgroup v2.
///
/// # Errors
/// When there is no cgroup v2 there, or only a container's own part of it.
pub fn root(configured: Option<&Path>) -> Result<PathBuf, CaptureError> {
    let root = match configured {
        Some(path) => path.to_owned(),
        None => mount_point()?,
    };
    if !is_cgroup2(&root) {
        return Err(CaptureError::NotACgroup(root));
    }
    // Workloads are looked for from the top: there must be one, whatever is configured.
    mount_point().map(|_| root)
}

fn is_cgroup2(path: &Path) -> bool {
    statfs(path).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// The daemon's own cgroup, if it is outside of `root`: programs on `root` do not see its sockets then.
#[must_use]
pub fn own_outside_of(root: &Path) -> Option<PathBuf> {
    let own = own::own()?;
    (!own.starts_with(root)).then_some(own)
}

/// The daemon's own cgroup, if it is below one of these.
#[must_use]
pub fn own_below(mount: &Path, configured: &[PathBuf]) -> Option<Cgroup> {
    let own = own::own()?;
    let below = configured.iter().any(|path| own.starts_with(directory(mount, path)));
    below.then(|| find(mount, &own)).flatten()
}

/// The cgroup v2 line of /proc/PID/cgroup is `0::/path` (cgroups(7)).
pub(crate) fn own_path(memberships: &str) -> Option<&str> {
    let path = memberships.lines().find_map(|line| line.strip_prefix("0::"))?;
    Some(path.trim_start_matches('/'))
}

/// A cgroup as eBPF sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cgroup {
    /// What `bpf_get_current_ancestor_cgroup_id` returns: the inode of its directory.
    pub id: u64,
    /// How far below the root of the hierarchy; the root is 0.
    pub level: u32,
}

/// Where a configured cgroup path leads: absolute below the mount, or relative to it (also with a leading `/`).
#[must_use]
pub fn directory(mount: &Path, configured: &Path) -> PathBuf {
    let relative = configured.strip_prefix(mount).unwrap_or(configured);
    mount.join(relative.strip_prefix("/").unwrap_or(relative))
}

/// The ID of the cgroup that has this directory, as eBPF and sock_diag give it.
#[must_use]
pub fn id(directory: &Path) -> Option<u64> {
    std::fs::metadata(directory).ok().map(|metadata| metadata.ino())
}

/// Looks a configured cgroup path up; see [`directory`] for how it is written.
/// `None` when it does not exist now.
#[must_use]
pub fn find(mount: &Path, configured: &Path) -> Option<Cgroup> {
    let directory = directory(mount, configured);
    let metadata = std::fs::metadata(&directory).ok()?;
    if !metadata.is_dir() || !is_cgroup2(&directory) {
        return None;
    }
    let level = u32::try_from(directory.strip_prefix(mount).ok()?.components().count()).ok()?;
    Some(Cgroup { id: metadata.ino(), level })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_cgroup_is_the_line_of_version_2() {
        assert_eq!(
            own_path("8:pids:/x\n0::/system.slice/mtlsd.service\n"),
            Some("system.slice/mtlsd.service")
        );
        assert_eq!(own_path("0::/\n"), Some(""));
        assert_eq!(own_path("8:pids:/x\n"), None);
        let mount = mount_point().unwrap();
        assert_eq!(own_outside_of(&mount), None, "everything is below the root of the hierarchy");
    }

    #[test]
    fn a_root_that_is_no_cgroup_is_refused_by_name() {
        let error = root(Some(Path::new("/tmp"))).unwrap_err();
        assert!(error.to_string().contains("/tmp"), "{error}");
        assert!(find(Path::new("/tmp"), Path::new("/no-such-cgroup")).is_none());
    }
}
