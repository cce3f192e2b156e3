//! `mtlsd verify`: is everything in place that should be? Asked of the kernel, not of our own memory.

use std::path::Path;

use super::daemon::{Daemon, lock};
use crate::capture::cgroup;
use crate::control::view::{Check, VerifyReport};
use crate::sys::netns::Netns;
use crate::workload::{Presence, processes_below};

/// Looks at programs, links, listeners, workloads, identities and stray processes.
#[must_use]
pub fn verify(daemon: &Daemon) -> VerifyReport {
    let mut checks = Vec::new();
    check_links(daemon, &mut checks);
    check_listeners(daemon, &mut checks);
    check_workloads(daemon, &mut checks);
    check_processes(daemon, &mut checks);
    VerifyReport { checks }
}

fn check(name: &str, workload: Option<&str>, result: Result<String, String>, mend: &str) -> Check {
    let ok = result.is_ok();
    Check {
        name: name.to_owned(),
        workload: workload.map(str::to_owned),
        ok,
        detail: result.unwrap_or_else(|detail| detail),
        mend: if ok { String::new() } else { mend.to_owned() },
    }
}

fn check_links(daemon: &Daemon, checks: &mut Vec<Check>) {
    let cookies: Vec<u64> = lock(&daemon.node).places().map(|place| place.cookie).collect();
    let result = match daemon.relay.capture.missing_links(&cookies) {
        Ok(missing) if missing.is_empty() => {
            Ok(format!("every program is attached, also to {} namespaces", cookies.len()))
        }
        Ok(missing) => {
            let names: Vec<_> = missing.iter().map(|(name, _)| name.as_str()).collect();
            Err(format!("not attached: {}", names.join(", ")))
        }
        Err(error) => Err(error.to_string()),
    };
    checks.push(check("programs attached", None, result, "Restart mtlsd: it attaches what is missing."));
}

fn check_listeners(daemon: &Daemon, checks: &mut Vec<Check>) {
    let places: Vec<_> = lock(&daemon.node).places().cloned().collect();
    for place in places {
        let path = place.netns.path().display().to_string();
        let result = match place.listeners_alive() {
            Ok(()) => Ok(format!("{path}: listeners answer, {} connect() calls wait", place.waiting())),
            Err(error) => Err(format!("{path}: {error}")),
        };
        checks.push(check("listeners answer", None, result, "Restart mtlsd: it opens them again."));
    }
}

fn check_workloads(daemon: &Daemon, checks: &mut Vec<Check>) {
    let snapshot = daemon.relay.snapshot.load_full();
    let node = lock(&daemon.node);
    for workload in snapshot.workloads.values() {
        let settings = &workload.settings;
        if settings.is_left_alone() {
            continue;
        }
        let result = match node.presence(&settings.name) {
            Some(Presence::Enrolled) => Ok("enrolled".to_owned()),
            Some(Presence::Absent(why)) => Ok(format!("not on this node now: {why}")),
            Some(Presence::Failed(why)) => Err(why.clone()),
            None => Err("not looked for yet".to_owned()),
        };
        checks.push(check("workload enrolled", Some(&settings.name), result, "Mend what the detail says."));
        let result = match workload.usable_identity(std::time::SystemTime::now()) {
            Ok(identity) => Ok(format!(
                "certificate {} until {}",
                identity.certificate.serial, identity.certificate.not_after
            )),
            Err(refusal) => Err(refusal.to_string()),
        };
        checks.push(check("identity valid", Some(&settings.name), result, "See `mtlsd workloads`."));
    }
}

/// A process in an enrolled namespace but outside the cgroup root is not captured.
fn check_processes(daemon: &Daemon, checks: &mut Vec<Check>) {
    let root = daemon.relay.capture.cgroup_root();
    if cgroup::mount_point().is_ok_and(|mount| mount == root) {
        checks.push(check(
            "processes below the cgroup root",
            None,
            Ok(format!("{} is the root of the hierarchy: every process is below it", root.display())),
            "",
        ));
        return;
    }
    let inside: std::collections::HashSet<u32> = processes_below(root).into_iter().collect();
    let places: Vec<_> = lock(&daemon.node)
        .places()
        .filter(|place| place.owners.load().whole.is_some())
        .map(|place| (place.netns.identity(), place.netns.path().display().to_string()))
        .collect();
    let mut strays = Vec::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if inside.contains(&pid) {
            continue;
        }
        let Ok(netns) = Netns::open(&Path::new("/proc").join(pid.to_string()).join("ns/net")) else {
            continue;
        };
        if let Some((_, path)) = places.iter().find(|(identity, _)| *identity == netns.identity()) {
            strays.push(format!("pid {pid} in {path}"));
        }
    }
    let result = if strays.is_empty() {
        Ok(format!("every process of an enrolled namespace is below {}", root.display()))
    } else {
        strays.truncate(10);
        Err(format!("outside {}: {}", root.display(), strays.join(", ")))
    };
    let mend = "Set cgroup_root to the root of the hierarchy, or move these processes below it.";
    checks.push(check("processes below the cgroup root", None, result, mend));
}
