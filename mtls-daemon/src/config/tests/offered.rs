//! What a cluster offers is taken part by part: it never makes a configuration fail, and never opens what it was to close.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::super::*;
use super::source;
use crate::identity::{CertificateAttributes, PeerName};
use crate::policy::{Peer, Policy, Query};

const FILE: &str = "trust_domain: site.example
kubernetes: { node: n1, policies: [mtlsd, istio] }
workloads:
- { name: host, select: { netns: a }, spiffe_id: 'spiffe://site.example/ns/shop/sa/host', labels: { app: cart }, addresses: [10.0.0.9] }
modes: [ { namespaces: [ops], mode: strict } ]
directory: [ { name: elsewhere, addresses: [10.0.0.8], spiffe_ids: ['spiffe://site.example/far'] } ]
policy: [ { name: ops-only, action: allow, to: { namespaces: [ops] }, from: { namespaces: [ops] } } ]
";

fn pod(namespace: &str, name: &str, mode: Option<Mode>) -> OfferedPod {
    OfferedPod {
        name: format!("{namespace}/{name}"),
        select: PodSelector { cgroups: vec![format!("kubepods/pod{name}").into()], host_network: false },
        spiffe_id: format!("spiffe://site.example/ns/{namespace}/sa/{name}").parse().unwrap(),
        labels: [("app".to_owned(), name.to_owned())].into(),
        mode,
        addresses: Vec::new(),
        probe_ports: [8080].into(),
    }
}

fn policy(kind: PolicyKind, namespace: &str, name: &str, spec: &str) -> OfferedPolicy {
    OfferedPolicy {
        name: PolicyName { kind, namespace: namespace.into(), name: name.into() },
        generation: 1,
        dry_run: false,
        spec: spec.into(),
        earlier: None,
    }
}

/// `shop/cart` and `shop/pay` say nothing of their mode, `ops/ops` neither.
fn with(policies: Vec<OfferedPolicy>) -> Config {
    let pods = vec![pod("shop", "cart", None), pod("shop", "pay", None), pod("ops", "ops", None)];
    config(&Offer { pods, policies, ..Offer::default() })
}

fn config(offer: &Offer) -> Config {
    Config::parse_with(&source("main.yaml", FILE), &[], offer).unwrap_or_else(|error| panic!("{error}"))
}

fn modes(config: &Config) -> Vec<(&str, Mode)> {
    config.workloads.iter().map(|workload| (workload.name.as_str(), workload.mode)).collect()
}

/// May somebody of this namespace and account connect?
fn may(config: &Config, from: &str, workload: &str, port: u16) -> bool {
    let policy = Policy::from_config(config);
    let settings = config.workload(workload).unwrap();
    let name = PeerName::Spiffe(format!("spiffe://site.example/{from}").parse().unwrap());
    let query = Query {
        peer: Peer {
            name: Some(&name),
            attributes: Some(CertificateAttributes::NONE),
            address: Some(IpAddr::from([10, 0, 0, 1])),
        },
        workload,
        port,
        mode: settings.mode_of_port(port),
        allowed_by_default: settings.allows_by_default(port),
    };
    policy.decide(&query).verdict.allow
}

use PolicyKind::{AuthorizationPolicy, MutualTlsPolicy, PeerAuthentication};

#[test]
fn pods_are_workloads_under_what_files_say_of_their_namespaces() {
    let config = with(Vec::new());
    let found = modes(&config);
    assert_eq!(
        found,
        [
            ("host", Mode::Strict),
            ("shop/cart", Mode::Permissive),
            ("shop/pay", Mode::Permissive),
            ("ops/ops", Mode::Strict)
        ]
    );
    assert!(may(&config, "ns/ops/sa/x", "ops/ops", 80) && !may(&config, "ns/shop/sa/x", "ops/ops", 80));
    assert_eq!(config.workload("shop/cart").unwrap().probe_ports, [8080].into());
    let probers: Vec<_> = config.probers.iter().map(ToString::to_string).collect();
    assert_eq!(probers.len(), 1);
    assert!(probers[0].contains("kubelet.service"), "{probers:?}");
    let closed: Vec<_> = config.unclassified.cgroups.iter().map(|path| path.display().to_string()).collect();
    assert_eq!(closed, ["kubepods.slice", "kubepods"]);
}

