//! Destinations that the cluster offers: pods of other nodes, and services.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use crate::config::direct::NodeAddress;
use crate::config::kubernetes::{
    Kubernetes, OfferedBackend, OfferedDestination, OfferedPeer, OfferedPod, PodSelector, ResolvedService,
};
use crate::config::types::{DirectoryEntry, Mode, Workload};
use crate::identity::SpiffeId;
use crate::kube::objects::Pairs;

use super::Check;
use super::directory::MAX_PAIRS;
use super::modes::{Entry, Modes};
use super::node::Node;
use super::offered::{Policies, with_modes, workload};

/// Whether pods of other nodes speak TLS, as policy says it of them there.
pub(super) struct Elsewhere<'a> {
    node: &'a Node,
    modes: &'a Modes,
    policies: &'a Policies,
    that_disable: Vec<&'a Entry>,
}

impl<'a> Elsewhere<'a> {
    pub fn new(node: &'a Node, modes: &'a Modes, policies: &'a Policies) -> Self {
        Self { node, modes, policies, that_disable: modes.that_disable() }
    }

    /// The destination without what its node leaves alone; `None`: that is all of it.
    fn that_speaks_tls(&self, check: &mut Check, offered: &OfferedDestination) -> Option<DirectoryEntry> {
        let mut entry = offered.entry.clone();
        let Some(kubernetes) = &self.node.kubernetes else { return Some(entry) };
        let Some(pod) = &offered.pod else {
            entry.left_alone = self.left_alone_behind(check, kubernetes, &entry.name, &offered.backends);
            return Some(entry);
        };
        let Some(id) = entry.spiffe_ids.first() else { return Some(entry) };
        entry.node = node_of(kubernetes, pod, &entry);
        let Some(there) = self.judged(check, kubernetes, &entry.name, (id, &pod.labels, pod.mode)) else {
            return Some(entry);
        };
        let ports = |disabled: bool| -> BTreeSet<u16> {
            let these = there.ports.iter().filter(|(_, mode)| (**mode == Mode::Disabled) == disabled);
            these.map(|(port, _)| *port).collect()
        };
        if there.mode != Mode::Disabled {
            entry.left_alone = ports(true);
            return Some(entry);
        }
        let speaks = ports(false);
        let speaks = match &entry.ports {
            Some(own) => own.intersection(&speaks).copied().collect(),
            None => speaks,
        };
        if speaks.is_empty() { None } else { Some(DirectoryEntry { ports: Some(speaks), ..entry }) }
    }

    /// Ports of a Service that every pod behind them leaves alone. Where only some do, mutual TLS is demanded, which is what fails
    /// closed.
    fn left_alone_behind(
        &self,
        check: &mut Check,
        kubernetes: &Kubernetes,
        name: &str,
        backends: &[OfferedBackend],
    ) -> BTreeSet<u16> {
        let mut speaks_tls: BTreeMap<u16, bool> = BTreeMap::new();
        for backend in backends {
            let whom = (&backend.spiffe_id, &backend.labels, backend.mode);
            let there = self.judged(check, kubernetes, name, whom);
            let speaks = there.is_none_or(|there| there.mode_of_port(backend.target) != Mode::Disabled);
            *speaks_tls.entry(backend.port).or_default() |= speaks;
        }
        speaks_tls.into_iter().filter(|(_, speaks)| !speaks).map(|(port, _)| port).collect()
    }

    /// A pod as its own node has it, with what modes say of it; `None`: nothing of it is left alone.
    fn judged(
        &self,
        check: &mut Check,
        kubernetes: &Kubernetes,
        name: &str,
        (id, labels, mode): (&SpiffeId, &Pairs, Option<Mode>),
    ) -> Option<Workload> {
        let namespace = id.service_account().map(|(namespace, _)| namespace);
        let default = mode.unwrap_or(kubernetes.default_mode);
        let may = |disabling: &&Entry| disabling.describes(namespace, |key| labels.get(key));
        if default != Mode::Disabled && !self.that_disable.iter().any(may) {
            return None;
        }
        let there = OfferedPod {
            name: name.to_owned(),
            select: PodSelector { cgroups: Vec::new(), host_network: false },
            spiffe_id: id.clone(),
            labels: labels.clone().into(),
            mode,
            addresses: Vec::new(),
            probe_ports: BTreeSet::new(),
        };
        let there = workload(self.node, &kubernetes.issuer, kubernetes.default_mode, &there);
        Some(with_modes(check, (self.modes, self.policies), there, mode.is_some()).0)
    }
}

