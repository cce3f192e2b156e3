//! Two nodes whose pods come and go all the time: nothing of theirs is ever plaintext, and nothing of them stays behind.
//!
//! Fifty pods a node and two minutes with `MTLSD_TEST_LONG`; else fewer, and for less long. `MTLSD_TEST_CHURN=PODS,SECONDS` asks for
//! others, to see what memory comes to.

use std::collections::BTreeMap;
use std::fs;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mtls_kube_double::json;
use mtls_tests::kube::{Cluster, MODE, Spec};
use mtls_tests::lab::program_beside_the_test;
use mtls_tests::{Daemon, Process, eventually, slow};

const PORT: u16 = 7000;
const GREETING: &str = "FROM-THE-OTHER-NODE";
const MARKER: &str = "TOP-SECRET-0123456789";
const NODES: [&str; 2] = ["n1", "n2"];
const DONE: &str = "DONE";
/// What remembers connections up to a bound is kept small, so that it is full before anything is measured.
const ALL: &str = "policy: [ { name: all, action: allow, from: { trust_domains: [example.org] } } ]\n\
                   recorder: { entries: 100 }\nflows: { keep: off }\n";
/// New pods a second, of both nodes together.
const RATE: u32 = 5;

/// What must be the same before and after.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    descriptors: usize,
    pinned: usize,
    entries: BTreeMap<String, usize>,
}

fn held(cluster: &Cluster, daemon: &mut Daemon) -> Held {
    let pid = daemon.process().pid();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).expect("it runs").count();
    let mut pinned = 0;
    let mut entries = BTreeMap::new();
    for directory in fs::read_dir(daemon.bpffs()).expect("it is pinned").flatten() {
        let is_maps = directory.file_name().to_string_lossy().starts_with("maps-");
        for file in fs::read_dir(directory.path()).into_iter().flatten().flatten() {
            pinned += 1;
            let name = file.file_name().to_string_lossy().into_owned();
            if is_maps && TABLES.contains(&name.as_str()) {
                let dump = cluster.lab.tool("bpftool").args(["-j", "map", "dump", "pinned"]).arg(file.path());
                entries.insert(name, dump.run().ok().json().as_array().map_or(0, Vec::len));
            }
        }
    }
    assert_eq!(entries.len(), TABLES.len(), "each table is counted: {entries:?}");
    Held { descriptors, pinned, entries }
}

/// The tables whose entries belong to workloads and destinations.
const TABLES: [&str; 6] = ["WORKLOADS", "CGROUPS", "NAMESPACES", "ADDRESSES", "DESTINATIONS", "DENIED"];

/// Anonymous memory in KiB: not the program, which is read from its file as it is needed.
fn resident(daemon: &mut Daemon) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.process().pid())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("it has memory");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Pods a node, and for how many seconds they come and go.
fn size() -> (usize, u64) {
    match std::env::var("MTLSD_TEST_CHURN") {
        Ok(asked) => {
            let (pods, time) = asked.split_once(',').expect("PODS,SECONDS");
            (pods.parse().expect("a number of pods"), time.parse().expect("seconds"))
        }
        Err(_) if slow::long() => (50, 120),
        Err(_) => (8, 20),
    }
}

fn slot(node: &str, number: usize, generation: usize) -> Spec {
    let name = format!("{node}-{number}");
    let spec = Spec::new("shop", &name);
    Spec { uid: format!("{}-{generation}", spec.uid), ..spec }
}

/// A pod that asks the other node's server from its first moment on, before anybody heard of it.
fn born(cluster: &Cluster, node: &str, spec: &Spec, server: std::net::SocketAddr) -> Process {
    cluster.start(node, spec);
    let probe = program_beside_the_test("probe");
    let ask = format!("{} connect {server} --send {MARKER}", probe.display());
    let script =
        format!("until {ask} | grep -q {GREETING}; do sleep 0.3; done; echo {DONE}; exec sleep 3600");
    let client = cluster.cmd(node, spec, "sh").args(["-c", &script]).spawn();
    cluster.announce(node, spec);
    client.quiet()
}

