//! The eBPF side of `direct`: what the daemon asks of it, one method for each step of docs/design/direct.md.

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Mutex;
use std::time::Duration;

use aya::Ebpf;
use aya::maps::{HashMap as KernelMap, MapData, MapError, SkStorage};
use mtls_common::{
    DeliveryKey, DirectPair, DirectSocket, Expected, Phase, Role, SocketKind, SocketState, UnsentLimit,
};
use nix::time::{ClockId, clock_gettime};

use super::address::{endpoint, socket_address};
use super::descriptor::{self, Tracing};
use super::error::{CaptureError, GuardError, NoDirect, ReleaseNoteError};
use super::tables::take;
use super::{Capture, Injector, lock};

/// `BPF_EXIST`: of an entry that is there.
const EXIST: u64 = 2;

/// The tables that only `direct` has, and the programs that are there only while it is on.
pub(super) struct Tables {
    expected: Mutex<KernelMap<MapData, DeliveryKey, Expected>>,
    pairs: Mutex<KernelMap<MapData, DirectPair, u32>>,
    sockets: Mutex<KernelMap<MapData, u64, DirectSocket>>,
    limits: Mutex<SkStorage<MapData, UnsentLimit>>,
    tracing: Mutex<Option<Tracing>>,
}

impl Tables {
    /// Is what `direct` needs wanted here?
    pub(super) fn is_on(&self) -> bool {
        lock(&self.tracing).is_some()
    }

    /// Opens them; what an earlier daemon expected comes to nobody any more.
    pub(super) fn open(object: &mut Ebpf) -> Result<Self, CaptureError> {
        let mut expected: KernelMap<MapData, DeliveryKey, Expected> = take(object, "EXPECTED")?;
        let stale: Vec<_> = expected.keys().filter_map(Result::ok).collect();
        for key in stale {
            let _ = expected.remove(&key);
        }
        // Nor has a session outlived it.
        let mut pairs: KernelMap<MapData, DirectPair, u32> = take(object, "DIRECT_PAIRS")?;
        let stale: Vec<_> = pairs.keys().filter_map(Result::ok).collect();
        for key in stale {
            let _ = pairs.remove(&key);
        }
        Ok(Self {
            expected: Mutex::new(expected),
            pairs: Mutex::new(pairs),
            sockets: Mutex::new(take(object, "DIRECT_SOCKETS")?),
            limits: Mutex::new(take(object, "LIMITS")?),
            tracing: Mutex::default(),
        })
    }

    fn note_released(&self, cookie: u64, session: u64) -> Result<(), ReleaseNoteError> {
        let mut sockets = lock(&self.sockets);
        let socket = sockets.get(&cookie, 0).map_err(|source| note_error(cookie, source))?;
        // Only what is there: one that the programs have forgotten in between must not come back.
        let released = DirectSocket { phase: Phase::Released as u32, session, ..socket };
        sockets.insert(cookie, released, EXIST).map_err(|source| note_error(cookie, source))
    }

    fn live(&self) -> Vec<Live> {
        let sockets = lock(&self.sockets);
        let known = sockets.iter().filter_map(Result::ok);
        known.filter_map(|(cookie, socket)| Live::read(cookie, &socket)).collect()
    }
}

fn note_error(cookie: u64, source: MapError) -> ReleaseNoteError {
    match source {
        MapError::KeyNotFound => ReleaseNoteError::Gone(cookie),
        MapError::SyscallError(error) if error.io_error.kind() == io::ErrorKind::NotFound => {
            ReleaseNoteError::Gone(cookie)
        }
        source => CaptureError::map("DIRECT_SOCKETS")(source).into(),
    }
}

/// A connection between two workloads, as the server's namespace sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Inbound {
    /// Cookie of the server's network namespace.
    pub netns: u64,
    /// The client's end.
    pub client: SocketAddr,
    /// The server's end.
    pub server: SocketAddr,
}

