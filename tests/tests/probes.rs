//! Kubelet's probes: one prober's processes reach the ports that a strict workload names, and nobody else reaches anything.

use std::fs;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use mtls_tests::hosts::{Hosts, SERVER, enrolled};
use mtls_tests::lab::{NODE, cgroup, program_beside_the_test};
use mtls_tests::{Daemon, Lab, Pod, Process, eventually, programs, slow};

/// What `web` is probed on; `other` serves it too, and is not.
const PROBED: u16 = 8080;
/// The same, but nobody listens there at first.
const LATE: u16 = 8081;
/// What `other` is probed on; `web` serves it too, and is not.
const OTHERS: u16 = 9090;
/// What nobody is probed on.
const PLAIN: u16 = 7000;

const WORKLOADS: &str = r#"
workloads:
  - { name: web, select: { netns: $web.netns }, addresses: ["$web.v4", "$web.v6"], probe_ports: [8080, 8081] }
  - { name: other, select: { netns: $other.netns }, addresses: ["$other.v4", "$other.v6"], probe_ports: [9090] }
policy: [ { name: all, action: allow, from: { trust_domains: [example.org] } } ]
"#;
const PROBERS: &str = "probers: [ { unit: kubelet.service } ]\n";

/// `host` is where kubelet runs, as a service among others; `far` is another host.
struct World {
    daemon: Daemon,
    lab: Lab,
    _servers: Vec<Process>,
}

impl World {
    fn new() -> Self {
        let lab = Lab::new(&["host", "far", "web", "other"]);
        let world = Self::on(lab);
        world.kubelet_starts();
        eventually(slow::limit(20), "the prober to be known", || world.is_let_in(PROBED).then_some(()));
        world
    }

    fn on(lab: Lab) -> Self {
        let servers = ["web", "other"].into_iter().flat_map(|pod| {
            [PROBED, OTHERS, PLAIN].map(|port| programs::probe(lab.pod(pod), port, &["--greet", "hello"]))
        });
        let servers = servers.collect();
        let daemon = lab.daemon(&format!("{PROBERS}{WORKLOADS}"));
        Self { daemon, lab, _servers: servers }
    }

    /// The cgroup of a service of the host.
    fn unit(&self, name: &str) -> PathBuf {
        self.lab.node(NODE).cgroup_root.join("system.slice").join(name)
    }

    fn kubelet_starts(&self) {
        fs::create_dir_all(self.unit("kubelet.service")).expect("cgroup v2 is writable");
    }

    /// What a process of this service gets; `options`: further ones of `probe connect`.
    fn asks(&self, unit: &str, to: std::net::SocketAddr, options: &[&str]) -> String {
        let cgroup = self.unit(unit);
        fs::create_dir_all(&cgroup).expect("cgroup v2 is writable");
        let command = self.lab.pod("host").cmd_in_cgroup(cgroup, program_beside_the_test("probe"));
        let output = command.args(["connect", &to.to_string(), "--send", "x"]).args(options).run();
        format!("{}{}", output.text(), output.stderr)
    }

    /// As [`World::asks`], from this address and always the same port. Without a cgroup: the pod's own.
    fn asks_from(&self, pod: &Pod, cgroup: Option<PathBuf>, from: Ipv4Addr, port: u16) -> String {
        let script = "import socket,sys\n\
                      s=socket.socket();s.setsockopt(socket.SOL_SOCKET,socket.SO_REUSEADDR,1);s.settimeout(5)\n\
                      s.bind((sys.argv[3],40000))\n\
                      try: s.connect((sys.argv[1],int(sys.argv[2])));s.send(b'x');print(s.recv(9).decode())\n\
                      except OSError as e: print(e)\n";
        let command = match cgroup {
            Some(cgroup) => pod.cmd_in_cgroup(cgroup, "python3"),
            None => pod.cmd("python3"),
        };
        let to = self.lab.pod("web").v4.to_string();
        let output = command.args(["-c", script, &to, &port.to_string(), &from.to_string()]).run();
        format!("{}{}", output.text(), output.stderr)
    }

    fn is_let_in(&self, port: u16) -> bool {
        self.asks("kubelet.service", self.lab.pod("web").at(port), &[]).contains("hello")
    }

    #[track_caller]
    fn is_refused(&self, unit: &str, to: &Pod, port: u16) {
        for to in [to.at(port), to.at6(port)] {
            let said = self.asks(unit, to, &[]);
            assert!(!said.contains("hello"), "{unit} to {to}: {said}");
        }
    }

