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
const FLAGS_V4: usize = 20 + 13;
const FLAGS_V6: usize = 40 + 13;
const V4_WITHOUT_OPTIONS: u8 = 0x45;

/// A segment that leaves a direct connection.
#[inline(never)]
pub fn sends(ctx: SkBuffContext, state: &mut SocketState) -> i32 {
    let ctx = &ctx;
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
    let Some(tcp) = parse(ctx) else {
        return drop();
    };
    if state.kind != SocketKind::DirectArmed.raw() || state.received.seen & Direction::WITH_WRITER != 0 {
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

#[inline(always)]
fn violation(ctx: &SkBuffContext, state: &mut SocketState, tcp: &Tcp, sent: bool) -> i32 {
    count(Counter::DirectViolation);
    block(ctx, state, tcp, sent, EventKind::DirectViolation)
}

/// The connection is blocked for good; its end is the daemon's to make.
#[inline(always)]
fn block(ctx: &SkBuffContext, state: &mut SocketState, tcp: &Tcp, sent: bool, why: EventKind) -> i32 {
    state.kind = SocketKind::Blocked.raw();
    // SAFETY: cgroup_skb programs may ask for the socket cookie.
    let cookie = unsafe { bpf_get_socket_cookie(ctx.skb.skb.cast()) };
    let whose = event::Whose { workload: state.workload, netns: state.netns };
    let (local, remote) =
        if sent { (&tcp.source, &tcp.destination) } else { (&tcp.destination, &tcp.source) };
    let of = event::Direct { role: 0, local, remote };
    event::send_direct(why, &whose, cookie, state.destination, &of);
    DROP
}

/// A segment of a connection on which records flow. Everything that is done here is done for each one.
#[inline(always)]
pub fn flows(ctx: &SkBuffContext, state: &mut SocketState, sent: bool) -> i32 {
    let limit = state.key_limit;
    let direction = if sent { &mut state.sent } else { &mut state.received };
    direction.bytes = direction.bytes.wrapping_add(u64::from(ctx.len()));
    if limit != 0 && direction.bytes > limit {
        return key_is_used_up(SkBuffContext::new(ctx.skb.skb), state, sent);
    }
    if has_fin(ctx) {
        ended(SkBuffContext::new(ctx.skb.skb), state, sent);
    }
    PASS
}

#[inline(never)]
fn ended(ctx: SkBuffContext, state: &mut SocketState, sent: bool) {
    let direction = if sent { &mut state.sent } else { &mut state.received };
    note_fin(&ctx, direction);
}

#[inline(never)]
fn key_is_used_up(ctx: SkBuffContext, state: &mut SocketState, sent: bool) -> i32 {
    let Some(tcp) = parse(&ctx) else {
        return drop();
    };
    block(&ctx, state, &tcp, sent, EventKind::DirectKeyLimit)
}

/// Only the two bytes that tell are read, without a helper: TCP's header lies in the packet's linear part.
#[inline(always)]
fn has_fin(ctx: &SkBuffContext) -> bool {
    let skb = ctx.skb.skb;
    // SAFETY: context fields; the verifier sees that nothing behind the end is read.
    unsafe {
        let (start, end) = ((*skb).data as usize, (*skb).data_end as usize);
        if start + FLAGS_V6 < end && *(start as *const u8) >> 4 == 6 {
            return *((start + FLAGS_V6) as *const u8) & FLAG_FIN != 0;
        }
        if start + FLAGS_V4 < end && *(start as *const u8) == V4_WITHOUT_OPTIONS {
            return *((start + FLAGS_V4) as *const u8) & FLAG_FIN != 0;
        }
    }
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
