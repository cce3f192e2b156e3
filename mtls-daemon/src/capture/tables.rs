//! The tables that the programs read, and bringing them from what they are to what they shall be.
//!
//! The order matters: at every moment an address that the directory knows must lead to a destination, or
//! a connection would leave unencrypted in between. So new sets get new numbers, are filled first, then the
//! addresses are turned to them, then the old sets go. Prefixes nest: longer ones are turned first and go last,
//! so that a shorter one decides only on what it decides on before or after.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::hash::Hash;

use aya::maps::lpm_trie::{Key as TrieKey, LpmTrie};
use aya::maps::{Array, HashMap as KernelMap, MapData, MapError};
use aya::{Ebpf, Pod};
use mtls_common::{
    AddressKey, Destination, DestinationPort, Enclosure, Endpoint, Namespace, SharedPort, SourceKey, UidKey,
    VERDICT_ALLOW, VERDICT_DENY, VerdictKey, Workload, WorkloadPort, workload_flags,
};

use super::error::CaptureError;
use super::held::Held;

pub mod compare;
mod inside;
mod services;

use inside::Inside;
use services::Services;

/// What the tables shall hold. Sets are numbered from 0 here; the kernel's numbers are chosen on applying.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// Settings by workload number.
    pub workloads: HashMap<u32, Workload>,
    /// Inbound modes of single ports.
    pub port_modes: HashMap<WorkloadPort, u32>,
    /// Workload numbers by cgroup ID.
    pub cgroups: HashMap<u64, u32>,
    /// Workload numbers by user.
    pub users: HashMap<UidKey, u32>,
    /// Depths at which `cgroups` has entries, as bits.
    pub cgroup_levels: u32,
    /// Owners of ports in shared namespaces.
    pub shared_ports: HashMap<SharedPort, u32>,
    /// Destination prefixes never captured: (prefix length over workload and address, key).
    pub excluded: HashMap<(u32, AddressKey), u32>,
    /// Destination ports never captured.
    pub excluded_ports: HashMap<WorkloadPort, u32>,
    /// Directory prefixes (length over 128 bits, address) → set.
    pub addresses: HashMap<(u32, [u8; 16]), u32>,
    /// Destinations of the sets.
    pub destinations: HashMap<DestinationPort, Destination>,
    /// Prefixes inside the cluster (length over 128 bits, address) → [`mtls_common::INSIDE_UNKNOWN`] or `INSIDE_KNOWN`.
    pub inside: HashMap<(u32, [u8; 16]), u32>,
    /// Services whose address is turned at connect() → their endpoints.
    pub services: HashMap<Endpoint, Vec<Endpoint>>,
    /// Workloads that own a whole namespace (0: none does), by its cookie.
    pub owners: HashMap<u64, u32>,
    /// Connections that are refused at connect().
    pub denied: HashMap<VerdictKey, u32>,
    /// There are more of them than the table takes, so that it has none.
    pub denials_left_out: bool,
    /// Clients that are refused at the SYN: (prefix length over workload, port and address, key).
    pub sources: HashMap<(u32, SourceKey), u32>,
    /// Where every process must belong to a workload.
    pub enclosure: Enclosure,
    /// IDs of the cgroups of `enclosure`.
    pub enclosed: HashMap<u64, u32>,
    /// Cookies of the namespaces of workloads that are left alone.
    pub left_alone: HashMap<u64, u32>,
    /// IDs of the cgroups whose processes are probers.
    pub probers: HashMap<u64, u32>,
    /// Ports that workloads are probed on, each once more for workload 0.
    pub probe_ports: HashMap<WorkloadPort, u32>,
}

impl Tables {
    /// 1 when some workload may be direct, else 0.
    fn direct(&self) -> u32 {
        self.workloads.values().any(|workload| workload.flags & workload_flags::DIRECT != 0).into()
    }
}

type Map<K, V> = KernelMap<MapData, K, V>;

