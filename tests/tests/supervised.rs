//! What systemd is told of the daemon, by a socket of the test's in its place (`sd_notify(3)`).

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use mtls_tests::lab::{Daemon, Lab, NODE};
use mtls_tests::{eventually, slow};
use nix::sys::signal::Signal;

const CONFIG: &str = "workloads: [ { name: web, select: { netns: $web.netns } } ]\n";

/// What the daemon believes to be systemd.
struct Systemd {
    socket: UnixDatagram,
    heard: Vec<String>,
}

impl Systemd {
    fn new(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).expect("a socket of its own");
        socket.set_nonblocking(true).expect("a socket option");
        Self { socket, heard: Vec::new() }
    }

    /// Every variable that was sent so far.
    fn heard(&mut self) -> &[String] {
        let mut buffer = [0; 4096];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let text = String::from_utf8_lossy(&buffer[..length]);
            self.heard.extend(text.lines().map(str::to_owned));
        }
        &self.heard
    }

    fn count(&mut self, what: &str) -> usize {
        self.heard().iter().filter(|line| line.starts_with(what)).count()
    }

    #[track_caller]
    fn wait(&mut self, what: &str, times: usize) {
        eventually(slow::limit(20), &format!("{what} {times} times"), || {
            (self.count(what) >= times).then_some(())
        });
    }
}

fn lab() -> (Lab, Daemon, Systemd) {
    let lab = Lab::new(&["web"]);
    let mut daemon = lab.prepare(NODE, CONFIG);
    daemon.ca_init();
    let path = lab.dir().join("notify");
    let systemd = Systemd::new(&path);
    daemon.set_env("NOTIFY_SOCKET", &path.to_string_lossy());
    (lab, daemon, systemd)
}

#[test]
fn systemd_hears_of_the_start_when_workloads_are_enrolled_of_reloads_and_of_the_end() {
    let (_lab, mut daemon, mut systemd) = lab();
    daemon.launch();
    systemd.wait("READY=1", 1);
    // By then, not some time later: what is ordered after the unit begins now.
    assert!(daemon.printed().contains("enrolled"), "{}", daemon.printed());
    systemd.wait("STATUS=ready", 1);
    assert_eq!(systemd.count("WATCHDOG="), 0, "no watchdog was asked for");

    daemon.sighup();
    systemd.wait("READY=1", 2);
    let heard = systemd.heard().to_vec();
    let at = |what: &str| heard.iter().rposition(|line| line.starts_with(what));
    assert!(at("RELOADING=1") < at("MONOTONIC_USEC=") && at("MONOTONIC_USEC=") < at("READY=1"), "{heard:?}");
    assert!(at("RELOADING=1").is_some(), "{heard:?}");

    // A refused reload is over too, and the status says what was wrong until it is mended.
    std::fs::write(daemon.config(), "workloads: nonsense\n").expect("writable");
    daemon.sighup();
    systemd.wait("READY=1", 3);
    systemd.wait("STATUS=ready; the last reload was refused", 1);
    assert!(daemon.ready(), "the configuration from before is in force");

    daemon.stop();
    assert_eq!(systemd.count("STOPPING=1"), 1, "{:?}", systemd.heard());
    assert_eq!(systemd.count("EXTEND_TIMEOUT_USEC="), 1, "{:?}", systemd.heard());
}

#[test]
fn the_watchdog_is_fed_while_the_node_is_looked_at_and_not_by_a_daemon_that_stands_still() {
    let (_lab, mut daemon, mut systemd) = lab();
    daemon.set_env("WATCHDOG_USEC", "1000000");
    daemon.start();
    systemd.wait("WATCHDOG=1", 4);
    daemon.process().signal(Signal::SIGSTOP);
    let before = systemd.count("WATCHDOG=1");
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(systemd.count("WATCHDOG=1"), before);
    daemon.process().signal(Signal::SIGCONT);
    systemd.wait("WATCHDOG=1", before + 1);
    daemon.stop();
}

#[test]
fn a_daemon_whose_systemd_does_not_listen_warns_once_and_works() {
    let lab = Lab::new(&["web"]);
    let mut daemon = lab.prepare(NODE, CONFIG);
    daemon.ca_init();
    daemon.set_env("NOTIFY_SOCKET", &lab.dir().join("nobody").to_string_lossy());
    daemon.start();
    daemon.sighup();
    daemon.wait_metric("mtlsd_config_reloads_total", &[("result", "applied")], 1.0);
    let warned = daemon.printed().matches("systemd cannot be told").count();
    assert_eq!(warned, 1, "{}", daemon.printed());
    daemon.stop();
}
