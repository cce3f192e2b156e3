//! The world of `direct`: `web` on one node, `far` on another, each with a daemon of its own, and applications that know
//! nothing of it. Needs kernel TLS and tracing programs: a virtual machine.

use std::net::SocketAddr;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use crate::hold::App;
use crate::lab::{Daemon, Lab, NODE, Output, Pod, Process, Record, eventually, metrics};
use crate::{programs, slow};

/// The port of nginx in `far`.
pub const HTTP: u16 = 80;

/// Where the second node's daemon takes sessions, as long as this lives. Both daemons live in this namespace.
#[derive(Debug)]
pub struct Address(pub String);

impl Address {
    /// One that nothing else has.
    ///
    /// # Panics
    /// If it cannot be added.
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "it changes the machine")]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let address = format!("198.18.7.{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Self::add(address).unwrap_or_else(|why| panic!("{why}"))
    }

    /// This one.
    ///
    /// # Errors
    /// What `ip` says where it cannot be added to lo.
    pub fn add(address: String) -> Result<Self, String> {
        let address = Self(address);
        match address.ip("add") {
            Ok(()) => Ok(address),
            Err(why) => Err(format!("{} cannot be added to lo: {why}", address.0)),
        }
    }

    fn ip(&self, what: &str) -> Result<(), String> {
        let address = format!("{}/32", self.0);
        // Its words are not to stand in the line of another test's result.
        let output = Command::new("ip").args(["addr", what, &address, "dev", "lo"]).output();
        match output.map_err(|error| format!("ip: {error}"))? {
            output if output.status.success() => Ok(()),
            output => Err(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        }
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        let _ = self.ip("del");
    }
}

/// See the module. Fields drop in this order: the programs end before their namespaces.
#[derive(Debug)]
pub struct World {
    /// The daemon of `web`'s node.
    pub here: Daemon,
    /// The daemon of `far`'s node.
    pub there: Daemon,
    /// nginx in `far`, where the world has one.
    pub nginx: Option<Process>,
    /// The lab.
    pub lab: Lab,
    address: Address,
}

impl World {
    /// nginx in `far`, and no session yet.
    #[track_caller]
    pub fn new() -> Self {
        let mut world = Self::bare(&[HTTP], "", "");
        world.nginx = Some(programs::nginx(world.far(), HTTP));
        world
    }

    /// nginx in `far`. The first connection has gone by relay and had a session made: the next ones are direct.
    #[track_caller]
    pub fn with_session() -> Self {
        let world = Self::new();
        let to = world.far().at(HTTP);
        assert_eq!(world.get(to).ok().text(), "hello from far");
        world.wait_session(to);
        world
    }

    /// No program at all. `ports`: those of `far` that the directory of `web`'s node knows. `here`, `there`: more top-level keys
    /// of the configurations.
    #[track_caller]
    pub fn bare(ports: &[u16], here: &str, there: &str) -> Self {
        let mut world = Self::prepare(ports, here, there);
        world.start();
        world
    }

    /// Starts both daemons.
    #[track_caller]
    pub fn start(&mut self) {
        self.there.start();
        self.here.start();
    }

    /// As [`World::bare`], without a daemon yet.
    #[track_caller]
    pub fn prepare(ports: &[u16], here: &str, there: &str) -> Self {
        let address = Address::new();
        let node = &address.0;
        let mut lab = Lab::new(&["web"]);
        lab.add_node("n2");
        lab.add_pod("n2", "far");
        let here = format!(
            r#"
workloads: [ {{ name: web, select: {{ netns: $web.netns }}, direct: auto }} ]
directory:
  - {{ name: far, addresses: ["$far.v4", "$far.v6"], ports: {ports:?}, spiffe_ids: ["spiffe://example.org/far"], node: "{node}:15080" }}
{here}
"#
        );
        let there = format!(
            r#"
workloads: [ {{ name: far, select: {{ netns: $far.netns }}, addresses: ["$far.v4", "$far.v6"], direct: auto }} ]
policy: [ {{ name: web-only, action: allow, from: {{ spiffe_ids: ["spiffe://example.org/web"] }} }} ]
direct: {{ listen: "{node}:15080" }}
{there}
"#
        );
        let here = lab.prepare(NODE, &here);
        here.ca_init();
        let there = lab.prepare("n2", &there);
        there.share_ca(&here);
        Self { here, there, nginx: None, lab, address }
    }

    /// The client's pod.
    pub fn web(&self) -> &Pod {
        self.lab.pod("web")
    }

    /// The server's pod.
    pub fn far(&self) -> &Pod {
        self.lab.pod("far")
    }

    /// Where the daemon of `far`'s node takes sessions.
    pub fn node(&self) -> SocketAddr {
        format!("{}:15080", self.address.0).parse().expect("an address")
    }

    /// What curl in `web` gets from `/` there.
    #[track_caller]
    pub fn get(&self, to: SocketAddr) -> Output {
        let url = format!("http://{to}/");
        self.web().cmd("curl").args(["-sS", "--max-time", "60"]).arg(&url).run()
    }

