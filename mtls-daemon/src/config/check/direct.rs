//! The datapath `direct`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::Duration;

use crate::config::at::{At, Entries, Given};
use crate::config::direct::{Direct, DirectChoice, NodeAddress, UnfitSettings};
use crate::config::error::{Fault, Quoted};
use crate::config::raw;
use crate::config::types::{DirectoryEntry, Workload};

use super::{Check, FileSpot, Seen};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);
/// Keeps the memory below a few dozen megabytes.
const MAX_UNFIT: u32 = 262_144;

/// The node's part, and where `listen` stands, for [`not_of_a_workload`].
pub(super) fn check(check: &mut Check, raw: &raw::Direct) -> (Direct, Option<FileSpot>) {
    let listen = raw.listen.0.as_ref().and_then(|at| Some((node(check, at)?, (check.file, at.spot))));
    let direct = Direct {
        default: choice(&raw.default, DirectChoice::default()),
        listen: listen.map(|(address, _)| address),
        unfit: unfit(check, &raw.unfit),
    };
    (direct, listen.map(|(_, spot)| spot))
}

/// What is chosen here, or else that default.
pub(super) fn choice(given: &Given<DirectChoice>, default: DirectChoice) -> DirectChoice {
    given.0.as_ref().map_or(default, |at| at.value)
}

/// Exceptions by own port.
pub(super) fn ports(check: &mut Check, raw: &Entries<DirectChoice>) -> BTreeMap<u16, DirectChoice> {
    let mut seen = Seen::new("port", "write it once");
    let mut choices = BTreeMap::new();
    for (port, choice) in &raw.0 {
        if let Some(number) = check.port(port) {
            seen.note(check, &number, &number.to_string(), port.spot);
            choices.insert(number, choice.value);
        }
    }
    choices
}

fn unfit(check: &mut Check, raw: &raw::Unfit) -> UnfitSettings {
    let default = UnfitSettings::DEFAULT;
    let retry = check.duration(&raw.retry, SECOND, DAY).unwrap_or(default.retry);
    let limit = check.duration(&raw.retry_limit, SECOND, 7 * DAY);
    if let (Some(limit), Some(at)) = (limit, &raw.retry_limit.0)
        && limit < retry
    {
        check.fault(at.spot, Fault::UnfitOrder);
    }
    UnfitSettings {
        entries: check.number(&raw.entries, MAX_UNFIT, default.entries),
        retry,
        // A long `retry` alone says nothing of the limit.
        retry_limit: limit.unwrap_or(default.retry_limit.max(retry)),
    }
}

fn node(check: &mut Check, at: &At<String>) -> Option<NodeAddress> {
    check.text(at, str::parse, Fault::NodeAddress)
}

/// The node's own address must not be a workload's: every port there is that workload's.
pub(super) fn not_of_a_workload(
    check: &mut Check,
    listen: Option<(NodeAddress, FileSpot)>,
    workloads: &[Workload],
) {
    if let Some((address, spot)) = listen
        && let Some(workload) = owner(address, workloads)
    {
        let (address, workload) = (Quoted::new(&address.to_string()), Quoted::new(workload));
        check.fault_at(spot, Fault::NodeIsWorkload { address, workload });
    }
}

fn owner(address: NodeAddress, workloads: &[Workload]) -> Option<&str> {
    let address = IpAddr::from(address);
    let owner = workloads.iter().find(|workload| workload.addresses.contains(&address))?;
    Some(&owner.name)
}

/// The daemon of the node where a destination is: neither a workload of this node nor the destination itself.
pub(super) fn node_of_entry(
    check: &mut Check,
    at: &At<String>,
    entry: &DirectoryEntry,
    workloads: &[Workload],
) -> Option<NodeAddress> {
    let address = node(check, at)?;
    let text = || Quoted::new(&at.value);
    if let Some(workload) = owner(address, workloads) {
        let workload = Quoted::new(workload);
        check.fault(at.spot, Fault::NodeIsWorkload { address: text(), workload });
        return None;
    }
    let port = address.get().port();
    let has_port = entry.ports.as_ref().is_none_or(|ports| ports.contains(&port));
    if has_port && entry.addresses.iter().any(|network| network.contains(&IpAddr::from(address))) {
        check.fault(at.spot, Fault::NodeIsDestination(text()));
        return None;
    }
    Some(address)
}