/// The kernel's tables, open for writing.
pub struct KernelTables {
    workloads: Map<u32, Workload>,
    port_modes: Map<WorkloadPort, u32>,
    cgroups: Map<u64, u32>,
    cgroup_levels: Array<MapData, u32>,
    users: Map<UidKey, u32>,
    namespaces: Map<u64, Namespace>,
    shared_ports: Map<SharedPort, u32>,
    excluded: LpmTrie<MapData, AddressKey, u32>,
    excluded_ports: Map<WorkloadPort, u32>,
    addresses: LpmTrie<MapData, [u8; 16], u32>,
    destinations: Map<DestinationPort, Destination>,
    inside: Inside,
    services: Services,
    denied: Map<VerdictKey, u32>,
    sources: LpmTrie<MapData, SourceKey, u32>,
    enclosure: Array<MapData, Enclosure>,
    enclosed: Map<u64, u32>,
    left_alone: Map<u64, u32>,
    probers: Map<u64, u32>,
    probe_ports: Map<WorkloadPort, u32>,
    direct: Array<MapData, u32>,
    /// What was brought into the kernel last; `None`: it is not known what is there.
    directory: Option<AppliedDirectory>,
}

/// The part that grows with the cluster and not with the node.
struct AppliedDirectory {
    addresses: HashMap<(u32, [u8; 16]), u32>,
    destinations: HashMap<DestinationPort, Destination>,
    /// What was added to the numbers of the sets.
    base: u32,
}

impl AppliedDirectory {
    fn is(&self, wanted: &Tables) -> bool {
        self.addresses == wanted.addresses && self.destinations == wanted.destinations
    }
}

