//! A world of one test: pods on a wire, real programs in them, and mtlsd on one or more nodes.
//!
//! ```no_run
//! use mtls_tests::{Lab, programs};
//! let lab = Lab::new(&["web", "db"]);
//! let _nginx = programs::nginx(lab.pod("db"), 80);
//! let daemon = lab.daemon("workloads: [{ name: web, select: { netns: $web.netns } }]");
//! lab.pod("web").run(&["curl", "-sS", &format!("http://{}/", lab.pod("db").v4)]).ok();
//! daemon.wait_for_log("the curl", |r| r.bytes() > 0);
//! ```
//! Everything lives until the values are dropped, also when the test panics. Names carry the test process's pid, so
//! the next run removes what a killed one left.

mod ability;
pub mod cgroup;
mod daemon;
pub mod metrics;
mod names;
pub mod net;
mod process;
mod record;
mod wait;

use crate::slow;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};

pub use daemon::{Daemon, Node, free_port, program_beside_the_test};
pub use process::{Cmd, Output, Place, Process, silence, tail};
pub use record::Record;
pub use wait::{eventually, within};

/// A per-test world. See the module.
#[derive(Debug)]
pub struct Lab {
    name: String,
    group: PathBuf,
    files: PathBuf,
    pods: Vec<Pod>,
    nodes: Vec<String>,
}

/// The node that a pod belongs to unless said otherwise.
pub const NODE: &str = "n1";

/// A network namespace on the wire, with a cgroup of its own below its node's.
#[derive(Debug, Clone)]
pub struct Pod {
    /// Its name in the test.
    pub name: String,
    /// The name of its namespace below /run/netns.
    pub netns: String,
    /// Its IPv4 address.
    pub v4: Ipv4Addr,
    /// Its IPv6 address.
    pub v6: Ipv6Addr,
    /// Its interface's name on the bridge.
    port: String,
    place: Place,
}

impl Lab {
    /// A lab with one node and these pods on it.
    ///
    /// # Panics
    /// Without root, iproute2, cgroup v2 or bpffs.
    pub fn new(pods: &[&str]) -> Self {
        names::sweep_once();
        mount_bpffs();
        let name = names::unique();
        let mut lab = Self {
            group: cgroup::mount().join(&name),
            files: names::files_dir(&name),
            name,
            pods: Vec::new(),
            nodes: Vec::new(),
        };
        for dir in [lab.group.join("tools"), lab.files.join("out")] {
            fs::create_dir_all(&dir)
                .unwrap_or_else(|e| panic!("{} (the lab needs root): {e}", dir.display()));
        }
        net::add_wire(&lab.wire());
        lab.add_node(NODE);
        for pod in pods {
            lab.add_pod(NODE, pod);
        }
        lab
    }

    /// One more node: a cgroup root, and directories for a daemon of its own.
    pub fn add_node(&mut self, node: &str) {
        fs::create_dir_all(self.group.join(node)).expect("cgroup v2 is writable");
        fs::create_dir_all(self.files.join(node)).expect("lab directory is writable");
        self.nodes.push(node.into());
    }

