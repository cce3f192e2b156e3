//! The ways for bytes that are compared. Each has two nodes of its own, each with one pod: the application's client
//! in `web`, nginx in `db`; they stand all the time, and those that are not measured have nothing to do.

mod direct;
mod envoy;
mod forwarders;
mod mtlsd;
pub mod server;
mod sidecar;
mod ztunnel;

use std::fmt;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow, bail};
use mtls_tests::certs::{Authority, Files, Leaf};
use mtls_tests::{Daemon, Lab, Pod, Process};

use self::direct::{NodeAddress, Opened};
use crate::machine;

/// The port of nginx.
const HTTP: u16 = 8080;

/// A system by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Plain TCP, the floor.
    Plain,
    /// mtlsd: rustls seals and opens the records.
    RelayUserspace,
    /// As [`Kind::RelayUserspace`] by the daemon that `MTLSD_BENCH_BASE` names: an older one that a change is compared with.
    Base,
    /// mtlsd: the kernel does, from the first byte.
    RelayKtls,
    /// mtlsd as it comes: begins in user space, moves into the kernel what carries much.
    Auto,
    /// mtlsd: no relay, the application's own sockets carry the records.
    Direct,
    /// A pair of Envoy sidecars.
    Envoy,
    /// A pair of stunnels.
    Stunnel,
    /// A pair of HAProxys.
    Haproxy,
    /// A pair of Istio's ztunnels; the binary that `MTLSD_BENCH_ZTUNNEL` names.
    Ztunnel,
}

impl Kind {
    /// In the order of the report.
    pub const ALL: [Self; 10] = [
        Self::Plain,
        Self::RelayUserspace,
        Self::Base,
        Self::RelayKtls,
        Self::Auto,
        Self::Direct,
        Self::Envoy,
        Self::Stunnel,
        Self::Haproxy,
        Self::Ztunnel,
    ];

    /// Whether it is measured without being asked for.
    #[must_use]
    pub fn is_usual(self) -> bool {
        self != Self::Base
    }

    /// As `--systems` has it; the base is `base` there.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::RelayUserspace => "relay-userspace",
            Self::Base => "relay-userspace (base)",
            Self::RelayKtls => "relay-ktls",
            Self::Auto => "auto",
            Self::Direct => "direct",
            Self::Envoy => "envoy",
            Self::Stunnel => "stunnel",
            Self::Haproxy => "haproxy",
            Self::Ztunnel => "ztunnel",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How much mtlsd has to know besides the two pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Rules of the policy, all in all; the one that allows the client is the last.
    pub rules: u32,
    /// Workloads of the client's node, all in all.
    pub workloads: u32,
}

/// Two nodes with a client's and a server's pod.
pub struct World {
    /// The namespaces.
    pub lab: Lab,
    /// Issues the peers' certificates.
    authority: Authority,
}

impl World {
    fn new() -> Self {
        let mut lab = Lab::new(&["web"]);
        lab.add_node("n2");
        lab.add_pod("n2", "db");
        lab.pod("web").sysctl("net.ipv4.ip_local_port_range", "1024 65535");
        for pod in ["web", "db"] {
            // Or thousands of closed connections wait for a minute, and connect() searches among them for a free port.
            lab.pod(pod).sysctl("net.ipv4.tcp_max_tw_buckets", "64");
        }
        let authority = Authority::new(lab.dir(), "bench");
        Self { lab, authority }
    }

    /// The client's pod.
    #[must_use]
    pub fn web(&self) -> &Pod {
        self.lab.pod("web")
    }

    /// The server's pod.
    #[must_use]
    pub fn db(&self) -> &Pod {
        self.lab.pod("db")
    }

    fn certificate(&self, name: &str) -> Files {
        self.authority.issue(name, &Leaf::good(&format!("spiffe://example.org/{name}")))
    }

    fn root(&self) -> &PathBuf {
        &self.authority.root
    }
}

/// What is between the client and nginx. Fields drop in this order.
#[derive(Default)]
struct Between {
    daemons: Vec<Daemon>,
    _addresses: Vec<NodeAddress>,
    processes: Vec<Process>,
    /// Where the client connects to, if not to nginx.
    address: Option<SocketAddr>,
    title: String,
    setting: String,
    commands: Vec<String>,
}

/// A system that is up.
pub struct Running {
    /// Which.
    pub kind: Kind,
    between: Between,
    readable: bool,
    _server: Process,
    /// Where it runs.
    pub world: World,
}