impl Inbound {
    fn key(self) -> DeliveryKey {
        DeliveryKey { netns: self.netns, from: endpoint(self.client), to: endpoint(self.server) }
    }

    /// For the ingress program, which does not know the namespace.
    fn anywhere(self) -> DeliveryKey {
        DeliveryKey { netns: 0, ..self.key() }
    }
}

/// A direct connection that the kernel has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Live {
    /// The socket's cookie.
    pub cookie: u64,
    /// Cookie of its network namespace.
    pub netns: u64,
    /// The workload's number.
    pub workload: u32,
    /// The destination's number in the directory; `None` for the server's end.
    pub destination: Option<u32>,
    /// Which end it is.
    pub role: Role,
    /// This end.
    pub local: SocketAddr,
    /// The other end.
    pub remote: SocketAddr,
    /// What an earlier daemon has done with it.
    pub phase: Phase,
    /// That daemon's number for the session it was made on, where it was let go.
    pub session: u64,
}

impl Live {
    /// `None`: a role or a phase that this version does not know.
    fn read(cookie: u64, socket: &DirectSocket) -> Option<Self> {
        Some(Self {
            cookie,
            netns: socket.netns,
            workload: socket.workload,
            destination: (socket.destination != 0).then_some(socket.destination),
            role: Role::from_raw(socket.role)?,
            local: socket_address(&socket.local),
            remote: socket_address(&socket.remote),
            phase: Phase::from_raw(socket.phase)?,
            session: socket.session,
        })
    }
}

impl Capture {
    /// Attaches what only `direct` needs, unless it is there: the programs that learn descriptors, and the guard of what comes
    /// in. To be called before a table says that a workload is direct; what is not to be had leaves everything as it was.
    ///
    /// # Errors
    /// Why this machine has no `direct`.
    pub fn switch_on_direct(&self) -> Result<(), NoDirect> {
        // In this order, as `take_over` has it.
        let not_attached = lock(&self.not_attached);
        let mut tracing = lock(&self.direct.tracing);
        if tracing.is_none() {
            self.held.restore_maps()?;
            let ours = |map| self.held.has_map(map);
            *tracing = Some(descriptor::attach(&self.pins, self.features, self.log, ours)?);
        }
        // Else with the others.
        if not_attached.is_none() {
            self.held.attach_direct()?;
        }
        Ok(())
    }

    /// Detaches the programs that learn descriptors: without them nothing new becomes direct. The guard stays, for the connections
    /// that there are.
    pub fn switch_off_direct(&self) {
        *lock(&self.direct.tracing) = None;
    }

    /// From now on connections of this workload to there are reported as [`DirectEvent::Syn`](super::DirectEvent::Syn).
    ///
    /// # Errors
    /// When the table is full (`E2BIG`).
    pub fn offer_direct(&self, workload: u32, to: SocketAddr) -> Result<(), CaptureError> {
        let pair = DirectPair { workload, to: endpoint(to) };
        lock(&self.direct.pairs).insert(pair, 1, 0).map_err(CaptureError::map("DIRECT_PAIRS"))
    }

    /// They go by relay again; one that did all the time is no error.
    pub fn withdraw_direct(&self, workload: u32, to: SocketAddr) {
        let _ = lock(&self.direct.pairs).remove(&DirectPair { workload, to: endpoint(to) });
    }

    /// For so long, the SYN of this connection goes to the application's own listener, and what is accepted is held.
    ///
    /// # Errors
    /// When the table is full (`E2BIG`).
    pub fn expect(&self, connection: Inbound, workload: u32, patience: Duration) -> Result<(), CaptureError> {
        let patience = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        let deadline = boot_time()?.saturating_add(patience);
        let expected = Expected { deadline, workload, reserved: 0 };
        let mut table = lock(&self.direct.expected);
        // The guard's first: no moment at which the SYN may come and its connection is not guarded.
        table.insert(connection.anywhere(), expected, 0).map_err(CaptureError::map("EXPECTED"))?;
        if let Err(source) = table.insert(connection.key(), expected, 0) {
            let _ = table.remove(&connection.anywhere());
            return Err(CaptureError::Map { map: "EXPECTED", source });
        }
        Ok(())
    }

