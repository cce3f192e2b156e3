//! Where the kernel's tables are not what the daemon wrote: entry by entry, read back.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;

use aya::Pod;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{MapData, MapError};
use mtls_common::DestinationPort;

use super::services::Failed;
use super::{KernelTables, Map, Tables};
use crate::capture::error::CaptureError;

/// So many are told of one table.
const EXAMPLES: usize = 3;

/// What is wrong with an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// It is not there.
    Missing,
    /// It has another value.
    Changed,
    /// Nobody wanted it.
    Foreign,
}

impl Wrong {
    fn word(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Changed => "changed",
            Self::Foreign => "not mtlsd's",
        }
    }
}

/// The differences of one table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The table's name.
    pub map: &'static str,
    /// How many entries.
    pub count: usize,
    /// Some of them.
    pub examples: Vec<(Wrong, String)>,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "table {}: {} entries differ:", self.map, self.count)?;
        for (n, (wrong, key)) in self.examples.iter().enumerate() {
            write!(f, "{} {key} is {}", if n == 0 { "" } else { "," }, wrong.word())?;
        }
        if self.count > self.examples.len() { f.write_str(", …") } else { Ok(()) }
    }
}

/// What was compared, and what differs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    /// Entries that there should be.
    pub entries: usize,
    /// Tables that differ.
    pub tables: Vec<Difference>,
}

impl Differences {
    fn add(&mut self, map: &'static str, entries: usize, wrong: Collected) {
        self.entries += entries;
        if wrong.count > 0 {
            self.tables.push(Difference { map, count: wrong.count, examples: wrong.examples });
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Collected {
    count: usize,
    examples: Vec<(Wrong, String)>,
}

impl Collected {
    pub(super) fn push(&mut self, wrong: Wrong, key: impl fmt::Debug) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push((wrong, format!("{key:?}")));
        }
    }
}

impl KernelTables {
    /// Compares every table but the namespaces with `wanted`. `base`: what [`KernelTables::apply`] gave.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn differences(&self, wanted: &Tables, base: u32) -> Result<Differences, CaptureError> {
        let mut all = Differences::default();
        let destinations: HashMap<_, _> = wanted
            .destinations
            .iter()
            .map(|(key, value)| (DestinationPort { set: key.set.wrapping_add(base), ..*key }, *value))
            .collect();
        let addresses: HashMap<_, _> =
            wanted.addresses.iter().map(|(key, set)| (*key, set.wrapping_add(base))).collect();
        hash(&mut all, "WORKLOADS", &self.workloads, &wanted.workloads)?;
        hash(&mut all, "PORT_MODES", &self.port_modes, &wanted.port_modes)?;
        hash(&mut all, "SHARED_PORTS", &self.shared_ports, &wanted.shared_ports)?;
        hash(&mut all, "CGROUPS", &self.cgroups, &wanted.cgroups)?;
        hash(&mut all, "UIDS", &self.users, &wanted.users)?;
        hash(&mut all, "EXCLUDED_PORTS", &self.excluded_ports, &wanted.excluded_ports)?;
        hash(&mut all, "DENIED", &self.denied, &wanted.denied)?;
        hash(&mut all, "DESTINATIONS", &self.destinations, &destinations)?;
        let (services, backends) = self.services.differences(&wanted.services).map_err(Failed::into_error)?;
        all.add("SERVICES", wanted.services.len(), services);
        all.add("BACKENDS", wanted.services.values().map(Vec::len).sum(), backends);
        trie(&mut all, "ADDRESSES", &self.addresses, &addresses)?;
        trie(&mut all, "INSIDE", self.inside.trie(), &wanted.inside)?;
        trie(&mut all, "EXCLUDED", &self.excluded, &wanted.excluded)?;
        trie(&mut all, "SOURCES", &self.sources, &wanted.sources)?;
        hash(&mut all, "ENCLOSED", &self.enclosed, &wanted.enclosed)?;
        hash(&mut all, "LEFT_ALONE", &self.left_alone, &wanted.left_alone)?;
        hash(&mut all, "PROBERS", &self.probers, &wanted.probers)?;
        hash(&mut all, "PROBE_PORTS", &self.probe_ports, &wanted.probe_ports)?;
        let enclosure = self.enclosure.get(&0, 0).map_err(CaptureError::map("ENCLOSURE"))?;
        let mut wrong = Collected::default();
        if enclosure != wanted.enclosure {
            wrong.push(Wrong::Changed, 0);
        }
        all.add("ENCLOSURE", 1, wrong);
        let levels = self.cgroup_levels.get(&0, 0).map_err(CaptureError::map("CGROUP_LEVELS"))?;
        let mut wrong = Collected::default();
        if levels != wanted.cgroup_levels {
            wrong.push(Wrong::Changed, 0);
        }
        all.add("CGROUP_LEVELS", 1, wrong);
        let direct = self.direct.get(&0, 0).map_err(CaptureError::map("DIRECT"))?;
        let mut wrong = Collected::default();
        if direct != wanted.direct() {
            wrong.push(Wrong::Changed, 0);
        }
        all.add("DIRECT", 1, wrong);
        Ok(all)
    }
}

