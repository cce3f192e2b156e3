//! Sockets of a namespace are born held while `net.ipv4.tcp_notsent_lowat` is 0 there.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use socket2::SockRef;

use crate::datapath::direct::hands::by_inode;
use crate::sys::netns::Netns;
use crate::sys::pidfd::take;
use crate::sys::sock_diag::{CONNECTED, StateFlags, each_tcp};

const SYSCTL: &str = "/proc/sys/net/ipv4/tcp_notsent_lowat";
/// The same where the host's /proc/sys/net is mounted for a container, whose own is read-only. Either shows the namespace of the
/// thread that looks, wherever it was mounted.
const OF_HOST: &str = "/host/proc/sys/net/ipv4/tcp_notsent_lowat";
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
    /// As in every container.
    #[error(
        "/proc/sys is read-only here, so that net.ipv4.tcp_notsent_lowat of workloads cannot be set; mount the host's /proc/sys/net at \
         /host/proc/sys/net (Helm: `direct.enabled: true`), or set direct: never"
    )]
    ReadOnly,
    /// The kernel said no.
    #[error("{SYSCTL}: {0}")]
    Io(#[from] io::Error),
}

/// Whether namespaces can be held at all.
///
/// # Errors
/// [`HoldError::ReadOnly`], or what the kernel says.
pub(super) fn is_possible() -> Result<(), HoldError> {
    writable().map(drop)
}

/// Where the sysctl can be written.
fn writable() -> Result<PathBuf, HoldError> {
    first_writable(&[SYSCTL, OF_HOST].map(Path::new))
}

fn first_writable(places: &[&Path]) -> Result<PathBuf, HoldError> {
    let mut failed = None;
    for place in places {
        match OpenOptions::new().write(true).open(place) {
            Ok(_) => return Ok((*place).to_owned()),
            // What the first says is told: the others need not be there.
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(match failed {
        Some(error) if error.kind() != io::ErrorKind::ReadOnlyFilesystem => HoldError::Io(error),
        _ => HoldError::ReadOnly,
    })
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
    let sysctl = writable()?;
    netns.run(|| fs::write(sysctl, "0"))?;
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
pub(super) fn let_go(netns: &Netns) -> Result<(), HoldError> {
    let before = netns.run(|| fs::read_to_string(SYSCTL))?;
    if before.trim() == "0" {
        let sysctl = writable()?;
        netns.run(|| fs::write(sysctl, NONE))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_place_that_can_be_written_is_taken_and_what_the_first_says_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let [gone, own, of_host] = ["gone", "own", "host"].map(|name| directory.path().join(name));
        fs::write(&of_host, NONE).unwrap();
        assert_eq!(first_writable(&[&own, &of_host]).unwrap(), of_host);
        fs::write(&own, NONE).unwrap();
        assert_eq!(first_writable(&[&own, &of_host]).unwrap(), own);
        assert_eq!(fs::read_to_string(&own).unwrap(), NONE, "nothing is written by looking");
        let error = first_writable(&[&gone, directory.path()]).unwrap_err();
        assert!(matches!(&error, HoldError::Io(error) if error.kind() == io::ErrorKind::NotFound), "{error}");
    }
}
