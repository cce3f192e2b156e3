//! The tables. All are pinned by name below the configured bpffs directory.

use aya_ebpf::{
    bindings::{BPF_F_CLONE, BPF_F_NO_PREALLOC, bpf_map_type::BPF_MAP_TYPE_SK_STORAGE},
    btf_maps::SkStorage,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, RingBuf, SockHash},
};
use mtls_common::{
    AddressKey, BackendKey, Counter, DeliveryKey, Destination, DestinationPort, DirectPair, DirectSocket,
    Enclosure, Endpoint, Expected, ListenerKey, Namespace, Service, SharedPort, SocketState, SourceKey,
    UidKey, UnsentLimit, VerdictKey, Workload, WorkloadPort,
};

/// aya-ebpf's `SkStorage` has fixed flags; ours adds `BPF_F_CLONE`, so that what a listener of the daemon
/// accepts is born as the daemon's own.
#[repr(C)]
pub struct SocketStorage {
    r#type: *const [i32; BPF_MAP_TYPE_SK_STORAGE as usize],
    key: *const i32,
    value: *const SocketState,
    max_entries: *const [i32; 0],
    map_flags: *const [i32; (BPF_F_NO_PREALLOC | BPF_F_CLONE) as usize],
}

// SAFETY: the fields describe the map to the loader; they are never dereferenced.
unsafe impl Sync for SocketStorage {}

impl SocketStorage {
    const fn new() -> Self {
        use core::ptr::null;
        Self { r#type: null(), key: null(), value: null(), max_entries: null(), map_flags: null() }
    }
}

#[btf_map]
pub static SOCKETS: SocketStorage = SocketStorage::new();

/// Of direct connections whose TCP_NOTSENT_LOWAT somebody has set.
#[btf_map]
pub static LIMITS: SkStorage<UnsentLimit> = SkStorage::new();

/// Of connections to a Service whose endpoint was chosen here: the address that the application asked for. Port 0: none.
#[btf_map]
pub static ASKED: SkStorage<Endpoint> = SkStorage::new();

/// Namespace cookie → namespace.
#[map]
pub static NAMESPACES: HashMap<u64, Namespace> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// cgroup v2 ID → workload number; 0: it is known, and nobody's.
#[map]
pub static CGROUPS: HashMap<u64, u32> = HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);

/// Index 0: bit N is set when a cgroup at depth N below the root is a workload's.
#[map]
pub static CGROUP_LEVELS: Array<u32> = Array::with_max_entries(1, 0);

/// User → workload number; 0: it is known, and nobody's. A cgroup goes before.
#[map]
pub static UIDS: HashMap<UidKey, u32> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// Workload number → settings.
#[map]
pub static WORKLOADS: HashMap<u32, Workload> = HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);

/// Inbound mode of one port of one workload (`PortMode`).
#[map]
pub static PORT_MODES: HashMap<WorkloadPort, u32> = HashMap::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// Which workload owns a port of a shared namespace.
#[map]
pub static SHARED_PORTS: HashMap<SharedPort, u32> = HashMap::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// Ports that workloads which name none have bound, by the kernel's own account: closed until user space has learned them.
#[map]
pub static BOUND: LruHashMap<SharedPort, u32> = LruHashMap::with_max_entries(16384, 0);

/// Destination addresses that are never captured (workload 0: of every workload).
#[map]
pub static EXCLUDED: LpmTrie<AddressKey, u32> = LpmTrie::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// Destination ports that are never captured (workload 0: of every workload).
#[map]
pub static EXCLUDED_PORTS: HashMap<WorkloadPort, u32> = HashMap::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// Destination address → its set of directory entries.
#[map]
pub static ADDRESSES: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(1 << 18, BPF_F_NO_PREALLOC);

/// A set's port (0: every port) → destination. Holds two generations of the largest directory, since a
/// reload fills the new one before it drops the old.
#[map]
pub static DESTINATIONS: HashMap<DestinationPort, Destination> =
    HashMap::with_max_entries(1 << 18, BPF_F_NO_PREALLOC);

/// Address inside the cluster → `INSIDE_UNKNOWN` or `INSIDE_KNOWN`. Two generations, as above.
#[map]
pub static INSIDE: LpmTrie<[u8; 16], u32> = LpmTrie::with_max_entries(1 << 17, BPF_F_NO_PREALLOC);

/// A Service's address and port → its set of endpoints. Holds two generations, since a change adds the new ones first.
#[map]
pub static SERVICES: HashMap<Endpoint, Service> = HashMap::with_max_entries(1 << 15, BPF_F_NO_PREALLOC);

