//! sk_lookup, one instance per enrolled namespace: a SYN for a workload's port goes to the daemon's inbound
//! listener, whose accepted socket keeps the original destination as its own address.

use aya_ebpf::bindings::sk_action::{SK_DROP, SK_PASS};
use aya_ebpf::macros::sk_lookup;
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::SkLookupContext;
use mtls_common::{
    Counter, DeliveryKey, Endpoint, ListenerKey, PortMode, SharedPort, SourceKey, VERDICT_DENY, WorkloadPort,
    workload_flags,
};

use crate::address::{endpoint, from_v4, from_v6, is_always_excluded, words};
use crate::maps::{
    BOUND, DELIVERIES, LISTENERS, NAMESPACES, PORT_MODES, SHARED_PORTS, SOURCES, WORKLOADS, count, settings,
};
use crate::{event, expected, features, probe};

const AF_INET: u32 = 2;
const IPPROTO_TCP: u32 = 6;

#[sk_lookup]
pub fn steer_inbound(ctx: SkLookupContext) -> u32 {
    steer(&ctx).unwrap_or(SK_PASS)
}

/// `None`: the kernel looks for a listener as if we were not there.
#[inline(always)]
fn steer(ctx: &SkLookupContext) -> Option<u32> {
    let lookup = ctx.lookup;
    // SAFETY: context fields.
    let (protocol, family, port) =
        unsafe { ((*lookup).protocol, (*lookup).family, (*lookup).local_port as u16) };
    if protocol != IPPROTO_TCP {
        return None;
    }
    let to = local(ctx, family, port);
    if is_always_excluded(&to.address) {
        return None;
    }
    let netns = features::netns_cookie();
    // SAFETY: copied at once.
    let namespace = unsafe { *NAMESPACES.get(&netns)? };
    // Not by the interface: for a local address the kernel reports the interface that has the address.
    if is_delivery(ctx, netns, family, to) {
        return None;
    }
    let mut workload = namespace.workload;
    let shared = SharedPort { netns, port, reserved: [0; 3] };
    // SAFETY: copied at once.
    if let Some(owner) = unsafe { SHARED_PORTS.get(&shared) } {
        workload = *owner;
    }
    if workload == 0 {
        return unlearned(&shared);
    }
    let settings = settings(workload);
    // SAFETY: copied at once.
    let mode = unsafe { PORT_MODES.get(&WorkloadPort { workload, port, reserved: 0 }) }
        .copied()
        .unwrap_or(settings.default_mode);
    if mode == PortMode::Disabled.raw() {
        count(Counter::InboundUntouched);
        return None;
    }
    let from = remote(ctx, family);
    if settings.is_direct(netns) && expected::is_live(&DeliveryKey { netns, from, to }) {
        count(Counter::DirectExpected);
        return None;
    }
    if probe::is_due(workload, from, to) {
        count(Counter::Probed);
        return None;
    }
    if is_denied(workload, port, from.address) {
        count(Counter::DeniedSource);
        event::send_denied_source(&event::Whose { workload, netns }, &from, &to);
        return Some(SK_DROP); // the kernel answers with RST
    }
    let key = ListenerKey { netns, family, reserved: 0 };
    if LISTENERS.redirect_sk_lookup(ctx, key, 0).is_ok() {
        count(Counter::Steered);
        return Some(SK_PASS);
    }
    if mode == PortMode::Strict.raw() || settings.flags & workload_flags::STRICT != 0 {
        count(Counter::SteerRefused);
        return Some(SK_DROP);
    }
    None
}

/// A port of a workload that names none, before user space has seen it: refused where it asks for a certificate, as a port is that
/// nobody listens on yet.
#[inline(always)]
fn unlearned(port: &SharedPort) -> Option<u32> {
    // SAFETY: copied at once. A number without settings is that of a workload which is none any more.
    let (workload, settings) = unsafe {
        let workload = *BOUND.get(port)?;
        (workload, WORKLOADS.get(&workload)?)
    };
    if settings.flags & workload_flags::LEARNS == 0 {
        return None;
    }
    // SAFETY: copied at once.
    let mode = unsafe { PORT_MODES.get(&WorkloadPort { workload, port: port.port, reserved: 0 }) };
    if mode.copied().unwrap_or(settings.default_mode) != PortMode::Strict.raw() {
        return None;
    }
    count(Counter::SteerRefused);
    Some(SK_DROP)
}

/// What the port says of this address, else what all ports do that say nothing of any.
#[inline(always)]
fn is_denied(workload: u32, port: u16, from: [u8; 16]) -> bool {
    const BITS: u32 = SourceKey::FIXED_BITS + 128;
    if let Some(verdict) = SOURCES.get(&Key::new(BITS, SourceKey::new(workload, port, from))) {
        return *verdict == VERDICT_DENY;
    }
    SOURCES.get(&Key::new(BITS, SourceKey::new(workload, 0, from))).copied() == Some(VERDICT_DENY)
}

#[inline(always)]
fn is_delivery(ctx: &SkLookupContext, netns: u64, family: u32, to: Endpoint) -> bool {
    let from = remote(ctx, family);
    // SAFETY: only presence is asked for.
    unsafe { DELIVERIES.get(&DeliveryKey { netns, from, to }) }.is_some()
}

#[inline(always)]
fn local(ctx: &SkLookupContext, family: u32, port: u16) -> Endpoint {
    let lookup = ctx.lookup;
    // SAFETY: context fields, word by word.
    unsafe {
        if family == AF_INET {
            return endpoint(from_v4((*lookup).local_ip4), port);
        }
        let ip = &raw const (*lookup).local_ip6;
        endpoint(from_v6(words(ip)), port)
    }
}

#[inline(always)]
fn remote(ctx: &SkLookupContext, family: u32) -> Endpoint {
    let lookup = ctx.lookup;
    // SAFETY: context fields, word by word.
    unsafe {
        let port = u16::from_be((*lookup).remote_port);
        if family == AF_INET {
            return endpoint(from_v4((*lookup).remote_ip4), port);
        }
        let ip = &raw const (*lookup).remote_ip6;
        endpoint(from_v6(words(ip)), port)
    }
}
