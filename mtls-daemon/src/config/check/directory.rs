//! The directory of destinations.

use std::collections::{BTreeSet, HashMap, HashSet};

use ipnet::IpNet;

use crate::config::error::{Fault, Quoted};
use crate::config::kubernetes::PodIssuer;
use crate::config::raw;
use crate::config::scalar;
use crate::config::types::{DirectoryEntry, IssuerKind, Workload, WorkloadIdentity};
use crate::identity::{SpiffeId, TrustDomain};

use super::node::Node;
use super::workload::{Workloads, routable};
use super::{Check, FileSpot, InFile, Seen, direct};

/// Most (network, port) pairs that the directory may have; after inheritance it may have twice as many, and
/// the eBPF tables hold two generations of that.
pub const MAX_PAIRS: usize = 1 << 16;

/// Which ports of a network are spoken for, and where.
#[derive(Default)]
struct Taken {
    every_port: Option<FileSpot>,
    ports: HashMap<u16, FileSpot>,
}

pub(super) fn check(
    check: &mut Check,
    node: &Node,
    workloads: &Workloads,
    raw: InFile<raw::DirectoryEntry>,
) -> Vec<DirectoryEntry> {
    let known = trust_domains(node, workloads);
    let own: HashMap<IpNet, &SpiffeId> = workloads
        .list
        .iter()
        .flat_map(|workload| {
            workload.addresses.iter().map(|address| ((*address).into(), &workload.spiffe_id))
        })
        .collect();
    let mut taken: HashMap<IpNet, Taken> = HashMap::new();
    for (network, spot) in &workloads.addresses {
        let text = network.addr().to_string();
        take(check, &mut taken, (*network, &text), None, *spot);
    }
    let mut names = Seen::new("directory name", "rename one");
    let mut entries = Vec::new();
    let mut pairs = taken.len();
    for (file, at) in raw {
        check.file = file;
        // Counted before it is expanded: addresses × ports may be far larger than the file.
        let ports = at.value.ports.0.as_ref().map_or(1, |ports| ports.value.len());
        pairs = pairs.saturating_add(at.value.addresses.value.len().saturating_mul(ports));
        if pairs > MAX_PAIRS {
            check.fault(at.spot, Fault::DirectoryTooLarge);
            break;
        }
        if let Some(entry) = entry(check, node, (known.as_ref(), &own), &mut names, &mut taken, &at.value) {
            entries.push(with_node(check, entry, &at.value, &workloads.list));
        }
    }
    if let Some((_, spot)) = inherited_too_large(&taken) {
        check.fault_at(spot, Fault::DirectoryTooLarge);
    }
    entries
}

fn entry(
    check: &mut Check,
    node: &Node,
    (known, own): (Option<&HashSet<TrustDomain>>, &HashMap<IpNet, &SpiffeId>),
    names: &mut Seen<String>,
    taken: &mut HashMap<IpNet, Taken>,
    raw: &raw::DirectoryEntry,
) -> Option<DirectoryEntry> {
    let name = check.name(&raw.name);
    if let Some(name) = &name {
        names.note(check, name, name, raw.name.spot);
    }
    let ports = raw.ports.0.as_ref().map(|at| {
        if at.value.is_empty() {
            check.fault(at.spot, Fault::EmptyList("list ports, or remove the key for every port"));
        }
        check.ports(&at.value)
    });
    if raw.addresses.value.is_empty() {
        check.fault(raw.addresses.spot, Fault::EmptyList("list at least one address"));
    }
    let ids = spiffe_ids(check, known, raw);
    let mut addresses = Vec::new();
    let mut ours = false;
    for at in &raw.addresses.value {
        let Some(network) = check.text(at, scalar::cidr, Fault::Cidr) else { continue };
        if let Some(network) = routable(check, network, &at.value, at.spot) {
            // A directory that is the same on every node also lists this node's workloads: they know better.
            if own.get(&network).is_some_and(|id| ids.contains(id)) {
                ours = true;
                continue;
            }
            take(check, taken, (network, &at.value), ports.as_ref(), (check.file, at.spot));
            addresses.push(network);
        }
    }
    let dns_names = dns_names(check, node, raw);
    if ours && addresses.is_empty() {
        return None;
    }
    Some(DirectoryEntry {
        spiffe_ids: ids,
        dns_names,
        name: name?,
        addresses,
        ports,
        node: None,
        left_alone: BTreeSet::new(),
    })
}

/// What was refused fails the load.
fn with_node(
    check: &mut Check,
    entry: DirectoryEntry,
    raw: &raw::DirectoryEntry,
    workloads: &[Workload],
) -> DirectoryEntry {
    let node = raw.node.0.as_ref().and_then(|at| direct::node_of_entry(check, at, &entry, workloads));
    DirectoryEntry { node, ..entry }
}

