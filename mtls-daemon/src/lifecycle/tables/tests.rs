//! The tables against the directory, the policy and the exclusions that they are made of.

use std::net::{IpAddr, SocketAddr};

use proptest::collection::{btree_set, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

use super::*;
use crate::config::Config;
use crate::snapshot::testing::{config, snapshot};

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Untouched,
    Capture(u32),
    DeniedPolicy(u32),
    DeniedUnknown,
}

/// `outbound` of mtls-ebpf/src/classify.rs, on what the kernel's tables would hold.
fn kernel(tables: &Tables, number: u32, to: SocketAddr) -> Decision {
    let settings = tables.workloads[&number];
    let excluded = [0, number].iter().any(|workload| {
        tables.excluded_ports.contains_key(&WorkloadPort {
            workload: *workload,
            port: to.port(),
            reserved: 0,
        }) || is_excluded(tables, *workload, to.ip())
    });
    if settings.flags & workload_flags::CAPTURE == 0 || excluded {
        return Decision::Untouched;
    }
    let set = longest(to.ip(), |length, address| tables.addresses.get(&(length, address)).copied());
    let at = |port| tables.destinations.get(&DestinationPort { set: set?, port, reserved: 0 });
    let Some(destination) = at(to.port()).or_else(|| at(0)) else {
        let inside = longest(to.ip(), |length, address| tables.inside.get(&(length, address)).copied());
        let is_strict = settings.flags & workload_flags::STRICT != 0;
        return match settings.flags & workload_flags::DENY_UNKNOWN != 0
            || is_strict && inside == Some(INSIDE_UNKNOWN)
        {
            false => Decision::Untouched,
            true => Decision::DeniedUnknown,
        };
    };
    if destination.id == 0 {
        return Decision::Untouched;
    }
    if destination.workload == number && settings.netns != 0 {
        return Decision::Untouched;
    }
    let key = |port| VerdictKey { workload: number, destination: destination.id, port, reserved: 0 };
    let verdict = tables.denied.get(&key(to.port())).or_else(|| tables.denied.get(&key(0)));
    match verdict {
        Some(&VERDICT_DENY) => Decision::DeniedPolicy(destination.id),
        _ => Decision::Capture(destination.id),
    }
}

/// Longest-prefix match.
fn longest<V>(address: IpAddr, get: impl Fn(u32, [u8; 16]) -> Option<V>) -> Option<V> {
    let bits = u128::from_be_bytes(octets(address));
    (0..=128).rev().find_map(|length: u32| {
        let network = bits.checked_shr(128 - length).unwrap_or(0).checked_shl(128 - length).unwrap_or(0);
        get(length, network.to_be_bytes())
    })
}

fn is_excluded(tables: &Tables, workload: u32, address: IpAddr) -> bool {
    longest(address, |length, address| {
        let key = AddressKey { workload: workload.to_be_bytes(), address };
        tables.excluded.get(&(32 + length, key)).copied()
    })
    .is_some()
}

/// What shall become of a connection, from the snapshot alone.
fn meant(snapshot: &Snapshot, found: &Found, client: &WorkloadState, to: SocketAddr) -> Decision {
    let settings = &client.settings;
    let excluded = [&snapshot.config.exclude, &settings.exclude].iter().any(|exclude| {
        exclude.ports.contains(&to.port()) || exclude.cidrs.iter().any(|cidr| cidr.contains(&to.ip()))
    });
    if settings.mode == Mode::Disabled || excluded {
        return Decision::Untouched;
    }
    let Some(destination) = snapshot.directory.lookup(to.ip(), to.port()) else {
        return match snapshot.unknown(settings, to).is_denied() {
            false => Decision::Untouched,
            true => Decision::DeniedUnknown,
        };
    };
    let id = destination.id.0;
    let early = || match snapshot.denied_early(client, destination, to.port(), None) {
        Some(_) => Decision::DeniedPolicy(id),
        None => Decision::Capture(id),
    };
    let Some(server) = destination.local_workload.as_deref().and_then(|name| snapshot.by_name(name)) else {
        return early();
    };
    let alone = found.owners.values().any(|owners| owners.whole == Some(client.number));
    if server.number == client.number && alone {
        return Decision::Untouched;
    }
    let mode = server.settings.mode_of_port(to.port());
    let not_ours = mode == Mode::Disabled || server.settings.exclude.ports.contains(&to.port());
    if not_ours {
        return Decision::Untouched;
    }
    early()
}