impl Running {
    /// Starts a system, and asks nginx through it.
    ///
    /// # Errors
    /// Why it cannot run here.
    pub fn start(kind: Kind) -> Result<Self> {
        Self::start_sized(kind, Size::default())
    }

    /// As [`Running::start`], for mtlsd with so many rules and workloads.
    ///
    /// # Errors
    /// As [`Running::start`].
    pub fn start_sized(kind: Kind, size: Size) -> Result<Self> {
        let started = catch_unwind(AssertUnwindSafe(|| {
            let world = World::new();
            let server = server::nginx(world.db(), HTTP)?;
            let between = match kind {
                Kind::Plain => Ok(Between {
                    title: "plain TCP".into(),
                    setting: "nothing between".into(),
                    ..Between::default()
                }),
                Kind::RelayUserspace | Kind::Base | Kind::RelayKtls | Kind::Auto | Kind::Direct => {
                    mtlsd::start(&world, kind, size)
                }
                Kind::Envoy => envoy::start(&world),
                Kind::Stunnel => forwarders::stunnel(&world),
                Kind::Haproxy => forwarders::haproxy(&world),
                Kind::Ztunnel => ztunnel::start(&world),
            }?;
            let mut running = Self { kind, between, readable: false, _server: server, world };
            running.readable = running.is_readable()?;
            Ok(running)
        }));
        // The lab's own helpers panic with the whole story.
        started.unwrap_or_else(|panic| {
            let said = panic.downcast_ref::<String>().cloned();
            let said = said.or_else(|| panic.downcast_ref::<&str>().map(|said| (*said).to_owned()));
            Err(anyhow!(said.unwrap_or_else(|| "it panicked".to_owned())))
        })
    }

    /// For the report.
    #[must_use]
    pub fn description(&self) -> crate::result::System {
        crate::result::System {
            name: self.kind.name().into(),
            title: self.between.title.clone(),
            setting: self.between.setting.clone(),
            commands: self.between.commands.clone(),
            readable: Some(self.readable),
            failure: None,
        }
    }

    /// What the client connects to.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.between.address.unwrap_or_else(|| self.world.db().at(HTTP))
    }

    /// Measures something, and checks that all its connections went by this system.
    ///
    /// # Errors
    /// Those of `measured`, and if one went another way.
    pub fn checked<T>(&self, measured: impl FnOnce() -> Result<T>) -> Result<T> {
        if self.kind != Kind::Direct {
            return measured();
        }
        let before = Opened::by(&self.between.daemons);
        let result = measured()?;
        let checked = Opened::by(&self.between.daemons).check_since(before);
        checked.with_context(|| direct::failures(&self.between.daemons)).map(|()| result)
    }

    /// Resident memory of what is between, bytes.
    ///
    /// # Errors
    /// When it ended.
    pub fn resident(&self) -> Result<f64> {
        self.processes()?.into_iter().map(machine::resident).sum()
    }

    /// The processes in between.
    ///
    /// # Errors
    /// When one ended.
    pub fn processes(&self) -> Result<Vec<u32>> {
        let daemons = self.between.daemons.iter().map(|daemon| daemon.ask(&["status"]).get("pid")?.as_u64());
        let daemons: Option<Vec<u64>> = daemons.collect();
        let mut pids: Vec<u32> = self.between.processes.iter().map(Process::pid).collect();
        for pid in daemons.context("`mtlsd status` names no pid")? {
            pids.push(u32::try_from(pid)?);
        }
        Ok(pids)
    }

    /// Whether nginx's bytes are on the wire. A wrong system would be measured without anybody noticing: they must be
    /// there without anything between, which shows that we would see them, and never otherwise.
    fn is_readable(&self) -> Result<bool> {
        let capture = self.world.lab.capture();
        let url = format!("http://{}{}", self.address(), server::path(64)?);
        let answer = self.world.web().run(&["curl", "-sS", "--max-time", "20", &url]);
        let traffic = capture.stop();
        if answer.code != Some(0) || answer.stdout.len() != 64 {
            bail!("nginx cannot be asked through it: {answer}");
        }
        let found = traffic.find(&answer.stdout);
        match (&found, self.kind) {
            (None, Kind::Plain) => {
                bail!("the answer in plain was not seen on the wire: the capture is at fault")
            }
            (Some(place), kind) if kind != Kind::Plain => {
                bail!("the answer crossed the wire in plain: {place}")
            }
            _ => {}
        }
        self.between.daemons.iter().try_for_each(|daemon| mtlsd::serves(daemon, self.kind))?;
        Ok(found.is_some())
    }
}
