//! What the kernel knows of each enrolled namespace, and whether the daemon's listeners there answer.

use std::sync::Arc;

use mtls_common::Namespace;

use super::{BY_ITSELF, Finding, Repair, places};
use crate::datapath::relay::Place;
use crate::lifecycle::daemon::{Daemon, lock};
use crate::lifecycle::reconcile::Node;

/// What is wrong with one namespace.
enum Wrong {
    /// Its entry in NAMESPACES is missing or another.
    Entry(Namespace),
    /// An inbound listener is not in LISTENERS any more.
    Listener,
}

impl Wrong {
    fn told(&self, place: &Place) -> String {
        let path = place.netns.path().display();
        match self {
            Self::Entry(_) => format!("{path}: its entry in table NAMESPACES is missing or changed"),
            Self::Listener => format!("{path}: its listener is missing in table LISTENERS"),
        }
    }
}

/// While `node` is held the tables do not change: what is compared here may be written, too.
fn wrong(daemon: &Daemon, node: &Node) -> (usize, Vec<(Arc<Place>, Wrong)>) {
    let steered_to = daemon.relay.capture.steered_to();
    let mut count = 0;
    let mut found = Vec::new();
    for place in node.places() {
        count += 1;
        let (outbound_v4, outbound_v6) = place.outbound_ports();
        let workload = place.owners.load().whole.unwrap_or(0);
        let wanted = Namespace { workload, outbound_v4, outbound_v6 };
        if daemon.relay.capture.namespace(place.cookie) != Some(wanted) {
            found.push((Arc::clone(place), Wrong::Entry(wanted)));
        }
        if place.families().any(|family| !steered_to.contains(&(place.cookie, family))) {
            found.push((Arc::clone(place), Wrong::Listener));
        }
    }
    (count, found)
}

pub(super) fn look(daemon: &Daemon) -> Vec<Finding> {
    let (count, wrong) = wrong(daemon, &lock(&daemon.node));
    if wrong.is_empty() {
        return vec![Finding::good(None, format!("{count} namespaces are as mtlsd enrolled them"))];
    }
    wrong.iter().map(|(place, wrong)| Finding::bad(None, wrong.told(place), BY_ITSELF)).collect()
}

pub(super) fn repair(daemon: &Daemon) -> Vec<Repair> {
    let mut repairs = Vec::new();
    let mut without_listener = Vec::new();
    {
        let node = lock(&daemon.node);
        for (place, wrong) in wrong(daemon, &node).1 {
            let detail = wrong.told(&place);
            match wrong {
                Wrong::Entry(wanted) => {
                    let result = daemon.relay.capture.set_namespace(place.cookie, wanted);
                    let result = result.map_err(|error| error.to_string());
                    repairs.push(Repair { what: "table", detail, result });
                }
                Wrong::Listener => without_listener.push((place, detail)),
            }
        }
    }
    // This takes the lock by itself.
    repairs.extend(without_listener.into_iter().map(|(place, detail)| {
        let result = daemon.enter_again(&place).map_err(|error| error.to_string());
        Repair { what: "listener", detail, result }
    }));
    repairs
}

fn answers(place: &Place) -> Result<String, String> {
    let path = place.netns.path().display();
    match place.listeners_alive() {
        Ok(()) => Ok(format!("{path}: listeners answer, {} connect() calls wait", place.waiting())),
        Err(error) => Err(format!("{path}: {error}")),
    }
}

/// Connects to the listeners, as the kernel does for a captured connect().
pub(super) fn answer(daemon: &Daemon) -> Vec<Finding> {
    let finding = |place: Arc<Place>| match answers(&place) {
        Ok(detail) => Finding::good(None, detail),
        Err(detail) => Finding::bad(None, detail, BY_ITSELF),
    };
    places(daemon).into_iter().map(finding).collect()
}

/// Opens the listeners anew where they do not answer.
pub(super) fn enter_again(daemon: &Daemon) -> Vec<Repair> {
    let repair = |place: Arc<Place>| {
        let detail = answers(&place).err()?;
        let result = daemon.enter_again(&place).map_err(|error| error.to_string());
        Some(Repair { what: "listener", detail, result })
    };
    places(daemon).into_iter().filter_map(repair).collect()
}
