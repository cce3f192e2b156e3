//! Pods of real containers, made by runc as containerd makes them for kubelet: sandbox, init container, application, and a container
//! that is added to a pod that runs.

use mtls_kube_double::json;
use mtls_tests::container::why_none;
use mtls_tests::kube::{Cluster, MODE, Spec, wait_for_state};
use mtls_tests::lab::NODE;
use mtls_tests::pods::RealPod;
use mtls_tests::{Daemon, could_not_run, eventually, slow};

const PORT: u16 = 7000;
const GREETING: &str = "from the container";
const MARKER: &str = "TOP-SECRET-0123456789";
const ALL: &str = "policy: [ { name: all, action: allow, from: { trust_domains: [example.org] } } ]";

/// `false`, and that is said: containers cannot be made here.
fn can_run<T: Fn()>(test: T) -> bool {
    let why = why_none();
    if let Some(why) = why {
        could_not_run(test, why);
    }
    why.is_none()
}

/// Two pods of a strict namespace, by kubelet's two drivers.
fn two() -> [Spec; 2] {
    let web = Spec { systemd: false, ..Spec::new("shop", "web") };
    [web, Spec::new("shop", "db")]
}

fn world(specs: &[Spec]) -> (Cluster, Daemon) {
    let mut cluster = Cluster::new();
    cluster.namespace("shop", json!({ MODE: "strict" }));
    for spec in specs {
        cluster.lab.add_pod(NODE, &spec.name);
        cluster.announce(NODE, spec);
    }
    let daemon = cluster.daemon("", ALL);
    (cluster, daemon)
}

#[test]
fn every_container_of_a_pod_is_the_pod_whichever_driver_named_its_cgroup() {
    if !can_run(every_container_of_a_pod_is_the_pod_whichever_driver_named_its_cgroup) {
        return;
    }
    let [web, db] = two();
    let (cluster, daemon) = world(&[web.clone(), db.clone()]);
    let (server, client) = (RealPod::start(&cluster, NODE, &db), RealPod::start(&cluster, NODE, &web));
    for name in ["shop/web", "shop/db"] {
        wait_for_state(&daemon, name, "enrolled");
    }
    let at = format!("[::]:{PORT}");
    let _app = server.run(&cluster, "app", &["/usr/bin/probe", "serve", &at, "--greet", GREETING]);
    cluster.lab.pod("db").wait_port(PORT);
    let capture = cluster.lab.capture();
    let to = cluster.lab.pod("db").at(PORT).to_string();
    // An init container ends before the application begins; an ephemeral one comes when the pod has run for long.
    for name in ["init", "app", "ephemeral"] {
        let asked = client
            .run(&cluster, name, &["/usr/bin/probe", "connect", &to, "--send", MARKER])
            .output(slow::limit(30));
        assert!(asked.text().contains(GREETING), "{name}: {asked}");
    }
    for _ in 0..3 {
        let record = daemon.wait_for_log("a connection", |record| record.inbound() && record.bytes() > 0);
        assert_eq!(record.peer(), "spiffe://example.org/ns/shop/sa/web");
    }
    let traffic = capture.stop();
    traffic.assert_absent(MARKER.as_bytes());
    traffic.assert_only_tls(PORT);
    assert_eq!(
        cluster.plaintext(cluster.lab.pod("web"), cluster.lab.pod("db").at(PORT)),
        None,
        "not of its cgroup"
    );
}

#[test]
fn a_sandbox_that_is_made_again_under_its_uid_is_the_pod_again_and_what_came_before_the_news_of_it_sends_nothing()
 {
    if !can_run(
        a_sandbox_that_is_made_again_under_its_uid_is_the_pod_again_and_what_came_before_the_news_of_it_sends_nothing,
    ) {
        return;
    }
    // One driver, as on a real node: where it has its cgroups is known before.
    let [web, db] = two().map(|spec| Spec { systemd: false, ..spec });
    let (cluster, daemon) = world(std::slice::from_ref(&db));
    let server = RealPod::start(&cluster, NODE, &db);
    wait_for_state(&daemon, "shop/db", "enrolled");
    let at = format!("[::]:{PORT}");
    let _app = server.run(&cluster, "app", &["/usr/bin/probe", "serve", &at, "--greet", GREETING]);
    cluster.lab.pod("db").wait_port(PORT);
    let mut cluster = cluster;
    cluster.lab.add_pod(NODE, "web");
    let to = cluster.lab.pod("db").at(PORT).to_string();
    let capture = cluster.lab.capture();
    let ask = ["/usr/bin/probe", "connect", &to, "--send", MARKER];

    // Nobody has said yet that there is such a pod.
    let unknown = RealPod::start(&cluster, NODE, &web);
    let asked = unknown.run(&cluster, "early", &ask).output(slow::limit(30));
    assert!(asked.text().contains("ECONNREFUSED"), "{asked}");
    cluster.announce(NODE, &web);
    wait_for_state(&daemon, "shop/web", "enrolled");
    assert!(unknown.run(&cluster, "app", &ask).output(slow::limit(30)).text().contains(GREETING));

    drop(unknown);
    cluster.lab.remove_pod("web");
    cluster.lab.restore_pod("web");
    let again = RealPod::start(&cluster, NODE, &web);
    let mut attempt = 0;
    eventually(slow::limit(20), "the new sandbox to be the pod", || {
        attempt += 1;
        let asked = again.run(&cluster, &format!("app-{attempt}"), &ask).output(slow::limit(30));
        asked.text().contains(GREETING).then_some(())
    });
    let traffic = capture.stop();
    traffic.assert_absent(MARKER.as_bytes());
    traffic.assert_only_tls(PORT);
}
