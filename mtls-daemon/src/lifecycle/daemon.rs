//! The running daemon: what it holds, and its start and stop in order.

use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use time::OffsetDateTime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, watch};

use super::build::{Prepared, prepare};
use super::cluster::Following;
use super::crls::{self, CrlStore};
use super::error::{DaemonError, PrepareError};
use super::flows::{self, Keeper};
use super::lock::{Lock, make_directory};
use super::logging::LogControl;
use super::reconcile::Node;
use super::registry::Registry;
use super::secrets::{self, Secrets};
use super::supervisor::{self, Supervisor};
use super::verify::keep::{self as coverage, Coverage};
use super::{alarms, arrivals, cluster, enroll, leases, ocsp, offload, serve, watch as files};
use crate::capture::{Capture, EbpfLog};
use crate::cluster::Cluster;
use crate::config::{self, Config, Loaded, Offer, Sources};
use crate::control::http::{HttpServer, Readiness};
use crate::control::{admin, socket};
use crate::datapath::relay::{Admission, Relay};
use crate::identity::alarm::Told;
use crate::identity::{IdentityStore, Revocations};
use crate::lease::Leases;
use crate::observe::access_log::{AccessLog, Target};
use crate::observe::metrics::Metrics;
use crate::observe::observer::Observer;
use crate::observe::recorder::Recorder;
use crate::policy::external::Calls;
use crate::sys;

/// How often namespaces, cgroups and counters are looked at.
const TICK: Duration = Duration::from_millis(500);
/// Open files that the daemon asks for: two for each of the connections that `limits.connections` allows by
/// default, and some.
const DESCRIPTORS: u64 = 262_144;
/// Least time between two looks that events ask for.
const LOOK_PAUSE: Duration = Duration::from_millis(20);

/// Everything that lives as long as the process.
pub struct Daemon {
    pub(super) config_file: PathBuf,
    pub(super) started: OffsetDateTime,
    pub(super) relay: Arc<Relay>,
    pub(super) store: Arc<IdentityStore>,
    pub(super) revocations: Arc<Revocations>,
    pub(super) crls: CrlStore,
    /// The policy under which the CRLs in force were put there.
    pub(super) crl_policy: Mutex<Option<config::CrlPolicy>>,
    pub(super) readiness: Readiness,
    pub(super) changing: Mutex<Changing>,
    /// Why the last reload was refused. Not with `changing`, which a reload holds for as long as it takes: the watchdog's status line
    /// must not wait for it.
    pub(super) last_refusal: Mutex<Option<String>>,
    pub(super) node: Mutex<Node>,
    pub(super) stopping: watch::Sender<bool>,
    /// What was enrolled by command and waits to be confirmed. Whoever holds the lock is the only one who writes such drop-ins.
    pub(super) enrolling: Mutex<Option<enroll::Waiting>>,
    /// Wakes the regular look at the node before its time.
    pub(super) look_now: Notify,
    /// The cluster that the node is part of.
    pub(super) following: Mutex<Following>,
    /// The alarms that the log was told of.
    pub(super) told: Mutex<Told>,
    pub(super) secrets: Secrets,
    pub(super) keeper: Arc<Keeper>,
    /// What the last looks at the coverage found.
    pub(super) coverage: Mutex<Coverage>,
    /// Set where direct connections are configured: they, or why there are none.
    pub(super) direct: std::sync::OnceLock<Result<super::direct::Direct, String>>,
    log: LogControl,
}

/// What a reload replaces. Whoever holds the lock is the only one who changes the snapshot.
pub(super) struct Changing {
    pub prepared: Prepared,
    pub registry: Registry,
    pub generation: u64,
    pub loaded: OffsetDateTime,
    /// The files of the configuration in force.
    pub sources: Sources,
    /// What the cluster offered when it was made.
    pub offer: Arc<Offer>,
}

