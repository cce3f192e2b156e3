//! What the demonstration is made of: four network namespaces, nginx, and one mtlsd.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::judge::{PORT, SECRET};
use super::screen::{Screen, Stop};
use super::signals::Interrupt;
use crate::lab::{Cmd, Daemon, Lab, NODE, Output, Process};
use crate::programs;
use crate::wire::Traffic;

/// How long an answer of mtlsd may take.
const SOON: Duration = Duration::from_secs(10);

/// The whole configuration, apart from what the lab adds (cgroup root, metrics port, access log).
const CONFIG: &str = r#"trust_domain: example.org
paths:
  runtime: $files/runtime
  state: $files/state
  bpffs: $bpffs
datapath: auto
workloads:
  - { name: shop, select: { netns: $shop.netns }, addresses: [$shop.v4] }
  - { name: api, select: { netns: $api.netns }, addresses: [$api.v4] }
  - { name: guest, select: { netns: $guest.netns }, addresses: [$guest.v4] }
policy:
  - name: shop-may-call-api
    action: allow
    to: { workloads: [api], ports: [80] }
    from: { spiffe_ids: ["spiffe://example.org/shop"] }
"#;

/// Everything that runs. Fields drop in this order: the programs end before their namespaces.
pub struct World {
    /// The node's mtlsd.
    pub daemon: Daemon,
    nginx: Process,
    /// The namespaces.
    pub lab: Lab,
    interrupt: Interrupt,
    last_refusal: Option<String>,
}

/// A program that was run, and what came of it.
pub struct Ran {
    /// Where.
    pub place: String,
    /// How.
    pub argv: Vec<String>,
    /// What it did.
    pub output: Output,
}

impl World {
    /// The namespaces and nginx; mtlsd is configured and does not run.
    ///
    /// # Panics
    /// If the lab cannot be made: without root, iproute2, nginx, cgroup v2, bpffs or mtlsd.
    pub fn new(interrupt: &Interrupt) -> Self {
        let lab = Lab::new(&["shop", "api", "guest", "outside"]);
        if let Some(group) = lab.tools(None).cgroup.parent() {
            interrupt.kills(group.to_owned());
        }
        let nginx = programs::nginx(lab.pod("api"), PORT);
        let node = lab.node(NODE);
        let yaml = CONFIG.replace("$files", &node.files.to_string_lossy());
        let daemon = lab.prepare(NODE, &yaml.replace("$bpffs", &node.bpffs.to_string_lossy()));
        Self { daemon, nginx, lab, interrupt: interrupt.clone(), last_refusal: None }
    }

    /// nginx's URL for a client in a namespace.
    pub fn url(&self) -> String {
        format!("http://{}/", self.lab.pod("api").v4)
    }

    /// The request of the demonstration, from a pod.
    pub fn curl(&self, pod: &str) -> Ran {
        self.ask_nginx(pod, &["-H", &format!("X-Secret: {SECRET}"), &self.url()])
    }

    /// `curl` with more arguments.
    pub fn ask_nginx(&self, pod: &str, more: &[&str]) -> Ran {
        let argv: Vec<_> = ["curl", "-sSv", "-m", "10"].iter().chain(more).map(|a| (*a).to_owned()).collect();
        let command = self.lab.pod(pod).cmd(&argv[0]).args(&argv[1..]).env("no_proxy", "*");
        Ran { place: pod.into(), output: command.run(), argv }
    }

    /// Everything that crosses the bridge while `act` runs.
    pub fn captured<T>(&self, act: impl FnOnce() -> T) -> (T, Traffic) {
        let capture = self.lab.capture();
        let result = act();
        (result, capture.stop())
    }

    /// Runs a command of mtlsd that asks no daemon.
    pub fn tool(&self, args: &[&str]) -> Ran {
        let mut argv = vec!["mtlsd".to_owned()];
        argv.extend(args.iter().map(|a| (*a).to_owned()));
        Ran { place: "node".into(), output: self.mtlsd().args(args).run(), argv }
    }

    /// Asks the daemon for an answer in plain words. The socket is left out of what is shown.
    pub fn ask_in_words(&self, args: &[&str]) -> Ran {
        let mut ran = self.tool(&[args, &["--socket", &self.socket().to_string_lossy()]].concat());
        ran.argv.truncate(1 + args.len());
        ran
    }

