//! Workloads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::config::at::{At, Entries, Given, Number, Spot};
use crate::config::error::{Fault, Quoted};
use crate::config::nested::nested;
use crate::config::raw;
use crate::config::scalar;
use crate::config::types::{AtEnd, LeaseSettings, Mode, Selector, Workload, WorkloadIdentity};
use crate::config::unit::UnitName;

use crate::identity::{Subject, SubjectAttribute};

use super::modes::Modes;
use super::node::Node;
use super::{Check, FileSpot, InFile, Seen, direct, issuer, local};

const SECOND: Duration = Duration::from_secs(1);
const DAY: Duration = Duration::from_secs(86_400);

/// The workloads, and where their addresses stand (for the directory, which must not repeat them).
pub(super) struct Workloads {
    pub list: Vec<Workload>,
    pub addresses: Vec<(IpNet, FileSpot)>,
    /// Names of those that say themselves what happens to what no rule matches.
    pub says_default: BTreeSet<String>,
}

struct Unique {
    names: Seen<String>,
    netns: Seen<PathBuf>,
    cgroups: Seen<PathBuf>,
    units: Seen<UnitName>,
    uids: Seen<(Option<PathBuf>, u32)>,
    /// Every cgroup, normalised, with the text and place of its selector.
    cgroup_list: Vec<(PathBuf, String, FileSpot)>,
}

pub(super) fn check(check: &mut Check, node: &Node, modes: &Modes, raw: InFile<raw::Workload>) -> Workloads {
    let mut unique = Unique {
        names: Seen::new("workload name", "rename one"),
        netns: Seen::new("network namespace", "select it for one workload only"),
        cgroups: Seen::new("cgroup", "select it for one workload only"),
        units: Seen::new("unit", "select it for one workload only"),
        uids: Seen::new("user ID", "select it for one workload only"),
        cgroup_list: Vec::new(),
    };
    let mut workloads = Workloads { list: Vec::new(), addresses: Vec::new(), says_default: BTreeSet::new() };
    for (file, at) in raw {
        check.file = file;
        let addresses = addresses(check, &at.value.addresses, &mut workloads.addresses);
        if let Some(mut workload) = workload(check, node, &mut unique, &at.value, addresses) {
            modes.apply(check, &mut workload, at.value.mode.0.is_some());
            if at.value.policy_default.0.is_some() {
                workloads.says_default.insert(workload.name.clone());
            }
            workloads.list.push(workload);
        }
    }
    nested_cgroups(check, unique.cgroup_list);
    workloads
}

