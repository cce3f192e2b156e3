//! A policy engine is asked about what the rules allow: on real connections, by real daemons. The engine is a stand-in that
//! speaks OPA's Data API, because OPA itself is in no package registry.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

use mtls_tests::lab::{Output, Record, free_port};
use mtls_tests::programs::{self, s_client};
use mtls_tests::scenario::{HTTP, two_nodes_with};
use mtls_tests::{Daemon, Lab, Pair, STRICT_PAIR, eventually, slow};
use serde_json::{Value, json};

const WEB: &str = "spiffe://example.org/web";

/// Answers what it is told to, and keeps what it was asked.
#[derive(Clone)]
struct Engine {
    url: String,
    shared: Arc<(Mutex<Told>, Condvar)>,
}

struct Told {
    result: Value,
    asked: Vec<Value>,
    /// It keeps everybody waiting.
    silent: bool,
}

impl Engine {
    fn start(result: Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("bound");
        let told = Told { result, asked: Vec::new(), silent: false };
        let engine = Self { url: url(at.port()), shared: Arc::new((Mutex::new(told), Condvar::new())) };
        let serving = engine.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let engine = serving.clone();
                thread::spawn(move || engine.serve(stream));
            }
        });
        engine
    }

    fn serve(&self, mut stream: TcpStream) -> Option<()> {
        loop {
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") {
                stream.read_exact(&mut byte).ok()?;
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).expect("an HTTP head").to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let mut body = vec![0; length.expect("a length").parse().expect("a number")];
            stream.read_exact(&mut body).ok()?;
            let (told, changed) = &*self.shared;
            let mut told = told.lock().expect("no panic");
            told.asked.push(serde_json::from_slice(&body).expect("JSON"));
            let told = changed.wait_while(told, |told| told.silent).expect("no panic");
            let answer = json!({ "result": told.result }).to_string();
            drop(told);
            let length = answer.len();
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{answer}");
            stream.write_all(answer.as_bytes()).ok()?;
        }
    }

    fn change(&self, change: impl FnOnce(&mut Told)) {
        change(&mut self.shared.0.lock().expect("no panic"));
        self.shared.1.notify_all();
    }

    fn says(&self, result: Value) {
        self.change(|told| told.result = result);
    }

    fn asked(&self) -> Vec<Value> {
        self.shared.0.lock().expect("no panic").asked.clone()
    }

    /// The configuration that asks it; `more`: further keys, each with a comma before it.
    fn configured(&self, more: &str) -> String {
        external(&self.url, more)
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}/v1/data/mtlsd/allow")
}

fn external(url: &str, more: &str) -> String {
    let timeout = slow::limit(5).as_millis();
    format!("policy_external: {{ url: '{url}', timeout: {timeout}ms{more} }}\n")
}

/// Nothing is kept.
const ALWAYS: &str = ", cache: { allow: 0s, deny: 0s }";

#[track_caller]
fn change(lab: &Lab, daemon: &Daemon, yaml: &str) {
    daemon.configure(&lab.expand(yaml));
    let report = daemon.ask(&["reload"]);
    assert_eq!(report["applied"], true, "{report}");
}

fn curl(lab: &Lab, to: SocketAddr) -> Output {
    lab.pod("web").run(&["curl", "-sS", "--max-time", "20", &format!("http://{to}/")])
}

fn connect(lab: &Lab, to: SocketAddr) -> String {
    lab.pod("web").own("probe").args(["connect", &to.to_string()]).run().ok().text()
}

#[track_caller]
fn decisions(daemon: &Daemon, result: &str) -> f64 {
    daemon.metric("mtlsd_external_decisions_total", &[("result", result)])
}

