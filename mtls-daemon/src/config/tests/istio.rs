//! Istio's resources among the drop-ins mean what they mean to Istio, or are refused by name.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::super::*;
use super::source;
use crate::identity::{CertificateAttributes, PeerName};
use crate::policy::{Peer, Policy, Query};

const WORKLOADS: &str = "trust_domain: site.example
workloads:
- { name: cart, select: { netns: a }, spiffe_id: 'spiffe://site.example/ns/shop/sa/cart', labels: { app: cart } }
- { name: pay, select: { netns: b }, spiffe_id: 'spiffe://site.example/ns/shop/sa/pay', labels: { app: pay } }
- { name: own, select: { netns: c }, spiffe_id: 'spiffe://site.example/ns/shop/sa/own', policy_default: mode, mode: permissive }
- { name: ops, select: { netns: d }, spiffe_id: 'spiffe://site.example/ns/ops/sa/ops' }
- { name: host, select: { netns: e } }
";

fn load(resources: &str) -> Result<Config, ConfigError> {
    Config::parse(&source("main.yaml", WORKLOADS), &[source("istio.yaml", resources)])
}

fn config(resources: &str) -> Config {
    load(resources).unwrap_or_else(|error| panic!("{error}"))
}

fn authorization(namespace: &str, name: &str, rest: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: {name}\n  namespace: {namespace}\n  \
         uid: 1234\n{rest}\n"
    )
}

fn authentication(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata: {{ name: {name}, namespace: {namespace} }}\n\
         spec: {spec}\n"
    )
}

/// Whether this peer may connect, and by which rule.
fn decide(config: &Config, peer: &str, from: &str, workload: &str, port: u16) -> (bool, Option<String>) {
    let policy = Policy::from_config(config);
    let settings = config.workload(workload).unwrap();
    let name = PeerName::Spiffe(peer.parse().unwrap());
    let address: IpAddr = from.parse().unwrap();
    let verdict = policy
        .decide(&Query {
            peer: Peer {
                name: Some(&name),
                attributes: Some(CertificateAttributes::NONE),
                address: Some(address),
            },
            workload,
            port,
            mode: settings.mode_of_port(port),
            allowed_by_default: settings.allows_by_default(port),
        })
        .verdict;
    (verdict.allow, verdict.rule.map(str::to_owned))
}

const WEB: &str = "spiffe://site.example/ns/front/sa/web";
const HERE: &str = "10.0.0.9";

#[test]
fn peer_authentication_sets_modes_from_the_mesh_to_the_port() {
    let resources = [
        authentication("istio-system", "default", "{ mtls: { mode: STRICT } }"),
        authentication("shop", "default", "{ mtls: { mode: PERMISSIVE } }"),
        authentication(
            "shop",
            "pay",
            "{ selector: { matchLabels: { app: pay } }, mtls: { mode: UNSET }, portLevelMtls: { 9090: { mode: DISABLE } } }",
        ),
    ];
    let config = config(&resources.concat());
    let mode = |name: &str| config.workload(name).unwrap().mode;
    assert_eq!(
        [mode("cart"), mode("pay"), mode("ops"), mode("host")],
        [Mode::Permissive, Mode::Permissive, Mode::Strict, Mode::Strict]
    );
    assert_eq!(config.workload("pay").unwrap().mode_of_port(9090), Mode::Disabled);
    assert_eq!(config.workload("cart").unwrap().mode_of_port(9090), Mode::Permissive);
}

#[test]
fn without_any_allow_policy_a_workload_is_open_and_with_one_it_is_closed_to_others() {
    let open = config(&authentication("shop", "default", "{ mtls: { mode: STRICT } }"));
    assert_eq!(decide(&open, WEB, HERE, "cart", 80), (true, None));
    assert_eq!(
        decide(&open, WEB, HERE, "ops", 80),
        (false, None),
        "no resource is for it: mtlsd's own default"
    );
    assert_eq!(open.workload("own").unwrap().policy_default, PolicyDefault::Mode, "it says so itself");

    let nobody = config(&authorization("shop", "nobody", "spec: {}"));
    assert_eq!(decide(&nobody, WEB, HERE, "cart", 80), (false, None));
    let everybody = config(&authorization("shop", "everybody", "spec: { rules: [{}] }"));
    assert_eq!(decide(&everybody, WEB, HERE, "cart", 80), (true, Some("shop/everybody[0]".to_owned())));
    let denies = config(&authorization(
        "shop",
        "d",
        "spec: { action: DENY, rules: [{ from: [{ source: { namespaces: [bad] } }] }] }",
    ));
    assert_eq!(decide(&denies, WEB, HERE, "cart", 80), (true, None));
    assert!(!decide(&denies, "spiffe://site.example/ns/bad/sa/x", HERE, "cart", 80).0);

    let tried = "spec: { rules: [{ from: [{ source: { namespaces: [front] } }] }] }";
    let dry = authorization("shop", "tried", tried)
        .replace("  uid: 1234", "  annotations: { istio.io/dry-run: \"true\" }");
    let dry = config(&dry);
    assert!(dry.policy[0].dry_run);
    assert_eq!(
        decide(&dry, WEB, HERE, "cart", 80),
        (true, None),
        "a policy that is only tried closes nothing"
    );
}

