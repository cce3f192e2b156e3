//! bpf(2) commands that aya 0.14 does not offer.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::libc;

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;

/// `BPF_F_QUERY_EFFECTIVE`.
const QUERY_EFFECTIVE: u32 = 1;
/// More programs of one type are never in force at one place: the kernel's `BPF_CGROUP_MAX_PROGS`, for each level.
const MOST_PROGRAMS: usize = 1024;

/// `struct { __u32 link_fd; __u32 new_prog_fd; __u32 flags; __u32 old_prog_fd; }` of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct LinkUpdate {
    link_fd: u32,
    new_prog_fd: u32,
    flags: u32,
    old_prog_fd: u32,
}

/// `struct { __aligned_u64 pathname; __u32 bpf_fd; __u32 file_flags; __s32 path_fd; }` of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct ObjectGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
    path_fd: i32,
    padding: u32,
}

/// `struct { __u32 bpf_fd; __u32 info_len; __aligned_u64 info; }` of `union bpf_attr`.
#[repr(C)]
struct GetInfo {
    bpf_fd: u32,
    info_len: u32,
    info: u64,
}

/// The start of `struct bpf_link_info`; the union's first word is `cgroup_id` or `netns_ino`, which the
/// kernel reports as 0 once the target is gone.
#[repr(C)]
#[derive(Default)]
struct LinkInfo {
    kind: u32,
    id: u32,
    prog_id: u32,
    padding: u32,
    target: u32,
    target_high: u32,
    rest: [u32; 26],
}

const BPF_LINK_TYPE_CGROUP: u32 = 3;

/// `struct { __u32 target_fd; __u32 attach_type; __u32 query_flags; __u32 attach_flags; __aligned_u64 prog_ids;
/// __u32 prog_cnt; __u32 :32; }` of `union bpf_attr`, as far as Linux 5.15 knows it.
#[repr(C)]
#[derive(Default)]
struct Query {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    padding: u32,
}

/// `struct { __u32 prog_fd; __u32 target_fd; __u32 attach_type; __u32 flags; }` of `union bpf_attr`.
#[repr(C)]
#[derive(Default)]
struct LinkCreate {
    prog_fd: u32,
    target_fd: u32,
    attach_type: u32,
    flags: u32,
}

/// Where programs are attached (`enum bpf_attach_type`); those that mtlsd uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum AttachType {
    /// `BPF_CGROUP_INET_INGRESS`
    Ingress = 0,
    /// `BPF_CGROUP_INET_EGRESS`
    Egress = 1,
    /// `BPF_CGROUP_SOCK_OPS`
    SockOps = 3,
    /// `BPF_CGROUP_INET4_CONNECT`
    Connect4 = 10,
    /// `BPF_CGROUP_INET6_CONNECT`
    Connect6 = 11,
    /// `BPF_CGROUP_INET4_POST_BIND`
    PostBind4 = 12,
    /// `BPF_CGROUP_INET6_POST_BIND`
    PostBind6 = 13,
    /// `BPF_CGROUP_SETSOCKOPT`
    SetSockOpt = 22,
    /// `BPF_CGROUP_INET4_GETPEERNAME`
    GetPeerName4 = 29,
    /// `BPF_CGROUP_INET6_GETPEERNAME`
    GetPeerName6 = 30,
    /// `BPF_CGROUP_INET4_GETSOCKNAME`
    GetSockName4 = 31,
    /// `BPF_CGROUP_INET6_GETSOCKNAME`
    GetSockName6 = 32,
    /// `BPF_SK_LOOKUP`
    SkLookup = 36,
}

/// What a link joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The link's own ID.
    pub id: u32,
    /// The program behind it.
    pub program: u32,
    /// The cgroup's ID, or the inode of the network namespace.
    pub target: u64,
}

/// What a link joins; `None` once its cgroup or namespace is gone, or it was detached by force
/// (`BPF_OBJ_GET_INFO_BY_FD`).
///
/// # Errors
/// `EBADF`, `EINVAL` for what is no link.
pub fn link(link: BorrowedFd<'_>) -> io::Result<Option<Link>> {
    let info = link_info(link)?;
    let high = if info.kind == BPF_LINK_TYPE_CGROUP { info.target_high } else { 0 };
    let target = u64::from(high) << 32 | u64::from(info.target);
    Ok((target != 0).then_some(Link { id: info.id, program: info.prog_id, target }))
}

