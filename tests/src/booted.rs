//! Two hosts on one machine with a real systemd: its own network, and the namespace `h2` behind a veth, each with a daemon of the
//! package and a unit that is enrolled. What was said and sent is on the disk, for after a reboot.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::lab::eventually;
use crate::slow;

/// Where the units of the test write.
const PLACE: &str = "/var/lib/mtlsd-test";
/// Where the example's do.
const LOGS: &str = "/var/lib/example";
/// What nginx says; it may be on the wire only as ciphertext.
pub const SAID: &str = "the-page-of-nginx";
/// What the client asks with; it may be on the wire only as ciphertext.
pub const ASKED: &str = "the-clients-word";
/// The first host, as the second one sees it.
const SERVER: &str = "198.18.50.1";

/// Whether systemd is the first program here.
pub fn has_systemd() -> bool {
    Path::new("/run/systemd/system").is_dir()
}

/// The package that `cargo xtask test` has made.
///
/// # Panics
/// If `MTLSD_DEB` does not name it.
pub fn package() -> PathBuf {
    let path = std::env::var_os("MTLSD_DEB").map(PathBuf::from);
    path.expect("MTLSD_DEB names the package: `cargo xtask test` or `cargo xtask package` makes one")
}

/// The same as another version, in a directory.
///
/// # Panics
/// If it cannot be made.
#[track_caller]
pub fn as_version(version: &str, dir: &Path) -> PathBuf {
    let script = r#"
set -e
mkdir -p "$3"
dpkg-deb -R "$1" "$3/tree"
sed -i "s/^Version: .*/Version: $2/" "$3/tree/DEBIAN/control"
dpkg-deb -Znone --root-owner-group -b "$3/tree" "$3/mtlsd-$2.deb" >/dev/null
rm -r "$3/tree"
"#;
    let status = Command::new("sh").args(["-c", script, "sh"]).arg(package()).arg(version).arg(dir).status();
    assert!(status.is_ok_and(|status| status.success()));
    dir.join(format!("mtlsd-{version}.deb"))
}

/// Runs a program: what it said, and whether it ended well.
///
/// # Panics
/// If there is no such program.
#[track_caller]
pub fn try_run(words: &[&str]) -> (String, bool) {
    let (program, arguments) = words.split_first().expect("a program");
    let output = Command::new(program).args(arguments).output().expect("the program is there");
    let text = [output.stdout, output.stderr].concat();
    (String::from_utf8_lossy(&text).into_owned(), output.status.success())
}

/// Runs a program that must end well.
///
/// # Panics
/// If it does not.
#[track_caller]
pub fn run(words: &[&str]) -> String {
    let (text, good) = try_run(words);
    assert!(good, "{words:?}: {text}\n{}", journal());
    text
}

/// A property of a unit.
#[track_caller]
pub fn property(unit: &str, name: &str) -> String {
    run(&["systemctl", "show", "--value", "-p", name, unit]).trim().to_owned()
}

/// A property of a unit that is a time, µs since the boot.
///
/// # Panics
/// If it is none.
#[track_caller]
pub fn moment(unit: &str, name: &str) -> u64 {
    let text = property(unit, name);
    text.parse().unwrap_or_else(|_| panic!("{unit} {name}: {text}"))
}

/// Waits until a unit is active.
///
/// # Panics
/// If that takes too long.
#[track_caller]
pub fn wait_active(unit: &str) {
    eventually(slow::limit(30), &format!("{unit} to be active"), || {
        (property(unit, "ActiveState") == "active").then_some(())
    });
}

/// What the daemons and the units said since the boot.
pub fn journal() -> String {
    try_run(&["journalctl", "--boot", "--no-pager", "--quiet", "--lines", "60"]).0
}

/// Writes a file, and its directory.
///
/// # Panics
/// If it cannot.
#[track_caller]
pub fn write(path: &str, text: &str) {
    let path = Path::new(path);
    fs::create_dir_all(path.parent().expect("a directory")).expect("it can be made");
    fs::write(path, text).expect("it can be written");
}

/// How often a unit of the test got the page of nginx since its file was emptied.
pub fn answers(unit: &str) -> usize {
    let text = fs::read_to_string(format!("{LOGS}/{unit}.log")).unwrap_or_default();
    text.matches(SAID).count()
}

/// Empties the files of the units of the test.
///
/// # Panics
/// If they cannot be.
#[track_caller]
pub fn forget_answers() {
    for unit in ["client", "stranger"] {
        // The unit has it open to append.
        fs::write(format!("{LOGS}/{unit}.log"), "").expect("it can be written");
    }
}

/// Waits until the client has `more` answers more.
///
/// # Panics
/// If that takes too long.
#[track_caller]
pub fn wait_for_answers(more: usize) {
    let before = answers("client");
    eventually(slow::limit(30), &format!("{more} more answers"), || {
        (answers("client") >= before + more).then_some(())
    });
}