#[test]
fn an_allow_rule_of_our_own_closes_a_workload_that_has_resources() {
    let main = format!(
        "{WORKLOADS}policy:\n- {{ name: mine, action: allow, to: {{ workloads: [cart] }}, from: {{ trust_domains: [other] }} }}\n"
    );
    let drop_in = source("istio.yaml", authentication("shop", "default", "{ mtls: { mode: STRICT } }"));
    let config = Config::parse(&source("main.yaml", &main), &[drop_in]).unwrap();
    assert_eq!(decide(&config, WEB, HERE, "cart", 80), (false, None));
    assert_eq!(decide(&config, WEB, HERE, "pay", 80), (true, None));
}

#[test]
fn an_authorization_policy_decides_by_source_port_and_condition() {
    let config = config(&authorization(
        "shop",
        "cart",
        r#"spec:
  selector: { matchLabels: { app: cart } }
  action: ALLOW
  rules:
  - from:
    - source: { principals: ["cluster.local/ns/front/sa/web", "partner.example/*"], notIpBlocks: [10.9.0.0/16] }
    - source: { serviceAccounts: [pay], namespaces: ["sh*"] }
    to:
    - operation: { ports: ["80"] }
    - operation: { notPorts: ["80", "81"] }
    when:
    - { key: source.ip, values: [10.0.0.0/8] }
    - { key: destination.port, notValues: ["99"] }
"#,
    ));
    let of = |peer: &str, from: &str, port: u16| decide(&config, peer, from, "cart", port).0;
    let pay = "spiffe://site.example/ns/shop/sa/pay";
    for (peer, from, port, want) in [
        (WEB, HERE, 80, true),
        (WEB, HERE, 81, false),
        (WEB, HERE, 82, true),
        (WEB, HERE, 99, false),
        (WEB, "10.9.0.1", 80, false),
        (WEB, "192.0.2.1", 80, false),
        (pay, HERE, 80, true),
        (pay, "10.9.0.1", 80, true),
        ("spiffe://partner.example/ns/x/sa/y", HERE, 80, true),
        ("spiffe://site.example/ns/front/sa/other", HERE, 80, false),
        ("spiffe://site.example/ns/ops/sa/pay", HERE, 80, false),
    ] {
        assert_eq!(of(peer, from, port), want, "{peer} {from} {port}");
    }
    assert!(!decide(&config, WEB, HERE, "pay", 80).0, "no resource is for pay");
    assert_eq!(config.workload("pay").unwrap().policy_default, PolicyDefault::Mode);
}

/// One problem of the resources, which begin on line 1, with its place.
#[track_caller]
fn refused(marked: &str, part: &str) {
    let (before, _) = marked.split_once('§').expect("a mark");
    let line = before.lines().count().max(1) + usize::from(before.ends_with('\n'));
    let error = load(&marked.replace('§', "")).expect_err(marked).to_string();
    assert_eq!(error.lines().count(), 1, "{error}");
    let want = format!("istio.yaml:{line}:");
    assert!(error.contains(&want) && error.contains(part), "{marked}: {error} lacks {want} or {part}");
}

