//! What a cluster offers, from objects alone.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::config::{Config, Kubernetes, Mode, Offer, Source};
use crate::kube::objects::{Kind, Pod};
use crate::kube::pods::testing::good;

fn settings() -> Kubernetes {
    let text = "trust_domain: a\nkubernetes: {}\n".to_owned();
    Config::parse(&Source { path: "F".into(), text }, &[]).unwrap().kubernetes.unwrap()
}

fn arcs<K: Kind>(all: &[Value]) -> Vec<Arc<K>> {
    all.iter().map(|object| Arc::new(good(object))).collect()
}

/// A running pod of the namespace `shop` on a node.
fn pod(name: &str, node: &str, address: &str) -> Value {
    json!({
        "metadata": { "name": name, "namespace": "shop", "uid": name },
        "spec": { "nodeName": node, "serviceAccountName": name },
        "status": { "phase": "Running", "podIP": address, "qosClass": "Burstable" },
    })
}

fn patched(mut object: Value, pointer: &str, value: Value) -> Value {
    *object.pointer_mut(pointer).expect("it is there") = value;
    object
}

fn namespace(mode: Option<&str>) -> Value {
    let labels = mode.map_or(json!({}), |mode| json!({ "mtlsd.io/mode": mode }));
    json!({ "metadata": { "name": "shop", "uid": "n", "labels": labels } })
}

fn view(mode: Option<&str>, pods: &[Value]) -> View {
    View { pods: arcs::<Pod>(pods), namespaces: arcs(&[namespace(mode)]), ..View::default() }
}

fn service(address: &str) -> Value {
    json!({ "metadata": { "name": "web", "namespace": "shop", "uid": "s" },
            "spec": { "clusterIP": address, "ports": [ { "port": 80 }, { "port": 53, "protocol": "UDP" } ] } })
}

fn slice(pods: &[&str]) -> Value {
    let endpoint = |name: &&str| json!({ "addresses": ["10.0.0.1"], "targetRef": { "kind": "Pod", "name": *name, "uid": *name } });
    json!({ "metadata": { "name": "web-1", "namespace": "shop", "uid": "e", "labels": { "kubernetes.io/service-name": "web" } },
            "addressType": "IPv4", "endpoints": pods.iter().map(endpoint).collect::<Vec<_>>() })
}

fn made(view: &View) -> (Offer, Vec<String>) {
    let (offer, notes) = offer(view, &settings(), "n1", &"example.org".parse().unwrap(), &Earlier::new());
    assert!(offer.services.is_empty() && notes.left.is_empty());
    (offer, notes.mixed)
}

fn destinations(offer: &Offer) -> BTreeMap<&str, String> {
    let text = |entry: &crate::config::DirectoryEntry| {
        let addresses: Vec<_> = entry.addresses.iter().map(|network| network.addr().to_string()).collect();
        let ids: Vec<_> =
            entry.spiffe_ids.iter().filter_map(|id| id.service_account()).map(|(_, name)| name).collect();
        format!(
            "{} {:?} {}",
            addresses.join(","),
            entry.ports.iter().flatten().collect::<Vec<_>>(),
            ids.join(",")
        )
    };
    offer.directory.iter().map(|of| (of.entry.name.as_str(), text(&of.entry))).collect()
}

#[test]
fn pods_of_this_node_are_workloads_and_those_of_others_destinations() {
    let pods = [pod("here", "n1", "10.0.0.1"), pod("there", "n2", "10.0.0.2"), pod("nowhere", "", "")];
    let (offer, _) = made(&view(Some("strict"), &pods));
    let [here] = &offer.pods[..] else { panic!("{:?}", offer.pods) };
    assert_eq!((here.name.as_str(), here.mode), ("shop/here", Some(Mode::Strict)));
    assert_eq!(here.spiffe_id.as_str(), "spiffe://example.org/ns/shop/sa/here");
    assert_eq!(here.addresses, ["10.0.0.1".parse::<std::net::IpAddr>().unwrap()]);
    assert_eq!(destinations(&offer), [("shop/there", "10.0.0.2 [] there".to_owned())].into());
    assert!(offer.bystanders.is_empty());
}

