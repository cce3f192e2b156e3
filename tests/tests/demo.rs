//! The demonstration holds what it claims, notices what does not hold, and leaves nothing behind, however it ends.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use mtls_tests::lab::{program_beside_the_test, within};
use mtls_tests::slow;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

const PROGRAM: &str = env!("CARGO_BIN_EXE_demo");

/// A running demonstration, in a process group of its own as a shell would start it.
struct Demo {
    child: Child,
    stdout: BufReader<ChildStdout>,
    said: String,
}

impl Demo {
    fn start(configure: impl FnOnce(&mut Command)) -> Self {
        let mut command = Command::new(PROGRAM);
        command.arg("--fast").stdin(Stdio::null()).stdout(Stdio::piped()).process_group(0);
        configure(&mut command);
        let mut child = command.spawn().expect("the demonstration starts");
        let stdout = BufReader::new(child.stdout.take().expect("piped"));
        Self { child, stdout, said: String::new() }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Reads on until it has said `text`.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        while !self.said.contains(text) {
            let read = self.stdout.read_line(&mut self.said).expect("it prints UTF-8");
            assert!(read > 0, "it ended without {text:?}:\n{}", self.said);
        }
    }

    /// Waits for its end, checks the exit code and that nothing is left, and gives all that it said.
    #[track_caller]
    fn ends_with(mut self, code: i32) -> String {
        self.stdout.read_to_string(&mut self.said).expect("it prints UTF-8");
        let status = within(slow::limit(60), || self.child.try_wait().expect("our own child"));
        let status = status.expect("it ends soon after its last word");
        assert_eq!(status.code(), Some(code), "{status}\n{}", self.said);
        assert_eq!(remains(self.child.id()), Vec::<PathBuf>::new(), "{}", self.said);
        assert!(self.said.contains("Cleaned up: "), "{}", self.said);
        std::mem::take(&mut self.said)
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a demonstration with this pid has in the kernel and in the file system.
fn remains(pid: u32) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").expect("/proc is mounted");
    let cgroup = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let place = fields.next()?;
        (fields.next() == Some("cgroup2")).then(|| PathBuf::from(place))
    });
    let places =
        ["/run/netns".into(), "/sys/fs/bpf".into(), std::env::temp_dir(), cgroup.expect("cgroup v2")];
    let name = format!("mtt{pid}x");
    let entries = places.iter().flat_map(|place| fs::read_dir(place).into_iter().flatten().flatten());
    entries.map(|entry| entry.path()).filter(|path| path.to_string_lossy().contains(&name)).collect()
}

#[test]
fn every_step_is_shown_and_holds_and_nothing_is_left() {
    let mut demo = Demo::start(|_| {});
    demo.wait_for("[4/10]");
    // Four namespaces and the wire, a cgroup, bpffs, files: what is looked for afterwards is there now.
    assert!(remains(demo.child.id()).len() >= 8, "{:?}", remains(demo.child.id()));
    let said = demo.ends_with(0);
    let steps = (1..=10).all(|step| said.contains(&format!("[{step}/10] ")));
    assert!(steps && said.contains("10 steps shown, all "), "{said}");
    for line in [
        "\"GET / HTTP/1.1..\"",
        "... X-Secret: tulip-4711",
        "TLS 1.3 record: handshake",
        "TLS 1.3 record: application data",
        "ok every byte on the wire is TLS 1.3; the secret and the answer are nowhere to be read",
        "client: spiffe://example.org/shop",
        "server: spiffe://example.org/api",
        "ok each end saw the very certificate that the other one used",
        "Permission denied",
        "ok mtlsd says why (policy_default) and what to do",
        "ok mtlsd says why (plaintext) and what to do",
        "ok mtlsd says why (unknown_issuer) and what to do",
        "ok not one byte of payload was on the wire",
        "ok no eBPF program, link or map of it is left",
    ] {
        assert!(said.contains(line), "{line}\n{said}");
    }
    assert!(
        said.lines().any(|line| line.contains("Datapath relay-") || line.contains("Datapath direct")),
        "{said}"
    );
    assert!(said.lines().all(|line| line.chars().count() <= 100), "{said}");
    assert!(!said.contains('\x1b'), "no colour without a terminal");
}

#[test]
fn an_interrupt_in_any_step_ends_it_with_130_and_leaves_nothing() {
    for (signal, step, everyone) in [
        (Signal::SIGINT, "[1/10]", false),
        // Ctrl-C reaches the lab's programs as well.
        (Signal::SIGINT, "[2/10]", true),
        (Signal::SIGINT, "[3/10]", true),
        (Signal::SIGTERM, "[4/10]", false),
        (Signal::SIGHUP, "[8/10]", false),
        (Signal::SIGINT, "[9/10]", true),
        (Signal::SIGTERM, "[7/10]", false),
    ] {
        let mut demo = Demo::start(|_| {});
        demo.wait_for(step);
        let sent = if everyone { killpg(demo.pid(), signal) } else { kill(demo.pid(), signal) };
        sent.expect("it runs");
        let said = demo.ends_with(130);
        assert!(said.contains("Interrupted. Cleaning up"), "{signal} in {step}:\n{said}");
        assert!(!said.contains("FAILED") && !said.contains("steps shown"), "{signal} in {step}:\n{said}");
    }
}

