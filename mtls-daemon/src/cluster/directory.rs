//! Whom an address leads to: pods of other nodes, and services.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use ipnet::IpNet;

use super::accounts::{Account, Accounts};
use super::offer::View;
use super::services::Resolution;
use crate::config::{DirectoryEntry, OfferedBackend, OfferedDestination, OfferedPeer, is_never_captured};
use crate::identity::SpiffeId;
use crate::kube::Key;
use crate::kube::objects::{Endpoint, EndpointSlice, Pod, Protocol, Service};

/// The destinations, and the services that are none since some behind them are not enrolled.
pub(super) fn of(
    view: &View,
    accounts: &Accounts<'_>,
    owners: &BTreeMap<IpAddr, &Pod>,
    node: &str,
    resolution: &Resolution<'_>,
) -> (Vec<OfferedDestination>, Vec<String>) {
    let elsewhere = |pod: &&Pod| pod.node.as_ref().is_none_or(|name| name.as_str() != node);
    let mut by_pod: BTreeMap<&Key, (&Pod, Vec<IpAddr>)> = BTreeMap::new();
    for (address, pod) in owners.iter().filter(|(_, pod)| elsewhere(pod)) {
        by_pod.entry(&pod.key).or_insert((pod, Vec::new())).1.push(*address);
    }
    let of_pod = |pod: &Pod, addresses: &[IpAddr], ports| {
        let Account::Enrolled { id, mode } = accounts.of(pod) else { return None };
        let entry = entry(pod.key.to_string(), addresses, ports, vec![id.clone()])?;
        Some(OfferedDestination {
            entry,
            pod: Some(OfferedPeer { labels: pod.labels.clone(), mode: *mode, host: pod.host }),
            backends: Vec::new(),
        })
    };
    let pods = by_pod.into_values().filter_map(|(pod, addresses)| of_pod(pod, &addresses, None));
    // These share their node's addresses: only the ports that they say are theirs.
    let shared = view.pods.iter().filter(|pod| pod.host_network && !pod.is_over()).filter_map(|pod| {
        let ports = tcp(pod.ports.iter().map(|port| (port.protocol, port.port)));
        if ports.is_empty() { None } else { of_pod(pod, &pod.addresses, Some(ports)) }
    });
    let mut entries: Vec<_> = pods.chain(shared).collect();
    let mut mixed = Vec::new();
    let behind = Behind::new(view, accounts);
    for service in &view.services {
        let (ids, others) = behind.of(service);
        let ports = tcp(service.ports.iter().map(|port| (port.protocol, port.port)));
        if ids.is_empty() || ports.is_empty() {
            continue;
        }
        let name = service_name(&service.key);
        let Some(entry) = entry(name, &service.addresses, Some(ports), ids.into_iter().collect()) else {
            continue;
        };
        // The address is turned to any of them by kube-proxy, behind the client's back. In a strict namespace whoever joins
        // without mTLS must not take the others' with it. Where endpoints are chosen at connect() this entry is met only while the
        // daemon is away, and keeps strict clients closed then.
        let is_chosen = accounts.is_strict(&service.key) || resolution.is_whole(&service.key);
        match others > 0 && !is_chosen {
            true => mixed.push(service.key.to_string()),
            false => {
                entries.push(OfferedDestination { entry, pod: None, backends: behind.backends(service) })
            }
        }
    }
    (entries, mixed)
}

/// Addresses that speak no TLS, and are not unknown: of pods that are not enrolled, of nodes and of Services. What of them is a
/// destination is one all the same.
pub(super) fn known(view: &View, accounts: &Accounts<'_>) -> BTreeSet<IpAddr> {
    let pods = view.pods.iter().filter(|pod| !pod.is_over());
    let of_pods = pods.flat_map(|pod| {
        let speaks_none = pod.host_network || *accounts.of(pod) == Account::Bystander;
        let own = if speaks_none { &pod.addresses[..] } else { &[] };
        own.iter().copied().chain(pod.host)
    });
    let of_services = view.services.iter().flat_map(|service| service.addresses.iter().copied());
    of_pods.chain(of_services).collect()
}

