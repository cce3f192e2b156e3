//! Sockets of a namespace are born held while `net.ipv4.tcp_notsent_lowat` is 0 there.

use std::fs;
use std::io;

use crate::sys::netns::Netns;
use crate::sys::sock_diag::{CONNECTED, StateFlags, each_tcp};

const SYSCTL: &str = "/proc/sys/net/ipv4/tcp_notsent_lowat";
/// What the kernel begins with: no limit.
const NONE: &str = "4294967295";

/// Why a namespace cannot be held.
#[derive(Debug, thiserror::Error)]
pub(super) enum HoldError {
    /// Its open connections would be held for good.
    #[error(
        "{0} connections are open there that were made before; they go on, and it is tried again when they are over"
    )]
    Open(usize),
    /// Somebody wants something else of it.
    #[error(
        "net.ipv4.tcp_notsent_lowat is {0} there, which mtlsd must not change; remove that setting, or set direct: never"
    )]
    Set(String),
    /// The host's own, where other processes live.
    #[error("it is the daemon's own network namespace, whose other processes would be held for good")]
    Own,
    /// The kernel said no.
    #[error("{SYSCTL}: {0}")]
    Io(#[from] io::Error),
}

/// Holds a namespace. The tables must say already that its workload may be direct: every socket that is made from then on has a
/// value of its own. True: it was not held before.
///
/// # Errors
/// See [`HoldError`]; nothing was changed then.
pub(super) fn hold(netns: &Netns) -> Result<bool, HoldError> {
    if netns.identity() == Netns::home()?.identity() {
        return Err(HoldError::Own);
    }
    let before = netns.run(|| fs::read_to_string(SYSCTL))?;
    match before.trim() {
        "0" => return Ok(false),
        NONE => {}
        other => return Err(HoldError::Set(other.to_owned())),
    }
    let mut open = 0;
    let states = CONNECTED | StateFlags::SYN_SENT | StateFlags::SYN_RECV;
    netns.run(|| each_tcp(states, None, |_| open += 1))?;
    if open > 0 {
        return Err(HoldError::Open(open));
    }
    netns.run(|| fs::write(SYSCTL, "0"))?;
    Ok(true)
}

/// Takes the hold back; whoever still waits for it is let go by the sysctl itself.
///
/// # Errors
/// When the sysctl cannot be written.
pub(super) fn let_go(netns: &Netns) -> io::Result<()> {
    netns.run(|| {
        if fs::read_to_string(SYSCTL)?.trim() == "0" {
            fs::write(SYSCTL, NONE)?;
        }
        Ok(())
    })
}
