use std::collections::HashMap;

use ipnet::{Ipv4Net, Ipv6Net};
use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::config::Source;

fn config(text: &str) -> Config {
    Config::parse(&Source { path: "F".into(), text: format!("trust_domain: a\n{text}") }, &[]).unwrap()
}

fn directory(entries: &[(&str, &str, &str)]) -> Directory {
    let entry = |(name, addresses, ports): &(&str, &str, &str)| {
        let ports = if ports.is_empty() { String::new() } else { format!(", ports: [{ports}]") };
        format!("- {{ name: {name}, addresses: [{addresses}], spiffe_ids: ['spiffe://a/{name}']{ports} }}\n")
    };
    Directory::from_config(&config(&format!("directory:\n{}", entries.iter().map(entry).collect::<String>())))
}

fn found<'a>(directory: &'a Directory, address: &str, port: u16) -> Option<&'a str> {
    directory.lookup(address.parse().unwrap(), port).map(|destination| &*destination.name)
}

#[test]
fn the_longest_prefix_wins_then_the_single_port() {
    let directory = directory(&[
        ("net", "10.0.0.0/8", ""),
        ("half", "10.1.0.0/16", "80"),
        ("host", "10.1.0.1", ""),
        ("host-db", "10.1.0.1", "5432"),
    ]);
    assert_eq!(found(&directory, "10.2.0.1", 80), Some("net"));
    assert_eq!(found(&directory, "10.1.0.2", 80), Some("half"));
    assert_eq!(
        found(&directory, "10.1.0.2", 81),
        Some("net"),
        "inherited through a prefix without that port"
    );
    assert_eq!(found(&directory, "10.1.0.1", 80), Some("host"), "every port of a longer prefix overrides");
    assert_eq!(found(&directory, "10.1.0.1", 5432), Some("host-db"));
    assert_eq!(found(&directory, "11.0.0.1", 80), None);
    assert_eq!(found(&directory, "::ffff:10.1.0.1", 80), Some("host"), "IPv4 inside IPv6 is IPv4");
    assert_eq!(found(&directory, "::10.1.0.1", 80), None);
}

#[test]
fn ipv4_and_ipv6_do_not_mix() {
    let directory = directory(&[("all4", "0.0.0.0/0", ""), ("all6", "'::/0'", "443")]);
    assert_eq!(found(&directory, "8.8.8.8", 1), Some("all4"));
    assert_eq!(found(&directory, "2001:db8::1", 443), Some("all6"));
    assert_eq!(found(&directory, "2001:db8::1", 1), None);
}

#[test]
fn a_local_workload_is_a_destination_with_its_own_id() {
    let config = config(
        "workloads:\n- { name: w, select: { netns: w }, addresses: [10.0.0.1, 'fd00::1'] }\n\
         - { name: v, select: { netns: v } }\n",
    );
    let directory = Directory::from_config(&config);
    let destination = directory.lookup("fd00::1".parse().unwrap(), 9).unwrap();
    assert_eq!(destination.local_workload.as_deref(), Some("w"));
    assert_eq!(destination.expected, ["spiffe://a/w".parse().unwrap()]);
    assert_eq!(destination.id, DestinationId(1));
    assert_eq!(directory.get(DestinationId(1)), Some(destination));
    assert_eq!(directory.by_name("w"), Some(destination));
    assert_eq!(directory.by_name("v"), None, "without addresses it is nobody's destination");
    assert_eq!(directory.get(DestinationId(0)), None);
    assert_eq!(directory.get(DestinationId(2)), None);
    assert_eq!(directory.destinations().len(), 1);
}

#[test]
fn dns_names_are_accepted_only_where_the_configuration_says_so() {
    for (dns, want) in [(true, 1), (false, 0)] {
        let text = format!(
            "trust: {{ peer_names: {{ dns: {dns} }} }}\n\
             directory: [{{ name: d, addresses: [10.0.0.1], spiffe_ids: ['spiffe://a/d'], dns_names: [d.x] }}]"
        );
        assert_eq!(Directory::from_config(&config(&text)).by_name("d").unwrap().dns_names.len(), want);
    }
}

#[test]
fn equal_sets_of_ports_are_one() {
    let directory = directory(&[("d", "10.0.0.1, 10.0.0.2, 10.0.0.3, 'fd00::1'", "80, 443")]);
    assert_eq!(directory.prefixes().count(), 4);
    assert_eq!(directory.sets().count(), 1);
}

