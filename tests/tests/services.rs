//! Services whose endpoint is chosen when a workload connects: `kubernetes: { resolve_services: true }`. There is no kube-proxy here
//! unless a test says so: what reaches an endpoint was turned by mtlsd.

use std::net::SocketAddr;

use mtls_kube_double::json;
use mtls_tests::kube::{Cluster, MODE, Spec, wait_for_state};
use mtls_tests::lab::NODE;
use mtls_tests::{Daemon, eventually, slow};
use serde_json::Value;

/// Of Services.
const PORT: u16 = 80;
/// Of their endpoints.
const TARGET: u16 = 7000;
const ALL: &str = "policy: [ { name: all, action: allow, from: { trust_domains: [example.org] } } ]";
const ON: &str = "resolve_services: true";
const RESOLVED: [(&str, &str); 1] = [("event", "resolved")];

fn spec(name: &str) -> Spec {
    Spec::new("shop", name)
}

/// Endpoints of `address`, which stands for a Service's name too.
fn service(cluster: &Cluster, address: &str, pods: &[&Spec], more: &Value) {
    let name = format!("s-{}", address.replace(['.', ':'], "-"));
    let v6 = address.contains(':');
    let mut spec =
        json!({ "clusterIP": address, "clusterIPs": [address], "ports": [{ "name": "http", "port": PORT }] });
    for (key, value) in more.as_object().into_iter().flatten() {
        spec[key] = value.clone();
    }
    let meta = |more: Value| json!({ "name": name, "namespace": "shop", "uid": name, "labels": more });
    cluster.double.put("services", json!({ "metadata": meta(json!({})), "spec": spec }));
    let endpoint = |spec: &&Spec| {
        let pod = cluster.lab.pod(&spec.name);
        let address = if v6 { pod.v6.to_string() } else { pod.v4.to_string() };
        json!({ "addresses": [address], "conditions": { "ready": true },
                "targetRef": { "kind": "Pod", "namespace": spec.namespace, "name": spec.name, "uid": spec.uid } })
    };
    cluster.double.put(
        "endpointslices",
        json!({
            "metadata": meta(json!({ "kubernetes.io/service-name": name })),
            "addressType": if v6 { "IPv6" } else { "IPv4" },
            "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>(),
            "ports": [{ "name": "http", "port": TARGET }],
        }),
    );
}

/// `web` and `db` of a strict namespace on the first node.
fn world(node_of: &[(&str, &str)]) -> Cluster {
    let mut cluster = Cluster::new();
    cluster.lab.add_node("n2");
    cluster.namespace("shop", json!({ MODE: "strict" }));
    for (name, node) in node_of {
        cluster.pod(node, &spec(name));
    }
    cluster
}

fn wait_for(daemon: &Daemon, workloads: &[&str]) {
    for name in workloads {
        wait_for_state(daemon, name, "enrolled");
    }
}

/// Who answers `web`; getpeername() must say `to`.
fn answer(cluster: &Cluster, from: &Spec, to: &str) -> Result<String, String> {
    let to: SocketAddr = to.parse().expect("an address");
    let said = cluster.ask(NODE, from, to);
    let mut lines = said.lines().map(|line| serde_json::from_str::<Value>(line).unwrap_or_default());
    let (connected, talked) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    if connected["connect"] != "ok" {
        return Err(said);
    }
    assert_eq!(connected["getpeername"], to.to_string(), "{said}");
    let received = talked["received"].as_str().unwrap_or_default();
    if received.is_empty() { Err(said) } else { Ok(received.to_owned()) }
}

/// Asks so often that each of several endpoints has answered, or that nobody else is there; nothing fails.
fn answers(cluster: &Cluster, from: &Spec, to: &str) -> Vec<String> {
    let mut all: Vec<String> =
        (0..16).map(|_| answer(cluster, from, to).unwrap_or_else(|said| panic!("{to}: {said}"))).collect();
    all.sort();
    all.dedup();
    all
}