/// Runs the daemon until SIGTERM or SIGINT.
///
/// # Errors
/// Why it cannot start.
pub async fn run(config_file: &Path) -> Result<(), DaemonError> {
    let log = LogControl::start();
    // First of all: a SIGTERM during the start is obeyed when there is something to stop, and never lost.
    let signals = Signals::handle()?;
    raise_descriptor_limit();
    let nothing = Offer::default();
    let mut loaded = Config::load_with(config_file, None, &nothing)?;
    log.set_level(loaded.config.log.level);
    if enroll::put_back_overdue(&loaded.config) {
        loaded = Config::load_with(config_file, None, &nothing)?;
    }
    let config = &loaded.config;
    warn_about(config);
    let _lock = Lock::take(&config.paths.runtime)?;
    make_directory(&config.paths.state)?;
    let metrics_server = match config.metrics {
        Some(address) => Some(HttpServer::bind(address).await?),
        None => None,
    };
    let admin_socket = socket::AdminSocket::bind(&config.paths.runtime.join("admin.sock"))?;
    let (capture, events) =
        Capture::attach(&config.paths.bpffs, config.cgroup_root.as_deref(), ebpf_log(config.log.ebpf))?;
    // Before there is any key, and in this order: what is locked cannot be given back.
    sys::memory::give_back();
    let secrets = protect_secrets();
    let cluster = cluster::start(config)?;
    if let Some(cluster) = &cluster {
        cluster::hear(cluster, &capture).await;
    }
    let daemon = Arc::new(Daemon::new(config_file, (loaded, cluster), capture, log, secrets)?);

    let stopped = daemon.stopping.subscribe();
    let stop = move || {
        let mut stopped = stopped.clone();
        async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        }
    };
    if let Some(server) = metrics_server {
        let view = Arc::clone(&daemon);
        tokio::spawn(server.serve(move || view.metrics_text(), daemon.readiness.clone(), stop()));
    }
    tokio::spawn(admin::serve_admin(admin_socket, Arc::clone(&daemon), stop()));
    tokio::spawn(serve::events(Arc::clone(&daemon), events));
    tokio::spawn(Arc::clone(&daemon.store).run());
    tokio::spawn(files::identities(Arc::clone(&daemon)));
    tokio::spawn(files::configuration(Arc::clone(&daemon)));

    // Before the first connection: what is on disk counts from the start.
    daemon.look_at_crls(true);
    tokio::spawn(crls::keep(Arc::clone(&daemon)));
    daemon.look_at_ocsp();
    tokio::spawn(ocsp::keep(Arc::clone(&daemon)));
    tokio::spawn(leases::keep(Arc::clone(&daemon)));
    tokio::spawn(flows::keep(Arc::clone(&daemon)));
    super::direct::start(&daemon).await;
    daemon.reconcile();
    tokio::spawn(cluster::keep(Arc::clone(&daemon)));
    tokio::spawn(arrivals::watch(Arc::clone(&daemon)));
    tokio::spawn(coverage::keep(Arc::clone(&daemon)));
    daemon.readiness.clear(Readiness::STARTING);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), pid = std::process::id(), "mtlsd is ready");
    let mut supervisor = Supervisor::of_this_process();
    supervisor.ready(daemon.status_line());
    daemon.attend(signals, &mut supervisor).await;
    supervisor.stopping(daemon.relay.snapshot.load().config.timeouts.drain);
    daemon.stop().await;
    Ok(())
}

/// What the daemon is told by signals.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn handle() -> Result<Self, DaemonError> {
        let handle = |kind, what| signal(kind).map_err(|source| DaemonError::System { what, source });
        Ok(Self {
            terminate: handle(SignalKind::terminate(), "handle SIGTERM")?,
            interrupt: handle(SignalKind::interrupt(), "handle SIGINT")?,
            hangup: handle(SignalKind::hangup(), "handle SIGHUP")?,
        })
    }
}

/// A relayed connection has two sockets: the usual soft limit of 1,024 would be 500 connections.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let outcome = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let wanted = hard.max(DESCRIPTORS);
        // Root may raise the hard limit too; where it may not, the hard limit is what there is.
        setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted)
            .or_else(|_| if soft < hard { setrlimit(Resource::RLIMIT_NOFILE, hard, hard) } else { Ok(()) })
    });
    if let Err(error) = outcome {
        tracing::warn!(%error, "the limit of open files could not be raised; connections may be refused");
    }
}

/// Before the first key is read or made.
fn protect_secrets() -> Secrets {
    let secrets = secrets::protect();
    if let Some(why) = &secrets.swapped {
        tracing::warn!("{why}");
    }
    if let Some(error) = &secrets.dumped {
        tracing::warn!(%error, "a crash may write keys into a core dump; set LimitCORE=0 in the unit");
    }
    secrets
}