    /// Takes it back. A connection that came meanwhile is none of it, and needs SOCK_DESTROY; one whose handshake ends later
    /// on a strict port is blocked.
    pub fn unexpect(&self, connection: Inbound) {
        let mut table = lock(&self.direct.expected);
        let _ = table.remove(&connection.key());
        let _ = table.remove(&connection.anywhere());
    }

    /// Lets TLS records pass from the next byte on, in both directions, and nothing else. `socket`: a duplicate of the
    /// application's descriptor. Gives the TCP_NOTSENT_LOWAT in bytes that the application wishes, if it does.
    /// `key_limit`: how many bytes one key may protect.
    ///
    /// # Errors
    /// When the socket is not held as a direct one.
    pub fn open_guard(
        &self,
        socket: BorrowedFd<'_>,
        key_limit: Option<NonZeroU64>,
    ) -> Result<Option<u32>, GuardError> {
        let mut sockets = lock(&self.sockets);
        let fd = socket.as_raw_fd();
        let state = sockets.get(&fd, 0).map_err(|_| GuardError::Unknown)?;
        if state.kind != SocketKind::DirectHeld.raw() {
            return Err(GuardError::NotHeld(state.kind));
        }
        // While it is held the programs write nothing into it.
        let kind = SocketKind::DirectArmed.raw();
        let armed = SocketState { kind, key_limit: key_limit.map_or(0, NonZeroU64::get), ..state };
        sockets.insert(&fd, armed, EXIST).map_err(CaptureError::map("SOCKETS"))?;
        match lock(&self.direct.limits).get(&fd, 0) {
            Ok(limit) => Ok((limit.wish != 0).then_some(limit.wish)),
            Err(MapError::KeyNotFound) => Ok(None),
            Err(source) => Err(CaptureError::map("LIMITS")(source).into()),
        }
    }

    /// Tells a daemon that starts later that this connection was let go. To be called before TCP_NOTSENT_LOWAT is raised: a
    /// daemon that is killed in between leaves a connection that is noted and still held.
    ///
    /// # Errors
    /// When the kernel has closed it: it must not be let go then.
    pub fn note_released(&self, cookie: u64, session: u64) -> Result<(), ReleaseNoteError> {
        self.direct.note_released(cookie, session)
    }

    /// Lets the injector's packets pass the guard: the SYN of a direct connection leaves by it to the true address
    /// ([`Injector::release`]).
    ///
    /// # Errors
    /// As [`Capture::mark_own`].
    pub fn mark_injector(&self, injector: &Injector) -> Result<(), CaptureError> {
        injector.sockets().try_for_each(|socket| self.mark_own(socket, None))
    }

    /// The direct connections that the kernel has, also those that an earlier daemon made.
    #[must_use]
    pub fn direct_sockets(&self) -> Vec<Live> {
        self.direct.live()
    }

    /// Whether the connection of this socket is established, and not over.
    #[must_use]
    pub fn has_direct_socket(&self, cookie: u64) -> bool {
        lock(&self.direct.sockets).get(&cookie, 0).is_ok()
    }

    /// Forgets one that the kernel no longer has; one that is not there is no error.
    pub fn forget_direct_socket(&self, cookie: u64) {
        let _ = lock(&self.direct.sockets).remove(&cookie);
    }
}

/// Nanoseconds of the clock that the programs read.
fn boot_time() -> Result<u64, CaptureError> {
    let now = clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(|errno| CaptureError::NotPermitted {
        what: "read CLOCK_BOOTTIME".to_owned(),
        source: errno.into(),
    })?;
    Ok(u64::try_from(Duration::from(now).as_nanos()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests;
