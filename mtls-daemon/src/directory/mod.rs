//! Which destination address and port is which workload.
//!
//! Built once per configuration and then immutable. The entry with the longest prefix among those that have the
//! address *and* the port decides; at equal prefixes an entry for that port wins over one for every port. To let the
//! kernel find it with one longest-prefix lookup, each prefix carries its whole set of ports, with what it inherits
//! from the prefixes around it already in.

mod table;

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::config::{Config, NodeAddress, Unknown, Workload};
use crate::identity::SpiffeId;

use table::Table;
pub use table::{PortSet, Prefix, SetId};

/// Names a destination within one [`Directory`]; never 0, so that a zeroed map value is no destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DestinationId(pub u32);

/// A destination whose identity is known beforehand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Its number in this directory.
    pub id: DestinationId,
    /// Its name: of the directory entry, or of the local workload.
    pub name: Arc<str>,
    /// The server must prove to be one of these; at least one.
    pub expected: Vec<SpiffeId>,
    /// Or one of these, if `trust.peer_names.dns`.
    pub dns_names: Vec<String>,
    /// The local workload whose `addresses` this entry comes from.
    pub local_workload: Option<String>,
    /// Its ports; `None`: every port.
    pub ports: Option<BTreeSet<u16>>,
    /// Its networks.
    pub addresses: Vec<IpNet>,
    /// The daemon of its node, which may be this one, for `direct`; `None`: it is never direct.
    pub node: Option<NodeAddress>,
    /// Those of its ports that speak no TLS; a local workload says that itself.
    pub left_alone: BTreeSet<u16>,
}

/// All destinations, ready to be looked up.
#[derive(Clone, Debug)]
pub struct Directory {
    destinations: Vec<Destination>,
    by_name: HashMap<Arc<str>, DestinationId>,
    table: Table,
}

impl Directory {
    /// The local workloads' own addresses and the configured entries.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        let local =
            config.workloads.iter().filter(|workload| !workload.addresses.is_empty()).map(|workload| {
                Destination {
                    id: DestinationId(0),
                    name: workload.name.as_str().into(),
                    expected: vec![workload.spiffe_id.clone()],
                    dns_names: Vec::new(),
                    local_workload: Some(workload.name.clone()),
                    ports: None,
                    addresses: workload.addresses.iter().copied().map(IpNet::from).collect(),
                    // The same way as to another node: a session of this daemon with itself.
                    node: config.direct.listen.filter(|_| workload.may_be_direct()),
                    left_alone: BTreeSet::new(),
                }
            });
        let others = config.directory.iter().map(|entry| Destination {
            id: DestinationId(0),
            name: entry.name.as_str().into(),
            expected: entry.spiffe_ids.clone(),
            dns_names: if config.trust.peer_names.dns { entry.dns_names.clone() } else { Vec::new() },
            local_workload: None,
            ports: entry.ports.clone(),
            addresses: entry.addresses.clone(),
            node: entry.node,
            left_alone: entry.left_alone.clone(),
        });
        let mut destinations: Vec<_> = local.chain(others).collect();
        let mut by_name = HashMap::new();
        for (id, destination) in (1..).map(DestinationId).zip(&mut destinations) {
            destination.id = id;
            // A workload and an entry for the same name: the local one is meant.
            by_name.entry(destination.name.clone()).or_insert(id);
        }
        let table = Table::new(&destinations);
        Self { destinations, by_name, table }
    }

    /// The destination that has this address and port, and speaks TLS there. An IPv4 address inside IPv6 counts as IPv4.
    #[must_use]
    pub fn lookup(&self, address: IpAddr, port: u16) -> Option<&Destination> {
        let destination = self.get(self.table.lookup(address.to_canonical(), port)?)?;
        (!destination.left_alone.contains(&port)).then_some(destination)
    }

    /// What becomes of a connection of `client` to where [`Directory::lookup`] finds nobody.
    #[must_use]
    pub fn unknown(&self, config: &Config, client: &Workload, address: IpAddr, port: u16) -> Unknown {
        match self.table.lookup(address.to_canonical(), port) {
            Some(_) => Unknown::LeftAlone,
            None => config.unknown(client, address.to_canonical()),
        }
    }

    /// The destination of that number.
    #[must_use]
    pub fn get(&self, id: DestinationId) -> Option<&Destination> {
        let index = usize::try_from(id.0.checked_sub(1)?).ok()?;
        self.destinations.get(index)
    }

    /// The destination of that name; a local workload before another node's.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Destination> {
        self.get(*self.by_name.get(name)?)
    }

    /// Every destination, by number.
    #[must_use]
    pub fn destinations(&self) -> &[Destination] {
        &self.destinations
    }

    /// For the kernel: every prefix with the number of its set of ports.
    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.table.prefixes()
    }

    /// For the kernel: every set of ports. Equal sets are one.
    pub fn sets(&self) -> impl Iterator<Item = (SetId, &PortSet)> {
        self.table.sets()
    }
}

#[cfg(test)]
mod tests;
