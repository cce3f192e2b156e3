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

/// Whether the kernel's TLS is there now, without loading anything.
pub fn ktls_is_listed() -> bool {
    let names = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp").unwrap_or_default();
    names.split_whitespace().any(|name| name == "tls")
}
