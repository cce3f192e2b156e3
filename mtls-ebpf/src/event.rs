//! Sending an event.

use aya_ebpf::maps::ring_buf::RingBufEntry;
use mtls_common::{Counter, Endpoint, Event, EventKind};

use crate::maps::{EVENTS, count};

/// Whose socket an event is about.
pub struct Whose {
    pub workload: u32,
    pub netns: u64,
}

/// Room in the ring with everything but the packet filled in. `None`, and counted, when the ring is full.
#[inline(always)]
pub fn reserve(
    kind: EventKind,
    whose: &Whose,
    cookie: u64,
    destination: u32,
    original: &Endpoint,
) -> Option<RingBufEntry<Event>> {
    let Some(mut entry) = EVENTS.reserve::<Event>(0) else {
        count(Counter::RingFull);
        return None;
    };
    let event = entry.as_mut_ptr();
    // SAFETY: the reservation is as large as an Event; every field is written once.
    unsafe {
        (*event).kind = kind as u32;
        (*event).workload = whose.workload;
        (*event).netns = whose.netns;
        (*event).cookie = cookie;
        (*event).destination = destination;
        (*event).announced = 0;
        (*event).original = *original;
        (*event).packet_len = 0;
        (*event).reserved = [0; 2];
    }
    Some(entry)
}

/// Sends an event that carries no packet.
#[inline(always)]
pub fn send(kind: EventKind, whose: &Whose, cookie: u64, destination: u32, original: &Endpoint) {
    if let Some(entry) = reserve(kind, whose, cookie, destination, original) {
        entry.submit(0);
    }
}
