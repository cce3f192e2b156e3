//! `direct` where it is narrow: the option that holds, IPv6, SYNs that never come, ends that come too early.
//!
//! Needs kernel TLS and tracing programs: a virtual machine (`cargo xtask test --only integration --kernel 6.12=direct_edges`).

#[path = "direct_edges/ends.rs"]
mod ends;
#[path = "direct_edges/incompatible.rs"]
mod incompatible;
#[path = "direct_edges/limit.rs"]
mod limit;
#[path = "direct_edges/open.rs"]
mod open;
#[path = "direct_edges/same_node.rs"]
mod same_node;
#[path = "direct_edges/syn.rs"]
mod syn;

use mtls_tests::direct::{HTTP, World, direct_records};
use mtls_tests::hold::why_not_direct;
use mtls_tests::{could_not_run, programs};

/// Where the applications listen.
const PORT: u16 = 7000;

#[test]
fn curl_and_nginx_talk_over_ipv6_by_their_own_sockets() {
    if let Some(why) = why_not_direct() {
        return could_not_run(curl_and_nginx_talk_over_ipv6_by_their_own_sockets, why);
    }
    let world = World::new();
    let to = world.far().at6(HTTP);
    assert_eq!(world.get(to).ok().text(), "hello from far");
    world.wait_session(to);
    let capture = world.lab.capture();
    for _ in 0..3 {
        assert_eq!(world.get(to).ok().text(), "hello from far", "{}", world.printed());
    }
    let source = programs::nginx_files(world.far()).join("some");
    programs::random_file(world.far(), &source, 4);
    let got = world.lab.dir().join("some.got");
    let url = format!("http://{to}/files/some");
    world.web().cmd("curl").args(["-sS", "--max-time", "120", "-o"]).arg(&got).arg(&url).run().ok();
    assert!(std::fs::read(&source).expect("a file") == std::fs::read(&got).expect("a file"));
    for (daemon, workload) in [(&world.here, "web"), (&world.there, "far")] {
        for record in direct_records(daemon, workload, 4) {
            assert_eq!(record.reason(), "", "{record:?}");
            assert!(record.peer_proven(), "{record:?}");
            assert!(record.destination().contains(&to.to_string()), "{record:?}");
        }
    }
    let traffic = capture.stop();
    traffic.assert_absent(b"hello from");
    traffic.assert_only_tls(HTTP);
}
