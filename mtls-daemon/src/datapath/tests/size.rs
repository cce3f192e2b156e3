//! What a connection costs besides its sockets: the futures of its tasks.

use crate::datapath::relay::{convey, inbound, outbound};
use crate::datapath::tls::pump::UserPump;

fn of_3<A, B, C, F: Future>(_: impl Fn(A, B, C) -> F) -> usize {
    size_of::<F>()
}

fn of_4<A, B, C, D, F: Future>(_: impl Fn(A, B, C, D) -> F) -> usize {
    size_of::<F>()
}

/// About a tenth more than measured, in bytes. 100,000 connections cost `convey` as many times as much: raise it
/// only when there is nothing left to take out. The other two are there while a connection is opened.
#[test]
fn the_memory_of_a_connection_does_not_creep() {
    let sizes = [
        ("UserPump", size_of::<UserPump<'_>>(), 580),
        ("convey::convey", convey::size_of_task(), 1510),
        ("outbound::carry", of_3(outbound::carry), 1920),
        ("inbound::receive", of_4(inbound::receive), 2390),
    ];
    for (what, size, _) in sizes {
        println!("{what}: {size} bytes");
    }
    for (what, size, limit) in sizes {
        assert!(size <= limit, "{what} has {size} bytes, more than {limit}");
    }
}