/// One of a set of endpoints → its address and port. Two generations, as above.
#[map]
pub static BACKENDS: HashMap<BackendKey, Endpoint> = HashMap::with_max_entries(1 << 17, BPF_F_NO_PREALLOC);

/// Decisions that need no handshake (`VERDICT_DENY`, `VERDICT_ALLOW`).
#[map]
pub static DENIED: HashMap<VerdictKey, u32> = HashMap::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// Clients' addresses that a port refuses at the SYN (`VERDICT_DENY`), and exceptions (`VERDICT_ALLOW`).
#[map]
pub static SOURCES: LpmTrie<SourceKey, u32> = LpmTrie::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// Index 0: where every process must belong to a workload.
#[map]
pub static ENCLOSURE: Array<Enclosure> = Array::with_max_entries(1, 0);

/// IDs of the cgroups below which every process must belong to a workload.
#[map]
pub static ENCLOSED: HashMap<u64, u32> = HashMap::with_max_entries(1024, BPF_F_NO_PREALLOC);

/// Cookies of the namespaces of workloads that are left alone.
#[map]
pub static LEFT_ALONE: HashMap<u64, u32> = HashMap::with_max_entries(4096, BPF_F_NO_PREALLOC);

/// The daemon's inbound listeners.
#[map]
pub static LISTENERS: SockHash<ListenerKey> = SockHash::with_max_entries(8192, 0);

/// Connections within a namespace that sk_lookup must let pass: the daemon's deliveries, with the client
/// that the application shall see, and a workload talking to itself (port 0: no other client).
#[map]
pub static DELIVERIES: LruHashMap<DeliveryKey, Endpoint> = LruHashMap::with_max_entries(65536, 0);

/// Cookie of a captured socket → the address that the wire shows for it, until it is established.
#[map]
pub static WIRE_ADDRESSES: LruHashMap<u64, Endpoint> = LruHashMap::with_max_entries(65536, 0);

/// Index 0: 1 when some workload may be direct; all that is for it alone looks here first.
#[map]
pub static DIRECT: Array<u32> = Array::with_max_entries(1, 0);

/// SYNs that shall reach the application's own listener. Twice each: with the namespace, and with 0 for the ingress
/// program, which cannot know the namespace before Linux 6.15.
#[map]
pub static EXPECTED: HashMap<DeliveryKey, Expected> = HashMap::with_max_entries(16384, BPF_F_NO_PREALLOC);

/// Where connections may be direct: there is a session, and no reason against it is remembered.
#[map]
pub static DIRECT_PAIRS: HashMap<DirectPair, u32> = HashMap::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// cgroups whose own processes, not those below them, are probers.
#[map]
pub static PROBERS: HashMap<u64, u32> = HashMap::with_max_entries(64, BPF_F_NO_PREALLOC);

/// Ports that a workload is probed on; workload 0: that some workload is.
#[map]
pub static PROBE_PORTS: HashMap<WorkloadPort, u32> = HashMap::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// Connections that probers have begun → until when their SYN is let in, in ns of CLOCK_BOOTTIME. Namespace 0: which one they lead
/// to is not known where they begin.
#[map]
pub static PROBES: LruHashMap<DeliveryKey, u64> = LruHashMap::with_max_entries(4096, 0);

/// Socket cookie → direct connection that is established.
#[map]
pub static DIRECT_SOCKETS: HashMap<u64, DirectSocket> = HashMap::with_max_entries(65536, BPF_F_NO_PREALLOC);

/// Thread (`bpf_get_current_pid_tgid`) → the descriptor of the connect() that it is in.
#[map]
pub static CONNECTING: LruHashMap<u64, i32> = LruHashMap::with_max_entries(16384, 0);

/// Thread → cookie of the direct connection that the accept() which it is in takes.
#[map]
pub static ACCEPTING: LruHashMap<u64, u64> = LruHashMap::with_max_entries(16384, 0);

#[map]
pub static COUNTERS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Counter::ALL.len() as u32, 0);

/// 1 MiB holds about 4,300 events.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// The settings of a workload. An owner without any is a strict one: the tables disagree, which must not open anything.
#[inline(always)]
pub fn settings(workload: u32) -> Workload {
    // SAFETY: copied at once.
    unsafe { WORKLOADS.get(&workload) }.copied().unwrap_or(Workload::UNKNOWN)
}

#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: this CPU's own slot.
        unsafe { *value += 1 };
    }
}
