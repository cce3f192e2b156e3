//! Workloads by user: on a host, where the daemon is in the same namespace as they are, and in a named namespace.

use std::fs;
use std::path::PathBuf;

use mtls_tests::hosts::{Hosts, enrolled, launch};
use mtls_tests::lab::program_beside_the_test;
use mtls_tests::{Cmd, Pair, Pod, Process, eventually, programs, slow};
use nix::sys::signal::Signal;

const CLIENT: u32 = 61_001;
const SERVER: u32 = 61_002;
const OTHER: u32 = 61_003;

/// Both hosts' daemons, and what each has of the other.
const THERE: &str = r#"
workloads: [ { name: server, select: { uid: 61002 }, addresses: ["$h2.v4", "$h2.v6"] } ]
"#;
const HERE: &str = r#"
workloads: [ { name: client, select: { uid: 61001 } } ]
directory:
  - { name: server, addresses: ["$h2.v4", "$h2.v6"], spiffe_ids: ["spiffe://example.org/server"] }
"#;

/// A host with services of several users, all in one cgroup.
struct Users(Hosts);

impl Users {
    fn new(there: &str) -> Self {
        let hosts = Hosts::with(there);
        hosts.here.configure(&hosts.lab.expand(HERE));
        let (code, text) = hosts.here.cli(&["reload"]);
        assert_eq!(code, Some(0), "{text}");
        enrolled(&hosts.here, "client");
        enrolled(&hosts.there, "server");
        Self(hosts)
    }

    fn cgroup(&self, node: &str) -> PathBuf {
        let directory = self.0.unit(node, "many.service");
        fs::create_dir_all(&directory).expect("cgroup v2 is writable");
        directory
    }

    fn serves(&self, uid: u32, port: u16) -> Process {
        let listen = format!("[::]:{port}");
        let process =
            probe(self.0.h2(), self.cgroup("n2"), uid).args(["serve", &listen, "--greet", "hello"]).spawn();
        self.0.h2().wait_port(port);
        process
    }

    fn asks(&self, uid: u32, port: u16) -> String {
        let to = self.0.h2().at(port).to_string();
        let output = probe(self.0.h1(), self.cgroup("n1"), uid).args(["connect", &to, "--send", "x"]).run();
        format!("{}{}", output.text(), output.stderr)
    }

    fn waits_for_answer(&self, port: u16) {
        eventually(slow::limit(20), &format!("an answer of port {port}"), || {
            self.asks(CLIENT, port).contains("hello").then_some(())
        });
    }

    #[track_caller]
    fn closed(&self, port: u16) {
        let said = self.asks(OTHER, port);
        assert!(said.contains("ECONNREFUSED") && !said.contains("hello"), "{said}");
    }

    fn closed_once_learned(&self, port: u16) {
        eventually(slow::limit(20), &format!("port {port} to be learned"), || {
            (!self.asks(OTHER, port).contains("hello")).then_some(())
        });
    }
}

/// `probe` as a user; the program that becomes the user is root until then.
fn probe(host: &Pod, cgroup: PathBuf, uid: u32) -> Cmd {
    let uid = uid.to_string();
    let probe = program_beside_the_test("probe");
    host.cmd_in_cgroup(cgroup, "setpriv")
        .args(["--reuid", &uid, "--regid", &uid, "--clear-groups", "--"])
        .arg(probe)
}

#[test]
fn users_of_two_hosts_authenticate_each_other_and_their_ports_are_learned() {
    let users = Users::new(THERE);
    let _server = users.serves(SERVER, 7000);
    users.closed_once_learned(7000);
    let capture = users.0.lab.capture();
    users.waits_for_answer(7000);
    capture.stop().assert_only_tls(7000);
    let record = users.0.there.wait_for_log("the server's side", |r| r.inbound() && !r.refused());
    assert_eq!((record.workload(), record.peer()), ("server", "spiffe://example.org/client"));
    let record = users.0.here.wait_for_log("the client's side", |r| !r.inbound() && !r.refused());
    assert_eq!((record.workload(), record.peer()), ("client", "spiffe://example.org/server"));
    assert!(!users.asks(OTHER, 7000).contains("hello"));
    users.0.there.wait_for_log("another user's plaintext", |r| r.inbound() && r.reason() == "plaintext");
    // What another user serves is nobody's.
    let _other = users.serves(OTHER, 7001);
    for _ in 0..3 {
        let said = users.asks(OTHER, 7001);
        assert!(said.contains("hello"), "{said}");
        std::thread::sleep(slow::stretched(std::time::Duration::from_millis(400)));
    }
    for daemon in [&users.0.here, &users.0.there] {
        let shown = daemon.ask(&["workloads"]).to_string();
        assert!(shown.contains("uid 6100"), "{shown}");
    }
}

