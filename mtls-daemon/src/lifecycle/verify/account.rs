//! What accounts for a socket: the one decision, made from what the kernel says of it and the configuration in force.
//!
//! The programs leave their mark on every socket that they see (`SOCKETS`, a storage that lives and dies with the socket),
//! and what the daemon's listeners accept is born with the daemon's. A socket without a mark was seen by no program.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::net::SocketAddr;

use mtls_common::{SocketKind, SocketState};

use crate::config::{Exclusions, Mode, Unknown, Workload, is_never_captured};
use crate::datapath::relay::place::Owners;
use crate::snapshot::{Snapshot, WorkloadState};

/// What the programs know of a socket: the first words of [`SocketState`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// `None`: a kind that this version does not know.
    pub kind: Option<SocketKind>,
    /// The workload's number; 0 on sockets that were accepted.
    pub workload: u32,
}

impl Mark {
    const KINDS: [SocketKind; 14] = [
        SocketKind::Own,
        SocketKind::Captured,
        SocketKind::Delivered,
        SocketKind::Untouched,
        SocketKind::Blocked,
        SocketKind::Established,
        SocketKind::Flowing,
        SocketKind::Unclassified,
        SocketKind::DirectSyn,
        SocketKind::DirectHeld,
        SocketKind::DirectArmed,
        SocketKind::DirectFlowing,
        SocketKind::Probing,
        SocketKind::Probed,
    ];

    /// From the bytes of the socket's storage; `None` for what is not a [`SocketState`].
    #[must_use]
    pub fn parse(storage: &[u8]) -> Option<Self> {
        if storage.len() != size_of::<SocketState>() {
            return None;
        }
        let word = |at: usize| storage.get(at..)?.first_chunk().map(|word| u32::from_ne_bytes(*word));
        let (kind, workload) = (word(0)?, word(4)?);
        Some(Self { kind: Self::KINDS.into_iter().find(|known| known.raw() == kind), workload })
    }
}

/// A socket with a peer, as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Its own address.
    pub local: SocketAddr,
    /// Its peer's, which for a captured socket is the daemon's listener.
    pub remote: SocketAddr,
    /// The cgroup that it was made in.
    pub cgroup: Option<u64>,
    /// The user whose process made it.
    pub uid: u32,
    /// What the programs know of it.
    pub mark: Option<Mark>,
}

/// Workloads by who makes their sockets.
#[derive(Debug, Default)]
pub struct Makers {
    /// By cgroup.
    pub cgroups: HashMap<u64, u32>,
    /// By the namespace's cookie and the user.
    pub users: BTreeMap<(u64, u32), u32>,
}

impl Makers {
    fn of(&self, cookie: u64, seen: &Seen) -> Option<u32> {
        let by_cgroup = seen.cgroup.and_then(|cgroup| self.cgroups.get(&cgroup));
        by_cgroup.or_else(|| self.users.get(&(cookie, seen.uid))).copied()
    }
}

/// What there is in the socket's namespace.
pub struct Ground<'a> {
    /// The configuration in force.
    pub snapshot: &'a Snapshot,
    /// Whose the namespace and its ports are.
    pub owners: &'a Owners,
    /// Ports on which somebody listens.
    pub listening: &'a HashSet<u16>,
    /// The namespace's cookie.
    pub cookie: u64,
    /// Whose sockets are whose by who makes them.
    pub makers: &'a Makers,
}

/// What accounts for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Account {
    /// The daemon carries it: the application's end.
    Carried,
    /// A socket of the daemon.
    Daemon,
    /// The configuration leaves it alone.
    LeftAlone(Why),
    /// Plain, and the workload or the port is permissive.
    Permissive,
    /// Nothing does.
    Not(Lack),
}

/// Why a connection is left alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// Loopback, link-local, multicast: never captured.
    NeverCaptured,
    /// Its port or network is under `exclude`.
    Excluded,
    /// The port or the workload is disabled.
    Disabled,
    /// The directory does not know the destination, and the workload may go there.
    Unknown,
    /// The workload talks to itself.
    Itself,
    /// A prober of this node asks one of its `probe_ports`.
    Probe,
}

