//! Which endpoints are chosen from, and which Services are left to kube-proxy.

use std::net::SocketAddr;

use super::*;
use crate::cluster::{Left, MAX_BACKENDS, MAX_ENDPOINTS, MAX_SERVICES, Notes};

fn resolved(view: &View) -> (Offer, Notes) {
    let settings = Kubernetes { resolve_services: true, ..settings() };
    offer(view, &settings, "n1", &"example.org".parse().unwrap(), &Earlier::new())
}

/// `web` at 10.96.0.1 and fd00:96::1, with the port 80 named `http` and a UDP port.
fn web() -> Value {
    json!({ "metadata": { "name": "web", "namespace": "shop", "uid": "s" },
            "spec": { "clusterIPs": ["10.96.0.1", "fd00:96::1"],
                      "ports": [{ "name": "http", "port": 80 }, { "name": "dns", "port": 53, "protocol": "UDP" }] } })
}

fn ready(address: &str) -> Value {
    json!({ "addresses": [address] })
}

fn ending(address: &str) -> Value {
    json!({ "addresses": [address], "conditions": { "ready": false, "serving": true, "terminating": true } })
}

fn not_serving(address: &str) -> Value {
    json!({ "addresses": [address], "conditions": { "ready": false, "serving": false } })
}

/// A slice of `web`.
fn part(name: &str, ports: &Value, endpoints: &[Value]) -> Value {
    json!({ "metadata": { "name": name, "namespace": "shop", "uid": name, "labels": { "kubernetes.io/service-name": "web" } },
            "addressType": "IPv4", "endpoints": endpoints, "ports": ports })
}

fn http() -> Value {
    json!([{ "name": "http", "port": 8080 }])
}

fn all(service: &Value, slices: &[Value]) -> View {
    View {
        services: arcs(std::slice::from_ref(service)),
        slices: arcs(slices),
        ..view(Some("permissive"), &[])
    }
}

/// Of each address and port the endpoints.
fn chosen(view: &View) -> Vec<(String, Vec<String>)> {
    let shown = |endpoint: &SocketAddr| endpoint.to_string();
    resolved(view)
        .0
        .services
        .iter()
        .map(|service| (service.at.to_string(), service.endpoints.iter().map(shown).collect()))
        .collect()
}

fn one(at: &str, endpoints: &[&str]) -> (String, Vec<String>) {
    (at.to_owned(), endpoints.iter().map(|endpoint| (*endpoint).to_owned()).collect())
}

#[test]
fn endpoints_are_those_that_serve_of_the_family_of_the_address_at_the_port_of_its_name() {
    let slices = [
        part(
            "a",
            &http(),
            &[ready("10.0.0.2"), ready("10.0.0.1"), not_serving("10.0.0.3"), ending("10.0.0.4")],
        ),
        part(
            "b",
            &json!([{ "name": "http", "port": 9090 }, { "name": "x", "port": 1 }]),
            &[ready("10.0.0.1")],
        ),
        part("c", &http(), &[ready("fd00::1")]),
    ];
    assert_eq!(
        chosen(&all(&web(), &slices)),
        [
            one("10.96.0.1:80", &["10.0.0.1:8080", "10.0.0.1:9090", "10.0.0.2:8080"]),
            one("[fd00:96::1]:80", &["[fd00::1]:8080"])
        ]
    );
    // Off by default.
    let (offer, notes) =
        offer(&all(&web(), &slices), &settings(), "n1", &"a".parse().unwrap(), &Earlier::new());
    assert!(offer.services.is_empty() && notes.left.is_empty());
}

#[test]
fn who_ends_is_chosen_only_where_nobody_else_serves() {
    let slices = [part("a", &http(), &[ending("10.0.0.4"), not_serving("10.0.0.3")])];
    assert_eq!(chosen(&all(&web(), &slices)), [one("10.96.0.1:80", &["10.0.0.4:8080"])]);
    let (_, notes) = resolved(&all(&web(), &slices));
    assert_eq!(notes.left[0].1.to_string(), "no serving endpoint for [fd00:96::1]:80");
    let nobody = [part("a", &http(), &[not_serving("10.0.0.3")])];
    assert!(chosen(&all(&web(), &nobody)).is_empty());
}

