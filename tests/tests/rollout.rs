//! Moving to strict: what was seen says who would be refused, and what other rules would change.

use std::fs;
use std::path::PathBuf;

use mtls_tests::lab::{Daemon, eventually};
use mtls_tests::scenario::HTTP;
use mtls_tests::slow;
use mtls_tests::{Pair, STRICT_PAIR};
use serde_json::{Value, json};

/// `db` is permissive; nobody else is enrolled but `web`.
fn permissive_db() -> String {
    STRICT_PAIR.replacen("{ name: db,", "{ name: db, mode: permissive,", 1)
}

/// The same, with `out` enrolled too.
fn all_enrolled(yaml: &str) -> String {
    yaml.replacen(
        "workloads:\n",
        "workloads:\n  - { name: out, select: { netns: $out.netns }, addresses: [\"$out.v4\", \"$out.v6\"] }\n",
        1,
    )
}

fn reconfigure(pair: &mut Pair, yaml: &str) {
    pair.daemon.configure(&pair.lab.expand(yaml));
    assert_eq!(pair.daemon.ask(&["reload"])["applied"], true);
}

fn flows_file(daemon: &Daemon) -> PathBuf {
    daemon.ca().parent().expect("the state directory").join("flows.json")
}

/// The flows on disk, once `wanted` is among them.
fn on_disk(daemon: &Daemon, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let file = flows_file(daemon);
    eventually(slow::limit(30), &format!("{what} in {}", file.display()), || {
        let content: Value = serde_json::from_slice(&fs::read(&file).ok()?).expect("it is always whole");
        let flows = content["record"]["flows"].as_array().expect("a list");
        flows.iter().any(&wanted).then(|| content.clone())
    })
}

/// As if this daemon had run for two days before.
fn begun_two_days_ago(daemon: &Daemon, mut content: Value) {
    content["record"]["begun"] = json!("2020-01-01T00:00:00Z");
    for (_, watched) in content["record"]["watched"].as_object_mut().expect("workloads") {
        watched["since"] = json!("2020-01-01T00:00:00Z");
    }
    fs::write(flows_file(daemon), content.to_string()).expect("lab directory is writable");
}

/// Exit code and the only port.
fn status(daemon: &Daemon) -> (Option<i32>, Value) {
    let (code, text) = daemon.cli(&["rollout", "status", "--workload", "db", "--since", "24h"]);
    let report: Value = serde_json::from_str(&text).expect("JSON");
    let ports = report["ports"].as_array().expect("a list").clone();
    assert!(ports.len() <= 1, "only port 80 was used: {report}");
    (code, ports.into_iter().next().unwrap_or_default())
}

/// Address or identity, and channel, of the peers with this fate.
fn peers(port: &Value, fate: &str) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let peers = port["peers"].as_array().expect("a list").iter().filter(|peer| peer["fate"] == fate);
    let who =
        |peer: &Value| text(if peer["identity"].is_null() { &peer["address"] } else { &peer["identity"] });
    peers.map(|peer| (who(peer), text(&peer["channel"]))).collect()
}

fn pairs(wanted: &[(&str, &str)]) -> Vec<(String, String)> {
    wanted.iter().map(|(who, how)| ((*who).to_owned(), (*how).to_owned())).collect()
}

