//! A strict workload's plain application on one side, a TLS peer that follows a script on the other: see `peer`.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use crate::lab::{Cmd, Output, Pod, Record};
use crate::programs::Identity;
use crate::scenario::{Pair, STRICT_PAIR};
use crate::slow;

/// `out` is a partner without mtlsd: a client of `db`, and the server `api` of the directory.
const PARTNER: &str = "directory: [ { name: api, addresses: [\"$out.v4\", \"$out.v6\"], spiffe_ids: [\"spiffe://example.org/api\"] } ]\n";

const USERSPACE: [&str; 1] = ["relay-userspace"];

/// See the module.
#[derive(Debug)]
pub struct Foreign {
    /// `web` and `db` strict, `out` the partner.
    pub pair: Pair,
    /// The partner's certificate.
    pub identity: Identity,
    /// What the records are to name.
    datapaths: &'static [&'static str],
    next: Cell<u16>,
}

/// The two roles of the partner: a client that `db` serves (true), a server to which `web` connects (false).
pub const BOTH_WAYS: [bool; 2] = [true, false];

/// `script`, and a clean end by the peer after which it waits for the application's.
pub fn then_ends<'a>(script: &[&'a str]) -> Vec<&'a str> {
    [script, &["close-notify", "fin", "expect-close-notify", "expect-eof"]].concat()
}

/// Both ends' outcomes, and what the daemon wrote about the connection.
#[derive(Debug)]
pub struct Told {
    /// The application, which knows nothing of TLS.
    pub application: Output,
    /// The TLS peer.
    pub peer: Output,
    /// The access log's line.
    pub record: Record,
}

impl Foreign {
    /// The strict pair with a partner.
    #[track_caller]
    pub fn new() -> Self {
        Self::with("")
    }

    /// As [`Foreign::new`], with more top-level keys.
    #[track_caller]
    pub fn with(more: &str) -> Self {
        let pair = Pair::configured(Pair::lab(), &format!("{STRICT_PAIR}{PARTNER}{more}"));
        let identity = pair.issue("api");
        let datapaths = if pair.daemon.best_relay() == "relay-ktls" { &["relay-ktls"] } else { &USERSPACE };
        Self { pair, identity, datapaths, next: Cell::new(0) }
    }

    /// With the datapath that is the default: what carries much moves into the kernel.
    #[track_caller]
    pub fn auto() -> Self {
        let foreign = Self::with("datapath: auto\n");
        let moves = foreign.pair.daemon.auto_relay() == "relay-ktls";
        let datapaths = if moves { &["relay-userspace", "relay-ktls"][..] } else { &USERSPACE };
        Self { datapaths, ..foreign }
    }

    /// For connections that do not leave user space, whatever the kernel can do.
    #[must_use]
    pub fn in_user_space(self) -> Self {
        Self { datapaths: &USERSPACE, ..self }
    }

    /// A port for the next connection; IPv4 and IPv6 by turns.
    pub fn next(&self, pod: &Pod) -> SocketAddr {
        let turn = self.next.replace(self.next.get() + 1);
        let port = 7200 + turn;
        if turn.is_multiple_of(2) { pod.at(port) } else { pod.at6(port) }
    }

    /// `peer` of the partner, with its certificate.
    pub fn tls(&self, verb: &str, at: SocketAddr) -> Cmd {
        let command =
            self.pair.out().own("peer").args([verb, &at.to_string()]).arg("--ca").arg(self.pair.root());
        command.arg("--cert").arg(&self.identity.chain).arg("--key").arg(&self.identity.key).limit(patience())
    }

    /// The partner connects to an application in `db`. Each script may start with options of `peer`.
    #[track_caller]
    pub fn inbound(&self, application: &[&str], peer: &[&str]) -> Told {
        let at = self.next(self.pair.db());
        self.tell(at, serve(self.pair.db(), at, application), self.tls("connect", at).args(peer), true)
    }

    /// An application in `web` connects to the partner. Each script may start with options of `peer`.
    #[track_caller]
    pub fn outbound(&self, application: &[&str], peer: &[&str]) -> Told {
        let at = self.next(self.pair.out());
        let server = self.tls("serve", at).args(peer);
        let client =
            self.pair.web().own("peer").args(["connect", &at.to_string(), "--plain"]).args(application);
        self.tell(at, server, client.limit(patience()), false)
    }

    /// [`Foreign::inbound`] or [`Foreign::outbound`].
    #[track_caller]
    pub fn run(&self, inbound: bool, application: &[&str], peer: &[&str]) -> Told {
        if inbound { self.inbound(application, peer) } else { self.outbound(application, peer) }
    }

    #[track_caller]
    fn tell(&self, at: SocketAddr, server: Cmd, client: Cmd, inbound: bool) -> Told {
        let mut server = server.spawn().quiet();
        let pod = if inbound { self.pair.db() } else { self.pair.out() };
        pod.wait_port(at.port());
        let client = client.run();
        if client.code != Some(0) {
            // What it has seen until now is what there is to be seen.
            let _ = server.ends_within(slow::limit(5));
            server.kill();
        }
        let server = server.output(patience());
        let (application, peer) = if inbound { (server, client) } else { (client, server) };
        let record = self.record(at, inbound, &format!("application: {application}\npeer: {peer}"));
        Told { application, peer, record }
    }

    /// The access log's line about a connection to `at`; checks that it names a datapath that it may have.
    #[track_caller]
    pub fn record(&self, at: SocketAddr, inbound: bool, what: &str) -> Record {
        let ours = |r: &Record| r.destination() == at.to_string() && r.inbound() == inbound;
        let record = self.pair.daemon.wait_for_log(&format!("the connection to {at}; {what}"), ours);
        assert!(self.datapaths.contains(&record.datapath()), "not {:?}: {record:?}\n{what}", self.datapaths);
        record
    }
}

impl Default for Foreign {
    fn default() -> Self {
        Self::new()
    }
}

/// The plain application that waits at `at`.
pub fn serve(pod: &Pod, at: SocketAddr, script: &[&str]) -> Cmd {
    pod.own("peer").args(["serve", &at.to_string(), "--plain"]).args(script).limit(patience())
}

/// For a whole script; its single steps give up earlier.
fn patience() -> Duration {
    slow::limit(150)
}

impl Told {
    /// Both scripts ran to their end, and the record gives this reason ("" for a clean end).
    ///
    /// # Panics
    /// Otherwise, with everything.
    #[track_caller]
    pub fn ends(self, reason: &str) -> Self {
        let ran = self.application.code == Some(0) && self.peer.code == Some(0);
        assert!(
            ran && self.record.reason() == reason,
            "the end should be `{reason}`\napplication: {}\npeer: {}\nrecord: {}",
            self.application,
            self.peer,
            self.record.0
        );
        self
    }

    /// As [`Told::ends`], and the record's detail contains `text`.
    #[track_caller]
    pub fn because(self, reason: &str, text: &str) -> Self {
        let told = self.ends(reason);
        assert!(told.record.detail().contains(text), "`{text}` is not in {:?}", told.record);
        told
    }
}
