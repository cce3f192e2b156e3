//! The real programs that the tests run, each with a configuration of its own in the lab's directory.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::lab::{Cmd, Pod, Process, eventually};
use crate::slow;

pub mod agent;
pub(crate) mod downloaded;
mod echo;
pub mod kubectl;
pub mod lists;
pub mod openbao;
mod servers;
pub mod softhsm;
mod tls;

pub use echo::Echo;
pub use servers::{Ssh, caddy, caddy_in_front_of, haproxy};
pub use tls::{Identity, raw, s_client, s_client_commands, s_server, s_server_commands};

/// Where Debian keeps the server programs of PostgreSQL.
fn postgres_program(name: &str) -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|v| v.path().join("bin").join(name)).find(|p| p.is_file());
    found.unwrap_or_else(|| panic!("{name} is not installed; apt-get install postgresql"))
}

/// A fresh directory of a pod's program.
pub fn directory(pod: &Pod, name: &str) -> PathBuf {
    static COUNTER: AtomicU32 = AtomicU32::new(1);
    let dir = pod.files().join(format!("{name}-{}", COUNTER.fetch_add(1, Ordering::Relaxed)));
    fs::create_dir_all(&dir).expect("lab directory is writable");
    dir
}

/// nginx on `port` (HTTP/1.1), `port`+1 (HTTP/2 with prior knowledge), IPv4 and IPv6. `/` answers "hello from POD",
/// `/addresses` the client's and its own address as nginx sees them, `/files/` the files of [`nginx_files`].
#[track_caller]
pub fn nginx(pod: &Pod, port: u16) -> Process {
    let dir = directory(pod, "nginx");
    let (here, name, http2) = (dir.display(), &pod.name, port + 1);
    let files = nginx_files(pod);
    fs::create_dir_all(&files).expect("lab directory is writable");
    let config = format!(
        r#"user root; worker_processes 1; daemon off; pid {here}/pid; error_log stderr warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; default_type text/plain; send_timeout 600; sendfile on; tcp_nodelay on; client_max_body_size 0;
  client_body_temp_path {here}; proxy_temp_path {here}; fastcgi_temp_path {here}; uwsgi_temp_path {here}; scgi_temp_path {here};
  server {{
    listen {port}; listen [::]:{port}; listen {http2} http2; listen [::]:{http2} http2;
    location = / {{ return 200 "hello from {name}\n"; }}
    location = /addresses {{ return 200 "$remote_addr $remote_port $server_addr $server_port $server_protocol\n"; }}
    location /files/ {{ alias {}/; }}
  }}
}}
"#,
        files.display()
    );
    let file = dir.join("nginx.conf");
    fs::write(&file, config).expect("lab directory is writable");
    let mut process =
        pod.cmd("nginx").arg("-e").arg("stderr").arg("-p").arg(&dir).arg("-c").arg(&file).spawn();
    eventually(slow::limit(20), "nginx to listen", || {
        let ended = process.poll();
        assert!(ended.is_none(), "nginx ended ({ended:?}):\n{}", process.printed());
        pod.listens(port).then_some(())
    });
    process
}

/// The directory that nginx of this pod serves under `/files/`.
pub fn nginx_files(pod: &Pod) -> PathBuf {
    pod.files().join(format!("{}-www", pod.name))
}

/// Writes a file of `mib` MiB of pseudo-random bytes (AES-CTR of zeros: fast, and no two blocks are alike).
#[track_caller]
pub fn random_file(pod: &Pod, path: &Path, mib: u64) {
    let script = r#"head -c "$1" /dev/zero | openssl enc -aes-128-ctr -K 000102030405060708090a0b0c0d0e0f -iv 0 -nosalt > "$2""#;
    pod.cmd("sh").args(["-c", script, "sh", &(mib << 20).to_string()]).arg(path).run().ok();
}

