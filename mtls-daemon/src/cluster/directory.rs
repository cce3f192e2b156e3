//! Whom an address leads to: pods of other nodes, and services.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;

use super::accounts::{Account, Accounts};
use super::offer::{View, name_of};
use crate::config::{DirectoryEntry, is_never_captured};
use crate::identity::SpiffeId;
use crate::kube::Key;
use crate::kube::objects::{Endpoint, Pod, Protocol, Service};

/// The destinations, and the services that are none since some behind them are not enrolled.
pub(super) fn of(
    view: &View,
    accounts: &Accounts<'_>,
    owners: &BTreeMap<IpAddr, &Pod>,
    node: &str,
) -> (Vec<DirectoryEntry>, Vec<String>) {
    let elsewhere = |pod: &&Pod| pod.node.as_ref().is_none_or(|name| name.as_str() != node);
    let mut by_pod: BTreeMap<&Key, (&Pod, Vec<IpNet>)> = BTreeMap::new();
    for (address, pod) in owners.iter().filter(|(address, pod)| elsewhere(pod) && is_fit(**address)) {
        by_pod.entry(&pod.key).or_insert((pod, Vec::new())).1.push(IpNet::from(*address));
    }
    let pods = by_pod.into_values().filter_map(|(pod, addresses)| entry(accounts, pod, addresses, None));
    // These share their node's addresses: only the ports that they say are theirs.
    let shared = view.pods.iter().filter(|pod| pod.host_network && !pod.is_over()).filter_map(|pod| {
        let ports: BTreeSet<u16> =
            pod.ports.iter().filter(|port| port.protocol == Protocol::Tcp).map(|port| port.port).collect();
        let addresses: Vec<_> =
            pod.addresses.iter().copied().filter(|address| is_fit(*address)).map(IpNet::from).collect();
        if ports.is_empty() { None } else { entry(accounts, pod, addresses, Some(ports)) }
    });
    let mut entries: Vec<_> = pods.chain(shared).collect();
    let mut mixed = Vec::new();
    let behind = Behind::new(view, accounts);
    for service in &view.services {
        let (ids, others) = behind.of(service);
        let addresses: Vec<_> =
            service.addresses.iter().copied().filter(|address| is_fit(*address)).map(IpNet::from).collect();
        let ports: BTreeSet<u16> = service
            .ports
            .iter()
            .filter(|port| port.protocol == Protocol::Tcp)
            .map(|port| port.port)
            .collect();
        if ids.is_empty() || addresses.is_empty() || ports.is_empty() {
            continue;
        }
        // The address is turned to any of them by kube-proxy, behind the client's back. In a strict namespace whoever joins
        // without mTLS must not take the others' with it.
        if others > 0 && !accounts.is_strict(&service.key) {
            mixed.push(name_of(&service.key));
            continue;
        }
        entries.push(DirectoryEntry {
            name: service_name(&service.key),
            addresses,
            ports: Some(ports),
            spiffe_ids: ids.into_iter().collect(),
            dns_names: Vec::new(),
            node: None,
        });
    }
    (entries, mixed)
}

/// As its clients write it: `web.shop.svc`.
fn service_name(key: &Key) -> String {
    format!("{}.{}.svc", key.name, key.namespace.as_ref().map_or("", |namespace| namespace.as_str()))
}

fn is_fit(address: IpAddr) -> bool {
    !is_never_captured(address)
}

fn entry(
    accounts: &Accounts<'_>,
    pod: &Pod,
    addresses: Vec<IpNet>,
    ports: Option<BTreeSet<u16>>,
) -> Option<DirectoryEntry> {
    let Account::Enrolled { id, .. } = accounts.of(pod) else { return None };
    if addresses.is_empty() {
        return None;
    }
    Some(DirectoryEntry {
        name: name_of(&pod.key),
        addresses,
        ports,
        spiffe_ids: vec![id],
        dns_names: Vec::new(),
        node: None,
    })
}

/// Who is behind services.
struct Behind<'a> {
    endpoints: HashMap<Key, Vec<&'a Endpoint>>,
    pods: HashMap<&'a Key, &'a Pod>,
    accounts: &'a Accounts<'a>,
}

impl<'a> Behind<'a> {
    fn new(view: &'a View, accounts: &'a Accounts<'a>) -> Self {
        let mut endpoints: HashMap<Key, Vec<&Endpoint>> = HashMap::new();
        for slice in &view.slices {
            let Some(service) = &slice.service else { continue };
            let key = Key { namespace: slice.key.namespace.clone(), name: service.clone() };
            endpoints.entry(key).or_default().extend(&slice.endpoints);
        }
        let pods = view.pods.iter().map(|pod| (&pod.key, pod.as_ref())).collect();
        Self { endpoints, pods, accounts }
    }

    /// The identities of those that are enrolled, and how many are not.
    fn of(&self, service: &Service) -> (BTreeSet<SpiffeId>, usize) {
        let (mut ids, mut others) = (BTreeSet::new(), 0_usize);
        let endpoints = self.endpoints.get(&service.key).into_iter().flatten();
        for endpoint in endpoints.filter(|endpoint| endpoint.serving || endpoint.terminating) {
            let pod = endpoint.pod.as_ref().and_then(|of| {
                let pod = self.pods.get(&of.key)?;
                of.uid.as_ref().is_none_or(|uid| *uid == pod.uid).then_some(pod)
            });
            match pod.map(|pod| self.accounts.of(pod)) {
                Some(Account::Enrolled { id, .. }) => drop(ids.insert(id)),
                // It has ended, and its slice lags behind.
                Some(Account::Unknown) => {}
                Some(Account::Bystander) | None => others = others.saturating_add(1),
            }
        }
        (ids, others)
    }
}