fn warn_about(config: &Config) {
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
}

fn ebpf_log(log: config::EbpfLog) -> EbpfLog {
    match log {
        config::EbpfLog::Off => EbpfLog::Off,
        config::EbpfLog::Info => EbpfLog::Info,
        config::EbpfLog::Debug => EbpfLog::Debug,
    }
}

/// Where the configuration wants the access log.
pub(super) fn log_target(config: &Config) -> Target {
    match &config.access_log {
        config::AccessLog::Stdout => Target::Stdout,
        config::AccessLog::Off => Target::Off,
        config::AccessLog::File(path) => Target::File(path.clone()),
    }
}

impl Daemon {
    fn new(
        config_file: &Path,
        (loaded, cluster): (Loaded, Option<Cluster>),
        capture: Capture,
        log: LogControl,
        secrets: Secrets,
    ) -> Result<Self, DaemonError> {
        let Loaded { mut config, sources } = loaded;
        let mut following = Following::of(cluster);
        // What an earlier daemon heard holds from the start.
        let heard = following.offer(&config);
        let waits = following.is_of_a_cluster() && heard.is_none();
        let offer = Arc::new(heard.unwrap_or_default());
        if *offer != Offer::default() {
            config = sources.with(&offer)?;
            following.judged(&config, &offer);
        }
        let metrics = Metrics::new(env!("CARGO_PKG_VERSION"));
        let access_log = AccessLog::start(log_target(&config), metrics.access_log_lost())?;
        let entries = usize::try_from(config.recorder.entries).ok().and_then(NonZeroUsize::new);
        let recorder = Recorder::new(entries.unwrap_or(NonZeroUsize::MIN));
        let observer = Arc::new(Observer::new(recorder, metrics, access_log));
        let store = Arc::new(IdentityStore::new());
        let prepared = prepare(config)?;
        let state = prepared.config.paths.state.clone();
        let revocations = Arc::new(Revocations::open(&state)?);
        let leases = Arc::new(Leases::default());
        // A source that fails is logged by the store, retried, and its workload fails closed meanwhile.
        store.apply(prepared.sources.clone());
        let mut registry = Registry::new(Arc::clone(&revocations), Arc::clone(&leases));
        let ktls = offload::ask(&prepared.config);
        let snapshot = prepared.snapshot(1, &store, &ktls, &mut registry, observer.metrics());
        leases.set_terms(leases::terms(&snapshot));
        let keeper = Arc::new(Keeper::open(&prepared.config));
        let relay = Arc::new(Relay {
            capture: Arc::new(capture),
            admission: ArcSwap::from_pointee(Admission::new(prepared.config.limits.handshakes, None)),
            snapshot: ArcSwap::from_pointee(snapshot),
            ktls: ArcSwap::from_pointee(ktls),
            leases,
            external: Arc::new(Calls::new(Arc::clone(observer.metrics().external()))),
            flows: Arc::clone(keeper.flows()),
            observer,
            probes: Arc::new(Observer::silent()),
        });
        let now = OffsetDateTime::now_utc();
        let readiness = Readiness::new();
        if waits {
            readiness.block(cluster::CAUSE, cluster::NOT_HEARD.to_owned());
        }
        let changing = Changing { prepared, registry, generation: 1, loaded: now, sources, offer };
        Ok(Self {
            config_file: config_file.to_owned(),
            started: now,
            relay,
            store,
            revocations,
            crls: CrlStore::new(&state),
            crl_policy: Mutex::default(),
            readiness,
            changing: Mutex::new(changing),
            last_refusal: Mutex::default(),
            node: Mutex::default(),
            enrolling: Mutex::new(enroll::Waiting::left_behind(&state)),
            stopping: watch::channel(false).0,
            look_now: Notify::new(),
            following: Mutex::new(following),
            told: Mutex::default(),
            coverage: Mutex::default(),
            secrets,
            keeper,
            direct: std::sync::OnceLock::new(),
            log,
        })
    }