fn hash<K: Pod + Eq + Hash + fmt::Debug, V: Pod + PartialEq>(
    all: &mut Differences,
    name: &'static str,
    map: &Map<K, V>,
    wanted: &HashMap<K, V>,
) -> Result<(), CaptureError> {
    let there = |key: &K| match map.get(key, 0) {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound) => Ok(None),
        Err(error) => Err(error),
    };
    let wrong = collect(wanted, map.keys(), there);
    all.add(name, wanted.len(), wrong.map_err(CaptureError::map(name))?);
    Ok(())
}

fn trie<K: Pod + Eq + Hash + fmt::Debug>(
    all: &mut Differences,
    name: &'static str,
    map: &LpmTrie<MapData, K, u32>,
    wanted: &HashMap<(u32, K), u32>,
) -> Result<(), CaptureError> {
    let entries = map.iter().map(|entry| entry.map(|(key, set)| ((key.prefix_len(), key.data()), set)));
    let entries: Result<HashMap<(u32, K), u32>, MapError> = entries.collect();
    let entries = entries.map_err(CaptureError::map(name))?;
    let wrong = collect(wanted, entries.keys().copied().map(Ok), |key| Ok(entries.get(key).copied()));
    all.add(name, wanted.len(), wrong.map_err(CaptureError::map(name))?);
    Ok(())
}

fn collect<K: Copy + Eq + Hash + fmt::Debug, V: PartialEq>(
    wanted: &HashMap<K, V>,
    keys: impl Iterator<Item = Result<K, MapError>>,
    there: impl Fn(&K) -> Result<Option<V>, MapError>,
) -> Result<Collected, MapError> {
    let mut wrong = Collected::default();
    for (key, value) in wanted {
        match there(key)? {
            None => wrong.push(Wrong::Missing, key),
            Some(found) if found != *value => wrong.push(Wrong::Changed, key),
            Some(_) => {}
        }
    }
    for key in keys {
        let key = key?;
        if !wanted.contains_key(&key) {
            wrong.push(Wrong::Foreign, key);
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compared(wanted: &[(u32, u8)], there: &[(u32, u8)]) -> Collected {
        let (wanted, there): (HashMap<_, _>, HashMap<_, _>) =
            (wanted.iter().copied().collect(), there.iter().copied().collect());
        collect(&wanted, there.keys().copied().map(Ok), |key| Ok(there.get(key).copied())).unwrap()
    }

    #[test]
    fn what_is_equal_differs_in_nothing() {
        assert_eq!(compared(&[(1, 1), (2, 2)], &[(1, 1), (2, 2)]).count, 0);
        assert_eq!(compared(&[], &[]).count, 0);
    }

    #[test]
    fn each_way_to_differ_is_found_and_told_with_its_key() {
        assert_eq!(compared(&[(1, 1)], &[]).examples, [(Wrong::Missing, "1".to_owned())]);
        assert_eq!(compared(&[(1, 1)], &[(1, 2)]).examples, [(Wrong::Changed, "1".to_owned())]);
        assert_eq!(compared(&[], &[(7, 2)]).examples, [(Wrong::Foreign, "7".to_owned())]);
    }

    #[test]
    fn a_table_that_is_empty_is_told_with_a_few_examples_and_the_count() {
        let wanted: Vec<_> = (0..100).map(|key| (key, 0)).collect();
        let mut all = Differences::default();
        all.add("WORKLOADS", 100, compared(&wanted, &[]));
        all.add("CGROUPS", 0, compared(&[], &[]));
        let [difference] = &all.tables[..] else { panic!("{all:?}") };
        assert_eq!((all.entries, difference.count, difference.examples.len()), (100, 100, EXAMPLES));
        let told = difference.to_string();
        assert!(told.starts_with("table WORKLOADS: 100 entries differ: "), "{told}");
        assert!(told.contains("is missing") && told.ends_with('…'), "{told}");
    }

    #[test]
    fn a_table_that_cannot_be_read_is_an_error() {
        let wanted = HashMap::from([(1u32, 1u32)]);
        let keys = std::iter::once(Err(MapError::KeyNotFound));
        assert!(collect(&wanted, keys, |_| Ok(Some(1))).is_err());
        assert!(collect(&wanted, std::iter::empty(), |_| Err(MapError::KeyNotFound)).is_err());
    }
}