fn wait_resolved(daemon: &Daemon, services: u64) {
    eventually(slow::limit(20), &format!("{services} services to be resolved"), || {
        (daemon.ask(&["status"])["kubernetes"]["services"]["resolved"] == services).then_some(())
    });
}

#[test]
fn a_service_address_leads_to_each_of_its_endpoints_by_mtls_without_kube_proxy() {
    let cluster = world(&[("web", NODE), ("near", NODE), ("far", "n2")]);
    let (v4, v6) = ("10.96.0.10", "fd00:96::10");
    for address in [v4, v6] {
        service(&cluster, address, &[&spec("near"), &spec("far")], &json!({}));
    }
    let mut first = cluster.prepare(NODE, ON, ALL);
    first.ca_init();
    first.start();
    let mut second = cluster.prepare("n2", ON, ALL);
    second.share_ca(&first);
    second.start();
    let _served =
        [(NODE, "near"), ("n2", "far")].map(|(node, name)| cluster.serve(node, &spec(name), TARGET, name));
    wait_for(&first, &["shop/web", "shop/near"]);
    wait_for(&second, &["shop/far"]);
    wait_resolved(&first, 2);
    let capture = cluster.lab.capture();
    for to in [format!("{v4}:{PORT}"), format!("[{v6}]:{PORT}")] {
        assert_eq!(answers(&cluster, &spec("web"), &to), ["far", "near"], "{to}");
    }
    capture.stop().assert_only_tls(TARGET);
    assert!(first.metric("mtlsd_ebpf_events_total", &RESOLVED) >= 32.0);
    for server in ["near", "far"] {
        let id = format!("spiffe://example.org/ns/shop/sa/{server}");
        first.wait_for_log(server, |record| !record.inbound() && record.bytes() > 0 && record.peer() == id);
    }
    // An IPv4 address on an IPv6 socket.
    let mapped = format!("[::ffff:{v4}]:{PORT}");
    assert!(["far", "near"].contains(&answer(&cluster, &spec("web"), &mapped).expect("an answer").as_str()));
    let (code, said) = first.cli(&["verify"]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn of_a_mixed_service_the_enrolled_endpoint_is_reached_by_mtls_and_the_other_one_in_plaintext() {
    let mut cluster = world(&[("web", NODE), ("mine", NODE)]);
    let other = Spec { namespace: "lab", ..spec("other") };
    cluster.namespace("lab", json!({}));
    cluster.pod(NODE, &other);
    cluster.namespace("shop", json!({ MODE: "enabled" }));
    let address = "10.96.0.11";
    service(&cluster, address, &[&spec("mine"), &other], &json!({}));
    let daemon = cluster.daemon(&format!("{ON}, default_mode: strict"), ALL);
    let _served =
        [spec("mine"), other].map(|pod| cluster.serve(NODE, &pod, TARGET, &format!("it is {}", pod.name)));
    wait_for(&daemon, &["shop/web", "shop/mine"]);
    wait_resolved(&daemon, 1);
    let capture = cluster.lab.capture();
    let to = format!("{address}:{PORT}");
    assert_eq!(answers(&cluster, &spec("web"), &to), ["it is mine", "it is other"]);
    capture.stop().assert_absent(b"it is mine");
    let status = daemon.ask(&["status"]);
    assert_eq!(status["kubernetes"]["mixed_services"], json!([]));
    assert_eq!(status["kubernetes"]["services"]["left"], json!([]));
    // In a strict namespace nobody has its clients speak plaintext by adding an endpoint.
    cluster.namespace("shop", json!({ MODE: "strict" }));
    eventually(slow::limit(20), "only the enrolled one to be chosen", || {
        (0..8).all(|_| answer(&cluster, &spec("web"), &to).as_deref() == Ok("it is mine")).then_some(())
    });
    assert_eq!(answers(&cluster, &spec("web"), &to), ["it is mine"]);
}

#[test]
fn a_service_whose_clients_shall_come_back_is_left_to_kube_proxy() {
    let cluster = world(&[("web", NODE), ("a", NODE), ("b", NODE)]);
    let address = "10.96.0.12";
    service(&cluster, address, &[&spec("a"), &spec("b")], &json!({ "sessionAffinity": "ClientIP" }));
    let daemon = cluster.daemon(ON, ALL);
    let _served = ["a", "b"].map(|name| cluster.serve(NODE, &spec(name), TARGET, name));
    wait_for(&daemon, &["shop/web", "shop/a", "shop/b"]);
    let text = daemon.shown(&["status"]).text();
    let told = "0 services resolved at connect(), 1 left to kube-proxy";
    assert!(text.contains(told) && text.contains("sessionAffinity is ClientIP"), "{text}");
    let to = format!("{address}:{PORT}");
    assert!(answer(&cluster, &spec("web"), &to).is_err(), "there is no kube-proxy");
    cluster.turn(&spec("web"), address, PORT, &spec("a"), TARGET);
    assert_eq!(answers(&cluster, &spec("web"), &to), ["a"]);
    assert_eq!(daemon.metric("mtlsd_ebpf_events_total", &RESOLVED), 0.0);
}

#[test]
fn an_endpoint_that_is_taken_out_is_not_chosen_any_more_and_a_client_may_be_one_itself() {
    let cluster = world(&[("web", NODE), ("a", NODE)]);
    let address = "10.96.0.13";
    let to = format!("{address}:{PORT}");
    service(&cluster, address, &[&spec("a"), &spec("web")], &json!({}));
    let daemon = cluster.daemon(ON, ALL);
    let _served = ["a", "web"].map(|name| cluster.serve(NODE, &spec(name), TARGET, name));
    wait_for(&daemon, &["shop/web", "shop/a"]);
    wait_resolved(&daemon, 1);
    let capture = cluster.lab.capture();
    assert_eq!(answers(&cluster, &spec("web"), &to), ["a", "web"]);
    for left in ["web", "a"] {
        service(&cluster, address, &[&spec(left)], &json!({}));
        eventually(slow::limit(20), &format!("only {left} to be chosen"), || {
            (0..8).all(|_| answer(&cluster, &spec("web"), &to).as_deref() == Ok(left)).then_some(())
        });
        assert_eq!(answers(&cluster, &spec("web"), &to), [left]);
    }
    capture.stop().assert_only_tls(TARGET);
    // Nobody is left: it is kube-proxy's, which is not there.
    service(&cluster, address, &[], &json!({}));
    wait_resolved(&daemon, 0);
    assert!(answer(&cluster, &spec("web"), &to).is_err());
}

#[test]
fn while_the_daemon_is_away_nothing_is_resolved_and_a_strict_pod_stays_closed() {
    let mut cluster = world(&[("web", NODE), ("db", NODE)]);
    cluster.namespace("open", json!({ MODE: "permissive" }));
    let open = Spec { namespace: "open", ..spec("open") };
    cluster.pod(NODE, &open);
    let address = "10.96.0.14";
    let to = format!("{address}:{PORT}");
    service(&cluster, address, &[&spec("db"), &open], &json!({}));
    let mut daemon = cluster.daemon(ON, ALL);
    let _served = [spec("db"), open.clone()].map(|pod| cluster.serve(NODE, &pod, TARGET, &pod.name));
    wait_for(&daemon, &["shop/web", "shop/db", "open/open"]);
    wait_resolved(&daemon, 1);
    assert_eq!(answers(&cluster, &spec("web"), &to), ["db", "open"]);
    daemon.kill9();
    let capture = cluster.lab.capture();
    let refused = answer(&cluster, &spec("web"), &to).expect_err("it is strict");
    assert!(refused.contains("ECONNREFUSED"), "{refused}");
    capture.stop().assert_no_payload(TARGET);
    // A permissive one goes where kube-proxy sends it: always to the same here.
    cluster.turn(&open, address, PORT, &open, TARGET);
    assert_eq!(answers(&cluster, &open, &to), ["open"]);
    daemon.start();
    wait_for(&daemon, &["shop/web", "shop/db", "open/open"]);
    assert_eq!(answers(&cluster, &spec("web"), &to), ["db", "open"]);
}
