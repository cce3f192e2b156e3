//! fentry and fexit: which descriptor of which process a connect() or an accept() is about. Loaded only where a workload
//! is direct. A thread is in one such call at a time, so what is remembered is remembered by thread.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::{bpf_get_current_pid_tgid, bpf_get_socket_cookie};
use aya_ebpf::macros::{fentry, fexit};
use aya_ebpf::programs::{FEntryContext, FExitContext};
use mtls_common::{EventKind, Role, SocketKind};

use crate::maps::{ACCEPTING, CONNECTING, DIRECT_SOCKETS};
use crate::{event, storage};

#[inline(always)]
fn thread() -> u64 {
    // SAFETY: no pointer is involved.
    unsafe { bpf_get_current_pid_tgid() }
}

/// The `n`-th word of the context: an argument, or what comes behind the last one, the value that is returned.
///
/// # Safety
/// The traced function has so many arguments.
#[inline(always)]
unsafe fn word(ctx: *mut c_void, n: usize) -> u64 {
    // SAFETY: the caller's promise; the verifier checks it.
    unsafe { *ctx.cast::<u64>().add(n) }
}

/// `__sys_connect(fd, address, length)`, before the hook at connect().
#[fentry(function = "__sys_connect")]
pub fn connect_enters(ctx: FEntryContext) -> i32 {
    enters(&ctx)
}

/// The same once more: a thread that lost its processor inside the first has the kernel leave that out for the next thread
/// there (`__bpf_prog_enter_recur`).
#[fentry(function = "__sys_connect")]
pub fn connect_enters_again(ctx: FEntryContext) -> i32 {
    enters(&ctx)
}

#[inline(always)]
fn enters(ctx: &FEntryContext) -> i32 {
    // SAFETY: it has three arguments.
    let descriptor = unsafe { word(ctx.as_ptr(), 0) } as i32;
    let _ = CONNECTING.insert(&thread(), &descriptor, 0);
    0
}

/// A later connect() of this thread that does not come by the system call must not be taken for this one.
#[fexit(function = "__sys_connect")]
pub fn connect_leaves(_ctx: FExitContext) -> i32 {
    let _ = CONNECTING.remove(&thread());
    0
}

/// `inet_csk_accept(listener, argument)`, from Linux 6.10 on.
#[fexit(function = "inet_csk_accept")]
pub fn accept_takes(ctx: FExitContext) -> i32 {
    // SAFETY: it has two arguments.
    takes(unsafe { word(ctx.as_ptr(), 2) } as *mut c_void)
}

/// `inet_csk_accept(listener, flags, error, kern)`, up to Linux 6.9.
#[fexit(function = "inet_csk_accept")]
pub fn accept_takes_6_9(ctx: FExitContext) -> i32 {
    // SAFETY: it has four arguments.
    takes(unsafe { word(ctx.as_ptr(), 4) } as *mut c_void)
}

#[inline(always)]
fn takes(sk: *mut c_void) -> i32 {
    if sk.is_null() {
        return 0;
    }
    // SAFETY: a socket that the kernel returned, not null.
    let state = unsafe { storage::get(sk) };
    if !state.is_some_and(|state| SocketKind::is_direct(state.kind)) {
        let _ = ACCEPTING.remove(&thread());
        return 0;
    }
    // SAFETY: as above.
    let cookie = unsafe { bpf_get_socket_cookie(sk) };
    let _ = ACCEPTING.insert(&thread(), &cookie, 0);
    0
}

#[fexit(function = "__x64_sys_accept")]
pub fn accept_returns(ctx: FExitContext) -> i32 {
    // SAFETY: it has one argument, the registers.
    returns(unsafe { word(ctx.as_ptr(), 1) } as i32)
}

#[fexit(function = "__x64_sys_accept4")]
pub fn accept4_returns(ctx: FExitContext) -> i32 {
    // SAFETY: it has one argument, the registers.
    returns(unsafe { word(ctx.as_ptr(), 1) } as i32)
}

#[inline(always)]
fn returns(descriptor: i32) -> i32 {
    let thread = thread();
    // SAFETY: copied at once.
    let Some(cookie) = (unsafe { ACCEPTING.get(&thread) }).copied() else {
        return 0;
    };
    let _ = ACCEPTING.remove(&thread);
    if descriptor < 0 {
        return 0; // the connection is closed again
    }
    // SAFETY: copied at once.
    let Some(socket) = (unsafe { DIRECT_SOCKETS.get(&cookie) }).copied() else {
        return 0;
    };
    let whose = event::Whose { workload: socket.workload, netns: socket.netns };
    let kind = EventKind::DirectAccepted;
    if let Some(mut entry) = event::reserve(kind, &whose, cookie, socket.destination, &socket.local) {
        // SAFETY: room for an Event, whose fields are all written.
        unsafe {
            (*entry.as_mut_ptr()).source = socket.remote;
            (*entry.as_mut_ptr()).role = Role::Server as u32;
            (*entry.as_mut_ptr()).pid = (thread >> 32) as u32;
            (*entry.as_mut_ptr()).descriptor = descriptor;
        }
        entry.submit(0);
    }
    0
}
