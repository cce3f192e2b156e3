//! Which clients a port refuses at the SYN: those that policy denies for their address, whoever they prove to be.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;
use mtls_common::{SourceKey, VERDICT_ALLOW, VERDICT_DENY};

use crate::capture::Tables;
use crate::capture::address::octets;
use crate::config::{Action, Mode, Rule};
use crate::snapshot::{Snapshot, WorkloadState};

/// Entries of `sources` are an optimisation: the daemon refuses what does not fit here.
const MAX_SOURCES: usize = 60_000;
/// Most decisions that one snapshot may ask for.
const MAX_QUESTIONS: usize = 1_000_000;

/// Every IPv4 address is below this one (RFC 4291, section 2.5.5.2).
const V4: Block = Block { start: 0xffff_0000_0000, length: 96 };
const EVERYTHING: Block = Block { start: 0, length: 0 };

/// Addresses that share their first bits; IPv4 as `::ffff:a.b.c.d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Block {
    start: u128,
    length: u32,
}

impl Block {
    /// `None` for IPv6 networks of which every address means an IPv4 one: no client has them.
    fn of(network: &IpNet) -> Option<Self> {
        let start = u128::from_be_bytes(octets(network.network()));
        let length = u32::from(network.prefix_len());
        match network {
            IpNet::V4(_) => Some(Self { start, length: V4.length + length }),
            IpNet::V6(_) if length >= V4.length && V4.contains(start) => None,
            IpNet::V6(_) => Some(Self { start, length }),
        }
    }

    fn last(self) -> u128 {
        self.start | u128::MAX.checked_shr(self.length).unwrap_or(0)
    }

    fn contains(self, address: u128) -> bool {
        (self.start..=self.last()).contains(&address)
    }
}

fn address(bits: u128) -> IpAddr {
    IpAddr::from(Ipv6Addr::from(bits)).to_canonical()
}

/// The blocks, each with an address that is in none of the smaller ones, and the same is then true of every such
/// address, as far as these networks are all that is asked for. Larger before smaller.
fn regions(networks: &BTreeSet<IpNet>) -> Vec<(Block, IpAddr)> {
    let mut blocks: BTreeSet<Block> = networks.iter().filter_map(Block::of).collect();
    blocks.extend([V4, EVERYTHING]);
    let blocks: Vec<Block> = blocks.into_iter().collect();
    let own = |at: usize, block: Block| {
        let mut next = Some(block.start);
        for smaller in blocks.iter().skip(at + 1).take_while(|smaller| block.contains(smaller.start)) {
            match next {
                Some(free) if free < smaller.start => break,
                Some(free) if free <= smaller.last() => next = smaller.last().checked_add(1),
                _ => {}
            }
        }
        next.filter(|free| block.contains(*free)).map(address)
    };
    blocks.iter().enumerate().filter_map(|(at, block)| Some((*block, own(at, *block)?))).collect()
}

/// Blocks whose verdict is another than that of the block around them; the first two are there always.
type Verdicts = Vec<(Block, u32)>;

fn verdicts(regions: &[(Block, IpAddr)], denied: impl Fn(IpAddr) -> bool) -> Verdicts {
    let mut verdicts = Verdicts::new();
    let mut around: Vec<(Block, u32)> = Vec::new();
    for (block, inside) in regions {
        let verdict = if denied(*inside) { VERDICT_DENY } else { VERDICT_ALLOW };
        while around.last().is_some_and(|(outer, _)| !outer.contains(block.start)) {
            around.pop();
        }
        let same = around.last().is_some_and(|(_, outer)| *outer == verdict);
        if !same || *block == V4 {
            verdicts.push((*block, verdict));
            around.push((*block, verdict));
        }
    }
    verdicts
}

/// Rules that can deny, or let in, at this workload.
fn rules_of<'a>(snapshot: &'a Snapshot, workload: &'a WorkloadState) -> impl Iterator<Item = &'a Rule> {
    let name = workload.settings.name.as_str();
    snapshot.config.policy.iter().filter(move |rule| {
        let local = &rule.local;
        let named = local.workloads.as_ref().is_none_or(|names| names.contains(name));
        named && !local.not_workloads.contains(name) && !rule.dry_run && rule.action != Action::Audit
    })
}

fn networks_of<'a>(rules: impl Iterator<Item = &'a Rule>) -> BTreeSet<IpNet> {
    let peers = rules.flat_map(|rule| rule.peers.iter().flatten());
    peers.flat_map(|peer| peer.is.networks.iter().chain(&peer.not.networks)).copied().collect()
}

/// Adds them for every workload; none at all, and a word in the log, if there are too many.
pub(super) fn add(tables: &mut Tables, snapshot: &Snapshot) {
    let mut questions = 0;
    for workload in snapshot.workloads.values() {
        if workload.settings.is_left_alone() {
            continue;
        }
        let networks = networks_of(rules_of(snapshot, workload));
        if networks.is_empty() && !rules_of(snapshot, workload).any(|rule| rule.action == Action::Deny) {
            continue;
        }
        let regions = regions(&networks);
        let named = super::named_ports(snapshot, Some(workload));
        questions += regions.len() * (named.len() + 1);
        if questions <= MAX_QUESTIONS {
            add_workload(tables, snapshot, workload, &regions, &named);
        }
        if questions > MAX_QUESTIONS || tables.sources.len() > MAX_SOURCES {
            tracing::warn!(
                "too many networks and ports in rules for the kernel's table; the daemon refuses after the SYN instead"
            );
            tables.sources.clear();
            return;
        }
    }
}

fn add_workload(
    tables: &mut Tables,
    snapshot: &Snapshot,
    workload: &WorkloadState,
    regions: &[(Block, IpAddr)],
    named: &BTreeSet<u16>,
) {
    let at = |port: u16| {
        // The kernel does not ask about a disabled port.
        let asked = workload.settings.mode_of_port(port) != Mode::Disabled;
        verdicts(regions, |from| asked && snapshot.denied_source(workload, port, from).is_some())
    };
    let mut add = |port, verdicts: &Verdicts| {
        for (block, verdict) in verdicts {
            let key = SourceKey::new(workload.number, port, block.start.to_be_bytes());
            tables.sources.insert((SourceKey::FIXED_BITS + block.length, key), *verdict);
        }
    };
    let denies = |verdicts: &Verdicts| verdicts.iter().any(|(_, verdict)| *verdict == VERDICT_DENY);
    let others = (1..=u16::MAX).find(|port| !named.contains(port)).map(at).unwrap_or_default();
    if denies(&others) {
        add(0, &others);
    }
    for port in named {
        let own = at(*port);
        if own != others && (denies(&own) || denies(&others)) {
            add(*port, &own);
        }
    }
}

#[cfg(test)]
mod tests;
