//! Datapaths that differ at the two ends, and keys that have protected as many records as they may.

use std::time::Duration;

use mtls_tests::flows::Flows;
use mtls_tests::{eventually, slow};

#[test]
fn ends_with_different_datapaths_understand_each_other() {
    for userspace in [&["web"][..], &["db"]] {
        let flows = Flows::with("", userspace);
        for to in flows.both() {
            flows.send(to, "duplex", (3_000_000, 2_000_000), Duration::ZERO);
            flows.each(to, "half-close", &[0, 1, 16_385, 400_000]);
        }
        flows.random(flows.both()[0], 7, slow::scaled(400, 60), 8);
        flows.verdict();
    }
}

#[test]
fn what_carries_much_moves_into_the_kernel_in_the_middle_and_loses_no_byte() {
    let flows = Flows::auto("");
    let much = slow::scaled(512 * 1024 * 1024, 24 * 1024 * 1024);
    let [v4, v6] = flows.both();
    flows.send(v4, "duplex", (much, 100_000), Duration::ZERO);
    flows.send(v6, "duplex", (100_000, much), Duration::from_millis(300));
    flows.send(v4, "duplex", (much, much), Duration::ZERO);
    for to in [v4, v6] {
        flows.each(to, "half-close", &[0, 1, 900_000, 1_048_576, 1_048_577, 1_200_000, 4_000_000]);
        flows.each(to, "server-half-close", &[1_000_000, 3_000_000]);
    }
    flows.random(flows.both()[0], 11, slow::scaled(1000, 100), 8);
    flows.verdict();
}

#[test]
fn what_is_small_stays_in_user_space_and_it_is_said_why() {
    let flows = Flows::auto("");
    flows.each(flows.both()[0], "half-close", &[1, 100, 10_000]);
    flows.verdict();
    let daemon = &flows.pair.daemon;
    let wanted = match (daemon.best_relay(), daemon.auto_relay()) {
        ("relay-ktls", "relay-ktls") => "relay-ktls takes over, while both",
        ("relay-ktls", _) => "this kernel cannot change keys",
        _ => "no relay-ktls: this kernel has no kTLS",
    };
    let records = daemon.access_log();
    assert!(records.iter().all(|record| record.why_not_better().contains(wanted)), "{records:?}");
    // Where the daemon makes the records, or the kernel can change keys, there is no reason for another suite.
    assert!(records.iter().all(|record| record.suite() == "TLS13_AES_128_GCM_SHA256"), "{records:?}");
}

/// Few enough for a test to reach.
const LOW_LIMIT: &str = "tls: { cipher_suites: [TLS_AES_128_GCM_SHA256], records_per_key: 1024 }\n";

/// Twice as many records as that, however large.
const UP: u64 = 2 * 1024 * 16_384;

#[test]
fn a_key_is_changed_before_it_has_protected_too_many_records_or_the_connection_is_ended() {
    let flows = Flows::with(LOW_LIMIT, &[]);
    let to = flows.both()[0];
    if flows.pair.daemon.rekeys() {
        flows.send(to, "single", (5_000, 5_000), Duration::ZERO);
        flows.send(to, "duplex", (UP, UP), Duration::ZERO);
        flows.verdict();
        // Those sent in user space count too.
        let flows = Flows::auto(LOW_LIMIT);
        flows.send(flows.both()[0], "duplex", (UP, UP), Duration::ZERO);
        return flows.verdict();
    }
    let args = ["send", &to.to_string(), "duplex", "1", &UP.to_string(), "1", "0"];
    let ended = flows.pair.web().own("pattern").args(args).limit(slow::limit(100)).run();
    assert_ne!(ended.code, Some(0), "the connection was not ended");
    let record = eventually(slow::limit(15), "the end in the access log", || {
        flows.pair.daemon.access_log().into_iter().find(|record| record.reason() == "key_limit")
    });
    let records = record.detail().split(' ').next().and_then(|number| number.parse::<u64>().ok());
    assert!(records.is_some_and(|records| (800..1024).contains(&records)), "{record:?}");
    assert!(record.detail().contains("TLS_AES_128_GCM_SHA256"), "{record:?}");
    flows.pair.works();
}
