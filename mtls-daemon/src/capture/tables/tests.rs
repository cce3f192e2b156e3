use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aya::maps::Map as AnyMap;
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::capture::address::octets;
use crate::capture::pins::Pins;
use crate::capture::programs::{self, EbpfLog};
use crate::lifecycle::tables::{Found, tables};
use crate::snapshot::testing::{config, snapshot};

/// Networks that nest, coincide in part, and lie beside each other; with the addresses that tell them apart.
const NETWORKS: [&str; 8] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.1.0/24",
    "10.1.1.1/32",
    "::/0",
    "fd00::/8",
    "fd00::1/128",
];
const ADDRESSES: [&str; 7] =
    ["8.8.8.8", "10.2.0.1", "10.1.2.1", "10.1.1.2", "10.1.1.1", "2001:db8::1", "fd00::1"];
const PORTS: [u16; 3] = [80, 443, 5432];

/// For each network: nothing, every port (no list), or some ports.
type Generation = Vec<Option<Option<Vec<u16>>>>;

fn wanted(generation: &Generation) -> Tables {
    let mut text = String::from("directory:\n");
    for (n, (network, ports)) in NETWORKS.iter().zip(generation).enumerate() {
        let Some(ports) = ports else { continue };
        let ports = ports.as_ref().map_or_else(String::new, |ports| format!(", ports: {ports:?}"));
        text += &format!(
            "- {{ name: d{n}, addresses: ['{network}'], spiffe_ids: ['spiffe://example.org/d{n}']{ports} }}\n"
        );
    }
    if text.lines().count() == 1 {
        text.clear();
    }
    tables(&snapshot(config(&text)), &Found::default())
}

fn generation() -> impl Strategy<Value = Generation> {
    let ports = btree_set(proptest::sample::select(PORTS.to_vec()), 1..3).prop_map(Vec::from_iter);
    vec(option::of(option::of(ports)), NETWORKS.len())
}

fn longest<V: Copy>(trie: &HashMap<(u32, [u8; 16]), V>, address: IpAddr) -> Option<V> {
    let bits = u128::from_be_bytes(octets(address));
    (0..=128).rev().find_map(|length: u32| {
        let network = bits.checked_shr(128 - length).unwrap_or(0).checked_shl(128 - length).unwrap_or(0);
        trie.get(&(length, network.to_be_bytes())).copied()
    })
}

/// As `classify.rs` of the programs does it.
fn find(
    addresses: &HashMap<(u32, [u8; 16]), u32>,
    destinations: &HashMap<DestinationPort, Destination>,
    to: SocketAddr,
) -> Option<Destination> {
    let set = longest(addresses, to.ip())?;
    let at = |port| destinations.get(&DestinationPort { set, port, reserved: 0 }).copied();
    at(to.port()).or_else(|| at(0))
}

