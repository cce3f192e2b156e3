//! Loading and attaching the programs, or taking over what an earlier daemon left pinned.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use aya::maps::{MapError, MapInfo};
use aya::programs::links::FdLink;
use aya::programs::{Program, ProgramError, SkLookup};
use aya::sys::SyscallError;
use aya::{BtfError, Ebpf, EbpfError, EbpfLoader, VerifierLogLevel};

use super::apart;
use super::cgroup;
use super::error::CaptureError;
use super::pins::Pins;
use crate::sys;
use crate::sys::bpf::AttachType;

/// The object that `cargo xtask ebpf build` made; committed, so that users need no eBPF toolchain.
pub(super) const OBJECT: &[u8] = aya::include_bytes_aligned!("../../ebpf/mtlsd.bpf.o");

/// Every table, in the object's spelling.
pub const MAPS: [&str; 38] = [
    "SOCKETS",
    "LIMITS",
    "ASKED",
    "NAMESPACES",
    "CGROUPS",
    "CGROUP_LEVELS",
    "UIDS",
    "WORKLOADS",
    "PORT_MODES",
    "SHARED_PORTS",
    "BOUND",
    "EXCLUDED",
    "EXCLUDED_PORTS",
    "ADDRESSES",
    "DESTINATIONS",
    "INSIDE",
    "SERVICES",
    "BACKENDS",
    "DENIED",
    "SOURCES",
    "ENCLOSURE",
    "ENCLOSED",
    "LEFT_ALONE",
    "LISTENERS",
    "DELIVERIES",
    "WIRE_ADDRESSES",
    "DIRECT",
    "EXPECTED",
    "DIRECT_PAIRS",
    "PROBERS",
    "PROBE_PORTS",
    "PROBES",
    "DIRECT_SOCKETS",
    "CONNECTING",
    "ACCEPTING",
    "COUNTERS",
    "EVENTS",
    "AYA_LOGS",
];

/// The programs on the cgroup root.
pub const CGROUP_PROGRAMS: [&str; 10] = [
    "connect4",
    "connect6",
    "bound4",
    "bound6",
    "getpeername4",
    "getpeername6",
    "getsockname4",
    "getsockname6",
    "tcp_events",
    "egress",
];

/// Programs that are attached to the cgroup root when the first workload may be direct: others shall not pay for them.
pub const DIRECT_PROGRAMS: [&str; 2] = ["ingress", "unsent_limit"];

/// Of [`CGROUP_PROGRAMS`], the one that the daemon's own cgroup has too.
pub const SOCK_OPS_PROGRAM: &str = "tcp_events";

/// The program on each enrolled network namespace.
pub const NETNS_PROGRAM: &str = "steer_inbound";

/// Where a program is attached.
#[must_use]
pub fn attach_type(program: &str) -> AttachType {
    match program {
        "connect4" => AttachType::Connect4,
        "connect6" => AttachType::Connect6,
        "bound4" => AttachType::PostBind4,
        "bound6" => AttachType::PostBind6,
        "getpeername4" => AttachType::GetPeerName4,
        "getpeername6" => AttachType::GetPeerName6,
        "getsockname4" => AttachType::GetSockName4,
        "getsockname6" => AttachType::GetSockName6,
        SOCK_OPS_PROGRAM => AttachType::SockOps,
        NETNS_PROGRAM => AttachType::SkLookup,
        "ingress" => AttachType::Ingress,
        "unsent_limit" => AttachType::SetSockOpt,
        _ => AttachType::Egress,
    }
}

/// What the kernel can do beyond the oldest one supported; bits as in `mtls-ebpf/src/features.rs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Features(u32);

impl Features {
    /// From the newest kernels to the oldest, and what is lost.
    const TRIALS: [(Self, &'static str); 3] = [
        (Self(0b11), "nothing"),
        (
            Self(0b101),
            "the guard of sockets opened before enrolment (bpf_get_netns_cookie in cgroup_skb, Linux 6.15)",
        ),
        (
            Self(0b00),
            "a choice of errno at connect(): every refusal there is EPERM (Linux 5.18); and that guard",
        ),
    ];

    /// True when packets of sockets that no hook has seen can be attributed to a namespace.
    #[must_use]
    pub fn guards_unseen_sockets(self) -> bool {
        self.0 & 0b10 != 0
    }
}

/// How verbose the programs are (`aya_log`): off, info or debug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EbpfLog {
    /// Log statements are dead code.
    Off,
    /// Up to info.
    Info,
    /// Up to debug.
    Debug,
}

/// What differs from one loaded object to another, by which the verifier removes what is dead.
#[derive(Debug, Clone, Copy)]
pub(super) struct Constants {
    features: Features,
    log_level: u8,
    netns_cookie: u64,
}

impl Constants {
    pub(super) fn new(features: Features, log: EbpfLog, netns_cookie: u64) -> Self {
        Self { features, log_level: log.level(), netns_cookie }
    }
}

impl EbpfLog {
    fn level(self) -> u8 {
        match self {
            Self::Off => 0,
            Self::Info => 3,
            Self::Debug => 4,
        }
    }
}

