//! A live connection is held by its identities and its rule: when one of them is gone, it ends as its workload wants it,
//! and no other does.

use std::time::{Duration, Instant, SystemTime};

use mtls_tests::certs::{Authority, Leaf};
use mtls_tests::lab::{NODE, Process, Record};
use mtls_tests::programs::{self, Identity, s_client};
use mtls_tests::scenario::HTTP;
use mtls_tests::{Lab, Pair, eventually, slow};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::Value;

const PORT: u16 = 7000;
const OTHER: u16 = 7001;
const WEB: &str = "spiffe://example.org/web";

const OTHERS: &str = "  - { name: others, action: allow, to: { ports: [80, 7001] } }\n";
const BOTH: &str = "  - { name: seven, action: allow, to: { ports: [7000] } }\n  \
                    - { name: others, action: allow, to: { ports: [80, 7001] } }\n";

/// `web` and `db` with these further settings, under these rules.
fn yaml_of([web, db]: [&str; 2], rules: &str) -> String {
    let policy = if rules.is_empty() { "policy: []\n".to_owned() } else { format!("policy:\n{rules}") };
    format!(
        "workloads:\n  \
         - {{ name: web, select: {{ netns: $web.netns }}, addresses: [\"$web.v4\", \"$web.v6\"]{web} }}\n  \
         - {{ name: db, select: {{ netns: $db.netns }}, addresses: [\"$db.v4\", \"$db.v6\"]{db} }}\n{policy}"
    )
}

fn yaml(db: &str, rules: &str) -> String {
    yaml_of(["", db], rules)
}

/// A new configuration, in force when this returns.
#[track_caller]
fn change(pair: &Pair, yaml: &str) {
    pair.daemon.configure(&pair.lab.expand(yaml));
    let report = pair.daemon.ask(&["reload"]);
    assert_eq!(report["applied"], true, "{report}");
}

/// A server in `db` that echoes at the end, and a client that has spoken once and stays.
struct Stream {
    server: Process,
    client: Process,
}

