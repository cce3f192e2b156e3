//! The real kubectl against the double of the Kubernetes API: what the daemon's client is tested with is no echo of that client.

use std::io::BufReader;

use mtls_kube_double::{Double, RESOURCES, json, other_ca_pem};
use mtls_tests::could_not_run;
use mtls_tests::programs::kubectl::{self, Kubectl};
use serde_json::Value;

/// A double and a kubectl; `None`, and that is said: there is no kubectl.
fn world<T: Fn()>(test: T) -> Option<(Double, Kubectl)> {
    match kubectl::program() {
        Ok(program) => {
            let double = Double::start();
            let kubectl = Kubectl::of(&program, &double);
            Some((double, kubectl))
        }
        Err(reason) => {
            could_not_run(test, &reason);
            None
        }
    }
}

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": { "name": name, "namespace": "shop", "labels": { "app": "web" } },
        "spec": { "containers": [{ "name": "web", "image": "web:1" }] },
    })
}

#[test]
fn kubectl_finds_every_resource() {
    let Some((_double, kubectl)) = world(kubectl_finds_every_resource) else { return };
    let listed = kubectl.ok(&["api-resources", "--no-headers"]);
    for resource in RESOURCES {
        let line = listed
            .lines()
            .find(|line| line.starts_with(resource.plural))
            .unwrap_or_else(|| panic!("{listed}"));
        assert!(line.contains(resource.kind) && line.contains(&resource.api_version()), "{line}");
    }
    assert!(kubectl.ok(&["version"]).contains("Server Version: v1.35.2-double"));
}

#[test]
fn kubectl_creates_reads_changes_and_deletes() {
    let Some((double, kubectl)) = world(kubectl_creates_reads_changes_and_deletes) else { return };
    let file = kubectl.file("pod.json", &pod("web-1").to_string());
    assert!(
        kubectl
            .ok(&["create", "--validate=false", "--dry-run=client", "-f", &file])
            .contains("web-1 created (dry run)")
    );
    assert!(double.get("pods", "shop", "web-1").is_none());
    assert!(kubectl.ok(&["create", "--validate=false", "-f", &file]).contains("pod/web-1 created"));
    assert!(kubectl.run(&["create", "--validate=false", "-f", &file]).text.contains("AlreadyExists"));

    let read: Value = serde_json::from_str(&kubectl.ok(&["get", "pod", "web-1", "-o", "json"])).unwrap();
    assert_eq!(read, double.get("pods", "shop", "web-1").unwrap());
    assert!(kubectl.ok(&["get", "pods", "-l", "app=web", "-A"]).contains("web-1"));
    assert!(kubectl.ok(&["get", "pods", "-l", "app=api"]).contains("No resources found"));

    kubectl.ok(&["label", "pod", "web-1", "tier=front"]);
    kubectl.ok(&[
        "patch",
        "pod",
        "web-1",
        "--type=merge",
        "--subresource=status",
        "-p",
        r#"{"status":{"phase":"Running"}}"#,
    ]);
    let now = double.get("pods", "shop", "web-1").unwrap();
    assert_eq!(
        (&now["metadata"]["labels"]["tier"], &now["status"]["phase"]),
        (&json!("front"), &json!("Running"))
    );

    assert!(kubectl.ok(&["delete", "pod", "web-1", "--timeout=30s"]).contains("deleted"));
    assert!(double.get("pods", "shop", "web-1").is_none());
    assert!(kubectl.run(&["get", "pod", "web-1"]).text.contains("NotFound"));
}

#[test]
fn kubectl_is_told_of_a_conflict() {
    let Some((double, kubectl)) = world(kubectl_is_told_of_a_conflict) else { return };
    let policy = |mode: &str| {
        json!({
            "apiVersion": "mtlsd.io/v1alpha1", "kind": "MutualTLSPolicy",
            "metadata": { "name": "p", "namespace": "shop" }, "spec": { "mode": mode },
        })
    };
    double.put("mutualtlspolicies", policy("STRICT"));
    let mut stale = double.get("mutualtlspolicies", "shop", "p").unwrap();
    double.put("mutualtlspolicies", policy("PERMISSIVE"));
    stale["spec"]["mode"] = "DISABLE".into();
    let said =
        kubectl.run(&["replace", "--validate=false", "-f", &kubectl.file("stale.json", &stale.to_string())]);
    assert!(!said.ok && said.text.contains("the object has been modified"), "{}", said.text);
    assert_eq!(double.get("mutualtlspolicies", "shop", "p").unwrap()["spec"]["mode"], "PERMISSIVE");
}

#[test]
fn kubectl_lists_in_pages() {
    let Some((double, kubectl)) = world(kubectl_lists_in_pages) else { return };
    for n in 0..7 {
        double.put("pods", pod(&format!("p{n}")));
    }
    let names = kubectl.ok(&["get", "pods", "-A", "--chunk-size=3", "-o", "name"]);
    assert_eq!(names.lines().count(), 7, "{names}");
    assert_eq!((double.count("list", "pods"), double.count("page", "pods")), (1, 2));
}

#[test]
fn kubectl_watches() {
    let Some((double, kubectl)) = world(kubectl_watches) else { return };
    double.put("pods", pod("first"));
    let mut watching = kubectl.spawn(&["get", "pods", "--watch", "--output-watch-events", "-o", "json"]);
    let output = BufReader::new(watching.stdout.take().unwrap());
    let mut events = serde_json::Deserializer::from_reader(output).into_iter::<Value>().map(|event| {
        let event = event.expect("an event in JSON");
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        format!("{} {name}", event["type"].as_str().unwrap_or_default())
    });
    assert_eq!(events.next().unwrap(), "ADDED first");
    while double.watches() == 0 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    double.put("pods", pod("second"));
    assert_eq!(events.next().unwrap(), "ADDED second");
    let mut changed = pod("first");
    changed["status"] = json!({ "phase": "Running" });
    double.put("pods", changed);
    assert_eq!(events.next().unwrap(), "MODIFIED first");
    double.delete("pods", "shop", "second");
    assert_eq!(events.next().unwrap(), "DELETED second");
    watching.kill().expect("it runs");
    watching.wait().expect("it ran");
}

#[test]
fn kubectl_is_told_that_its_token_or_its_rights_are_not_enough() {
    let Some((double, kubectl)) = world(kubectl_is_told_that_its_token_or_its_rights_are_not_enough) else {
        return;
    };
    double.forbid("list", "pods");
    let said = kubectl.run(&["get", "pods"]).text;
    assert!(
        said.contains("cannot list resource \"pods\" in API group \"\" in the namespace \"shop\""),
        "{said}"
    );
    kubectl.use_token(&double, "another");
    let said = kubectl.run(&["get", "pods"]).text;
    assert!(said.contains("Unauthorized") || said.contains("must be logged in"), "{said}");
}

#[test]
fn kubectl_verifies_the_double() {
    let Some((_double, kubectl)) = world(kubectl_verifies_the_double) else { return };
    let other = kubectl.file("other.crt", &other_ca_pem());
    let said = kubectl.run(&["get", "pods", "--certificate-authority", &other]);
    assert!(!said.ok && said.text.contains("x509"), "{}", said.text);
}