    /// Asks the daemon until its answer, as JSON, is as wanted; gives the answer and the command as a person types it.
    pub fn ask<T>(
        &self,
        what: &str,
        args: &[&str],
        wanted: impl Fn(&Value) -> Option<T>,
    ) -> Result<(Vec<String>, T), Stop> {
        let argv = ["mtlsd"].iter().chain(args).map(|a| (*a).to_owned()).collect();
        let end = Instant::now() + SOON;
        loop {
            let (code, text) = self.daemon.cli(args);
            let answer = serde_json::from_str(&text).ok();
            if let Some(found) = answer.as_ref().and_then(&wanted) {
                return Ok((argv, found));
            }
            if self.interrupt.happened() {
                return Err(Stop::Interrupted);
            }
            if Instant::now() > end {
                let seen = format!("mtlsd {} ended with {code:?} and said: {text}", args.join(" "));
                return Err(Stop::failed(what, "an answer that says so", seen));
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// The last refusal, if it is another one than the last time this was called.
    pub fn next_refusal(&mut self) -> Result<(Vec<String>, Value), Stop> {
        let last = self.last_refusal.clone();
        let id = |answer: &Value| Some(answer.pointer("/connection/id")?.as_str()?.to_owned());
        let (argv, answer) =
            self.ask("mtlsd has recorded the refusal", &["explain", "--last-refused"], |a| {
                (id(a).is_some() && id(a) != last).then(|| a.clone())
            })?;
        self.last_refusal = id(&answer);
        Ok((argv, answer))
    }

    /// What mtlsd and nginx said last, for a step that failed.
    pub fn last_words(&self) -> String {
        let mut text = String::new();
        for (name, printed) in [("mtlsd", self.daemon.printed()), ("nginx", self.nginx.printed())] {
            let lines: Vec<_> = printed.lines().collect();
            for line in &lines[lines.len().saturating_sub(5)..] {
                text.push_str(&format!("    {name}: {}\n", super::screen::visible(line)));
            }
        }
        text
    }

    fn socket(&self) -> PathBuf {
        self.lab.node(NODE).files.join("runtime").join("admin.sock")
    }

    fn mtlsd(&self) -> Cmd {
        // Found by the lab as well; without MTLSD_BIN it lies beside this program.
        let binary = std::env::var_os("MTLSD_BIN");
        self.lab.tool(binary.unwrap_or_else(|| crate::lab::program_beside_the_test("mtlsd").into()))
    }
}

/// Shows a program that was run; of its standard error only the lines that `curl` marks as its own failure.
pub fn show(screen: &mut Screen, ran: &Ran) -> Result<(), Stop> {
    screen.command(&ran.place, &ran.argv)?;
    screen.said(&ran.output.text())?;
    screen.said(&errors(ran))
}

/// What a program said about its failure. curl -v talks much, and only there it tells the errno of a connect().
pub fn errors(ran: &Ran) -> String {
    let all = || ran.output.stderr.lines();
    if ran.argv.first().is_none_or(|program| program != "curl") {
        return ran.output.stderr.clone();
    }
    let last: Vec<_> = all().filter(|line| line.starts_with("curl:")).collect();
    let telling = |line: &str| {
        let Some(remark) = line.strip_prefix("* ") else { return false };
        let words = ["fail", "refused", "denied", "not permitted", "reset", "alert"];
        words.iter().any(|word| remark.contains(word)) && !last.iter().any(|line| line.contains(remark))
    };
    // Its last word repeats some of the remarks.
    let general = |line: &str| line.starts_with("* Failed to connect") && !last.is_empty();
    let told = all().filter(|line| telling(line) && !general(line));
    told.chain(last.iter().copied()).collect::<Vec<_>>().join("\n")
}

/// What this process's lab left behind; removes it once more (a Ctrl-C at the wrong time can kill the `ip` that was
/// removing a namespace).
pub fn leftovers(interrupt: &Interrupt) -> Vec<PathBuf> {
    let found = crate::lab::within(crate::slow::limit(5), || {
        let found = find_leftovers(interrupt);
        for path in found.iter().filter(|path| path.starts_with("/run/netns")) {
            if let Some(name) = path.file_name() {
                let _ = Command::new("ip").args(["netns", "del"]).arg(name).output();
            }
        }
        found.is_empty().then_some(())
    });
    if found.is_some() { Vec::new() } else { find_leftovers(interrupt) }
}

fn find_leftovers(interrupt: &Interrupt) -> Vec<PathBuf> {
    let mut places = vec!["/run/netns".into(), "/sys/fs/bpf".into(), std::env::temp_dir()];
    places.extend(interrupt.group().and_then(|group| group.parent().map(ToOwned::to_owned)));
    let names = [format!("mtt{}x", std::process::id()), format!("mtlsd-test-mtt{}x", std::process::id())];
    let entries = places.iter().flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten());
    let ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        names.iter().any(|start| name.starts_with(start))
    };
    entries.map(|entry| entry.path()).filter(ours).collect()
}