/// The kernel's own types.
const VMLINUX_BTF: &str = "/sys/kernel/btf/vmlinux";

/// Loads the object with every table pinned, or taken over from its pin.
pub(super) fn load(
    pins: &Pins,
    constants: Constants,
    verifier: VerifierLogLevel,
) -> Result<Ebpf, CaptureError> {
    load_with(&mut loader(), pins, &constants, verifier)
}

/// Each new one reads the kernel's types, which takes as long as the verifier.
pub(super) fn loader<'a>() -> EbpfLoader<'a> {
    EbpfLoader::new()
}

/// As [`load`], with a loader that may have been used before.
pub(super) fn load_with<'a>(
    loader: &mut EbpfLoader<'a>,
    pins: &Pins,
    constants: &'a Constants,
    verifier: VerifierLogLevel,
) -> Result<Ebpf, CaptureError> {
    for name in MAPS {
        loader.map_pin_path(name, pins.map(name));
    }
    loader.verifier_log_level(verifier);
    loader.override_global("NETNS_COOKIE", &constants.netns_cookie, true);
    loader.override_global("AYA_LOG_LEVEL", &constants.log_level, true);
    loader.override_global("FEATURES", &constants.features.0, true);
    loader.load(OBJECT).map_err(|error| match &error {
        EbpfError::MapError(MapError::CreateError { io_error, .. })
            if io_error.kind() == io::ErrorKind::PermissionDenied =>
        {
            let source = io::Error::from(io::ErrorKind::PermissionDenied);
            CaptureError::NotPermitted { what: "create eBPF maps".to_owned(), source }
        }
        _ => error.into(),
    })
}

/// Loads the programs of the cgroup root with the best features that this kernel takes.
///
/// # Errors
/// The kernel's refusal of the plainest set.
pub fn load_cgroup_programs(pins: &Pins, log: EbpfLog) -> Result<(Ebpf, Features), CaptureError> {
    // The loader would go on without.
    std::fs::metadata(VMLINUX_BTF)
        .map_err(|error| EbpfError::BtfError(BtfError::FileError { path: VMLINUX_BTF.into(), error }))?;
    let trials = Features::TRIALS.map(|(features, lost)| (Constants::new(features, log, 0), lost));
    let mut loader = loader();
    let mut refused = None;
    for (constants, lost) in &trials {
        let features = constants.features;
        // The words of a refused trial are read by nobody, and cost the kernel more than the trial.
        let verifier = if features.0 == 0 { VerifierLogLevel::default() } else { VerifierLogLevel::STATS };
        let mut object = load_with(&mut loader, pins, constants, verifier)?;
        // The last ones use the newest helpers: a refusal comes at once.
        match DIRECT_PROGRAMS
            .iter()
            .chain(CGROUP_PROGRAMS.iter().rev())
            .try_for_each(|name| load_program(&mut object, name))
        {
            Ok(()) => {
                if features != Features::TRIALS[0].0 {
                    tracing::warn!(lost, "this kernel lacks features that mtlsd would use");
                }
                return Ok((object, features));
            }
            Err(error) => refused = Some(error),
        }
    }
    Err(refused.unwrap_or(CaptureError::Missing("programs")))
}

pub(super) fn load_program(object: &mut Ebpf, name: &'static str) -> Result<(), CaptureError> {
    let program = object.program_mut(name).ok_or(CaptureError::Missing(name))?;
    let loaded = match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        _ => return Err(CaptureError::Missing(name)),
    };
    loaded.map_err(program_error(name))
}

/// Attaches the loaded programs to the cgroup root. A link that is already pinned keeps its place and gets
/// the new program in one step, so that there is no moment without one.
///
/// # Errors
/// The kernel's refusal, by program.
pub fn attach_cgroup_programs(pins: &Pins, object: &mut Ebpf, root: &Path) -> Result<(), CaptureError> {
    let mut targets = vec![open_cgroup(root)?];
    for name in CGROUP_PROGRAMS {
        attach_one(pins, object, name, &targets)?;
    }
    // Where an earlier daemon attached them they stay, with the new program.
    for name in DIRECT_PROGRAMS {
        let there = targets.iter().all(|(_, id)| pins.link(name, *id).exists());
        attach_one(pins, object, name, if there { &targets } else { &[] })?;
    }
    // The daemon's deliveries are announced by this program, which must see the daemon's own sockets.
    if let Some(own) = cgroup::own_outside_of(root) {
        targets.push(open_cgroup(&own)?);
        attach_one(pins, object, SOCK_OPS_PROGRAM, targets.get(1..).unwrap_or_default())?;
    }
    // Links on cgroups that are no longer ours.
    for (name, target, path) in pins.all_links()? {
        if name != NETNS_PROGRAM && !targets.iter().any(|(_, id)| *id == target) {
            Pins::remove(&path)?;
        }
    }
    Ok(())
}

pub(super) fn open_cgroup(path: &Path) -> Result<(File, u64), CaptureError> {
    let open = || {
        let cgroup = File::open(path)?;
        let id = cgroup.metadata()?.ino();
        Ok((cgroup, id))
    };
    open().map_err(|source: io::Error| CaptureError::pin(path, source))
}

