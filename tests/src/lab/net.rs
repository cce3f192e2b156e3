//! The lab's network: one "wire" namespace with a bridge, and pods hanging on it by veth pairs.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, setns};

/// The bridge in the wire namespace.
pub const BRIDGE: &str = "br0";

/// Where `ip netns` keeps its names.
pub fn netns_path(name: &str) -> PathBuf {
    Path::new("/run/netns").join(name)
}

/// Makes the namespace of the bridge.
pub fn add_wire(wire: &str) {
    ip(&format!("netns add {wire}\n"));
    // Without snooping a bridge forwards neighbour discovery at once; it has no address of its own.
    ip_in(
        wire,
        &format!(
            "link set lo up\nlink add {BRIDGE} type bridge forward_delay 0 mcast_snooping 0\nlink set {BRIDGE} up\n"
        ),
    );
}

/// Makes a pod's namespace and plugs it into the bridge. `port` is the interface's name on the bridge, at most 15 bytes.
pub fn add_pod(wire: &str, netns: &str, port: &str, v4: &str, v6: &str) {
    ip(&format!("netns add {netns}\n"));
    ip_in(
        wire,
        &format!(
            "link add {port} type veth peer name eth0 netns {netns}\nlink set {port} master {BRIDGE} up\n"
        ),
    );
    // From the address, so that neighbours still know a pod that was taken away and put back.
    let last = v4.rsplit('.').next().and_then(|octet| octet.parse::<u8>().ok()).expect("an IPv4 address");
    let mac = format!("02:77:00:00:00:{last:02x}");
    ip_in(
        netns,
        &format!(
            "link set lo up\nlink set eth0 address {mac} up\naddr add {v4}/24 dev eth0\naddr add {v6}/64 dev eth0 nodad\n\
             route add default via 10.77.0.1 dev eth0\nroute add default via fd00:77::1 dev eth0\n"
        ),
    );
}

/// Runs `body` on a thread of its own inside a network namespace. That thread is *outside* the lab's cgroups, so it
/// plays a host that mtlsd does not capture.
///
/// # Panics
/// If the namespace cannot be entered or `body` panics.
pub fn inside<T: Send>(netns: &Path, body: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            let file = File::open(netns).unwrap_or_else(|e| panic!("{}: {e}", netns.display()));
            setns(file, CloneFlags::CLONE_NEWNET).expect("setns needs root");
            body()
        });
        match worker.join() {
            Ok(value) => value,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    })
}

/// Runs lines of `ip -batch`.
///
/// # Panics
/// If one fails.
pub fn ip(batch: &str) {
    run(Command::new("ip").args(["-batch", "-"]), batch);
}

/// Runs lines of `ip -batch` in a namespace.
///
/// # Panics
/// If one fails.
pub fn ip_in(netns: &str, batch: &str) {
    run(Command::new("ip").args(["-n", netns, "-batch", "-"]), batch);
}

fn run(command: &mut Command, batch: &str) {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ip (iproute2) is installed");
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(batch.as_bytes()).expect("ip reads its batch");
    }
    let output = child.wait_with_output().expect("ip ends");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip failed (the lab needs root): {errors}\n{batch}");
}