    /// One more pod on `node`.
    pub fn add_pod(&mut self, node: &str, pod: &str) {
        let serial = u8::try_from(self.pods.len() + 10).expect("few pods");
        let (v4, v6) =
            (Ipv4Addr::new(10, 77, 0, serial), Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, serial.into()));
        let netns = format!("{}-{pod}", self.name);
        let cgroup = self.group.join(node).join(pod);
        let place = Place { cgroup, netns: Some(net::netns_path(&netns)), output: self.files.join("out") };
        // Known first, made then: what fails half-way is removed with the lab.
        self.pods.push(Pod { name: pod.into(), netns, v4, v6, port: format!("p{serial}"), place });
        self.restore_pod(pod);
    }

    /// Removes a pod's namespace and cgroup and kills its processes.
    pub fn remove_pod(&self, pod: &str) {
        let gone = self.pod(pod);
        cgroup::destroy(&gone.place.cgroup);
        // The kernel removes a namespace's interfaces some time later; the port must be free at once.
        net::ip_in(&self.wire(), &format!("link del {}\n", gone.port));
        names::delete_netns(&net::netns_path(&gone.netns));
    }

    /// Makes a removed pod again, with the same names and addresses, as after a restart of a container.
    pub fn restore_pod(&self, pod: &str) {
        let pod = self.pod(pod);
        net::add_pod(&self.wire(), &pod.netns, &pod.port, &pod.v4.to_string(), &pod.v6.to_string());
        fs::create_dir(&pod.place.cgroup).expect("cgroup v2 is writable");
    }

    /// Takes a pod's cable out of the bridge, or puts it back. Its addresses and routes stay.
    pub fn cable(&self, pod: &str, plugged: bool) {
        let (port, state) = (&self.pod(pod).port, if plugged { "up" } else { "down" });
        net::ip_in(&self.wire(), &format!("link set {port} {state}\n"));
    }

    /// A pod by its name.
    ///
    /// # Panics
    /// If there is none.
    #[track_caller]
    pub fn pod(&self, name: &str) -> &Pod {
        self.pods.iter().find(|p| p.name == name).unwrap_or_else(|| panic!("no pod {name} in this lab"))
    }

    /// Runs a program on the host (outside every node's cgroup root, in the host's network namespace).
    pub fn tool(&self, program: impl AsRef<std::ffi::OsStr>) -> Cmd {
        Cmd::new(self.tools(None), program)
    }

    /// The namespace of the bridge.
    pub fn wire(&self) -> String {
        format!("{}-wire", self.name)
    }

    /// Where programs of the lab itself run: not below a node, optionally in a namespace.
    pub fn tools(&self, netns: Option<&str>) -> Place {
        let netns = netns.map(net::netns_path);
        Place { cgroup: self.group.join("tools"), netns, output: self.files.join("out") }
    }

    /// A directory for the test's files; removed with the lab.
    pub fn dir(&self) -> &Path {
        &self.files
    }

    /// Starts capturing everything that crosses the bridge.
    pub fn capture(&self) -> crate::wire::Capture {
        crate::wire::Capture::start(self)
    }

    /// The directories of a node; made with the lab.
    ///
    /// # Panics
    /// If there is no such node.
    pub fn node(&self, node: &str) -> Node {
        assert!(self.nodes.iter().any(|n| n == node), "no node {node} in this lab");
        Node {
            bpffs: names::bpffs_dir(&self.name, node),
            cgroup_root: self.group.join(node),
            files: self.files.join(node),
            place: self.tools(None),
        }
    }

    /// Starts mtlsd on the only node and waits until it is ready. See [`Lab::expand`] for what may stand in `yaml`.
    #[track_caller]
    pub fn daemon(&self, yaml: &str) -> Daemon {
        self.daemon_on(NODE, yaml)
    }

    /// Starts mtlsd on a node and waits until it is ready.
    #[track_caller]
    pub fn daemon_on(&self, node: &str, yaml: &str) -> Daemon {
        let mut daemon = self.prepare(node, yaml);
        daemon.start();
        daemon
    }

    /// As [`Lab::prepare`], with the daemon in the namespace of `pod`, as on a host whose services are its workloads. What listens
    /// on its loopback, the metrics among it, is not to be had from here.
    #[track_caller]
    pub fn prepare_in(&self, node: &str, pod: &str, yaml: &str) -> Daemon {
        let place = self.tools(Some(&self.pod(pod).netns));
        Daemon::prepare(Node { place, ..self.node(node) }, &self.expand(yaml))
    }

    /// Writes the configuration of a node's daemon without starting it.
    #[track_caller]
    pub fn prepare(&self, node: &str, yaml: &str) -> Daemon {
        Daemon::prepare(self.node(node), &self.expand(yaml))
    }

    /// Replaces `$pod.netns`, `$pod.v4`, `$pod.v6`, `$pod.cgroup`, `$dir` and `$group` (the cgroup of the whole
    /// lab, the daemons among it) in a configuration.
    pub fn expand(&self, yaml: &str) -> String {
        let mut text = yaml.replace("$dir", &self.files.to_string_lossy());
        text = text.replace("$group", &self.group.to_string_lossy());
        for pod in &self.pods {
            for (key, value) in [
                ("netns", pod.netns.clone()),
                ("v4", pod.v4.to_string()),
                ("v6", pod.v6.to_string()),
                ("cgroup", pod.place.cgroup.to_string_lossy().into_owned()),
            ] {
                text = text.replace(&format!("${}.{key}", pod.name), &value);
            }
        }
        text
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        cgroup::destroy(&self.group);
        for pod in &self.pods {
            names::delete_netns(&net::netns_path(&pod.netns));
        }
        names::delete_netns(&net::netns_path(&self.wire()));
        for node in &self.nodes {
            let _ = fs::remove_dir_all(names::bpffs_dir(&self.name, node));
        }
        if std::thread::panicking() && std::env::var_os("MTLSD_TEST_KEEP").is_some() {
            eprintln!("lab: files kept in {}", self.files.display());
        } else {
            let _ = fs::remove_dir_all(&self.files);
        }
    }
}

