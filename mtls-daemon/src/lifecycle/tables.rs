//! From a snapshot and what exists on the node to the eBPF tables.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::Ipv6Addr;
use std::sync::Arc;

use ipnet::IpNet;
use mtls_common::{
    AddressKey, Destination, DestinationPort, Enclosure, Endpoint, INSIDE_KNOWN, INSIDE_UNKNOWN, PortMode,
    SharedPort, UidKey, VERDICT_ALLOW, VERDICT_DENY, VerdictKey, Workload, WorkloadPort, enclosure_flags,
    workload_flags,
};

use crate::capture::Tables;
use crate::capture::address::{endpoint, octets};
use crate::capture::cgroup::Cgroup;
use crate::config::{DirectChoice, Exclusions, Inside, Mode, UnclassifiedNamespaces, UnknownDestinations};
use crate::datapath::relay::place::Owners;
use crate::directory::{DestinationId, Prefix};
use crate::snapshot::{Snapshot, WorkloadState};

/// What of the node the tables need to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// cgroups of workloads, by workload number.
    pub cgroups: HashMap<u32, Cgroup>,
    /// Owners of the namespaces, by cookie.
    pub owners: HashMap<u64, Owners>,
    /// Workloads selected by cgroup and namespace: the namespace's cookie, by workload number.
    pub restricted: HashMap<u32, u64>,
    /// cgroups below which every process must belong to a workload.
    pub enclosed: Vec<Cgroup>,
    /// cgroups that are known and whose connections are nobody's: of workloads that are left alone, and the daemon's own.
    pub known: Vec<Cgroup>,
    /// Namespaces of workloads that are left alone.
    pub left_alone: BTreeSet<u64>,
    /// Workloads by their user: the namespace's cookie and the user ID. 0: it is known, and nobody's.
    pub users: BTreeMap<(u64, u32), u32>,
    /// IDs of the cgroups whose processes are probers.
    pub probers: BTreeSet<u64>,
    /// Direct connections can be had on this machine.
    pub direct: bool,
    /// The cookie of the daemon's own namespace, where it is needed.
    pub own_netns: Option<u64>,
}

/// Entries of `denied` are an optimisation: the server refuses what does not fit here.
const MAX_DENIED: usize = 60_000;

/// What the tables shall hold.
#[must_use]
pub fn tables(snapshot: &Snapshot, found: &Found) -> Tables {
    let mut tables = Tables::default();
    exclude(&mut tables, 0, &snapshot.config.exclude);
    for workload in snapshot.workloads.values() {
        add_workload(&mut tables, workload, &snapshot.config.exclude, found);
    }
    for (number, cgroup) in &found.cgroups {
        tables.cgroups.insert(cgroup.id, *number);
        tables.cgroup_levels |= 1u32.checked_shl(cgroup.level).unwrap_or(0);
    }
    for cgroup in &found.known {
        tables.cgroups.entry(cgroup.id).or_insert(0);
        tables.cgroup_levels |= 1u32.checked_shl(cgroup.level).unwrap_or(0);
    }
    for ((netns, uid), number) in &found.users {
        tables.users.insert(UidKey { netns: *netns, uid: *uid, reserved: 0 }, *number);
    }
    for (cookie, owners) in &found.owners {
        tables.owners.insert(*cookie, owners.whole.unwrap_or(0));
        for (port, number) in &owners.ports {
            tables.shared_ports.insert(SharedPort { netns: *cookie, port: *port, reserved: [0; 3] }, *number);
        }
    }
    add_directory(&mut tables, snapshot);
    add_inside(&mut tables, &snapshot.config.inside);
    add_denied(&mut tables, snapshot);
    sources::add(&mut tables, snapshot);
    tables.services = services(snapshot);
    tables.enclosed = found.enclosed.iter().map(|cgroup| (cgroup.id, 1)).collect();
    tables.left_alone = found.left_alone.iter().map(|cookie| (*cookie, 1)).collect();
    tables.enclosure = enclosure(snapshot, found);
    add_probes(&mut tables, snapshot, found);
    tables
}

fn services(snapshot: &Snapshot) -> HashMap<Endpoint, Vec<Endpoint>> {
    let all = snapshot.config.services.iter();
    all.map(|service| (endpoint(service.at), service.endpoints.iter().copied().map(endpoint).collect()))
        .collect()
}

fn enclosure(snapshot: &Snapshot, found: &Found) -> Enclosure {
    let bit = |cgroup: &Cgroup| 1u32.checked_shl(cgroup.level).unwrap_or(0);
    let levels = found.enclosed.iter().map(bit).fold(0, |all, bit| all | bit);
    // Without the cookie of its own namespace the daemon would shut itself out.
    let namespaces = snapshot.config.unclassified.namespaces == UnclassifiedNamespaces::Refuse;
    let (flags, own_netns) = match found.own_netns {
        Some(cookie) if namespaces => (enclosure_flags::NAMESPACES, cookie),
        _ => (0, 0),
    };
    Enclosure { levels, flags, own_netns }
}

