//! The world that most tests start from: `web` and `db` are strict workloads of one node, `out` is a host on the same
//! wire that mtlsd does not know. nginx runs in `db`.

use std::fmt::Debug;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::certs::Authority;
use crate::lab::{Daemon, Lab, NODE, Output, Pod, Process, Record, eventually};
use crate::programs::{self, Identity};
use crate::slow;

/// The port of nginx in `db`; HTTP/2 with prior knowledge on the next one.
pub const HTTP: u16 = 80;

/// Two strict workloads that may talk to each other, and whoever else has an identity of example.org.
pub const STRICT_PAIR: &str = r#"
workloads:
  - { name: web, select: { netns: $web.netns }, addresses: ["$web.v4", "$web.v6"] }
  - { name: db, select: { netns: $db.netns }, addresses: ["$db.v4", "$db.v6"] }
policy:
  - { name: everyone-here, action: allow, from: { trust_domains: [example.org] } }
"#;

/// See the module. Fields drop in this order: the programs end before their namespaces.
#[derive(Debug)]
pub struct Pair {
    /// The node's mtlsd.
    pub daemon: Daemon,
    /// nginx in `db`.
    pub nginx: Process,
    /// The lab.
    pub lab: Lab,
}

impl Pair {
    /// The strict pair.
    #[track_caller]
    pub fn strict() -> Self {
        Self::with("")
    }

    /// The strict pair with more top-level keys.
    #[track_caller]
    pub fn with(more: &str) -> Self {
        Self::configured(Self::lab(), &format!("{STRICT_PAIR}{more}"))
    }

    /// The three pods, without a daemon.
    pub fn lab() -> Lab {
        Lab::new(&["web", "db", "out"])
    }

    /// The three pods of `lab` under a configuration of the test's own.
    #[track_caller]
    pub fn configured(lab: Lab, yaml: &str) -> Self {
        let nginx = programs::nginx(lab.pod("db"), HTTP);
        let daemon = lab.daemon(yaml);
        Self { daemon, nginx, lab }
    }

    /// The strict pair that also trusts a CA whose certificates the test makes as it likes.
    #[track_caller]
    pub fn with_authority(more: &str) -> (Self, Authority) {
        let lab = Self::lab();
        let authority = Authority::new(lab.dir(), "site");
        let trust = format!(
            "trust: {{ bundles: [ {{ trust_domain: example.org, file: {} }} ] }}\n",
            authority.root.display()
        );
        (Self::configured(lab, &format!("{STRICT_PAIR}{trust}{more}")), authority)
    }

    /// Pod `web`.
    pub fn web(&self) -> &Pod {
        self.lab.pod("web")
    }

    /// Pod `db`.
    pub fn db(&self) -> &Pod {
        self.lab.pod("db")
    }

    /// Pod `out`, which is not enrolled.
    pub fn out(&self) -> &Pod {
        self.lab.pod("out")
    }

    /// nginx's addresses, IPv4 and IPv6.
    pub fn http(&self) -> [SocketAddr; 2] {
        [self.db().at(HTTP), self.db().at6(HTTP)]
    }

    /// An identity of the embedded CA for a client that is not mtlsd.
    #[track_caller]
    pub fn issue(&self, name: &str) -> Identity {
        self.daemon.issue(&format!("spiffe://example.org/{name}"), name).into()
    }

    /// The root certificate of the embedded CA.
    pub fn root(&self) -> PathBuf {
        self.daemon.root_certificate()
    }

    /// Asks nginx for `/` from `web`, as an application would.
    #[track_caller]
    pub fn curl(&self, to: SocketAddr) -> Output {
        self.web().run(&["curl", "-sS", "--max-time", "20", &format!("http://{to}/")])
    }

    /// Checks that a good request works, over IPv4 and IPv6.
    #[track_caller]
    pub fn works(&self) {
        for to in self.http() {
            assert_eq!(self.curl(to).ok().text(), "hello from db");
        }
    }

    /// How many connections of a workload were refused for a reason.
    #[track_caller]
    pub fn refusals(&self, workload: &str, reason: &str) -> f64 {
        let labels = [("workload", workload), ("reason", reason)];
        self.daemon.metric("mtlsd_connections_refused_total", &labels)
    }

    /// Runs `attack` against nginx over IPv4 and IPv6 and checks what every refusal of `db` promises: the access log
    /// names the reason and the mend, the metric counts each, nothing reaches nginx, and a good request works afterwards.
    /// Gives the last record.
    ///
    /// # Panics
    /// If one of these does not hold.
    #[track_caller]
    pub fn refuses<T: Debug>(&self, reason: &str, attack: impl Fn(SocketAddr) -> T) -> Record {
        let before = self.refusals("db", reason);
        let mut last = None;
        for to in self.http() {
            let known = self.daemon.access_log().len();
            let outcome = attack(to);
            let shown = format!("{outcome:?}");
            assert!(!shown.contains("hello from db"), "the application answered: {shown}");
            let new = || self.daemon.access_log().into_iter().skip(known).filter(|r| is_refusal(r, to));
            let what = format!("a refusal by db on {to} in the access log, after {shown}");
            eventually(slow::limit(15), &what, || new().next());
            let records: Vec<_> = new().collect();
            let [record] = &records[..] else { panic!("one refusal on {to} was expected: {records:?}") };
            assert_eq!(record.reason(), reason, "{record:?}");
            assert!(!record.mend().is_empty() && record.bytes() == 0, "{record:?}");
            last = Some(record.clone());
        }
        let labels = [("workload", "db"), ("reason", reason)];
        self.daemon.wait_metric("mtlsd_connections_refused_total", &labels, before + 2.0);
        let after = self.refusals("db", reason);
        assert!((after - before - 2.0).abs() < 0.1, "counted {before} before and {after} after two refusals");
        self.works();
        last.expect("two addresses")
    }
}

fn is_refusal(record: &Record, to: SocketAddr) -> bool {
    record.refused()
        && record.inbound()
        && record.workload() == "db"
        && record.destination() == to.to_string()
}

/// Two nodes of one site, with one CA: `web` on the first may talk to nginx in `far` on the second. What is bound in this
/// order ends in the other one: the daemons before their namespaces.
#[must_use]
pub fn two_nodes() -> (Lab, Process, Daemon, Daemon) {
    two_nodes_with("", "")
}

/// As [`two_nodes`]; `web`: more keys of that workload, each with a comma before it; `more`: more top-level keys of its node.
#[must_use]
pub fn two_nodes_with(web: &str, more: &str) -> (Lab, Process, Daemon, Daemon) {
    let mut lab = Lab::new(&["web"]);
    lab.add_node("n2");
    lab.add_pod("n2", "far");
    let nginx = programs::nginx(lab.pod("far"), HTTP);
    let mut here = lab.prepare(
        NODE,
        &format!(
            r#"
workloads: [ {{ name: web, select: {{ netns: $web.netns }}{web} }} ]
directory: [ {{ name: far, addresses: ["$far.v4", "$far.v6"], ports: [80], spiffe_ids: ["spiffe://example.org/far"] }} ]
{more}"#
        ),
    );
    here.ca_init();
    let mut there = lab.prepare(
        "n2",
        r#"
workloads: [ { name: far, select: { netns: $far.netns } } ]
policy: [ { name: web-only, action: allow, from: { spiffe_ids: ["spiffe://example.org/web"] } } ]
"#,
    );
    there.share_ca(&here);
    here.start();
    there.start();
    (lab, nginx, here, there)
}
