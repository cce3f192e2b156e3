//! Sockets of a namespace are born held while `net.ipv4.tcp_notsent_lowat` is 0 there.

use std::fs;
use std::io;
use std::os::fd::OwnedFd;

use socket2::SockRef;

use crate::datapath::direct::hands::by_inode;
use crate::sys::netns::Netns;
use crate::sys::pidfd::take;
use crate::sys::sock_diag::{CONNECTED, StateFlags, each_tcp};

const SYSCTL: &str = "/proc/sys/net/ipv4/tcp_notsent_lowat";
/// `TCP_ESTABLISHED` and `TCP_CLOSE_WAIT` (`include/net/tcp_states.h`): what a connection that waits for accept() can be in.
const ESTABLISHED: u8 = 1;
const CLOSE_WAIT: u8 = 8;
/// What the kernel begins with: no limit.
const NONE: &str = "4294967295";

/// Why a namespace cannot be held.
#[derive(Debug, thiserror::Error)]
pub(super) enum HoldError {
    /// Some of its open connections would be held for good.
    #[error(
        "{0} connections are open there that were made before, and no process has them: nobody has accepted them yet, or they are on their way to another process; it is tried again"
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
    let stuck = free_open(netns)?;
    if stuck > 0 {
        return Err(HoldError::Open(stuck));
    }
    netns.run(|| fs::write(SYSCTL, "0"))?;
    Ok(true)
}

/// Gives every open connection of the namespace a limit of its own, none, so that the sysctl is not in force for it. How
/// many could not be had.
///
/// What is made from now on is seen by the programs, also the end of a handshake that is on its way.
fn free_open(netns: &Netns) -> io::Result<usize> {
    let mut open = Vec::new();
    netns.run(|| {
        each_tcp(CONNECTED | StateFlags::SYN_SENT, None, |socket| {
            // Without a file and closed by its application: nobody writes to it any more.
            if socket.inode != 0 || matches!(socket.state, ESTABLISHED | CLOSE_WAIT) {
                open.push((socket.inode, socket.cookie));
            }
        })
    })?;
    if open.is_empty() {
        return Ok(0);
    }
    let holders = by_inode(netns.identity());
    let free = |(inode, cookie): &(u32, u64)| {
        let (pid, number) = *holders.get(inode)?;
        free(&take(pid, number, *cookie).ok()?).ok()
    };
    Ok(open.iter().filter(|socket| free(socket).is_none()).count())
}

/// An application's own limit stays.
fn free(socket: &OwnedFd) -> io::Result<()> {
    let socket = SockRef::from(socket);
    match socket.tcp_notsent_lowat()? {
        0 => socket.set_tcp_notsent_lowat(u32::MAX),
        _ => Ok(()),
    }
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