const PORTS: [u16; 5] = [80, 443, 5432, 8080, 9000];
const NETWORKS: [&str; 10] = [
    "0.0.0.0/0",
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.0.0/24",
    "10.1.0.1/32",
    "::/0",
    "::/1",
    "4000::/2",
    "fd00::/8",
    "fd00:1::/32",
];
/// Of the workloads w0 to w3, and of none.
const ADDRESSES: [&str; 9] = [
    "10.1.0.1",
    "10.1.0.2",
    "fd00:1::3",
    "172.16.0.4",
    "10.1.0.9",
    "10.2.0.1",
    "8.8.8.8",
    "fd00:1::9",
    "4000::1",
];

fn modes() -> impl Strategy<Value = &'static str> {
    select(vec!["strict", "permissive", "disabled"])
}

fn some_ports() -> impl Strategy<Value = Vec<u16>> {
    btree_set(select(PORTS.to_vec()), 0..3).prop_map(Vec::from_iter)
}

fn some_networks() -> impl Strategy<Value = Vec<&'static str>> {
    prop_oneof![4 => Just(vec![]), 1 => subsequence(NETWORKS.to_vec(), 1..3)]
}

fn quoted(texts: &[impl AsRef<str>]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| format!("'{}'", text.as_ref())).collect();
    format!("[{}]", texts.join(", "))
}

fn exclusions() -> impl Strategy<Value = String> {
    let ports = prop_oneof![2 => Just(vec![]), 1 => some_ports()];
    (ports, some_networks())
        .prop_map(|(ports, networks)| format!("{{ ports: {ports:?}, cidrs: {} }}", quoted(&networks)))
}

fn workloads() -> impl Strategy<Value = String> {
    let outbound = prop_oneof![3 => Just("allow"), 1 => Just("deny")];
    let one = (modes(), option::of((select(PORTS.to_vec()), modes())), exclusions(), any::<bool>(), outbound);
    vec(one, 4).prop_map(|workloads| {
        let mut text = String::from("workloads:\n");
        for (n, (mode, port, exclude, deny, outbound)) in workloads.into_iter().enumerate() {
            let port = port.map_or_else(String::new, |(port, mode)| format!("{port}: {mode}"));
            let unknown = if deny { "deny" } else { "passthrough" };
            let select = if n == 3 { "cgroup: /w3".to_owned() } else { format!("netns: w{n}") };
            let address = ADDRESSES[n];
            text += &format!(
                "- {{ name: w{n}, select: {{ {select} }}, addresses: ['{address}'], mode: {mode}, \
                 ports: {{ {port} }}, exclude: {exclude}, unknown_destinations: {unknown}, outbound_default: {outbound} }}\n"
            );
        }
        text
    })
}

fn directory() -> impl Strategy<Value = String> {
    vec(option::of(option::of(some_ports())), NETWORKS.len()).prop_map(|entries| {
        let mut text = String::new();
        for (n, (network, ports)) in NETWORKS.iter().zip(entries).enumerate() {
            let Some(ports) = ports else { continue };
            let ports = match ports {
                Some(ports) if !ports.is_empty() => format!(", ports: {ports:?}"),
                // Every port of it is the local workload's already.
                _ if *network == "10.1.0.1/32" => ", ports: [8080]".to_owned(),
                _ => String::new(),
            };
            text += &format!(
                "- {{ name: d{n}, addresses: ['{network}'], spiffe_ids: ['spiffe://example.org/d{n}']{ports} }}\n"
            );
        }
        if text.is_empty() { text } else { format!("directory:\n{text}") }
    })
}