#[test]
fn the_engine_decides_on_what_the_rules_allow_and_its_denial_is_explained_at_both_ends() {
    let engine = Engine::start(json!({ "allow": false, "rule": "night", "reason": "not at night" }));
    let (lab, _nginx, here, there) = two_nodes_with("", "");
    let far = "workloads: [ { name: far, select: { netns: $far.netns }, labels: { tier: data } } ]\n\
               policy: [ { name: web-only, action: allow, from: { spiffe_ids: [\"spiffe://example.org/web\"] } } ]\n";
    change(&lab, &there, &format!("{far}{}", engine.configured(ALWAYS)));
    let to = lab.pod("far").at(HTTP);
    let said = connect(&lab, to);
    assert!(said.contains("EHOSTUNREACH"), "{said}");
    let record = there.wait_for_log("far's refusal", |r| r.inbound() && r.refused());
    assert_eq!((record.reason(), record.policy(), record.bytes()), ("external_denied", "external: night", 0));
    assert_eq!((record.peer(), record.peer_proven()), (WEB, true), "{record:?}");
    assert!(record.detail().contains("the policy engine says no, rule night (not at night)"), "{record:?}");
    assert_eq!(record.0["external"], json!({ "allow": false, "rule": "night", "from": "answer" }));
    let explained = there.ask(&["explain", record.id()]).to_string();
    for part in ["Policy: external: night.", "the policy of the engine under policy_external", "not at night"]
    {
        assert!(explained.contains(part), "{explained} lacks {part}");
    }
    let record = here.wait_for_log("web's refusal", |r| !r.inbound() && r.refused());
    assert_eq!(
        (record.reason(), record.remote_reason()),
        ("external_denied", "external_denied"),
        "{record:?}"
    );
    let labels = [("workload", "far"), ("rule", "external")];
    assert!((there.metric("mtlsd_policy_denials_total", &labels) - 1.0).abs() < 0.1);

    let asked = engine.asked();
    let [question] = &asked[..] else { panic!("one question was expected: {asked:?}") };
    let input = &question["input"];
    assert_eq!((&input["direction"], &input["mode"]), (&json!("inbound"), &json!("strict")), "{input}");
    assert_eq!(input["authenticated"], true);
    assert_eq!(input["source"]["spiffe_id"], WEB);
    assert_eq!(input["source"]["address"], lab.pod("web").at(0).ip().to_string());
    assert_eq!(input["destination"]["workload"], "far");
    assert_eq!(input["destination"]["labels"], json!({ "tier": "data" }));
    assert_eq!(input["destination"]["port"], HTTP);
    assert_eq!(input["attributes"]["source"]["principal"], WEB);

    engine.says(json!({ "allow": true, "rule": "day" }));
    assert_eq!(curl(&lab, to).ok().text(), "hello from far");
    let record = there.wait_for_log("far's record", |r| r.inbound() && !r.refused());
    assert_eq!(record.policy(), "web-only", "the rule here, which the engine agreed with");
    assert_eq!(record.0["external"], json!({ "allow": true, "rule": "day", "from": "answer" }));
}

#[test]
fn what_the_rules_deny_is_not_asked_about_and_the_engine_cannot_let_it_in() {
    let engine = Engine::start(json!(true));
    let yaml =
        STRICT_PAIR.replace("trust_domains: [example.org]", "spiffe_ids: [\"spiffe://example.org/web\"]");
    let pair = Pair::configured(Pair::lab(), &format!("{yaml}{}", engine.configured("")));
    let guest = pair.issue("guest");
    pair.refuses("policy_default", |to| s_client(pair.out(), to, &pair.root(), Some(&guest)).run().fails());
    let asked = engine.asked();
    assert!(asked.iter().all(|question| question["input"]["source"]["spiffe_id"] == WEB), "{asked:?}");
}

#[test]
fn an_answer_counts_for_equal_questions_until_the_configuration_changes() {
    let engine = Engine::start(json!(true));
    let long = engine.configured(", cache: { allow: 1h, deny: 1h }");
    let yaml = format!("{STRICT_PAIR}{long}");
    let pair = Pair::configured(Pair::lab(), &yaml);
    let to = pair.db().at(HTTP);
    for _ in 0..4 {
        assert_eq!(pair.curl(to).ok().text(), "hello from db");
    }
    assert_eq!(engine.asked().len(), 1);
    let cached = |r: &Record| r.inbound() && r.0["external"]["from"] == "cache";
    pair.daemon.wait_for_log("a record of what was known", cached);
    assert!((decisions(&pair.daemon, "allowed") - 4.0).abs() < 0.1);

    engine.says(json!(false));
    assert_eq!(pair.curl(to).ok().text(), "hello from db", "the answer still counts");
    let more = "  - { name: more, action: audit }\n";
    let (rules, external) = yaml.split_once("policy_external").expect("both");
    change(&pair.lab, &pair.daemon, &format!("{rules}{more}policy_external{external}"));
    assert!(connect(&pair.lab, to).contains("EHOSTUNREACH"), "asked again, and denied");
    assert!(connect(&pair.lab, to).contains("EHOSTUNREACH"));
    assert_eq!(engine.asked().len(), 2);
}

