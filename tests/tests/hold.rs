//! What `direct` needs of the kernel: sockets that are born write-held, keys that a third process installs in them, and
//! threads that are moved out of a call without noticing. `docs/design/direct-facts.md` has the table.

#[path = "hold/arming.rs"]
mod arming;
#[path = "hold/early.rs"]
mod early;
#[path = "hold/ends.rs"]
mod ends;
#[path = "hold/files.rs"]
mod files;
#[path = "hold/held.rs"]
mod held;
#[path = "hold/kicks.rs"]
mod kicks;

use mtls_tests::could_not_run;
use nix::libc;

const RECV: &[i64] = &[libc::SYS_recvfrom];
const SEND: &[i64] = &[libc::SYS_sendto];
const EPOLL: &[i64] = &[libc::SYS_epoll_wait, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2];
const POLL: &[i64] = &[libc::SYS_poll, libc::SYS_ppoll, libc::SYS_restart_syscall];
const SELECT: &[i64] = &[libc::SYS_select, libc::SYS_pselect6];
const SLEEP: &[i64] = &[libc::SYS_nanosleep, libc::SYS_clock_nanosleep, libc::SYS_restart_syscall];
const FUTEX: &[i64] = &[libc::SYS_futex, libc::SYS_restart_syscall];

/// Whether the kernel has TLS; says that the test could not run, if not.
fn ktls<T: Fn()>(test: T) -> bool {
    let there = mtls_tests::hold::ktls();
    if !there {
        could_not_run(test, "no kTLS in this kernel");
    }
    there
}
