//! Real programs in a place of the lab: a cgroup and, usually, a network namespace.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use super::wait::{eventually, within};
use crate::slow;

/// Joins the namespace, then the cgroup, then becomes the program: its pid is the child's pid all the way. In this order nobody ever
/// sees a member of the cgroup in the test's own namespace.
const ENTER: &str = r#"cg=$0; ns=$1; shift
join='echo $$ > "$0/cgroup.procs" || exit 120; exec "$@"'
if [ -n "$ns" ]; then exec nsenter --net="$ns" -- sh -c "$join" "$cg" "$@"; fi
exec sh -c "$join" "$cg" "$@""#;

static COUNTER: AtomicU32 = AtomicU32::new(1);
static SILENT: AtomicBool = AtomicBool::new(false);

/// From now on no program's output is shown when a panic drops it: for a program that reports in words of its own.
pub fn silence() {
    SILENT.store(true, Ordering::Relaxed);
}

/// Where a program runs.
#[derive(Debug, Clone)]
pub struct Place {
    /// The cgroup directory it joins before it starts.
    pub cgroup: PathBuf,
    /// The network namespace; `None` for the host's.
    pub netns: Option<PathBuf>,
    /// Where its output is kept.
    pub output: PathBuf,
}

/// A program about to run.
#[derive(Debug)]
pub struct Cmd {
    place: Place,
    argv: Vec<OsString>,
    env: Vec<(String, String)>,
    stdin: Input,
    limit: Duration,
}

#[derive(Debug)]
enum Input {
    Null,
    Bytes(Vec<u8>),
    Piped,
}

/// How a program ended.
#[derive(Debug)]
pub struct Output {
    /// The exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error, lossily decoded.
    pub stderr: String,
    /// For messages.
    argv: String,
}

impl Cmd {
    /// `program` in `place`.
    pub fn new(place: Place, program: impl AsRef<OsStr>) -> Self {
        let argv = vec![program.as_ref().to_owned()];
        Self { place, argv, env: Vec::new(), stdin: Input::Null, limit: slow::limit(60) }
    }

    /// One more argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.argv.push(arg.as_ref().to_owned());
        self
    }

    /// More arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.argv.extend(args.into_iter().map(|a| a.as_ref().to_owned()));
        self
    }

    /// An environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }

    /// What it reads from standard input, followed by EOF.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Input::Bytes(bytes.into());
        self
    }

    /// Standard input stays open and is written with [`Process::write`].
    #[must_use]
    pub fn piped(mut self) -> Self {
        self.stdin = Input::Piped;
        self
    }

    /// How long [`Cmd::run`] may take; 60 s by default.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Starts it.
    ///
    /// # Panics
    /// If it cannot be started.
    #[track_caller]
    pub fn spawn(self) -> Process {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let name = Path::new(&self.argv[0]).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let file = |suffix: &str| self.place.output.join(format!("{number:04}-{name}.{suffix}"));
        let (out, err) = (file("out"), file("err"));
        let mut command = Command::new("sh");
        command.arg("-c").arg(ENTER).arg(&self.place.cgroup);
        command.arg(self.place.netns.as_deref().unwrap_or(Path::new(""))).args(&self.argv);
        command.stdout(File::create(&out).expect("lab directory is writable"));
        command.stderr(File::create(&err).expect("lab directory is writable"));
        command.envs(self.env.iter().map(|(k, v)| (k, v)));
        command.stdin(match &self.stdin {
            Input::Null => Stdio::null(),
            Input::Piped => Stdio::piped(),
            Input::Bytes(bytes) => {
                let path = file("in");
                fs::write(&path, bytes).expect("lab directory is writable");
                File::open(path).expect("just written").into()
            }
        });
        let mut child = command.spawn().expect("sh starts");
        let stdin = child.stdin.take();
        let argv = self.argv.iter().map(|a| a.to_string_lossy()).collect::<Vec<_>>().join(" ");
        Process { child, stdin, name, argv, out, err, status: None, quiet: false }
    }

    /// Runs it to its end.
    ///
    /// # Panics
    /// If it does not end within its limit.
    #[track_caller]
    pub fn run(self) -> Output {
        let limit = self.limit;
        let mut process = self.spawn();
        process.output(limit)
    }
}

impl Output {
    /// Standard output, lossily decoded and trimmed.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }

