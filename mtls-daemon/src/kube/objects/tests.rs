use super::*;
use serde_json::{Value, json};

fn good<K: Kind + std::fmt::Debug>(object: Value) -> K {
    match read::<K>(&object.to_string()) {
        Read::Good(object) => object,
        other => panic!("{other:?}"),
    }
}

fn bad<K: Kind + std::fmt::Debug>(object: Value) -> String {
    match read::<K>(&object.to_string()) {
        Read::Bad(identity, why) => format!("{}: {why}", identity.key),
        Read::Nameless(why) => format!("?: {why}"),
        Read::Good(object) => panic!("{object:?}"),
    }
}

fn meta(name: &str) -> Value {
    json!({ "name": name, "namespace": "shop", "uid": "0b6f-1", "resourceVersion": "7" })
}

fn pod() -> Value {
    json!({
        "kind": "Pod",
        "metadata": {
            "name": "web-1", "namespace": "shop", "uid": "0b6f-1", "resourceVersion": "7",
            "creationTimestamp": "2026-11-29T10:00:00Z", "deletionTimestamp": null,
            "labels": { "app": "web" },
            "annotations": { "mtlsd.io/mode": "strict", "kubectl.kubernetes.io/last-applied-configuration": "{…}" },
            "managedFields": [{ "manager": "kubelet" }],
        },
        "spec": {
            "nodeName": "n1", "serviceAccountName": "cart", "hostNetwork": false, "newField": { "x": 1 },
            "containers": [{
                "name": "web", "image": "web:1",
                "ports": [{ "name": "http", "containerPort": 8080 }, { "containerPort": 53, "protocol": "UDP", "hostPort": 53 }],
                "readinessProbe": { "httpGet": { "path": "/", "port": "http" } },
                "livenessProbe": { "tcpSocket": { "port": 9000 } },
                "startupProbe": { "httpGet": { "host": "10.9.9.9", "port": 1 } },
            }],
            "initContainers": [{ "name": "side", "startupProbe": { "grpc": { "port": 7000 } } }],
        },
        "status": {
            "phase": "Running", "qosClass": "Burstable", "podIP": "10.0.0.5",
            "podIPs": [{ "ip": "10.0.0.5" }, { "ip": "fd00::5" }],
        },
    })
}

#[test]
fn a_pod_is_read_with_the_fields_that_are_used() {
    let pod: Pod = good(pod());
    assert_eq!((pod.key.to_string().as_str(), pod.account.as_str()), ("shop/web-1", "cart"));
    assert_eq!((pod.node.as_ref().unwrap().as_str(), pod.qos), ("n1", Some(QosClass::Burstable)));
    assert_eq!(*pod.addresses, ["10.0.0.5".parse::<std::net::IpAddr>().unwrap(), "fd00::5".parse().unwrap()]);
    assert_eq!((pod.phase, pod.terminating, pod.host_network), (Phase::Running, false, false));
    assert_eq!(pod.created, 1_795_946_400);
    assert_eq!((pod.labels.get("app"), pod.annotations.get("mtlsd.io/mode")), (Some("web"), Some("strict")));
    assert_eq!(pod.annotations.iter().count(), 1, "annotations of others are not kept");
    assert_eq!(*pod.probed, [7000, 8080, 9000], "the port of another host is not the pod's");
    assert_eq!((pod.ports[1].protocol, pod.ports[1].host_port), (Protocol::Udp, 53));
    let again: Pod = serde_json::from_str(&serde_json::to_string(&pod).unwrap()).unwrap();
    assert_eq!(again, pod);
}

#[test]
fn a_pod_that_nothing_is_said_of_has_the_defaults_of_the_api() {
    for rest in [
        json!({}),
        json!({ "spec": null, "status": null }),
        json!({ "status": { "phase": "New", "podIPs": null } }),
    ] {
        let mut object = rest;
        object["metadata"] = meta("a");
        object["metadata"]["labels"] = Value::Null;
        let pod: Pod = good(object);
        assert_eq!((pod.account.as_str(), &pod.node, pod.created), ("default", &None, 0));
        assert!(pod.addresses.is_empty() && !pod.is_over());
    }
}

