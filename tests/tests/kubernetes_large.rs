//! A cluster of ten thousand pods, of which three are this node's: all of them are destinations, a change of one is a change of one,
//! and what a change costs is told.

use std::fs;
use std::time::{Duration, Instant};

use mtls_kube_double::json;
use mtls_tests::kube::{Cluster, MODE, Spec};
use mtls_tests::lab::NODE;
use mtls_tests::{Daemon, eventually, slow};
use serde_json::Value;

const PODS: usize = 10_000;
const PORT: u16 = 7000;
const GREETING: &str = "from the pod";
const ALL: &str = "policy: [ { name: all, action: allow, from: { trust_domains: [example.org] } } ]\n";

/// A pod of another node.
fn far(n: usize, ready: bool) -> Value {
    let [_, _, high, low] = u32::try_from(n).expect("it is small").to_be_bytes();
    json!({
        "metadata": { "name": format!("far-{n}"), "namespace": "shop", "uid": format!("uid-of-far-{n}"),
                      "labels": { "app": format!("app-{}", n % 100), "pod-template-hash": "5d4f8c7b9" } },
        "spec": { "nodeName": format!("node-{}", n / 100), "serviceAccountName": format!("app-{}", n % 100) },
        "status": { "phase": "Running", "qosClass": "Burstable", "podIP": format!("10.201.{high}.{low}"),
                    "conditions": [ { "type": "Ready", "status": if ready { "True" } else { "False" } } ] },
    })
}

/// Processor time that the daemon has had until now.
fn spent(daemon: &mut Daemon) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", daemon.process().pid())).expect("it runs");
    let (_, rest) = stat.rsplit_once(')').expect("proc(5)");
    // Fields 14 and 15, in ticks of a hundredth of a second.
    let ticks: u64 =
        rest.split_whitespace().skip(11).take(2).map(|field| field.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}

fn resident(daemon: &mut Daemon) -> String {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.process().pid())).expect("it runs");
    let line = status.lines().find(|line| line.starts_with("VmRSS")).expect("it has memory");
    line.split_whitespace().skip(1).collect::<Vec<_>>().join(" ")
}

fn destinations(cluster: &Cluster, daemon: &Daemon) -> usize {
    let dump =
        cluster.lab.tool("bpftool").args(["-j", "map", "dump", "pinned"]).arg(daemon.table("ADDRESSES"));
    dump.run().ok().json().as_array().map_or(0, Vec::len)
}

#[test]
fn ten_thousand_pods_are_known_and_a_change_of_one_is_no_list_of_all() {
    let mut cluster = Cluster::new();
    cluster.namespace("shop", json!({ MODE: "strict" }));
    let [web, db] = ["web", "db"].map(|name| Spec::new("shop", name));
    for spec in [&web, &db] {
        cluster.pod(NODE, spec);
    }
    for n in 0..PODS {
        cluster.double.put("pods", far(n, true));
    }
    let began = Instant::now();
    let mut daemon = cluster.daemon("", ALL);
    eventually(slow::limit(60), "every pod to be a destination", || {
        (destinations(&cluster, &daemon) >= PODS).then_some(())
    });
    let known = destinations(&cluster, &daemon);
    println!(
        "known after {:?}, {} resident, {:?} of a processor",
        began.elapsed(),
        resident(&mut daemon),
        spent(&mut daemon)
    );
    let _db = cluster.serve(NODE, &db, PORT, GREETING);
    let said = cluster.ask(NODE, &web, cluster.lab.pod("db").at(PORT));
    assert!(said.contains(GREETING), "{said}");

    let pages =
        |cluster: &Cluster| cluster.double.count("list", "pods") + cluster.double.count("page", "pods");
    let lists = pages(&cluster);
    let phase = |daemon: &mut Daemon, what: &str, act: &mut dyn FnMut(usize)| {
        let (before, began) = (spent(daemon), Instant::now());
        for n in 0..50 {
            act(n);
            std::thread::sleep(Duration::from_millis(200));
        }
        let (took, cost) = (began.elapsed(), spent(daemon) - before);
        println!("{what}: {:.1} % of a processor", 100.0 * cost.as_secs_f64() / took.as_secs_f64());
    };
    phase(&mut daemon, "nothing", &mut |_| {});
    let double = &cluster.double;
    phase(&mut daemon, "5 changes a second that change nothing", &mut |n| {
        double.put("pods", far(n, n % 2 == 0))
    });
    phase(&mut daemon, "5 new pods a second on other nodes", &mut |n| {
        double.put("pods", far(PODS + n, true))
    });
    eventually(slow::limit(60), "the new ones to be destinations", || {
        (destinations(&cluster, &daemon) == known + 50).then_some(())
    });
    phase(&mut daemon, "5 pods a second that go", &mut |n| {
        double.delete("pods", "shop", &format!("far-{}", PODS + n))
    });
    eventually(slow::limit(60), "them to be gone", || {
        (destinations(&cluster, &daemon) == known).then_some(())
    });
    assert_eq!(pages(&cluster), lists, "nothing was listed again");
    println!("{} resident", resident(&mut daemon));
    let said = cluster.ask(NODE, &web, cluster.lab.pod("db").at(PORT));
    assert!(said.contains(GREETING), "{said}");
}