/// IDs of the programs of one type at a cgroup or network namespace, in the order in which they run
/// (`BPF_PROG_QUERY`). `effective`: with those of the cgroups above.
///
/// # Errors
/// `EINVAL` for a descriptor of another kind, `EPERM` without CAP_NET_ADMIN.
pub fn attached(target: BorrowedFd<'_>, kind: AttachType, effective: bool) -> io::Result<Vec<u32>> {
    let mut ids = vec![0u32; 64];
    loop {
        let mut attributes = Query {
            target_fd: target.as_raw_fd().cast_unsigned(),
            attach_type: kind as u32,
            query_flags: if effective { QUERY_EFFECTIVE } else { 0 },
            prog_ids: ids.as_mut_ptr() as u64,
            prog_cnt: u32::try_from(ids.len()).unwrap_or(0),
            ..Query::default()
        };
        // SAFETY: the kernel writes at most `prog_cnt` words to `ids` and into the attributes; both live across the call.
        let result =
            unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_QUERY, &raw mut attributes, size_of::<Query>()) };
        let count = usize::try_from(attributes.prog_cnt).unwrap_or(0);
        if result == 0 {
            ids.truncate(count);
            return Ok(ids);
        }
        let error = io::Error::last_os_error();
        if error.raw_os_error() != Some(libc::ENOSPC) || ids.len() >= MOST_PROGRAMS {
            return Err(error);
        }
        ids.resize(count.max(ids.len() * 2).min(MOST_PROGRAMS), 0);
    }
}

/// Attaches a program to a cgroup or network namespace, behind those that are there (`BPF_LINK_CREATE`, Linux 5.7).
///
/// # Errors
/// `EEXIST`, `EINVAL` when the program is there already or of another type.
pub fn link_create(program: BorrowedFd<'_>, target: BorrowedFd<'_>, kind: AttachType) -> io::Result<OwnedFd> {
    let attributes = LinkCreate {
        prog_fd: program.as_raw_fd().cast_unsigned(),
        target_fd: target.as_raw_fd().cast_unsigned(),
        attach_type: kind as u32,
        flags: 0,
    };
    // SAFETY: the attributes live across the call and their size is given.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_LINK_CREATE, &raw const attributes, size_of::<LinkCreate>())
    };
    new_descriptor(result)
}

/// Pins an object of any kind (`BPF_OBJ_PIN`).
///
/// # Errors
/// `EEXIST` when something is pinned there.
pub fn object_pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
    let attributes = ObjectGet {
        pathname: path.as_ptr() as u64,
        bpf_fd: object.as_raw_fd().cast_unsigned(),
        ..ObjectGet::default()
    };
    // SAFETY: the attributes and the path live across the call; the size is given. The last two fields belong to newer
    // commands and are 0.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_PIN, &raw const attributes, size_of::<ObjectGet>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The ID of a map or a program: the second word of `struct bpf_map_info` and `struct bpf_prog_info` alike.
///
/// # Errors
/// `EBADF`, `EINVAL` for what is neither.
pub fn object_id(object: BorrowedFd<'_>) -> io::Result<u32> {
    Ok(link_info(object)?.id)
}

fn link_info(link: BorrowedFd<'_>) -> io::Result<LinkInfo> {
    let mut info = LinkInfo::default();
    let attributes = GetInfo {
        bpf_fd: link.as_raw_fd().cast_unsigned(),
        info_len: u32::try_from(size_of::<LinkInfo>()).unwrap_or(0),
        info: (&raw mut info) as u64,
    };
    // SAFETY: the kernel writes at most `info_len` bytes to `info`, which lives across the call.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_OBJ_GET_INFO_BY_FD, &raw const attributes, size_of::<GetInfo>())
    };
    if result == 0 { Ok(info) } else { Err(io::Error::last_os_error()) }
}

/// Puts another program behind a link, atomically (`BPF_LINK_UPDATE`, Linux 5.7).
///
/// # Errors
/// `EINVAL` when the program is of another type, `ENOLINK` when the link's target is gone.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = LinkUpdate {
        link_fd: link.as_raw_fd().cast_unsigned(),
        new_prog_fd: program.as_raw_fd().cast_unsigned(),
        ..LinkUpdate::default()
    };
    // SAFETY: the attributes live across the call and their size is given.
    let result = unsafe {
        libc::syscall(libc::SYS_bpf, BPF_LINK_UPDATE, &raw const attributes, size_of::<LinkUpdate>())
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Opens a pinned object of any kind (`BPF_OBJ_GET`).
///
/// # Errors
/// `ENOENT` when nothing is pinned there, `EINVAL` for a path with a NUL byte, `EPERM` without rights.
pub fn object_get(path: &Path) -> io::Result<OwnedFd> {
    let path = std::ffi::CString::new(path.as_os_str().as_encoded_bytes())?;
    let attributes = ObjectGet { pathname: path.as_ptr() as u64, ..ObjectGet::default() };
    // SAFETY: the attributes and the path live across the call; the size is given.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, BPF_OBJ_GET, &raw const attributes, size_of::<ObjectGet>()) };
    new_descriptor(result)
}

/// Of a command that makes a descriptor.
fn new_descriptor(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = libc::c_int::try_from(result).unwrap_or(-1);
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given us this descriptor, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_is_not_pinned_is_an_error_and_not_a_descriptor() {
        let error = object_get(Path::new("/sys/fs/bpf/mtlsd-no-such-object")).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EPERM | libc::EINVAL)), "{error}");
    }

    #[test]
    fn a_descriptor_that_is_no_link_is_refused() {
        use std::os::fd::AsFd;
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = link_update(file.as_fd(), file.as_fd()).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM | libc::EBADF)), "{error}");
    }
}