fn workload(
    check: &mut Check,
    node: &Node,
    unique: &mut Unique,
    raw: &raw::Workload,
    addresses: Vec<IpAddr>,
) -> Option<Workload> {
    let name = check.name(&raw.name);
    if let Some(name) = &name {
        unique.names.note(check, name, name, raw.name.spot);
    }
    let select = selector(check, node, unique, &raw.select);
    let identity = match &raw.identity.0 {
        Some(at) => issuer::of_workload(check, &node.issuers, &node.pkcs11, at),
        None => Some(node.identity.clone()),
    };
    let spiffe_id = match (&raw.spiffe_id.0, &name, &node.trust_domain) {
        (Some(at), _, _) => {
            let id = check.spiffe_id(at);
            if let (Some(id), Some(WorkloadIdentity::EmbeddedCa), Some(own)) =
                (&id, &identity, &node.trust_domain)
                && id.trust_domain() != own
            {
                let own = Quoted::new(own.as_str());
                check.fault(at.spot, Fault::ForeignTrustDomain { id: Quoted::new(id.as_str()), own });
            }
            id
        }
        (None, Some(name), Some(own)) => format!("spiffe://{own}/{name}").parse().ok(),
        (None, _, _) => None,
    };
    let dns_names = match (&raw.dns_names.0, &name) {
        (Some(at), _) => check.distinct("DNS name", &at.value, scalar::dns_name, Fault::DnsName),
        (None, name) => name.iter().cloned().collect(),
    };
    let subject = subject(check, &raw.certificate, identity.as_ref());
    let listen_ports = raw.listen_ports.0.as_ref().map(|at| {
        let select = &raw.select.value;
        if select.netns.0.is_some() && !select.shares_its_namespace() {
            check.fault(at.spot, Fault::ListenPortsWithNetns);
        }
        check.ports(&at.value)
    });
    let ports = port_modes(check, &raw.ports);
    let labels = local::labels(check, &raw.labels);
    let exclude = check.exclusions(&raw.exclude);
    let max_connections =
        check.number(&raw.limits.connections, 10_000_000, node.limits.connections_per_workload);
    Some(Workload {
        name: name?,
        select: select?,
        spiffe_id: spiffe_id?,
        dns_names,
        subject,
        labels,
        mode: raw.mode.0.as_ref().map(|at| at.value).unwrap_or_default(),
        ports,
        listen_ports: listen_ports.unwrap_or_default(),
        probe_ports: check.ports(&raw.probe_ports),
        exclude,
        policy_default: raw.policy_default.0.as_ref().map(|at| at.value).unwrap_or_default(),
        outbound_default: raw.outbound_default.0.as_ref().map(|at| at.value).unwrap_or_default(),
        unknown_destinations: raw.unknown_destinations.0.as_ref().map(|at| at.value).unwrap_or_default(),
        connect_hold: raw.connect_hold.0.as_ref().map(|at| at.value).unwrap_or_default(),
        datapath: raw.datapath.0.as_ref().map_or(node.datapath, |at| at.value),
        direct: direct::choice(&raw.direct, node.direct.default),
        direct_ports: direct::ports(check, &raw.direct_ports),
        // One that was refused fails the load and never falls back to the CA.
        identity: identity?,
        addresses,
        max_connections,
        lease: lease(check, &raw.lease),
    })
}

fn lease(check: &mut Check, raw: &raw::WorkloadLease) -> LeaseSettings {
    let default = LeaseSettings::DEFAULT;
    let at_end = |given: &Given<AtEnd>, default| given.0.as_ref().map_or(default, |at| at.value);
    LeaseSettings {
        expired: at_end(&raw.expired, default.expired),
        revoked: at_end(&raw.revoked, default.revoked),
        policy: at_end(&raw.policy, default.policy),
        drain: check.duration(&raw.drain, SECOND, DAY).unwrap_or(default.drain),
    }
}

/// What is refused fails the load.
fn subject(
    check: &mut Check,
    raw: &Given<raw::WorkloadCertificate>,
    identity: Option<&WorkloadIdentity>,
) -> Subject {
    let Some(at) = &raw.0 else { return Subject::default() };
    if let Some(WorkloadIdentity::Files(_) | WorkloadIdentity::Token(_)) = identity {
        check.fault(at.spot, Fault::SubjectWithFiles);
    }
    let subject = &at.value.subject;
    let mut attribute = |given: &Given<String>| {
        given.0.as_ref().and_then(|at| check.text(at, str::parse::<SubjectAttribute>, Fault::Subject))
    };
    Subject {
        organization: attribute(&subject.organization),
        organizational_unit: attribute(&subject.organizational_unit),
        common_name: attribute(&subject.common_name),
    }
}

