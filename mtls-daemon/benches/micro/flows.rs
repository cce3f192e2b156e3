//! What remembering flows costs each connection: one that is known, and one that takes the place of another.

use mtls_daemon::config;
use mtls_daemon::flows::{Channel, Flows, Outcome, Tuple};
use mtls_daemon::identity::PeerName;
use mtls_daemon::observe::Direction;

use crate::suite::Suite;

const COUNTED: u32 = 10_000;
const ENTRIES: u32 = 65_536;

pub fn add(suite: &mut Suite) {
    suite.bench("flows/known", COUNTED, || {
        let (flows, names) = full();
        let mut next = 0;
        move || {
            note(&flows, &names[next], 0);
            next = (next + 1) % names.len();
        }
    });
    suite.bench("flows/new-when-full", COUNTED, || {
        let (flows, names) = full();
        assert_eq!(flows.counts().0, names.len());
        let mut address = 0;
        move || {
            address += 1;
            note(&flows, &names[0], address);
        }
    });
}

fn note(flows: &Flows, name: &PeerName, address: u32) {
    let tuple =
        Tuple::unproven(Direction::Inbound, "db", 5432, address.to_be_bytes().into(), Channel::MutualTls);
    flows.note(&Tuple { name: Some(name), ..tuple }, &Outcome::allowed("web-to-db"));
}

/// A store with no room left, and who is in it.
fn full() -> (Flows, Vec<PeerName>) {
    let keep = Some(std::time::Duration::from_secs(86_400));
    let flows = Flows::new(config::Flows { entries: ENTRIES, keep }, None);
    let name = |n| PeerName::Spiffe(format!("spiffe://example.org/app/{n:05}/web").parse().unwrap());
    let names: Vec<_> = (0..ENTRIES).map(name).collect();
    names.iter().for_each(|name| note(&flows, name, 0));
    (flows, names)
}