    /// Signals and the regular look at the node, until it is time to stop.
    async fn attend(self: &Arc<Self>, mut signals: Signals, supervisor: &mut Supervisor) {
        let mut tick = tokio::time::interval(TICK);
        let mut look_for_ktls = tokio::time::interval(offload::LOOK);
        let mut look_at_alarms = tokio::time::interval(alarms::LOOK);
        loop {
            tokio::select! {
                _ = signals.terminate.recv() => return,
                _ = signals.interrupt.recv() => return,
                _ = signals.hangup.recv() => {
                    self.relay.observer.access_log().reopen();
                    supervisor.reloading();
                    self.reload();
                    supervisor.ready(self.status_line());
                }
                _ = tick.tick() => {
                    self.reconcile();
                    self.look_at_unconfirmed();
                    supervisor.served(Instant::now(), self.status_line());
                }
                _ = look_for_ktls.tick() => self.look_for_ktls(),
                _ = look_at_alarms.tick() => self.look_at_alarms(),
                () = self.look_now.notified() => {
                    self.reconcile();
                    tokio::time::sleep(LOOK_PAUSE).await;
                }
            }
        }
    }

    /// Stops accepting, lets connections finish for `timeouts.drain`, then ends them. The programs stay
    /// attached: strict workloads are closed, not open, while the daemon is away.
    async fn stop(&self) {
        tracing::info!("stopping");
        self.readiness.block("stopping", "the daemon is stopping");
        self.stopping.send_replace(true);
        lock(&self.node).leave_all();
        self.stop_direct();
        let drain = self.relay.snapshot.load().config.timeouts.drain;
        let deadline = tokio::time::Instant::now() + drain;
        while self.relay.observer.recorder().live_count() > 0 && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        lock(&self.changing).registry.stop_all();
        for _ in 0..100 {
            if self.relay.observer.recorder().live_count() == 0 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let log = self.relay.observer.access_log();
        let keeper = Arc::clone(&self.keeper);
        let _ = tokio::task::spawn_blocking(move || {
            let _ = log.flush(Duration::from_secs(2));
            keeper.write();
        })
        .await;
        tracing::info!("stopped; what is pinned stays in force until `mtlsd uninstall`");
    }

    fn status_line(&self) -> String {
        supervisor::status(&self.readiness.reasons(), lock(&self.last_refusal).as_deref())
    }

    /// For events of the file system, which come in bursts: a configuration that is equal, or broken in the
    /// same way as before, is not spoken of again.
    pub(super) fn reload_if_changed(&self) {
        let offer = Arc::clone(&lock(&self.changing).offer);
        match Config::load_with(&self.config_file, None, &offer) {
            Ok(loaded) if lock(&self.changing).prepared.is_of(&loaded.config) => {
                lock(&self.changing).sources = loaded.sources;
            }
            Err(error) if lock(&self.last_refusal).as_deref() == Some(error.to_string().as_str()) => {}
            _ => {
                self.reload();
            }
        }
    }

    /// Loads the configuration anew: all of it, or none.
    pub(super) fn reload(&self) -> (bool, Vec<String>) {
        self.ask_again();
        let outcome = self.try_reload();
        let applied = outcome.is_ok();
        self.relay.observer.metrics().config_reloaded(applied);
        match outcome {
            Ok(messages) => {
                *lock(&self.last_refusal) = None;
                self.look_at_ocsp();
                self.reconcile();
                // The old configuration and what it took to read the new one.
                sys::memory::give_back();
                (true, messages)
            }
            Err(error) => {
                tracing::error!(%error, "the new configuration was refused; the last good one stays in force");
                *lock(&self.last_refusal) = Some(error.clone());
                (false, error.lines().map(str::to_owned).collect())
            }
        }
    }

    fn try_reload(&self) -> Result<Vec<String>, String> {
        let mut changing = lock(&self.changing);
        let loaded = Config::load_with(&self.config_file, None, &changing.offer);
        let Loaded { config, sources } = loaded.map_err(|error| error.to_string())?;
        let old = Arc::clone(&changing.prepared.config);
        if changing.prepared.is_of(&config) {
            // They may say another thing of pods that are still to come.
            changing.sources = sources;
            return Ok(vec!["nothing has changed".to_owned()]);
        }
        needs_no_restart(&old, &config).map_err(|error| error.to_string())?;
        let prepared = prepare(config).map_err(|error| error.to_string())?;
        let new = Arc::clone(&prepared.config);
        if new.access_log != old.access_log {
            let lost = self.relay.observer.metrics().access_log_lost();
            let log = AccessLog::start(log_target(&new), lost).map_err(|error| error.to_string())?;
            self.relay.observer.set_access_log(log);
        }
        warn_about(&new);
        self.log.set_level(new.log.level);
        if new.limits.handshakes != old.limits.handshakes {
            let before = self.relay.admission.load();
            self.relay.admission.store(Arc::new(Admission::new(new.limits.handshakes, Some(&before))));
        }
        self.bring_into_force(&mut changing, prepared)?;
        changing.sources = sources;
        tracing::info!(generation = changing.generation, "the new configuration is in force");
        Ok(vec![format!("{} workloads, {} rules", new.workloads.len(), new.policy.len())])
    }

    /// Puts another configuration in the place of the one in force: identities, tables, snapshot.
    ///
    /// # Errors
    /// If the tables cannot take it; everything is as it was.
    pub(super) fn bring_into_force(&self, changing: &mut Changing, prepared: Prepared) -> Result<(), String> {
        let new = Arc::clone(&prepared.config);
        self.store.apply(prepared.sources.clone());
        let generation = changing.generation + 1;
        let metrics = self.relay.observer.metrics();
        let ktls = self.relay.ktls.load_full();
        let snapshot = prepared.snapshot(generation, &self.store, &ktls, &mut changing.registry, metrics);
        // Held until the snapshot is in force: nobody else may bring the tables back to the old one.
        let mut node = lock(&self.node);
        if let Err(error) = self.try_tables(&mut node, &snapshot) {
            self.store.apply(changing.prepared.sources.clone());
            let Changing { prepared, registry, generation, .. } = changing;
            let before = prepared.snapshot(*generation, &self.store, &ktls, registry, metrics);
            if let Err(worse) = self.try_tables(&mut node, &before) {
                tracing::error!(error = %worse, "the eBPF tables could not be put back; trying again");
            }
            return Err(error.to_string());
        }
        changing.prepared = prepared;
        changing.generation = generation;
        changing.loaded = OffsetDateTime::now_utc();
        changing.registry.keep_only(|name| new.workload(name).is_some(), metrics);
        // An identity that has changed meanwhile announces that by itself.
        self.put_in_force(snapshot);
        node.tell_owners();
        drop(node);
        self.relay.flows.watch(&new);
        Ok(())
    }

    /// Makes a new snapshot of what is prepared, which identities there are, and what the kernel can do.
    pub(super) fn refresh_identities(&self) {
        let mut changing = lock(&self.changing);
        self.publish(&mut changing);
    }

    fn publish(&self, changing: &mut Changing) {
        let Changing { prepared, registry, generation, .. } = changing;
        let (ktls, metrics) = (self.relay.ktls.load(), self.relay.observer.metrics());
        let snapshot = prepared.snapshot(*generation, &self.store, &ktls, registry, metrics);
        self.put_in_force(snapshot);
    }

    fn metrics_text(&self) -> Result<String, std::fmt::Error> {
        self.count_overdue();
        let metrics = self.relay.observer.metrics();
        let external = &self.relay.snapshot.load().external;
        metrics.external().set_failing(external.as_ref().is_some_and(|external| external.is_failing()));
        let config = Arc::clone(&self.relay.snapshot.load().config);
        metrics.set_cluster(config.kubernetes.is_some().then(|| lock(&self.following).health(&config)));
        let (flows, evicted) = self.relay.flows.counts();
        metrics.set_flows(flows, evicted);
        for (label, value) in self.relay.capture.counters() {
            metrics.set_ebpf_counter(label, value);
        }
        metrics.encode()
    }
}

fn needs_no_restart(old: &Config, new: &Config) -> Result<(), PrepareError> {
    let settings = [
        (old.paths == new.paths, "paths"),
        (old.cgroup_root == new.cgroup_root, "cgroup_root"),
        (old.trust_domain == new.trust_domain, "trust_domain"),
        (old.metrics == new.metrics, "metrics"),
        (old.recorder == new.recorder, "recorder"),
        (old.flows == new.flows, "flows"),
        (old.log.ebpf == new.log.ebpf, "log.ebpf"),
        (old.direct.listen == new.direct.listen, "direct.listen"),
        (old.kubernetes == new.kubernetes, "kubernetes"),
    ];
    match settings.iter().find(|(same, _)| !same) {
        Some((_, name)) => Err(PrepareError::NeedsRestart(name)),
        None => Ok(()),
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What these locks guard is replaced whole; a panic while holding one leaves the old value.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