#[test]
fn pods_that_nobody_enrolled_are_known_and_nothing_else() {
    let pods = [pod("here", "n1", "10.0.0.1"), pod("there", "n2", "10.0.0.2")];
    for mode in [None, Some("disabled")] {
        let (offer, _) = made(&view(mode, &pods));
        assert!(offer.pods.is_empty() && offer.directory.is_empty());
        assert_eq!(offer.bystanders.len(), 1);
    }
}

#[test]
fn who_cannot_be_told_yet_is_nobody_and_a_typing_error_is_strict() {
    let mut unknown = view(None, &[pod("here", "n1", "10.0.0.1")]);
    unknown.namespaces.clear();
    let (offer, _) = made(&unknown);
    assert!(offer.pods.is_empty() && offer.bystanders.is_empty(), "its processes may not send yet");
    let (offer, _) = made(&view(Some("stict"), &[pod("here", "n1", "10.0.0.1")]));
    assert_eq!(offer.pods[0].mode, Some(Mode::Strict));
    let (offer, _) = made(&view(Some("enabled"), &[pod("here", "n1", "10.0.0.1")]));
    assert_eq!(offer.pods[0].mode, None);
    let over = patched(pod("here", "n1", "10.0.0.1"), "/status/phase", "Succeeded".into());
    let (offer, _) = made(&view(Some("strict"), &[over]));
    assert!(offer.pods.is_empty() && offer.bystanders.is_empty());
}

#[test]
fn an_address_that_another_pod_has_by_now_is_not_claimed() {
    let mut young = pod("young", "n2", "10.0.0.1");
    young["metadata"]["creationTimestamp"] = "2026-11-29T10:00:00Z".into();
    let (offer, _) = made(&view(Some("strict"), &[pod("old", "n1", "10.0.0.1"), young]));
    assert!(offer.pods[0].addresses.is_empty());
    assert_eq!(destinations(&offer)["shop/young"], "10.0.0.1 [] young");
}

#[test]
fn a_pod_on_the_nodes_network_claims_only_the_ports_that_it_names() {
    let mut host = pod("host", "n1", "192.0.2.1");
    host["spec"]["hostNetwork"] = true.into();
    let (offer, _) = made(&view(Some("strict"), &[host.clone()]));
    assert!(offer.directory.is_empty() && offer.pods[0].addresses.is_empty());
    assert!(offer.pods[0].select.host_network);
    host["spec"]["containers"] =
        json!([{ "ports": [{ "containerPort": 9000 }, { "containerPort": 53, "protocol": "UDP" }] }]);
    let (offer, _) = made(&view(Some("strict"), &[host]));
    assert_eq!(destinations(&offer)["shop/host"], "192.0.2.1 [9000] host");
}

#[test]
fn a_service_is_whoever_is_behind_it() {
    let pods = [pod("a", "n1", "10.0.0.1"), pod("b", "n2", "10.0.0.2")];
    let mut view = view(Some("permissive"), &pods);
    view.services = arcs(&[service("10.96.0.1")]);
    view.slices = arcs(&[slice(&["a", "b"])]);
    let (offer, mixed) = made(&view);
    assert_eq!(destinations(&offer)["web.shop.svc"], "10.96.0.1 [80] a,b");
    assert!(mixed.is_empty());
    // Headless, or nobody behind it.
    view.services = arcs(&[service("None")]);
    assert!(!destinations(&made(&view).0).contains_key("web.shop.svc"));
    view.services = arcs(&[service("10.96.0.1")]);
    view.slices = arcs(&[slice(&[])]);
    assert!(!destinations(&made(&view).0).contains_key("web.shop.svc"));
}

#[test]
fn a_service_with_others_behind_it_is_named_and_in_a_strict_namespace_never_plaintext() {
    let mut other = pod("b", "n2", "10.0.0.2");
    other["metadata"]["labels"] = json!({ "mtlsd.io/mode": "disabled" });
    let pods = [pod("a", "n1", "10.0.0.1"), other];
    for (mode, mixed) in [("permissive", true), ("strict", false)] {
        let mut view = view(Some(mode), &pods);
        view.services = arcs(&[service("10.96.0.1")]);
        view.slices = arcs(&[slice(&["a", "b"])]);
        let (offer, named) = made(&view);
        assert_eq!(named, if mixed { vec!["shop/web".to_owned()] } else { Vec::new() });
        assert_eq!(
            destinations(&offer).get("web.shop.svc").map(String::as_str),
            (!mixed).then_some("10.96.0.1 [80] a")
        );
    }
    // An endpoint that is no pod is one of the others, too.
    let mut view = view(Some("permissive"), &pods[..1]);
    view.services = arcs(&[service("10.96.0.1")]);
    view.slices = arcs(&[slice(&["a", "gone"])]);
    assert_eq!(made(&view).1, ["shop/web"]);
}

