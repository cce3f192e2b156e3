//! What a direct connection may send and receive: nothing until it is armed, TLS records from then on.

use aya_ebpf::helpers::generated::bpf_get_socket_cookie;
use aya_ebpf::programs::SkBuffContext;
use mtls_common::{Counter, Direction, EventKind, SocketKind, SocketState};

use crate::egress::{DROP, PASS};
use crate::event;
use crate::maps::count;
use crate::packet::{FLAG_FIN, Tcp, parse};

/// RFC 8446, section 5.2: opaque_type, legacy_record_version, and the largest length.
const APPLICATION_DATA: u8 = 23;
const LEGACY_VERSION: u16 = 0x0303;
const LARGEST_RECORD: u16 = (1 << 14) + 256;
/// IPv4's header of 20 bytes; FIN is looked for before anything else is.
const FLAGS_IN_TCP: u32 = 13;

/// A segment that leaves a direct connection.
#[inline(never)]
pub fn sends(ctx: SkBuffContext, state: &mut SocketState) -> i32 {
    let ctx = &ctx;
    if state.kind == SocketKind::DirectFlowing.raw() {
        if has_fin(ctx) {
            note_fin(ctx, &mut state.sent);
        }
        return PASS;
    }
    let Some(tcp) = parse(ctx) else {
        return drop();
    };
    if state.kind != SocketKind::DirectArmed.raw() {
        // TCP sends a FIN again, too; the application has what it wrote before it still held.
        return if tcp.has_payload || tcp.flags & FLAG_FIN != 0 { drop() } else { PASS };
    }
    let verdict = match first_record(ctx, &tcp, &state.sent) {
        First::Record => {
            state.sent.seen |= Direction::RECORD;
            flow(state)
        }
        First::Seen => PASS,
        First::Other => return drop(),
        First::Violation => return violation(ctx, state, &tcp, true),
    };
    if tcp.flags & FLAG_FIN != 0 {
        note_fin(ctx, &mut state.sent);
    }
    verdict
}

/// A segment that comes to a direct connection.
#[inline(never)]
pub fn receives(ctx: SkBuffContext, state: &mut SocketState) -> i32 {
    let ctx = &ctx;
    if state.kind == SocketKind::DirectFlowing.raw() {
        if has_fin(ctx) {
            note_fin(ctx, &mut state.received);
        }
        return PASS;
    }
    let Some(tcp) = parse(ctx) else {
        return drop();
    };
    if state.kind != SocketKind::DirectArmed.raw() {
        return if tcp.has_payload || tcp.flags & FLAG_FIN != 0 { drop() } else { PASS };
    }
    let verdict = match first_record(ctx, &tcp, &state.received) {
        First::Record => {
            state.received.seen |= Direction::RECORD;
            flow(state)
        }
        First::Seen => PASS,
        First::Other => return drop(),
        First::Violation => return violation(ctx, state, &tcp, false),
    };
    if tcp.flags & FLAG_FIN != 0 {
        note_fin(ctx, &mut state.received);
    }
    verdict
}

#[inline(always)]
fn drop() -> i32 {
    count(Counter::DirectGuardDropped);
    DROP
}

#[inline(always)]
fn flow(state: &mut SocketState) -> i32 {
    if state.sent.seen & state.received.seen & Direction::RECORD != 0 {
        state.kind = SocketKind::DirectFlowing.raw();
    }
    PASS
}

/// What a segment is to a direction whose first bytes must be a TLS record.
enum First {
    /// The record was seen before, or there is no payload.
    Seen,
    /// The first bytes, and they are one.
    Record,
    /// Later bytes that came first, earlier ones, or too few to tell: TCP sends them again.
    Other,
    /// The first bytes, and they are none.
    Violation,
}

#[inline(always)]
fn first_record(ctx: &SkBuffContext, tcp: &Tcp, direction: &Direction) -> First {
    if !tcp.has_payload || direction.seen & Direction::RECORD != 0 {
        return First::Seen;
    }
    if tcp.sequence(ctx) != Some(direction.first) {
        return First::Other;
    }
    let at = tcp.header_end as usize;
    let Ok(header) = ctx.load::<[u8; 5]>(at) else {
        return First::Other;
    };
    let [kind, major, minor, high, low] = header;
    let length = u16::from_be_bytes([high, low]);
    if kind == APPLICATION_DATA
        && u16::from_be_bytes([major, minor]) == LEGACY_VERSION
        && length <= LARGEST_RECORD
    {
        First::Record
    } else {
        First::Violation
    }
}

/// The connection is blocked for good; its end is the daemon's to make.
#[inline(always)]
fn violation(ctx: &SkBuffContext, state: &mut SocketState, tcp: &Tcp, sent: bool) -> i32 {
    state.kind = SocketKind::Blocked.raw();
    count(Counter::DirectViolation);
    // SAFETY: cgroup_skb programs may ask for the socket cookie.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    let whose = event::Whose { workload: state.workload, netns: state.netns };
    let (local, remote) =
        if sent { (&tcp.source, &tcp.destination) } else { (&tcp.destination, &tcp.source) };
    let of = event::Direct { role: 0, local, remote };
    event::send_direct(EventKind::DirectViolation, &whose, cookie, state.destination, &of);
    DROP
}

/// Only the two bytes that tell are read: this is looked at in every segment.
#[inline(always)]
fn has_fin(ctx: &SkBuffContext) -> bool {
    let Ok(first) = ctx.load::<u8>(0) else {
        return false;
    };
    let at = if first >> 4 == 4 { u32::from(first & 0xf) * 4 } else { 40 };
    ctx.load::<u8>((at + FLAGS_IN_TCP) as usize).is_ok_and(|flags| flags & FLAG_FIN != 0)
}

/// Remembers where the stream ends, so that the FIN is not counted as a byte of it.
#[inline(always)]
fn note_fin(ctx: &SkBuffContext, direction: &mut Direction) {
    let Some(tcp) = parse(ctx) else {
        return;
    };
    let Some(sequence) = tcp.sequence(ctx) else {
        return;
    };
    direction.fin = sequence.wrapping_add(ctx.len().wrapping_sub(tcp.header_end)).wrapping_add(1);
    direction.seen |= Direction::FIN;
}