fn add_probes(tables: &mut Tables, snapshot: &Snapshot, found: &Found) {
    tables.probers = found.probers.iter().map(|id| (*id, 1)).collect();
    for workload in snapshot.workloads.values() {
        for port in &workload.settings.probe_ports {
            for number in [0, workload.number] {
                tables.probe_ports.insert(WorkloadPort { workload: number, port: *port, reserved: 0 }, 1);
            }
        }
    }
}

fn port_mode(mode: Mode) -> PortMode {
    match mode {
        Mode::Strict => PortMode::Strict,
        Mode::Permissive => PortMode::Permissive,
        Mode::Disabled => PortMode::Disabled,
    }
}

fn add_workload(tables: &mut Tables, workload: &WorkloadState, everyone: &Exclusions, found: &Found) {
    let settings = &workload.settings;
    let number = workload.number;
    let mut flags = 0;
    if settings.mode == Mode::Strict {
        flags |= workload_flags::STRICT;
    }
    if settings.mode != Mode::Disabled {
        flags |= workload_flags::CAPTURE;
    }
    if settings.unknown_destinations == UnknownDestinations::Deny {
        flags |= workload_flags::DENY_UNKNOWN;
    }
    if super::ports::are_learned(settings) {
        flags |= workload_flags::LEARNS;
    }
    if settings.may_be_direct() && found.direct {
        flags |= workload_flags::DIRECT;
        if settings.direct == DirectChoice::Require {
            flags |= workload_flags::DIRECT_REQUIRED;
        }
    }
    let netns =
        found.owners.iter().find(|(_, owners)| owners.whole == Some(number)).map_or(0, |(cookie, _)| *cookie);
    let default_mode = port_mode(settings.mode).raw();
    let only_netns = found.restricted.get(&number).copied().unwrap_or(0);
    tables
        .workloads
        .insert(number, Workload { flags, default_mode, netns, only_netns, unheld: u32::MAX, reserved: 0 });
    for (port, mode) in &settings.ports {
        tables
            .port_modes
            .insert(WorkloadPort { workload: number, port: *port, reserved: 0 }, port_mode(*mode).raw());
    }
    for port in everyone.ports.iter().chain(&settings.exclude.ports) {
        let key = WorkloadPort { workload: number, port: *port, reserved: 0 };
        tables.port_modes.insert(key, PortMode::Disabled.raw());
    }
    exclude(tables, number, &settings.exclude);
}

fn exclude(tables: &mut Tables, workload: u32, exclusions: &Exclusions) {
    for port in &exclusions.ports {
        tables.excluded_ports.insert(WorkloadPort { workload, port: *port, reserved: 0 }, 1);
    }
    for network in &exclusions.cidrs {
        for (length, address) in prefixes(network) {
            let key = AddressKey { workload: workload.to_be_bytes(), address };
            tables.excluded.insert((32 + length, key), 1);
        }
    }
}

/// The network as lengths over 128 bits and addresses, IPv4 as `::ffff:a.b.c.d`. An IPv6 network around
/// those, such as `::/0`, is cut up into what lies beside them: it does not mean IPv4.
fn prefixes(network: &IpNet) -> Vec<(u32, [u8; 16])> {
    const V4: u128 = 0xffff_0000_0000;
    const V4_LENGTH: u32 = 96;
    let length = u32::from(network.prefix_len());
    match network {
        IpNet::V4(v4) => vec![(V4_LENGTH + length, octets(v4.network().into()))],
        IpNet::V6(v6) if v6.contains(&Ipv6Addr::from(V4)) => (length + 1..=V4_LENGTH)
            .map(|length| {
                let below = 128 - length;
                (length, (((V4 >> below) ^ 1) << below).to_be_bytes())
            })
            .collect(),
        IpNet::V6(v6) => vec![(length, octets(v6.network().into()))],
    }
}

