//! What comes out is what went in, and it ends as it ended.

use std::time::Duration;

use mtls_tests::flows::Flows;
use mtls_tests::programs::Identity;
use mtls_tests::{Pair, eventually, programs, slow};

/// Runs `pattern` in a mode over IPv4 and IPv6 with several sizes, and checks both ends' verdicts.
#[track_caller]
fn holds(mode: &str, sizes: &[(u64, u64)]) {
    let flows = Flows::new();
    for to in flows.both() {
        for (up, down) in sizes {
            flows.send(to, mode, (*up, *down), Duration::ZERO);
        }
    }
    flows.verdict();
}

#[test]
fn both_directions_at_once_are_byte_exact() {
    holds("duplex", &[(0, 0), (1, 0), (0, 1), (1, 16_385), (100_000, 3), (20_000_000, 30_000_000)]);
}

#[test]
fn a_half_closed_connection_keeps_its_other_direction() {
    holds("half-close", &[(0, 0), (1, 1), (1_000_000, 2_000_000)]);
}

#[test]
fn a_reset_by_the_client_reaches_the_server_as_a_reset() {
    holds("reset", &[(1, 1), (500_000, 1)]);
}

#[test]
fn a_reset_by_the_server_reaches_the_client_as_a_reset() {
    holds("server-reset", &[(1, 1), (1, 500_000)]);
}

#[test]
fn a_gibibyte_arrives_with_the_same_hash() {
    let pair = Pair::strict();
    let file = programs::nginx_files(pair.db()).join("big");
    programs::random_file(pair.db(), &file, slow::scaled(1024, 16));
    let sum = |command: &str, what: &str| {
        let run = pair.web().cmd("sh").args(["-c", command, "sh", what]).limit(slow::limit(150)).run().ok();
        run.text().split(' ').next().unwrap_or_default().to_owned()
    };
    let expected = sum(r#"sha256sum "$1""#, &file.to_string_lossy());
    assert_eq!(expected.len(), 64);
    let url = format!("http://{}/files/big", pair.db().at6(80));
    assert_eq!(sum(r#"curl -sSf "$1" | sha256sum"#, &url), expected);
}

#[test]
fn a_peer_that_vanishes_is_reported_as_truncation_and_never_as_a_clean_end() {
    let pair = Pair::strict();
    let server = programs::probe(pair.db(), 7000, &[]);
    let identity: Identity = pair.issue("foreign");
    // A TLS client that is killed: its kernel sends FIN, but nobody sends close_notify.
    let to = pair.db().at(7000);
    let client = programs::s_client(pair.out(), to, &pair.root(), Some(&identity)).piped();
    let mut client = client.spawn().quiet();
    client.write(b"half a messa");
    let seen = || String::from_utf8(server.stdout()).unwrap_or_default();
    eventually(slow::limit(10), "the connection to reach the application", || {
        seen().contains("\"accept\"").then_some(())
    });
    std::thread::sleep(Duration::from_millis(300));
    client.kill();
    let line = eventually(slow::limit(10), "the application to see an end", || {
        seen().lines().find(|l| l.contains("\"receive\"")).map(str::to_owned)
    });
    assert!(line.contains("ECONNRESET"), "{line}");
    let record =
        pair.daemon.wait_for_log("a truncated connection", |r| r.inbound() && !r.reason().is_empty());
    assert_eq!(record.reason(), "truncated", "{record:?}");
    assert_eq!(record.received(), 12);
}