#[test]
fn a_static_pod_goes_by_the_name_that_kubelet_gives_its_cgroup() {
    let mut object = pod();
    assert_eq!(good::<Pod>(object.clone()).cgroup_uid(), "0b6f-1");
    object["metadata"]["annotations"]["kubernetes.io/config.mirror"] = "abcdef".into();
    object["status"]["phase"] = "Failed".into();
    let pod: Pod = good(object);
    assert_eq!((pod.cgroup_uid(), pod.is_over()), ("abcdef", true));
}

#[test]
fn what_is_wrong_with_an_object_is_said_with_field_and_reason() {
    let with = |pointer: &str, value: Value| {
        let mut object = pod();
        *object.pointer_mut(pointer).unwrap() = value;
        bad::<Pod>(object)
    };
    for (pointer, value, want) in [
        (
            "/status/podIPs/0/ip",
            json!("10.0.0.300"),
            "shop/web-1: status.podIPs is \"10.0.0.300\", which is no IP address",
        ),
        ("/spec/nodeName", json!("N 1"), "shop/web-1: spec.nodeName is \"N 1\": it has the character 'N'"),
        ("/spec/serviceAccountName", json!("../x"), "shop/web-1: spec.serviceAccountName"),
        (
            "/metadata/creationTimestamp",
            json!("today"),
            "shop/web-1: metadata.creationTimestamp is \"today\"",
        ),
        ("/metadata/labels/app", json!("x".repeat(64)), "shop/web-1: metadata.labels has 64 bytes"),
        ("/spec/containers/0/ports/0/containerPort", json!(70_000), "shop/web-1: it is not of its form"),
        ("/metadata/labels", json!([1]), "shop/web-1: it is not of its form"),
        ("/metadata/labels/app", json!("a\0b"), "shop/web-1: metadata.labels is \"a\\\\0b\""),
        ("/metadata/name", json!("../../etc"), "?: metadata.name is \"../../etc\""),
        ("/metadata/namespace", json!("a.b"), "?: metadata.namespace is \"a.b\""),
        ("/metadata/uid", json!(""), "?: metadata.uid is \"\": it is empty"),
        ("/metadata", json!(7), "?: it is not of its form"),
    ] {
        let said = with(pointer, value);
        assert!(said.starts_with(want), "{said}");
    }
}

#[test]
fn what_one_object_brings_is_bounded() {
    let mut object = pod();
    object["status"]["podIPs"] = vec![json!({ "ip": "10.0.0.1" }); MAX_ADDRESSES + 1].into();
    assert!(bad::<Pod>(object).contains("has 9 entries"));
    let mut object = pod();
    object["spec"]["containers"][0]["ports"] = vec![json!({ "containerPort": 1 }); MAX_PORTS + 1].into();
    assert!(bad::<Pod>(object).contains("takes 256"));
    let labels: serde_json::Map<_, _> = (0..=MAX_PAIRS).map(|n| (format!("l{n}"), "x".into())).collect();
    assert!(
        bad::<Namespace>(json!({ "metadata": { "name": "a", "uid": "u", "labels": labels } }))
            .contains("takes 128")
    );
    let slice =
        json!({ "metadata": meta("s"), "endpoints": vec![json!({ "addresses": [] }); MAX_ENDPOINTS + 1] });
    assert!(bad::<EndpointSlice>(slice).contains("takes 1000"));
    let policy = json!({ "metadata": meta("p"), "spec": { "x": "y".repeat(MAX_SPEC) } });
    assert!(bad::<MutualTlsPolicy>(policy).contains("spec has"));
}

