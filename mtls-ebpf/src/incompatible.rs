//! What programs do with a direct socket that goes with plain TCP only (docs/direct.md): counted, and never prevented.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::fentry;
use aya_ebpf::programs::FEntryContext;
use mtls_common::{Counter, SocketKind};

use crate::hold::SOL_TCP;
use crate::maps::count;
use crate::storage;

const SOL_SOCKET: i32 = 1;
/// Asks for MSG_ZEROCOPY, which kTLS refuses.
const SO_ZEROCOPY: i32 = 60;
/// Reads and writes TCP's queues, whose bytes are encrypted.
const TCP_REPAIR: i32 = 19;
/// Has recv() say how many bytes wait: encrypted ones.
const TCP_INQ: i32 = 36;
/// The same by ioctl(): FIONREAD.
const SIOCINQ: u32 = 0x541b;

/// What this setsockopt() is counted as on a direct socket.
#[inline(always)]
pub fn counter(level: i32, name: i32) -> Option<Counter> {
    match (level, name) {
        (SOL_SOCKET, SO_ZEROCOPY) => Some(Counter::DirectZerocopy),
        (SOL_TCP, TCP_REPAIR) => Some(Counter::DirectRepair),
        (SOL_TCP, TCP_INQ) => Some(Counter::DirectBytesAsked),
        _ => None,
    }
}

/// Counts it, if the socket is direct.
///
/// # Safety
/// As [`storage::get`].
#[inline(always)]
pub unsafe fn note(sk: *mut c_void, counter: Counter) {
    // SAFETY: the caller's promise.
    if unsafe { storage::get(sk) }.is_some_and(|state| SocketKind::is_direct(state.kind)) {
        count(counter);
    }
}

/// `tcp_ioctl(sk, command, argument)`.
#[fentry(function = "tcp_ioctl")]
pub fn bytes_are_asked(ctx: FEntryContext) -> i32 {
    let words = ctx.as_ptr().cast::<u64>();
    // SAFETY: it has three arguments; the verifier checks it.
    let (sk, command) = unsafe { (*words as *mut c_void, *words.add(1) as u32) };
    if command == SIOCINQ && !sk.is_null() {
        // SAFETY: a socket that the kernel gave, not null.
        unsafe { note(sk, Counter::DirectBytesAsked) };
    }
    0
}