    /// Standard output as JSON.
    ///
    /// # Panics
    /// If it is none.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.stdout)
            .unwrap_or_else(|e| panic!("{}: no JSON ({e}): {self}", self.argv))
    }

    /// The same, if it ended with 0.
    ///
    /// # Panics
    /// Otherwise, with what it printed.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self}");
        self
    }

    /// The same, if it did not end with 0.
    ///
    /// # Panics
    /// Otherwise, with what it printed.
    #[track_caller]
    pub fn fails(self) -> Self {
        assert_ne!(self.code, Some(0), "{self}");
        self
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { argv, code, .. } = self;
        writeln!(f, "`{argv}` ended with {code:?}")?;
        writeln!(f, "stdout: {}", tail(&String::from_utf8_lossy(&self.stdout)))?;
        write!(f, "stderr: {}", tail(&self.stderr))
    }
}

/// A running program. Dropping it kills it (by its pid) and reaps it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    stdin: Option<ChildStdin>,
    name: String,
    argv: String,
    out: PathBuf,
    err: PathBuf,
    status: Option<ExitStatus>,
    quiet: bool,
}

impl Process {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its output is not shown when the test fails (for what is expected to be noisy).
    #[must_use]
    pub fn quiet(mut self) -> Self {
        self.quiet = true;
        self
    }

    /// Writes to its standard input (made with [`Cmd::piped`]).
    ///
    /// # Panics
    /// If it has none or it is closed.
    pub fn write(&mut self, bytes: &[u8]) {
        let stdin = self.stdin.as_mut().expect("made with .piped()");
        stdin.write_all(bytes).and_then(|()| stdin.flush()).unwrap_or_else(|e| panic!("{}: {e}", self.argv));
    }

    /// Ends its standard input.
    pub fn close_stdin(&mut self) {
        self.stdin = None;
    }

    /// What it has printed so far.
    pub fn stdout(&self) -> Vec<u8> {
        fs::read(&self.out).unwrap_or_default()
    }

    /// What it has printed so far on standard error.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.err).unwrap_or_default()).into_owned()
    }

    /// Both outputs, decoded.
    pub fn printed(&self) -> String {
        format!("{}{}", String::from_utf8_lossy(&self.stdout()), self.stderr())
    }

    /// Waits until `text` stands in one of its outputs.
    ///
    /// # Panics
    /// If it ends before, or after 20 s.
    #[track_caller]
    pub fn wait_for(&mut self, text: &str) {
        self.wait_long_for(text, slow::limit(20));
    }

    /// As [`Process::wait_for`] with another limit.
    ///
    /// # Panics
    /// If it ends before, or after that time.
    #[track_caller]
    pub fn wait_long_for(&mut self, text: &str, limit: Duration) {
        let what = format!("`{text}` from `{}`", self.argv);
        eventually(limit, &what, || {
            let ended = self.poll().is_some();
            let printed = self.printed();
            let found = printed.contains(text).then_some(());
            assert!(found.is_some() || !ended, "`{}` ended without `{text}`:\n{}", self.argv, tail(&printed));
            found
        });
    }

    /// Sends a signal.
    pub fn signal(&mut self, signal: Signal) {
        // A reaped child's pid may belong to somebody else by now.
        if self.poll().is_none() {
            let _ = kill(Pid::from_raw(self.child.id().cast_signed()), signal);
        }
    }

    /// Its exit status, if it has ended.
    pub fn poll(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().expect("our own child can be waited for");
        }
        self.status
    }

    /// Its exit status within `limit`.
    pub fn ends_within(&mut self, limit: Duration) -> Option<ExitStatus> {
        within(limit, || self.poll())
    }

    /// Waits for its end and gives what it printed.
    ///
    /// # Panics
    /// If it does not end within `limit`.
    #[track_caller]
    pub fn output(&mut self, limit: Duration) -> Output {
        let Some(status) = self.ends_within(limit) else {
            panic!("`{}` did not end within {limit:?}:\n{}", self.argv, tail(&self.printed()))
        };
        Output { code: status.code(), stdout: self.stdout(), stderr: self.stderr(), argv: self.argv.clone() }
    }

    /// SIGTERM, then waits for the end.
    ///
    /// # Panics
    /// If it takes more than 20 s.
    #[track_caller]
    pub fn terminate(&mut self) -> Output {
        self.signal(Signal::SIGTERM);
        self.output(slow::limit(20))
    }

    /// SIGKILL, and reaps it.
    pub fn kill(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.ends_within(slow::limit(10));
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() && !self.quiet && !SILENT.load(Ordering::Relaxed) {
            let status = self.status.map_or_else(|| "running".into(), |s| s.to_string());
            eprintln!("--- {} ({status}): {}\n{}", self.name, self.argv, tail(&self.printed()));
        }
    }
}

/// The last 60 lines, at most 6,000 characters.
pub fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    let kept = lines[lines.len().saturating_sub(60)..].join("\n");
    let skip = kept.chars().count().saturating_sub(6000);
    kept.chars().skip(skip).collect()
}
