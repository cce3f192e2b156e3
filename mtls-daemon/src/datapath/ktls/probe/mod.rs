//! What can this kernel's TLS do? Found out by doing it, on loopback pairs, before any connection depends on it.
//!
//! `pair` is a pair of sockets whose every wait ends; `steps` are the things tried; `answer` is what came of them.

mod answer;
mod pair;
mod steps;

use nix::errno::Errno;
use rustls::crypto::aws_lc_rs;

pub use answer::{Abilities, Defect, Missing, Unavailable};

use super::keys::Suite;
use answer::Failure;
use pair::Pair;

/// Tries everything that `relay-ktls` needs. Takes some milliseconds, and as long as ciphers' modules take to load; a
/// kernel that does not answer costs two seconds for each thing tried. The kernel loads its module by itself where the daemon has `CAP_NET_ADMIN`.
///
/// # Errors
/// Why `relay-ktls` cannot be had.
pub fn probe() -> Result<Abilities, Unavailable> {
    Pair::connect().map_err(Unavailable::NoLoopback)?.enable().map_err(|errno| match errno {
        Errno::ENOENT => Unavailable::NoModule { may_load: may_load_modules() },
        errno => Unavailable::Refused(errno),
    })?;
    let random = aws_lc_rs::default_provider().secure_random;
    let (mut suites, mut missing) = (Vec::new(), Vec::new());
    for suite in Suite::ALL {
        match steps::suite(suite, random) {
            Ok(()) => suites.push(suite),
            Err(failure) => missing.push(Missing { suite, why: failure.of_suite(suite) }),
        }
    }
    // AES-GCM is the one that is rekeyed, if any.
    let Some(&first) = suites.first() else { return Err(Unavailable::NoSuite(missing)) };
    steps::splice(first, random).map_err(Unavailable::Splice)?;
    steps::control(first, random).map_err(Unavailable::Control)?;
    steps::close(first, random).map_err(Unavailable::Close)?;
    let rekey = steps::rekey(first, random);
    let mut defects = Vec::new();
    // Unless shown to be sound: what mtlsd does about it is right in any case.
    if steps::splice_into_filled_pipe(first, random).is_err() {
        defects.push(Defect::SpliceIntoFilledPipe);
    }
    if steps::sendfile_under_a_limit(first, random).is_err() {
        defects.push(Defect::SendfileStalls);
    }
    let why_no_rekey = rekey.as_ref().err().map(Failure::to_string);
    Ok(Abilities { suites, missing, rekey: rekey.is_ok(), why_no_rekey, defects })
}

/// Is the `tls` module there by now? Cheap: asks for nothing to be loaded.
#[must_use]
pub fn listed() -> bool {
    let listed = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_available_ulp").unwrap_or_default();
    listed.split_ascii_whitespace().any(|name| name == "tls")
}

/// Does the kernel load a module on this thread's behalf (`__tcp_ulp_find_autoload` of net/ipv4/tcp_ulp.c)?
fn may_load_modules() -> bool {
    std::fs::read_to_string("/proc/thread-self/status").is_ok_and(|status| has_net_admin(&status))
}

fn has_net_admin(status: &str) -> bool {
    const CAP_NET_ADMIN: u64 = 1 << 12;
    status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|set| u64::from_str_radix(set.trim(), 16).ok())
        .is_some_and(|set| set & CAP_NET_ADMIN != 0)
}

#[cfg(test)]
mod tests;