#[test]
fn a_slices_port_without_a_number_or_for_another_name_or_protocol_serves_nobody() {
    let others = [
        json!([{ "name": "http" }]),
        json!([{ "name": "https", "port": 8443 }]),
        json!([{ "name": "http", "port": 8080, "protocol": "UDP" }]),
        json!([{ "name": "http", "port": 0 }]),
        json!([]),
    ];
    for ports in others {
        assert!(chosen(&all(&web(), &[part("a", &ports, &[ready("10.0.0.1")])])).is_empty(), "{ports}");
    }
    let never = part("a", &http(), &[ready("127.0.0.1"), ready("169.254.169.254")]);
    assert!(chosen(&all(&web(), &[never])).is_empty(), "addresses that are never captured");
}

#[test]
fn what_kube_proxy_must_choose_is_left_to_it_and_what_has_no_address_is_not_told() {
    let slices = [part("a", &http(), &[ready("10.0.0.1")])];
    let with = |key: &str, value: Value| {
        let mut service = web();
        service["spec"][key] = value;
        let (offer, notes) = resolved(&all(&service, &slices));
        assert!(offer.services.is_empty());
        notes.left.first().map(|(name, why)| (name.clone(), why.clone()))
    };
    let left = |why| Some(("shop/web".to_owned(), why));
    assert_eq!(with("sessionAffinity", "ClientIP".into()), left(Left::Affinity));
    assert_eq!(with("sessionAffinity", "Header".into()), left(Left::NotKnown));
    assert_eq!(with("internalTrafficPolicy", "Local".into()), left(Left::Local));
    assert_eq!(with("internalTrafficPolicy", "Zone".into()), left(Left::NotKnown));
    assert_eq!(with("type", "ExternalName".into()), None);
    assert_eq!(with("ports", json!([{ "name": "dns", "port": 53, "protocol": "UDP" }])), None);
    assert_eq!(with("clusterIPs", json!(["None"])), None);
    let mut service = web();
    for (key, value) in [("sessionAffinity", "None"), ("internalTrafficPolicy", "Cluster")] {
        service["spec"][key] = value.into();
    }
    assert_eq!(resolved(&all(&service, &slices)).0.services.len(), 1);
}

#[test]
fn a_mixed_service_that_is_resolved_is_not_told_and_stays_closed_where_nothing_is_resolved() {
    let mut other = pod("b", "n2", "10.0.0.2");
    other["metadata"]["labels"] = json!({ "mtlsd.io/mode": "disabled" });
    let mut view = view(Some("permissive"), &[pod("a", "n1", "10.0.0.1"), other]);
    view.services = arcs(&[service("10.96.0.1")]);
    let mut slice = slice(&["a", "b"]);
    slice["ports"] = json!([{ "name": "", "port": 8080 }]);
    view.slices = arcs(&[slice]);
    let (offer, notes) = resolved(&view);
    assert!(notes.mixed.is_empty() && notes.left.is_empty(), "{notes:?}");
    assert_eq!(offer.services.len(), 1);
    assert_eq!(destinations(&offer)["web.shop.svc"], "10.96.0.1 [80] a");
    let mut sticky = service("10.96.0.1");
    sticky["spec"]["sessionAffinity"] = "ClientIP".into();
    view.services = arcs(&[sticky]);
    let (offer, notes) = resolved(&view);
    assert_eq!(notes.mixed, ["shop/web"]);
    assert!(!destinations(&offer).contains_key("web.shop.svc"));
}

#[test]
fn in_a_strict_namespace_only_who_is_enrolled_is_chosen_whatever_a_slice_says_of_an_address() {
    let mut other = pod("b", "n2", "10.0.0.2");
    other["metadata"]["labels"] = json!({ "mtlsd.io/mode": "disabled" });
    let mut host = pod("host", "n2", "192.0.2.7");
    host["spec"]["hostNetwork"] = true.into();
    host["spec"]["containers"] = json!([{ "ports": [{ "containerPort": 8080 }] }]);
    let of = |address: &str, name: &str| json!({ "addresses": [address], "targetRef": { "kind": "Pod", "name": name, "uid": name } });
    let endpoints = [
        of("10.0.0.1", "a"),
        of("10.0.0.2", "b"),
        of("10.6.6.6", "a"),
        of("192.0.2.7", "host"),
        ready("203.0.113.1"),
    ];
    let chosen_in = |mode: &str| {
        let mut view = view(Some(mode), &[pod("a", "n1", "10.0.0.1"), other.clone(), host.clone()]);
        view.services = arcs(&[web()]);
        view.slices = arcs(&[part("a", &http(), &endpoints)]);
        chosen(&view)
    };
    assert_eq!(chosen_in("strict"), [one("10.96.0.1:80", &["10.0.0.1:8080", "192.0.2.7:8080"])]);
    assert_eq!(chosen_in("permissive")[0].1.len(), 5);
}

