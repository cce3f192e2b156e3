//! Any command that turns a CSR on its standard input into a certificate chain on its standard output.
//!
//! The command gets an empty environment but for PATH and what it is asked for, a process group of its own, and a time
//! limit, at which the whole group is killed.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;

use super::answer::{AnswerError, MAX_ANSWER, parse_chain};
use super::{Csr, Issued, Issuer, IssuerError};
use crate::identity::leaf::show;

/// Most bytes of what a command complains about that are read.
const MAX_COMPLAINT: usize = 16 * 1024;
/// How often a command that has closed its output is asked whether it has ended.
const STEP: Duration = Duration::from_millis(5);
/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Program {
    /// A program with its arguments, as they are.
    Command(Vec<String>),
    /// A line for `/bin/sh -c`.
    Shell(String),
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Command(words) => f.write_str(&show(&words.join(" "))),
            Self::Shell(line) => write!(f, "sh -c {:?}", show(line)),
        }
    }
}

/// Why a command gave no chain.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// It cannot be started.
    #[error("cannot run `{program}`: {source}; check the path and that mtlsd may execute it")]
    Start {
        /// What was to be run.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// It took too long, and was killed.
    #[error(
        "`{program}` had not ended after {limit:?} and was killed{complaint}; raise `timeout` if it may take longer"
    )]
    Timeout {
        /// What was run.
        program: String,
        /// The limit.
        limit: Duration,
        /// What it wrote to its standard error.
        complaint: Complaint,
    },
    /// It wrote too much, and was killed.
    #[error(
        "`{program}` wrote more than {MAX_ANSWER} bytes and was killed; it must write the chain and nothing else"
    )]
    TooMuch {
        /// What was run.
        program: String,
    },
    /// It ended with an error.
    #[error("`{program}` ended with {status}{complaint}; run it by hand with a CSR as its input")]
    Failed {
        /// What was run.
        program: String,
        /// How.
        status: String,
        /// What it wrote to its standard error.
        complaint: Complaint,
    },
    /// Its pipes failed.
    #[error("cannot talk to `{program}`: {source}; look at the limits of processes and descriptors")]
    Io {
        /// What was run.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// It wrote something else than a chain.
    #[error("`{program}` gave no usable answer: {source}")]
    Answer {
        /// What was run.
        program: String,
        /// Why.
        source: AnswerError,
    },
}

/// What a command wrote to its standard error, as a message shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint(String);

impl Complaint {
    fn of(bytes: &[u8]) -> Self {
        Self(show(String::from_utf8_lossy(bytes).trim()))
    }
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, " ({})", self.0) }
    }
}

/// Runs a command for each certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecIssuer {
    /// Its name in the configuration.
    pub name: String,
    /// What is run.
    pub program: Program,
    /// The most that it may take.
    pub timeout: Duration,
}

impl Issuer for ExecIssuer {
    fn sign(&self, csr: &Csr, _now: SystemTime) -> Result<Issued, IssuerError> {
        let chain = self
            .run(csr)
            .map_err(|source| IssuerError::Exec { issuer: self.name.clone(), source: Box::new(source) })?;
        Ok(Issued { chain })
    }

    fn is_told_whose(&self) -> bool {
        true
    }

    fn kind(&self) -> &'static str {
        "exec"
    }

    fn describe(&self) -> String {
        format!("{:?} {:?}", self.program, self.timeout)
    }
}

impl ExecIssuer {
    fn run(&self, csr: &Csr) -> Result<Vec<rustls::pki_types::CertificateDer<'static>>, ExecError> {
        let program = self.program.to_string();
        let child = self.command(csr).spawn();
        let child = child.map_err(|source| ExecError::Start { program: program.clone(), source })?;
        let mut run =
            Run { group: Group { child, reaped: false }, answer: Vec::new(), complaint: Vec::new() };
        let deadline = Instant::now() + self.timeout;
        let ended = run.until(csr.pem.as_bytes(), deadline);
        let complaint = Complaint::of(&run.complaint);
        match ended {
            Ok(End::Exited(status)) if status.success() => {
                parse_chain(&run.answer).map_err(|source| ExecError::Answer { program, source })
            }
            Ok(End::Exited(status)) => Err(ExecError::Failed { program, status: shown(status), complaint }),
            Ok(End::Timeout) => Err(ExecError::Timeout { program, limit: self.timeout, complaint }),
            Ok(End::TooMuch) => Err(ExecError::TooMuch { program }),
            Err(source) => Err(ExecError::Io { program, source }),
        }
    }

    fn command(&self, csr: &Csr) -> Command {
        let mut command = match &self.program {
            Program::Command(words) => {
                let mut words = words.iter();
                let mut command = Command::new(words.next().map_or("", String::as_str));
                command.args(words);
                command
            }
            Program::Shell(line) => {
                let mut command = Command::new("/bin/sh");
                command.args(["-c", line]);
                command
            }
        };
        let request = &csr.request;
        command
            .env_clear()
            .env("PATH", PATH)
            .env("MTLSD_WORKLOAD", &request.workload)
            .env("MTLSD_SPIFFE_ID", request.id.as_str())
            .env("MTLSD_DNS_NAMES", request.dns_names.join(","))
            .current_dir("/")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(lifetime) = request.lifetime {
            command.env("MTLSD_LIFETIME_SECONDS", lifetime.as_secs().to_string());
        }
        command
    }
}