    /// An application in `web`, and one in `far` that listens there as `l`. A connection, `relayed`, has gone by relay and had a
    /// session made.
    #[track_caller]
    pub fn applications(&self, at: SocketAddr) -> (App, App) {
        let (web, far) = (App::new(self.web()), App::new(self.far()));
        far.does("main", &format!("listen l {at}"), "ok");
        web.does("main", &format!("connect relayed {at}"), "ok");
        far.does("main", "accept relayed l", "ok");
        web.does("main", "send relayed hello", "5");
        far.does("main", "recv relayed", "5 hello");
        self.wait_session(at);
        (web, far)
    }

    /// Waits until `web`'s daemon has a session for this destination, for which a connection must have asked.
    #[track_caller]
    pub fn wait_session(&self, to: SocketAddr) {
        let to = to.to_string();
        eventually(slow::limit(20), &format!("a session for {to}"), || {
            let printed = self.here.printed();
            let mut lines = printed.lines();
            lines
                .any(|line| line.contains("a session for direct connections is there") && line.contains(&to))
                .then_some(())
        });
    }

    /// Waits until both daemons have recorded so many direct connections, none of which ended for a reason.
    #[track_caller]
    pub fn all_direct_ended_well(&self, at_least: usize) {
        for (daemon, workload) in [(&self.here, "web"), (&self.there, "far")] {
            for record in direct_records(daemon, workload, at_least) {
                assert_eq!(record.reason(), "", "{record:?}");
            }
        }
    }

    /// What was printed by both daemons, for a message.
    pub fn printed(&self) -> String {
        format!("web's node:\n{}\nfar's node:\n{}", self.here.printed(), self.there.printed())
    }
}

/// A test that fails shows what the daemons recorded: why a connection ended stands there, and the directory goes with the world.
impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for (daemon, node) in [(&self.here, "web's node"), (&self.there, "far's node")] {
            let records = daemon.access_log();
            eprintln!("{node}: {} records; those with a reason:", records.len());
            records
                .iter()
                .filter(|record| !record.reason().is_empty())
                .for_each(|record| eprintln!("{record:?}"));
            if let Ok((_, text)) = metrics::get(daemon.metrics_address(), "/metrics") {
                let counted =
                    |line: &&str| line.contains("_total") && !line.starts_with('#') && !line.ends_with(" 0");
                text.lines().filter(counted).for_each(|line| eprintln!("{line}"));
            }
        }
        eprintln!("{}", self.printed());
    }
}

impl Default for World {
    fn default() -> Self {
        Self::new()
    }
}

/// How many entries one of a daemon's tables has, by its name there (`EXPECTED`, `DIRECT_SOCKETS`).
///
/// # Panics
/// If it is not pinned, or bpftool cannot read it.
#[track_caller]
pub fn entries(lab: &Lab, daemon: &Daemon, table: &str) -> usize {
    let dump =
        lab.tool("bpftool").args(["-j", "map", "dump", "pinned"]).arg(daemon.table(table)).run().ok().json();
    dump.as_array().unwrap_or_else(|| panic!("{table}: {dump}")).len()
}

/// Waits until a daemon shows a live direct connection from this client's port (any, with 0).
#[track_caller]
pub fn shows_direct(daemon: &Daemon, port: u16) {
    eventually(slow::limit(20), &format!("a live direct connection from port {port}"), || {
        let shown = daemon.ask(&["connections"]);
        let from = format!(":{port}");
        let live = |c: &serde_json::Value| {
            let source = c["source"].as_str().unwrap_or_default();
            c["event"] == "open" && c["datapath"] == "direct" && (port == 0 || source.ends_with(&from))
        };
        shown.as_array().is_some_and(|all| all.iter().any(live)).then_some(())
    });
}

/// Waits until a table of a daemon is empty.
#[track_caller]
pub fn wait_empty(lab: &Lab, daemon: &Daemon, table: &str) {
    eventually(slow::limit(20), &format!("{table} to be empty"), || {
        (entries(lab, daemon, table) == 0).then_some(())
    });
}

/// The records of one workload in a daemon's access log.
pub fn records(daemon: &Daemon, workload: &str) -> Vec<Record> {
    daemon.access_log().into_iter().filter(|record| record.workload() == workload).collect()
}

/// Has the workload of a daemon take nothing but direct connections, from the daemon's next start on.
#[track_caller]
pub fn require_direct(daemon: &Daemon) {
    let config = std::fs::read_to_string(daemon.config()).expect("a configuration");
    std::fs::write(daemon.config(), config.replace("direct: auto", "direct: require")).expect("writable");
}

/// Waits until a daemon has recorded so many direct connections of a workload; gives all of them.
#[track_caller]
pub fn direct_records(daemon: &Daemon, workload: &str, at_least: usize) -> Vec<Record> {
    eventually(slow::limit(20), &format!("{at_least} records of direct connections"), || {
        let mut all = records(daemon, workload);
        all.retain(|record| record.datapath() == "direct");
        (all.len() >= at_least).then_some(all)
    })
}
