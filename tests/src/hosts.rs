//! Two hosts, each a namespace with a daemon in it, and services of systemd: `client.service` on one, `server.service` on the
//! other. What systemd does with their cgroups is done by the test.

use std::fs;
use std::path::PathBuf;

use crate::lab::{Cmd, Daemon, Lab, NODE, Pod, Process, eventually, program_beside_the_test};
use crate::slow;

/// See the module. Fields drop in this order: the daemons end before their namespaces.
#[derive(Debug)]
pub struct Hosts {
    /// The client's.
    pub here: Daemon,
    /// The server's.
    pub there: Daemon,
    /// The lab.
    pub lab: Lab,
}

/// `client.service` is a workload; the server may be at two ports.
const HERE: &str = r#"
workloads: [ { name: client, select: { unit: client.service } } ]
directory:
  - { name: server, addresses: ["$h2.v4", "$h2.v6"], ports: [7000, 7001], spiffe_ids: ["spiffe://example.org/server"] }
"#;

const POLICY: &str = r#"
policy: [ { name: client-only, action: allow, from: { spiffe_ids: ["spiffe://example.org/client"] } } ]
"#;

/// `server.service` is a workload, strict, with the ports that it listens on.
pub const SERVER: &str = r#"
workloads: [ { name: server, select: { unit: server.service }, addresses: ["$h2.v4", "$h2.v6"] } ]
"#;

impl Hosts {
    /// Both units are workloads.
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "it changes the machine")]
    pub fn new() -> Self {
        Self::with(SERVER)
    }

    /// `server`: the workloads of the second host.
    #[track_caller]
    pub fn with(server: &str) -> Self {
        let mut lab = Lab::new(&[]);
        lab.add_pod(NODE, "h1");
        lab.add_node("n2");
        lab.add_pod("n2", "h2");
        let mut here = lab.prepare_in(NODE, "h1", HERE);
        here.ca_init();
        let mut there = lab.prepare_in("n2", "h2", &format!("{POLICY}{server}"));
        there.share_ca(&here);
        launch(&mut there);
        launch(&mut here);
        Self { here, there, lab }
    }

    /// The client's host.
    pub fn h1(&self) -> &Pod {
        self.lab.pod("h1")
    }

    /// The server's host.
    pub fn h2(&self) -> &Pod {
        self.lab.pod("h2")
    }

    /// The program `probe` in a unit of a host.
    pub fn probe(&self, node: &str, unit: &str) -> Cmd {
        let host = if node == "n1" { self.h1() } else { self.h2() };
        let directory = self.unit(node, unit);
        fs::create_dir_all(&directory).expect("cgroup v2 is writable");
        host.cmd_in_cgroup(directory, program_beside_the_test("probe"))
    }

    /// The directory of a unit's cgroup on a node.
    pub fn unit(&self, node: &str, unit: &str) -> PathBuf {
        self.lab.node(node).cgroup_root.join("system.slice").join(unit)
    }

    /// A server in a unit of the second host.
    #[track_caller]
    pub fn serves(&self, unit: &str, port: u16) -> Process {
        let listen = format!("[::]:{port}");
        let process = self.probe("n2", unit).args(["serve", &listen, "--greet", "hello"]).spawn();
        self.h2().wait_port(port);
        process
    }

    /// What a program in this unit of the first host gets from the second one.
    #[track_caller]
    pub fn asks(&self, unit: &str, port: u16) -> String {
        let to = self.h2().at(port).to_string();
        let output = self.probe("n1", unit).args(["connect", &to, "--send", "x"]).run();
        format!("{}{}", output.text(), output.stderr)
    }

    /// Something of the client's unit, so that the daemon knows where it is.
    #[track_caller]
    pub fn client_runs(&self) -> Process {
        let directory = self.unit("n1", "client.service");
        fs::create_dir_all(&directory).expect("cgroup v2 is writable");
        let process = self.h1().cmd_in_cgroup(directory, "sleep").arg("600").spawn();
        enrolled(&self.here, "client");
        process
    }

    /// Waits until a program of the client's unit gets an answer.
    #[track_caller]
    pub fn waits_for_answer(&self, port: u16) {
        eventually(slow::limit(20), &format!("an answer of port {port}"), || {
            self.asks("client.service", port).contains("hello").then_some(())
        });
    }
}

/// Starts the daemon of a host, whose metrics are not to be had from here.
#[track_caller]
pub fn launch(daemon: &mut Daemon) {
    daemon.launch();
    daemon.wait_for_output("mtlsd is ready");
}

/// Waits until a daemon shows a workload as enrolled.
#[track_caller]
pub fn enrolled(daemon: &Daemon, workload: &str) {
    eventually(slow::limit(20), &format!("{workload} to be enrolled"), || {
        let all = daemon.ask(&["workloads"]);
        let is = |one: &serde_json::Value| one["name"] == workload && one["state"] == "enrolled";
        all.as_array().is_some_and(|all| all.iter().any(is)).then_some(())
    });
}
