//! Watching aya's ring buffers from the async runtime.

#![allow(unsafe_code)]

use std::io;

use aya::maps::{MapData, RingBuf};
use aya_log::EbpfLogger;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Watches a ring of events.
///
/// # Errors
/// When the descriptor cannot be polled.
pub fn ring(ring: RingBuf<MapData>) -> io::Result<AsyncFd<RingBuf<MapData>>> {
    // SAFETY: a RingBuf owns its map's descriptor, never changes it and closes it when it is dropped,
    // which AsyncFd does after deregistering.
    unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) }.map_err(Into::into)
}

/// Watches the programs' log.
///
/// # Errors
/// When the descriptor cannot be polled.
pub fn log<T>(logger: EbpfLogger<T>) -> io::Result<AsyncFd<EbpfLogger<T>>> {
    // SAFETY: as for `ring`: an EbpfLogger is a RingBuf and a formatter.
    unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) }.map_err(Into::into)
}
