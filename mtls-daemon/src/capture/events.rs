//! Hearing from the programs: the ring of events, and their log.

use std::net::SocketAddr;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use mtls_common::{Endpoint, Event, EventKind, Role, UNREPORTED};
use tokio::io::unix::AsyncFd;

use super::address::socket_address;
use super::error::CaptureError;
use super::packet::HeldSyn;
use crate::sys;

/// What happened in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CaptureEvent {
    /// The workload's number.
    pub workload: u32,
    /// The socket's cookie.
    pub cookie: u64,
    /// The namespace's cookie.
    pub netns: u64,
    /// The destination that the application asked for.
    pub destination: SocketAddr,
    /// What happened.
    pub what: What,
}

/// The kinds of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// A captured connection waits for an answer.
    Held {
        /// Its first packet.
        syn: HeldSyn,
        /// True when the kernel sent it again.
        again: bool,
        /// It could have been direct, but no program saw the system call of its connect().
        unreported: bool,
    },
    /// The application gave up waiting.
    Abandoned,
    /// Refused by policy at connect().
    DeniedPolicy,
    /// Refused because the directory does not know the destination.
    DeniedUnknown,
    /// The guard dropped what no captured connection accounts for.
    Unaccounted,
    /// The daemon is not in the namespace of a strict workload.
    NotEntered,
    /// A SYN was refused for where it comes from; `destination` is the workload's address.
    DeniedSource {
        /// The client.
        from: SocketAddr,
    },
    /// A process that belongs to no workload was refused.
    Unclassified {
        /// The process, where it called connect().
        pid: Option<u32>,
        /// Its own end, where it is known.
        from: Option<SocketAddr>,
    },
    /// Something about a direct connection, or one that shall become it; `destination` is the server's end.
    Direct(DirectEvent),
}

/// Who called connect() or accept().
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The process (thread group).
    pub pid: u32,
    /// The number that the socket has there, unless it was closed since.
    pub descriptor: i32,
}

/// What happened to a direct connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DirectEvent {
    /// connect() was called: the SYN to the true address waits.
    Syn {
        /// Its packet; [`HeldSyn::listener`] is the true address.
        syn: HeldSyn,
        /// True when the kernel sent it again.
        again: bool,
        /// Who called.
        caller: Caller,
    },
    /// TCP's handshake is over; the socket is held and its guard closed.
    Established {
        /// Which end it is.
        role: Role,
        /// The client's end.
        client: SocketAddr,
    },
    /// accept() returned it.
    Accepted {
        /// The client's end.
        client: SocketAddr,
        /// To whom.
        caller: Caller,
    },
    /// The socket is closed, also where it never was established.
    Ended {
        /// Which end it was.
        role: Role,
        /// The client's end.
        client: SocketAddr,
        /// Bytes that TCP sent, acknowledged or not.
        sent: u64,
        /// Bytes that TCP received in order.
        received: u64,
    },
    /// The first bytes in a direction were no TLS record: the guard has closed for good.
    Violation {
        /// The client's end.
        client: SocketAddr,
    },
    /// A key has protected as many bytes as it may: the guard has closed for good.
    KeyLimit {
        /// The client's end.
        client: SocketAddr,
    },
}

/// The ring, read as it fills.
pub struct EventStream {
    ring: AsyncFd<RingBuf<MapData>>,
}

impl EventStream {
    /// Opens the ring and throws away what was meant for an earlier daemon.
    pub(super) fn open(mut ring: RingBuf<MapData>) -> Result<Self, CaptureError> {
        while ring.next().is_some() {}
        let ring = sys::poll::ring(ring).map_err(|source| CaptureError::NotPermitted {
            what: "watch the ring of events".to_owned(),
            source,
        })?;
        Ok(Self { ring })
    }

    /// Waits for events and hands over every one that is there.
    ///
    /// # Errors
    /// When the descriptor can no longer be polled.
    pub async fn next(&mut self, mut handle: impl FnMut(CaptureEvent)) -> std::io::Result<()> {
        let mut ready = self.ring.readable_mut().await?;
        let ring = ready.get_inner_mut();
        while let Some(record) = ring.next() {
            match CaptureEvent::read(&record) {
                Some(event) => handle(event),
                None => {
                    tracing::warn!(length = record.len(), "an eBPF event that cannot be read was dropped")
                }
            }
        }
        ready.clear_ready();
        Ok(())
    }
}

