//! mtlsd's eBPF programs: one file per hook. They decide at connect() and at SYN what happens to a
//! connection; user space fills the tables (`maps.rs`) and hears about it through the ring of events.
//!
//! Only UAPI contexts and helpers are used, so one object runs on every kernel that has the helpers;
//! what newer kernels add is behind `FEATURES` (see `features.rs`).
#![no_std]
#![no_main]

mod address;
mod bind;
mod classify;
mod connect;
mod descriptor;
mod egress;
mod enclosure;
mod event;
mod expected;
mod features;
mod getpeername;
mod getsockname;
mod guard;
mod hold;
mod incompatible;
mod ingress;
mod limit;
mod listener;
mod maps;
mod packet;
mod probe;
mod service;
mod sk_lookup;
mod sock_ops;
mod storage;

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

/// No helper that is used is GPL-only.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
