//! bpf(2) commands that aya 0.14 does not offer.

#![allow(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use nix::libc;

const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_LINK_UPDATE: libc::c_long = 29;

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

/// True when the link pinned at `path` exists and its cgroup or namespace still does
/// (`BPF_OBJ_GET_INFO_BY_FD`).
#[must_use]
pub fn link_is_attached(path: &Path) -> bool {
    let Ok(link) = object_get(path) else {
        return false;
    };
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
    let high_counts = info.kind == BPF_LINK_TYPE_CGROUP;
    result == 0 && (info.target != 0 || (high_counts && info.target_high != 0))
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
