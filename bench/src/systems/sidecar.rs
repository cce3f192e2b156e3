//! What the sidecars of a mesh have in common: a group of their own, redirection, and a start that may fail.

use std::path::Path;

use anyhow::{Result, bail};
use mtls_tests::lab::{Cmd, tail, within};
use mtls_tests::{Pod, Process, slow};

/// The group of Istio's sidecars, by which they are told from the application.
pub const GROUP: &str = "1337";
/// Where they take what the application sends.
pub const OUTBOUND: u16 = 15001;
/// Where they take what the application is to receive, as it is.
pub const INBOUND: u16 = 15006;
/// How long one may take to listen, seconds.
const SOON: u64 = 20;

/// Redirects TCP: a chain of the table nat, and which packets.
///
/// # Panics
/// With what iptables says.
pub fn redirect(pod: &Pod, chain: &[&str], port: u16) {
    let port = port.to_string();
    let command =
        pod.cmd("iptables").args(["-t", "nat", "-A"]).args(chain.iter().take(1)).args(["-p", "tcp"]);
    command.args(chain.iter().skip(1)).args(["-j", "REDIRECT", "--to-ports", &port]).run().ok();
}

/// Redirects what the application sends, and not what its sidecar does.
pub fn redirect_application(pod: &Pod) {
    redirect(pod, &["OUTPUT", "-m", "owner", "!", "--gid-owner", GROUP], OUTBOUND);
}

/// The words that run a program in the sidecars' group.
pub fn in_group(binary: &Path) -> Vec<String> {
    ["setpriv", "--regid", GROUP, "--clear-groups", &binary.to_string_lossy()].map(str::to_owned).into()
}

/// Starts a program and waits until it listens.
///
/// # Errors
/// With what it printed, if it ends or does not listen in time.
pub fn start(pod: &Pod, command: Cmd, port: u16) -> Result<Process> {
    let mut process = command.spawn();
    let limit = slow::limit(SOON);
    let listens = within(limit, || match process.poll() {
        Some(status) => Some(Err(status)),
        None => pod.listens(port).then_some(Ok(())),
    });
    match listens {
        Some(Ok(())) => Ok(process),
        Some(Err(status)) => bail!("it ended at once with {status}: {}", tail(process.printed().trim())),
        None => {
            bail!("it did not listen on port {port} within {limit:?}: {}", tail(process.printed().trim()))
        }
    }
}