#[test]
fn of_the_networks_of_a_cluster_everybody_is_known_who_speaks_no_tls() {
    let mut host = pod("host", "n2", "192.0.2.2");
    host["spec"]["hostNetwork"] = true.into();
    let mut plain = pod("plain", "n2", "10.0.0.2");
    plain["metadata"]["labels"] = json!({ "mtlsd.io/mode": "disabled" });
    plain["status"]["hostIP"] = "192.0.2.2".into();
    let over = patched(pod("over", "n2", "10.0.0.3"), "/status/phase", "Failed".into());
    let mut view = view(Some("strict"), &[pod("ours", "n1", "10.0.0.1"), plain, over, host]);
    view.services = arcs(&[service("10.96.0.1")]);
    let networks = Kubernetes { networks: vec!["10.0.0.0/8".parse().unwrap()], ..settings() };
    let of = |settings: &Kubernetes| {
        let (offer, _) = offer(&view, settings, "n1", &"example.org".parse().unwrap(), &Earlier::new());
        offer.known.iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(of(&networks), ["10.0.0.2", "10.96.0.1", "192.0.2.2"]);
    assert!(of(&settings()).is_empty(), "nobody asks for it");
}

#[test]
fn behind_each_port_of_a_service_stands_who_takes_its_connections() {
    let labelled = |name: &str, node: &str, address: &str, app: &str| {
        let mut pod = pod(name, node, address);
        pod["metadata"]["labels"] = json!({ "app": app });
        pod["spec"]["serviceAccountName"] = "web".into();
        pod
    };
    let pods = [
        labelled("a", "n1", "10.0.0.1", "web"),
        labelled("b", "n2", "10.0.0.2", "web"),
        labelled("c", "n2", "10.0.0.3", "canary"),
    ];
    let mut view = view(Some("strict"), &pods);
    let mut service = service("10.96.0.1");
    service["spec"]["ports"] = json!([{ "name": "http", "port": 80 }, { "name": "admin", "port": 81 }]);
    view.services = arcs(&[service]);
    let mut slice = slice(&["a", "b", "c", "gone"]);
    slice["ports"] =
        json!([{ "name": "http", "port": 8080 }, { "name": "admin", "port": 9090 }, { "name": "none" }]);
    view.slices = arcs(&[slice]);
    let (offer, _) = made(&view);
    let web = offer.directory.iter().find(|of| of.entry.name == "web.shop.svc").expect("it is a destination");
    let shown: Vec<_> = web
        .backends
        .iter()
        .map(|of| (of.port, of.target, of.labels.get("app").unwrap_or_default(), of.mode))
        .collect();
    let strict = Some(Mode::Strict);
    let wanted = [(80, 8080, "web"), (80, 8080, "canary"), (81, 9090, "web"), (81, 9090, "canary")];
    assert_eq!(shown, wanted.map(|(port, target, app)| (port, target, app, strict)), "each kind once");
}

#[test]
fn policy_objects_come_with_their_last_good_version() {
    let object = json!({
        "metadata": { "name": "all", "namespace": "shop", "uid": "p", "generation": 7, "annotations": { "istio.io/dry-run": "true" } },
        "spec": { "mtls": {} },
    });
    let mut view = view(None, &[]);
    view.modes = arcs(&[object]);
    let (offer, _) = made(&view);
    let [policy] = &offer.policies[..] else { panic!("{:?}", offer.policies) };
    assert_eq!((policy.name.to_string().as_str(), policy.generation), ("PeerAuthentication shop/all", 7));
    assert!(policy.dry_run && policy.earlier.is_none());
    let earlier = Earlier::from([(policy.name.clone(), "{}".into())]);
    let (offer, _) = super::offer(&view, &settings(), "n1", &"example.org".parse().unwrap(), &earlier);
    assert_eq!(offer.policies[0].earlier.as_deref(), Some("{}"));
}

mod services;