fn probes() -> impl Iterator<Item = SocketAddr> {
    ADDRESSES
        .iter()
        .flat_map(|address| PORTS.iter().map(|port| SocketAddr::new(address.parse().unwrap(), *port)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Every state that a program can see while the addresses are turned, one operation at a time.
    #[test]
    fn no_step_of_turning_loses_an_address_that_both_generations_know(old in generation(), new in generation()) {
        let (old, new) = (wanted(&old), wanted(&new));
        const BASE: u32 = 1000;
        let moved: HashMap<_, _> = new.addresses.iter().map(|(key, set)| (*key, set + BASE)).collect();
        let mut destinations = old.destinations.clone();
        let renumbered = |key: &DestinationPort| DestinationPort { set: key.set + BASE, ..*key };
        destinations.extend(new.destinations.iter().map(|(key, value)| (renumbered(key), *value)));
        let both: Vec<_> = probes()
            .map(|to| (to, find(&old.addresses, &old.destinations, to), find(&moved, &destinations, to)))
            .collect();
        let mut trie = old.addresses.clone();
        let check = |trie: &HashMap<_, _>, step: &str| {
            for (to, before, after) in &both {
                let now = find(trie, &destinations, *to);
                let known = before.is_some() && after.is_some();
                prop_assert!(now.is_some() || !known, "{to} is lost at {step}");
                prop_assert!(now.is_none() || before.is_some() || after.is_some(), "{to} is of neither at {step}");
            }
            Ok(())
        };
        for prefix in in_order_of_turning(&moved) {
            trie.insert(prefix, moved[&prefix]);
            check(&trie, &format!("turning {prefix:?}"))?;
        }
        for prefix in in_order_of_removal(trie.clone().into_keys(), &moved) {
            trie.remove(&prefix);
            check(&trie, &format!("removing {prefix:?}"))?;
        }
        prop_assert_eq!(trie, moved);
    }
}

/// Real tables, pinned in a directory of their own.
struct Real {
    directory: PathBuf,
    pins: Pins,
    tables: KernelTables,
}

impl Real {
    fn new(name: &str) -> Self {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test makes real eBPF tables: run it as root, as `cargo xtask test` does"
        );
        let directory = PathBuf::from(format!("/sys/fs/bpf/mtlsd-test-{name}-{}", std::process::id()));
        let pins = Pins::create(&directory).expect("bpffs at /sys/fs/bpf (mount -t bpf bpf /sys/fs/bpf)");
        let (mut object, _) = programs::load_cgroup_programs(&pins, EbpfLog::Off).unwrap();
        let tables = KernelTables::open(&mut object).unwrap();
        Self { directory, pins, tables }
    }

    fn addresses(&self) -> LpmTrie<MapData, [u8; 16], u32> {
        let data = MapData::from_pin(self.pins.map("ADDRESSES")).unwrap();
        LpmTrie::try_from(AnyMap::LpmTrie(data)).unwrap()
    }

    fn destinations(&self) -> Map<DestinationPort, Destination> {
        let data = MapData::from_pin(self.pins.map("DESTINATIONS")).unwrap();
        Map::try_from(AnyMap::HashMap(data)).unwrap()
    }

    /// The tables hold this and nothing else.
    fn check(&self, wanted: &Tables) {
        let Self { tables, .. } = self;
        assert_eq!(contents(&tables.workloads), wanted.workloads);
        assert_eq!(contents(&tables.port_modes), wanted.port_modes);
        assert_eq!(contents(&tables.cgroups), wanted.cgroups);
        assert_eq!(contents(&tables.shared_ports), wanted.shared_ports);
        assert_eq!(contents(&tables.excluded_ports), wanted.excluded_ports);
        assert_eq!(contents(&tables.denied), wanted.denied);
        assert_eq!(tables.cgroup_levels.get(&0, 0).unwrap(), wanted.cgroup_levels);
        assert_eq!(trie_contents(&tables.excluded), wanted.excluded);
        let (addresses, destinations) = (trie_contents(&tables.addresses), contents(&tables.destinations));
        assert_eq!(addresses.len(), wanted.addresses.len());
        assert_eq!(destinations.len(), wanted.destinations.len());
        for (prefix, set) in &wanted.addresses {
            let there = addresses[prefix];
            for (key, destination) in wanted.destinations.iter().filter(|(key, _)| key.set == *set) {
                let key = DestinationPort { set: there, ..*key };
                assert_eq!(destinations.get(&key), Some(destination), "{prefix:?}");
            }
        }
    }
}

impl Drop for Real {
    fn drop(&mut self) {
        Pins::remove_all(&self.directory).unwrap();
    }
}

fn contents<K: Pod + Eq + Hash, V: Pod>(map: &Map<K, V>) -> HashMap<K, V> {
    map.iter().map(Result::unwrap).collect()
}

fn trie_contents<K: Pod + Eq + Hash>(trie: &LpmTrie<MapData, K, u32>) -> HashMap<(u32, K), u32> {
    trie.iter().map(Result::unwrap).map(|(key, value)| ((key.prefix_len(), key.data()), value)).collect()
}

/// Everything at once: workloads, modes, exclusions, directory and verdicts.
fn whole(round: u16) -> Tables {
    let other = round % 2 == 1;
    let mode = if other { "permissive" } else { "strict" };
    let port = 1000 + round;
    let text = format!(
        "exclude: {{ ports: [22, {port}], cidrs: [192.0.2.{round}/32] }}\n\
         workloads:\n\
         - {{ name: web, select: {{ netns: web }}, addresses: [10.0.0.1], mode: {mode}, ports: {{ {port}: disabled }} }}\n\
         - {{ name: w{round}, select: {{ cgroup: /w{round} }}, addresses: [10.0.1.{round}], exclude: {{ ports: [{port}] }} }}\n\
         policy:\n\
         - {{ name: a, action: allow, to: {{ workloads: [web], ports: [{port}] }} }}\n\
         directory:\n\
         - {{ name: d, addresses: [10.9.0.0/16], ports: [{port}], spiffe_ids: ['spiffe://example.org/d'] }}\n"
    );
    let snapshot = snapshot(config(&text));
    let mut found = Found::default();
    let number = snapshot.by_name(&format!("w{round}")).unwrap().number;
    found.cgroups.insert(number, crate::capture::cgroup::Cgroup { id: u64::from(round) + 7, level: 2 });
    tables(&snapshot, &found)
}

#[test]
fn generation_after_generation_the_kernel_holds_exactly_what_is_wanted() {
    let mut real = Real::new("contents");
    real.check(&Tables::default());
    for round in 0..12 {
        let wanted = whole(round);
        assert!(!wanted.denied.is_empty() && !wanted.excluded.is_empty() && !wanted.cgroups.is_empty());
        for _ in 0..2 {
            let base = real.tables.apply(&wanted).unwrap();
            real.check(&wanted);
            let differences = real.tables.differences(&wanted, base).unwrap();
            assert!(differences.tables.is_empty() && differences.entries > 10, "{differences:?}");
        }
    }
    let namespace = Namespace { workload: 1, outbound_v4: 2, outbound_v6: 3 };
    real.tables.set_namespace(99, namespace).unwrap();
    real.tables.apply(&Tables::default()).unwrap();
    real.check(&Tables::default());
    assert_eq!(real.tables.namespaces(), [99], "namespaces are not the configuration's");
    real.tables.remove_namespace(99);
    real.tables.remove_namespace(99);
    assert!(real.tables.namespaces().is_empty());
}

#[test]
fn what_somebody_else_changes_in_any_table_is_found_and_put_back() {
    let mut real = Real::new("spoilt");
    let wanted = whole(1);
    let tables = &mut real.tables;
    let base = tables.apply(&wanted).unwrap();
    tables.workloads.insert(4242, Workload::default(), 0).unwrap();
    let mode = *wanted.port_modes.keys().next().unwrap();
    tables.port_modes.insert(mode, 77, 0).unwrap();
    tables.cgroups.remove(wanted.cgroups.keys().next().unwrap()).unwrap();
    tables.cgroup_levels.set(0, 0, 0).unwrap();
    tables.shared_ports.insert(SharedPort { netns: 1, port: 1, reserved: [0; 3] }, 1, 0).unwrap();
    tables.excluded_ports.remove(wanted.excluded_ports.keys().next().unwrap()).unwrap();
    tables.denied.remove(wanted.denied.keys().next().unwrap()).unwrap();
    let (length, key) = *wanted.excluded.keys().next().unwrap();
    tables.excluded.remove(&TrieKey::new(length, key)).unwrap();
    let (length, address) = *wanted.addresses.keys().next().unwrap();
    tables.addresses.insert(&TrieKey::new(length, address), 4242, 0).unwrap();
    let destination = tables.destinations.keys().next().unwrap().unwrap();
    tables.destinations.remove(&destination).unwrap();

    let differences = tables.differences(&wanted, base).unwrap();
    let told: HashMap<_, _> = differences.tables.iter().map(|d| (d.map, d.to_string())).collect();
    for (map, words) in [
        ("WORKLOADS", "4242 is not mtlsd's"),
        ("PORT_MODES", "is changed"),
        ("CGROUPS", "is missing"),
        ("CGROUP_LEVELS", "is changed"),
        ("SHARED_PORTS", "is not mtlsd's"),
        ("EXCLUDED_PORTS", "is missing"),
        ("DENIED", "is missing"),
        ("EXCLUDED", "is missing"),
        ("ADDRESSES", "is changed"),
        ("DESTINATIONS", "is missing"),
    ] {
        assert!(told.get(map).is_some_and(|told| told.contains(words)), "{map}: {told:?}");
        assert_eq!(differences.tables.iter().find(|d| d.map == map).unwrap().count, 1, "{told:?}");
    }
    tables.doubt();
    let base = tables.apply(&wanted).unwrap();
    assert!(tables.differences(&wanted, base).unwrap().tables.is_empty());
    real.check(&wanted);
}

#[test]
fn a_directory_that_is_as_it_was_is_not_written_again_whatever_else_changes() {
    let mut real = Real::new("same");
    let wanted = whole(1);
    let base = real.tables.apply(&wanted).unwrap();
    let mut other = wanted.clone();
    other.denied.clear();
    other.cgroups.insert(4711, 1);
    assert_eq!(real.tables.apply(&other).unwrap(), base, "sets that are written have new numbers");
    real.check(&other);
    assert_ne!(real.tables.apply(&whole(2)).unwrap(), base);
    real.check(&whole(2));
    // After a failure it is not known what is there.
    let base = real.tables.apply(&whole(2)).unwrap();
    let mut too_many = whole(3);
    too_many.destinations.extend(
        (0..=1_u32 << 18)
            .map(|set| (DestinationPort { set: 1000 + set, port: 0, reserved: 0 }, Destination::default())),
    );
    let error = real.tables.apply(&too_many).unwrap_err().to_string();
    assert!(error.contains("DESTINATIONS"), "{error}");
    assert_ne!(real.tables.apply(&whole(2)).unwrap(), base);
    real.check(&whole(2));
}

#[test]
fn a_namespace_follows_its_owner_and_keeps_its_listeners() {
    let mut real = Real::new("owner");
    let namespace = Namespace { workload: 1, outbound_v4: 2, outbound_v6: 3 };
    real.tables.set_namespace(99, namespace).unwrap();
    // 98 is not enrolled yet: whoever enrols it says all of it.
    let wanted = Tables { owners: HashMap::from([(99, 7), (98, 8)]), ..Tables::default() };
    real.tables.apply(&wanted).unwrap();
    assert_eq!(real.tables.namespace(99), Some(Namespace { workload: 7, ..namespace }));
    assert_eq!(real.tables.namespaces(), [99]);
}

#[test]
fn a_namespace_loses_its_owner_before_the_owner_loses_its_settings() {
    let mut real = Real::new("no-owner");
    let owned = Namespace { workload: 7, outbound_v4: 2, outbound_v6: 3 };
    let with =
        |owners| Tables { workloads: HashMap::from([(7, Workload::default())]), owners, ..Tables::default() };
    real.tables.apply(&with(HashMap::new())).unwrap();
    real.tables.set_namespace(99, owned).unwrap();
    real.tables.apply(&with(HashMap::new())).unwrap();
    assert_eq!(
        real.tables.namespace(99),
        Some(owned),
        "its workload is there, and only not found at the moment"
    );
    real.tables.apply(&Tables::default()).unwrap();
    assert_eq!(real.tables.namespace(99), Some(Namespace { workload: 0, ..owned }));
}

#[test]
fn a_full_table_is_an_error_that_names_it_and_loses_nothing() {
    let mut real = Real::new("full");
    let before = whole(0);
    real.tables.apply(&before).unwrap();
    let mut wanted = before.clone();
    for port in 0..=u16::MAX {
        wanted.shared_ports.insert(SharedPort { netns: 1, port, reserved: [0; 3] }, 1);
    }
    wanted.shared_ports.insert(SharedPort { netns: 2, port: 1, reserved: [0; 3] }, 1);
    let error = real.tables.apply(&wanted).unwrap_err().to_string();
    assert!(error.contains("SHARED_PORTS"), "{error}");
    let to: IpAddr = [10, 9, 0, 1].into();
    assert!(real.addresses().get(&TrieKey::new(128, octets(to)), 0).is_ok());
    real.tables.apply(&before).unwrap();
    real.check(&before);
}

/// Destinations are numbered anew with each configuration: what was denied under a number may be allowed now.
#[test]
fn while_destinations_change_their_numbers_nobody_is_denied_who_is_not_denied_in_both_generations() {
    let mut real = Real::new("denied");
    let key = |destination, port| VerdictKey { workload: 1, destination, port, reserved: 0 };
    let of = |verdicts: &[(VerdictKey, u32)]| Tables {
        denied: verdicts.iter().copied().collect(),
        ..Tables::default()
    };
    let old = of(&[
        (key(1, 0), VERDICT_DENY),
        (key(1, 80), VERDICT_ALLOW),
        (key(2, 0), VERDICT_DENY),
        (key(3, 0), VERDICT_DENY),
    ]);
    let new = of(&[
        (key(1, 0), VERDICT_DENY),
        (key(2, 80), VERDICT_DENY),
        (key(3, 0), VERDICT_DENY),
        (key(3, 443), VERDICT_ALLOW),
    ]);
    real.tables.apply(&old).unwrap();
    real.tables.lift_denials(&new.denied).unwrap();
    let between = of(&[
        (key(1, 0), VERDICT_DENY),
        (key(1, 80), VERDICT_ALLOW),
        (key(3, 0), VERDICT_DENY),
        (key(3, 443), VERDICT_ALLOW),
    ]);
    assert_eq!(contents(&real.tables.denied), between.denied);
    real.tables.apply(&new).unwrap();
    real.check(&new);
}

/// Looks an address up as the programs do. A set that went away in between is looked for once more: a program
/// cannot be overtaken like this thread can.
fn look_up(
    addresses: &LpmTrie<MapData, [u8; 16], u32>,
    destinations: &Map<DestinationPort, Destination>,
    to: SocketAddr,
) -> Result<Destination, String> {
    let set = || {
        addresses
            .get(&TrieKey::new(128, octets(to.ip())), 0)
            .map_err(|error| format!("{to} has no set: {error}"))
    };
    let mut now = set()?;
    loop {
        let at = |port| destinations.get(&DestinationPort { set: now, port, reserved: 0 }, 0);
        if let Ok(found) = at(to.port()).or_else(|_| at(0)) {
            return Ok(found);
        }
        let then = std::mem::replace(&mut now, set()?);
        if then == now {
            return Err(format!("{to} has set {now}, which does not have the port"));
        }
    }
}

#[test]
fn while_the_tables_are_changed_an_address_of_both_generations_always_leads_to_a_destination() {
    let some = |ports: &[u16]| Some(Some(ports.to_vec()));
    // 10.1.1.1:443 is known in each, through another network each time; those around it do not have the port.
    let generations: Vec<Generation> = vec![
        vec![None, some(&[443]), None, None, None, None, None, None],
        vec![None, some(&[80]), some(&[80]), None, some(&[443]), None, None, None],
        vec![some(&[443]), None, None, None, None, some(&[80]), None, None],
        vec![None, some(&[80]), some(&[443]), some(&[5432]), None, None, None, None],
        vec![Some(None), some(&[80]), None, None, None, None, None, None],
    ];
    let mut all: Vec<Tables> = generations.iter().map(wanted).collect();
    for tables in &mut all {
        // So many more that each change takes its time.
        let set = tables.addresses.values().copied().next().unwrap();
        for n in 0..2000_u32 {
            tables.addresses.insert((120, (0x2001_u128 << 112 | u128::from(n) << 8).to_be_bytes()), set);
        }
    }
    let mut real = Real::new("window");
    real.tables.apply(&all[0]).unwrap();
    let to: SocketAddr = "10.1.1.1:443".parse().unwrap();
    let (addresses, destinations) = (real.addresses(), real.destinations());
    let (stop, looks) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                look_up(&addresses, &destinations, to)?;
                looks.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<(), String>(())
        });
        for round in 0..40 {
            real.tables.apply(&all[round % all.len()]).unwrap();
            if reader.is_finished() {
                break;
            }
        }
        stop.store(true, Ordering::Relaxed);
        reader.join().unwrap().unwrap();
    });
    assert!(looks.load(Ordering::Relaxed) > 1000, "{looks:?} looks");
}

mod inside;
mod services;
