//! Sending an event.

use aya_ebpf::bindings::BPF_RB_AVAIL_DATA;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use mtls_common::{Counter, Endpoint, Event, EventKind, Role};

use crate::maps::{DIRECT_SOCKETS, EVENTS, count};

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
        (*event).sent = 0;
        (*event).received = 0;
        (*event).descriptor = 0;
        (*event).role = 0;
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

/// The two ends of a direct connection.
pub struct Direct<'a> {
    /// A [`Role`]; 0 where DIRECT_SOCKETS knows it.
    pub role: u32,
    pub local: &'a Endpoint,
    pub remote: &'a Endpoint,
}

/// Sends an event about a direct connection.
#[inline(always)]
pub fn send_direct(kind: EventKind, whose: &Whose, cookie: u64, destination: u32, of: &Direct<'_>) {
    let role = match of.role {
        // SAFETY: copied at once.
        0 => unsafe { DIRECT_SOCKETS.get(&cookie) }.map_or(0, |socket| socket.role),
        role => role,
    };
    let (server, client) =
        if role == Role::Server as u32 { (of.local, of.remote) } else { (of.remote, of.local) };
    if let Some(mut entry) = reserve(kind, whose, cookie, destination, server) {
        // SAFETY: room for an Event, whose fields are all written.
        unsafe {
            (*entry.as_mut_ptr()).source = *client;
            (*entry.as_mut_ptr()).role = role;
        }
        entry.submit(0);
    }
}