impl Stream {
    #[track_caller]
    fn open(pair: &Pair, from: &str, port: u16) -> Self {
        let known = live(pair, carries_bytes);
        let server = programs::probe(pair.db(), port, &[]);
        let to = pair.db().at(port).to_string();
        let client = pair.lab.pod(from).own("probe").args(["connect", &to, "--ask"]).piped().spawn();
        let mut stream = Self { server, client };
        stream.client.wait_for(r#""connect":"ok""#);
        stream.client.write(b"hello\n");
        stream.server.wait_for(r#""accept""#);
        let sides = if from == "web" { 2 } else { 1 };
        eventually(slow::limit(15), "the first bytes on each side", || {
            (live(pair, carries_bytes) == known + sides).then_some(())
        });
        stream
    }

    /// Reset at both ends.
    #[track_caller]
    fn ends_by_reset(mut self) {
        self.server.wait_for("ECONNRESET");
        // The client reads only once its input has ended.
        self.client.close_stdin();
        let end = self.client.output(slow::limit(15)).text();
        assert!(end.contains(r#""receive":"ECONNRESET""#), "{end}");
    }

    /// Bytes go to and fro until its own end.
    #[track_caller]
    fn goes_on(mut self) {
        self.client.write(b"again\n");
        self.client.close_stdin();
        let end = self.client.output(slow::limit(15)).text();
        assert!(end.contains(r#""receive":"ok""#) && end.contains("helloagain"), "{end}");
    }
}

fn carries_bytes(connection: &Value) -> bool {
    let bytes = |which: &str| connection["bytes"][which].as_u64() > Some(0);
    bytes("received") || bytes("sent")
}

fn live(pair: &Pair, wanted: impl Fn(&Value) -> bool) -> usize {
    let connections = pair.daemon.ask(&["connections"]);
    let all = connections.as_array().expect("a list");
    all.iter().filter(|c| c["event"] == "open" && wanted(c)).count()
}

/// The record of db's side of a connection that was cut.
#[track_caller]
fn cut(pair: &Pair, reason: &str) -> Record {
    let is_it = |r: &Record| r.inbound() && !r.refused() && r.workload() == "db" && r.reason() == reason;
    pair.daemon.wait_for_log(&format!("db's cut for {reason}"), is_it)
}

fn overdue(pair: &Pair, state: &str) -> f64 {
    pair.daemon.metric("mtlsd_leases_overdue", &[("state", state)])
}

#[test]
fn a_rule_that_goes_and_one_that_comes_cut_what_they_forbid_and_nothing_else() {
    let denied = format!(
        "{BOTH}  - {{ name: closed, action: deny, to: {{ ports: [7000] }}, from: {{ spiffe_ids: [\"{WEB}\"] }} }}\n"
    );
    for (rules, reason, part) in [
        (OTHERS, "policy_default", "default of strict"),
        (denied.as_str(), "policy_denied", "port 7000: closed"),
    ] {
        let pair = Pair::configured(Pair::lab(), &yaml("", BOTH));
        let (goes, stays) = (Stream::open(&pair, "web", PORT), Stream::open(&pair, "web", OTHER));
        let start = Instant::now();
        change(&pair, &yaml("", rules));
        goes.ends_by_reset();
        // The promise is a second; a slow machine only makes these programs slow.
        assert!(start.elapsed() < slow::stretched(Duration::from_secs(2)), "{:?}", start.elapsed());
        let record = cut(&pair, reason);
        assert!(record.detail().contains(part) && record.detail().contains(WEB), "{record:?}");
        stays.goes_on();
        let labels = [("workload", "db"), ("cause", "policy")];
        assert!((pair.daemon.metric("mtlsd_leases_ended_total", &labels) - 1.0).abs() < 0.1);
        let explained = pair.daemon.ask(&["explain", record.id()]).to_string();
        assert!(explained.contains("since the policy has changed"), "{explained}");
    }
}

#[test]
fn a_port_that_becomes_strict_cuts_what_is_plain_on_it() {
    let permissive = ", ports: { 7000: permissive, 7001: permissive }";
    let pair = Pair::configured(Pair::lab(), &yaml(permissive, BOTH));
    let goes = Stream::open(&pair, "out", PORT);
    let stays = Stream::open(&pair, "out", OTHER);
    change(&pair, &yaml(", ports: { 7001: permissive }", BOTH));
    goes.ends_by_reset();
    let record = cut(&pair, "plaintext");
    assert!(record.detail().contains("port 7000 of db has become strict"), "{record:?}");
    stays.goes_on();
}

#[test]
fn a_bundle_that_is_removed_takes_its_peers_along() {
    for (domain, reason) in [("example.org", "unknown_issuer"), ("partner.example", "trust_domain")] {
        let lab = Pair::lab();
        let authority = Authority::new(lab.dir(), "site");
        let rules = "  - { name: all, action: allow }\n";
        let trust = format!(
            "trust: {{ bundles: [ {{ trust_domain: {domain}, file: {} }} ] }}\n",
            authority.root.display()
        );
        let pair = Pair::configured(lab, &format!("{}{trust}", yaml("", rules)));
        let id = format!("spiffe://{domain}/guest");
        let guest = Identity::from(&authority.issue("guest", &Leaf::good(&id)));
        let _guest = s_client(pair.out(), pair.db().at(HTTP), &pair.root(), Some(&guest)).piped().spawn();
        eventually(slow::limit(15), "the guest's connection", || {
            (live(&pair, |c| c["peer_identity"] == id.as_str()) == 1).then_some(())
        });
        let stays = Stream::open(&pair, "web", PORT);
        change(&pair, &yaml("", rules));
        let record = cut(&pair, reason);
        assert_eq!(record.peer(), id);
        assert!(record.detail().contains("was removed"), "{record:?}");
        stays.goes_on();
    }
}

#[test]
fn a_certificate_that_runs_out_cuts_where_that_is_wanted_and_a_renewed_one_does_not() {
    let life = slow::limit(8);
    let ca = format!("identity: {{ embedded_ca: {{ lifetime: {}s }} }}\n", life.as_secs());
    let yaml = format!("{}{ca}", yaml(", lease: { expired: cut }", BOTH));
    let pair = Pair::configured(Pair::lab(), &yaml);
    let stream = Stream::open(&pair, "web", PORT);
    // Both have others by then; that of `web` is seen with each new connection.
    let start = Instant::now();
    while start.elapsed() < life * 2 {
        pair.works();
        std::thread::sleep(life / 8);
    }
    assert_eq!(live(&pair, |c| c["destination"].as_str().is_some_and(|to| to.ends_with(":7000"))), 2);
    // From now on nobody sees that it is renewed.
    stream.ends_by_reset();
    let record = cut(&pair, "certificate_expired");
    assert!(record.detail().contains(WEB) && record.detail().contains("no newer one was seen"), "{record:?}");
    assert!(start.elapsed() > life * 2);
}

#[test]
fn what_drains_has_its_time_unless_it_is_allowed_again() {
    let time = slow::limit(4);
    let drain = format!(", lease: {{ policy: drain, drain: {}s }}", time.as_secs());
    let pair = Pair::configured(Pair::lab(), &yaml(&drain, BOTH));
    let (goes, stays) = (Stream::open(&pair, "web", PORT), Stream::open(&pair, "web", OTHER));
    let start = Instant::now();
    change(&pair, &yaml(&drain, ""));
    pair.daemon.wait_metric("mtlsd_leases_overdue", &[("state", "draining")], 2.0);
    // Each connection says so itself, with the time.
    let draining =
        |c: &Value| c["overdue"]["until"].is_string() && c["overdue"]["reason"]["code"] == "policy_default";
    assert_eq!(live(&pair, draining), 2);
    let shown = pair.daemon.shown(&["connections"]).ok().text();
    assert_eq!(shown.matches("open, draining until 2").count(), 2, "{shown}");
    let refused = pair.web().own("probe").args(["connect", &pair.db().at(PORT).to_string()]).run().text();
    assert!(!refused.contains(r#""connect":"ok""#), "a new one is refused meanwhile: {refused}");
    change(&pair, &yaml(&drain, OTHERS));
    assert!((overdue(&pair, "draining") - 1.0).abs() < 0.1, "one is allowed again");
    assert_eq!(live(&pair, draining), 1);
    goes.ends_by_reset();
    assert!(start.elapsed() >= time, "{:?}", start.elapsed());
    let record = cut(&pair, "policy_default");
    assert!(record.detail().contains(&format!("it had {}s to end", time.as_secs())), "{record:?}");
    stays.goes_on();
    assert!(overdue(&pair, "draining") < 0.1);
}

#[test]
fn what_is_kept_goes_on_with_an_alarm_until_it_is_allowed_again() {
    let keep = ", lease: { policy: keep, revoked: keep }";
    let with = |rules: &str| yaml_of([keep, keep], rules);
    let pair = Pair::configured(Pair::lab(), &with(BOTH));
    let stream = Stream::open(&pair, "web", PORT);
    change(&pair, &with(OTHERS));
    pair.daemon.wait_metric("mtlsd_leases_overdue", &[("workload", "db"), ("state", "kept")], 1.0);
    assert_eq!(pair.daemon.ask(&["status"])["connections"]["overdue"], 1);
    let kept = |c: &Value| c["overdue"].is_object() && c["overdue"]["until"].is_null();
    assert_eq!(live(&pair, kept), 1);
    let shown = pair.daemon.shown(&["connections"]).ok().text();
    assert!(shown.contains("open, kept: policy_default"), "{shown}");
    change(&pair, &with(BOTH));
    assert!(overdue(&pair, "kept") < 0.1, "it is allowed again");
    assert_eq!(live(&pair, kept), 0);

    let report = pair.daemon.ask(&["revoke", "--spiffe-id", WEB]);
    assert_eq!((&report["connections_cut"], &report["connections_kept"]), (&0.into(), &2.into()), "{report}");
    assert!((overdue(&pair, "kept") - 2.0).abs() < 0.1);
    let said = pair.daemon.printed();
    let warned = said.matches("connections go on that would not be allowed any more").count();
    assert_eq!(warned, 3, "{said}");
    pair.daemon.ask(&["unrevoke", "--spiffe-id", WEB]);
    assert!(overdue(&pair, "kept") < 0.1, "it is allowed again");
    stream.goes_on();
}

#[test]
fn ten_thousand_live_connections_are_cut_by_the_rule_that_goes() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    // For the programs that this test starts.
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("up to the hard limit");
    // Two descriptors each, and some.
    let count = slow::scaled(10_000, 300).min(most.saturating_sub(600) / 2);
    let mut lab = Lab::new(&["web"]);
    lab.add_node("n2");
    lab.add_pod("n2", "far");
    let limits = "limits: { connections_per_workload: 100000 }\n";
    let here = format!(
        "{limits}workloads: [ {{ name: web, select: {{ netns: $web.netns }} }} ]\n\
         directory: [ {{ name: far, addresses: [\"$far.v4\"], ports: [{PORT}, {OTHER}], spiffe_ids: [\"spiffe://example.org/far\"] }} ]\n"
    );
    let far = |ports: &str| {
        format!(
            "{limits}workloads: [ {{ name: far, select: {{ netns: $far.netns }} }} ]\n\
             policy: [ {{ name: other, action: allow, to: {{ ports: [{OTHER}] }} }}{ports} ]\n"
        )
    };
    let mut here = lab.prepare(NODE, &here);
    here.ca_init();
    let seven = format!(", {{ name: seven, action: allow, to: {{ ports: [{PORT}] }} }}");
    let mut there = lab.prepare("n2", &far(&seven));
    there.share_ca(&here);
    here.start();
    there.start();
    let _servers = [PORT, OTHER].map(|port| programs::load(lab.pod("far"), port));
    let idle = |port: u16, count: u64| {
        let to = lab.pod("far").at(port).to_string();
        lab.pod("web").own("load").args(["idle", &to, &count.to_string()]).spawn()
    };
    let (mut other, mut all) = (idle(OTHER, 10), idle(PORT, count));
    other.wait_for("open");
    all.wait_long_for("open", slow::limit(240));
    let connections = |daemon: &mtls_tests::Daemon| daemon.metric("mtlsd_connections_live", &[]);
    assert!((connections(&there) - count as f64 - 10.0).abs() < 0.1, "{}", connections(&there));

    there.configure(&lab.expand(&far("")));
    assert_eq!(there.ask(&["reload"])["applied"], true);
    there.wait_metric("mtlsd_leases_ended_total", &[("workload", "far"), ("cause", "policy")], count as f64);
    for daemon in [&here, &there] {
        eventually(slow::limit(60), "the others to be all that is left", || {
            (connections(daemon) < 10.5).then_some(())
        });
        assert!((connections(daemon) - 10.0).abs() < 0.1, "{}", connections(daemon));
    }
    let ends: Vec<_> = there.access_log().into_iter().filter(|r| r.reason() == "policy_default").collect();
    assert_eq!(ends.len() as u64, count);
    let last = ends.iter().map(|record| at(&record.0["time"])).max().expect("some");
    // When the new configuration came into force: reading it is not part of the promise.
    let took = last.duration_since(at(&there.ask(&["status"])["config"]["loaded"])).unwrap_or_default();
    println!("the last of {count} connections was cut {took:?} after the change");
}

fn at(time: &Value) -> SystemTime {
    let format = &time::format_description::well_known::Rfc3339;
    let text = time.as_str().expect("a time");
    time::OffsetDateTime::parse(text, format).expect("RFC 3339").into()
}