fn policy() -> impl Strategy<Value = String> {
    let names = vec!["w0", "w1", "w2", "w3"];
    let rule = (
        any::<bool>(),
        option::of(select(names.clone())),
        option::of(some_ports()),
        option::of(select(names)),
    );
    vec(rule, 0..6).prop_map(|rules| {
        let mut text = String::new();
        for (n, (deny, server, ports, client)) in rules.into_iter().enumerate() {
            let action = if deny { "deny" } else { "allow" };
            let mut to = Vec::new();
            to.extend(server.map(|server| format!("workloads: [{server}]")));
            to.extend(ports.filter(|ports| !ports.is_empty()).map(|ports| format!("ports: {ports:?}")));
            let to = to.join(", ");
            let from = client.map_or_else(String::new, |client| {
                format!(", from: {{ spiffe_ids: ['spiffe://example.org/{client}'] }}")
            });
            text += &format!("- {{ name: r{n}, action: {action}, to: {{ {to} }}{from} }}\n");
        }
        if text.is_empty() { text } else { format!("policy:\n{text}") }
    })
}

fn outbound_policy() -> impl Strategy<Value = String> {
    let servers = vec!["w0", "w3", "d0", "d1", "d3", "d7"];
    let rule = (
        any::<bool>(),
        option::of(select(vec!["w0", "w1", "w3"])),
        some_ports(),
        option::of(select(servers)),
    );
    vec(rule, 0..4).prop_map(|rules| {
        let mut text = String::new();
        for (n, (deny, client, ports, server)) in rules.into_iter().enumerate() {
            let action = if deny { "deny" } else { "allow" };
            let mut from = Vec::new();
            from.extend(client.map(|client| format!("workloads: [{client}]")));
            from.extend((!ports.is_empty()).then(|| format!("ports: {ports:?}")));
            let from = from.join(", ");
            let to = server.map_or_else(String::new, |server| {
                format!(", to: {{ spiffe_ids: ['spiffe://example.org/{server}'] }}")
            });
            text += &format!("- {{ name: o{n}, action: {action}, from: {{ {from} }}{to} }}\n");
        }
        if text.is_empty() { text } else { format!("outbound_policy:\n{text}") }
    })
}

/// The networks of a cluster, and what is known in them.
fn inside() -> impl Strategy<Value = Inside> {
    let known = subsequence(ADDRESSES.to_vec(), 0..4);
    (some_networks(), known).prop_map(|(networks, known)| Inside {
        networks: networks.into_iter().map(|text| text.parse().unwrap()).collect(),
        known: known.into_iter().map(|text| text.parse().unwrap()).collect(),
    })
}