fn add_directory(tables: &mut Tables, snapshot: &Snapshot) {
    let entry = |id| {
        let destination = snapshot.directory.get(id)?;
        let local = destination.local_workload.as_deref().and_then(|name| snapshot.by_name(name));
        Some(Destination { id: id.0, workload: local.map_or(0, |workload| workload.number) })
    };
    let mut networks: Vec<_> = snapshot.directory.prefixes().collect();
    // Where pieces of cut-up networks coincide, the more specific network has the last word.
    networks.sort_by_key(|prefix| prefix.network.prefix_len());
    for Prefix { network, set } in networks {
        tables.addresses.extend(prefixes(&network).into_iter().map(|prefix| (prefix, set.0)));
    }
    for (set, ports) in snapshot.directory.sets() {
        // A port that a local workload has disabled is known and left alone, not dialled with TLS.
        for id in ports.every_port.iter().chain(ports.ports.values()) {
            for (port, speaks_tls) in ports_of_their_own(snapshot, *id) {
                let whose = if port == 0 { ports.every_port } else { ports.get(port) };
                if whose != Some(*id) {
                    continue;
                }
                let key = DestinationPort { set: set.0, port, reserved: 0 };
                let destination = if speaks_tls { entry(*id) } else { None };
                tables.destinations.insert(key, destination.unwrap_or_default());
            }
        }
        let every = ports.every_port.map(|id| (0, id));
        for (port, id) in ports.ports.iter().map(|(port, id)| (*port, *id)).chain(every) {
            let key = DestinationPort { set: set.0, port, reserved: 0 };
            if let Some(destination) = entry(id) {
                tables.destinations.entry(key).or_insert(destination);
            }
        }
    }
}

fn add_inside(tables: &mut Tables, inside: &Inside) {
    let known = inside.known.iter().map(|address| (IpNet::from(*address), INSIDE_KNOWN));
    let networks = inside.networks.iter().map(|network| (*network, INSIDE_UNKNOWN));
    // A network of one address of which something is known is known.
    for (network, value) in networks.chain(known) {
        tables.inside.extend(prefixes(&network).into_iter().map(|prefix| (prefix, value)));
    }
}

/// Of a destination: ports (0: all others) and whether they speak TLS, as far as that is not plain from the destination being
/// there.
fn ports_of_their_own(snapshot: &Snapshot, id: DestinationId) -> Vec<(u16, bool)> {
    let Some(destination) = snapshot.directory.get(id) else { return Vec::new() };
    let name = destination.local_workload.as_deref();
    let Some(server) = name.and_then(|name| snapshot.by_name(name)) else {
        return destination.left_alone.iter().map(|port| (*port, false)).collect();
    };
    let settings = &server.settings;
    let mut ports: Vec<(u16, bool)> =
        settings.ports.iter().map(|(port, mode)| (*port, *mode != Mode::Disabled)).collect();
    ports.extend(settings.exclude.ports.iter().map(|port| (*port, false)));
    if settings.mode == Mode::Disabled {
        ports.push((0, false));
    }
    ports
}

/// What policy denies whatever is still to be learned of the server: between two workloads of this node, and by the rules
/// for outbound connections. Port 0 stands for every port that neither a rule nor a setting names: they all share one
/// verdict.
fn add_denied(tables: &mut Tables, snapshot: &Snapshot) {
    let outbound = snapshot.policy.has_outbound_rules()
        || snapshot.workloads.values().any(|workload| !workload.settings.allows_outbound_by_default());
    for destination in snapshot.directory.destinations() {
        let server = destination.local_workload.as_deref().and_then(|name| snapshot.by_name(name));
        if server.is_none() && !outbound {
            continue;
        }
        let named = named_ports(snapshot, server.map(Arc::as_ref));
        let unnamed = (1..=u16::MAX).find(|port| !named.contains(port));
        for client in snapshot.workloads.values() {
            let denied = |port: u16| {
                let excluded = snapshot.config.exclude.ports.contains(&port);
                let left_alone = server.is_some_and(|server| {
                    let settings = &server.settings;
                    settings.exclude.ports.contains(&port) || settings.mode_of_port(port) == Mode::Disabled
                });
                !excluded && !left_alone && snapshot.denied_early(client, destination, port, None).is_some()
            };
            let others = unnamed.is_some_and(denied);
            let mut add = |port, verdict| {
                let key =
                    VerdictKey { workload: client.number, destination: destination.id.0, port, reserved: 0 };
                tables.denied.insert(key, verdict);
            };
            if others {
                add(0, VERDICT_DENY);
            }
            for port in &named {
                match (denied(*port), others) {
                    (true, _) => add(*port, VERDICT_DENY),
                    (false, true) => add(*port, VERDICT_ALLOW),
                    (false, false) => {}
                }
            }
            if tables.denied.len() > MAX_DENIED {
                tables.denied.clear();
                tables.denials_left_out = true;
                return;
            }
        }
    }
}

fn named_ports(snapshot: &Snapshot, server: Option<&WorkloadState>) -> BTreeSet<u16> {
    let rules = snapshot.config.policy.iter().chain(&snapshot.config.outbound_policy);
    let rules =
        rules.flat_map(|rule| rule.local.ports.iter().flatten().chain(&rule.local.not_ports)).copied();
    let settings = server
        .into_iter()
        .flat_map(|server| server.settings.ports.keys().chain(&server.settings.exclude.ports).copied());
    rules.chain(settings).chain(snapshot.config.exclude.ports.iter().copied()).collect()
}

mod sources;
#[cfg(test)]
mod tests;
