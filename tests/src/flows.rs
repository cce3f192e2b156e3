//! `pattern` between `web` and `db`, with the daemon's own count of the bytes.

use std::cell::Cell;
use std::net::SocketAddr;
use std::time::Duration;

use crate::lab::{Output, Process, eventually};
use crate::{Pair, STRICT_PAIR, programs, slow};

/// See the module.
#[derive(Debug)]
pub struct Flows {
    /// Both strict.
    pub pair: Pair,
    server: Process,
    /// Workloads that are to use relay-userspace, whatever the kernel can do.
    userspace: &'static [&'static str],
    /// The kernel takes over only what carries much.
    auto: bool,
    /// Connections and bytes, each byte counted once.
    expected: Cell<(u64, u64)>,
}

/// Of a connection: what `pattern` sends before its bytes.
const HEADER: u64 = 48;
const PORT: u16 = 7100;
/// By default, what carries less in both directions together does not move into the kernel.
const LITTLE: u64 = 1024 * 1024;
/// What carries as much in each direction does.
const MUCH: u64 = 12 * LITTLE;

impl Flows {
    /// `pattern serve` in `db`.
    #[track_caller]
    pub fn new() -> Self {
        Self::with("", &[])
    }

    /// With more top-level keys, and `userspace` for workloads that do not use the kernel's TLS.
    #[track_caller]
    pub fn with(more: &str, userspace: &'static [&'static str]) -> Self {
        let workloads = userspace.iter().fold(STRICT_PAIR.to_owned(), |yaml, name| {
            yaml.replace(&format!("name: {name},"), &format!("name: {name}, datapath: relay-userspace,"))
        });
        let pair = Pair::configured(Pair::lab(), &format!("{workloads}{more}"));
        let server = programs::pattern(pair.db(), PORT);
        Self { pair, server, userspace, auto: false, expected: Cell::new((0, 0)) }
    }

    /// With more top-level keys, and the datapath that is the default.
    #[track_caller]
    pub fn auto(more: &str) -> Self {
        Self { auto: true, ..Self::with(&format!("datapath: auto\n{more}"), &[]) }
    }

    /// The server's addresses, IPv4 and IPv6.
    pub fn both(&self) -> [SocketAddr; 2] {
        [self.pair.db().at(PORT), self.pair.db().at6(PORT)]
    }

    fn run(&self, args: &[String]) -> Output {
        // Over all of a test's connections; each gives up by itself when it stalls.
        self.pair.web().own("pattern").args(args).limit(slow::limit(400)).run().ok()
    }

    fn expect(&self, connections: u64, bytes: u64) {
        let (before, sum) = self.expected.get();
        self.expected.set((before + connections, sum + bytes));
    }

    /// One connection; its receivers sleep for `delay` first.
    #[track_caller]
    pub fn send(&self, to: SocketAddr, mode: &str, (up, down): (u64, u64), delay: Duration) {
        let seed = (self.expected.get().0 + 1) * 1_000_003;
        let numbers = [seed, up, down, u64::try_from(delay.as_millis()).unwrap_or(u64::MAX)];
        let words = ["send".to_owned(), to.to_string(), mode.to_owned()];
        self.run(&[&words[..], &numbers.map(|n| n.to_string())].concat());
        self.expect(1, HEADER + up + down);
    }

    /// One connection for each size, with as many bytes in each direction.
    #[track_caller]
    pub fn each(&self, to: SocketAddr, mode: &str, sizes: &[u64]) {
        let words = ["each".to_owned(), to.to_string(), mode.to_owned(), "77".to_owned()];
        let sizes_as_words: Vec<_> = sizes.iter().map(u64::to_string).collect();
        self.run(&[&words[..], &sizes_as_words].concat());
        self.expect(sizes.len() as u64, sizes.iter().map(|size| HEADER + 2 * size).sum());
    }

    /// Random connections.
    #[track_caller]
    pub fn random(&self, to: SocketAddr, seed: u64, count: u64, parallel: u64) {
        let numbers = [seed, count, parallel].map(|n| n.to_string());
        let words = ["random".to_owned(), to.to_string()];
        let output = self.run(&[&words[..], &numbers].concat()).json();
        assert_eq!((output["failed"].as_u64(), output["connections"].as_u64()), (Some(0), Some(count)));
        self.expect(count, output["bytes"].as_u64().expect("a number"));
    }

    /// Every connection was right at the server's end too.
    #[track_caller]
    pub fn served(&self) {
        let (connections, _) = self.expected.get();
        let lines = eventually(slow::limit(20), "the server's verdicts", || {
            let text = String::from_utf8(self.server.stdout()).ok()?;
            (text.lines().count() as u64 >= connections).then_some(text)
        });
        assert_eq!(lines.lines().count() as u64, connections);
        let wrong: Vec<_> = lines.lines().filter(|line| !line.contains("\"ok\"")).take(20).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
    }

    /// As [`Flows::served`]; the daemon counted every byte once on each side, and every connection was carried by the
    /// relay that was to carry it.
    #[track_caller]
    pub fn verdict(&self) {
        self.served();
        let (connections, bytes) = self.expected.get();
        let daemon = &self.pair.daemon;
        for labels in
            [[("workload", "db"), ("direction", "inbound")], [("workload", "web"), ("direction", "outbound")]]
        {
            daemon.wait_metric("mtlsd_connection_bytes_total", &labels, bytes as f64);
            let counted = daemon.metric("mtlsd_connection_bytes_total", &labels);
            assert!((counted - bytes as f64).abs() < 0.5, "{counted} bytes counted, {bytes} sent");
        }
        let best = if self.auto { daemon.auto_relay() } else { daemon.best_relay() };
        let right = |r: &crate::Record| {
            let userspace = r.datapath() == "relay-userspace";
            match (self.auto, r.sent().min(r.received()) >= MUCH, r.sent() + r.received() < LITTLE) {
                (true, false, true) => userspace,
                // It depends on how large the reads were, and on which direction ended first.
                (true, false, false) => userspace || r.datapath() == best,
                _ => {
                    r.datapath()
                        == if self.userspace.contains(&r.workload()) { "relay-userspace" } else { best }
                }
            }
        };
        let of = |log: &[crate::Record]| log.iter().filter(|r| right(r)).count() as u64;
        let logged = eventually(slow::limit(20), "a record of each end of each connection", || {
            let log = daemon.access_log();
            (log.len() as u64 >= 2 * connections).then_some(log)
        });
        assert_eq!((of(&logged), logged.len() as u64), (2 * connections, 2 * connections), "{best}");
        let odd = logged.iter().find(|r| !["", "reset"].contains(&r.reason()));
        assert!(odd.is_none(), "{odd:?}");
    }
}

impl Default for Flows {
    fn default() -> Self {
        Self::new()
    }
}
