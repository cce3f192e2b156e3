//! `direct` from end to end: two nodes, two daemons, applications that know nothing of it.
//!
//! Needs kernel TLS and tracing programs: a virtual machine (`cargo xtask test --only integration --kernel 6.12=direct`).

use mtls_tests::hold::ktls_is_listed;
use mtls_tests::lab::{Daemon, Lab, NODE, Process};
use mtls_tests::{Record, could_not_run, eventually, programs, slow};

/// Where the second node's daemon takes sessions. Both daemons live in this namespace.
const NODE_ADDRESS: &str = "198.18.7.2";

/// The address of the second node, as long as it lives.
struct Address;

impl Address {
    fn add() -> Self {
        ip("add");
        Self
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        ip("del");
    }
}

fn ip(what: &str) {
    let address = format!("{NODE_ADDRESS}/32");
    let status = std::process::Command::new("ip").args(["addr", what, &address, "dev", "lo"]).status();
    assert!(status.is_ok_and(|status| status.success()) || what == "del", "ip addr {what}");
}

struct World {
    here: Daemon,
    there: Daemon,
    _nginx: Process,
    lab: Lab,
    _address: Address,
}

impl World {
    fn new() -> Self {
        let address = Address::add();
        let mut lab = Lab::new(&["web"]);
        lab.add_node("n2");
        lab.add_pod("n2", "far");
        let nginx = programs::nginx(lab.pod("far"), 80);
        let here = format!(
            r#"
workloads: [ {{ name: web, select: {{ netns: $web.netns }}, direct: auto }} ]
directory:
  - {{ name: far, addresses: ["$far.v4", "$far.v6"], ports: [80], spiffe_ids: ["spiffe://example.org/far"], node: "{NODE_ADDRESS}:15080" }}
"#
        );
        let there = format!(
            r#"
workloads: [ {{ name: far, select: {{ netns: $far.netns }}, addresses: ["$far.v4", "$far.v6"], direct: auto }} ]
policy: [ {{ name: web-only, action: allow, from: {{ spiffe_ids: ["spiffe://example.org/web"] }} }} ]
direct: {{ listen: "{NODE_ADDRESS}:15080" }}
"#
        );
        let mut here = lab.prepare(NODE, &here);
        here.ca_init();
        let mut there = lab.prepare("n2", &there);
        there.share_ca(&here);
        there.start();
        here.start();
        Self { here, there, _nginx: nginx, lab, _address: address }
    }

    fn get(&self) -> mtls_tests::lab::Output {
        let url = format!("http://{}/", self.lab.pod("far").at(80));
        self.lab.pod("web").cmd("curl").args(["-sS", "--max-time", "60"]).arg(&url).run()
    }

    /// The first connection goes by relay and has a session made.
    fn with_session() -> Self {
        let world = Self::new();
        assert_eq!(world.get().ok().text(), "hello from far");
        eventually(slow::limit(20), "a session", || {
            world.here.printed().contains("a session for direct connections is there").then_some(())
        });
        world
    }
}

fn records(daemon: &Daemon, workload: &str) -> Vec<Record> {
    daemon.access_log().into_iter().filter(|record| record.workload() == workload).collect()
}

#[test]
fn curl_and_nginx_talk_by_their_own_sockets_and_only_tls_is_on_the_wire() {
    if !ktls_is_listed() {
        return could_not_run(
            curl_and_nginx_talk_by_their_own_sockets_and_only_tls_is_on_the_wire,
            "this kernel has no TLS",
        );
    }
    let world = World::with_session();
    let capture = world.lab.capture();
    for _ in 0..5 {
        assert_eq!(
            world.get().ok().text(),
            "hello from far",
            "{}\n{}",
            world.here.printed(),
            world.there.printed()
        );
    }
    for (daemon, workload) in [(&world.here, "web"), (&world.there, "far")] {
        let direct = eventually(slow::limit(20), "the records of direct connections", || {
            let all = records(daemon, workload);
            (all.iter().filter(|record| record.datapath() == "direct").count() >= 5).then_some(all)
        });
        for record in direct.iter().filter(|record| record.datapath() == "direct") {
            assert_eq!(record.reason(), "", "{record:?}");
            assert!(record.peer_proven(), "{record:?}");
        }
    }
    let traffic = capture.stop();
    traffic.assert_absent(b"hello from");
    traffic.assert_only_tls(80);
}
