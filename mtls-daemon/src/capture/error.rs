//! Why the eBPF side could not be set up.

use std::io;
use std::path::PathBuf;

/// Why the programs could not be loaded, attached or filled.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// No BPF file system at the configured directory.
    #[error("{path}: not on a BPF file system; mount one with `mount -t bpf bpf /sys/fs/bpf` or set paths.bpffs", path = .0.display())]
    NoBpffs(PathBuf),
    /// No cgroup v2 hierarchy is mounted.
    #[error(
        "no cgroup v2 file system is mounted; mount one with `mount -t cgroup2 none /sys/fs/cgroup/unified`, or set cgroup_root"
    )]
    NoCgroup2,
    /// Only a part of the hierarchy is mounted: a container's own.
    #[error(
        "{path}: only this container's own cgroup, where no other process is seen; mount the host's /sys/fs/cgroup there (hostPath in \
         Kubernetes), or start the container in the host's cgroup namespace", path = .0.display()
    )]
    OwnCgroupOnly(PathBuf),
    /// The configured root is not in a cgroup v2 hierarchy.
    #[error("{path}: not a cgroup v2 directory; set cgroup_root to one below the mount that `mount -t cgroup2` shows", path = .0.display())]
    NotACgroup(PathBuf),
    /// The process lacks rights.
    #[error(
        "no right to {what}: {source}; run mtlsd as root or give it CAP_BPF, CAP_PERFMON, CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN and CAP_SYS_PTRACE"
    )]
    NotPermitted {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The kernel refused the object.
    #[error(
        "cannot load the eBPF object: {0}; Linux 5.15 or newer with CONFIG_BPF_SYSCALL, CONFIG_CGROUP_BPF and CONFIG_DEBUG_INFO_BTF is needed"
    )]
    Load(#[from] aya::EbpfError),
    /// The kernel's verifier or an attach refused a program.
    #[error("eBPF program {program}: {source}")]
    Program {
        /// The program's name.
        program: &'static str,
        /// What aya or the kernel said.
        source: Box<aya::programs::ProgramError>,
    },
    /// A program or map is missing in the object: the build is broken.
    #[error("the eBPF object has no {0}; rebuild it with `cargo xtask ebpf build`")]
    Missing(&'static str),
    /// Something to which a program belongs is gone.
    #[error("the {0} is gone; if it is there again, restart mtlsd")]
    Gone(&'static str),
    /// The pin of a table was removed at the moment at which a program was loaded.
    #[error(
        "the pin of table {0} was removed while a program was loaded; nothing was attached, and it is tried again"
    )]
    Unpinned(&'static str),
    /// A table could not be read or written.
    #[error("eBPF map {map}: {source}")]
    Map {
        /// The map's name.
        map: &'static str,
        /// What aya or the kernel said.
        source: aya::maps::MapError,
    },
    /// A pin could not be made, opened or removed.
    #[error("{path}: {source}; look for another program that uses this directory, or run `mtlsd uninstall`", path = .path.display())]
    Pin {
        /// The pinned object.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

impl CaptureError {
    pub(super) fn pin(path: impl Into<PathBuf>, source: impl Into<io::Error>) -> Self {
        Self::Pin { path: path.into(), source: source.into() }
    }

    pub(super) fn map(map: &'static str) -> impl FnOnce(aya::maps::MapError) -> Self {
        move |source| Self::Map { map, source }
    }
}

/// Why a namespace could not be entered or watched over.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// A socket could not be made there.
    #[error("network namespace {netns}: cannot {what}: {source}", netns = .netns.display())]
    Socket {
        /// The namespace.
        netns: PathBuf,
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
    /// The loopback interface is down, so that nothing could be relayed.
    #[error("network namespace {netns}: its interface lo is down; bring it up with `ip -n NAME link set lo up`", netns = .0.display())]
    LoopbackDown(PathBuf),
    /// The eBPF side refused.
    #[error(transparent)]
    Capture(#[from] CaptureError),
}

/// Why there is no `direct` on this machine.
#[derive(Debug, thiserror::Error)]
pub enum NoDirect {
    /// The kernel refuses a tracing program.
    #[error(
        "the kernel refuses the tracing program {program}, without which descriptors cannot be learned: {source}; \
         Linux 6.5 or newer with CONFIG_FUNCTION_TRACER and CONFIG_DEBUG_INFO_BTF that lets mtlsd load tracing programs \
         (CAP_PERFMON, no lockdown) is needed; until then connections go by relay"
    )]
    Refused {
        /// The program's name.
        program: &'static str,
        /// What aya or the kernel said.
        source: Box<aya::programs::ProgramError>,
    },
    /// Nobody has said how system calls are named there.
    #[error("direct is not known on {0}, but on x86_64 and aarch64; connections go by relay")]
    Architecture(&'static str),
    /// [`Defect::SendfileStalls`](crate::datapath::ktls::Defect::SendfileStalls).
    #[error(
        "in this kernel sendfile() stalls on a TLS socket with a small TCP_NOTSENT_LOWAT, so that downloads of a web server would \
         hang; use Linux 6.5 or newer, until then connections go by relay"
    )]
    SendfileStalls,
    /// Something that the other programs need as well.
    #[error(transparent)]
    Capture(#[from] CaptureError),
}

/// Why the guard of a direct connection could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// No program has seen the socket.
    #[error("no eBPF program knows the socket; it was opened before its workload was enrolled, or is closed")]
    Unknown,
    /// It is no direct connection that is established and held.
    #[error("the socket is not held as a direct connection, but is of kind {0} (`mtls_common::SocketKind`)")]
    NotHeld(u32),
    /// The kernel's table refused.
    #[error(transparent)]
    Capture(#[from] CaptureError),
}

/// Why it could not be noted that a direct connection is let go.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseNoteError {
    /// The kernel has closed it meanwhile.
    #[error("the direct connection of socket {0} (cookie) is over: there is nothing to let go")]
    Gone(u64),
    /// The kernel's table refused.
    #[error(transparent)]
    Capture(#[from] CaptureError),
}