    fn probed(&self) -> f64 {
        self.daemon.metric("mtlsd_ebpf_events_total", &[("event", "probed")])
    }
}

#[test]
fn a_prober_reaches_the_ports_that_a_workload_names_and_sees_it_as_it_is() {
    let world = World::new();
    let (web, other) = (world.lab.pod("web"), world.lab.pod("other"));
    let (before, records) = (world.probed(), world.daemon.access_log().len());
    for to in [web.at(PROBED), web.at6(PROBED), other.at(OTHERS), other.at6(OTHERS)] {
        for options in [&[][..], &["--nonblocking"], &["--fastopen"]] {
            let said = world.asks("kubelet.service", to, options);
            assert!(said.contains("hello"), "{to} {options:?}: {said}");
        }
    }
    assert!(world.probed() >= before + 12.0, "they are counted: {before}, {}", world.probed());
    let log = world.daemon.access_log();
    assert_eq!(log.len(), records, "the daemon carries none: {log:?}");
    // One that stays open is accounted for, with its own word.
    let host =
        world.lab.pod("host").cmd_in_cgroup(world.unit("kubelet.service"), program_beside_the_test("probe"));
    let mut open = host.args(["connect", &web.at(PROBED).to_string(), "--ask"]).piped().spawn();
    open.wait_for("\"connect\":\"ok\"");
    eventually(slow::limit(20), "verify to count it", || {
        let (code, text) = world.daemon.cli(&["verify"]);
        assert_eq!(code, Some(0), "{text}");
        text.contains("probes").then_some(())
    });
    open.close_stdin();
    open.wait_for("hello");
}

#[test]
fn nobody_else_and_nothing_else_is_let_in() {
    let world = World::new();
    let (web, other) = (world.lab.pod("web"), world.lab.pod("other"));
    // Another process of the same host, and one in a cgroup below the prober's.
    world.is_refused("other.service", web, PROBED);
    world.is_refused("kubelet.service/inner", web, PROBED);
    // Another port, and another workload's.
    world.is_refused("kubelet.service", web, PLAIN);
    world.is_refused("kubelet.service", web, OTHERS);
    world.is_refused("kubelet.service", other, PROBED);
    // The prober's addresses are worth nothing: another host has them, and sends from the ports that were let in.
    assert!(world.is_let_in(PROBED));
    let (host, far) = (world.lab.pod("host"), world.lab.pod("far"));
    let ask = |pod: &Pod, cgroup| world.asks_from(pod, cgroup, host.v4, PROBED);
    let said = ask(host, Some(world.unit("kubelet.service")));
    assert!(said.contains("hello"), "{said}");
    host.run(&["ip", "link", "set", "eth0", "down"]).ok();
    far.run(&["ip", "addr", "add", &format!("{}/24", host.v4), "dev", "eth0"]).ok();
    web.run(&["ip", "neigh", "flush", "all"]).ok();
    let said = ask(far, None);
    assert!(!said.contains("hello"), "a forged source: {said}");
    world.daemon.wait_for_log("a refusal", |r| r.inbound() && r.reason() == "plaintext");
}

#[test]
fn a_socket_that_probed_once_is_no_prober_for_ever() {
    let world = World::new();
    let web = world.lab.pod("web");
    // connect() to a probed port, disconnect, connect() to another one; and one that a process of another service connects.
    let script = "import ctypes,os,socket,struct,sys\n\
                  libc=ctypes.CDLL(None,use_errno=True)\n\
                  host,first,second,leave=sys.argv[1],int(sys.argv[2]),int(sys.argv[3]),sys.argv[4]\n\
                  s=socket.socket();s.settimeout(5)\n\
                  s.connect((host,first));print('first',s.recv(9).decode())\n\
                  libc.connect(s.fileno(),struct.pack('=H14x',0),16)\n\
                  if leave: open(leave+'/cgroup.procs','w').write(str(os.getpid()))\n\
                  try:\n\
                  \x20 s.connect((host,second));s.send(b'x');print('second',s.recv(9).decode())\n\
                  except OSError as e: print('second',e)\n";
    let other = world.unit("other.service");
    fs::create_dir_all(&other).expect("cgroup v2 is writable");
    for (second, leave) in [(PLAIN, ""), (PROBED, other.to_str().expect("a name"))] {
        let command = world.lab.pod("host").cmd_in_cgroup(world.unit("kubelet.service"), "python3");
        let (first, second) = (PROBED.to_string(), second.to_string());
        let output = command.args(["-c", script, &web.v4.to_string(), &first, &second, leave]).run();
        let said = format!("{}{}", output.text(), output.stderr);
        assert!(said.contains("first hello") && said.contains("second"), "{said}");
        assert!(!said.contains("second hello"), "{said}");
    }
}

