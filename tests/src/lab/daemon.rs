//! mtlsd itself: started, asked, killed, restarted.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use nix::sys::signal::Signal;

use super::metrics;
use super::process::{Cmd, Output, Place, Process};
use super::record::Record;
use super::wait::eventually;
use crate::slow;

/// How long the daemon may take to be ready, seconds.
const READY: u64 = 30;
/// How long a line of the access log or a change of a metric may take, seconds.
const SOON: u64 = 15;

/// The directories of one node.
#[derive(Debug, Clone)]
pub struct Node {
    /// Where its programs, links and maps are pinned.
    pub bpffs: PathBuf,
    /// The cgroup below which its pods are.
    pub cgroup_root: PathBuf,
    /// The configuration, runtime and state directories are here.
    pub files: PathBuf,
    /// Where the daemon runs: outside of `cgroup_root`.
    pub place: Place,
}

/// A node's mtlsd. Dropping it kills it; the lab removes what it pinned.
#[derive(Debug)]
pub struct Daemon {
    node: Node,
    binary: PathBuf,
    metrics: SocketAddr,
    env: Vec<(String, String)>,
    process: Option<Process>,
}

impl Daemon {
    pub(super) fn prepare(node: Node, yaml: &str) -> Self {
        for dir in ["runtime", "state"] {
            fs::create_dir_all(node.files.join(dir)).expect("lab directory is writable");
        }
        let metrics = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), free_port());
        let daemon = Self { node, binary: binary(), metrics, env: Vec::new(), process: None };
        daemon.configure(yaml);
        daemon
    }

    /// Writes the configuration: `yaml` with the lab's paths added, where it does not set those keys itself.
    /// Does not tell the daemon.
    pub fn configure(&self, yaml: &str) {
        let file = |name: &str| self.node.files.join(name).to_string_lossy().into_owned();
        let added = [
            ("trust_domain", "example.org".to_owned()),
            (
                "paths",
                format!(
                    "{{ runtime: {}, state: {}, bpffs: {} }}",
                    file("runtime"),
                    file("state"),
                    self.node.bpffs.display()
                ),
            ),
            ("cgroup_root", self.node.cgroup_root.to_string_lossy().into_owned()),
            ("metrics", format!("{{ listen: \"{}\" }}", self.metrics)),
            ("access_log", format!("{{ file: {} }}", file("access.jsonl"))),
            // Where the kernel has TLS, every connection is to show what it makes of it.
            ("datapath", "relay-ktls".to_owned()),
            // The defaults, stretched: on a slow machine a client may take longer than they allow.
            (
                "timeouts",
                format!(
                    "{{ handshake: {}ms, detect: {}ms }}",
                    slow::limit(10).as_millis(),
                    slow::stretched(Duration::from_millis(300)).as_millis()
                ),
            ),
        ];
        let mut text = String::new();
        for (key, value) in added {
            if !yaml.lines().any(|line| line.strip_prefix(key).is_some_and(|rest| rest.starts_with(':'))) {
                text.push_str(&format!("{key}: {value}\n"));
            }
        }
        text.push_str(yaml.trim_start_matches('\n'));
        // At once or not at all: the daemon watches the file, and half of it could be valid too.
        let new = self.config().with_extension("new");
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, self.config()))
            .expect("lab directory is writable");
    }

    /// The build of mtlsd.
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// From the next start on it is another build of mtlsd.
    pub fn use_binary(&mut self, binary: &Path) {
        binary.clone_into(&mut self.binary);
    }

    /// From the next start on it has this environment variable.
    pub fn set_env(&mut self, name: &str, value: &str) {
        self.env.push((name.to_owned(), value.to_owned()));
    }

    /// The configuration file.
    pub fn config(&self) -> PathBuf {
        self.node.files.join("mtlsd.yaml")
    }

    /// The embedded CA's directory.
    pub fn ca(&self) -> PathBuf {
        self.node.files.join("state").join("ca")
    }

    /// The root certificate of the embedded CA.
    pub fn root_certificate(&self) -> PathBuf {
        self.ca().join("root.crt")
    }

    /// Where a table of the programs is pinned, whatever the version of the layout.
    ///
    /// # Panics
    /// If there is none.
    pub fn table(&self, name: &str) -> PathBuf {
        self.tables().join(name)
    }

    /// The directory in which the tables are pinned.
    ///
    /// # Panics
    /// If there is none.
    pub fn tables(&self) -> PathBuf {
        let pinned = fs::read_dir(self.bpffs()).expect("it is pinned").flatten().map(|entry| entry.path());
        let maps = pinned.into_iter().find(|path| path.to_string_lossy().contains("/maps-"));
        maps.expect("there are tables")
    }

    /// Where the programs, links and maps are pinned.
    pub fn bpffs(&self) -> &Path {
        &self.node.bpffs
    }

    /// The cgroup to which the programs are attached.
    pub fn cgroup_root(&self) -> &Path {
        &self.node.cgroup_root
    }

    /// The address of the metrics.
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    /// Makes the embedded CA now, so that it can be shared before the first start.
    #[track_caller]
    pub fn ca_init(&self) {
        self.ca_tool("init").args(["--trust-domain", "example.org"]).run().ok();
    }

    /// Takes the CA of another node, as two nodes of one site do.
    ///
    /// # Panics
    /// If that node has none yet.
    #[track_caller]
    pub fn share_ca(&self, from: &Self) {
        fs::create_dir_all(self.ca().parent().expect("has a parent")).expect("lab directory is writable");
        Cmd::new(self.node.place.clone(), "cp").arg("-aT").arg(from.ca()).arg(self.ca()).run().ok();
    }

    /// Takes the second CA of a rotation that another node with a copy of this CA has begun.
    #[track_caller]
    pub fn share_next_ca(&self, from: &Self) {
        let (aside, next) = (self.ca().join("next.copied"), self.ca().join("next"));
        Cmd::new(self.node.place.clone(), "cp").arg("-aT").arg(from.ca().join("next")).arg(&aside).run().ok();
        fs::rename(aside, next).expect("both are in the CA's directory");
    }

    /// A client certificate and key of the embedded CA, made by `mtlsd ca issue`.
    #[track_caller]
    pub fn issue(&self, spiffe_id: &str, name: &str) -> (PathBuf, PathBuf) {
        let out = self.node.files.join(name);
        let command = self.ca_tool("issue").args(["--spiffe-id", spiffe_id, "--dns", name]);
        command.arg("--out").arg(&out).run().ok();
        (out.join("tls.crt"), out.join("tls.key"))
    }

    /// Starts it and waits until /readyz says 200.
    ///
    /// # Panics
    /// If it ends, or is not ready within 30 s.
    #[track_caller]
    pub fn start(&mut self) {
        self.launch();
        eventually(slow::limit(READY), "mtlsd to be ready (GET /readyz)", || {
            let process = self.process.as_mut().expect("just launched");
            if let Some(status) = process.poll() {
                panic!("mtlsd ended with {status} before it was ready:\n{}", process.printed());
            }
            self.ready().then_some(())
        });
    }

    /// Starts it without waiting.
    pub fn launch(&mut self) {
        self.process = Some(self.run_command().spawn());
    }

    /// Runs it to its end, for starts that must fail; gives what it said.
    ///
    /// # Panics
    /// If it has not ended within 20 s.
    #[track_caller]
    pub fn run_to_end(&self) -> Output {
        self.run_command().limit(slow::limit(20)).run()
    }

    /// The command that starts the daemon.
    pub fn run_command(&self) -> Cmd {
        let command = Cmd::new(self.node.place.clone(), &self.binary);
        let command = self.env.iter().fold(command, |command, (name, value)| command.env(name, value));
        command.args(["run", "--config"]).arg(self.config())
    }

    /// Whether /readyz says 200.
    pub fn ready(&self) -> bool {
        matches!(metrics::get(self.metrics, "/readyz"), Ok((200, _)))
    }

    /// The running process.
    ///
    /// # Panics
    /// If it is not running.
    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("mtlsd is running")
    }

    /// Its exit status, if it ended by itself.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.as_mut().and_then(Process::poll)
    }

    /// Everything it has printed in this run.
    pub fn printed(&self) -> String {
        self.process.as_ref().map(Process::printed).unwrap_or_default()
    }

    /// Waits until it prints `text`.
    #[track_caller]
    pub fn wait_for_output(&mut self, text: &str) {
        self.process().wait_for(text);
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// If it does not end with 0 within 20 s.
    #[track_caller]
    pub fn stop(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.terminate().ok();
        }
    }

    /// Stops it if it runs, and starts it again with the configuration that is on disk.
    #[track_caller]
    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// Tells it to read its configuration again.
    pub fn sighup(&mut self) {
        self.process().signal(Signal::SIGHUP);
    }

    /// Asks over the admin socket: `cli(&["status"])`. Gives exit code and standard output.
    #[track_caller]
    pub fn cli(&self, args: &[&str]) -> (Option<i32>, String) {
        let output = self.shown(&[args, &["--json"]].concat());
        (output.code, output.text())
    }

    /// As [`Daemon::cli`], as people see it: without --json.
    #[track_caller]
    pub fn shown(&self, args: &[&str]) -> Output {
        let socket = self.node.files.join("runtime").join("admin.sock");
        Cmd::new(self.node.place.clone(), &self.binary).args(args).arg("--socket").arg(socket).run()
    }

    /// As [`Daemon::cli`], with the answer as JSON, whatever the exit code.
    #[track_caller]
    pub fn ask(&self, args: &[&str]) -> serde_json::Value {
        let (code, text) = self.cli(args);
        serde_json::from_str(&text)
            .unwrap_or_else(|e| panic!("mtlsd {args:?} ({code:?}): no JSON ({e}): {text}"))
    }

    /// The relay that a TLS connection gets here by `mtlsd status`: `relay-ktls` or `relay-userspace`.
    #[track_caller]
    pub fn best_relay(&self) -> &'static str {
        if self.ability("relay-ktls").is_ok() { "relay-ktls" } else { "relay-userspace" }
    }

    /// The relay that by default carries what is large: a kernel that cannot change keys is left alone.
    #[track_caller]
    pub fn auto_relay(&self) -> &'static str {
        if self.rekeys() { self.best_relay() } else { "relay-userspace" }
    }

    /// Whether a peer may update its keys: a kernel before 6.14 cannot follow, and the connection is ended instead.
    #[track_caller]
    pub fn rekeys(&self) -> bool {
        let status = self.ask(&["status"]);
        let abilities = status["abilities"].as_array().cloned().unwrap_or_default();
        let ktls = abilities.into_iter().find(|a| a["name"] == "relay-ktls").expect("it is always listed");
        ktls["available"] == false || ktls["ktls"]["rekey"] == true
    }

    /// `mtlsd ca WHAT`, with the embedded CA's directory.
    pub fn ca_tool(&self, what: &str) -> Cmd {
        Cmd::new(self.node.place.clone(), &self.binary).args(["ca", what, "--directory"]).arg(self.ca())
    }

    /// A command that reads the configuration file, such as `uninstall`.
    pub fn tool(&self, args: &[&str]) -> Cmd {
        Cmd::new(self.node.place.clone(), &self.binary).args(args).arg("--config").arg(self.config())
    }

    /// `mtlsd uninstall`.
    #[track_caller]
    pub fn uninstall(&self) {
        self.tool(&["uninstall"]).run().ok();
    }

    /// The text of /metrics.
    ///
    /// # Panics
    /// If it cannot be had.
    #[track_caller]
    pub fn metrics(&self) -> String {
        let mut last = None;
        super::wait::within(slow::limit(3), || match metrics::get(self.metrics, "/metrics") {
            Ok((200, body)) => Some(body),
            other => {
                last = Some(other);
                None
            }
        })
        .unwrap_or_else(|| panic!("GET /metrics on {}: {last:?}", self.metrics))
    }

    /// The sum of a metric's samples that carry all of `labels`.
    #[track_caller]
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        metrics::sum(&self.metrics(), name, labels)
    }

    /// Waits until a metric reaches at least `value`.
    ///
    /// # Panics
    /// After 15 s.
    #[track_caller]
    pub fn wait_metric(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let what = format!("{name}{labels:?} to reach {value}");
        eventually(slow::limit(SOON), &what, || (self.metric(name, labels) >= value).then_some(()));
    }

    /// Every whole line of the access log.
    ///
    /// # Panics
    /// If one is not JSON.
    #[track_caller]
    pub fn access_log(&self) -> Vec<Record> {
        let text = match fs::read_to_string(self.node.files.join("access.jsonl")) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Vec::new(),
            read => read.expect("the access log is readable text"),
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let parse = |line: &str| {
            Record(serde_json::from_str(line).unwrap_or_else(|e| panic!("access log: {e}: {line}")))
        };
        whole.lines().map(parse).collect()
    }

    /// The first line of the access log that `wanted` accepts.
    ///
    /// # Panics
    /// After 15 s, showing the log.
    #[track_caller]
    pub fn wait_for_log(&self, what: &str, wanted: impl Fn(&Record) -> bool) -> Record {
        let found =
            super::wait::within(slow::limit(SOON), || self.access_log().into_iter().find(|r| wanted(r)));
        found.unwrap_or_else(|| {
            let lines: Vec<_> = self.access_log().iter().map(|r| r.0.to_string()).collect();
            panic!("waited in vain for an access log line: {what}; there are:\n{}", lines.join("\n"))
        })
    }
}

/// The daemon under test.
fn binary() -> PathBuf {
    let path = std::env::var_os("MTLSD_BIN").map_or_else(|| program_beside_the_test("mtlsd"), PathBuf::from);
    assert!(
        path.is_file(),
        "no mtlsd at {}; run `cargo build -p mtls-daemon`, or set MTLSD_BIN to the binary to test",
        path.display()
    );
    path
}

/// A program that cargo built into the same directory as the running test.
///
/// # Panics
/// If the running program cannot be found.
pub fn program_beside_the_test(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("/proc is mounted");
    let mut dir = test.parent().expect("a file has a directory");
    if dir.ends_with("deps") {
        dir = dir.parent().expect("deps has a parent");
    }
    dir.join(name)
}

/// A free port of loopback outside the ephemeral range, which outgoing connections could take meanwhile.
///
/// # Panics
/// If all are taken.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = u16::try_from(std::process::id() % 10_000).unwrap_or_default();
    for _ in 0..10_000 {
        let offset = (start + NEXT.fetch_add(1, Ordering::Relaxed)) % 10_000;
        let port = 20_000 + offset;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
    panic!("no free port between 20000 and 29999 on loopback")
}
