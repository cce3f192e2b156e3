//! Where systemd keeps a unit's processes.

use std::path::{Path, PathBuf};

use crate::config::UnitName;

/// Why a unit has no place.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPlace {
    /// systemd makes the cgroup when it starts the unit.
    #[error("unit {0} has no cgroup below {root}: it does not run there", root = .1.display())]
    Absent(UnitName, PathBuf),
    /// Two systemds, or somebody who makes cgroups beside it.
    #[error("unit {unit} has several cgroups: {first} and {second}; select one of them by `cgroup`", first = .first.display(), second = .second.display())]
    Several {
        /// The unit.
        unit: UnitName,
        /// One place.
        first: PathBuf,
        /// Another one.
        second: PathBuf,
    },
}

/// The directory of a unit's cgroup. `root`: of systemd's hierarchy.
///
/// Which slice a unit is in is for its file and systemd to say, so it is looked for in all of them; and nowhere else: below a service
/// are the cgroups of whom systemd has given it to, a user's own units among them.
pub(super) fn directory(root: &Path, unit: &UnitName) -> Result<PathBuf, NoPlace> {
    let names = [unit.as_str().to_owned(), format!("_{unit}")];
    let mut found: Option<PathBuf> = None;
    let mut slices = vec![root.to_owned()];
    while let Some(slice) = slices.pop() {
        let entries = std::fs::read_dir(&slice).into_iter().flatten().flatten();
        for entry in entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let name = entry.file_name();
            // One whose name could be a file of cgroupfs stands there with a `_` in front (`cg_escape` of systemd).
            if names.iter().any(|wanted| name == wanted.as_str()) {
                if let Some(first) = found {
                    let second = entry.path();
                    return Err(NoPlace::Several { unit: unit.clone(), first, second });
                }
                found = Some(entry.path());
            }
            if name.as_encoded_bytes().ends_with(b".slice") {
                slices.push(entry.path());
            }
        }
    }
    found.ok_or_else(|| NoPlace::Absent(unit.clone(), root.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(directories: &[&str]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for directory in directories {
            std::fs::create_dir_all(root.path().join(directory)).unwrap();
        }
        root
    }

    fn find(root: &tempfile::TempDir, unit: &str) -> Result<PathBuf, NoPlace> {
        let found = directory(root.path(), &unit.parse().unwrap());
        found.map(|path| path.strip_prefix(root.path()).unwrap().to_owned())
    }

    #[test]
    fn a_unit_is_found_in_whatever_slice_it_is() {
        let root = tree(&[
            "system.slice/nginx.service",
            "system.slice/system-worker.slice/worker@1.service",
            "payments.slice/payments-cards.slice/cards.service/inner",
            "system.slice/_cpu.service",
            "init.scope",
        ]);
        for (unit, place) in [
            ("nginx.service", "system.slice/nginx.service"),
            ("worker@1.service", "system.slice/system-worker.slice/worker@1.service"),
            ("cards.service", "payments.slice/payments-cards.slice/cards.service"),
            ("payments-cards.slice", "payments.slice/payments-cards.slice"),
            ("cpu.service", "system.slice/_cpu.service"),
            ("init.scope", "init.scope"),
        ] {
            assert_eq!(find(&root, unit), Ok(place.into()), "{unit}");
        }
    }

    #[test]
    fn what_a_user_or_a_container_calls_so_is_not_the_unit() {
        let root = tree(&[
            "user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service",
            "system.slice/docker.service/nginx.service",
            "kubepods/nginx.service",
        ]);
        let error = find(&root, "nginx.service").unwrap_err();
        assert!(matches!(error, NoPlace::Absent(..)), "{error}");
        assert!(error.to_string().contains("nginx.service"), "{error}");
        std::fs::write(root.path().join("system.slice/nginx.service"), "a file").unwrap();
        assert!(find(&root, "nginx.service").is_err());
        assert!(directory(Path::new("/no/such"), &"nginx.service".parse().unwrap()).is_err());
    }

    #[test]
    fn two_places_are_none() {
        let root = tree(&["system.slice/a.service", "other.slice/a.service"]);
        let error = find(&root, "a.service").unwrap_err().to_string();
        assert!(
            error.contains("system.slice/a.service") && error.contains("other.slice/a.service"),
            "{error}"
        );
        assert!(error.contains("select one of them by `cgroup`"), "{error}");
    }
}