/// Networks close together, so that they nest and coincide.
fn network() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (address(), 0..=32_u8).prop_map(|(address, length)| match address {
            IpAddr::V4(v4) => IpNet::V4(Ipv4Net::new(v4, length).unwrap().trunc()),
            IpAddr::V6(v6) => IpNet::V6(Ipv6Net::new(v6, 96 + length).unwrap().trunc()),
        }),
        (address(), 26..=32_u8).prop_map(|(address, length)| match address {
            IpAddr::V4(v4) => IpNet::V4(Ipv4Net::new(v4, length).unwrap().trunc()),
            IpAddr::V6(v6) => IpNet::V6(Ipv6Net::new(v6, 96 + length).unwrap().trunc()),
        }),
    ]
}

fn address() -> impl Strategy<Value = IpAddr> {
    (any::<bool>(), 0..16_u8).prop_map(|(v6, low)| match v6 {
        true => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, 0, low.into()]),
        false => IpAddr::from([10, 0, 0, low]),
    })
}

type Entry = (Vec<IpNet>, Option<BTreeSet<u16>>);

fn entries() -> impl Strategy<Value = Vec<Entry>> {
    vec((vec(network(), 1..4), option::of(btree_set(1..6_u16, 1..4))), 0..14)
}

/// Keeps of each entry what an earlier one has not claimed: the configuration refuses the rest.
fn without_duplicates(entries: Vec<Entry>) -> Vec<Destination> {
    let mut claimed = std::collections::HashSet::new();
    let mut destinations = Vec::new();
    for (networks, ports) in entries {
        let keys: Vec<_> = match &ports {
            None => vec![0],
            Some(ports) => ports.iter().copied().collect(),
        };
        let free = |network: &IpNet, claimed: &std::collections::HashSet<_>| {
            keys.iter().all(|port| !claimed.contains(&(*network, *port)))
        };
        let mut addresses = Vec::new();
        for network in networks {
            if free(&network, &claimed) {
                claimed.extend(keys.iter().map(|port| (network, *port)));
                addresses.push(network);
            }
        }
        let id = DestinationId(u32::try_from(destinations.len()).unwrap() + 1);
        let name = format!("d{}", id.0);
        let expected = vec!["spiffe://a/x".parse().unwrap()];
        let dns_names = Vec::new();
        destinations.push(Destination {
            id,
            name: name.into(),
            expected,
            dns_names,
            local_workload: None,
            ports,
            addresses,
            node: None,
            left_alone: std::collections::BTreeSet::new(),
        });
    }
    destinations
}

/// What the module's doc says, word for word.
fn naive(destinations: &[Destination], address: IpAddr, port: u16) -> Option<DestinationId> {
    let mut best: Option<(u8, bool, DestinationId)> = None;
    for destination in destinations {
        if destination.ports.as_ref().is_some_and(|ports| !ports.contains(&port)) {
            continue;
        }
        for network in destination.addresses.iter().filter(|network| network.contains(&address)) {
            let candidate = (network.prefix_len(), destination.ports.is_some(), destination.id);
            if best.is_none_or(|best| (candidate.0, candidate.1) > (best.0, best.1)) {
                best = Some(candidate);
            }
        }
    }
    best.map(|(_, _, id)| id)
}

/// What the kernel does with the flattened table.
fn kernel(directory: &Directory, address: IpAddr, port: u16) -> Option<DestinationId> {
    let sets: HashMap<SetId, &PortSet> = directory.sets().collect();
    let matching = directory.prefixes().filter(|prefix| prefix.network.contains(&address));
    let longest = matching.max_by_key(|prefix| prefix.network.prefix_len())?;
    let set = sets[&longest.set];
    set.ports.get(&port).copied().or(set.every_port)
}

proptest! {
    #[test]
    fn flattened_table_lookup_and_naive_model_agree(
        entries in entries(),
        probes in vec((address(), 1..7_u16), 20..40),
    ) {
        let destinations = without_duplicates(entries);
        let table = Table::new(&destinations);
        let directory = Directory { by_name: HashMap::new(), table, destinations };
        for (address, port) in probes {
            let want = naive(&directory.destinations, address, port);
            prop_assert_eq!(kernel(&directory, address, port), want, "kernel {} {}", address, port);
            let got = directory.lookup(address, port).map(|destination| destination.id);
            prop_assert_eq!(got, want, "lookup {} {}", address, port);
        }
    }
}