/// PostgreSQL on `port`, all addresses, everybody trusted, database `postgres`.
#[track_caller]
pub fn postgres(pod: &Pod, port: u16) -> Process {
    let dir = directory(pod, "postgres");
    let user = nix::unistd::User::from_name("postgres").ok().flatten().expect("user postgres exists");
    chown(&dir, Some(user.uid.as_raw()), Some(user.gid.as_raw())).expect("root");
    // The temporary directory is closed to others by default, and initdb runs as postgres.
    fs::set_permissions(pod.files(), fs::Permissions::from_mode(0o755)).expect("root");
    let data = dir.join("data");
    let initdb = as_user(pod, "postgres").arg(postgres_program("initdb")).arg("-D").arg(&data);
    initdb.args(["--no-sync", "--auth=trust", "--no-locale", "-E", "UTF8", "-U", "postgres"]).run().ok();
    let settings = format!(
        "listen_addresses = '*'\nport = {port}\nunix_socket_directories = '{}'\nfsync = off\nmax_connections = 50\n\
         shared_buffers = 16MB\nmax_wal_senders = 0\nwal_level = minimal\n",
        dir.display()
    );
    fs::write(data.join("postgresql.auto.conf"), settings).expect("lab directory is writable");
    fs::write(
        data.join("pg_hba.conf"),
        "local all all trust\nhost all all 0.0.0.0/0 trust\nhost all all ::/0 trust\n",
    )
    .expect("lab directory is writable");
    let process = as_user(pod, "postgres").arg(postgres_program("postgres")).arg("-D").arg(&data).spawn();
    let mut process = process;
    process.wait_for("ready to accept connections");
    process
}

/// pgbench, which Debian keeps beside the server.
pub fn pgbench(pod: &Pod) -> Cmd {
    pod.cmd(postgres_program("pgbench"))
}

/// A command that runs as another user (program and arguments follow).
pub fn as_user(pod: &Pod, user: &str) -> Cmd {
    pod.cmd("setpriv").args(["--reuid", user, "--regid", user, "--clear-groups", "--"])
}

/// redis-server on `port`, IPv4 and IPv6, without persistence.
#[track_caller]
pub fn redis(pod: &Pod, port: u16) -> Process {
    let dir = directory(pod, "redis");
    let args = ["--bind", "0.0.0.0", "::", "--protected-mode", "no", "--save", "", "--appendonly", "no"];
    let process =
        pod.cmd("redis-server").args(["--port", &port.to_string()]).args(args).arg("--dir").arg(&dir).spawn();
    pod.wait_port(port);
    process
}

/// sshd on `port`: it speaks first. Nobody can log in.
#[track_caller]
pub fn sshd(pod: &Pod, port: u16) -> Process {
    let dir = directory(pod, "sshd");
    let key = dir.join("host_key");
    pod.cmd("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&key).run().ok();
    // sshd insists on its privilege separation directory.
    fs::create_dir_all("/run/sshd").expect("root");
    let config = dir.join("sshd_config");
    let text = format!(
        "Port {port}\nListenAddress 0.0.0.0\nListenAddress ::\nHostKey {}\nPidFile none\nUsePAM no\n",
        key.display()
    );
    fs::write(&config, text).expect("lab directory is writable");
    let process = pod.cmd("/usr/sbin/sshd").args(["-D", "-e", "-f"]).arg(&config).spawn();
    pod.wait_port(port);
    process
}

/// iperf3's server on `port`.
#[track_caller]
pub fn iperf3(pod: &Pod, port: u16) -> Process {
    let process = pod.spawn(&["iperf3", "-s", "-p", &port.to_string()]);
    pod.wait_port(port);
    process
}

/// `probe serve` on `port` of this pod's IPv4 and IPv6 (bound to `[::]`).
#[track_caller]
pub fn probe(pod: &Pod, port: u16, options: &[&str]) -> Process {
    let process = pod.own("probe").args(["serve", &format!("[::]:{port}")]).args(options).spawn();
    pod.wait_port(port);
    process
}

/// `pattern serve` on `port`.
#[track_caller]
pub fn pattern(pod: &Pod, port: u16) -> Process {
    let process = pod.own("pattern").args(["serve", &format!("[::]:{port}")]).spawn();
    pod.wait_port(port);
    process
}

/// `load serve` on `port`.
#[track_caller]
pub fn load(pod: &Pod, port: u16) -> Process {
    let process = pod.own("load").args(["serve", &format!("[::]:{port}")]).spawn();
    pod.wait_port(port);
    process
}