#[test]
fn a_pod_of_which_nothing_is_known_yet_is_not_chosen() {
    let of = |name: &str, uid: &str| json!({ "addresses": ["10.0.0.9"], "targetRef": { "kind": "Pod", "name": name, "uid": uid } });
    for (name, uid, there) in [("a", "a", true), ("a", "older", false), ("young", "young", false)] {
        let mut view = view(Some("permissive"), &[pod("a", "n1", "10.0.0.9")]);
        view.services = arcs(&[web()]);
        view.slices = arcs(&[part("a", &http(), &[of(name, uid)])]);
        assert_eq!(!chosen(&view).is_empty(), there, "{name} {uid}");
    }
}

#[test]
fn what_is_too_large_is_left_out_by_name_and_the_others_are_not() {
    let address = |n: usize| format!("10.{}.{}.{}", n >> 16 & 0xff, n >> 8 & 0xff, n & 0xff);
    let many: Vec<Value> = (1..=MAX_ENDPOINTS).map(|n| ready(&address(n))).collect();
    let full = part("a", &http(), &many);
    assert_eq!(
        resolved(&all(&web(), std::slice::from_ref(&full))).0.services[0].endpoints.len(),
        MAX_ENDPOINTS
    );
    let (offer, notes) = resolved(&all(&web(), &[full, part("b", &http(), &[ready("10.9.9.9")])]));
    assert!(offer.services.is_empty());
    assert_eq!(notes.left[0].1, Left::TooManyEndpoints("10.96.0.1:80".parse().unwrap(), MAX_ENDPOINTS + 1));
    assert!(notes.left[0].1.is_for_its_size() && !Left::Affinity.is_for_its_size());
}

/// So many Services, each with so many ports and endpoints.
fn crowd(services: usize, ports: usize, endpoints: usize) -> View {
    let ports: Vec<Value> = (1..=ports).map(|n| json!({ "name": format!("p{n}"), "port": n })).collect();
    let endpoints: Vec<Value> =
        (1..=endpoints).map(|n| ready(&format!("10.1.{}.{}", n >> 8, n & 0xff))).collect();
    let (mut all, mut slices) = (Vec::new(), Vec::new());
    for n in 0..services {
        let name = format!("s{n:03}");
        all.push(json!({ "metadata": { "name": name, "namespace": "shop", "uid": name },
                         "spec": { "clusterIP": format!("10.96.{}.{}", n >> 8, n & 0xff), "ports": ports } }));
        let mut slice = part(&name, &json!(ports), &endpoints);
        slice["metadata"]["labels"]["kubernetes.io/service-name"] = name.into();
        slices.push(slice);
    }
    View { services: arcs(&all), slices: arcs(&slices), ..view(Some("permissive"), &[]) }
}

#[test]
fn what_does_not_fit_into_the_tables_is_left_out_whole() {
    for (ports, endpoints, fit) in
        [(256, 1, MAX_SERVICES / 256), (1, MAX_ENDPOINTS, MAX_BACKENDS / MAX_ENDPOINTS)]
    {
        let (offer, notes) = resolved(&crowd(fit + 1, ports, endpoints));
        assert_eq!(offer.services.len(), fit * ports);
        assert_eq!(notes.left, [(format!("shop/s{fit:03}"), Left::Full)]);
    }
}

#[test]
fn of_two_services_with_one_address_the_first_has_it() {
    let mut second = web();
    second["metadata"]["name"] = "web-2".into();
    let behind = |name: &str| {
        let mut slice = part(name, &http(), &[ready("10.0.0.1")]);
        slice["metadata"]["labels"]["kubernetes.io/service-name"] = name.into();
        slice
    };
    let mut view = all(&web(), &[behind("web"), behind("web-2")]);
    view.services = arcs(&[second, web()]);
    let (offer, notes) = resolved(&view);
    assert_eq!(offer.services.len(), 1);
    assert_eq!(offer.services[0].name, "shop/web");
    assert!(notes.left.contains(&("shop/web-2".into(), Left::Taken("10.96.0.1:80".parse().unwrap()))));
}