/// Why nothing accounts for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lack {
    /// No program saw it begin.
    NeverSeen,
    /// It was left alone when it began; now it would not be.
    LeftAloneBefore,
    /// It was captured, but does not lead to the daemon.
    TurnedElsewhere,
    /// The guard has blocked it.
    Blocked,
}

impl Account {
    /// The word in the counts.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Carried => "carried",
            Self::Daemon => "mtlsd's own",
            Self::LeftAlone(Why::NeverCaptured) => "local",
            Self::LeftAlone(Why::Excluded) => "excluded",
            Self::LeftAlone(Why::Disabled) => "disabled",
            Self::LeftAlone(Why::Unknown) => "to unknown destinations",
            Self::LeftAlone(Why::Itself) => "to itself",
            Self::LeftAlone(Why::Probe) => "probes",
            Self::Permissive => "permissive",
            Self::Not(_) => "unaccounted",
        }
    }
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NeverSeen => {
                "no program saw it begin: it is older than the enrolment, or its process was outside of the cgroup root, \
                 or a program was detached"
            }
            Self::LeftAloneBefore => {
                "it was left alone when it began; the configuration in force would protect it"
            }
            Self::TurnedElsewhere => "it was captured, but another program turned it away from mtlsd",
            Self::Blocked => "it is older than the enrolment; the guard lets nothing of it leave",
        })
    }
}

impl Lack {
    /// What to do.
    #[must_use]
    pub fn mend(self) -> &'static str {
        match self {
            Self::NeverSeen | Self::Blocked | Self::LeftAloneBefore => {
                "Restart the program that holds it, or close it there: its next connection is captured."
            }
            Self::TurnedElsewhere => {
                "See the check of the order of programs; then restart the program that holds it."
            }
        }
    }
}

/// The workload that a socket belongs to, and what accounts for it. `None`: it is no enrolled workload's. The daemon's own
/// sockets belong to no workload: 0.
#[must_use]
pub fn account(ground: &Ground<'_>, seen: &Seen) -> Option<(u32, Account)> {
    let by_port = || ground.workload(ground.owners.of(seen.local.port())?);
    let Some(mark) = seen.mark else {
        return unmarked(ground, seen);
    };
    let (workload, account) = match mark.kind {
        Some(SocketKind::Own) => return Some((0, Account::Daemon)),
        Some(SocketKind::Captured | SocketKind::Established | SocketKind::Flowing) => {
            let there = if seen.remote.ip().is_loopback() {
                Account::Carried
            } else {
                Account::Not(Lack::TurnedElsewhere)
            };
            (ground.workload(mark.workload)?, there)
        }
        // Nothing of it leaves or comes in but what its own keys protect.
        Some(
            SocketKind::DirectSyn
            | SocketKind::DirectHeld
            | SocketKind::DirectArmed
            | SocketKind::DirectFlowing,
        ) => (ground.workload(mark.workload)?, Account::Carried),
        Some(SocketKind::Delivered) => (by_port()?, Account::Carried),
        Some(SocketKind::Blocked) => (ground.workload(mark.workload)?, Account::Not(Lack::Blocked)),
        // A prober's own end is no workload's.
        Some(SocketKind::Probing) => return None,
        Some(SocketKind::Probed) => {
            let workload = ground.workload(mark.workload)?;
            let (settings, port) = (&workload.settings, seen.local.port());
            let account = if settings.probe_ports.contains(&port) {
                Account::LeftAlone(Why::Probe)
            } else if settings.mode_of_port(port) == Mode::Disabled {
                Account::LeftAlone(Why::Disabled)
            } else {
                wanted_and_not_had(workload, Lack::LeftAloneBefore)
            };
            (workload, account)
        }
        Some(SocketKind::Untouched) if mark.workload == 0 => (by_port()?, Account::LeftAlone(Why::Itself)),
        Some(SocketKind::Untouched) => {
            let workload = ground.workload(mark.workload)?;
            let account = match ground.outbound(workload, seen.remote) {
                Some(why) => Account::LeftAlone(why),
                None => wanted_and_not_had(workload, Lack::LeftAloneBefore),
            };
            (workload, account)
        }
        // Seen, but not how it began.
        None | Some(SocketKind::Unclassified) => return unmarked(ground, seen),
    };
    Some((workload.number, account))
}

