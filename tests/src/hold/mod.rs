//! `direct` without a daemon: sockets that are born write-held, a third process that makes them TLS sockets, and what
//! the kernel does to the applications meanwhile. `docs/design/direct-facts.md` has what was found.

pub mod app;
pub mod arm;
mod bulk;
pub mod kick;
mod told;
pub mod world;

pub use arm::{Key, Taken, install, release};
pub use kick::{Kick, Outcome, kick};
pub use told::{App, Ticket};
pub use world::World;

use std::fs;

/// Whether this kernel has TLS; loads the module if it is one.
pub fn ktls() -> bool {
    ktls_is_listed() || {
        let _ = std::process::Command::new("modprobe").arg("tls").status();
        ktls_is_listed()
    }
}

/// Why no connection can be direct on this kernel, as far as that is known without a daemon: no TLS, or a sendfile() that stalls
/// under a limit (before Linux 6.5; the suite `hold` measures it, and the suite `direct` that daemons say so).
pub fn why_not_direct() -> Option<&'static str> {
    if !ktls_is_listed() {
        return Some("this kernel has no TLS");
    }
    (kernel() < (6, 5)).then_some("before Linux 6.5 sendfile() stalls, so that no connection is direct")
}

/// Major and minor number of the running kernel.
///
/// # Panics
/// If it has none.
pub fn kernel() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("a release");
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse().ok());
    (numbers.next().expect("a major number"), numbers.next().expect("a minor number"))
}

/// Whether the kernel's TLS is there now, without loading anything.
pub fn ktls_is_listed() -> bool {
    let names = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp").unwrap_or_default();
    names.split_whitespace().any(|name| name == "tls")
}