/// w0 to w2 have a namespace of their own; w3 shares one.
fn found(snapshot: &Snapshot) -> Found {
    let number = |name| snapshot.by_name(name).unwrap().number;
    let mut found = Found::default();
    for (cookie, name) in [(11, "w0"), (12, "w1"), (13, "w2")] {
        found.owners.insert(cookie, Owners { whole: Some(number(name)), ports: HashMap::new() });
    }
    found.owners.insert(14, Owners { whole: None, ports: HashMap::from([(5432, number("w3"))]) });
    found.cgroups.insert(number("w3"), Cgroup { id: 77, level: 3 });
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn the_kernel_decides_as_directory_policy_and_exclusions_say(
        exclude in exclusions(),
        workloads in workloads(),
        directory in directory(),
        policy in policy(),
        outbound in outbound_policy(),
        inside in inside(),
    ) {
        let text = format!("exclude: {exclude}\n{workloads}{directory}{policy}{outbound}");
        let snapshot = snapshot(Config { inside, ..config(&text) });
        let found = found(&snapshot);
        let tables = tables(&snapshot, &found);
        for client in snapshot.workloads.values() {
            for address in ADDRESSES {
                for port in PORTS.into_iter().chain([1, u16::MAX]) {
                    let to = SocketAddr::new(address.parse().unwrap(), port);
                    let meant = meant(&snapshot, &found, client, to);
                    prop_assert_eq!(
                        kernel(&tables, client.number, to), meant, "{} to {}", client.settings.name, to
                    );
                }
            }
            // Inbound, as sk_lookup reads it.
            let settings = &client.settings;
            for port in PORTS.into_iter().chain([1, u16::MAX]) {
                let excluded = snapshot.config.exclude.ports.contains(&port) || settings.exclude.ports.contains(&port);
                let mode = if excluded { Mode::Disabled } else { settings.mode_of_port(port) };
                let key = WorkloadPort { workload: client.number, port, reserved: 0 };
                let entry = tables.port_modes.get(&key).copied();
                let in_kernel = entry.unwrap_or(tables.workloads[&client.number].default_mode);
                prop_assert_eq!(in_kernel, port_mode(mode).raw(), "{} port {}", settings.name, port);
            }
        }
    }
}

#[test]
fn an_ipv6_network_never_means_ipv4_addresses() {
    let text = "workloads: [{ name: w, select: { netns: w }, exclude: { cidrs: ['::/0'] } }]\n\
                directory: [{ name: d, addresses: ['::/0'], spiffe_ids: ['spiffe://example.org/d'] }]";
    let snapshot = snapshot(config(text));
    let tables = tables(&snapshot, &Found::default());
    let (number, set) = (snapshot.by_name("w").unwrap().number, |address: &str| {
        longest(address.parse().unwrap(), |length, address| tables.addresses.get(&(length, address)).copied())
    });
    assert!(is_excluded(&tables, number, "2001:db8::1".parse().unwrap()));
    assert!(!is_excluded(&tables, number, "10.0.0.1".parse().unwrap()));
    for v6 in ["2001:db8::1", "::2", "::fffe:ffff:ffff", "::1:0:0:0", "ffff::"] {
        assert!(set(v6).is_some(), "{v6}");
    }
    assert_eq!((set("10.0.0.1"), set("255.255.255.255"), set("0.0.0.0")), (None, None, None));
}

#[test]
fn cgroups_and_shared_ports_are_where_the_programs_look() {
    let text = "workloads:\n- { name: w0, select: { netns: w0 } }\n- { name: w1, select: { netns: w1 } }\n\
                - { name: w2, select: { netns: w2 } }\n- { name: w3, select: { cgroup: /w3 }, listen_ports: [5432] }";
    let snapshot = snapshot(config(text));
    let tables = tables(&snapshot, &found(&snapshot));
    let number = |name| snapshot.by_name(name).unwrap().number;
    assert_eq!(tables.cgroups, HashMap::from([(77, number("w3"))]));
    assert_eq!(tables.cgroup_levels, 1 << 3);
    let port = SharedPort { netns: 14, port: 5432, reserved: [0; 3] };
    assert_eq!(tables.shared_ports, HashMap::from([(port, number("w3"))]));
    assert_eq!(tables.workloads[&number("w1")].netns, 12);
    assert_eq!(tables.workloads[&number("w3")].netns, 0, "it shares its namespace");
}