/// Checks what went over the veth since the capture began.
///
/// # Panics
/// If it holds a word that may be there only as ciphertext, or no TLS at all.
#[track_caller]
pub fn assert_sealed() {
    let captured = fs::read(format!("{PLACE}/{}.pcap", boot())).expect("tcpdump writes it");
    let has = |what: &[u8]| captured.windows(what.len()).any(|window| window == what);
    for word in [SAID, ASKED] {
        assert!(!has(word.as_bytes()), "{word} went over the wire in the clear\n{}", journal());
    }
    // A ServerHello, behind the records' header of a TLS 1.3 handshake: there was something to be sealed.
    assert!(has(&[22, 3, 3]), "no TLS was captured");
}

/// The name of this boot's capture.
fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").expect("the kernel has one").trim().replace('-', "")
}

/// The namespace and the capture, enabled: they are there before all else, also after a reboot.
///
/// # Panics
/// If they cannot be made.
#[track_caller]
pub fn prepare_hosts() {
    fs::create_dir_all(PLACE).expect("it can be made");
    write(
        "/usr/local/sbin/mtlsd-test-net",
        &format!(
            "#!/bin/sh -e
ip netns add h2
ip link add to-h2 type veth peer name eth0 netns h2
ip addr add {SERVER}/24 dev to-h2
ip -n h2 addr add 198.18.50.2/24 dev eth0
for link in lo eth0; do ip -n h2 link set $link up; done
ip link set lo up
ip link set to-h2 up
"
        ),
    );
    run(&["chmod", "+x", "/usr/local/sbin/mtlsd-test-net"]);
    let early =
        "[Unit]\nDefaultDependencies=no\nAfter=local-fs.target\nBefore=network-pre.target mtlsd.service";
    let wanted = "[Install]\nWantedBy=multi-user.target\n";
    let unit =
        |name: &str, text: &str| write(&format!("/etc/systemd/system/mtlsd-test-{name}.service"), text);
    let start = "Type=oneshot\nRemainAfterExit=yes\nExecStart=/usr/local/sbin/mtlsd-test-net";
    unit("net", &format!("{early}\n[Service]\n{start}\n{wanted}"));
    let start = format!("ExecStart=tcpdump -Z root -U -s 0 -i to-h2 -w {PLACE}/%b.pcap tcp");
    unit("capture", &format!("{early}\n{NET}\n[Service]\n{start}\n{wanted}"));
    run(&["systemctl", "daemon-reload"]);
    run(&["systemctl", "enable", "--now", "mtlsd-test-net.service", "mtlsd-test-capture.service"]);
    run(&["mtlsd", "ca", "init", "--trust-domain", "example.org", "--directory", &format!("{PLACE}/ca")]);
    second_daemon();
    // Who asks is on the second host; the stranger from before the daemons until after them.
    in_h2("ask-client", NET);
    in_h2("ask-stranger", &format!("DefaultDependencies=no\nBefore=network-pre.target mtlsd.service\n{NET}"));
}

/// What needs the namespace.
const NET: &str = "Requires=mtlsd-test-net.service\nAfter=mtlsd-test-net.service";

/// Has a unit that is to come live in the second host.
fn in_h2(unit: &str, order: &str) {
    let text = format!("[Unit]\n{order}\n[Service]\nNetworkNamespacePath=/run/netns/h2\n");
    write(&format!("/etc/systemd/system/{unit}.service.d/host.conf"), &text);
}

/// The second host's daemon: the package's unit, in the namespace, with directories of its own.
fn second_daemon() {
    let text = fs::read_to_string("/usr/lib/systemd/system/mtlsd.service").expect("the package brings it");
    let text = text
        .replace("/etc/mtlsd/mtlsd.yaml", "/etc/mtlsd-h2/mtlsd.yaml")
        .replace("mtlsd run", "mtlsd run --config /etc/mtlsd-h2/mtlsd.yaml")
        .replace("mtlsd reload", "mtlsd reload --socket /run/mtlsd-h2/admin.sock")
        .replace("Directory=mtlsd\n", "Directory=mtlsd-h2\n");
    write("/etc/systemd/system/mtlsd-h2.service", &text);
    in_h2("mtlsd-h2", NET);
}

/// Runs the script that makes the machines of vagrant/, for a role and a daemon.
///
/// # Panics
/// If it fails.
#[track_caller]
pub fn provision(role: &str, daemon: &str) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../vagrant/provision.sh");
    let assignments = [
        format!("SERVER={SERVER}"),
        format!("PACKAGE={}", package().display()),
        format!("CA={PLACE}/ca"),
        format!("DAEMON={daemon}"),
        format!("WORD={ASKED}"),
        format!("PAGE={SAID}"),
    ];
    let assignments: Vec<_> = assignments.iter().map(String::as_str).collect();
    run(&[&["env"], &assignments[..], &["sh", script, role]].concat());
}