#[test]
fn what_a_label_says_goes_before_what_policy_says() {
    let strict = policy(PeerAuthentication, "shop", "all", r#"{"mtls":{"mode":"STRICT"}}"#);
    let pods = vec![pod("shop", "cart", Some(Mode::Permissive)), pod("shop", "pay", None)];
    let config = config(&Offer { pods, policies: vec![strict], ..Offer::default() });
    assert_eq!(modes(&config)[1..], [("shop/cart", Mode::Permissive), ("shop/pay", Mode::Strict)]);
}

#[test]
fn objects_of_istio_and_of_mtlsd_mean_what_they_say_and_only_for_pods() {
    let config = with(vec![
        policy(PeerAuthentication, "istio-system", "mesh", r#"{"mtls":{"mode":"STRICT"}}"#),
        policy(
            AuthorizationPolicy,
            "shop",
            "cart",
            r#"{"selector":{"matchLabels":{"app":"cart"}},"rules":[{"from":[{"source":{"namespaces":["shop"]}}]}]}"#,
        ),
        policy(
            MutualTlsPolicy,
            "shop",
            "pay",
            r#"{"selector":{"matchLabels":{"app":"pay"}},"ports":{"9000":"permissive"},
                "rules":[{"name":"cart","action":"allow","from":{"service_accounts":["shop/cart"]},"to":{"ports":[80]}}]}"#,
        ),
    ]);
    assert!(
        config.verdicts.iter().all(|verdict| verdict.outcome == Outcome::Accepted),
        "{:?}",
        config.verdicts
    );
    assert_eq!(modes(&config)[1..3], [("shop/cart", Mode::Strict), ("shop/pay", Mode::Strict)]);
    assert!(may(&config, "ns/shop/sa/x", "shop/cart", 80) && !may(&config, "ns/ops/sa/x", "shop/cart", 80));
    assert!(
        may(&config, "ns/shop/sa/cart", "shop/pay", 80) && !may(&config, "ns/shop/sa/cart", "shop/pay", 81)
    );
    assert!(!may(&config, "ns/shop/sa/x", "shop/pay", 80));
    assert_eq!(config.workload("shop/pay").unwrap().mode_of_port(9000), Mode::Permissive);
    // The workload of the file has the same namespace and label, and the cluster no say about it.
    assert_eq!(config.workload("host").unwrap().policy_default, PolicyDefault::Mode);
    assert!(
        config.policy.iter().all(|rule| rule
            .local
            .workloads
            .as_ref()
            .is_none_or(|names| !names.contains("host")))
    );
}

#[test]
fn one_object_that_is_wrong_is_refused_alone_and_closes_what_it_was_for() {
    for (kind, spec, why) in [
        (AuthorizationPolicy, r#"{"rules":[{"to":[{"operation":{"methods":["GET"]}}]}]}"#, "methods"),
        (
            AuthorizationPolicy,
            r#"{"action":"DENY","rules":[{"from":[{"source":{"requestPrincipals":["x"]}}]}]}"#,
            "request",
        ),
        (MutualTlsPolicy, r#"{"modus":"strict"}"#, "modus"),
        (
            MutualTlsPolicy,
            r#"{"rules":[{"name":"a","action":"allow","to":{"workloads":["x"]}}]}"#,
            "selector",
        ),
        (
            MutualTlsPolicy,
            r#"{"rules":[{"name":"a","action":"allow"},{"name":"a","action":"allow"}]}"#,
            "twice",
        ),
        (AuthorizationPolicy, "[]", ""),
        (AuthorizationPolicy, "{", ""),
    ] {
        let good = policy(PeerAuthentication, "ops", "fine", r#"{"mtls":{"mode":"PERMISSIVE"}}"#);
        let config = with(vec![policy(kind, "shop", "odd", spec), good]);
        let [refused, fine] = &config.verdicts[..] else { panic!("{:?}", config.verdicts) };
        let Outcome::Refused { why: said, instead: Instead::Closed } = &refused.outcome else {
            panic!("{refused:?}")
        };
        assert!(said.contains(why), "{spec}: {said}");
        assert_eq!(fine.outcome, Outcome::Accepted);
        assert!(!may(&config, "ns/shop/sa/x", "shop/cart", 80), "{spec}: it is closed");
        assert!(may(&config, "ns/ops/sa/x", "ops/ops", 80), "{spec}: others are not");
    }
    let config = with(vec![policy(PeerAuthentication, "shop", "odd", r#"{"mtls":{"mode":"SOMETIMES"}}"#)]);
    assert_eq!(modes(&config)[1], ("shop/cart", Mode::Strict), "a mode that cannot be read is strict");
}

#[test]
fn a_refused_object_closes_only_whom_its_selector_names() {
    let spec =
        r#"{"selector":{"matchLabels":{"app":"pay"}},"rules":[{"to":[{"operation":{"paths":["/"]}}]}]}"#;
    let config = with(vec![policy(AuthorizationPolicy, "shop", "odd", spec)]);
    assert!(!may(&config, "ns/shop/sa/x", "shop/pay", 80) && may(&config, "ns/shop/sa/x", "shop/cart", 80));
}

#[test]
fn the_last_good_version_of_an_object_stays_in_force() {
    let mut odd =
        policy(AuthorizationPolicy, "shop", "cart", r#"{"rules":[{"to":[{"operation":{"hosts":["x"]}}]}]}"#);
    odd.earlier = Some(r#"{"rules":[{"from":[{"source":{"namespaces":["shop"]}}]}]}"#.into());
    let config = with(vec![odd]);
    let outcome = &config.verdicts[0].outcome;
    assert!(matches!(outcome, Outcome::Refused { instead: Instead::Earlier, .. }), "{outcome:?}");
    assert!(may(&config, "ns/shop/sa/x", "shop/cart", 80) && !may(&config, "ns/ops/sa/x", "shop/cart", 80));
}

/// A rule that comes to about 1000 × `peers`.
fn large(peers: usize) -> String {
    let ports: Vec<_> = (1..1000).collect();
    let peers = vec![r#"{"namespaces":["ops"]}"#; peers].join(",");
    format!(r#"{{"rules":[{{"name":"all","action":"allow","to":{{"ports":{ports:?}}},"from":[{peers}]}}]}}"#)
}

/// The same of Istio's.
fn large_of_istio(sources: usize) -> String {
    let from = vec![r#"{"source":{"namespaces":["ops"]}}"#; sources].join(",");
    let to = vec![r#"{"operation":{"ports":["80"]}}"#; 500].join(",");
    format!(r#"{{"rules":[{{"from":[{from}],"to":[{to}]}}]}}"#)
}

#[test]
fn an_object_that_is_too_large_is_refused_alone() {
    for (kind, spec) in [
        (MutualTlsPolicy, large(1001)),
        (AuthorizationPolicy, large_of_istio(1001)),
        // So much that it would take gigabytes.
        (AuthorizationPolicy, large_of_istio(20_000)),
    ] {
        let small = policy(MutualTlsPolicy, "ops", "fine", &large(1));
        let config = with(vec![policy(kind, "shop", "large", &spec), small]);
        let [refused, fine] = &config.verdicts[..] else { panic!("{:?}", config.verdicts) };
        let Outcome::Refused { why, instead: Instead::Closed } = &refused.outcome else {
            panic!("{refused:?}")
        };
        assert!(why.contains("more than 1000000") && why.contains("use prefixes"), "{why}");
        assert_eq!(fine.outcome, Outcome::Accepted);
        assert!(!may(&config, "ns/ops/sa/x", "shop/cart", 80), "it is closed");
        assert!(may(&config, "ns/ops/sa/x", "ops/ops", 80));
    }
}

#[test]
fn objects_count_together_and_what_is_in_force_goes_before_what_is_new() {
    let new = policy(MutualTlsPolicy, "ops", "a", &large(600));
    let mut old = policy(MutualTlsPolicy, "shop", "b", &large(600));
    let accepted = |old: &OfferedPolicy| -> Vec<_> {
        let config = with(vec![new.clone(), old.clone()]);
        config.verdicts.iter().map(|verdict| verdict.outcome == Outcome::Accepted).collect()
    };
    assert_eq!(accepted(&old), [true, false]);
    old.earlier = Some(old.spec.clone());
    assert_eq!(accepted(&old), [false, true]);
    // One that grows too large stays as it was.
    old.spec = large(1001).into();
    old.earlier = Some(large(2).into());
    let config = with(vec![old]);
    let outcome = &config.verdicts[0].outcome;
    assert!(matches!(outcome, Outcome::Refused { instead: Instead::Earlier, .. }), "{outcome:?}");
    assert!(may(&config, "ns/ops/sa/x", "shop/cart", 80));
}

#[test]
fn modes_that_contradict_each_other_are_strict() {
    let config = with(vec![
        policy(PeerAuthentication, "shop", "one", r#"{"mtls":{"mode":"PERMISSIVE"}}"#),
        policy(PeerAuthentication, "shop", "two", r#"{"mtls":{"mode":"DISABLE"}}"#),
    ]);
    assert_eq!(modes(&config)[1..3], [("shop/cart", Mode::Strict), ("shop/pay", Mode::Strict)]);
}

#[test]
fn an_address_of_which_a_file_speaks_is_the_files() {
    let mut cart = pod("shop", "cart", None);
    cart.addresses = ["10.0.0.9", "10.0.0.1", "fd00::1"].map(|text| text.parse().unwrap()).into();
    let entry = |name: &str, address: &str, ports: Option<u16>| DirectoryEntry {
        name: name.into(),
        addresses: vec![address.parse::<IpAddr>().unwrap().into()],
        ports: ports.map(|port| [port].into()),
        spiffe_ids: vec!["spiffe://site.example/ns/shop/sa/x".parse().unwrap()],
        dns_names: Vec::new(),
        node: None,
        left_alone: BTreeSet::new(),
    };
    let directory = vec![
        entry("of-a-file", "10.0.0.8", None),
        entry("of-the-pod", "10.0.0.1", None),
        entry("free", "10.0.0.7", None),
        entry("twice", "10.0.0.7", None),
        entry("service", "10.96.0.1", Some(80)),
        entry("same-port", "10.96.0.1", Some(80)),
        entry("other-port", "10.96.0.1", Some(81)),
    ];
    let directory = directory
        .into_iter()
        .map(|entry| OfferedDestination { entry, pod: None, backends: Vec::new() })
        .collect();
    let config = config(&Offer { pods: vec![cart], directory, ..Offer::default() });
    let own: Vec<_> =
        config.workload("shop/cart").unwrap().addresses.iter().map(ToString::to_string).collect();
    assert_eq!(own, ["10.0.0.1", "fd00::1"]);
    let names: Vec<_> = config.directory.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["elsewhere", "free", "service", "other-port"]);
}

/// `shop/far` is on another node; these objects are for it as they are for pods of this one.
fn far(mode: Option<Mode>, policies: Vec<OfferedPolicy>) -> Option<DirectoryEntry> {
    let config = with_far(mode, policies);
    config.directory.iter().find(|entry| entry.name == "shop/far").cloned()
}

fn with_far(mode: Option<Mode>, policies: Vec<OfferedPolicy>) -> Config {
    let entry = DirectoryEntry {
        name: "shop/far".into(),
        addresses: vec!["10.0.0.7".parse::<IpAddr>().unwrap().into()],
        ports: None,
        spiffe_ids: vec!["spiffe://site.example/ns/shop/sa/far".parse().unwrap()],
        dns_names: Vec::new(),
        node: None,
        left_alone: BTreeSet::new(),
    };
    let labels = BTreeMap::from([("app".to_owned(), "far".to_owned())]);
    let pod = Some(OfferedPeer { labels: labels.try_into().unwrap(), mode, host: None });
    let directory = vec![OfferedDestination { entry, pod, backends: Vec::new() }];
    let file =
        FILE.replace("policies: [mtlsd, istio] }", "policies: [mtlsd, istio], networks: [10.0.0.0/24] }");
    let offer = Offer { policies, directory, ..Offer::default() };
    Config::parse_with(&source("main.yaml", &file), &[], &offer).unwrap()
}

#[test]
fn what_policy_disables_on_another_node_is_left_alone_by_its_clients_too() {
    let ports = r#"{ "selector": { "matchLabels": { "app": "far" } }, "mode": "strict", "ports": { "9000": "disabled" } }"#;
    let ports = || vec![policy(MutualTlsPolicy, "shop", "ports", ports)];
    for mode in [None, Some(Mode::Strict)] {
        let entry = far(mode, ports()).unwrap();
        assert_eq!((entry.ports, entry.left_alone), (None, [9000].into()), "{mode:?}");
    }
    let off = r#"{ "mtls": { "mode": "DISABLE" } }"#;
    let off = || vec![policy(PeerAuthentication, "shop", "off", off)];
    assert_eq!(far(None, off()), None, "nothing of it speaks TLS");
    assert_eq!(far(Some(Mode::Strict), off()).unwrap().left_alone, [].into(), "its label goes before");
    let but = r#"{ "selector": { "matchLabels": { "app": "far" } }, "mtls": { "mode": "DISABLE" },
                   "portLevelMtls": { "5432": { "mode": "STRICT" } } }"#;
    let but = || vec![policy(PeerAuthentication, "shop", "but", but)];
    assert_eq!(far(None, but()).unwrap().ports, Some([5432].into()));
    // Strict clients are not kept from what speaks no TLS.
    let address: IpAddr = "10.0.0.7".parse().unwrap();
    for (policies, known) in [(off(), true), (but(), true), (ports(), false), (Vec::new(), false)] {
        let config = with_far(None, policies);
        assert_eq!(config.inside.known.contains(&address), known);
        let directory = crate::directory::Directory::from_config(&config);
        let client = config.workload("host").unwrap();
        let client = Workload { mode: Mode::Strict, ..client.clone() };
        let unknown = directory.unknown(&config, &client, address, 9000);
        assert!(directory.lookup(address, 9000).is_some() || !unknown.is_denied(), "{unknown:?}");
    }
    for (namespace, app) in [("ops", "far"), ("shop", "near")] {
        let other =
            format!(r#"{{ "selector": {{ "matchLabels": {{ "app": "{app}" }} }}, "mode": "disabled" }}"#);
        let entry = far(None, vec![policy(MutualTlsPolicy, namespace, "other", &other)]).unwrap();
        assert_eq!((entry.ports, entry.left_alone), (None, [].into()), "it is not for this pod");
    }
}

#[test]
fn a_port_of_a_service_is_left_alone_where_every_pod_behind_it_does() {
    let backend = |port: u16, target: u16, app: &str| OfferedBackend {
        port,
        target,
        spiffe_id: format!("spiffe://site.example/ns/shop/sa/{app}").parse().unwrap(),
        labels: BTreeMap::from([("app".to_owned(), app.to_owned())]).try_into().unwrap(),
        mode: None,
    };
    let left_alone = |backends: &[OfferedBackend], policies: Vec<OfferedPolicy>| {
        let entry = DirectoryEntry {
            name: "web.shop.svc".into(),
            addresses: vec!["10.96.0.1".parse::<IpAddr>().unwrap().into()],
            ports: Some([80, 81].into()),
            spiffe_ids: backends.iter().map(|backend| backend.spiffe_id.clone()).collect(),
            dns_names: Vec::new(),
            node: None,
            left_alone: BTreeSet::new(),
        };
        let directory = vec![OfferedDestination { entry, pod: None, backends: backends.to_vec() }];
        let config = config(&Offer { policies, directory, ..Offer::default() });
        let entry = config.directory.iter().find(|entry| entry.name == "web.shop.svc").unwrap();
        assert_eq!(entry.ports, Some([80, 81].into()), "they are known all the same");
        entry.left_alone.clone()
    };
    let port = r#"{ "selector": { "matchLabels": { "app": "a" } }, "ports": { "8080": "disabled" } }"#;
    let port = || vec![policy(MutualTlsPolicy, "shop", "port", port)];
    let one = [backend(80, 8080, "a"), backend(81, 8081, "a")];
    assert_eq!(left_alone(&one, port()), [80].into());
    assert_eq!(left_alone(&one, Vec::new()), [].into());
    assert_eq!(
        left_alone(
            &one,
            vec![policy(PeerAuthentication, "shop", "off", r#"{ "mtls": { "mode": "DISABLE" } }"#)]
        ),
        [80, 81].into()
    );
    let mixed = [backend(80, 8080, "a"), backend(80, 8080, "b")];
    assert_eq!(left_alone(&mixed, port()), [].into(), "some speak TLS: it is demanded");
    let canary = [backend(80, 8080, "a"), backend(80, 9090, "a")];
    assert_eq!(left_alone(&canary, port()), [].into(), "at another port of theirs");
    assert_eq!(left_alone(&[], port()), [].into());
}

#[test]
fn a_pod_of_another_node_is_direct_where_the_daemons_of_all_nodes_take_sessions_at_one_port() {
    let node = |kubernetes: &str, host: Option<&str>, own: &str| {
        let entry = DirectoryEntry {
            name: "shop/far".into(),
            addresses: vec![own.parse::<IpAddr>().unwrap().into()],
            ports: None,
            spiffe_ids: vec!["spiffe://site.example/ns/shop/sa/far".parse().unwrap()],
            dns_names: Vec::new(),
            node: None,
            left_alone: BTreeSet::new(),
        };
        let labels = BTreeMap::new().try_into().unwrap();
        let host = host.map(|text| text.parse().unwrap());
        let directory = vec![OfferedDestination {
            entry,
            pod: Some(OfferedPeer { labels, mode: None, host }),
            backends: Vec::new(),
        }];
        let file = FILE.replace("policies: [mtlsd, istio] }", &format!("policies: [mtlsd]{kubernetes} }}"));
        let offer = Offer { directory, ..Offer::default() };
        let config =
            Config::parse_with(&source("F", file), &[], &offer).unwrap_or_else(|error| panic!("{error}"));
        let far = config.directory.iter().find(|entry| entry.name == "shop/far").unwrap();
        far.node.map(|node| node.to_string())
    };
    let port = ", direct_port: 15080";
    assert_eq!(node(port, Some("192.0.2.7"), "10.0.0.7"), Some("192.0.2.7:15080".to_owned()));
    assert_eq!(node(port, Some("fd00::7"), "10.0.0.7"), Some("[fd00::7]:15080".to_owned()));
    assert_eq!(node("", Some("192.0.2.7"), "10.0.0.7"), None, "no port is said");
    assert_eq!(node(port, None, "10.0.0.7"), None, "it has no node yet");
    assert_eq!(node(port, Some("192.0.2.7"), "192.0.2.7"), None, "it is on its node's network");
    assert_eq!(node(port, Some("127.0.0.1"), "10.0.0.7"), None, "nobody else's address");
}

#[test]
fn what_a_pod_claims_to_be_is_no_fault_of_a_file() {
    let file = FILE.replace(
        "directory: [ { name: elsewhere, ",
        "direct: { listen: '192.0.2.1:7' }\ndirectory: [ { name: elsewhere, node: '192.0.2.2:7', ",
    );
    let mut pods = vec![pod("shop", "host", None), pod("shop", "cart", None)];
    for (pod, address) in pods.iter_mut().zip(["192.0.2.1", "192.0.2.2"]) {
        pod.addresses = vec![address.parse().unwrap()];
    }
    // The same number as a workload of a file would be a fault of files, too.
    pods.push(OfferedPod { name: "host".into(), ..pod("shop", "third", None) });
    let offer = Offer { pods, ..Offer::default() };
    let config =
        Config::parse_with(&source("F", file), &[], &offer).unwrap_or_else(|error| panic!("{error}"));
    let names: Vec<_> = config.workloads.iter().map(|workload| workload.name.as_str()).collect();
    assert_eq!(names, ["host", "shop/host", "shop/cart", "host/2"]);
}

#[test]
fn without_a_cluster_nothing_of_an_offer_counts() {
    let offer = Offer { pods: vec![pod("shop", "cart", None)], ..Offer::default() };
    let file = FILE.replace("kubernetes: { node: n1, policies: [mtlsd, istio] }\n", "");
    let config = Config::parse_with(&source("main.yaml", &file), &[], &offer).unwrap();
    assert_eq!(config.workloads.len(), 1);
    assert!(config.unclassified.cgroups.is_empty());
}

#[test]
fn the_settings_of_a_cluster_are_checked() {
    let load =
        |rest: &str| Config::parse(&source("F", format!("trust_domain: a\nkubernetes: {rest}\n")), &[]);
    let settings = |rest: &str| load(rest).unwrap().kubernetes.unwrap();
    let default = settings("{}");
    assert_eq!((default.node, default.default_mode), (None, Mode::Permissive));
    assert_eq!(default.policies, [PolicySource::Mtlsd].into());
    assert!(!default.resolve_services && settings("{ resolve_services: true }").resolve_services);
    let networks = settings("{ networks: [10.244.0.0/16, 'fd00:96::/112'] }").networks;
    assert_eq!(
        networks.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["10.244.0.0/16", "fd00:96::/112"]
    );
    assert!(default.networks.is_empty());
    assert_eq!(settings("{ cgroup_root: /kubelet/ }").cgroup_root, ["kubelet"]);
    let closed = load("{ cgroup_root: /kubelet }").unwrap().unclassified.cgroups;
    assert_eq!(closed[0].display().to_string(), "kubelet.slice/kubelet-kubepods.slice");
    assert!(load("{ unclassified: allow }").unwrap().unclassified.cgroups.is_empty());
    let many: Vec<_> = (0..65).map(|n| format!("10.{n}.0.0/16")).collect();
    let many_networks = format!("{{ networks: [{}] }}", many.join(", "));
    for (bad, why) in [
        ("{ node: A_b }", "not a name in Kubernetes"),
        ("{ default_mode: disabled }", "strict or permissive"),
        ("{ cgroup_root: ../x }", "not a cgroup root"),
        ("{ policies: [istio, istio] }", "write it once"),
        ("{ networks: [10.244.0.1/16] }", "10.244.0.0/16"),
        ("{ networks: [10.244.0.0/16, 10.244.0.0/16] }", "write it once"),
        ("{ networks: [pods] }", "pods"),
        (&many_networks, "these are 65 networks; at most 64"),
        ("{ issuer: nobody }", "nobody"),
        ("{ service_account: relative }", "relative"),
    ] {
        let error = load(bad).unwrap_err().to_string();
        assert!(error.contains(why), "{bad}: {error}");
    }
    let cert_manager = |rest: &str| {
        let file =
            format!("trust_domain: a\nidentity: {{ issuers: [ {{ name: cm, cert_manager: {rest} }} ] }}\n");
        Config::parse(&source("F", file), &[]).map(|config| config.issuers[0].kind.clone())
    };
    let IssuerKind::CertManager(settings) = cert_manager("{ namespace: mtlsd, issuer: mesh }").unwrap()
    else {
        panic!()
    };
    assert_eq!((settings.kind.as_str(), settings.group.as_str()), ("ClusterIssuer", "cert-manager.io"));
    for (bad, why) in [
        ("{ namespace: mtlsd }", "issuer"),
        ("{ namespace: A, issuer: mesh }", "not a name in Kubernetes"),
        ("{ namespace: mtlsd, issuer: mesh, timeout: 1ms }", "1ms"),
    ] {
        let error = cert_manager(bad).unwrap_err().to_string();
        assert!(error.contains(why), "{bad}: {error}");
    }
    let spire = "trust_domain: a\nidentity: { issuers: [ { name: spire, delegated_identity: { socket: /run/s } } ] }\n\
                 kubernetes: { issuer: spire }\n";
    let offer = Offer { pods: vec![pod("shop", "cart", None)], ..Offer::default() };
    let config = Config::parse_with(&source("F", spire), &[], &offer).unwrap();
    let WorkloadIdentity::Delegated { issuer, selectors } = &config.workloads[0].identity else {
        panic!("of SPIRE")
    };
    let selectors: Vec<_> = selectors.iter().map(ToString::to_string).collect();
    assert_eq!((issuer.as_str(), selectors.join(" ")), ("spire", "k8s:ns:shop k8s:sa:cart".to_owned()));
}

#[test]
fn a_strict_workload_is_kept_from_what_is_unknown_inside_the_cluster() {
    let text = "trust_domain: a\nkubernetes: { networks: [10.244.0.0/16] }\nworkloads:\n\
                - { name: strict, select: { netns: a }, mode: strict }\n\
                - { name: open, select: { netns: b }, mode: permissive }\n\
                - { name: shy, select: { netns: c }, mode: strict, unknown_destinations: deny }\n";
    let offer = Offer { known: ["10.244.0.1".parse().unwrap()].into(), ..Offer::default() };
    let config = Config::parse_with(&source("F", text), &[], &offer).unwrap();
    let of = |name: &str, to: &str| {
        let client = config.workloads.iter().find(|workload| workload.name == name).unwrap();
        config.unknown(client, to.parse().unwrap())
    };
    assert_eq!(of("strict", "10.244.0.2"), Unknown::DeniedInside);
    assert_eq!(of("strict", "10.244.0.1"), Unknown::Passes, "a pod that is not enrolled");
    assert_eq!(of("strict", "192.0.2.1"), Unknown::Passes, "outside");
    assert_eq!(of("open", "10.244.0.2"), Unknown::Passes);
    assert_eq!([of("shy", "10.244.0.2"), of("shy", "10.244.0.1")], [Unknown::Denied; 2]);
}

#[test]
fn a_service_whose_address_a_file_speaks_of_is_not_resolved() {
    let resolved = |at: &str| ResolvedService {
        name: "shop/web".into(),
        at: at.parse().unwrap(),
        endpoints: vec!["10.0.0.1:80".parse().unwrap()],
    };
    let services = ["10.0.0.8:80", "10.0.0.9:80", "10.96.0.1:80"].map(resolved).to_vec();
    let config = config(&Offer { services: services.clone(), ..Offer::default() });
    assert_eq!(config.services, services[2..], "a directory's, and a workload's own");
}
