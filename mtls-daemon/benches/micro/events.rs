//! Reading a record of the ring of events.

use mtls_common::{Event, EventKind};
use mtls_daemon::capture::CaptureEvent;
use mtls_daemon::capture::events::What;

use crate::suite::Suite;

const COUNTED: u32 = 10_000;

pub fn add(suite: &mut Suite) {
    suite.bench("events/held-syn", COUNTED, || {
        let record = record(EventKind::Held, &syn());
        assert!(matches!(CaptureEvent::read(&record).unwrap().what, What::Held { again: false, .. }));
        move || CaptureEvent::read(&record)
    });
    suite.bench("events/denied", COUNTED, || {
        let record = record(EventKind::DeniedPolicy, &[]);
        assert_eq!(CaptureEvent::read(&record).unwrap().what, What::DeniedPolicy);
        move || CaptureEvent::read(&record)
    });
}

/// As the programs write it; the layout is that of [`Event`].
fn record(kind: EventKind, packet: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend((kind as u32).to_ne_bytes());
    bytes.extend(7u32.to_ne_bytes());
    bytes.extend(8u64.to_ne_bytes());
    bytes.extend(9u64.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend(std::net::Ipv4Addr::new(10, 0, 0, 2).to_ipv6_mapped().octets());
    bytes.extend(5432u16.to_ne_bytes());
    bytes.extend([0; 2]);
    bytes.extend([0; size_of::<mtls_common::Endpoint>()]);
    bytes.extend(u32::try_from(packet.len()).unwrap().to_ne_bytes());
    bytes.extend(packet);
    bytes.resize(size_of::<Event>(), 0);
    bytes
}

/// IPv4, and TCP with the 20 bytes of options that Linux sends.
fn syn() -> Vec<u8> {
    const SYN: u8 = 2;
    let mut packet = vec![0x45, 0, 0, 60, 0, 0, 0x40, 0, 64, 6, 0, 0, 10, 0, 0, 1, 127, 0, 0, 1];
    packet.extend(41_000u16.to_be_bytes());
    packet.extend(15_001u16.to_be_bytes());
    packet.extend([0; 8]);
    packet.extend([10 << 4, SYN, 0xff, 0xff, 0, 0, 0, 0]);
    packet.extend([0; 20]);
    packet
}