impl Pod {
    /// A program in this pod, captured like any application.
    pub fn cmd(&self, program: impl AsRef<std::ffi::OsStr>) -> Cmd {
        Cmd::new(self.place.clone(), program)
    }

    /// Runs a program to its end (at most 60 s).
    #[track_caller]
    pub fn run(&self, argv: &[&str]) -> Output {
        self.cmd(argv[0]).args(&argv[1..]).run()
    }

    /// Starts a program.
    #[track_caller]
    pub fn spawn(&self, argv: &[&str]) -> Process {
        self.cmd(argv[0]).args(&argv[1..]).spawn()
    }

    /// A program in this pod's namespace but in another pod's cgroup, as services share a host.
    pub fn cmd_in_cgroup_of(&self, other: &Self, program: impl AsRef<std::ffi::OsStr>) -> Cmd {
        self.cmd_in_cgroup(other.place.cgroup.clone(), program)
    }

    /// A program in this pod's namespace but in this cgroup.
    pub fn cmd_in_cgroup(&self, cgroup: PathBuf, program: impl AsRef<std::ffi::OsStr>) -> Cmd {
        Cmd::new(Place { cgroup, ..self.place.clone() }, program)
    }

    /// One of this package's own programs (`probe`, `pattern`, `load`).
    #[track_caller]
    pub fn own(&self, program: &str) -> Cmd {
        self.cmd(program_beside_the_test(program))
    }

    /// Both of its addresses, for tests over IPv4 and IPv6.
    pub fn addresses(&self) -> [IpAddr; 2] {
        [self.v4.into(), self.v6.into()]
    }

    /// `v4:port`.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v4.into(), port)
    }

    /// `[v6]:port`.
    pub fn at6(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.v6.into(), port)
    }

    /// Runs code of the test in this pod's namespace, *not* captured: it plays a client that mtlsd does not know.
    pub fn inside<T: Send>(&self, body: impl FnOnce() -> T + Send) -> T {
        net::inside(&net::netns_path(&self.netns), body)
    }

    /// Its interface's name on the bridge.
    pub fn port(&self) -> &str {
        &self.port
    }

    /// Where the lab keeps its files.
    pub fn files(&self) -> PathBuf {
        self.place.output.parent().map(Path::to_path_buf).unwrap_or_default()
    }

    /// Waits until some program listens on `port`, by the kernel's table (no connection is made).
    ///
    /// # Panics
    /// After 20 s.
    #[track_caller]
    pub fn wait_port(&self, port: u16) {
        let what = format!("a listener on port {port} in {}", self.name);
        eventually(slow::limit(20), &what, || self.listens(port).then_some(()));
    }

    /// Whether some program listens on `port`.
    pub fn listens(&self, port: u16) -> bool {
        self.inside(|| {
            ["tcp", "tcp6"].iter().any(|table| {
                let table = fs::read_to_string(format!("/proc/thread-self/net/{table}")).unwrap_or_default();
                table.lines().any(|line| {
                    let fields: Vec<_> = line.split_whitespace().collect();
                    let [_, local, _, "0A", ..] = fields[..] else { return false };
                    local.ends_with(&format!(":{port:04X}"))
                })
            })
        })
    }

    /// Sets a sysctl of the namespace, e.g. `net.ipv4.tcp_fastopen`.
    pub fn sysctl(&self, name: &str, value: &str) {
        let path = Path::new("/proc/sys").join(name.replace('.', "/"));
        self.inside(|| fs::write(&path, value).unwrap_or_else(|e| panic!("{}: {e}", path.display())));
    }
}

fn mount_bpffs() {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    if mounts.lines().any(|line| line.split(' ').nth(1) == Some(names::BPFFS)) {
        return;
    }
    let mounted = std::process::Command::new("mount").args(["-t", "bpf", "bpf", names::BPFFS]).status();
    assert!(mounted.is_ok_and(|s| s.success()), "cannot mount bpffs on {} (root is needed)", names::BPFFS);
}