#[test]
fn pods_that_come_and_go_are_never_plaintext_and_leave_nothing_behind() {
    let (pods, time) = size();
    let mut cluster = Cluster::new();
    cluster.lab.add_node("n2");
    cluster.namespace("shop", json!({ MODE: "strict" }));
    // What stays: one server on each node.
    let servers = NODES.map(|node| Spec::new("shop", &format!("{node}-server")));
    for (node, server) in NODES.iter().zip(&servers) {
        cluster.pod(node, server);
        for number in 0..pods {
            cluster.lab.add_pod(node, &slot(node, number, 0).name);
        }
    }
    let mut daemons = NODES.map(|node| cluster.prepare(node, "", ALL));
    daemons[0].ca_init();
    let (first, second) = daemons.split_at_mut(1);
    second[0].share_ca(&first[0]);
    daemons.iter_mut().for_each(Daemon::start);
    let _serving = [0, 1].map(|n| cluster.serve(NODES[n], &servers[n], PORT, GREETING));
    let capture = cluster.lab.capture();

    let clients: Mutex<BTreeMap<String, Process>> = Mutex::default();
    let server_of = |n: usize| cluster.lab.pod(&servers[1 - n].name).at(PORT);
    for number in 0..pods {
        for (n, node) in NODES.iter().enumerate() {
            let spec = slot(node, number, 0);
            let client = born(&cluster, node, &spec, server_of(n));
            clients.lock().expect("no panic").insert(spec.name, client);
        }
    }
    let settle = |clients: &Mutex<BTreeMap<String, Process>>| {
        for client in clients.lock().expect("no panic").values_mut() {
            client.wait_for(DONE);
        }
    };
    settle(&clients);
    let quiet = |daemon: &Daemon| {
        eventually(slow::limit(30), "no connection to be live", || {
            (daemon.ask(&["status"])["connections"]["live"] == 0).then_some(())
        });
    };
    daemons.iter().for_each(quiet);
    let before = [0, 1].map(|n| held(&cluster, &mut daemons[n]));
    let memory = [0, 1].map(|n| resident(&mut daemons[n]));

    let (replaced, end) = (AtomicU64::new(0), Instant::now() + Duration::from_secs(time));
    let pause = Duration::from_secs(2) / RATE;
    std::thread::scope(|scope| {
        for (n, node) in NODES.iter().enumerate() {
            let (cluster, clients, replaced) = (&cluster, &clients, &replaced);
            let server = server_of(n);
            scope.spawn(move || {
                let mut generation = 0;
                let mut due = Instant::now();
                while Instant::now() < end {
                    generation += 1;
                    for number in 0..pods {
                        if Instant::now() >= end {
                            break;
                        }
                        let (old, new) = (slot(node, number, generation - 1), slot(node, number, generation));
                        let client = clients.lock().expect("no panic").remove(&old.name);
                        client.expect("it lives").wait_for(DONE);
                        cluster.kill(node, &old);
                        cluster.double.delete("pods", "shop", &old.name);
                        // The address is used again at once.
                        cluster.lab.restore_pod(&new.name);
                        let client = born(cluster, node, &new, server);
                        clients.lock().expect("no panic").insert(new.name, client);
                        replaced.fetch_add(1, Ordering::Relaxed);
                        due += pause;
                        std::thread::sleep(due.saturating_duration_since(Instant::now()));
                    }
                }
            });
        }
    });
    settle(&clients);
    daemons.iter().for_each(quiet);
    let after = [0, 1].map(|n| {
        eventually(slow::limit(30), "what is held to be as before", || {
            let now = held(&cluster, &mut daemons[n]);
            if now != before[n] {
                println!("{now:?} and not {:?}", before[n]);
            }
            (now == before[n]).then_some(now)
        })
    });
    let grown = [0, 1].map(|n| resident(&mut daemons[n]).saturating_sub(memory[n]));
    let replaced = replaced.into_inner();
    println!(
        "{replaced} pods replaced in {time} s; {after:?}; memory {memory:?} KiB, grown by {grown:?} KiB"
    );
    assert!(replaced >= time, "at least one a second, however busy the machine is");
    // What the allocator comes to hold for the changes themselves; no pod leaves anything behind.
    let most = 8 * 1024;
    assert!(grown.iter().all(|grown| *grown < most), "memory grows by less than {most} KiB: {grown:?} KiB");
    let traffic = capture.stop();
    traffic.assert_absent(MARKER.as_bytes());
    traffic.assert_absent(GREETING.as_bytes());
    traffic.assert_only_tls(PORT);
}
