//! The flattened table: one longest-prefix lookup, then at most two exact ones.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::rc::Rc;

use ipnet::IpNet;

use super::{Destination, DestinationId};

/// Names a set of ports within one directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SetId(pub u32);

/// What the ports of a prefix are; look for the port first, then at `every_port`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PortSet {
    /// The destination of every port that is not in `ports`.
    pub every_port: Option<DestinationId>,
    /// Destinations of single ports.
    pub ports: BTreeMap<u16, DestinationId>,
}

impl PortSet {
    /// The destination of a port.
    #[must_use]
    pub fn get(&self, port: u16) -> Option<DestinationId> {
        self.ports.get(&port).copied().or(self.every_port)
    }
}

/// A network and its set of ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The network, in canonical form.
    pub network: IpNet,
    /// The number of its set.
    pub set: SetId,
}

#[derive(Clone, Debug)]
pub(super) struct Table {
    sets: Vec<PortSet>,
    prefixes: HashMap<IpNet, SetId>,
    /// Prefix lengths that occur, longest first: what a lookup tries.
    lengths_v4: Vec<u8>,
    lengths_v6: Vec<u8>,
}

impl Table {
    pub fn new(destinations: &[Destination]) -> Self {
        let mut own: BTreeMap<IpNet, PortSet> = BTreeMap::new();
        for destination in destinations {
            for network in &destination.addresses {
                let set = own.entry(network.trunc()).or_default();
                match &destination.ports {
                    None => set.every_port = Some(destination.id),
                    Some(ports) => set.ports.extend(ports.iter().map(|port| (*port, destination.id))),
                }
            }
        }
        let mut table = Self {
            sets: Vec::new(),
            prefixes: HashMap::with_capacity(own.len()),
            lengths_v4: lengths(own.keys().filter(|network| matches!(network, IpNet::V4(_)))),
            lengths_v6: lengths(own.keys().filter(|network| matches!(network, IpNet::V6(_)))),
        };
        let mut numbers: HashMap<Rc<PortSet>, SetId> = HashMap::new();
        // In this order a network follows those that contain it; `outer` holds them, innermost last.
        let mut outer: Vec<(IpNet, Rc<PortSet>)> = Vec::new();
        for (network, mut set) in own {
            while outer.last().is_some_and(|(outer, _)| !outer.contains(&network)) {
                outer.pop();
            }
            // "Every port" here overrides all that is outside.
            if let (None, Some((_, around))) = (set.every_port, outer.last()) {
                set.every_port = around.every_port;
                for (port, id) in &around.ports {
                    set.ports.entry(*port).or_insert(*id);
                }
            }
            let set = Rc::new(set);
            let number = *numbers.entry(Rc::clone(&set)).or_insert_with(|| table.add(&set));
            table.prefixes.insert(network, number);
            outer.push((network, set));
        }
        table
    }

    fn add(&mut self, set: &PortSet) -> SetId {
        // A directory has at most a million prefixes (config::check), so that this never saturates.
        let id = SetId(u32::try_from(self.sets.len()).unwrap_or(u32::MAX));
        self.sets.push(set.clone());
        id
    }

    pub fn lookup(&self, address: IpAddr, port: u16) -> Option<DestinationId> {
        let lengths = if address.is_ipv4() { &self.lengths_v4 } else { &self.lengths_v6 };
        let prefix = |length: &u8| {
            let network = IpNet::new(address, *length).ok()?.trunc();
            self.prefixes.get(&network)
        };
        let set = lengths.iter().find_map(prefix)?;
        self.sets.get(usize::try_from(set.0).ok()?)?.get(port)
    }

    pub fn prefixes(&self) -> impl Iterator<Item = Prefix> + '_ {
        self.prefixes.iter().map(|(network, set)| Prefix { network: *network, set: *set })
    }

    pub fn sets(&self) -> impl Iterator<Item = (SetId, &PortSet)> {
        (0..).map(SetId).zip(&self.sets)
    }
}

fn lengths<'a>(networks: impl Iterator<Item = &'a IpNet>) -> Vec<u8> {
    let mut lengths: Vec<u8> = networks.map(IpNet::prefix_len).collect();
    lengths.sort_unstable_by(|a, b| b.cmp(a));
    lengths.dedup();
    lengths
}