#[test]
fn a_port_that_another_nodes_pod_leaves_alone_is_known_and_not_dialled_with_tls() {
    let text = "workloads: [ { name: web, select: { netns: web }, unknown_destinations: deny } ]\n\
                directory: [ { name: far, addresses: [10.0.0.7], spiffe_ids: ['spiffe://example.org/far'] } ]\n";
    let mut config = config(text);
    config.directory[0].left_alone.insert(9000);
    let snapshot = snapshot(config);
    let tables = tables(&snapshot, &Found::default());
    let web = snapshot.by_name("web").unwrap();
    let at = |port| SocketAddr::from(([10, 0, 0, 7], port));
    assert_eq!(kernel(&tables, web.number, at(9000)), Decision::Untouched);
    assert!(matches!(kernel(&tables, web.number, at(80)), Decision::Capture(_)));
    let found = |port| snapshot.directory.lookup(at(port).ip(), port).map(|found| found.name.to_string());
    assert_eq!((found(9000), found(80)), (None, Some("far".to_owned())));
}

#[test]
fn more_denials_than_the_table_takes_are_left_to_the_servers() {
    for (count, denied) in [(240_usize, 240 * 240), (250, 0)] {
        let mut text = String::from("workloads:\n");
        for n in 0..count {
            text += &format!("- {{ name: w{n}, select: {{ netns: w{n} }}, addresses: [10.0.0.{n}] }}\n");
        }
        // Strict denies by default: each to each.
        let tables = tables(&snapshot(config(&text)), &Found::default());
        assert_eq!(tables.denied.len(), denied, "{count} workloads");
        assert_eq!(tables.denials_left_out, denied == 0, "it is said");
        assert_eq!((tables.workloads.len(), tables.addresses.len()), (count, count));
    }
}

#[test]
fn what_is_known_and_nobodys_is_in_the_tables_and_takes_nothing_from_a_workload() {
    let text = "workloads:\n- { name: w0, select: { netns: w0 } }\n- { name: w1, select: { netns: w1 } }\n\
                - { name: w2, select: { netns: w2 } }\n- { name: w3, select: { cgroup: /w3 }, listen_ports: [5432] }\n\
                unclassified: { cgroups: [/a.slice], namespaces: refuse }";
    let snapshot = snapshot(config(text));
    let mut found = found(&snapshot);
    found.known = vec![Cgroup { id: 77, level: 3 }, Cgroup { id: 78, level: 5 }];
    found.enclosed = vec![Cgroup { id: 5, level: 1 }];
    found.left_alone = [21].into();
    let without_cookie = tables(&snapshot, &found);
    assert_eq!(without_cookie.enclosure.flags, 0, "the daemon would shut itself out");
    found.own_netns = Some(9);
    let tables = tables(&snapshot, &found);
    let w3 = snapshot.by_name("w3").unwrap().number;
    assert_eq!(tables.cgroups, HashMap::from([(77, w3), (78, 0)]));
    assert_eq!(tables.cgroup_levels, 1 << 3 | 1 << 5);
    let enclosure = Enclosure { levels: 1 << 1, flags: enclosure_flags::NAMESPACES, own_netns: 9 };
    assert_eq!(tables.enclosure, enclosure);
    assert_eq!((tables.enclosed, tables.left_alone), (HashMap::from([(5, 1)]), HashMap::from([(21, 1)])));
}

#[test]
fn a_port_that_is_probed_is_one_of_its_workload_and_one_of_any() {
    let text = "workloads:\n  - { name: web, select: { netns: web }, probe_ports: [8080, 9090] }\n  \
                - { name: db, select: { netns: db } }\n";
    let snapshot = snapshot(config(text));
    let found = Found { probers: BTreeSet::from([77]), ..Found::default() };
    let tables = super::tables(&snapshot, &found);
    let key = |workload, port| WorkloadPort { workload, port, reserved: 0 };
    let web = snapshot.by_name("web").unwrap().number;
    let wanted = [key(0, 8080), key(0, 9090), key(web, 8080), key(web, 9090)].map(|key| (key, 1));
    assert_eq!(tables.probe_ports, HashMap::from(wanted));
    assert_eq!(tables.probers, HashMap::from([(77, 1)]));
    assert!(super::tables(&snapshot, &Found::default()).probers.is_empty());
}
