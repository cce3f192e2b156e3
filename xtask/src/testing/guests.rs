//! The integration tests on other kernels: built once here, run in virtual machines, read as on the host.

use std::ffi::OsString;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use super::libtest::{Event, Parser};
use super::report::Report;
use super::summary::Part;
use super::{NOT_RUN, TEST_THREADS, not_run_lines};
use crate::run::{Cmd, quote};
use crate::setup;
use crate::vm::{self, Guest, Job, KernelName};

/// For all tests on one kernel.
const TIMEOUT: Duration = Duration::from_secs(90 * 60);
/// An emulated processor is that much slower, at worst and on a busy machine (tests/src/slow.rs).
const SLOW: (&str, &str) = ("MTLSD_TEST_SLOW", "8");
/// Gigabytes and thousands of connections are for the host's own kernel.
const LIGHT: (&str, &str) = ("MTLSD_TEST_LIGHT", "16");

/// Much of a test is waiting: two at a time, on one processor too.
const THREADS: (&str, &str) = (TEST_THREADS, "2");

/// Suites whose names begin so run under systemd, each in a boot of its own, in the order of their names and on one disk.
const BOOTED: &str = "systemd";

/// A test program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// Its source, relative to its package, as cargo shows it.
    source: String,
    executable: PathBuf,
    package: PathBuf,
}

impl Program {
    /// The line that cargo prints before it runs the program: the reader of the output knows no other.
    fn header(&self) -> String {
        format!("     Running {} ({})", self.source, self.executable.display())
    }

    /// The same, to run once more under other circumstances, which its name tells.
    pub fn again(&self, how: &str) -> Self {
        Self { source: format!("{} {how}", self.source), ..self.clone() }
    }

    fn is_booted(&self) -> bool {
        Path::new(&self.source).file_stem().is_some_and(|name| name.to_string_lossy().starts_with(BOOTED))
    }

    /// The suite's name in the summary.
    pub fn suite(&self) -> String {
        match Parser::default().line(&self.header()) {
            Some(Event::Suite(name)) => name,
            _ => self.source.clone(),
        }
    }
}

/// A test program, and what it is asked for.
#[derive(Debug, Clone)]
pub struct Task {
    /// What runs.
    pub program: Program,
    /// The tests, by their full names.
    pub tests: Vec<String>,
    /// Set for this program only.
    pub env: Vec<(&'static str, &'static str)>,
}

impl Task {
    fn command(&self) -> String {
        let Program { package, executable, .. } = &self.program;
        let env: String = self.env.iter().map(|(name, value)| format!("{name}={} ", quote(value))).collect();
        let tests: String = self.tests.iter().flat_map(|test| [" ".to_owned(), quote(test)]).collect();
        format!(
            "cd {} && echo {} && {env}{} --exact{tests} || code=1\n",
            quote(&package.to_string_lossy()),
            quote(&self.program.header()),
            quote(&executable.to_string_lossy()),
        )
    }
}

/// The test programs that `cargo test --no-run --message-format json` names.
pub fn programs(json: &str) -> Result<Vec<Program>> {
    #[derive(Deserialize)]
    struct Message {
        reason: String,
        executable: Option<PathBuf>,
        manifest_path: Option<PathBuf>,
        target: Option<Target>,
        profile: Option<Profile>,
    }
    #[derive(Deserialize)]
    struct Target {
        kind: Vec<String>,
        src_path: PathBuf,
    }
    #[derive(Deserialize)]
    struct Profile {
        test: bool,
    }
    let mut programs = Vec::new();
    for line in json.lines().filter(|line| line.starts_with('{')) {
        let message: Message = serde_json::from_str(line).context("cargo printed something unexpected")?;
        if message.reason != "compiler-artifact" || !message.profile.is_some_and(|profile| profile.test) {
            continue;
        }
        let (Some(executable), Some(manifest), Some(target)) =
            (message.executable, message.manifest_path, message.target)
        else {
            continue;
        };
        let package = manifest.parent().unwrap_or(Path::new("/")).to_owned();
        let source = target.src_path.strip_prefix(&package).unwrap_or(&target.src_path).display();
        let unit = if target.kind.iter().any(|kind| kind == "test") { "" } else { "unittests " };
        programs.push(Program { source: format!("{unit}{source}"), executable, package });
    }
    programs.sort_by(|a, b| a.source.cmp(&b.source));
    if programs.is_empty() {
        bail!("cargo built no test program");
    }
    Ok(programs)
}

