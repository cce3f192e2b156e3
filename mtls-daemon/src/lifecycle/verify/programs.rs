//! Every program, link and pin, as the kernel has them now.

use std::collections::HashMap;

use super::{BY_ITSELF, Finding, Repair, places};
use crate::capture::Fault;
use crate::lifecycle::daemon::Daemon;

fn faults(daemon: &Daemon) -> (Vec<Fault>, HashMap<u64, String>) {
    let paths: HashMap<u64, String> = places(daemon)
        .into_iter()
        .map(|place| (place.cookie, place.netns.path().display().to_string()))
        .collect();
    let cookies: Vec<u64> = paths.keys().copied().collect();
    (daemon.relay.capture.faults(&cookies), paths)
}

/// With the namespace's path, which people know.
fn told(fault: &Fault, paths: &HashMap<u64, String>) -> String {
    match fault.namespace().and_then(|cookie| paths.get(&cookie)) {
        Some(path) => format!("{fault} ({path})"),
        None => fault.to_string(),
    }
}

pub(super) fn look(daemon: &Daemon) -> Vec<Finding> {
    let (faults, paths) = faults(daemon);
    if faults.is_empty() {
        let root = daemon.relay.capture.cgroup_root().display();
        let detail = format!("every program is attached to {root} and to {} namespaces", paths.len());
        return vec![Finding::good(None, detail)];
    }
    faults.iter().map(|fault| Finding::bad(None, told(fault, &paths), BY_ITSELF)).collect()
}

pub(super) fn repair(daemon: &Daemon) -> Vec<Repair> {
    let (faults, paths) = faults(daemon);
    let places = places(daemon);
    let repair = |fault: Fault| {
        let place = places.iter().find(|place| fault.namespace() == Some(place.cookie));
        let result = daemon.relay.capture.repair(&fault, place.map(|place| &place.netns));
        Repair {
            what: fault.code(),
            detail: told(&fault, &paths),
            result: result.map_err(|error| error.to_string()),
        }
    };
    faults.into_iter().map(repair).collect()
}
