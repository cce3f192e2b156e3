//! The drill of docs/runbooks/intermediate-rotation.md: the root's key is elsewhere, and the intermediate is renewed under
//! live connections.

use mtls_tests::lab::NODE;
use mtls_tests::programs;
use mtls_tests::scenario::HTTP;
use mtls_tests::{Daemon, Pair, STRICT_PAIR, eventually, slow};

fn serial(daemon: &Daemon, at: usize) -> String {
    let serial = daemon.ask(&["workloads"])[at]["certificate"]["serial"].clone();
    serial.as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_intermediate_is_renewed_from_an_offline_root_and_no_connection_notices() {
    let lab = Pair::lab();
    let stick = lab.dir().join("stick");
    std::fs::create_dir(&stick).expect("lab directory is writable");
    let mut daemon = lab.prepare(NODE, STRICT_PAIR);
    let init = daemon.ca_tool("init").args(["--trust-domain", "example.org", "--offline-root"]);
    init.arg(&stick).run().ok();
    let nginx = programs::nginx(lab.pod("db"), HTTP);
    daemon.start();
    let pair = Pair { daemon, nginx, lab };
    pair.works();
    // A certificate of before, and a connection that lives through it.
    let guest = pair.issue("guest");
    let mut server = programs::probe(pair.db(), 7000, &[]);
    let to = pair.db().at(7000).to_string();
    let mut client = pair.web().own("probe").args(["connect", &to, "--ask"]).piped().spawn();
    client.wait_for(r#""connect":"ok""#);
    server.wait_for(r#""accept""#);

    let file = pair.daemon.ca().join("intermediate.crt");
    let before = (std::fs::read(&file).expect("it is there"), [0, 1].map(|at| serial(&pair.daemon, at)));
    let without = pair.daemon.ca_tool("renew-intermediate").run().fails();
    assert!(without.stderr.contains("--root"), "it says what it needs: {without}");
    assert_eq!(std::fs::read(&file).expect("it is there"), before.0);

    pair.daemon.ca_tool("renew-intermediate").arg("--root").arg(&stick).run().ok();
    assert_ne!(std::fs::read(&file).expect("it is there"), before.0);
    for (at, old) in before.1.iter().enumerate() {
        eventually(slow::limit(20), "a certificate of the new intermediate", || {
            (serial(&pair.daemon, at) != *old).then_some(())
        });
    }
    pair.works();
    let answer = programs::s_client(pair.out(), pair.http()[0], &pair.root(), Some(&guest)).run().ok();
    assert!(answer.text().contains("hello from db"), "a certificate of before is still good: {answer}");
    client.write(b"still there\n");
    client.close_stdin();
    let end = client.output(slow::limit(15)).text();
    assert!(end.contains("still there"), "the echo of a connection that was there before: {end}");
    assert!(pair.daemon.access_log().iter().all(|record| !record.refused()), "nobody was refused");
    let status = pair.daemon.ask(&["status"]);
    assert_eq!(status["embedded_ca"]["alarms"].as_array().map(Vec::len), Some(0), "{status}");
}
