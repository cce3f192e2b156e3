//! A node of a Kubernetes cluster: its pods are workloads as their labels say, without a line of configuration for any of them.

use std::time::Duration;

use mtls_kube_double::{Act, json};
use mtls_tests::kube::{Cluster, MODE, Spec, wait_for_state};
use mtls_tests::lab::{NODE, program_beside_the_test};
use mtls_tests::{Daemon, Lab, eventually, slow};
use serde_json::Value;

const PORT: u16 = 7000;
const GREETING: &str = "from the pod";

fn web() -> Spec {
    Spec::new("shop", "web")
}

fn db() -> Spec {
    Spec { systemd: false, qos: "Guaranteed", ..Spec::new("shop", "db") }
}

fn other() -> Spec {
    Spec { qos: "BestEffort", ..Spec::new("lab", "other") }
}

/// Of all pods of the lab.
const NETWORKS: &str = "networks: [10.77.0.0/24, 'fd00:77::/64']";
const ALL: &str = "policy: [ { name: all, action: allow, from: { trust_domains: [example.org] } } ]";

/// `web` and `db` of a strict namespace, `other` of one that nobody enrolled.
fn world() -> Cluster {
    let mut cluster = Cluster::new();
    cluster.namespace("shop", json!({ MODE: "strict" }));
    cluster.namespace("lab", json!({}));
    for spec in [web(), db(), other()] {
        cluster.pod(NODE, &spec);
    }
    cluster
}

fn workloads(daemon: &Daemon) -> Vec<Value> {
    daemon.ask(&["workloads"]).as_array().cloned().unwrap_or_default()
}

fn is_gone(daemon: &Daemon, workload: &str) {
    eventually(slow::limit(20), &format!("{workload} to be gone"), || {
        let all = workloads(daemon);
        all.iter().all(|one| one["name"] != workload).then_some(())
    });
}

fn at(lab: &Lab, spec: &Spec) -> std::net::SocketAddr {
    lab.pod(&spec.name).at(PORT)
}

#[test]
fn pods_of_a_labelled_namespace_speak_mtls_and_others_are_left_alone() {
    let cluster = world();
    let daemon = cluster.daemon("", ALL);
    let _db = cluster.serve(NODE, &db(), PORT, GREETING);
    let _other = cluster.serve(NODE, &other(), PORT, GREETING);
    wait_for_state(&daemon, "shop/web", "enrolled");
    wait_for_state(&daemon, "shop/db", "enrolled");
    let capture = cluster.lab.capture();
    for to in [cluster.lab.pod("db").at(PORT), cluster.lab.pod("db").at6(PORT)] {
        let said = cluster.ask(NODE, &web(), to);
        assert!(said.contains(GREETING), "{said}");
    }
    capture.stop().assert_only_tls(PORT);
    let record = daemon.wait_for_log("the server's side", |record| record.inbound() && record.bytes() > 0);
    assert_eq!(
        (record.workload(), record.peer(), record.local()),
        ("shop/db", "spiffe://example.org/ns/shop/sa/web", "spiffe://example.org/ns/shop/sa/db")
    );
    // Who is not enrolled is a stranger to the strict pod, and reaches whoever is not enrolled.
    assert_eq!(cluster.plaintext(cluster.lab.pod("other"), at(&cluster.lab, &db())), None);
    let said = cluster.ask(NODE, &web(), at(&cluster.lab, &other()));
    assert!(said.contains(GREETING), "{said}");
    let said = cluster.ask(NODE, &other(), at(&cluster.lab, &other()));
    assert!(said.contains(GREETING), "a pod that nobody enrolled is left alone: {said}");
}

#[test]
fn a_label_takes_effect_on_a_running_pod_and_so_does_its_removal() {
    let mut cluster = world();
    let late = Spec::new("lab", "late");
    cluster.pod(NODE, &late);
    let daemon = cluster.daemon("", ALL);
    let _late = cluster.serve(NODE, &late, PORT, GREETING);
    assert!(cluster.plaintext(cluster.lab.pod("other"), at(&cluster.lab, &late)).is_some());
    cluster.announce(NODE, &late.clone().labelled(MODE, "strict"));
    wait_for_state(&daemon, "lab/late", "enrolled");
    assert_eq!(cluster.plaintext(cluster.lab.pod("other"), at(&cluster.lab, &late)), None);
    let said = cluster.ask(NODE, &web(), at(&cluster.lab, &late));
    assert!(said.contains(GREETING), "{said}");
    // A typing error is not taken for `disabled`.
    cluster.announce(NODE, &late.clone().labelled(MODE, "disable"));
    wait_for_state(&daemon, "lab/late", "enrolled");
    assert_eq!(cluster.plaintext(cluster.lab.pod("other"), at(&cluster.lab, &late)), None);
    cluster.announce(NODE, &late);
    is_gone(&daemon, "lab/late");
    assert!(cluster.plaintext(cluster.lab.pod("other"), at(&cluster.lab, &late)).is_some());
}