#[test]
fn services_say_their_own_addresses_and_headless_ones_have_none() {
    let service = |spec: Value| good::<Service>(json!({ "metadata": meta("web"), "spec": spec }));
    let one = service(json!({
        "type": "NodePort", "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"],
        "ports": [{ "name": "http", "port": 80, "targetPort": "http", "nodePort": 30_080 }],
    }));
    assert_eq!((one.kind, one.addresses.len(), one.ports[0].port), (ServiceKind::NodePort, 2, 80));
    assert_eq!(service(json!({ "clusterIP": "10.96.0.7" })).addresses.len(), 1);
    assert!(service(json!({ "clusterIP": "None", "clusterIPs": ["None"] })).addresses.is_empty());
    assert_eq!(service(json!({ "type": "ExternalName" })).kind, ServiceKind::ExternalName);
    let said = |affinity: Value, traffic: Value| {
        let one = service(json!({ "sessionAffinity": affinity, "internalTrafficPolicy": traffic }));
        (one.affinity, one.internal_traffic)
    };
    assert_eq!(said(Value::Null, Value::Null), (SessionAffinity::None, InternalTraffic::Cluster));
    assert_eq!(said("None".into(), "Cluster".into()), (SessionAffinity::None, InternalTraffic::Cluster));
    assert_eq!(said("ClientIP".into(), "Local".into()), (SessionAffinity::ClientIp, InternalTraffic::Local));
    assert_eq!(said("New".into(), "Zone".into()), (SessionAffinity::Other, InternalTraffic::Other));
}

#[test]
fn slices_say_who_serves_behind_which_service() {
    let mut object = json!({
        "metadata": { "name": "web-x", "namespace": "shop", "uid": "u", "labels": { "kubernetes.io/service-name": "web" } },
        "addressType": "IPv4",
        "endpoints": [
            { "addresses": ["10.0.0.1"], "nodeName": "n1", "targetRef": { "kind": "Pod", "name": "web-1", "uid": "u1" } },
            { "addresses": ["10.0.0.2"], "conditions": { "ready": false, "serving": true, "terminating": true } },
            { "addresses": ["10.0.0.3"], "conditions": { "ready": false, "serving": null } },
        ],
        "ports": [{ "name": "http", "port": 8080 }, { "name": null, "port": null }],
    });
    let slice: EndpointSlice = good(object.clone());
    assert_eq!(slice.service.unwrap().as_str(), "web");
    assert_eq!(slice.endpoints.iter().map(|one| one.serving).collect::<Vec<_>>(), [true, true, false]);
    assert_eq!(slice.endpoints[0].pod.as_ref().unwrap().key.to_string(), "shop/web-1");
    assert_eq!((slice.ports[0].port, slice.ports[1].port), (Some(8080), None));
    object["addressType"] = "FQDN".into();
    object["endpoints"][0]["addresses"] = json!(["example.org"]);
    assert!(good::<EndpointSlice>(object).endpoints.is_empty());
}

#[test]
fn nodes_say_their_addresses_and_the_networks_of_their_pods() {
    let node: Node = good(json!({
        "metadata": { "name": "n1", "uid": "u" },
        "spec": { "podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"] },
        "status": { "addresses": [{ "type": "InternalIP", "address": "192.0.2.1" }, { "type": "Hostname", "address": "n1" }] },
    }));
    assert_eq!((node.addresses.len(), node.pod_networks.len()), (1, 2));
    assert!(node.key.namespace.is_none());
}

#[test]
fn a_policy_is_carried_as_it_is_written() {
    let policy: PeerAuthentication = good(
        json!({ "metadata": { "name": "p", "namespace": "a", "uid": "u", "generation": 3 }, "spec": { "mtls": { "mode": "STRICT" } } }),
    );
    assert_eq!((policy.0.generation, &*policy.0.spec), (3, r#"{"mtls":{"mode":"STRICT"}}"#));
    let empty: AuthorizationPolicy =
        good(json!({ "metadata": { "name": "p", "namespace": "a", "uid": "u" } }));
    assert_eq!(&*empty.0.spec, "{}");
}
