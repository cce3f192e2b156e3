//! Which workload has an address, among few and many addresses and one network.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use mtls_daemon::config::{Config, DirectoryEntry, Source};
use mtls_daemon::directory::{DestinationId, Directory};

use crate::suite::Suite;

const COUNTED: u32 = 10_000;
const ADDRESSES: [u32; 3] = [10, 1_000, 100_000];
const PODS: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 0);
const NOBODY: Ipv4Addr = Ipv4Addr::new(11, 0, 0, 0);

pub fn add(suite: &mut Suite) {
    for count in ADDRESSES {
        suite.bench(&format!("directory/hit/{count}"), COUNTED, || look_up(count, PODS));
        suite.bench(&format!("directory/miss/{count}"), COUNTED, || look_up(count, NOBODY));
    }
}

/// Asks for every address of the block in turn.
fn look_up(count: u32, block: Ipv4Addr) -> impl FnMut() -> Option<DestinationId> {
    let directory = directory(count);
    let look_up = move |n| directory.lookup(address(block, n), 5432).map(|found| found.id);
    assert!((0..count).all(|n| look_up(n).is_some() == (block == PODS)));
    let mut next = 0;
    move || {
        let n = next;
        next = (next + 1) % count;
        look_up(n)
    }
}

fn address(block: Ipv4Addr, n: u32) -> IpAddr {
    Ipv4Addr::from_bits(block.to_bits() + n).into()
}

fn directory(count: u32) -> Directory {
    let text = "trust_domain: example.org\n\
                directory: [{ name: net, addresses: [192.168.0.0/16], spiffe_ids: ['spiffe://example.org/net'] }]\n";
    let source = Source { path: PathBuf::from("bench"), text: text.to_owned() };
    let mut config = Config::parse(&source, &[]).unwrap();
    config.directory.extend((0..count).map(|n| DirectoryEntry {
        name: format!("pod-{n}"),
        addresses: vec![address(PODS, n).into()],
        ports: None,
        spiffe_ids: vec![format!("spiffe://example.org/pod/{n}").parse().unwrap()],
        dns_names: vec![],
        node: None,
        left_alone: std::collections::BTreeSet::new(),
    }));
    Directory::from_config(&config)
}