#[test]
fn a_pod_that_is_made_anew_under_its_address_is_enrolled_again_and_nothing_leaves_it_before() {
    let cluster = world();
    let daemon = cluster.daemon("", ALL);
    let _db = cluster.serve(NODE, &db(), PORT, GREETING);
    wait_for_state(&daemon, "shop/web", "enrolled");
    let capture = cluster.lab.capture();
    for _ in 0..2 {
        // The sandbox dies and is made again: the same UID and addresses, another namespace and cgroup.
        cluster.kill(NODE, &web());
        cluster.lab.restore_pod("web");
        eventually(slow::limit(20), "the new sandbox to be enrolled", || {
            // Until it is known, connect() is refused; it is never plaintext.
            let said = cluster.ask(NODE, &web(), at(&cluster.lab, &db()));
            said.contains(GREETING).then_some(())
        });
    }
    capture.stop().assert_only_tls(PORT);
    let record =
        daemon.wait_for_log("the new one's connection", |record| record.inbound() && record.bytes() > 0);
    assert_eq!(record.peer(), "spiffe://example.org/ns/shop/sa/web");
}

#[test]
fn a_strict_pod_connects_to_nobody_inside_the_cluster_whom_the_api_server_has_not_told_of() {
    let mut cluster = world();
    let open = Spec::new("lab", "open").labelled(MODE, "permissive");
    cluster.pod(NODE, &open);
    // They run, with addresses of the cluster, and the API server does not know them.
    cluster.lab.add_node("n2");
    let young = Spec::new("lab", "young");
    cluster.sandbox("n2", &young);
    let daemon = cluster.daemon(NETWORKS, ALL);
    let _served = [("n2", young.clone()), (NODE, db()), (NODE, other())]
        .map(|(node, spec)| cluster.serve(node, &spec, PORT, GREETING));
    for name in ["shop/web", "shop/db", "lab/open"] {
        wait_for_state(&daemon, name, "enrolled");
    }
    let to = cluster.lab.pod("young");
    let capture = cluster.lab.capture();
    for to in [to.at(PORT), to.at6(PORT)] {
        let said = cluster.ask(NODE, &web(), to);
        assert!(said.contains("EACCES"), "{said}");
    }
    let young_at = at(&cluster.lab, &young);
    assert_eq!(capture.stop().of_port(PORT).count(), 0, "not even a SYN");
    let record = daemon.wait_for_log("the refusal", |record| record.reason() == "unknown_destination");
    assert_eq!(record.workload(), "shop/web");
    // Who is known is reached as ever, and a permissive pod reaches everybody.
    for (from, to) in [(web(), db()), (web(), other()), (open, young.clone())] {
        let said = cluster.ask(NODE, &from, at(&cluster.lab, &to));
        assert!(said.contains(GREETING), "{} to {}: {said}", from.name, to.name);
    }
    cluster.announce("n2", &young);
    eventually(slow::limit(20), "the young one to be known", || {
        cluster.ask(NODE, &web(), young_at).contains(GREETING).then_some(())
    });
    let (code, said) = daemon.cli(&["verify"]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn what_was_heard_holds_while_the_api_server_is_away_and_across_a_restart() {
    let mut cluster = world();
    let mut daemon = cluster.daemon("", ALL);
    let _db = cluster.serve(NODE, &db(), PORT, GREETING);
    wait_for_state(&daemon, "shop/db", "enrolled");
    let state = daemon.config().with_file_name("state").join("kubernetes.json");
    eventually(slow::limit(30), "what was heard to be on disk", || state.exists().then_some(()));
    cluster.double.stop();
    daemon.kill9();
    daemon.start();
    wait_for_state(&daemon, "shop/db", "enrolled");
    let said = cluster.ask(NODE, &web(), at(&cluster.lab, &db()));
    assert!(said.contains(GREETING), "{said}");
    assert_eq!(cluster.plaintext(cluster.lab.pod("other"), at(&cluster.lab, &db())), None);
    let (code, text) = daemon.cli(&["status"]);
    assert!(code == Some(0) && text.contains("pods"), "{text}");
}

#[test]
fn a_new_daemon_forgets_nobody_whom_the_earlier_one_knew_and_had_not_written_down() {
    let mut cluster = world();
    cluster.lab.add_node("n2");
    let mut daemon = cluster.daemon("", ALL);
    wait_for_state(&daemon, "shop/web", "enrolled");
    let state = daemon.config().with_file_name("state").join("kubernetes.json");
    eventually(slow::limit(30), "what was heard to be on disk", || state.exists().then_some(()));
    let old = std::fs::read(&state).expect("it is there");
    let young = Spec::new("shop", "young");
    cluster.pod("n2", &young);
    let v4 = cluster.lab.pod("young").v4;
    let is_destination = |cluster: &Cluster, daemon: &Daemon| {
        let dump = cluster.lab.tool("bpftool").args(["-j", "map", "dump", "pinned"]);
        let dump = dump.arg(daemon.table("ADDRESSES")).run().ok().text();
        let bytes: Vec<_> = v4.octets().iter().map(|byte| format!("\"0x{byte:02x}\"")).collect();
        dump.contains(&bytes.join(","))
    };
    eventually(slow::limit(20), "the young pod to be known", || {
        is_destination(&cluster, &daemon).then_some(())
    });
    daemon.kill9();
    std::fs::write(&state, old).expect("the lab's directory is writable");
    for verb in ["list", "watch"] {
        cluster.double.next(verb, "pods", 1, Act::Delay(Duration::from_secs(2)));
    }
    daemon.launch();
    eventually(slow::limit(20), "the new daemon to be ready", || {
        assert!(is_destination(&cluster, &daemon), "a client would send plaintext to the young pod now");
        daemon.ready().then_some(())
    });
}

#[test]
fn without_the_api_server_and_without_memory_the_daemon_is_not_ready_and_says_why() {
    let mut cluster = world();
    cluster.double.stop();
    let mut daemon = cluster.prepare(NODE, "", ALL);
    daemon.launch();
    eventually(slow::limit(20), "the reason to be told", || {
        let (_, text) = daemon.cli(&["status"]);
        text.contains("the API server has not said yet").then_some(())
    });
    assert!(!daemon.ready(), "readiness is what a rolling update waits for");
    cluster.double.restart();
    wait_for_state(&daemon, "shop/web", "enrolled");
    eventually(slow::limit(20), "the daemon to be ready", || daemon.ready().then_some(()));
}

#[test]
fn pods_of_two_nodes_know_each_other_and_nobody_wrote_a_directory() {
    let mut cluster = Cluster::new();
    cluster.lab.add_node("n2");
    cluster.namespace("shop", json!({ MODE: "strict" }));
    cluster.pod(NODE, &web());
    cluster.pod("n2", &db());
    let mut first = cluster.prepare(NODE, "", ALL);
    first.ca_init();
    first.start();
    let mut second = cluster.prepare("n2", "", ALL);
    second.share_ca(&first);
    second.start();
    let _db = cluster.serve("n2", &db(), PORT, GREETING);
    wait_for_state(&first, "shop/web", "enrolled");
    wait_for_state(&second, "shop/db", "enrolled");
    let capture = cluster.lab.capture();
    for to in [cluster.lab.pod("db").at(PORT), cluster.lab.pod("db").at6(PORT)] {
        let said = cluster.ask(NODE, &web(), to);
        assert!(said.contains(GREETING), "{said}");
    }
    capture.stop().assert_only_tls(PORT);
    let record = second.wait_for_log("the server's side", |record| record.inbound() && record.bytes() > 0);
    assert_eq!(record.peer(), "spiffe://example.org/ns/shop/sa/web");
    is_absent(&first, "shop/db");
}

fn is_absent(daemon: &Daemon, workload: &str) {
    assert!(workloads(daemon).iter().all(|one| one["name"] != workload), "{workload} is the other node's");
}

#[test]
fn a_policy_object_that_is_wrong_is_refused_alone_and_the_last_good_one_stays() {
    let cluster = world();
    let policy = |generation: u64, from: Value| {
        cluster.double.put(
            "mutualtlspolicies",
            json!({
                "metadata": { "name": "db", "namespace": "shop", "uid": "p", "generation": generation },
                "spec": { "rules": [{ "name": "web", "action": "allow", "from": from }] },
            }),
        );
    };
    policy(1, json!({ "service_accounts": ["shop/web"] }));
    let daemon = cluster.daemon("", "");
    let _db = cluster.serve(NODE, &db(), PORT, GREETING);
    wait_for_state(&daemon, "shop/db", "enrolled");
    let said = cluster.ask(NODE, &web(), at(&cluster.lab, &db()));
    assert!(said.contains(GREETING), "{said}");
    let condition = |status: &str| {
        eventually(slow::limit(30), &format!("the condition to be {status}"), || {
            let object = cluster.double.get("mutualtlspolicies", "shop", "db")?;
            let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
            let own = conditions.iter().find(|condition| condition["type"] == "mtlsd.io/Accepted")?;
            (own["status"] == status).then(|| own["message"].as_str().unwrap_or_default().to_owned())
        })
    };
    condition("True");
    policy(2, json!({ "service_account": ["shop/web"] }));
    let message = condition("False");
    assert!(message.contains("service_account") && message.contains("last good version"), "{message}");
    eventually(slow::limit(20), "the refusal to be told", || {
        let text = daemon.shown(&["status"]).text();
        (text.contains("MutualTLSPolicy shop/db REFUSED") && text.contains("last good version")).then_some(())
    });
    let said = cluster.ask(NODE, &web(), at(&cluster.lab, &db()));
    assert!(said.contains(GREETING), "the last good version is in force: {said}");
    policy(3, json!({ "service_accounts": ["shop/nobody"] }));
    eventually(slow::limit(20), "the new version to be in force", || {
        let said = cluster.ask(NODE, &web(), at(&cluster.lab, &db()));
        (!said.contains(GREETING)).then_some(())
    });
}

#[test]
fn kubelet_probes_the_port_that_the_pods_spec_names_and_nobody_else_does() {
    let mut cluster = world();
    let probed = Spec {
        more: json!({ "spec": { "containers": [{ "readinessProbe": { "tcpSocket": { "port": PORT } } }] } }),
        ..Spec::new("shop", "probed")
    };
    cluster.pod(NODE, &probed);
    let daemon = cluster.daemon("", ALL);
    let _served = [PORT, PORT + 1].map(|port| cluster.serve(NODE, &probed, port, GREETING));
    wait_for_state(&daemon, "shop/probed", "enrolled");
    let kubelet = cluster.lab.node(NODE).cgroup_root.join("system.slice/kubelet.service");
    let other = cluster.lab.node(NODE).cgroup_root.join("system.slice/other.service");
    // On the wire where the pods' cables end, as kubelet is on its node.
    let ask = |cgroup: &std::path::Path, port: u16| {
        std::fs::create_dir_all(cgroup).expect("cgroup v2 is writable");
        let to = cluster.lab.pod("probed").at(port).to_string();
        let host =
            cluster.lab.pod("other").cmd_in_cgroup(cgroup.to_owned(), program_beside_the_test("probe"));
        host.args(["connect", &to]).run().ok().text()
    };
    eventually(slow::limit(20), "kubelet to be known", || {
        ask(&kubelet, PORT).contains(GREETING).then_some(())
    });
    assert!(!ask(&kubelet, PORT + 1).contains(GREETING), "a port that nobody has probed");
    assert!(!ask(&other, PORT).contains(GREETING), "another service of the node");
}

#[test]
fn a_service_address_leads_to_the_identities_behind_it() {
    let cluster = world();
    let service = "10.96.0.10";
    cluster.service("shop", "db", service, PORT, &[&db()]);
    let daemon = cluster.daemon("", ALL);
    let _db = cluster.serve(NODE, &db(), PORT, GREETING);
    wait_for_state(&daemon, "shop/web", "enrolled");
    // What kube-proxy does: the address is turned to an endpoint, in the node's part of the way.
    cluster.translate(&web(), service, PORT, &db());
    let capture = cluster.lab.capture();
    let said = cluster.ask(NODE, &web(), format!("{service}:{PORT}").parse().expect("an address"));
    assert!(said.contains(GREETING), "{said}");
    capture.stop().assert_only_tls(PORT);
    let record = daemon.wait_for_log("the client's side", |record| !record.inbound() && record.bytes() > 0);
    assert_eq!(record.peer(), "spiffe://example.org/ns/shop/sa/db");
}

#[test]
fn a_port_that_policy_disables_behind_a_service_is_reached_by_its_address_as_it_is() {
    let cluster = world();
    let service = "10.96.0.11";
    let target = PORT + 1;
    cluster.service("shop", "db", service, PORT, &[&db()]);
    let mut slice = cluster.double.get("endpointslices", "shop", "db-1").expect("it is there");
    slice["ports"] = json!([{ "name": "", "port": target, "protocol": "TCP" }]);
    cluster.double.put("endpointslices", slice);
    cluster.double.put(
        "mutualtlspolicies",
        json!({
            "metadata": { "name": "db", "namespace": "shop", "uid": "p", "generation": 1 },
            "spec": { "ports": { target.to_string(): "disabled" } },
        }),
    );
    let daemon = cluster.daemon("", ALL);
    let _db = cluster.serve(NODE, &db(), target, GREETING);
    for name in ["shop/web", "shop/db"] {
        wait_for_state(&daemon, name, "enrolled");
    }
    cluster.turn(&web(), service, PORT, &db(), target);
    for to in [format!("{service}:{PORT}"), format!("{}:{target}", cluster.lab.pod("db").v4)] {
        let said = cluster.ask(NODE, &web(), to.parse().expect("an address"));
        assert!(said.contains(GREETING), "{to}: {said}");
    }
    let (code, said) = daemon.cli(&["verify"]);
    assert_eq!(code, Some(0), "{said}");
}