fn attach_one(
    pins: &Pins,
    object: &mut Ebpf,
    name: &'static str,
    targets: &[(File, u64)],
) -> Result<(), CaptureError> {
    let program = object.program_mut(name).ok_or(CaptureError::Missing(name))?;
    for (cgroup, id) in targets {
        let path = pins.link(name, *id);
        if !adopt(&path, program, name)? {
            let link = attach_to_cgroup(program, name, cgroup).map_err(program_error(name))?;
            sys::bpf::object_pin(link.as_fd(), &path).map_err(|source| CaptureError::pin(&path, source))?;
        }
    }
    Ok(())
}

/// Pins the loaded programs of the cgroup root, from where they are attached again.
///
/// # Errors
/// The kernel's refusal.
pub(super) fn pin_cgroup_programs(pins: &Pins, object: &mut Ebpf) -> Result<(), CaptureError> {
    for name in CGROUP_PROGRAMS.into_iter().chain(DIRECT_PROGRAMS) {
        let program = object.program_mut(name).ok_or(CaptureError::Missing(name))?;
        let path = pins.program(name);
        Pins::remove(&path)?;
        program.pin(&path).map_err(|error| CaptureError::pin(&path, io::Error::other(error)))?;
    }
    Ok(())
}

/// Puts the program behind the link pinned at `path`. `false` when there is none that still has a target.
fn adopt(path: &Path, program: &Program, name: &'static str) -> Result<bool, CaptureError> {
    let Ok(link) = sys::bpf::object_get(path) else {
        Pins::remove(path)?;
        return Ok(false);
    };
    let fd = program.fd().map_err(program_error(name))?;
    if sys::bpf::link_update(link.as_fd(), fd.as_fd()).is_ok() {
        return Ok(true);
    }
    Pins::remove(path)?;
    Ok(false)
}

fn attach_to_cgroup(program: &Program, name: &str, cgroup: &File) -> Result<OwnedFd, ProgramError> {
    // aya gives the link of a sockopt program to nobody.
    sys::bpf::link_create(program.fd()?.as_fd(), cgroup.as_fd(), attach_type(name))
        .map_err(|io_error| ProgramError::SyscallError(SyscallError { call: "bpf_link_create", io_error }))
}

/// Attaches an instance of the sk_lookup program to a network namespace, or takes a pinned one over. `ours`: whether a map
/// is one of the tables that are filled.
///
/// # Errors
/// The kernel's refusal, or that somebody removes the pins of tables at this moment.
pub fn attach_netns_program(
    pins: &Pins,
    features: Features,
    log: EbpfLog,
    netns: &impl AsFd,
    cookie: u64,
    ours: impl Fn(u32) -> bool,
) -> Result<(), CaptureError> {
    let mut object = apart::load(pins, Constants::new(features, log, cookie))?;
    load_program(&mut object, NETNS_PROGRAM)?;
    let program = object.program_mut(NETNS_PROGRAM).ok_or(CaptureError::Missing(NETNS_PROGRAM))?;
    uses_our_tables(program, NETNS_PROGRAM, ours)?;
    let path = pins.link(NETNS_PROGRAM, cookie);
    if adopt(&path, program, NETNS_PROGRAM)? {
        return Ok(());
    }
    let program: &mut SkLookup = program.try_into().map_err(program_error(NETNS_PROGRAM))?;
    let mut attach = || {
        let id = program.attach(netns.as_fd())?;
        program.take_link(id)
    };
    let link = FdLink::from(attach().map_err(program_error(NETNS_PROGRAM))?);
    link.pin(&path).map_err(|error| CaptureError::pin(&path, io::Error::other(error)))?;
    Ok(())
}

/// Loading makes an empty table where the pin of one is missing: a program with it would let everything pass.
pub(super) fn uses_our_tables(
    program: &Program,
    name: &'static str,
    ours: impl Fn(u32) -> bool,
) -> Result<(), CaptureError> {
    let maps = program.info().and_then(|info| info.map_ids()).map_err(program_error(name))?;
    // Its constants are maps of its own, which the object's section names.
    let strangers = maps.unwrap_or_default().into_iter().filter(|id| !ours(*id));
    let table = strangers.filter_map(|id| MapInfo::from_id(id).ok()).find_map(|map| {
        let name = map.name_as_str()?;
        MAPS.into_iter().find(|table| *table == name)
    });
    table.map_or(Ok(()), |table| Err(CaptureError::Unpinned(table)))
}

fn program_error(program: &'static str) -> impl Fn(ProgramError) -> CaptureError {
    move |source| {
        if let ProgramError::SyscallError(error) = &source
            && error.io_error.kind() == io::ErrorKind::PermissionDenied
        {
            let source = io::Error::from(io::ErrorKind::PermissionDenied);
            return CaptureError::NotPermitted {
                what: format!("load or attach eBPF program {program}"),
                source,
            };
        }
        CaptureError::Program { program, source: Box::new(source) }
    }
}

#[cfg(test)]
mod tests;