#[test]
fn without_the_engine_connections_are_refused_or_let_in_as_configured() {
    let gone = url(free_port());
    let pair = Pair::configured(Pair::lab(), &format!("{STRICT_PAIR}{}", external(&gone, "")));
    let to = pair.db().at(HTTP);
    assert!(connect(&pair.lab, to).contains("EHOSTUNREACH"));
    let record = pair.daemon.wait_for_log("db's refusal", |r| r.inbound() && r.refused());
    assert_eq!((record.reason(), record.bytes()), ("external_unavailable", 0), "{record:?}");
    assert_eq!(record.policy(), "external: on_failure: deny");
    assert!(record.detail().contains(&gone) && record.mend().contains("on_failure"), "{record:?}");
    assert!((pair.daemon.metric("mtlsd_external_failing", &[]) - 1.0).abs() < 0.1);
    assert!((decisions(&pair.daemon, "denied_unavailable") - 1.0).abs() < 0.1);
    assert!(pair.daemon.printed().contains("the policy engine gave no answer"), "{}", pair.daemon.printed());

    let open = format!("{STRICT_PAIR}{}", external(&gone, ", on_failure: allow"));
    change(&pair.lab, &pair.daemon, &open);
    pair.works();
    let record = pair.daemon.wait_for_log("db's record", |r| r.inbound() && !r.refused());
    assert_eq!(record.0["external"], json!({ "allow": true, "from": "on_failure" }), "{record:?}");
    assert_eq!(record.policy(), "everyone-here");

    change(&pair.lab, &pair.daemon, STRICT_PAIR);
    pair.works();
    assert!(pair.daemon.metric("mtlsd_external_failing", &[]) < 0.1, "nobody is asked any more");
}

#[test]
fn a_silent_engine_costs_the_timeout_and_nothing_reaches_the_application() {
    let engine = Engine::start(json!(true));
    engine.change(|told| told.silent = true);
    let timeout = format!("policy_external: {{ url: '{}', timeout: 200ms }}\n", engine.url);
    let pair = Pair::configured(Pair::lab(), &format!("{STRICT_PAIR}{timeout}"));
    let mut application = programs::probe(pair.db(), 7000, &[]);
    assert!(connect(&pair.lab, pair.db().at(7000)).contains("EHOSTUNREACH"));
    let record = pair.daemon.wait_for_log("db's refusal", |r| r.inbound() && r.refused());
    assert_eq!(record.reason(), "external_unavailable", "{record:?}");
    assert!(record.detail().contains("had not answered after 200ms"), "{record:?}");
    let heard = application.terminate().text();
    assert!(!heard.contains("accept"), "{heard}");
    engine.change(|told| told.silent = false);
}

#[test]
fn a_burst_of_connections_with_one_question_makes_one_call() {
    let engine = Engine::start(json!(true));
    engine.change(|told| told.silent = true);
    // The engine answers when the last connection waits: as long as a handshake has.
    let limit = slow::limit(9).as_millis();
    let waits = format!("policy_external: {{ url: '{}', timeout: {limit}ms }}\n", engine.url);
    let pair = Pair::configured(Pair::lab(), &format!("{STRICT_PAIR}{waits}"));
    let _server = programs::load(pair.db(), 7000);
    let to = pair.db().at(7000).to_string();
    let mut burst = pair.web().own("load").args(["short", &to, "50", "50"]).spawn();
    eventually(slow::limit(8), "fifty connections that wait for an answer", || {
        let connections = pair.daemon.ask(&["connections"]);
        let all = connections.as_array().expect("a list");
        let waits = |c: &&Value| c["direction"] == "inbound" && c["handshake_us"].is_u64();
        (all.iter().filter(waits).count() == 50).then_some(())
    });
    assert_eq!(engine.asked().len(), 1);
    engine.change(|told| told.silent = false);
    let said = burst.output(slow::limit(30)).ok().json();
    assert_eq!((&said["total"], &said["failed"]), (&json!(50), &json!(0)), "{said}");
    assert_eq!(engine.asked().len(), 1);
}

