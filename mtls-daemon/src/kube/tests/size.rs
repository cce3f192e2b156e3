//! Ten thousand pods.

use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use mtls_kube_double::{Double, TOKEN, json};
use serde_json::Value;

use super::world::{count, until};
use crate::kube::objects::{Pod, Read, read};
use crate::kube::{Client, ClusterConfig, Key, Reflector, Scope, Timing};

const PODS: usize = 10_000;
const CUTS: usize = 100;
const ME: &str = "kube::tests::size::ten_thousand_pods_take_less_than_64_mib_and_a_hundred_cuts_cost_no_list";
/// Where the double is, and its files; who has this variable is the process that is measured.
const ROLE: &str = "MTLSD_TEST_KUBE_FOLLOWER";

/// As long as pods of real clusters are in JSON, about 5 KB.
fn pod(n: usize) -> Value {
    let condition =
        |kind| json!({ "type": kind, "status": "True", "lastTransitionTime": "2026-11-29T10:00:00Z" });
    let conditions = ["Initialized", "Ready", "ContainersReady", "PodScheduled"].map(condition);
    json!({
        "metadata": {
            "name": format!("cart-7d4b9c6f5-{n:05}"), "namespace": format!("shop-{}", n % 40),
            "labels": {
                "app.kubernetes.io/name": "cart", "app.kubernetes.io/part-of": "shop", "app.kubernetes.io/version": "1.27.3",
                "pod-template-hash": "7d4b9c6f5", "team": "payments", "tier": "backend",
            },
            "annotations": { "checksum/config": "x".repeat(64), "prometheus.io/scrape": "true" },
            "managedFields": [{ "manager": "kube-controller-manager", "fieldsV1": { "f:metadata": "y".repeat(1_500) } },
                { "manager": "kubelet", "fieldsV1": { "f:status": "z".repeat(1_000) } }],
        },
        "spec": {
            "nodeName": format!("node-{}", n % 100), "serviceAccountName": "cart",
            "containers": [{
                "name": "cart", "image": "registry.example/shop/cart:1.27.3",
                "env": (0..10).map(|i| json!({ "name": format!("SETTING_{i}"), "value": "v".repeat(40) })).collect::<Vec<_>>(),
                "ports": [{ "name": "http", "containerPort": 8080 }, { "name": "metrics", "containerPort": 9090 }],
                "readinessProbe": { "httpGet": { "path": "/ready", "port": "http" } },
                "volumeMounts": [{ "name": "kube-api-access", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount" }],
            }],
        },
        "status": {
            "phase": "Running", "qosClass": "Burstable",
            "podIPs": [{ "ip": format!("10.{}.{}.{}", n >> 16, (n >> 8) & 255, n & 255) }, { "ip": format!("fd00::{n:x}") }],
            "conditions": conditions,
        },
    })
}

#[test]
fn a_pod_is_kept_in_less_than_1_kib() {
    let mut object = pod(1);
    object["metadata"]["uid"] = "00000000-0000-4000-8000-000000000001".into();
    let Read::Good(pod) = read::<Pod>(&object.to_string()) else { panic!("it is fine") };
    let key = pod.key.name.as_str().len() + pod.key.namespace.as_ref().unwrap().as_str().len();
    let texts = [
        // Once more as the key of the map.
        2 * key,
        pod.uid.as_str().len(),
        pod.account.as_str().len(),
        pod.node.as_ref().unwrap().as_str().len(),
        pod.labels.bytes() + pod.annotations.bytes(),
        pod.ports.iter().map(|port| port.name.len()).sum(),
    ];
    let boxes = size_of_val(&*pod.addresses) + size_of_val(&*pod.ports) + size_of_val(&*pod.probed);
    // What the allocator adds to each piece: 8 bytes, and up to a multiple of 16.
    let pieces = 12 + pod.ports.len();
    let bytes = size_of::<Pod>() + size_of::<Key>() + texts.iter().sum::<usize>() + boxes + pieces * 16;
    assert!(bytes < 1_024, "{bytes}");
}

/// The memory of this process, in KiB: now, and at most until now.
fn memory() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// The process that is measured: it has a client and nothing else, says what it has, and goes on when it is told to.
fn follow(place: &str) {
    let (address, files) = place.split_once(' ').unwrap();
    let address: std::net::SocketAddr = address.parse().unwrap();
    let variable = |name: &str| match name {
        "KUBERNETES_SERVICE_HOST" => Some(address.ip().to_string()),
        _ => Some(address.port().to_string()),
    };
    let config = ClusterConfig::from_variables(variable, std::path::Path::new(files)).unwrap();
    let timing = Timing {
        min_pause: Duration::from_millis(5),
        max_pause: Duration::from_millis(20),
        ..Timing::default()
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (before, _) = memory();
        let pods: Reflector<Pod> =
            Reflector::start(Arc::new(Client::new(config, timing)), Scope::default(), None);
        until("all pods", || count(&pods) == PODS).await;
        let (listed, most) = memory();
        println!("\nlisted {} {}", listed - before, most - before);
        until("one pod for each cut", || count(&pods) == PODS + CUTS).await;
        let (after, most) = memory();
        println!("followed {} {}", after - before, most - before);
    });
}

#[test]
fn ten_thousand_pods_take_less_than_64_mib_and_a_hundred_cuts_cost_no_list() {
    if let Ok(place) = std::env::var(ROLE) {
        return follow(&place);
    }
    let double = Double::start();
    double.bookmarks_each(Duration::from_millis(100));
    for n in 0..PODS {
        double.put("pods", pod(n));
    }
    let length = pod(1).to_string().len();
    assert!(length > 4_000, "{length}");
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("token"), TOKEN).unwrap();
    std::fs::write(files.path().join("ca.crt"), double.ca_pem()).unwrap();
    let mut follower = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", ME, "--nocapture", "--test-threads=1"])
        .env(ROLE, format!("{} {}", double.address(), files.path().display()))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines();
    let mut said = |word: &str| -> (u64, u64) {
        let line = lines
            .by_ref()
            .map(Result::unwrap)
            .find(|line| line.starts_with(word))
            .expect("the follower goes on");
        let _ = writeln!(std::io::stderr(), "{line} KiB (grown, at most)");
        let mut numbers = line.split_whitespace().skip(1).map(|number| number.parse().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap())
    };
    let (listed, most) = said("listed");
    assert!(most < 64 * 1024, "{most} KiB while it listed");
    for n in 0..CUTS {
        double.put("pods", pod(PODS + n));
        while double.watches() == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        double.cut();
        while double.watches() > 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    let (grown, most) = said("followed");
    assert!(follower.wait().unwrap().success());
    assert!(most < 64 * 1024, "{most} KiB while it followed");
    assert!(grown < listed + 2_048, "{grown} KiB after {CUTS} cuts, {listed} KiB before");
    assert_eq!((double.count("list", "pods"), double.count("page", "pods")), (1, PODS / 500 - 1));
}
