//! The eBPF side: loading, pinning and filling it, and hearing from it.

pub mod address;
mod apart;
pub mod cgroup;
mod descriptor;
pub mod direct;
pub mod error;
pub mod events;
pub mod held;
pub mod namespace;
pub mod order;
pub mod packet;
pub mod pins;
pub mod programs;
pub mod tables;

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use aya::Ebpf;
use aya::maps::{HashMap as KernelMap, MapData, PerCpuArray, RingBuf, SkStorage, SockHash};
use mtls_common::{Counter, Endpoint, ListenerKey, Namespace, SocketKind, SocketState};

pub use direct::{Inbound, Live};
pub use error::{CaptureError, EnrolError, GuardError, NoDirect, ReleaseNoteError};
pub use events::{Caller, CaptureEvent, DirectEvent, EventStream};
pub use held::Fault;
pub use mtls_common::Phase;
pub use namespace::{Injector, Listeners};
pub use order::Neighbour;
pub use packet::{HeldSyn, Unreachable};
pub use programs::{EbpfLog, Features};
pub use tables::Tables;
pub use tables::compare::Differences;

use crate::sys::netns::Netns;
use held::Held;
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
    direct: direct::Tables,
    held: Held,
    /// The tables again, to be read without waiting for who writes.
    reader: KernelTables,
    /// By how much the kernel's numbers of sets differ from those of the tables that were applied last.
    set_base: AtomicU32,
    /// The programs of the cgroup root, until they are attached.
    not_attached: Mutex<Option<Ebpf>>,
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
        let waits = pins.are_of_another_layout()?;
        let (mut object, features) = programs::load_cgroup_programs(&pins, log)?;
        apart::prepare();
        if log != EbpfLog::Off {
            events::forward_log(&mut object);
        }
        let events: RingBuf<MapData> = take(&mut object, "EVENTS")?;
        programs::pin_cgroup_programs(&pins, &mut object)?;
        let held = Held::open(&pins, &cgroup_root)?;
        let capture = Self {
            tables: Mutex::new(KernelTables::open(&mut object)?),
            listeners: Mutex::new(take(&mut object, "LISTENERS")?),
            sockets: Mutex::new(take(&mut object, "SOCKETS")?),
            wire_addresses: Mutex::new(take(&mut object, "WIRE_ADDRESSES")?),
            counters: take(&mut object, "COUNTERS")?,
            direct: direct::Tables::open(&mut object)?,
            reader: KernelTables::reader(&held)?,
            set_base: AtomicU32::new(0),
            held,
            pins,
            features,
            log,
            cgroup_root,
            not_attached: Mutex::new(Some(object)),
        };
        if waits {
            tracing::info!(
                "an mtlsd with tables of another layout stays in force until this one's are filled"
            );
        } else {
            capture.take_over()?;
        }
        Ok((capture, EventStream::open(events)?))
    }

    /// Attaches the programs to the cgroup root in the place of those that are pinned, unless that was done. After
    /// [`Capture::attach`] it is left to be done where the pinned ones have tables of another layout: the new ones are empty, and
    /// who is strict must be in them first.
    ///
    /// # Errors
    /// The kernel's refusal; another call tries again.
    pub fn take_over(&self) -> Result<(), CaptureError> {
        let mut waiting = lock(&self.not_attached);
        let Some(object) = waiting.as_mut() else { return Ok(()) };
        programs::attach_cgroup_programs(&self.pins, object, &self.cgroup_root)?;
        self.held.hold_attached()?;
        if self.direct.is_on() {
            self.held.attach_direct()?;
        }
        *waiting = None;
        self.pins.remove_other_maps()
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
        let base = lock(&self.tables).apply(wanted)?;
        self.set_base.store(base, Ordering::Relaxed);
        Ok(())
    }

    /// As [`Capture::apply`], whatever was written before.
    ///
    /// # Errors
    /// As there.
    pub fn apply_all(&self, wanted: &Tables) -> Result<(), CaptureError> {
        lock(&self.tables).doubt();
        self.apply(wanted)
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
        self.steer(netns, cookie)
    }

    /// Attaches the program of a namespace, or takes a pinned one over.
    ///
    /// # Errors
    /// When the kernel refuses the program.
    pub fn steer(&self, netns: &Netns, cookie: u64) -> Result<(), CaptureError> {
        self.held.restore_maps()?;
        let ours = |map| self.held.has_map(map);
        programs::attach_netns_program(&self.pins, self.features, self.log, netns, cookie, ours)?;
        self.held.hold(programs::NETNS_PROGRAM, cookie)
    }

    /// Leaves a namespace alone again.
    ///
    /// # Errors
    /// When the pin cannot be removed.
    pub fn release_namespace(&self, cookie: u64) -> Result<(), CaptureError> {
        lock(&self.tables).remove_namespace(cookie);
        self.held.let_go(cookie);
        Pins::remove(&self.pins.link(programs::NETNS_PROGRAM, cookie))
    }

    /// The cookies of every enrolled namespace, also of those that an earlier daemon enrolled.
    #[must_use]
    pub fn enrolled_namespaces(&self) -> Vec<u64> {
        let mut namespaces = lock(&self.tables).namespaces();
        // Those of an mtlsd with tables of another layout have nothing but their link.
        let links = self.pins.all_links().unwrap_or_default();
        namespaces.extend(
            links
                .into_iter()
                .filter(|(name, ..)| name == programs::NETNS_PROGRAM)
                .map(|(_, cookie, _)| cookie),
        );
        namespaces.sort_unstable();
        namespaces.dedup();
        namespaces
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

    /// What is not attached or pinned as the daemon made it, on the node and in these namespaces.
    #[must_use]
    pub fn faults(&self, namespaces: &[u64]) -> Vec<Fault> {
        self.held.faults(namespaces)
    }

    /// Puts one thing back. `namespace`: where the program of a namespace belongs.
    ///
    /// # Errors
    /// The kernel's refusal.
    pub fn repair(&self, fault: &Fault, namespace: Option<&Netns>) -> Result<(), CaptureError> {
        if self.held.repair(fault)? {
            return Ok(());
        }
        let (Some(netns), Some(cookie)) = (namespace, fault.namespace()) else {
            return Err(CaptureError::Gone("namespace"));
        };
        self.steer(netns, cookie)
    }

    /// Where the kernel's tables are not what they shall be; see [`tables::compare`].
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn differences(&self, wanted: &Tables) -> Result<Differences, CaptureError> {
        self.reader.differences(wanted, self.set_base.load(Ordering::Relaxed))
    }

    /// What the kernel knows of a namespace.
    #[must_use]
    pub fn namespace(&self, cookie: u64) -> Option<Namespace> {
        self.reader.namespace(cookie)
    }

    /// Changes what the kernel knows of a namespace.
    ///
    /// # Errors
    /// When the table is full.
    pub fn set_namespace(&self, cookie: u64, namespace: Namespace) -> Result<(), CaptureError> {
        lock(&self.tables).set_namespace(cookie, namespace)
    }

    /// The listeners to which the kernel steers: namespace and address family.
    #[must_use]
    pub fn steered_to(&self) -> HashSet<(u64, u32)> {
        let table = lock(&self.listeners);
        table.keys().filter_map(Result::ok).map(|key| (key.netns, key.family)).collect()
    }

    /// The map with what the programs know of each socket ([`SocketState`]).
    #[must_use]
    pub fn sockets(&self) -> Option<BorrowedFd<'_>> {
        self.held.map("SOCKETS")
    }

    /// Other programs where ours are; see [`order`].
    ///
    /// # Errors
    /// When the kernel cannot be asked.
    pub fn neighbours<'a>(
        &self,
        namespaces: impl IntoIterator<Item = (u64, &'a Netns)>,
    ) -> std::io::Result<Vec<Neighbour>> {
        order::neighbours(&self.held, &self.cgroup_root, namespaces)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while holding one of these locks leaves the map handle usable.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
