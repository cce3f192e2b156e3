//! The eBPF side: loading, pinning and filling it, and hearing from it.

pub mod address;
pub mod cgroup;
pub mod error;
pub mod events;
pub mod namespace;
pub mod packet;
pub mod pins;
pub mod programs;
pub mod tables;

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::maps::{HashMap as KernelMap, MapData, PerCpuArray, RingBuf, SkStorage, SockHash};
use mtls_common::{Counter, Endpoint, ListenerKey, Namespace, SocketKind, SocketState};

pub use error::{CaptureError, EnrolError};
pub use events::{CaptureEvent, EventStream};
pub use namespace::{Injector, Listeners};
pub use packet::{HeldSyn, Unreachable};
pub use programs::{EbpfLog, Features};
pub use tables::Tables;

use crate::sys::netns::Netns;
use pins::Pins;
use tables::{KernelTables, take};

/// The attached programs and their tables.
pub struct Capture {
    pins: Pins,
    features: Features,
    log: EbpfLog,
    cgroup_root: PathBuf,
    tables: Mutex<KernelTables>,
    listeners: Mutex<SockHash<MapData, ListenerKey>>,
    sockets: Mutex<SkStorage<MapData, SocketState>>,
    wire_addresses: Mutex<KernelMap<MapData, u64, Endpoint>>,
    counters: PerCpuArray<MapData, u64>,
}

impl Capture {
    /// Loads the programs, attaches them to the cgroup root (or takes over what is pinned) and opens the
    /// tables. Nothing is captured before a namespace is enrolled.
    ///
    /// # Errors
    /// What is missing on this machine, with the mend.
    pub fn attach(
        bpffs: &Path,
        cgroup_root: Option<&Path>,
        log: EbpfLog,
    ) -> Result<(Self, EventStream), CaptureError> {
        let cgroup_root = cgroup::root(cgroup_root)?;
        let pins = Pins::create(bpffs)?;
        let (mut object, features) = programs::load_cgroup_programs(&pins, log)?;
        if log != EbpfLog::Off {
            events::forward_log(&mut object);
        }
        let events: RingBuf<MapData> = take(&mut object, "EVENTS")?;
        let capture = Self {
            tables: Mutex::new(KernelTables::open(&mut object)?),
            listeners: Mutex::new(take(&mut object, "LISTENERS")?),
            sockets: Mutex::new(take(&mut object, "SOCKETS")?),
            wire_addresses: Mutex::new(take(&mut object, "WIRE_ADDRESSES")?),
            counters: take(&mut object, "COUNTERS")?,
            pins,
            features,
            log,
            cgroup_root,
        };
        programs::attach_cgroup_programs(&capture.pins, &mut object, &capture.cgroup_root)?;
        Ok((capture, EventStream::open(events)?))
    }

    /// What this kernel can do.
    #[must_use]
    pub fn features(&self) -> Features {
        self.features
    }

    /// Where the programs are attached.
    #[must_use]
    pub fn cgroup_root(&self) -> &Path {
        &self.cgroup_root
    }

    /// Brings the tables to `wanted`; see [`tables`] for the order.
    ///
    /// # Errors
    /// When a table cannot be written.
    pub fn apply(&self, wanted: &Tables) -> Result<(), CaptureError> {
        lock(&self.tables).apply(wanted)
    }

    /// Steers a namespace's inbound connections and captures its outbound ones. Without listeners (they
    /// could not be made) a strict workload's connections are refused in both directions.
    ///
    /// # Errors
    /// When the kernel refuses the program or the listeners.
    pub fn enrol_namespace(
        &self,
        netns: &Netns,
        cookie: u64,
        workload: u32,
        listeners: Option<&Listeners>,
    ) -> Result<(), CaptureError> {
        {
            let mut table = lock(&self.listeners);
            for (family, socket) in listeners.map(Listeners::inbound).into_iter().flatten() {
                let key = ListenerKey { netns: cookie, family, reserved: 0 };
                table.insert(key, socket, 0).map_err(CaptureError::map("LISTENERS"))?;
            }
        }
        let (outbound_v4, outbound_v6) = listeners.map_or((0, 0), Listeners::outbound_ports);
        lock(&self.tables).set_namespace(cookie, Namespace { workload, outbound_v4, outbound_v6 })?;
        programs::attach_netns_program(&self.pins, self.features, self.log, netns, cookie)
    }

    /// Leaves a namespace alone again.
    ///
    /// # Errors
    /// When the pin cannot be removed.
    pub fn release_namespace(&self, cookie: u64) -> Result<(), CaptureError> {
        lock(&self.tables).remove_namespace(cookie);
        Pins::remove(&self.pins.link(programs::NETNS_PROGRAM, cookie))
    }

    /// The cookies of every enrolled namespace, also of those that an earlier daemon enrolled.
    #[must_use]
    pub fn enrolled_namespaces(&self) -> Vec<u64> {
        lock(&self.tables).namespaces()
    }

    /// Marks a socket as the daemon's own, so that it is never captured. For a delivery, `client` is the
    /// address that the application shall see as its peer.
    ///
    /// # Errors
    /// When the kernel has no memory for it.
    pub fn mark_own(&self, socket: &impl AsRawFd, client: Option<SocketAddr>) -> Result<(), CaptureError> {
        let state = SocketState {
            kind: SocketKind::Own.raw(),
            peer: client.map_or_else(Endpoint::default, address::endpoint),
            ..SocketState::default()
        };
        lock(&self.sockets).insert(socket, state, 0).map_err(CaptureError::map("SOCKETS"))
    }

    /// Says which address the wire shows for a captured socket that is about to be established.
    ///
    /// # Errors
    /// When the table cannot be written.
    pub fn set_wire_address(&self, cookie: u64, local: SocketAddr) -> Result<(), CaptureError> {
        lock(&self.wire_addresses)
            .insert(cookie, address::endpoint(local), 0)
            .map_err(CaptureError::map("WIRE_ADDRESSES"))
    }

    /// The per-CPU counters, summed up.
    #[must_use]
    pub fn counters(&self) -> Vec<(&'static str, u64)> {
        Counter::ALL
            .iter()
            .map(|(counter, label)| {
                let values = self.counters.get(&(*counter as u32), 0);
                (*label, values.map_or(0, |values| values.iter().sum()))
            })
            .collect()
    }

    /// What should be attached and is not: (what, the namespace it belongs to if any).
    ///
    /// # Errors
    /// When the pin directory cannot be read.
    pub fn missing_links(&self, namespaces: &[u64]) -> Result<Vec<(String, Option<u64>)>, CaptureError> {
        let links = self.pins.all_links()?;
        let live = |name: &str, target: Option<u64>| {
            links.iter().any(|(found, at, path)| {
                found == name && target.is_none_or(|target| *at == target) && programs::is_attached(path)
            })
        };
        let mut missing = Vec::new();
        for name in programs::CGROUP_PROGRAMS {
            if !live(name, None) {
                missing.push((name.to_owned(), None));
            }
        }
        for cookie in namespaces {
            if !live(programs::NETNS_PROGRAM, Some(*cookie)) {
                missing.push((programs::NETNS_PROGRAM.to_owned(), Some(*cookie)));
            }
        }
        Ok(missing)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while holding one of these locks leaves the map handle usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