#[test]
fn what_is_not_about_connections_is_refused_by_its_name() {
    let policy = |spec: &str| authorization("shop", "p", &format!("spec: {{ {spec} }}"));
    let source = |field: &str| {
        policy(&format!("rules: [{{ from: [{{ source: {{ namespaces: [a], {field}: §[x] }} }}] }}]"))
    };
    let fields = ["requestPrincipals", "notRequestPrincipals", "remoteIpBlocks", "notRemoteIpBlocks"];
    fields.iter().for_each(|field| refused(&source(field), &format!("`{field}` is about requests")));
    let operation =
        |field: &str| policy(&format!("rules: [{{ to: [{{ operation: {{ {field}: §[x] }} }}] }}]"));
    let fields = ["hosts", "notHosts", "methods", "notMethods", "paths", "notPaths"];
    fields.iter().for_each(|field| refused(&operation(field), &format!("`{field}` is about requests")));
    for key in ["request.headers[x]", "request.auth.claims", "connection.sni", "destination.ip"] {
        let text = policy(&format!("rules: [{{ when: [{{ key: §'{key}', values: [x] }}] }}]"));
        refused(&text, &format!("the condition `{key}` is not about"));
    }
    refused(&policy("action: §CUSTOM"), "the action CUSTOM asks an external authorizer");
    refused(&policy("targetRefs: §[{ kind: Gateway, name: x }]"), "`targetRefs`");
    refused(&policy("targetRef: §{ kind: Gateway, name: x }"), "`targetRef`");
    refused(&policy("provider: §{ name: x }"), "`provider`");
    refused(&policy("§rule: []"), "did you mean `rules`?");
    refused(&policy("action: §ALLOWED"), "did you mean `ALLOW`?");
    refused(&policy("rules: [{ from: §[] }]"), "this list is empty");
    refused(&policy("rules: [{ to: §[] }]"), "this list is empty");
    refused(&policy("rules: [{ from: [§{ source: {} }] }]"), "this names nobody");
    refused(&policy("rules: [{ to: [§{ operation: {} }] }]"), "this list is empty");
    refused(&policy("rules: [{ when: [§{ key: source.ip }] }]"), "this list is empty");
    refused(&policy("rules: [{ to: [{ operation: { ports: [§'x'] } }] }]"), "the port `x` cannot be");
    let twice = "rules: [{ from: [{ source: { ipBlocks: [10.0.0.0/8] } }], when: [{ key: §source.ip, values: [10.1.0.0/16] }] }]";
    refused(&policy(twice), "write it in one place");
    refused(
        &authentication("shop", "p", "{ portLevelMtls: { §80: { mode: STRICT } } }"),
        "`portLevelMtls` counts only with a `selector`",
    );
    refused("apiVersion: §apps/v1\nkind: Deployment\n", "the apiVersion `apps/v1` is not Istio's");
    refused(
        "apiVersion: security.istio.io/v1\nkind: §RequestAuthentication\nmetadata: { name: x }\n",
        "RequestAuthentication",
    );
    let name = authorization("shop", "§a", "spec: {}");
    refused(
        &format!("{}{name}", authorization("shop", "a", "spec: {}")),
        "the resource `a` is taken already",
    );
}

#[test]
fn places_are_right_in_every_document_and_comments_and_empty_documents_are_passed_over() {
    let first = authorization("shop", "a", "spec: {}");
    let text = format!(
        "# from the cluster\n---\n---\n{first}...\n---\n# nothing\n{}",
        authorization("shop", "b", "spec: { §x: 1 }")
    );
    refused(&text, "the key `x` is not known here");
    let names: BTreeSet<_> = config(&text.replace("x: 1", "rules: [{}]").replace('§', ""))
        .policy
        .into_iter()
        .map(|rule| rule.name)
        .collect();
    assert_eq!(names, ["shop/b[0]".to_owned()].into());
}

#[test]
fn what_comes_to_too_much_is_refused_before_it_is_made() {
    let from = vec!["{ source: { namespaces: [a] } }"; 2_000].join(", ");
    let to = vec!["{ operation: { ports: ['80'] } }"; 600].join(", ");
    let policy = |rule: &str| authorization("shop", "p", &format!("spec: {{ rules: [{rule}] }}"));
    let refused = |text: &str| load(text).is_err_and(|error| error.to_string().contains("more than 1000000"));
    assert!(refused(&policy(&format!("{{ from: [{from}], to: [{to}] }}"))));
    let ports: Vec<_> = (1..2_000).map(|port| format!("'{port}'")).collect();
    let when = format!("when: [{{ key: destination.port, values: [{}] }}]", ports.join(", "));
    assert!(refused(&policy(&format!("{{ to: [{to}], {when} }}"))));
    assert!(load(&policy(&format!("{{ from: [{from}] }}, {{ to: [{to}] }}"))).is_ok());
}