/// Builds the test programs that `cargo test` would run with these words, and names them.
pub fn build(root: &Path, select: &[&str]) -> Result<Vec<Program>> {
    let cmd = Cmd::cargo(root).arg("test").args(select).args([
        "--no-run",
        "--message-format",
        "json-render-diagnostics",
    ]);
    // Standard error, where cargo tells its progress, stays on the console.
    let mut command = cmd.into_inner();
    let output =
        command.stderr(std::process::Stdio::inherit()).output().context("cargo cannot be started")?;
    if !output.status.success() {
        bail!("the tests cannot be built ({})", output.status);
    }
    programs(&String::from_utf8_lossy(&output.stdout))
}

/// What is the same on every kernel.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The checkout.
    pub root: &'a Path,
    /// Cargo's target directory.
    pub target: &'a Path,
    /// Processors of a guest.
    pub cpus: u32,
    /// The daemon under test.
    pub daemon: &'a Path,
    /// The Debian package of it.
    pub package: Option<&'a Path>,
}

/// One kernel's share.
#[derive(Debug)]
pub struct Share {
    /// Where.
    pub kernel: KernelName,
    /// What runs.
    pub tasks: Vec<Task>,
    /// A report that expects the tests.
    pub expected: Report,
}

/// Runs the shares, `at_once` of them at the same time.
pub fn run_all(plan: &Plan<'_>, shares: &[Share], at_once: u32) -> Vec<Part> {
    let next = AtomicUsize::new(0);
    let parts = Mutex::new(Vec::new());
    let (console, lines) = channel();
    std::thread::scope(|scope| {
        for _ in 0..at_once {
            let (console, next, parts) = (console.clone(), &next, &parts);
            scope.spawn(move || {
                // A kernel's place in the list is its place in the summary.
                while let Some((place, share)) = take(next, shares) {
                    let part = on_kernel(plan, share, &console);
                    parts.lock().unwrap_or_else(PoisonError::into_inner).push((place, part));
                }
            });
        }
        drop(console);
        for line in lines {
            println!("{line}");
        }
    });
    let mut parts = parts.into_inner().unwrap_or_else(PoisonError::into_inner);
    parts.sort_by_key(|(place, _)| *place);
    parts.into_iter().map(|(_, part)| part).collect()
}

fn take<'a>(next: &AtomicUsize, shares: &'a [Share]) -> Option<(usize, &'a Share)> {
    let place = next.fetch_add(1, Ordering::Relaxed);
    shares.get(place).map(|share| (place, share))
}

fn on_kernel(plan: &Plan<'_>, share: &Share, console: &Sender<String>) -> Part {
    let kernel = &share.kernel;
    let guest = match Guest::new(plan.root, kernel, plan.cpus, TIMEOUT) {
        Ok(guest) => guest,
        Err(error) => {
            let mut report = Report::default();
            report.problem(format!("{error:#}\n  (--exclude-kernel {kernel} runs the tests without it)"));
            return Part {
                machine: format!("virtual machine: kernel {kernel}, which cannot be had"),
                report,
            };
        }
    };
    let mut report = share.expected.clone();
    let started = Instant::now();
    let outcome = in_guest(plan, &guest, share, &mut report, console);
    let seconds = started.elapsed().as_secs();
    match outcome {
        Ok(()) => {}
        Err(error) => report.problem(format!("{error:#}")),
    }
    Part { machine: format!("virtual machine: {guest}, {seconds} s"), report }
}

/// Boots, runs every program, and fills the report in.
fn in_guest(
    plan: &Plan<'_>,
    guest: &Guest,
    share: &Share,
    report: &mut Report,
    console: &Sender<String>,
) -> Result<()> {
    let Share { kernel, tasks, .. } = share;
    let shared = Shared::new(plan.target, kernel)?;
    let mut env = vm::environment();
    env.push(("MTLSD_BIN".into(), plan.daemon.into()));
    env.extend(plan.package.map(|package| ("MTLSD_DEB".into(), package.into())));
    env.push((NOT_RUN.into(), shared.not_run().into()));
    if guest.is_slow() {
        env.extend([SLOW, LIGHT, THREADS].map(|(name, value)| (name.into(), value.into())));
    }
    let mut programs = setup::test_programs();
    programs.extend(plan.daemon.to_str());
    let disk = shared.0.join("disk");
    let (mut code, mut lost) = (0, None);
    for (tasks, systemd) in boots(tasks) {
        let job = Job {
            command: &["sh".into(), "-c".into(), script(&tasks)],
            dir: plan.root,
            out: Some(&shared.0),
            env: env.clone(),
            programs: programs.clone(),
            disk: systemd.then_some(disk.as_path()),
            systemd,
        };
        let (sender, lines) = channel();
        let (done, events) = std::thread::scope(|scope| {
            let reader = scope.spawn(|| read(lines, kernel, console));
            let done = guest.run(&job, Lines::new(sender), io::stderr());
            (done, reader.join().unwrap_or_default())
        });
        events.into_iter().for_each(|event| report.event(event));
        match done {
            Ok(done) => code = code.max(done.code),
            // What comes behind it would begin with something else than it expects.
            Err(error) => {
                lost = Some(error);
                break;
            }
        }
    }
    report.cross_check();
    for (test, reason) in shared.read()? {
        report.could_not_run(&test, &reason);
    }
    if let Some(error) = lost {
        return Err(error);
    }
    if code != 0 && report.failures() == 0 {
        report.problem(format!("the test programs failed (exit code {code}) though no test did"));
    }
    Ok(())
}