#[test]
fn a_tls_client_without_mtlsd_is_reset_by_a_new_denial_and_told_of_a_known_one() {
    let engine = Engine::start(json!({ "allow": false, "rule": "no-guests" }));
    let kept = engine.configured(", cache: { deny: 1h }");
    let pair = Pair::configured(Pair::lab(), &format!("{STRICT_PAIR}{kept}"));
    let (guest, to) = (pair.issue("guest"), pair.db().at(HTTP));
    let attempt = |from: &str| {
        let known = pair.daemon.access_log().len();
        let said = s_client(pair.out(), to, &pair.root(), Some(&guest)).run().fails();
        let new = || pair.daemon.access_log().into_iter().skip(known).find(|r| r.inbound() && r.refused());
        let record = eventually(slow::limit(15), "db's refusal", new);
        assert_eq!((record.reason(), record.bytes()), ("external_denied", 0), "{record:?}");
        assert_eq!((record.peer(), record.peer_proven()), ("spiffe://example.org/guest", true));
        let note = json!({ "allow": false, "rule": "no-guests", "from": from });
        assert_eq!(record.0["external"], note);
        let shown = format!("{said:?}");
        assert!(!shown.contains("hello from db"), "{shown}");
        (shown, record)
    };
    let (said, record) = attempt("answer");
    assert!(!said.contains("access denied") && record.0["handshake_us"].is_u64(), "{said} {record:?}");
    let (said, record) = attempt("cache");
    assert!(said.contains("access denied") && record.0["handshake_us"].is_null(), "{said} {record:?}");
    assert_eq!(engine.asked().len(), 1);
}

#[test]
fn plain_bytes_on_a_permissive_port_are_asked_about_too() {
    let engine = Engine::start(json!(false));
    let permissive = STRICT_PAIR.replace("name: db,", "name: db, mode: permissive, policy_default: allow,");
    let rules = permissive.replace("from: { trust_domains: [example.org] }", "to: { workloads: [db] }");
    let pair = Pair::configured(Pair::lab(), &format!("{rules}{}", engine.configured(ALWAYS)));
    let to = pair.db().at(HTTP);
    let ask = || pair.out().run(&["curl", "-sS", "--max-time", "20", &format!("http://{to}/")]);
    ask().fails();
    let record = pair.daemon.wait_for_log("db's refusal", |r| r.inbound() && r.refused());
    assert_eq!((record.reason(), record.policy(), record.bytes()), ("external_denied", "external", 0));
    let input = &engine.asked()[0]["input"];
    assert_eq!((&input["authenticated"], &input["mode"]), (&json!(false), &json!("permissive")), "{input}");
    assert!(input["source"].get("spiffe_id").is_none(), "{input}");
    engine.says(json!(true));
    assert_eq!(ask().ok().text(), "hello from db");
}

#[test]
fn outbound_the_engine_is_asked_about_a_proven_server_which_gets_no_byte_of_what_is_denied() {
    let engine = Engine::start(json!({ "allow": false, "rule": "no-far" }));
    let asks = engine.configured(&format!(", directions: [outbound]{ALWAYS}"));
    let (lab, _nginx, here, there) = two_nodes_with("", &asks);
    let to = lab.pod("far").at(HTTP);
    assert!(connect(&lab, to).contains("EHOSTUNREACH"));
    let record = here.wait_for_log("web's refusal", |r| !r.inbound() && r.refused());
    assert_eq!((record.reason(), record.policy()), ("external_denied", "external: no-far"), "{record:?}");
    assert_eq!((record.peer(), record.peer_proven()), ("spiffe://example.org/far", true));
    let served = there.wait_for_log("far's record", Record::inbound);
    assert_eq!(served.bytes(), 0, "{served:?}");
    let input = &engine.asked()[0]["input"];
    assert_eq!(
        (&input["direction"], &input["source"]["workload"]),
        (&json!("outbound"), &json!("web")),
        "{input}"
    );
    assert_eq!(input["destination"]["spiffe_id"], "spiffe://example.org/far");
    assert_eq!(input["destination"]["workload"], "far", "the directory's name for it");
    assert_eq!(input["destination"]["port"], HTTP);
    assert!(input.get("mode").is_none(), "{input}");
    engine.says(json!(true));
    assert_eq!(curl(&lab, to).ok().text(), "hello from far");
}
