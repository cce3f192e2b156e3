//! Single requests.

use std::time::Duration;

use mtls_kube_double::{Act, Double, json, other_ca_pem};
use serde_json::Value;

use super::world::{World, brisk, pod};
use crate::kube::objects::Pod;
use crate::kube::resource::{CERTIFICATE_REQUESTS, MUTUAL_TLS_POLICIES, PODS};
use crate::kube::{Key, KubeError, Reflector, Scope, Timing};

fn key(name: &str) -> Key {
    Key { namespace: Some("shop".parse().unwrap()), name: name.parse().unwrap() }
}

#[tokio::test]
async fn an_object_is_created_read_and_deleted() {
    let world = World::new();
    let client = world.client(brisk());
    let request = json!({
        "apiVersion": "cert-manager.io/v1", "kind": "CertificateRequest",
        "metadata": { "name": "r1", "namespace": "shop" }, "spec": { "request": "…" },
    });
    let namespace = "shop".parse().unwrap();
    let created: Value = client.create(CERTIFICATE_REQUESTS, &namespace, &request).await.unwrap();
    assert_eq!(created["metadata"]["generation"], 1);
    let again = client.create::<Value>(CERTIFICATE_REQUESTS, &namespace, &request).await.unwrap_err();
    assert!(matches!(again, KubeError::Conflict { .. }), "{again}");
    let read: Value = client.get(CERTIFICATE_REQUESTS, &key("r1")).await.unwrap();
    assert_eq!(read, created);
    client.delete(CERTIFICATE_REQUESTS, &key("r1")).await.unwrap();
    let gone = client.get::<Value>(CERTIFICATE_REQUESTS, &key("r1")).await.unwrap_err();
    assert!(matches!(gone, KubeError::NotFound { .. }), "{gone}");
}

#[tokio::test]
async fn a_status_is_patched_and_who_patches_what_he_has_not_read_is_refused() {
    let world = World::new();
    let client = world.client(brisk());
    world.double.put(
        "mutualtlspolicies",
        json!({ "metadata": { "name": "p", "namespace": "shop" }, "spec": { "mode": "STRICT" } }),
    );
    let patch = json!({ "spec": { "mode": "DISABLE" }, "status": { "accepted": true } });
    let patched: Value = client.patch_status(MUTUAL_TLS_POLICIES, &key("p"), &patch).await.unwrap();
    assert_eq!((&patched["status"]["accepted"], &patched["spec"]["mode"]), (&json!(true), &json!("STRICT")));
    let stale = json!({ "metadata": { "resourceVersion": "1" }, "status": { "accepted": false } });
    let refused = client.patch_status::<Value>(MUTUAL_TLS_POLICIES, &key("p"), &stale).await.unwrap_err();
    assert!(matches!(refused, KubeError::Conflict { .. }), "{refused}");
}

#[tokio::test]
async fn the_api_server_is_found_over_ipv6() {
    let world = World::of(Double::start_at("[::1]:0".parse().unwrap()));
    world.put("a");
    let read: Value = world.client(brisk()).get(PODS, &key("a")).await.unwrap();
    assert_eq!(read["metadata"]["name"], "a");
}

#[tokio::test]
async fn each_refusal_names_what_was_asked_and_the_mend() {
    let world = World::new();
    let client = world.client(brisk());
    let a = key("a");
    let ask = || client.get::<Value>(PODS, &a);
    world.double.forbid("get", "pods");
    let said = ask().await.unwrap_err().to_string();
    assert!(said.contains("forbids to get pods: pods is forbidden: User"), "{said}");
    assert!(said.ends_with("add the verb get on pods to mtlsd's ClusterRole"), "{said}");
    world.double.tokens(&[]);
    let said = ask().await.unwrap_err().to_string();
    assert!(said.contains("does not accept the token in") && said.contains("to get pods"), "{said}");
    world.ca(&other_ca_pem());
    // The connection that is kept is from before.
    let said = world.client(brisk()).get::<Value>(PODS, &key("a")).await.unwrap_err().to_string();
    assert!(
        said.contains("no TLS with the API server 127.0.0.1:") && said.contains("ca.crt is the cluster's CA"),
        "{said}"
    );
    std::fs::remove_file(world.files.path().join("token")).unwrap();
    let said = ask().await.unwrap_err().to_string();
    assert!(said.contains("the token in") && said.contains("volume is mounted"), "{said}");
}

#[tokio::test]
async fn what_takes_too_long_or_is_too_long_or_none_is_an_error_in_time() {
    let world = World::new();
    world.put("a");
    let client = world.client(Timing { answer: Duration::from_secs(1), ..brisk() });
    for (act, want) in [
        (Act::Never, "had not answered get pods after 1s"),
        (Act::Trickle(Duration::from_millis(100)), "had not answered get pods after 1s"),
        (Act::Half, "broke during get pods"),
        (Act::Body("<html>".to_owned()), "cannot be read"),
        (Act::Body(" ".repeat((4 << 20) + 1)), "more than 4194304 bytes"),
        (Act::Status(500, None), "answered get pods with 500: a failure of the double"),
    ] {
        world.double.next("get", "pods", 1, act);
        let said = client.get::<Value>(PODS, &key("a")).await.unwrap_err().to_string();
        assert!(said.contains(want), "{said}");
    }
    world.double.next("get", "pods", 1, Act::Trickle(Duration::from_millis(5)));
    assert!(client.get::<Value>(PODS, &key("a")).await.is_ok(), "slow, and in time");
}

#[tokio::test]
async fn a_kept_connection_that_was_cut_is_replaced_and_nothing_is_changed_twice() {
    let world = World::new();
    world.double.put("pods", pod("a"));
    let client = world.client(brisk());
    for _ in 0..3 {
        client.get::<Value>(PODS, &key("a")).await.unwrap();
    }
    assert_eq!(world.double.connections(), 1);
    world.double.cut();
    client.get::<Value>(PODS, &key("a")).await.unwrap();
    assert_eq!(world.double.connections(), 2);
    let namespace = "shop".parse().unwrap();
    world.double.next("create", "pods", 1, Act::Half);
    let broken = client.create::<Value>(PODS, &namespace, &pod("b")).await.unwrap_err();
    assert!(matches!(broken, KubeError::Broken { .. }), "{broken}");
    assert_eq!(world.double.count("create", "pods"), 1);
}

#[tokio::test]
async fn only_what_is_asked_for_is_listed_and_watched() {
    let world = World::new();
    let on = |name: &str, node: &str| {
        let mut pod = pod(name);
        pod["spec"]["nodeName"] = node.into();
        world.double.put("pods", pod);
    };
    on("a", "n1");
    on("b", "n2");
    let scope = Scope { node: Some("n1".parse().unwrap()), ..Scope::default() };
    let pods: Reflector<Pod> = Reflector::start(world.client(brisk()), scope, None);
    super::world::until("listed", || pods.is_complete()).await;
    assert_eq!(super::world::count(&pods), 1);
    on("c", "n1");
    on("d", "n2");
    super::world::until("c", || super::world::has(&pods, "c")).await;
    assert_eq!(super::world::count(&pods), 2);
    for path in world.double.paths("watch", "pods") {
        assert!(
            path.contains("fieldSelector=spec.nodeName%3Dn1") && path.contains("timeoutSeconds=290"),
            "{path}"
        );
        assert!(path.contains("allowWatchBookmarks=true"), "{path}");
    }
}