#[test]
fn impatience_does_not_stop_the_cleaning_up() {
    let mut demo = Demo::start(|_| {});
    demo.wait_for("[5/10]");
    for _ in 0..5 {
        // It may have ended before the last one.
        let _ = killpg(demo.pid(), Signal::SIGINT);
        std::thread::sleep(Duration::from_millis(20));
    }
    demo.ends_with(130);
}

#[test]
fn what_a_killed_run_left_is_removed_by_the_next() {
    let mut killed = Demo::start(|_| {});
    killed.wait_for("[4/10]");
    kill(killed.pid(), Signal::SIGKILL).expect("it runs");
    killed.child.wait().expect("our own child");
    // Another test's lab may be sweeping already; then there is nothing left to see.
    let pid = killed.child.id();
    Demo::start(|_| {}).ends_with(0);
    let gone = within(slow::limit(20), || remains(pid).is_empty().then_some(()));
    assert!(gone.is_some(), "{:?}", remains(pid));
}

#[test]
fn when_nobody_reads_any_more_it_ends_and_leaves_nothing() {
    let mut demo = Demo::start(|command| {
        command.stderr(Stdio::null());
    });
    demo.wait_for("[2/10]");
    let pid = demo.child.id();
    let Demo { child, stdout, .. } = &mut demo;
    *stdout =
        BufReader::new(Command::new("true").stdout(Stdio::piped()).spawn().unwrap().stdout.take().unwrap());
    let status = within(slow::limit(30), || child.try_wait().expect("our own child"));
    assert_eq!(status.and_then(|s| s.code()), Some(1));
    assert_eq!(remains(pid), Vec::<PathBuf>::new());
}

#[test]
fn an_interrupt_at_any_moment_of_the_start_ends_it_soon() {
    for wait in (0..16).map(|n| n * 10) {
        let demo = Demo::start(|_| {});
        // Its handlers are set before it makes anything.
        let began = within(slow::limit(20), || (!remains(demo.child.id()).is_empty()).then_some(()));
        assert!(began.is_some(), "it makes its namespaces");
        std::thread::sleep(Duration::from_millis(wait));
        let sent = Instant::now();
        kill(demo.pid(), Signal::SIGTERM).expect("it runs");
        demo.ends_with(130);
        assert!(sent.elapsed() < Duration::from_secs(10), "{:?} after {wait} ms", sent.elapsed());
    }
}

/// The real mtlsd, with something done to its configuration (`$1`) before it runs.
fn spoilt(dir: &Path, spoil: &str) -> PathBuf {
    let real = std::env::var_os("MTLSD_BIN").map_or_else(|| program_beside_the_test("mtlsd"), PathBuf::from);
    let script = format!(
        "#!/bin/sh\nspoil() {{ {spoil}; }}\nif [ \"$1\" = run ]; then spoil \"$3\"; fi\nexec {} \"$@\"\n",
        real.display()
    );
    let path = dir.join("mtlsd");
    fs::write(&path, script).expect("the directory is writable");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("our own file");
    path
}

/// A directory that is gone when the test ends.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("mtlsd-demo-test-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("the directory is writable");
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs the demonstration on a spoilt mtlsd; it must say what does not hold.
#[track_caller]
fn notices(name: &str, spoil: &str, wanted: [&str; 3]) {
    let scratch = Scratch::new(name);
    let program = spoilt(&scratch.0, spoil);
    let said = Demo::start(|command| {
        command.env("MTLSD_BIN", &program);
    })
    .ends_with(1);
    for part in wanted {
        assert!(said.contains(part), "{part}:\n{said}");
    }
    assert!(!said.contains("steps shown"), "{said}");
}

#[test]
fn traffic_in_the_clear_is_noticed() {
    notices(
        "clear",
        "echo 'exclude: { ports: [80] }' >> \"$1\"",
        [
            "FAILED every byte on the wire is TLS 1.3",
            "\"tulip-4711\" was readable in",
            "Step 4 of 10 does not hold",
        ],
    );
}

#[test]
fn a_client_that_is_not_refused_is_noticed() {
    notices(
        "open",
        "sed -i 's/spiffe_ids:.*/trust_domains: [example.org] }/' \"$1\"",
        ["FAILED its connect() fails at once", "hello from api", "Step 6 of 10 does not hold"],
    );
}

#[test]
fn a_refusal_for_another_reason_is_noticed() {
    notices(
        "deny",
        "printf '  - { name: never, action: deny, from: { spiffe_ids: [\"spiffe://example.org/guest\"] } }\\n' >> \"$1\"",
        ["FAILED mtlsd says why (policy_denied)", "\"policy_default\"", "Step 6 of 10 does not hold"],
    );
}

#[test]
fn a_daemon_that_does_not_start_is_shown_with_what_it_said() {
    notices(
        "dead",
        "echo no luck today >&2; exit 3",
        ["before it was ready", "no luck today", "Step 3 of 10"],
    );
}

#[test]
fn without_root_or_with_an_unknown_option_it_says_so() {
    let output = Command::new(PROGRAM).arg("--slow").output().expect("it starts");
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--slow"), "{output:?}");
    // A copy, as the target directory may be closed to others.
    let scratch = Scratch::new("nobody");
    let copy = scratch.0.join("demo");
    fs::copy(PROGRAM, &copy).expect("it can be copied");
    fs::set_permissions(&scratch.0, fs::Permissions::from_mode(0o755)).expect("our own directory");
    let output = Command::new(&copy).uid(65534).gid(65534).output().expect("it starts");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("run it as root"), "{output:?}");
}