/// "exit code 3", or "signal 9".
fn shown(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exit code {code}"),
        (None, Some(signal)) => format!("signal {signal}"),
        (None, None) => status.to_string(),
    }
}

/// A command and everything that it starts. Nothing of it outlives this.
struct Group {
    child: Child,
    reaped: bool,
}

impl Group {
    /// Has the command ended? It is not reaped: until then nobody else gets its number, which is the group's, too.
    fn has_ended(&self) -> io::Result<bool> {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        match waitid(Id::Pid(self.pid()?), flags) {
            Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => Ok(false),
            Ok(_) => Ok(true),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Kills what is left of the group, and reaps the command.
    fn end(&mut self) -> io::Result<ExitStatus> {
        match killpg(self.pid()?, Signal::SIGKILL) {
            // Nobody is left but the command, which waits to be reaped.
            Ok(()) | Err(Errno::ESRCH | Errno::EPERM) => {}
            Err(errno) => return Err(errno.into()),
        }
        let status = self.child.wait()?;
        self.reaped = true;
        Ok(status)
    }

    fn pid(&self) -> io::Result<Pid> {
        i32::try_from(self.child.id()).map(Pid::from_raw).map_err(io::Error::other)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if !self.reaped {
            let _ = self.end();
        }
    }
}

enum End {
    Exited(ExitStatus),
    Timeout,
    TooMuch,
}

struct Run {
    group: Group,
    answer: Vec<u8>,
    complaint: Vec<u8>,
}

impl Run {
    fn until(&mut self, question: &[u8], deadline: Instant) -> io::Result<End> {
        if let Some(mut stdin) = self.group.child.stdin.take() {
            // A CSR fits into a pipe: this does not wait. A command may well not read it.
            match stdin.write_all(question) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
                _ => {}
            }
        }
        let (mut stdout, mut stderr) = (self.group.child.stdout.take(), self.group.child.stderr.take());
        while stdout.is_some() || stderr.is_some() {
            if !wait(stdout.as_ref().map(AsFd::as_fd), stderr.as_ref().map(AsFd::as_fd), deadline)? {
                return Ok(End::Timeout);
            }
            take(&mut stdout, &mut self.answer)?;
            take(&mut stderr, &mut self.complaint)?;
            if self.answer.len() > MAX_ANSWER {
                return Ok(End::TooMuch);
            }
            self.complaint.truncate(MAX_COMPLAINT);
        }
        loop {
            if self.group.has_ended()? {
                return Ok(End::Exited(self.group.end()?));
            }
            if Instant::now() >= deadline {
                return Ok(End::Timeout);
            }
            std::thread::sleep(STEP);
        }
    }
}

type Borrowed<'a> = Option<std::os::fd::BorrowedFd<'a>>;

/// Until there is something to read or an end; false: the time is over.
fn wait(stdout: Borrowed<'_>, stderr: Borrowed<'_>, deadline: Instant) -> io::Result<bool> {
    let left = deadline.saturating_duration_since(Instant::now());
    let mut both: Vec<_> =
        stdout.into_iter().chain(stderr).map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
    let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
    match poll(&mut both, timeout) {
        Ok(0) => Ok(Instant::now() < deadline),
        Ok(_) | Err(Errno::EINTR) => Ok(true),
        Err(errno) => Err(errno.into()),
    }
}

/// Reads what is there, if anything is; at the end the pipe is closed.
fn take(pipe: &mut Option<impl Read + AsFd>, into: &mut Vec<u8>) -> io::Result<()> {
    let Some(open) = pipe else { return Ok(()) };
    let mut ready = [PollFd::new(open.as_fd(), PollFlags::POLLIN)];
    if poll(&mut ready, PollTimeout::ZERO).map_err(io::Error::from)? == 0 {
        return Ok(());
    }
    let mut room = [0; 4096];
    match open.read(&mut room) {
        Ok(0) => *pipe = None,
        Ok(length) => into.extend(room.iter().take(length)),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
        Err(error) => return Err(error),
    }
    Ok(())
}
