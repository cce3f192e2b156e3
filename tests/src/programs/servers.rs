//! Servers that other suites than those of `direct` do not need: HAProxy, Caddy, and an sshd that lets root in.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::directory;
use crate::lab::{Cmd, Pod, Process};

/// HAProxy on `port`, which passes everything to `behind` of its own pod's loopback.
#[track_caller]
pub fn haproxy(pod: &Pod, port: u16, behind: u16) -> Process {
    let dir = directory(pod, "haproxy");
    let config = format!(
        "global\n  maxconn 200\ndefaults\n  mode http\n  timeout connect 60s\n  timeout client 120s\n  timeout server 120s\n\
         frontend front\n  bind :{port}\n  default_backend back\nbackend back\n  server nginx 127.0.0.1:{behind}\n"
    );
    let file = dir.join("haproxy.cfg");
    fs::write(&file, config).expect("lab directory is writable");
    let process = pod.cmd("haproxy").args(["-db", "-f"]).arg(&file).spawn();
    pod.wait_port(port);
    process
}

fn caddy_command(pod: &Pod, words: &[&str]) -> Cmd {
    let dir = directory(pod, "caddy");
    let home = dir.to_string_lossy().into_owned();
    let command = pod.cmd("caddy").args(words).env("HOME", &home);
    command.env("XDG_DATA_HOME", &home).env("XDG_CONFIG_HOME", &home)
}

/// Caddy, a Go program: serves the files of `root` on `port`.
#[track_caller]
pub fn caddy(pod: &Pod, port: u16, root: &Path) -> Process {
    let (at, root) = (format!(":{port}"), root.to_string_lossy().into_owned());
    let process = caddy_command(pod, &["file-server", "--listen", &at, "--root", &root]).spawn();
    pod.wait_port(port);
    process
}

/// Caddy on `port`, as a client of another server: passes requests on.
#[track_caller]
pub fn caddy_in_front_of(pod: &Pod, port: u16, to: SocketAddr) -> Process {
    let (from, to) = (format!("http://:{port}"), to.to_string());
    let process = caddy_command(pod, &["reverse-proxy", "--from", &from, "--to", &to]).spawn();
    pod.wait_port(port);
    process
}

/// sshd that lets root in with a key.
#[derive(Debug)]
pub struct Ssh {
    _sshd: Process,
    key: PathBuf,
    port: u16,
}

impl Ssh {
    /// sshd on `port`.
    #[track_caller]
    pub fn start(pod: &Pod, port: u16) -> Self {
        let dir = directory(pod, "ssh");
        let (host, key) = (dir.join("host_key"), dir.join("key"));
        for path in [&host, &key] {
            pod.cmd("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path).run().ok();
        }
        // sshd insists on its privilege separation directory.
        fs::create_dir_all("/run/sshd").expect("root");
        let config = dir.join("sshd_config");
        let text = format!(
            "Port {port}\nListenAddress 0.0.0.0\nHostKey {}\nPidFile none\nUsePAM no\nStrictModes no\n\
             PermitRootLogin prohibit-password\nAuthorizedKeysFile {}\n",
            host.display(),
            key.with_extension("pub").display()
        );
        fs::write(&config, text).expect("lab directory is writable");
        let sshd = pod.cmd("/usr/sbin/sshd").args(["-D", "-e", "-f"]).arg(&config).spawn();
        pod.wait_port(port);
        Self { _sshd: sshd, key, port }
    }

    /// `ssh` to it; the command to run follows.
    pub fn command(&self, from: &Pod, to: &Pod) -> Cmd {
        let options = ["BatchMode=yes", "StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null"];
        let command = from.cmd("ssh").args(["-q", "-F", "/dev/null", "-p", &self.port.to_string(), "-i"]);
        let command = options.iter().fold(command.arg(&self.key), |c, option| c.args(["-o", *option]));
        command.arg(format!("root@{}", to.v4))
    }
}