/// Of a socket that no program saw.
fn unmarked(ground: &Ground<'_>, seen: &Seen) -> Option<(u32, Account)> {
    let port = seen.local.port();
    let inbound = ground.listening.contains(&port);
    let owner = if inbound {
        ground.owners.of(port)
    } else {
        ground.makers.of(ground.cookie, seen).or(ground.owners.whole)
    };
    let workload = ground.workload(owner?)?;
    let settings = &workload.settings;
    let never = is_never_captured(seen.remote.ip()) || is_never_captured(seen.local.ip());
    let everyone = &ground.snapshot.config.exclude;
    let account = if never {
        Account::LeftAlone(Why::NeverCaptured)
    } else if settings.mode_of_port(port) == Mode::Disabled {
        Account::LeftAlone(Why::Disabled)
    } else if inbound {
        match settings.mode_of_port(port) {
            _ if everyone.ports.contains(&port) || settings.exclude.ports.contains(&port) => {
                Account::LeftAlone(Why::Excluded)
            }
            Mode::Strict => Account::Not(Lack::NeverSeen),
            Mode::Permissive | Mode::Disabled => Account::Permissive,
        }
    } else {
        match ground.outbound(workload, seen.remote) {
            // It would have a mark, if it had come through connect(): only what is excluded needs none.
            Some(Why::Unknown) | None => wanted_and_not_had(workload, Lack::NeverSeen),
            Some(why) => Account::LeftAlone(why),
        }
    };
    Some((workload.number, account))
}

fn wanted_and_not_had(workload: &WorkloadState, lack: Lack) -> Account {
    match workload.settings.mode {
        Mode::Strict => Account::Not(lack),
        Mode::Permissive | Mode::Disabled => Account::Permissive,
    }
}

impl Ground<'_> {
    fn workload(&self, number: u32) -> Option<&WorkloadState> {
        let workload = self.snapshot.workloads.get(&number)?;
        (!workload.settings.is_left_alone()).then_some(workload.as_ref())
    }

    /// Why a connection of a workload to there is left alone; `None`: it is not. As the programs decide
    /// (`mtls-ebpf/src/classify.rs`).
    fn outbound(&self, workload: &WorkloadState, to: SocketAddr) -> Option<Why> {
        let settings = &workload.settings;
        if settings.mode == Mode::Disabled {
            return Some(Why::Disabled);
        }
        if is_never_captured(to.ip()) {
            return Some(Why::NeverCaptured);
        }
        if [&self.snapshot.config.exclude, &settings.exclude].into_iter().any(|e| excludes(e, to)) {
            return Some(Why::Excluded);
        }
        let Some(destination) = self.snapshot.directory.lookup(to.ip(), to.port()) else {
            return match self.snapshot.unknown(settings, to) {
                Unknown::LeftAlone => Some(Why::Disabled),
                Unknown::Passes => Some(Why::Unknown),
                Unknown::Denied | Unknown::DeniedInside => None,
            };
        };
        let server = destination.local_workload.as_deref().and_then(|name| self.snapshot.by_name(name));
        let server = server.map(|server| &server.settings);
        if server.is_some_and(|server| is_disabled(server, to.port())) {
            return Some(Why::Disabled);
        }
        let itself = server.is_some_and(|server| server.name == settings.name);
        (itself && self.owners.whole == Some(workload.number)).then_some(Why::Itself)
    }
}

fn excludes(exclude: &Exclusions, to: SocketAddr) -> bool {
    exclude.ports.contains(&to.port()) || exclude.cidrs.iter().any(|network| network.contains(&to.ip()))
}

fn is_disabled(server: &Workload, port: u16) -> bool {
    server.mode_of_port(port) == Mode::Disabled || server.exclude.ports.contains(&port)
}

#[cfg(test)]
mod tests;