/// Where the daemon of a pod's node takes sessions. `None`: that is not said, or the pod is on its node's network.
fn node_of(kubernetes: &Kubernetes, pod: &OfferedPeer, entry: &DirectoryEntry) -> Option<NodeAddress> {
    let (host, port) = (pod.host?, kubernetes.direct_port?);
    let is_its_own = entry.addresses.iter().any(|network| network.contains(&host));
    if is_its_own { None } else { SocketAddr::new(host, port).try_into().ok() }
}

/// The addresses of the workloads that files name.
fn of_configured(workloads: &[Workload]) -> impl Iterator<Item = IpAddr> + '_ {
    let configured = workloads.iter().filter(|workload| workload.select.pod.is_none());
    configured.flat_map(|workload| workload.addresses.iter().copied())
}

/// Services that are resolved; one of whose address a file speaks is the file's, and stays what the file says.
pub(super) fn services(
    of_files: &[DirectoryEntry],
    workloads: &[Workload],
    offered: &[ResolvedService],
) -> Vec<ResolvedService> {
    let mut taken: HashMap<IpNet, Vec<&DirectoryEntry>> = HashMap::new();
    for entry in of_files {
        for network in &entry.addresses {
            taken.entry(*network).or_default().push(entry);
        }
    }
    let configured: HashSet<IpAddr> = of_configured(workloads).collect();
    let is_free = |service: &&ResolvedService| {
        let entries = taken.get(&IpNet::from(service.at.ip()));
        let speaks = |entry: &&DirectoryEntry| {
            entry.ports.as_ref().is_none_or(|ports| ports.contains(&service.at.port()))
        };
        !configured.contains(&service.at.ip()) && !entries.into_iter().flatten().any(speaks)
    };
    offered.iter().filter(is_free).cloned().collect()
}

/// Adds destinations; an address of which a file speaks is the file's. Gives the addresses of pods that policy leaves alone, be it
/// but for some ports.
pub(super) fn destinations(
    check: &mut Check,
    elsewhere: &Elsewhere<'_>,
    directory: &mut Vec<DirectoryEntry>,
    workloads: &mut [Workload],
    offered: &[OfferedDestination],
) -> BTreeSet<IpAddr> {
    let mut left_alone = BTreeSet::new();
    let of_files = directory.iter().flat_map(|entry| entry.addresses.iter().copied());
    let mut taken: HashSet<IpNet> = of_files.chain(of_configured(workloads).map(IpNet::from)).collect();
    for pod in workloads.iter_mut().filter(|workload| workload.select.pod.is_some()) {
        pod.addresses.retain(|address: &IpAddr| taken.insert(IpNet::from(*address)));
    }
    let mut ports_taken = HashSet::new();
    let mut pairs = directory.iter().map(pairs_of).sum::<usize>().saturating_add(taken.len());
    for offered in offered {
        let speaks_tls = elsewhere.that_speaks_tls(check, offered);
        if speaks_tls.as_ref().is_none_or(|entry| entry.ports != offered.entry.ports) {
            left_alone.extend(offered.entry.addresses.iter().map(IpNet::addr));
        }
        let Some(mut entry) = speaks_tls else { continue };
        let ports: Vec<u16> = entry.ports.iter().flatten().copied().collect();
        let free = |network: &IpNet| {
            !taken.contains(network)
                && (entry.ports.is_none()
                    || ports.iter().all(|port| !ports_taken.contains(&(*network, *port))))
        };
        entry.addresses = entry.addresses.iter().copied().filter(free).collect();
        pairs = pairs.saturating_add(pairs_of(&entry));
        if pairs > MAX_PAIRS {
            tracing::error!(
                "the cluster has more than {MAX_PAIRS} destinations; those that do not fit are not dialled with TLS"
            );
            return left_alone;
        }
        match &entry.ports {
            None => taken.extend(&entry.addresses),
            Some(_) => {
                let all =
                    entry.addresses.iter().flat_map(|network| ports.iter().map(|port| (*network, *port)));
                ports_taken.extend(all);
            }
        }
        if !entry.addresses.is_empty() {
            directory.push(entry);
        }
    }
    left_alone
}

fn pairs_of(entry: &DirectoryEntry) -> usize {
    entry.addresses.len().saturating_mul(entry.ports.as_ref().map_or(1, BTreeSet::len))
}
