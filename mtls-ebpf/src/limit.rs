//! cgroup/setsockopt, attached from when a workload is direct: TCP_NOTSENT_LOWAT is what holds a direct connection, so the
//! application's own value is kept until the hold ends, and never more than what the daemon has found safe. Options that do
//! not go with TLS are counted here, too.
//!
//! It runs under the socket's lock, as connect() and sock_ops do, and sets the option itself: were that left to the kernel,
//! which takes the lock once more, the socket could have become a held one in between.

use core::ffi::c_void;

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{BPF_SK_STORAGE_GET_F_CREATE, BPF_TCP_CLOSE, BPF_TCP_LISTEN};
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_setsockopt, bpf_sk_storage_get};
use aya_ebpf::macros::cgroup_sockopt;
use aya_ebpf::programs::SockoptContext;
use mtls_common::{LetGo, SocketKind, UnsentLimit};

use crate::hold::{SOL_TCP, TCP_NOTSENT_LOWAT, owner_in};
use crate::maps::LIMITS;
use crate::{expected, incompatible, storage};

/// The kernel goes on with the option.
const GO_ON: i32 = 1;
/// setsockopt() fails with EPERM.
const REFUSED: i32 = 0;
/// `optlen` of an option that is done: setsockopt() succeeds.
const DONE: i32 = -1;
const IPPROTO_TCP: u32 = 6;

#[cgroup_sockopt(setsockopt)]
pub fn unsent_limit(ctx: SockoptContext) -> i32 {
    // SAFETY: context fields.
    let (level, name) = unsafe { ((*ctx.sockopt).level, (*ctx.sockopt).optname) };
    let is_limit = level == SOL_TCP && name == TCP_NOTSENT_LOWAT;
    let unfit = incompatible::counter(level, name);
    if !is_limit && unfit.is_none() {
        return GO_ON;
    }
    // SAFETY: context field.
    let sk = unsafe { (*ctx.sockopt).__bindgen_anon_1.sk };
    // SAFETY: a full socket, not null.
    if sk.is_null() || unsafe { (*sk).protocol } != IPPROTO_TCP {
        return GO_ON; // MPTCP has a socket of its own above those that connect
    }
    if let Some(unfit) = unfit {
        // SAFETY: from the context, not null.
        unsafe { incompatible::note(sk.cast::<c_void>(), unfit) };
        return GO_ON;
    }
    let Some(order) = order(&ctx) else {
        return GO_ON; // too short, which the kernel says
    };
    let socket = sk.cast::<c_void>();
    // SAFETY: from the context, not null.
    if let Some(state) = unsafe { storage::get(socket) } {
        if state.kind == SocketKind::Own.raw() {
            return GO_ON;
        }
        if SocketKind::is_direct(state.kind) {
            return of_direct(&ctx, socket, &order);
        }
    }
    if !expected::direct_is_on() {
        return GO_ON;
    }
    // SAFETY: sockopt programs may ask for the namespace cookie.
    let Some(owner) = owner_in(unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }) else {
        return GO_ON;
    };
    // SAFETY: a field of a full socket.
    let state = unsafe { (*sk).state };
    // One that may yet become a held one leaves it to `hold`, which finds the value in the socket.
    let may_be_held = state == BPF_TCP_CLOSE || state == BPF_TCP_LISTEN;
    // 0 is the system's default, which here would hold it for ever.
    let value = if order.limit == 0 && !may_be_held { owner.settings.unheld } else { order.limit };
    if set(socket, value) { done(&ctx) } else { GO_ON }
}

#[inline(always)]
fn of_direct(ctx: &SockoptContext, sk: *mut c_void, order: &LetGo) -> i32 {
    // SAFETY: from the context, not null.
    let Some(limit) = (unsafe { get_or_zeroed(sk) }) else {
        // No memory. The application's wish is lost, the hold is not; the daemon must hear of it.
        return if order.is_from_the_daemon() { REFUSED } else { done(ctx) };
    };
    if order.is_from_the_daemon() {
        let let_go = UnsentLimit { ceiling: order.ceiling, ..*limit };
        if !set(sk, let_go.in_force()) {
            return REFUSED;
        }
        // Only now: by this the guard lets requests in, which may be answered at once.
        limit.ceiling = order.ceiling;
        return done(ctx);
    }
    limit.wish = order.limit;
    if limit.ceiling != 0 {
        set(sk, limit.in_force());
    }
    done(ctx)
}

/// What setsockopt() was called with; `None`: too short.
#[inline(always)]
fn order(ctx: &SockoptContext) -> Option<LetGo> {
    // SAFETY: context fields; nothing is read behind the end.
    unsafe {
        let start = (*ctx.sockopt).__bindgen_anon_2.optval as usize;
        let end = (*ctx.sockopt).__bindgen_anon_3.optval_end as usize;
        if start + size_of::<LetGo>() <= end {
            return Some((start as *const LetGo).read_unaligned());
        }
        if start + size_of::<u32>() <= end {
            let limit = (start as *const u32).read_unaligned();
            return Some(LetGo { limit, ceiling: 0, mark: 0 });
        }
    }
    None
}

#[inline(always)]
fn done(ctx: &SockoptContext) -> i32 {
    // SAFETY: a field that this hook may write.
    unsafe { (*ctx.sockopt).optlen = DONE };
    GO_ON
}

#[inline(always)]
fn set(sk: *mut c_void, mut value: u32) -> bool {
    // SAFETY: from the context, not null; `value` is as long as the helper is told.
    unsafe {
        let value = (&raw mut value).cast();
        bpf_setsockopt(sk, SOL_TCP, TCP_NOTSENT_LOWAT, value, size_of::<u32>() as i32) == 0
    }
}

#[inline(always)]
fn map() -> *mut c_void {
    (&raw const LIMITS).cast_mut().cast()
}

/// Whether the daemon has let the writer of a direct socket go.
///
/// # Safety
/// As [`storage::get`].
#[inline(always)]
pub unsafe fn is_let_go(sk: *mut c_void) -> bool {
    // SAFETY: as the caller promises.
    unsafe { get(sk) }.is_some_and(|limit| limit.ceiling != 0)
}

/// What is known of a direct socket's limit, if anything.
///
/// # Safety
/// As [`storage::get`].
#[inline(always)]
pub unsafe fn get<'a>(sk: *mut c_void) -> Option<&'a mut UnsentLimit> {
    // SAFETY: the helper returns null or the value, which the kernel keeps while the program runs.
    unsafe { bpf_sk_storage_get(map(), sk, core::ptr::null_mut(), 0).cast::<UnsentLimit>().as_mut() }
}

/// The same, made of zeroes if there is none.
///
/// # Safety
/// As [`storage::get`].
#[inline(always)]
pub unsafe fn get_or_zeroed<'a>(sk: *mut c_void) -> Option<&'a mut UnsentLimit> {
    let create = BPF_SK_STORAGE_GET_F_CREATE.into();
    // SAFETY: as in `get`.
    unsafe { bpf_sk_storage_get(map(), sk, core::ptr::null_mut(), create).cast::<UnsentLimit>().as_mut() }
}
