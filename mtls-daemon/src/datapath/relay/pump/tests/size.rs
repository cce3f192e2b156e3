//! What a live connection costs besides its sockets: the future of its task.

use super::super::*;
use crate::datapath::relay::{inbound, outbound};

fn of_3<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
    size_of::<F>()
}

fn of_4<A, B, C, D, F: Future>(_: impl Fn(A, B, C, D) -> F) -> usize {
    size_of::<F>()
}

/// About a tenth more than measured, in bytes. 100,000 connections cost that many times as much: raise it
/// only when there is nothing left to take out.
#[test]
fn the_memory_of_a_connection_does_not_creep() {
    let sizes = [
        ("Pump", size_of::<Pump<'_>>(), 240),
        ("outbound::carry", of_3(outbound::carry), 2850),
        ("inbound::receive", of_4(inbound::receive), 3050),
    ];
    for (what, size, _) in sizes {
        println!("{what}: {size} bytes");
    }
    for (what, size, limit) in sizes {
        assert!(size <= limit, "{what} has {size} bytes, more than {limit}");
    }
}