/// What each boot runs, and whether under systemd.
fn boots(tasks: &[Task]) -> Vec<(Vec<Task>, bool)> {
    let (booted, plain): (Vec<_>, Vec<_>) = tasks.iter().cloned().partition(|task| task.program.is_booted());
    let plain = Some((plain, false)).filter(|(tasks, _)| !tasks.is_empty());
    plain.into_iter().chain(booted.into_iter().map(|task| (vec![task], true))).collect()
}

/// Every program in its package's directory, as cargo would run them, one after the other.
fn script(tasks: &[Task]) -> OsString {
    let commands: String = tasks.iter().map(Task::command).collect();
    // One stream: a test's result stands behind what it printed.
    format!("exec 2>&1\ncode=0\n{commands}exit $code\n").into()
}

fn read(lines: Receiver<String>, kernel: &KernelName, console: &Sender<String>) -> Vec<Event> {
    let mut parser = Parser::default();
    let mut events = Vec::new();
    for line in lines {
        events.extend(parser.line(&line));
        // Without its reader there is nobody to tell.
        let _ = console.send(format!("[{kernel}] {line}"));
    }
    events
}

/// Cuts a stream into lines.
#[derive(Debug)]
struct Lines {
    bytes: Vec<u8>,
    to: Sender<String>,
}

impl Lines {
    fn new(to: Sender<String>) -> Self {
        Self { bytes: Vec::new(), to }
    }

    fn send(&self, line: &[u8]) -> io::Result<()> {
        let text = String::from_utf8_lossy(line).trim_end_matches(['\n', '\r']).to_owned();
        self.to.send(text).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        while let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=end).collect();
            self.send(&line)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        if !self.bytes.is_empty() {
            // The last words of a guest that died; nobody may be left to read them.
            let rest = std::mem::take(&mut self.bytes);
            let _ = self.send(&rest);
        }
    }
}

/// A directory that the guest may write, removed at the end.
#[derive(Debug)]
struct Shared(PathBuf);

impl Shared {
    fn new(target: &Path, kernel: &KernelName) -> Result<Self> {
        let name: String =
            kernel.to_string().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let shared = Self(target.join("vm").join(format!("{}{}-{name}", vm::SHARED, std::process::id())));
        std::fs::create_dir_all(&shared.0)
            .and_then(|()| std::fs::write(shared.not_run(), ""))
            .with_context(|| format!("{} cannot be written", shared.0.display()))?;
        Ok(shared)
    }

    fn not_run(&self) -> PathBuf {
        self.0.join("not-run")
    }

