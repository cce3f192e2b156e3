//! Long, odd, and many connections: nothing is lost, and each end is what the other end did. Sizes and counts follow
//! `MTLSD_TEST_LIGHT`, time limits `MTLSD_TEST_SLOW`.

use std::time::{Duration, SystemTime};

use mtls_tests::flows::Flows;
use mtls_tests::slow;

/// Around the largest record and the sizes of buffers and pipes.
const EDGES: [u64; 11] =
    [1, 16_383, 16_384, 16_385, 32_769, 65_535, 65_536, 65_537, (1 << 20) - 1, 1 << 20, (1 << 20) + 1];

#[test]
fn a_slow_reader_slows_the_sender_down_and_loses_nothing() {
    let flows = Flows::new();
    let size = slow::scaled(40_000_000, 16_000_000);
    for to in flows.both() {
        flows.send(to, "duplex", (size, size), Duration::from_secs(1));
    }
    flows.verdict();
}

/// For ten seconds, or a minute with `MTLSD_TEST_LONG`.
#[test]
fn readers_that_stop_for_a_long_time_lose_nothing() {
    let flows = Flows::new();
    let pause = Duration::from_secs(if slow::long() { 60 } else { 10 });
    // More than all the socket buffers on the way hold, so that everything stands still.
    let size = slow::scaled(60_000_000, 30_000_000);
    flows.send(flows.both()[1], "duplex", (size, size), pause);
    flows.verdict();
}

#[test]
fn thousands_of_one_byte_writes_arrive_in_both_directions() {
    let flows = Flows::new();
    let size = slow::scaled(20_000, 3_000);
    for to in flows.both() {
        flows.send(to, "single", (size, size + 1), Duration::ZERO);
    }
    flows.verdict();
}

#[test]
fn sizes_around_the_edges_arrive_in_one_write_and_in_many() {
    let flows = Flows::new();
    for (to, mode) in flows.both().into_iter().cycle().zip(["whole", "duplex", "server-half-close"]) {
        flows.each(to, mode, &EDGES);
    }
    flows.verdict();
}

#[test]
fn closing_at_the_same_time_is_clean_on_both_ends() {
    let flows = Flows::new();
    for to in flows.both() {
        flows.each(to, "simultaneous", &[0, 1, 1, 1, 100, 20_000, 20_000, 20_000, 300_000]);
    }
    flows.verdict();
}

#[test]
fn a_server_that_ends_its_direction_first_still_receives() {
    let flows = Flows::new();
    for to in flows.both() {
        flows.each(to, "server-half-close", &[1, 100_000, 5_000_000]);
    }
    flows.verdict();
}

#[test]
fn a_reset_in_the_middle_of_a_transfer_is_never_a_clean_end() {
    let flows = Flows::new();
    for to in flows.both() {
        for up in [1, 1_000, 200_000, 5_000_000] {
            flows.send(to, "abort", (up, 1), Duration::ZERO);
            flows.send(to, "server-abort", (0, up), Duration::ZERO);
        }
    }
    // What was on the way may be lost, so that only the ends are compared.
    flows.served();
    let records = flows.pair.daemon.access_log();
    assert!(records.iter().all(|record| record.reason() == "reset"), "{records:#?}");
}

/// The seed is printed; `MTLSD_TEST_SEED` sets it.
#[test]
fn thousands_of_random_connections_lose_nothing() {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let given = std::env::var("MTLSD_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or(now);
    println!("MTLSD_TEST_SEED={seed}");
    let flows = Flows::new();
    let count = slow::scaled(3000, 200);
    let [v4, v6] = flows.both();
    flows.random(v4, seed, count / 2, 16);
    flows.random(v6, seed.wrapping_add(1_000_000), count - count / 2, 16);
    flows.verdict();
}