impl CaptureEvent {
    /// Reads a record as the programs put it into the ring (an [`Event`] in memory order). `None`: it has another
    /// length, a kind that this version does not know, or announces a held SYN without holding one.
    #[must_use]
    pub fn read(record: &[u8]) -> Option<Self> {
        let event = fields(record)?;
        let what = match EventKind::from_raw(event.kind)? {
            EventKind::Held => What::Held {
                syn: held(&event)?,
                again: event.announced > 0,
                unreported: event.descriptor == UNREPORTED,
            },
            EventKind::Abandoned => What::Abandoned,
            EventKind::DeniedPolicy => What::DeniedPolicy,
            EventKind::DeniedUnknown => What::DeniedUnknown,
            EventKind::Unaccounted => What::Unaccounted,
            EventKind::NotEntered => What::NotEntered,
            EventKind::DeniedSource => What::DeniedSource { from: socket_address(&event.source) },
            EventKind::Unclassified => What::Unclassified {
                pid: (event.pid != 0).then_some(event.pid),
                from: (event.source.port != 0).then(|| socket_address(&event.source)),
            },
            kind => What::Direct(direct(kind, &event)?),
        };
        Some(Self {
            workload: event.workload,
            cookie: event.cookie,
            netns: event.netns,
            destination: socket_address(&event.original),
            what,
        })
    }
}

fn held(event: &Event) -> Option<HeldSyn> {
    HeldSyn::parse(event.packet.get(..usize::try_from(event.packet_len).ok()?)?)
}

/// `None`: not the kind of a direct connection's event, or without what belongs to it.
fn direct(kind: EventKind, event: &Event) -> Option<DirectEvent> {
    let client = socket_address(&event.source);
    let caller = Caller { pid: event.pid, descriptor: event.descriptor };
    match kind {
        EventKind::DirectSyn => {
            Some(DirectEvent::Syn { syn: held(event)?, again: event.announced > 0, caller })
        }
        EventKind::DirectEstablished => {
            Some(DirectEvent::Established { role: Role::from_raw(event.role)?, client })
        }
        EventKind::DirectAccepted => Some(DirectEvent::Accepted { client, caller }),
        EventKind::DirectEnded => Some(DirectEvent::Ended {
            role: Role::from_raw(event.role)?,
            client,
            sent: event.sent,
            received: event.received,
        }),
        EventKind::DirectViolation => Some(DirectEvent::Violation { client }),
        EventKind::DirectKeyLimit => Some(DirectEvent::KeyLimit { client }),
        _ => None,
    }
}

/// Field by field, so that a record of another length is refused instead of read past its end.
fn fields(record: &[u8]) -> Option<Event> {
    (record.len() == size_of::<Event>()).then_some(())?;
    let mut at = 0;
    let mut take = |length: usize| {
        let bytes = record.get(at..at + length);
        at += length;
        bytes
    };
    let mut word = || take(4)?.try_into().ok().map(u32::from_ne_bytes);
    let (kind, workload) = (word()?, word()?);
    let mut long = || take(8)?.try_into().ok().map(u64::from_ne_bytes);
    let (cookie, netns) = (long()?, long()?);
    let mut word = || take(4)?.try_into().ok().map(u32::from_ne_bytes);
    let (destination, announced) = (word()?, word()?);
    let mut endpoint = || {
        let address = take(16)?.try_into().ok()?;
        let port = u16::from_ne_bytes(take(2)?.try_into().ok()?);
        take(2)?;
        Some(Endpoint { address, port, reserved: 0 })
    };
    let (original, source) = (endpoint()?, endpoint()?);
    let packet_len = u32::from_ne_bytes(take(4)?.try_into().ok()?);
    let packet = take(mtls_common::SYN_CAPACITY)?.try_into().ok()?;
    let pid = u32::from_ne_bytes(take(4)?.try_into().ok()?);
    let mut long = || take(8)?.try_into().ok().map(u64::from_ne_bytes);
    let (sent, received) = (long()?, long()?);
    let descriptor = i32::from_ne_bytes(take(4)?.try_into().ok()?);
    let role = u32::from_ne_bytes(take(4)?.try_into().ok()?);
    Some(Event {
        kind,
        workload,
        cookie,
        netns,
        destination,
        announced,
        original,
        source,
        packet_len,
        packet,
        pid,
        sent,
        received,
        descriptor,
        role,
    })
}

