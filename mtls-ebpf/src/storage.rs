//! The state of one socket (`bpf_sk_storage`). It lives and dies with the socket.

use core::ffi::c_void;

use aya_ebpf::bindings::BPF_SK_STORAGE_GET_F_CREATE;
use aya_ebpf::helpers::generated::bpf_sk_storage_get;
use mtls_common::SocketState;

use crate::maps::SOCKETS;

#[inline(always)]
fn map() -> *mut c_void {
    (&raw const SOCKETS).cast_mut().cast()
}

/// The state of `sk`, if it has one.
///
/// # Safety
/// `sk` is a full socket that the verifier knows, not null.
#[inline(always)]
pub unsafe fn get<'a>(sk: *mut c_void) -> Option<&'a mut SocketState> {
    // SAFETY: the helper returns null or the value, which the kernel keeps while the program runs.
    unsafe { bpf_sk_storage_get(map(), sk, core::ptr::null_mut(), 0).cast::<SocketState>().as_mut() }
}

/// The state of `sk`, made of zeroes if there is none: for who has no room for one on its stack.
///
/// # Safety
/// As [`get`].
#[inline(always)]
pub unsafe fn get_or_zeroed<'a>(sk: *mut c_void) -> Option<&'a mut SocketState> {
    // SAFETY: as in `get`.
    unsafe {
        bpf_sk_storage_get(map(), sk, core::ptr::null_mut(), BPF_SK_STORAGE_GET_F_CREATE.into())
            .cast::<SocketState>()
            .as_mut()
    }
}

/// The state of `sk`, made with `initial` if there is none.
///
/// # Safety
/// As [`get`].
#[inline(always)]
pub unsafe fn get_or_create<'a>(sk: *mut c_void, initial: &mut SocketState) -> Option<&'a mut SocketState> {
    let initial = (&raw mut *initial).cast();
    // SAFETY: as in `get`.
    unsafe {
        bpf_sk_storage_get(map(), sk, initial, BPF_SK_STORAGE_GET_F_CREATE.into())
            .cast::<SocketState>()
            .as_mut()
    }
}