fn spiffe_ids(
    check: &mut Check,
    known: Option<&HashSet<TrustDomain>>,
    raw: &raw::DirectoryEntry,
) -> Vec<SpiffeId> {
    let list = &raw.spiffe_ids;
    if list.value.is_empty() {
        check.fault(list.spot, Fault::EmptyList("list at least one SPIFFE ID that the server may have"));
    }
    let ids: Vec<SpiffeId> = check.distinct("SPIFFE ID", &list.value, str::parse, Fault::SpiffeId);
    // An agent brings the roots of whatever domains it federates with.
    if let Some(known) = known
        && let Some(id) = ids.iter().find(|id| !known.contains(id.trust_domain()))
    {
        check.warn(list.spot, Fault::NoRoots(Quoted::new(id.as_str())));
    }
    ids
}

fn dns_names(check: &mut Check, node: &Node, raw: &raw::DirectoryEntry) -> Vec<String> {
    let Some(at) = &raw.dns_names.0 else { return Vec::new() };
    if !node.trust.peer_names.dns && !at.value.is_empty() {
        check.warn(at.spot, Fault::DnsNamesUnused);
    }
    check.distinct("DNS name", &at.value, scalar::dns_name, Fault::DnsName)
}

/// Trust domains for which the node has roots; `None`: an agent says so at run time.
fn trust_domains(node: &Node, workloads: &Workloads) -> Option<HashSet<TrustDomain>> {
    let of_agent = |workload: &Workload| match &workload.identity {
        WorkloadIdentity::Delegated { .. } => true,
        WorkloadIdentity::Issuer(name) => node
            .issuers
            .iter()
            .any(|issuer| issuer.name == *name && matches!(issuer.kind, IssuerKind::WorkloadApi { .. })),
        _ => false,
    };
    let pods = node.kubernetes.as_ref().map(|kubernetes| &kubernetes.issuer);
    if workloads.list.iter().any(of_agent) || matches!(pods, Some(PodIssuer::Delegated { .. })) {
        return None;
    }
    let own = node.trust_domain.iter().cloned();
    let bundles = node.trust.bundles.iter().map(|bundle| bundle.trust_domain.clone());
    let with_roots = |workload: &&Workload| match &workload.identity {
        WorkloadIdentity::EmbeddedCa => true,
        WorkloadIdentity::Files(files) => files.bundle.is_some(),
        WorkloadIdentity::Token(identity) => identity.bundle.is_some(),
        WorkloadIdentity::Issuer(name) | WorkloadIdentity::IssuerWithToken { issuer: name, .. } => {
            node.issuers.iter().any(|issuer| issuer.name == *name && issuer.bundle.is_some())
        }
        WorkloadIdentity::Delegated { .. } => true,
    };
    let own_roots = workloads.list.iter().filter(with_roots);
    let own_roots = own_roots.map(|workload| workload.spiffe_id.trust_domain().clone());
    Some(own.chain(bundles).chain(own_roots).collect())
}

/// Marks ports of a network as spoken for; a second claim is a fault. A single port beside "every port" is not:
/// the single port wins.
fn take(
    check: &mut Check,
    taken: &mut HashMap<IpNet, Taken>,
    (network, text): (IpNet, &str),
    ports: Option<&BTreeSet<u16>>,
    spot: FileSpot,
) {
    let claims = taken.entry(network).or_default();
    let first = match ports {
        None => claims.every_port.replace(spot).inspect(|first| claims.every_port = Some(*first)),
        Some(ports) => {
            let mut first = None;
            for port in ports {
                match claims.ports.get(port) {
                    Some(spot) => first = first.or(Some(*spot)),
                    None => drop(claims.ports.insert(*port, spot)),
                }
            }
            first
        }
    };
    if let Some(first) = first {
        let first = check.place(first);
        let mend = "one address and port is one destination: remove one, or give them different ports";
        check.fault_at(spot, Fault::Duplicate { what: "address", text: Quoted::new(text), first, mend });
    }
}

/// Whether nested networks, each with the ports that it inherits, would exceed [`MAX_PAIRS`]; the place of the
/// one with which they do.
fn inherited_too_large(taken: &HashMap<IpNet, Taken>) -> Option<(IpNet, FileSpot)> {
    let mut networks: Vec<_> = taken.iter().collect();
    networks.sort_by_key(|(network, _)| **network);
    // Networks that contain the one at hand, with the number of ports that each hands on.
    let mut outer: Vec<(IpNet, usize)> = Vec::new();
    let mut pairs = 0_usize;
    for (network, claims) in networks {
        while outer.last().is_some_and(|(outer, _)| !outer.contains(network)) {
            outer.pop();
        }
        let inherited = match (claims.every_port, outer.last()) {
            (None, Some((_, count))) => *count,
            _ => 0,
        };
        let count = (claims.ports.len() + inherited + 1).min(usize::from(u16::MAX) + 1);
        pairs = pairs.saturating_add(count);
        if pairs > 2 * MAX_PAIRS {
            let spot = claims.every_port.or_else(|| claims.ports.values().next().copied())?;
            return Some((*network, spot));
        }
        outer.push((*network, count));
    }
    None
}