#[test]
fn what_was_seen_survives_a_kill_and_says_who_is_left_until_it_is_safe() {
    let mut pair = Pair::configured(Pair::lab(), &permissive_db());
    let (to, out) = (pair.db().at(HTTP), pair.out().v4.to_string());
    let url = format!("http://{to}/");
    let curl = |pair: &Pair| {
        let text = pair.out().run(&["curl", "-sS", "--max-time", "20", &url]).ok().text();
        assert_eq!(text, "hello from db");
    };
    assert_eq!(pair.curl(to).ok().text(), "hello from db");
    curl(&pair);
    let (code, port) = status(&pair.daemon);
    assert_eq!((code, &port["port"], &port["verdict"]), (Some(1), &json!(80), &json!("not-safe")), "{port}");

    let content = on_disk(&pair.daemon, "the plaintext client", |flow| flow["channel"] == "plaintext");
    pair.daemon.kill9();
    begun_two_days_ago(&pair.daemon, content);
    pair.daemon.start();
    let (code, port) = status(&pair.daemon);
    assert_eq!((code, &port["verdict"]), (Some(1), &json!("not-safe")), "{port}");
    assert_eq!(peers(&port, "would-be-refused"), pairs(&[(&out, "plaintext")]), "exactly this one: {port}");
    assert_eq!(peers(&port, "allowed"), pairs(&[("spiffe://example.org/web", "mutual-tls")]));
    assert!((pair.daemon.metric("mtlsd_flows", &[]) - 3.0).abs() < 0.1, "web's own side is one too");

    reconfigure(&mut pair, &all_enrolled(&permissive_db()));
    let (code, port) = status(&pair.daemon);
    assert_eq!((code, &port["verdict"]), (Some(1), &json!("not-safe")), "it has not connected since");
    assert_eq!(port["peers"][0]["name"], "out", "now it is known who has this address");
    curl(&pair);
    let (code, port) = status(&pair.daemon);
    assert_eq!((code, &port["verdict"]), (Some(0), &json!("safe")), "{port}");
    assert_eq!(peers(&port, "moved"), pairs(&[(&out, "plaintext")]));
    assert_eq!(peers(&port, "allowed").len(), 2);

    // A regular stop loses nothing, however short.
    pair.daemon.restart();
    let (_, again) = status(&pair.daemon);
    assert_eq!(again["peers"], port["peers"]);

    reconfigure(&mut pair, &all_enrolled(STRICT_PAIR));
    pair.works();
    curl(&pair);
    assert_eq!(status(&pair.daemon), (Some(0), Value::Null), "strict, and nobody is refused");
}

#[test]
fn a_client_that_strict_refuses_is_listed_until_it_is_enrolled() {
    let mut pair = Pair::configured(Pair::lab(), STRICT_PAIR);
    let url = format!("http://{}/", pair.db().at(HTTP));
    pair.out().run(&["curl", "-sS", "--max-time", "20", &url]).fails();
    let (code, port) = status(&pair.daemon);
    assert_eq!((code, &port["verdict"]), (Some(0), &json!("strict")), "{port}");
    let out = pair.out().v4.to_string();
    assert_eq!(peers(&port, "refused-now"), pairs(&[(&out, "plaintext")]), "{port}");
    let (code, text) = pair.daemon.cli(&["rollout", "status", "--workload", "nobody"]);
    assert_eq!((code, text.as_str()), (Some(1), ""), "there is no such workload");
    reconfigure(&mut pair, &all_enrolled(STRICT_PAIR));
    pair.out().run(&["curl", "-sS", "--max-time", "20", &url]).ok();
    assert_eq!(status(&pair.daemon).1, Value::Null);
}

/// The daemon's configuration with something else in it, in a file of its own.
fn with(pair: &Pair, old: &str, new: &str) -> String {
    let text = fs::read_to_string(pair.daemon.config()).expect("it was written");
    assert!(text.contains(old), "{text}");
    let path = pair.lab.dir().join("new.yaml");
    fs::write(&path, text.replace(old, new)).expect("lab directory is writable");
    path.to_string_lossy().into_owned()
}

fn replay(pair: &Pair, file: &str) -> (Option<i32>, Value) {
    let (code, text) = pair.daemon.cli(&["policy", "replay", "--since", "24h", "--with", file]);
    (code, serde_json::from_str(&text).expect("JSON"))
}

const EVERYONE: &str = "  - { name: everyone-here, action: allow, from: { trust_domains: [example.org] } }\n";

