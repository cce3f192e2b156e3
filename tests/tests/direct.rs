//! `direct` from end to end: two nodes, two daemons, applications that know nothing of it.
//!
//! Needs kernel TLS and tracing programs: a virtual machine (`cargo xtask test --only integration --kernel 6.12=direct`).

use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use mtls_tests::hold::{ktls_is_listed, why_not_direct};
use mtls_tests::lab::{Daemon, Lab, NODE, Process};
use mtls_tests::{Record, could_not_run, eventually, programs, slow};

/// Where the second node's daemon takes sessions, as long as this lives. Both daemons live in this namespace.
struct Address(String);

impl Address {
    fn add() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let address = Self(format!("198.18.7.{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        assert!(address.ip("add"), "{} cannot be added", address.0);
        address
    }

    fn ip(&self, what: &str) -> bool {
        let address = format!("{}/32", self.0);
        let status = Command::new("ip").args(["addr", what, &address, "dev", "lo"]).status();
        status.is_ok_and(|status| status.success())
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        self.ip("del");
    }
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
        let node = &address.0;
        let mut lab = Lab::new(&["web"]);
        lab.add_node("n2");
        lab.add_pod("n2", "far");
        let nginx = programs::nginx(lab.pod("far"), 80);
        let here = format!(
            r#"
workloads: [ {{ name: web, select: {{ netns: $web.netns }}, direct: auto }} ]
directory:
  - {{ name: far, addresses: ["$far.v4", "$far.v6"], ports: [80], spiffe_ids: ["spiffe://example.org/far"], node: "{node}:15080" }}
"#
        );
        let there = format!(
            r#"
workloads: [ {{ name: far, select: {{ netns: $far.netns }}, addresses: ["$far.v4", "$far.v6"], direct: auto }} ]
policy: [ {{ name: web-only, action: allow, from: {{ spiffe_ids: ["spiffe://example.org/web"] }} }} ]
direct: {{ listen: "{node}:15080" }}
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
    if let Some(why) = why_not_direct() {
        return could_not_run(curl_and_nginx_talk_by_their_own_sockets_and_only_tls_is_on_the_wire, why);
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

/// Bytes of a file that one `curl` gets, compared.
fn downloads(world: &World, name: &str, megabytes: u64) {
    let far = world.lab.pod("far");
    let source = programs::nginx_files(far).join(name);
    programs::random_file(far, &source, megabytes);
    let got = world.lab.dir().join(format!("{name}.got"));
    let url = format!("http://{}/files/{name}", far.at(80));
    let curl = world.lab.pod("web").cmd("curl").args(["-sS", "--max-time", "120", "-o"]).arg(&got).arg(&url);
    curl.run().ok();
    let (wanted, got) = (std::fs::read(source).expect("a file"), std::fs::read(got).expect("a file"));
    assert!(wanted == got, "{} bytes of {}", got.len(), wanted.len());
}

#[test]
fn a_large_download_arrives_whole() {
    if let Some(why) = why_not_direct() {
        return could_not_run(a_large_download_arrives_whole, why);
    }
    let world = World::with_session();
    downloads(&world, "large", 32);
    let record = eventually(slow::limit(20), "its record", || {
        records(&world.here, "web").into_iter().find(|record| record.datapath() == "direct")
    });
    assert_eq!(record.reason(), "", "{record:?}");
}

#[test]
fn an_armed_connection_outlives_both_daemons() {
    if let Some(why) = why_not_direct() {
        return could_not_run(an_armed_connection_outlives_both_daemons, why);
    }
    let mut world = World::with_session();
    let far = world.lab.pod("far");
    let source = programs::nginx_files(far).join("slow");
    programs::random_file(far, &source, 8);
    let got = world.lab.dir().join("slow.got");
    let url = format!("http://{}/files/slow", far.at(80));
    let curl =
        world.lab.pod("web").cmd("curl").args(["-sS", "--limit-rate", "1M", "--max-time", "120", "-o"]);
    let mut curl = curl.arg(&got).arg(&url).spawn();
    eventually(slow::limit(20), "the download to begin", || {
        std::fs::metadata(&got).is_ok_and(|file| file.len() > 0).then_some(())
    });
    world.here.kill9();
    world.there.kill9();
    let status = curl.ends_within(slow::limit(60)).expect("it ends");
    assert!(status.success(), "{}", curl.printed());
    assert!(std::fs::read(&source).expect("a file") == std::fs::read(&got).expect("a file"));
    // What is new fails closed.
    assert_ne!(world.get().code, Some(0));
}

#[test]
fn whom_the_servers_policy_denies_is_refused_at_connect() {
    if let Some(why) = why_not_direct() {
        return could_not_run(whom_the_servers_policy_denies_is_refused_at_connect, why);
    }
    let world = World::with_session();
    let config = std::fs::read_to_string(world.there.config()).expect("a configuration");
    std::fs::write(world.there.config(), config.replace("action: allow", "action: deny")).expect("writable");
    assert_eq!(world.there.cli(&["reload"]).0, Some(0));
    let output = world.get();
    assert_ne!(output.code, Some(0));
    let refused = eventually(slow::limit(20), "the refusal", || {
        records(&world.there, "far").into_iter().find(|record| record.reason() == "policy_denied")
    });
    assert!(refused.peer_proven(), "{refused:?}");
    let here = eventually(slow::limit(20), "the client's record", || {
        records(&world.here, "web").into_iter().find(|record| record.reason() == "policy_denied")
    });
    assert!(here.refused(), "{here:?}");
}

#[test]
fn a_kernel_whose_sendfile_stalls_is_refused_with_the_reason_and_relays_carry_all() {
    let test = a_kernel_whose_sendfile_stalls_is_refused_with_the_reason_and_relays_carry_all;
    if !ktls_is_listed() {
        return could_not_run(test, "this kernel has no TLS");
    }
    let world = World::new();
    let stalls = why_not_direct().is_some();
    for daemon in [&world.here, &world.there] {
        let printed = daemon.printed();
        assert_eq!(printed.contains("sendfile() stalls on a TLS socket"), stalls, "{printed}");
        assert_eq!(printed.contains("direct connections can be had from now on"), !stalls, "{printed}");
    }
    if stalls {
        assert_eq!(world.get().ok().text(), "hello from far");
        downloads(&world, "relayed", 32);
        for (daemon, workload) in [(&world.here, "web"), (&world.there, "far")] {
            let all = eventually(slow::limit(20), "two records", || {
                Some(records(daemon, workload)).filter(|records| records.len() >= 2)
            });
            assert!(
                all.iter().all(|record| record.datapath() != "direct" && record.reason() == ""),
                "{all:?}"
            );
        }
    }
}