/// Forwards the programs' own log to `tracing` (through the `log` facade).
pub(super) fn forward_log(object: &mut Ebpf) {
    let logger = match EbpfLogger::init(object) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::warn!(%error, "the eBPF programs' log cannot be read; going on without it");
            return;
        }
    };
    let mut logger = match sys::poll::log(logger) {
        Ok(logger) => logger,
        Err(error) => {
            tracing::warn!(%error, "the eBPF programs' log cannot be watched; going on without it");
            return;
        }
    };
    tokio::spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
            // A chatty log must not take a whole core.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u32, packet: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(7u32.to_ne_bytes());
        bytes.extend(8u64.to_ne_bytes());
        bytes.extend(9u64.to_ne_bytes());
        bytes.extend(3u32.to_ne_bytes());
        bytes.extend(0u32.to_ne_bytes());
        bytes.extend(std::net::Ipv4Addr::new(10, 0, 0, 2).to_ipv6_mapped().octets());
        bytes.extend(80u16.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(std::net::Ipv4Addr::new(10, 0, 0, 3).to_ipv6_mapped().octets());
        bytes.extend(4000u16.to_ne_bytes());
        bytes.extend([0; 2]);
        bytes.extend(u32::try_from(packet.len()).unwrap().to_ne_bytes());
        bytes.extend(packet);
        bytes.resize(size_of::<Event>(), 0);
        bytes
    }

    #[test]
    fn a_record_is_read_as_the_programs_wrote_it() {
        let event = CaptureEvent::read(&record(EventKind::DeniedPolicy as u32, &[])).unwrap();
        assert_eq!((event.workload, event.cookie, event.netns), (7, 8, 9));
        assert_eq!(event.destination, "10.0.0.2:80".parse().unwrap());
        assert_eq!(event.what, What::DeniedPolicy);
        let from = "10.0.0.3:4000".parse().unwrap();
        let denied = CaptureEvent::read(&record(EventKind::DeniedSource as u32, &[])).unwrap();
        assert_eq!(denied.what, What::DeniedSource { from });
        let mut unclassified = record(EventKind::Unclassified as u32, &[]);
        let pid = std::mem::offset_of!(Event, pid);
        unclassified[pid..pid + 4].copy_from_slice(&77u32.to_ne_bytes());
        let unclassified = CaptureEvent::read(&unclassified).unwrap();
        assert_eq!(unclassified.what, What::Unclassified { pid: Some(77), from: Some(from) });
    }

    #[test]
    fn a_held_connection_says_whether_its_connect_was_reported() {
        let syn = crate::capture::packet::tests::syn_v4();
        for (descriptor, expected) in [(0, false), (UNREPORTED, true)] {
            let mut bytes = record(EventKind::Held as u32, &syn);
            let at = std::mem::offset_of!(Event, descriptor);
            bytes[at..at + 4].copy_from_slice(&i32::to_ne_bytes(descriptor));
            let What::Held { unreported, .. } = CaptureEvent::read(&bytes).unwrap().what else { panic!() };
            assert_eq!(unreported, expected);
        }
    }

    /// A record of a direct connection with everything set.
    fn direct_record(kind: EventKind, role: u32) -> Vec<u8> {
        let mut bytes = record(kind as u32, &[]);
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(std::mem::offset_of!(Event, pid), &77u32.to_ne_bytes());
        put(std::mem::offset_of!(Event, sent), &(1u64 << 40).to_ne_bytes());
        put(std::mem::offset_of!(Event, received), &5u64.to_ne_bytes());
        put(std::mem::offset_of!(Event, descriptor), &12i32.to_ne_bytes());
        put(std::mem::offset_of!(Event, role), &role.to_ne_bytes());
        bytes
    }

    #[test]
    fn the_events_of_direct_connections_are_read_with_what_belongs_to_each() {
        let client = "10.0.0.3:4000".parse().unwrap();
        let caller = Caller { pid: 77, descriptor: 12 };
        let role = Role::Server;
        for (kind, wanted) in [
            (EventKind::DirectEstablished, DirectEvent::Established { role, client }),
            (EventKind::DirectAccepted, DirectEvent::Accepted { client, caller }),
            (EventKind::DirectEnded, DirectEvent::Ended { role, client, sent: 1 << 40, received: 5 }),
            (EventKind::DirectViolation, DirectEvent::Violation { client }),
            (EventKind::DirectKeyLimit, DirectEvent::KeyLimit { client }),
        ] {
            let event = CaptureEvent::read(&direct_record(kind, role as u32)).unwrap();
            assert_eq!(event.what, What::Direct(wanted));
            assert_eq!(event.destination, "10.0.0.2:80".parse().unwrap());
        }
    }

    #[test]
    fn a_direct_event_of_an_unknown_role_or_without_its_syn_is_refused() {
        assert!(CaptureEvent::read(&direct_record(EventKind::DirectEnded, 9)).is_none());
        assert!(CaptureEvent::read(&direct_record(EventKind::DirectEstablished, 0)).is_none());
        assert!(CaptureEvent::read(&direct_record(EventKind::DirectSyn, 1)).is_none());
    }

    #[test]
    fn short_long_unknown_and_overlong_records_are_refused() {
        let good = record(EventKind::Abandoned as u32, &[]);
        assert!(CaptureEvent::read(&good[..good.len() - 1]).is_none());
        assert!(CaptureEvent::read(&[good.clone(), vec![0]].concat()).is_none());
        assert!(CaptureEvent::read(&record(99, &[])).is_none());
        assert!(CaptureEvent::read(&record(EventKind::Held as u32, &[0x45; 10])).is_none(), "no whole SYN");
        let mut overlong = record(EventKind::Held as u32, &[]);
        let length = std::mem::offset_of!(Event, packet_len);
        overlong[length..length + 4].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert!(CaptureEvent::read(&overlong).is_none());
    }
}
