//! Sending an event.

use aya_ebpf::bindings::BPF_RB_AVAIL_DATA;
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
        (*event).source = Endpoint::default();
        (*event).packet_len = 0;
        (*event).pid = 0;
        (*event).reserved = [0; 2];
    }
    Some(entry)
}

/// Half of the ring is for held SYNs alone: what anybody may cause in any number takes the other half.
const SHARED_ROOM: u64 = 1 << 19;

/// As [`reserve`], for a refusal. `None`, and counted, when the ring is more than half full.
#[inline(always)]
fn reserve_refusal(
    kind: EventKind,
    whose: &Whose,
    cookie: u64,
    original: &Endpoint,
) -> Option<RingBufEntry<Event>> {
    if EVENTS.query(BPF_RB_AVAIL_DATA.into()) > SHARED_ROOM {
        count(Counter::Unrecorded);
        return None;
    }
    reserve(kind, whose, cookie, 0, original)
}

/// Says that a SYN was refused.
#[inline(always)]
pub fn send_denied_source(whose: &Whose, source: &Endpoint, to: &Endpoint) {
    if let Some(mut entry) = reserve_refusal(EventKind::DeniedSource, whose, 0, to) {
        // SAFETY: room for an Event, whose fields are all written.
        unsafe { (*entry.as_mut_ptr()).source = *source };
        entry.submit(0);
    }
}

/// Says that a process without workload was refused; `pid` 0: which one is not known.
#[inline(always)]
pub fn send_unclassified(netns: u64, cookie: u64, pid: u32, source: &Endpoint, to: &Endpoint) {
    let whose = Whose { workload: 0, netns };
    if let Some(mut entry) = reserve_refusal(EventKind::Unclassified, &whose, cookie, to) {
        // SAFETY: as above.
        unsafe {
            (*entry.as_mut_ptr()).pid = pid;
            (*entry.as_mut_ptr()).source = *source;
        }
        entry.submit(0);
    }
}

/// Sends an event that carries no packet.
#[inline(always)]
pub fn send(kind: EventKind, whose: &Whose, cookie: u64, destination: u32, original: &Endpoint) {
    if let Some(entry) = reserve(kind, whose, cookie, destination, original) {
        entry.submit(0);
    }
}