#[test]
fn a_replay_lists_what_a_removed_rule_let_in_also_after_a_kill() {
    let mut pair = Pair::strict();
    assert_eq!(pair.curl(pair.db().at(HTTP)).ok().text(), "hello from db");
    let guest = pair.issue("guest");
    mtls_tests::programs::s_client(pair.out(), pair.db().at(HTTP), &pair.root(), Some(&guest)).run().ok();
    on_disk(&pair.daemon, "the guest", |flow| flow["peer"] == "spiffe://example.org/guest");

    for killed in [false, true] {
        if killed {
            pair.daemon.kill9();
            pair.daemon.start();
        }
        let same = with(&pair, EVERYONE, EVERYONE);
        let (code, report) = replay(&pair, &same);
        assert_eq!(
            (code, &report["changes"], &report["flows"]),
            (Some(0), &json!([]), &json!(3)),
            "{report}"
        );

        // Inbound from both, and web would not even get out of connect().
        let only_guest =
            EVERYONE.replace("trust_domains: [example.org]", "spiffe_ids: [\"spiffe://example.org/guest\"]");
        let file = with(&pair, EVERYONE, &only_guest);
        let (code, report) = replay(&pair, &file);
        assert_eq!(code, Some(1), "{report}");
        let changes: Vec<_> = report["changes"].as_array().expect("a list").iter().collect();
        let of =
            |direction: &str| changes.iter().find(|change| change["direction"] == direction).expect("one");
        assert_eq!(changes.len(), 2, "not the guest: {report}");
        assert_eq!(of("inbound")["peer"], "spiffe://example.org/web");
        assert_eq!(of("inbound")["before"], json!({ "allow": true, "rule": "everyone-here" }));
        assert_eq!(of("inbound")["after"], json!({ "allow": false, "rule": "default of strict" }));
        assert_eq!(of("outbound")["peer"], "spiffe://example.org/db");
        assert_eq!(of("outbound")["after"]["allow"], false);
    }
    let (code, _) = pair.daemon.cli(&["policy", "replay", "--with", "/nonexistent.yaml"]);
    assert_eq!(code, Some(1));
}

#[test]
fn what_connect_refused_is_replayed_too() {
    let deny = "outbound_policy: [ { name: not-db, action: deny, to: { spiffe_ids: [\"spiffe://example.org/db\"] } } ]\n";
    let pair = Pair::with(deny);
    pair.curl(pair.db().at(HTTP)).fails();
    pair.daemon.wait_for_log("the denial", |r| r.refused() && r.policy() == "not-db");
    let same = with(&pair, deny, deny);
    let (code, report) = replay(&pair, &same);
    assert_eq!((code, &report["changes"], &report["flows"]), (Some(0), &json!([]), &json!(1)), "{report}");
    let (code, report) = replay(&pair, &with(&pair, deny, ""));
    assert_eq!(code, Some(0), "to be let out breaks nothing: {report}");
    let change = &report["changes"][0];
    assert_eq!(
        (&change["channel"], &change["before"]["rule"]),
        (&json!("connect"), &json!("not-db")),
        "{report}"
    );
    assert_eq!(change["after"]["allow"], true);
}

#[test]
fn a_broken_record_is_set_aside_and_one_that_is_off_is_told() {
    let mut pair = Pair::configured(Pair::lab(), &permissive_db());
    pair.curl(pair.db().at(HTTP)).ok();
    pair.daemon.stop();
    fs::write(flows_file(&pair.daemon), "{ broken").expect("lab directory is writable");
    pair.daemon.start();
    pair.daemon.wait_for_output("the record begins anew");
    assert!(flows_file(&pair.daemon).with_extension("json.broken").exists());
    let (code, port) = status(&pair.daemon);
    assert_eq!((code, &port["verdict"]), (Some(1), &json!("unknown")), "{port}");
    pair.daemon.configure(&pair.lab.expand(&format!("{}flows: {{ keep: off }}\n", permissive_db())));
    pair.daemon.restart();
    assert!(!flows_file(&pair.daemon).exists(), "a later daemon must not take it for whole");
    let (code, text) = pair.daemon.cli(&["rollout", "status"]);
    assert_eq!((code, text.as_str()), (Some(1), ""));
}