/// Takes a map out of the object under its type.
pub(super) fn take<T>(object: &mut Ebpf, name: &'static str) -> Result<T, CaptureError>
where
    T: TryFrom<aya::maps::Map, Error = MapError>,
{
    let map = object.take_map(name).ok_or(CaptureError::Missing(name))?;
    T::try_from(map).map_err(CaptureError::map(name))
}

/// Another handle of a map that is held.
fn again<T>(held: &Held, name: &'static str) -> Result<T, CaptureError>
where
    T: TryFrom<aya::maps::Map, Error = MapError>,
{
    let fd = held.map(name).ok_or(CaptureError::Missing(name))?;
    let fd = fd.try_clone_to_owned().map_err(|source| CaptureError::pin(name, source))?;
    let map = MapData::from_fd(fd).and_then(aya::maps::Map::from_map_data);
    map.and_then(T::try_from).map_err(CaptureError::map(name))
}

/// Every table, each from `$from`.
macro_rules! every_table {
    ($from:ident, $source:expr) => {
        Ok(Self {
            workloads: $from($source, "WORKLOADS")?,
            port_modes: $from($source, "PORT_MODES")?,
            cgroups: $from($source, "CGROUPS")?,
            cgroup_levels: $from($source, "CGROUP_LEVELS")?,
            users: $from($source, "UIDS")?,
            namespaces: $from($source, "NAMESPACES")?,
            shared_ports: $from($source, "SHARED_PORTS")?,
            excluded: $from($source, "EXCLUDED")?,
            excluded_ports: $from($source, "EXCLUDED_PORTS")?,
            addresses: $from($source, "ADDRESSES")?,
            destinations: $from($source, "DESTINATIONS")?,
            inside: Inside::new($from($source, "INSIDE")?),
            services: Services::new($from($source, "SERVICES")?, $from($source, "BACKENDS")?),
            denied: $from($source, "DENIED")?,
            sources: $from($source, "SOURCES")?,
            enclosure: $from($source, "ENCLOSURE")?,
            enclosed: $from($source, "ENCLOSED")?,
            left_alone: $from($source, "LEFT_ALONE")?,
            probers: $from($source, "PROBERS")?,
            probe_ports: $from($source, "PROBE_PORTS")?,
            direct: $from($source, "DIRECT")?,
            directory: None,
        })
    };
}

impl KernelTables {
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, CaptureError> {
        every_table!(take, object)
    }

    /// The same tables once more.
    pub(super) fn reader(held: &Held) -> Result<Self, CaptureError> {
        every_table!(again, held)
    }

    /// Brings every table to `wanted`, of the namespaces only the owners of those that are there; gives what was added to the numbers of the sets.
    ///
    /// # Errors
    /// The first table that cannot be written (`E2BIG`: it is full); what was written stays, and an
    /// address that was known stays known.
    pub fn apply(&mut self, wanted: &Tables) -> Result<u32, CaptureError> {
        upsert(&mut self.workloads, &wanted.workloads).map_err(CaptureError::map("WORKLOADS"))?;
        self.direct.set(0, wanted.direct(), 0).map_err(CaptureError::map("DIRECT"))?;
        upsert(&mut self.port_modes, &wanted.port_modes).map_err(CaptureError::map("PORT_MODES"))?;
        upsert(&mut self.shared_ports, &wanted.shared_ports).map_err(CaptureError::map("SHARED_PORTS"))?;

        // Before the directory forgets their addresses, and gone only after it knows them again.
        self.services.upsert(&wanted.services).map_err(services::Failed::into_error)?;
        // Who leaves the directory and is still there is known before.
        self.inside.know(&wanted.inside).map_err(CaptureError::map("INSIDE"))?;
        // Destinations may have other numbers now, which an old denial must not hit.
        self.lift_denials(&wanted.denied).map_err(CaptureError::map("DENIED"))?;
        let base = self.replace_directory(wanted)?;
        self.inside.replace(&wanted.inside).map_err(CaptureError::map("INSIDE"))?;
        replace(&mut self.denied, &wanted.denied).map_err(CaptureError::map("DENIED"))?;
        self.services.remove_others(&wanted.services).map_err(services::Failed::into_error)?;

        replace(&mut self.cgroups, &wanted.cgroups).map_err(CaptureError::map("CGROUPS"))?;
        self.cgroup_levels.set(0, wanted.cgroup_levels, 0).map_err(CaptureError::map("CGROUP_LEVELS"))?;
        replace(&mut self.users, &wanted.users).map_err(CaptureError::map("UIDS"))?;
        replace_trie(&mut self.excluded, &wanted.excluded).map_err(CaptureError::map("EXCLUDED"))?;
        replace(&mut self.excluded_ports, &wanted.excluded_ports)
            .map_err(CaptureError::map("EXCLUDED_PORTS"))?;
        // While both the old and the new owner are known: a namespace without one is not captured.
        self.change_owners(wanted).map_err(CaptureError::map("NAMESPACES"))?;

        self.replace_sources(&wanted.sources).map_err(CaptureError::map("SOURCES"))?;
        // Who is known first, then who is not.
        replace(&mut self.left_alone, &wanted.left_alone).map_err(CaptureError::map("LEFT_ALONE"))?;
        replace(&mut self.enclosed, &wanted.enclosed).map_err(CaptureError::map("ENCLOSED"))?;
        self.enclosure.set(0, wanted.enclosure, 0).map_err(CaptureError::map("ENCLOSURE"))?;

        replace(&mut self.probers, &wanted.probers).map_err(CaptureError::map("PROBERS"))?;
        replace(&mut self.probe_ports, &wanted.probe_ports).map_err(CaptureError::map("PROBE_PORTS"))?;

        remove_others(&mut self.shared_ports, &wanted.shared_ports)
            .map_err(CaptureError::map("SHARED_PORTS"))?;
        remove_others(&mut self.port_modes, &wanted.port_modes).map_err(CaptureError::map("PORT_MODES"))?;
        remove_others(&mut self.workloads, &wanted.workloads).map_err(CaptureError::map("WORKLOADS"))?;
        Ok(base)
    }

    /// Gives what was added to the numbers of the sets. Where the directory is as it was, nothing of it is written.
    fn replace_directory(&mut self, wanted: &Tables) -> Result<u32, CaptureError> {
        if let Some(applied) = self.directory.as_ref().filter(|applied| applied.is(wanted)) {
            return Ok(applied.base);
        }
        if self.directory.take().is_none() {
            self.remove_orphans().map_err(CaptureError::map("DESTINATIONS"))?;
        }
        let base = self.highest_set()?.wrapping_add(1);
        let destinations: HashMap<_, _> = wanted
            .destinations
            .iter()
            .map(|(key, value)| (DestinationPort { set: key.set.wrapping_add(base), ..*key }, *value))
            .collect();
        upsert(&mut self.destinations, &destinations).map_err(CaptureError::map("DESTINATIONS"))?;
        let addresses: HashMap<_, _> =
            wanted.addresses.iter().map(|(key, set)| (*key, set.wrapping_add(base))).collect();
        replace_trie(&mut self.addresses, &addresses).map_err(CaptureError::map("ADDRESSES"))?;
        remove_others(&mut self.destinations, &destinations).map_err(CaptureError::map("DESTINATIONS"))?;
        let (addresses, destinations) = (wanted.addresses.clone(), wanted.destinations.clone());
        self.directory = Some(AppliedDirectory { addresses, destinations, base });
        Ok(base)
    }

    /// Removes sets that no address leads to: what a failure left behind must not keep the next one from fitting in.
    fn remove_orphans(&mut self) -> Result<(), MapError> {
        let used: HashSet<u32> = self.addresses.iter().filter_map(Result::ok).map(|(_, set)| set).collect();
        let there = self.destinations.keys().filter_map(Result::ok);
        let orphans: Vec<_> = there.filter(|key| !used.contains(&key.set)).collect();
        orphans.iter().try_for_each(|key| ignore_absent(self.destinations.remove(key)))
    }

    /// Somebody else may have written: the next [`KernelTables::apply`] writes everything.
    pub fn doubt(&mut self) {
        self.directory = None;
        self.inside.doubt();
    }

    /// A namespace that nobody owns any more says so: an owner without settings is taken for a strict one.
    fn change_owners(&mut self, wanted: &Tables) -> Result<(), MapError> {
        for cookie in self.namespaces() {
            let Some(there) = self.namespace(cookie) else { continue };
            let kept = Some(there.workload).filter(|owner| wanted.workloads.contains_key(owner));
            let owner = wanted.owners.get(&cookie).copied().or(kept).unwrap_or(0);
            if owner != there.workload {
                self.namespaces.insert(cookie, Namespace { workload: owner, ..there }, 0)?;
            }
        }
        Ok(())
    }

    /// Leaves only denials that both the old and the wanted verdicts have, with the exceptions of both.
    fn lift_denials(&mut self, wanted: &HashMap<VerdictKey, u32>) -> Result<(), MapError> {
        for (key, verdict) in wanted {
            if *verdict == VERDICT_ALLOW {
                self.denied.insert(*key, VERDICT_ALLOW, 0)?;
            }
        }
        let not_denied = |key: &VerdictKey| wanted.get(key) != Some(&VERDICT_DENY);
        let stale: Vec<VerdictKey> = self
            .denied
            .iter()
            .filter_map(Result::ok)
            .filter(|(key, verdict)| *verdict == VERDICT_DENY && not_denied(key))
            .map(|(key, _)| key)
            .collect();
        stale.iter().try_for_each(|key| ignore_absent(self.denied.remove(key)))
    }

    /// Exceptions first: a client that both the old and the wanted verdicts let in is let in at every moment between.
    fn replace_sources(&mut self, wanted: &HashMap<(u32, SourceKey), u32>) -> Result<(), MapError> {
        let of = |verdict| -> HashMap<_, _> {
            wanted.iter().filter(|(_, of)| **of == verdict).map(|(key, of)| (*key, *of)).collect()
        };
        turn(&mut self.sources, &of(VERDICT_ALLOW))?;
        replace_trie(&mut self.sources, wanted)
    }

    fn highest_set(&self) -> Result<u32, CaptureError> {
        let mut highest = 0;
        for key in self.destinations.keys() {
            highest = highest.max(key.map_err(CaptureError::map("DESTINATIONS"))?.set);
        }
        Ok(highest)
    }

    /// Enrols a namespace, or changes its entry.
    ///
    /// # Errors
    /// When the table is full.
    pub fn set_namespace(&mut self, cookie: u64, namespace: Namespace) -> Result<(), CaptureError> {
        self.namespaces.insert(cookie, namespace, 0).map_err(CaptureError::map("NAMESPACES"))
    }

    /// The entry of a namespace.
    #[must_use]
    pub fn namespace(&self, cookie: u64) -> Option<Namespace> {
        self.namespaces.get(&cookie, 0).ok()
    }

    /// Forgets a namespace; one that is not there is no error.
    pub fn remove_namespace(&mut self, cookie: u64) {
        let _ = self.namespaces.remove(&cookie);
    }

    /// The cookies of every enrolled namespace, also those of an earlier daemon.
    #[must_use]
    pub fn namespaces(&self) -> Vec<u64> {
        self.namespaces.keys().filter_map(Result::ok).collect()
    }
}

fn upsert<K: Pod + Eq + Hash, V: Pod + PartialEq>(
    map: &mut Map<K, V>,
    wanted: &HashMap<K, V>,
) -> Result<(), MapError> {
    for (key, value) in wanted {
        if map.get(key, 0).ok().as_ref() != Some(value) {
            map.insert(*key, *value, 0)?;
        }
    }
    Ok(())
}

fn remove_others<K: Pod + Eq + Hash, V: Pod, W>(
    map: &mut Map<K, V>,
    wanted: &HashMap<K, W>,
) -> Result<(), MapError> {
    let stale: Vec<K> = map.keys().filter_map(Result::ok).filter(|key| !wanted.contains_key(key)).collect();
    stale.iter().try_for_each(|key| ignore_absent(map.remove(key)))
}

fn replace<K: Pod + Eq + Hash, V: Pod + PartialEq>(
    map: &mut Map<K, V>,
    wanted: &HashMap<K, V>,
) -> Result<(), MapError> {
    upsert(map, wanted)?;
    remove_others(map, wanted)
}

fn turn<K: Pod + Eq + Hash>(
    trie: &mut LpmTrie<MapData, K, u32>,
    wanted: &HashMap<(u32, K), u32>,
) -> Result<(), MapError> {
    for (length, data) in in_order_of_turning(wanted) {
        if let Some(value) = wanted.get(&(length, data)) {
            trie.insert(&TrieKey::new(length, data), *value, 0)?;
        }
    }
    Ok(())
}

fn replace_trie<K: Pod + Eq + Hash>(
    trie: &mut LpmTrie<MapData, K, u32>,
    wanted: &HashMap<(u32, K), u32>,
) -> Result<(), MapError> {
    turn(trie, wanted)?;
    let there = trie.keys().filter_map(Result::ok).map(|key| (key.prefix_len(), key.data()));
    let stale = in_order_of_removal(there, wanted);
    stale.iter().try_for_each(|(length, data)| ignore_absent(trie.remove(&TrieKey::new(*length, *data))))
}

/// Longest first: what a prefix decides on when it is turned is what it shall decide on, since all that is
/// more specific is turned already.
fn in_order_of_turning<K: Copy>(wanted: &HashMap<(u32, K), u32>) -> Vec<(u32, K)> {
    let mut prefixes: Vec<_> = wanted.keys().copied().collect();
    prefixes.sort_by_key(|(length, _)| Reverse(*length));
    prefixes
}

/// What is not wanted, shortest first: an address falls from an old prefix through to a wanted one, not to
/// another old one that never was its own.
fn in_order_of_removal<K: Copy + Eq + Hash>(
    there: impl Iterator<Item = (u32, K)>,
    wanted: &HashMap<(u32, K), u32>,
) -> Vec<(u32, K)> {
    let mut stale: Vec<_> = there.filter(|prefix| !wanted.contains_key(prefix)).collect();
    stale.sort_by_key(|(length, _)| *length);
    stale
}

fn ignore_absent(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests;
