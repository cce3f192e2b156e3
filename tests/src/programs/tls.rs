//! TLS peers that are not mtlsd: OpenSSL's programs, and raw bytes.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};

use crate::certs::Files;
use crate::lab::{Cmd, Pod, Process};
use crate::slow;

/// A certificate chain (leaf first) and its key, as a peer presents them.
#[derive(Debug, Clone)]
pub struct Identity {
    /// PEM, leaf first.
    pub chain: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

impl From<&Files> for Identity {
    fn from(files: &Files) -> Self {
        Self { chain: files.chain.clone(), key: files.key.clone() }
    }
}

impl From<(PathBuf, PathBuf)> for Identity {
    fn from((chain, key): (PathBuf, PathBuf)) -> Self {
        Self { chain, key }
    }
}

impl Identity {
    /// OpenSSL's programs want the leaf and the rest in two files.
    fn arguments(&self, command: Cmd) -> Cmd {
        let pem = fs::read_to_string(&self.chain).expect("the certificate is readable");
        let end = "-----END CERTIFICATE-----\n";
        let (leaf, rest) = pem.split_once(end).expect("a PEM certificate");
        let file = |suffix: &str, text: &str| {
            let path = self.chain.with_extension(suffix);
            fs::write(&path, text).expect("lab directory is writable");
            path
        };
        let command =
            command.arg("-cert").arg(file("leaf.pem", &format!("{leaf}{end}"))).arg("-key").arg(&self.key);
        if rest.trim().is_empty() { command } else { command.arg("-cert_chain").arg(file("rest.pem", rest)) }
    }
}

/// `openssl s_client` asking for `/` by HTTP/1.0 (the server closes after its answer), verifying the server by `root`.
/// Exit code 0 only if the server was verified and nothing was refused.
pub fn s_client(pod: &Pod, to: SocketAddr, root: &Path, identity: Option<&Identity>) -> Cmd {
    let command =
        pod.cmd("openssl").args(["s_client", "-quiet", "-verify_return_error", "-connect", &to.to_string()]);
    let command = command.arg("-CAfile").arg(root).stdin("GET / HTTP/1.0\r\n\r\n").limit(slow::limit(20));
    match identity {
        Some(identity) => identity.arguments(command),
        None => command,
    }
}

/// `openssl s_server` on `port`, IPv4 and IPv6, that insists on a client certificate of `root` and answers every HTTP
/// request with a page about the connection. `options` are added.
#[track_caller]
pub fn s_server(pod: &Pod, port: u16, root: &Path, identity: &Identity, options: &[&str]) -> Process {
    // Without a host: with `[::]` s_server listens on IPv6 alone.
    let accept = port.to_string();
    let command = pod.cmd("openssl").args(["s_server", "-www", "-Verify", "8", "-verify_return_error"]);
    let command = command.args(["-accept", &accept]).arg("-CAfile").arg(root).args(options);
    let server = identity.arguments(command).spawn();
    pod.wait_port(port);
    server
}

/// `openssl s_client` whose commands work (`K`: KeyUpdate with a request, `k`: without, `Q`: quit; each as a line of
/// its own, written some time after the line before it).
pub fn s_client_commands(pod: &Pod, to: SocketAddr, root: &Path, identity: &Identity) -> Cmd {
    let command = pod.cmd("openssl").args(["s_client", "-verify_return_error", "-connect", &to.to_string()]);
    identity.arguments(command.arg("-CAfile").arg(root).piped())
}

/// `openssl s_server` for one connection, with the commands of [`s_client_commands`]; it prints what it receives.
#[track_caller]
pub fn s_server_commands(pod: &Pod, port: u16, root: &Path, identity: &Identity) -> Process {
    let command =
        pod.cmd("openssl").args(["s_server", "-Verify", "8", "-verify_return_error", "-naccept", "1"]);
    let command = command.args(["-accept", &port.to_string()]).arg("-CAfile").arg(root);
    let server = identity.arguments(command).piped().spawn();
    pod.wait_port(port);
    server
}

/// Sends raw bytes from a host that mtlsd does not know, then either closes its direction or stays silent, and gives
/// everything that comes back until the other side ends. An end by RST counts as an end.
///
/// # Errors
/// If the connection cannot be made, or nothing ends it within 15 s.
pub fn raw(pod: &Pod, to: SocketAddr, bytes: &[u8], then_close: bool) -> io::Result<Vec<u8>> {
    pod.inside(|| {
        let mut stream = TcpStream::connect_timeout(&to, slow::limit(5))?;
        stream.set_read_timeout(Some(slow::limit(15)))?;
        // The other side may already have had enough: what it said is read below.
        let _ = stream.write_all(bytes);
        if then_close {
            let _ = stream.shutdown(Shutdown::Write);
        }
        let mut answer = Vec::new();
        match stream.read_to_end(&mut answer) {
            Err(e) if e.kind() != io::ErrorKind::ConnectionReset => Err(e),
            _ => Ok(answer),
        }
    })
}