/// As its clients write it: `web.shop.svc`.
fn service_name(key: &Key) -> String {
    format!("{}.{}.svc", key.name, key.namespace.as_ref().map_or("", |namespace| namespace.as_str()))
}

fn tcp(ports: impl Iterator<Item = (Protocol, u16)>) -> BTreeSet<u16> {
    ports.filter(|(protocol, _)| *protocol == Protocol::Tcp).map(|(_, port)| port).collect()
}

/// `None`: it has no address that can be captured.
fn entry(
    name: String,
    addresses: &[IpAddr],
    ports: Option<BTreeSet<u16>>,
    spiffe_ids: Vec<SpiffeId>,
) -> Option<DirectoryEntry> {
    let fit = addresses.iter().filter(|address| !is_never_captured(**address));
    let addresses: Vec<_> = fit.copied().map(IpNet::from).collect();
    let dns_names = Vec::new();
    (!addresses.is_empty()).then_some(DirectoryEntry {
        name,
        addresses,
        ports,
        spiffe_ids,
        dns_names,
        node: None,
        left_alone: BTreeSet::new(),
    })
}

/// Who is behind services.
struct Behind<'a> {
    slices: HashMap<Key, Vec<&'a EndpointSlice>>,
    pods: HashMap<&'a Key, &'a Pod>,
    accounts: &'a Accounts<'a>,
}

impl<'a> Behind<'a> {
    fn new(view: &'a View, accounts: &'a Accounts<'a>) -> Self {
        let pods = view.pods.iter().map(|pod| (&pod.key, pod.as_ref())).collect();
        Self { slices: view.slices_by_service(), pods, accounts }
    }

    /// The identities of those that are enrolled, and how many are not.
    fn of(&self, service: &Service) -> (BTreeSet<SpiffeId>, usize) {
        let (mut ids, mut others) = (BTreeSet::new(), 0_usize);
        for endpoint in self.slices_of(service).flat_map(|slice| &slice.endpoints).filter(is_there) {
            match self.pod(endpoint).map(|pod| self.accounts.of(pod)) {
                Some(Account::Enrolled { id, .. }) => drop(ids.insert(id.clone())),
                // It has ended, and its slice lags behind.
                Some(Account::Unknown) => {}
                Some(Account::Bystander) | None => others = others.saturating_add(1),
            }
        }
        (ids, others)
    }

    /// Who takes the connections of each of its ports.
    fn backends(&self, service: &Service) -> Vec<OfferedBackend> {
        let mut seen = HashSet::new();
        let mut backends = Vec::new();
        for port in service.ports.iter().filter(|port| port.protocol == Protocol::Tcp) {
            for slice in self.slices_of(service) {
                let Some(target) = slice.target(&port.name) else { continue };
                for pod in slice.endpoints.iter().filter(is_there).filter_map(|endpoint| self.pod(endpoint)) {
                    let Account::Enrolled { id, mode } = self.accounts.of(pod) else { continue };
                    let (spiffe_id, labels) = (id.clone(), pod.labels.clone());
                    let backend = OfferedBackend { port: port.port, target, spiffe_id, labels, mode: *mode };
                    if seen.insert(backend.clone()) {
                        backends.push(backend);
                    }
                }
            }
        }
        backends
    }

    fn slices_of(&self, service: &Service) -> impl Iterator<Item = &'a EndpointSlice> + '_ {
        self.slices.get(&service.key).into_iter().flatten().copied()
    }

    /// The pod that it is, and none that had its name before or after.
    fn pod(&self, endpoint: &Endpoint) -> Option<&'a Pod> {
        let of = endpoint.pod.as_ref()?;
        self.pods.get(&of.key).copied().filter(|pod| of.is(pod))
    }
}

fn is_there(endpoint: &&Endpoint) -> bool {
    endpoint.serving || endpoint.terminating
}