fn selector(check: &mut Check, node: &Node, unique: &mut Unique, at: &At<raw::Select>) -> Option<Selector> {
    let raw::Select { netns, cgroup, unit, uid: user } = &at.value;
    if netns.0.is_none() && !at.value.shares_its_namespace() {
        check.fault(at.spot, Fault::EmptySelector);
        return None;
    }
    let shares = at.value.shares_its_namespace();
    let mut selector = Selector { netns: None, cgroup: None, unit: None, uid: None, pod: None };
    if let Some(at) = &netns.0
        && let Some(path) = check.text(at, scalar::netns, Fault::Netns)
    {
        // Several workloads may share a namespace when each has a cgroup or a user in it.
        if !shares {
            unique.netns.note(check, &path, &at.value, at.spot);
        }
        selector.netns = Some(path);
    }
    if let Some(at) = &cgroup.0
        && let Some(path) =
            check.text(at, |text| scalar::cgroup(text, node.cgroup_root.as_deref()), Fault::Cgroup)
    {
        unique.cgroups.note(check, &path, &at.value, at.spot);
        unique.cgroup_list.push((path, at.value.clone(), (check.file, at.spot)));
        selector.cgroup = Some(PathBuf::from(&at.value));
    }
    if let Some(at) = &unit.0
        && let Some(name) = check.text(at, str::parse::<UnitName>, Fault::Unit)
    {
        if cgroup.0.is_some() {
            check.fault(at.spot, Fault::UnitAndCgroup);
        }
        unique.units.note(check, &name, name.as_str(), at.spot);
        selector.unit = Some(name);
    }
    if let Some(given) = &user.0 {
        if at.value.is_by_cgroup() {
            check.fault(given.spot, Fault::UidAndCgroup);
        }
        let number = uid(check, given)?;
        unique.uids.note(check, &(selector.netns.clone(), number), &number.to_string(), given.spot);
        selector.uid = Some(number);
    }
    Some(selector)
}

fn uid(check: &mut Check, at: &At<Number>) -> Option<u32> {
    let uid = u32::try_from(at.value.0).ok().filter(|uid| ![0, u32::MAX].contains(uid));
    if uid.is_none() {
        check.fault(at.spot, Fault::Uid(Quoted::new(&at.value.0.to_string())));
    }
    uid
}

/// Finds selectors of which one contains the other.
fn nested_cgroups(check: &mut Check, mut list: Vec<(PathBuf, String, FileSpot)>) {
    list.sort();
    for (outer, inner) in nested(&list, |(path, ..)| path) {
        // Equal ones are duplicates, which are refused as such.
        if inner.0 == outer.0 {
            continue;
        }
        let (first, second) = if outer.2 < inner.2 { (outer, inner) } else { (inner, outer) };
        let fault = Fault::NestedCgroup {
            text: Quoted::new(&second.1),
            other: Quoted::new(&first.1),
            first: check.place(first.2),
        };
        check.fault_at(second.2, fault);
    }
}

pub(super) fn port_modes(check: &mut Check, raw: &Entries<Mode>) -> BTreeMap<u16, Mode> {
    let mut seen = Seen::new("port", "give it one mode");
    let mut modes = BTreeMap::new();
    for (port, mode) in &raw.0 {
        if let Some(number) = check.port(port) {
            seen.note(check, &number, &number.to_string(), port.spot);
            modes.insert(number, mode.value);
        }
    }
    modes
}

fn addresses(check: &mut Check, raw: &[At<String>], known: &mut Vec<(IpNet, FileSpot)>) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for at in raw {
        let parse = |text: &str| text.parse::<IpAddr>();
        let Some(address) = check.text(at, parse, |text, _| Fault::Address(text)) else { continue };
        if let Some(network) = routable(check, IpNet::from(address), &at.value, at.spot) {
            known.push((network, (check.file, at.spot)));
            addresses.push(address);
        }
    }
    addresses
}

/// Refuses a network that could never be somebody's.
pub(super) fn routable(check: &mut Check, network: IpNet, text: &str, spot: Spot) -> Option<IpNet> {
    if let IpNet::V6(v6) = network
        && v6.prefix_len() >= 96
        && v6.addr().to_ipv4_mapped().is_some()
    {
        check.fault(spot, Fault::Cidr(Quoted::new(text), scalar::CidrError::Mapped));
        return None;
    }
    if scalar::never_captured(&network) {
        check.fault(spot, Fault::NeverCaptured(Quoted::new(text)));
        return None;
    }
    Some(network)
}