#[test]
fn who_has_the_port_of_a_probe_that_failed_is_not_let_in_by_it() {
    let world = World::new();
    let (host, web) = (world.lab.pod("host"), world.lab.pod("web"));
    let other = world.unit("other.service");
    fs::create_dir_all(&other).expect("cgroup v2 is writable");
    let said = world.asks_from(host, Some(world.unit("kubelet.service")), host.v4, LATE);
    assert!(said.contains("refused"), "nobody listens yet: {said}");
    let _late = programs::probe(web, LATE, &["--greet", "hello"]);
    let said = world.asks_from(host, Some(other), host.v4, LATE);
    assert!(!said.contains("hello"), "{said}");
    let said = world.asks_from(host, Some(world.unit("kubelet.service")), host.v4, LATE);
    assert!(said.contains("hello"), "{said}");
}

#[test]
fn who_is_configured_no_longer_and_who_starts_again_is_known_by_the_next_look() {
    let world = World::new();
    let web = world.lab.pod("web");
    // kubelet starts again: its cgroup has another ID.
    for _ in 0..2 {
        cgroup::destroy(&world.unit("kubelet.service"));
        world.daemon.printed();
        world.kubelet_starts();
        eventually(slow::limit(20), "the new cgroup to be known", || world.is_let_in(PROBED).then_some(()));
    }
    for without in [WORKLOADS.to_owned(), format!("{PROBERS}{}", WORKLOADS.replace("[8080, 8081]", "[]"))] {
        world.daemon.configure(&world.lab.expand(&without));
        let (code, text) = world.daemon.cli(&["reload"]);
        assert_eq!(code, Some(0), "{text}");
        world.is_refused("kubelet.service", web, PROBED);
        world.daemon.configure(&world.lab.expand(&format!("{PROBERS}{WORKLOADS}")));
        let (code, text) = world.daemon.cli(&["reload"]);
        assert_eq!(code, Some(0), "{text}");
        assert!(world.is_let_in(PROBED));
    }
}

#[test]
fn what_else_a_strict_workload_is_promised_holds_beside_its_probes() {
    let mut world = World::new();
    let web = world.lab.pod("web").clone();
    let capture = world.lab.capture();
    let said = world
        .lab
        .pod("other")
        .own("probe")
        .args(["connect", &web.at(PROBED).to_string(), "--send", "x"])
        .run();
    assert!(said.text().contains("hello"), "{said:?}");
    capture.stop().assert_only_tls(PROBED);
    let record = world.daemon.wait_for_log("the workload's", |r| r.inbound() && !r.refused());
    assert_eq!((record.workload(), record.peer()), ("web", "spiffe://example.org/other"));
    let answer = programs::raw(world.lab.pod("far"), web.at(PROBED), b"hello", true).unwrap_or_default();
    assert!(answer.is_empty(), "a stranger: {answer:?}");
    // Without the daemon probes go on, and all else stays closed.
    world.daemon.kill9();
    assert!(world.is_let_in(PROBED));
    world.is_refused("kubelet.service", &web, PLAIN);
    world.is_refused("other.service", &web, PROBED);
}

#[test]
fn a_service_of_the_host_itself_is_probed_alike() {
    let probed = SERVER.replace("} ]", ", listen_ports: [7000, 7001], probe_ports: [7000] } ]");
    let hosts = Hosts::with(&format!("{PROBERS}{probed}"));
    let _servers = [7000, 7001].map(|port| hosts.serves("server.service", port));
    enrolled(&hosts.there, "server");
    let ask = |unit: &str, port| {
        let to = hosts.h2().at(port).to_string();
        let output = hosts.probe("n2", unit).args(["connect", &to, "--send", "x"]).run();
        format!("{}{}", output.text(), output.stderr)
    };
    eventually(slow::limit(20), "the prober to be known", || {
        ask("kubelet.service", 7000).contains("hello").then_some(())
    });
    for (unit, port) in [("kubelet.service", 7001), ("other.service", 7000)] {
        let said = ask(unit, port);
        assert!(!said.contains("hello"), "{unit} to {port}: {said}");
    }
}
