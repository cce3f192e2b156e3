//! The attacks, and what they are made with.

#[path = "forged_fin.rs"]
mod forged_fin;
#[path = "forged_rst.rs"]
mod forged_rst;
#[path = "garbage.rs"]
mod garbage;
#[path = "injected.rs"]
mod injected;
#[path = "opens.rs"]
mod opens;
#[path = "recorded.rs"]
mod recorded;
#[path = "replayed.rs"]
mod replayed;
#[path = "reset_client.rs"]
mod reset_client;
#[path = "said.rs"]
mod said;
#[path = "stranger.rs"]
mod stranger;
#[path = "swapped.rs"]
mod swapped;
#[path = "third_segment.rs"]
mod third_segment;
#[path = "traitor.rs"]
mod traitor;

use std::net::SocketAddr;

use mtls_tests::direct::{World, records, shows_direct};
use mtls_tests::hold::{App, kernel};
use mtls_tests::lab::{Daemon, Pod};
use mtls_tests::middle::{Middle, flag};
use mtls_tests::wire::Capture;
use mtls_tests::{Record, eventually, slow};

/// Where the applications listen.
const PORT: u16 = 7000;
/// What the applications say contains it; it must never be on the wire.
const SECRET: &str = "the-secret";
/// What the attackers say; no application may read it.
const EVIL: &str = "GET /evil HTTP/1.0";

/// Where a pod is, over the version of IP that is attacked.
fn at(pod: &Pod, port: u16) -> SocketAddr {
    if kernel() >= (7, 0) { pod.at6(port) } else { pod.at(port) }
}

/// Two applications, and an attacker on the path between them. Fields drop in this order.
struct Attack {
    web: App,
    far: App,
    middle: Middle,
    capture: Capture,
    to: SocketAddr,
    world: World,
}

impl Attack {
    /// A session is there, and no connection but one that was relayed before the attacker came.
    #[track_caller]
    fn new() -> Self {
        // What an attack breaks is not to go by relay for long.
        let world = World::bare(&[PORT], "direct: { unfit: { retry: 1s, retry_limit: 1s } }", "");
        let to = at(world.far(), PORT);
        let (web, far) = world.applications(to);
        let middle = Middle::before(&world.lab, world.far());
        let capture = world.lab.capture();
        Self { web, far, middle, capture, to, world }
    }

    /// The server's address, as the attacker knows it.
    fn server(&self) -> SocketAddr {
        self.to
    }

    /// connect() returns; nobody has accepted.
    #[track_caller]
    fn connected(&self, name: &str) -> SocketAddr {
        self.web.does("main", &format!("connect {name} {}", self.to), "ok");
        let client = self.middle.newest(self.to);
        // The ACK of the handshake may still be on its way here when connect() returns.
        eventually(slow::limit(20), "the handshake's last segment", || {
            let seen = self.middle.seen();
            seen.iter().any(|s| s.from == client && s.flags == flag::ACK).then_some(())
        });
        client
    }

    /// Both ends have keys and may send, and nothing was sent.
    #[track_caller]
    fn armed(&self, name: &str) -> SocketAddr {
        let client = self.connected(name);
        self.far.does("main", &format!("accept {name} l"), "ok");
        for daemon in [&self.world.here, &self.world.there] {
            shows_direct(daemon, client.port());
        }
        client
    }

    /// The client says something, and its server hears exactly that.
    #[track_caller]
    fn says(&self, name: &str, text: &str) {
        let length = text.len();
        self.web.does("main", &format!("send {name} {text}"), &length.to_string());
        self.far.does("main", &format!("recv {name}"), &format!("{length} {text}"));
    }

    /// The server answers, and its client hears exactly that.
    #[track_caller]
    fn answers(&self, name: &str, text: &str) {
        let length = text.len();
        self.far.does("main", &format!("send {name} {text}"), &length.to_string());
        self.web.does("main", &format!("recv {name}"), &format!("{length} {text}"));
    }

    /// The record that a node's daemon wrote of the connection from this client.
    #[track_caller]
    fn record(&self, daemon: &Daemon, workload: &str, client: SocketAddr) -> Record {
        let source = client.to_string();
        eventually(slow::limit(30), &format!("{workload}'s record of {source}"), || {
            records(daemon, workload).into_iter().find(|record| record.source() == source)
        })
    }

    /// How often the guards of a node's programs did something.
    fn count(daemon: &Daemon, event: &str) -> f64 {
        daemon.metric("mtlsd_ebpf_events_total", &[("event", event)])
    }

    /// Whatever happened: no daemon has failed, a new connection works, and nothing but TLS was on the wire.
    #[track_caller]
    fn ends(self) {
        self.ends_as(true);
    }

    /// The same, where the capture has an attacker's own words too.
    #[track_caller]
    fn ends_with_plaintext_of_others(self) {
        self.ends_as(false);
    }

    #[track_caller]
    fn ends_as(self, only_tls: bool) {
        self.says_of_a_new_one(&format!("{SECRET}-afterwards"));
        let printed = self.world.printed();
        assert!(!printed.contains("panicked"), "{printed}");
        let traffic = self.capture.stop();
        traffic.assert_absent(SECRET.as_bytes());
        if only_tls {
            traffic.assert_only_tls(PORT);
        }
    }

    #[track_caller]
    fn says_of_a_new_one(&self, text: &str) {
        self.web.does("main", &format!("connect afterwards {}", self.to), "ok");
        self.far.does("main", "accept afterwards l", "ok");
        self.says("afterwards", text);
        self.answers("afterwards", text);
    }
}

/// An errno's name and not a number of bytes.
#[track_caller]
fn assert_errno(answer: &str, wanted: &[&str]) {
    assert!(wanted.contains(&answer), "{answer} is none of {wanted:?}");
}

/// After an error nothing is to be had from it either, however often one asks.
#[track_caller]
fn assert_silent(app: &App, name: &str) {
    app.does("main", &format!("nonblocking {name}"), "ok");
    for _ in 0..5 {
        let answer = app.ask("main", &format!("recv {name}"));
        let nothing = answer == "0 " || answer.starts_with('E');
        assert!(nothing, "an application read {answer:?}");
    }
}