#[test]
fn a_strict_port_of_a_user_takes_no_plaintext_before_it_is_learned() {
    let mut users = Users::new(THERE);
    users.0.there.process().signal(Signal::SIGSTOP);
    let first = users.serves(SERVER, 7000);
    let _other = users.serves(OTHER, 7001);
    users.closed(7000);
    assert!(users.asks(OTHER, 7001).contains("hello"));
    drop(first);
    // The port is somebody else's now.
    let taken_over = users.serves(OTHER, 7000);
    assert!(users.asks(OTHER, 7000).contains("hello"));
    drop(taken_over);
    users.0.there.process().signal(Signal::SIGCONT);
    users.0.there.kill9();
    let _second = users.serves(SERVER, 7000);
    users.closed(7000);
    launch(&mut users.0.there);
    users.waits_for_answer(7000);
    assert!(!users.asks(OTHER, 7000).contains("hello"));
}

/// What the docs say of daemons that are started by root: who binds has the port, who connects has the connection.
#[test]
fn a_process_that_changes_its_user_is_judged_by_who_it_is_at_each_call() {
    let users = Users::new(THERE);
    let script = "import os,socket,sys\n\
                  s=socket.socket();s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1)\n\
                  if sys.argv[2]=='early': s.bind(('',int(sys.argv[1])))\n\
                  os.setgid(61002);os.setuid(61002)\n\
                  if sys.argv[2]!='early': s.bind(('',int(sys.argv[1])))\n\
                  s.listen(9)\n\
                  while True:\n\x20 c,_=s.accept();c.send(b'hello');c.close()\n";
    let root = |port: u16, when: &str| {
        let command = users.0.h2().cmd_in_cgroup(users.cgroup("n2"), "python3");
        let process = command.args(["-c", script, &port.to_string(), when]).spawn();
        users.0.h2().wait_port(port);
        process
    };
    // Bound by root: root's port, open as ever. Made by root and bound by the user: nobody's to learn, so it stays closed.
    let _early = root(7000, "early");
    let _late = root(7001, "late");
    std::thread::sleep(slow::stretched(std::time::Duration::from_millis(1200)));
    assert!(users.asks(OTHER, 7000).contains("hello"));
    users.closed(7001);
    // Named, each is the workload's.
    let named = THERE.replace("} ]", ", listen_ports: [7000, 7001] } ]");
    let policy = "policy: [ { name: all, action: allow, from: { trust_domains: [example.org] } } ]\n";
    users.0.there.configure(&users.0.lab.expand(&format!("{policy}{named}")));
    let (code, text) = users.0.there.cli(&["reload"]);
    assert_eq!(code, Some(0), "{text}");
    for port in [7000, 7001] {
        users.waits_for_answer(port);
        assert!(!users.asks(OTHER, port).contains("hello"));
    }
}

#[test]
fn two_users_of_one_namespace_authenticate_each_other_where_everybody_must_be_somebody() {
    let yaml = r#"
cgroup_root: $group
unclassified: { cgroups: [$group/n1] }
workloads:
  - { name: client, select: { netns: $web.netns, uid: 61001 } }
  - { name: server, select: { netns: $web.netns, uid: 61002 }, listen_ports: [7000], addresses: ["$web.v4", "$web.v6"] }
  - { name: alone, select: { netns: $web.netns, uid: 61003 }, mode: disabled }
  - { name: db, select: { netns: $db.netns }, addresses: ["$db.v4"] }
policy: [ { name: client-only, action: allow, from: { spiffe_ids: ["spiffe://example.org/client"] } } ]
"#;
    let pair = Pair::configured(Pair::lab(), yaml);
    let cgroup = || pair.lab.node(mtls_tests::lab::NODE).cgroup_root.join("web");
    let run = |uid: u32, args: &[&str]| {
        let output = probe(pair.web(), cgroup(), uid).args(args).run();
        format!("{}{}", output.text(), output.stderr)
    };
    let _server =
        probe(pair.web(), cgroup(), SERVER).args(["serve", "[::]:7000", "--greet", "hello"]).spawn();
    let _alone = probe(pair.web(), cgroup(), OTHER).args(["serve", "[::]:7001", "--greet", "hello"]).spawn();
    for port in [7000, 7001] {
        pair.web().wait_port(port);
    }
    let to = [pair.web().at(7000).to_string(), pair.web().at6(7000).to_string()];
    for to in &to {
        let said = run(CLIENT, &["connect", to]);
        assert!(said.contains("hello"), "{said}");
        let record = pair.daemon.wait_for_log("the server's side", |r| r.inbound() && r.destination() == *to);
        assert_eq!((record.workload(), record.peer()), ("server", "spiffe://example.org/client"));
    }
    // Left alone by its user: it may speak, and what it answers leaves; nobody knows root here, who may not.
    let said = run(OTHER, &["connect", &pair.db().at(9).to_string(), "--send", "x"]);
    assert!(said.contains("\"connect\":\"ok\""), "db's daemon takes it: {said}");
    let answer = programs::raw(pair.lab.pod("out"), pair.web().at(7001), b"x", true).unwrap_or_default();
    assert!(answer.starts_with(b"hello"), "{answer:?}");
    let before = pair.daemon.metric("mtlsd_ebpf_events_total", &[("event", "unclassified")]);
    let said = run(0, &["connect", &to[0]]);
    assert!(said.contains("ECONNREFUSED"), "{said}");
    assert!(pair.daemon.metric("mtlsd_ebpf_events_total", &[("event", "unclassified")]) > before);
    let (code, text) = pair.daemon.cli(&["verify"]);
    assert_eq!(code, Some(0), "{text}");
}
