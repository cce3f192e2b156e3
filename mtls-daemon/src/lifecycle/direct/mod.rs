//! `direct` on this node: its parts brought together (docs/design/direct.md).

mod client;
mod destroy;
mod events;
mod hold;
mod host;
mod journal;
mod leased;
mod links;
mod namespaces;
mod opened;
mod recovery;
mod server;
mod sessions;
mod unheard;
mod waiting;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mtls_direct::Limits;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

pub(super) use self::events::event;
use self::host::Host;
use self::journal::Journal;
pub(super) use self::namespaces::{let_all_go, let_go};
use self::sessions::{call, inbound, outbound, workloads};
use super::daemon::Daemon;
use crate::capture::{NoDirect, cgroup};
use crate::config::{Config, DirectChoice, Workload};
use crate::datapath::direct::drive::Driver;
use crate::datapath::direct::session::accept::{Bounds, Reception, serve};
use crate::datapath::direct::session::pool::{Connecting, Pair, Pool, Terms};
use crate::datapath::ktls::Defect;
use crate::datapath::relay::Admission;

/// What the daemon keeps of it.
pub struct Direct(Arc<Host>);

impl Daemon {
    /// This node for the driver, where direct connections can be had.
    fn direct_host(&self) -> Option<&Arc<Host>> {
        match self.direct.get() {
            Some(Ok(Direct(host))) => Some(host),
            Some(Err(_)) | None => None,
        }
    }

    /// Whether direct connections can be had.
    pub(super) fn is_direct(&self) -> bool {
        self.direct_host().is_some()
    }

    /// The direct connections that an earlier daemon left in the namespaces that are there by now.
    pub(super) fn take_over_direct(&self) {
        if let Some(host) = self.direct_host() {
            host.take_over();
        }
    }

    /// The daemon stops.
    pub(super) fn stop_direct(&self) {
        if let Some(host) = self.direct_host() {
            host.stop();
        }
    }

    /// For `mtlsd status`.
    pub(super) fn direct_detail(&self) -> String {
        match self.direct.get() {
            None => "no workload is configured for it (`direct: auto` or `require`)".to_owned(),
            Some(Err(why)) => why.clone(),
            Some(Ok(Direct(host))) => host.in_words(),
        }
    }
}

/// Whether anything is configured to be direct, also a pod that the cluster may tell of later.
pub(super) fn is_wanted(config: &Config) -> bool {
    let pods = config.kubernetes.is_some() && config.direct.default != DirectChoice::Never;
    pods || config.direct.listen.is_some() || config.workloads.iter().any(Workload::may_be_direct)
}

/// Starts it, where it is wanted and can be had.
pub(super) async fn start(daemon: &Arc<Daemon>) {
    let config = Arc::clone(&daemon.relay.snapshot.load().config);
    if !is_wanted(&config) {
        return;
    }
    match prepare(daemon) {
        Ok((mount, journal)) => {
            let limits = waits(config.timeouts.handshake);
            begin(daemon, &config, Host::new(Arc::clone(daemon), mount, journal, limits)).await;
        }
        Err(why) => {
            tracing::warn!(%why, "no direct connections on this machine: relays carry what is not `direct: require`");
            let _ = daemon.direct.set(Err(why));
        }
    }
}

/// Everything that may say no. The mount of cgroup v2, and where sessions are noted.
fn prepare(daemon: &Daemon) -> Result<(PathBuf, Journal), String> {
    hold::is_possible().map_err(|why| why.to_string())?;
    let relay = &daemon.relay;
    let ktls = relay.ktls.load();
    let abilities = ktls.as_ref().as_ref().map_err(|why| format!("kernel TLS is needed: {why}"))?;
    if abilities.has(Defect::SendfileStalls) {
        return Err(NoDirect::SendfileStalls.to_string());
    }
    relay.capture.switch_on_direct().map_err(|why| why.to_string())?;
    let runtime = &relay.snapshot.load().config.paths.runtime;
    let journal = Journal::open(runtime).map_err(|why| why.to_string())?;
    Ok((cgroup::mount_point().map_err(|why| why.to_string())?, journal))
}

/// Where a handshake may take longer than by default (10 s), so may each step of what stands in its place: a slow machine.
fn waits(handshake: Duration) -> Limits {
    let usual = Limits::default();
    let arming = usual.arming.max(handshake / 2);
    Limits {
        answer: usual.answer.max(handshake / 5),
        handshake: usual.handshake.max(handshake / 2),
        arming,
        peer_ready: usual.peer_ready.max(usual.accept + arming + Duration::from_secs(3)),
        ..usual
    }
}

async fn begin(daemon: &Arc<Daemon>, config: &Config, host: Host) {
    let listener = match config.direct.listen {
        Some(address) => match TcpListener::bind(address.get()).await {
            Ok(listener) => Some(listener),
            Err(error) => {
                tracing::error!(%error, %address, "direct.listen cannot be bound: other nodes' connections go by relay");
                None
            }
        },
        None => None,
    };
    let host = Arc::new(host);
    host.find_left();
    let (driver, teller) = Driver::new(Arc::clone(&host), host.limits);
    let _ = host.teller.set(teller);
    tokio::spawn(driver.run());
    tokio::spawn(unheard::watch(Arc::clone(&host)));
    let (events, opened) = mpsc::channel(64);
    let relay = Arc::clone(&daemon.relay);
    let connector = move |pair: Pair| -> Connecting { Box::pin(call(relay.snapshot.load_full(), pair)) };
    let pool = Pool::new(Box::new(connector), events, Terms::default());
    tokio::spawn(outbound(Arc::clone(&host), opened));
    if let Some(listener) = listener {
        let (accepted, arrivals) = mpsc::channel(64);
        let stop = daemon.stopping.subscribe();
        let reception = Reception {
            workloads: workloads(&host),
            admission: Admission::new(config.limits.handshakes, None),
            bounds: Bounds::default(),
            accepted,
        };
        tokio::spawn(serve(listener, reception, stop));
        tokio::spawn(inbound(Arc::clone(&host), arrivals));
    }
    let _ = host.pool.set(pool);
    if daemon.direct.set(Ok(Direct(host))).is_ok() {
        tracing::info!("direct connections can be had from now on");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_the_usual_ones_and_longer_where_a_handshake_may_take_longer() {
        let usual = Limits::default();
        for handshake in [Duration::from_millis(1), Duration::from_secs(10)] {
            assert_eq!(waits(handshake), usual, "{handshake:?}");
        }
        let slow = waits(Duration::from_secs(80));
        assert_eq!((slow.answer, slow.arming), (8 * usual.answer, 8 * usual.arming));
        assert!(slow.peer_ready > slow.accept + slow.arming);
        assert!(waits(Duration::from_secs(3600)).peer_ready > Duration::from_secs(720));
    }

    #[test]
    fn what_may_become_direct_is_got_ready_for_before_the_cluster_was_heard() {
        let wanted = |text: &str| is_wanted(&crate::snapshot::testing::config(text));
        assert!(!wanted("kubernetes: {}") && !wanted("direct: { default: auto }"));
        assert!(wanted("kubernetes: {}\ndirect: { default: auto }"));
        assert!(wanted("direct: { listen: '192.0.2.1:1' }"));
        assert!(wanted("workloads: [ { name: a, select: { netns: a }, direct: require } ]"));
    }
}