    fn read(&self) -> Result<Vec<(String, String)>> {
        let path = self.not_run();
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("{} cannot be read", path.display()))?;
        Ok(not_run_lines(&text))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // A leftover in the target directory harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const JSON: &str = r#"{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml","target":{"kind":["test"],"src_path":"/w/tests/tests/errno.rs"},"profile":{"test":true},"executable":"/t/deps/errno-0123456789abcdef"}
{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml","target":{"kind":["lib"],"src_path":"/w/tests/src/lib.rs"},"profile":{"test":true},"executable":"/t/deps/mtls_tests-0123456789abcdef"}
{"reason":"compiler-artifact","manifest_path":"/w/tests/Cargo.toml","target":{"kind":["bin"],"src_path":"/w/tests/src/bin/load.rs"},"profile":{"test":false},"executable":"/t/load"}
{"reason":"compiler-artifact","manifest_path":"/r/serde/Cargo.toml","target":{"kind":["lib"],"src_path":"/r/serde/src/lib.rs"},"profile":{"test":false},"executable":null}
{"reason":"build-script-executed"}
{"reason":"build-finished","success":true}
"#;

    #[test]
    fn what_needs_systemd_has_a_boot_for_each_suite_behind_all_others() {
        let task = |source: &str| {
            let program = Program { source: source.into(), executable: "/t".into(), package: "/w".into() };
            Task { program, tests: vec!["a".into()], env: Vec::new() }
        };
        let names = |sources: &[&str]| -> Vec<(Vec<String>, bool)> {
            let tasks: Vec<_> = sources.iter().map(|source| task(source)).collect();
            let name = |task: &Task| task.program.source.clone();
            boots(&tasks)
                .iter()
                .map(|(tasks, systemd)| (tasks.iter().map(name).collect(), *systemd))
                .collect()
        };
        let found = names(&["tests/a.rs", "tests/systemd.rs", "tests/systemd_reboot.rs", "tests/units.rs"]);
        let plain = vec!["tests/a.rs".to_owned(), "tests/units.rs".to_owned()];
        let boot = |name: &str| (vec![name.to_owned()], true);
        assert_eq!(found, [(plain, false), boot("tests/systemd.rs"), boot("tests/systemd_reboot.rs")]);
        assert_eq!(names(&["tests/systemd.rs"]).len(), 1);
    }

    #[test]
    fn test_programs_are_found_with_the_names_cargo_gives_them() {
        let programs = programs(JSON).unwrap();
        let headers: Vec<_> = programs.iter().map(Program::header).collect();
        assert_eq!(
            headers,
            [
                "     Running tests/errno.rs (/t/deps/errno-0123456789abcdef)",
                "     Running unittests src/lib.rs (/t/deps/mtls_tests-0123456789abcdef)",
            ]
        );
        let mut parser = Parser::default();
        let suites: Vec<_> = headers.iter().filter_map(|line| parser.line(line)).collect();
        assert_eq!(
            suites,
            [Event::Suite("errno tests/errno.rs".into()), Event::Suite("mtls_tests src/lib.rs".into())]
        );
        assert_eq!(programs[0].package, Path::new("/w/tests"));
        assert_eq!(programs[0].again("with tea").suite(), "errno tests/errno.rs with tea");
    }

    #[test]
    fn a_build_without_test_programs_and_a_broken_answer_are_errors() {
        assert!(super::programs("").is_err());
        assert!(super::programs("{\"reason\":").is_err());
    }

    #[test]
    fn the_script_runs_every_program_though_one_fails() {
        let dir = tempfile::tempdir().unwrap();
        let program = |name: &str, text: &str| {
            let executable = dir.path().join(name);
            std::fs::write(&executable, format!("#!/bin/sh\n{text}\n")).unwrap();
            Cmd::new("chmod").arg("755").arg(&executable).run().unwrap();
            Program { source: format!("tests/{name}.rs"), executable, package: dir.path().to_owned() }
        };
        let programs = [program("a", "echo \"$# $1 $2, $GREETING\"; exit 101"), program("b", "pwd >&2")];
        let tasks = programs.map(|program| Task {
            program,
            tests: vec!["it's here".to_owned()],
            env: vec![("GREETING", "hello world")],
        });
        let output = Cmd::new("sh").arg("-c").arg(script(&tasks)).into_inner().output().unwrap();
        assert_eq!(output.status.code(), Some(1));
        let place = dir.path().display();
        assert_eq!(
            String::from_utf8(output.stdout).unwrap(),
            format!(
                "     Running tests/a.rs ({place}/a)\n2 --exact it's here, hello world\n     Running tests/b.rs ({place}/b)\n{place}\n"
            )
        );
    }

    #[test]
    fn a_kernel_that_cannot_be_had_is_one_named_problem() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan {
            root: Path::new(env!("CARGO_MANIFEST_DIR")),
            target: dir.path(),
            cpus: 1,
            daemon: dir.path(),
            package: None,
        };
        let share = |kernel: &str| Share {
            kernel: kernel.parse().unwrap(),
            tasks: Vec::new(),
            expected: Report::default(),
        };
        let parts = run_all(&plan, &[share("/no/such/kernel"), share("/nor/this")], 2);
        assert_eq!(parts.len(), 2);
        let text = super::super::summary::text(&parts);
        assert!(text.contains("there is no kernel at /no/such/kernel"), "{text}");
        assert!(text.contains("(--exclude-kernel /nor/this runs the tests without it)"), "{text}");
        assert!(text.ends_with("\n0 passed, 2 failed, 0 skipped\n"), "{text}");
    }

    #[test]
    fn a_stream_becomes_lines_and_the_unfinished_one_comes_last() {
        let (sender, receiver) = channel();
        let mut lines = Lines::new(sender);
        for part in ["a\nb", "c\r\n", "d"] {
            lines.write_all(part.as_bytes()).unwrap();
        }
        drop(lines);
        assert_eq!(receiver.iter().collect::<Vec<_>>(), ["a", "bc", "d"]);
    }

    #[test]
    fn what_a_guest_wrote_about_tests_that_could_not_run_is_read_and_removed() {
        let dir = tempfile::tempdir().unwrap();
        let shared = Shared::new(dir.path(), &KernelName::Path("/boot/my kernel".into())).unwrap();
        assert_eq!(shared.read().unwrap(), []);
        std::fs::write(shared.not_run(), "a\tno kTLS\n").unwrap();
        assert_eq!(shared.read().unwrap(), [("a".to_owned(), "no kTLS".to_owned())]);
        let path = shared.0.clone();
        drop(shared);
        assert!(!path.exists());
    }
}
