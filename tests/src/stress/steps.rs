//! Whoever stops a daemon between two of its steps: strace puts a SIGSTOP behind every few of the system calls that a connection
//! costs it, and the whole process goes on some time later.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{JoinHandle, sleep};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::bytes::Random;
use crate::slow;

/// What a daemon calls between a connect() or an accept() and the release: each is the end of a step.
const STEPS: &str = "pidfd_open,pidfd_getfd,getsockopt,setsockopt,bpf,ptrace,openat,getdents64,close,sendto,sendmsg,write,writev,\
                     read,recvfrom,recvmsg,epoll_wait";

/// A SIGSTOP behind one in so many calls of a kind, for each thread. Which one changes with each round.
const ONE_IN: u64 = 7;
const ROUND: Duration = Duration::from_secs(3);

/// It goes on until it is dropped; then nobody is stopped or traced any more.
#[derive(Debug)]
pub struct Steps {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
    /// Threads that were stopped, by strace's count: a SIGSTOP stops all of its process.
    pub stops: Arc<AtomicUsize>,
}

impl Steps {
    /// Begins with these daemons; strace writes into `dir`.
    ///
    /// # Panics
    /// If strace is not installed, or may not trace.
    #[track_caller]
    pub fn new(daemons: &[u32], dir: &Path, seed: u64) -> Self {
        let (over, stops) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let torment = |pid: u32| {
            let (over, stops) = (Arc::clone(&over), Arc::clone(&stops));
            let (mut random, dir) = (Random(seed ^ (u64::from(pid) << 32)), dir.to_owned());
            let mut strace = Strace::attach(pid, &dir, &mut random, &stops);
            std::thread::spawn(move || {
                let mut since = Instant::now();
                while !over.load(Ordering::Relaxed) {
                    // Now and then longer than an early release (100 ms) takes.
                    let most = if random.once_in(16) { 150_000 } else { 2_000 };
                    sleep(Duration::from_micros(random.next() % most));
                    go_on(pid);
                    if since.elapsed() > slow::stretched(ROUND) {
                        drop(strace);
                        strace = Strace::attach(pid, &dir, &mut random, &stops);
                        since = Instant::now();
                    }
                }
            })
        };
        let threads = daemons.iter().map(|pid| torment(*pid)).collect();
        Self { over, threads, stops }
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            assert!(thread.join().is_ok() || std::thread::panicking(), "whoever stops a daemon panicked");
        }
    }
}

#[derive(Debug)]
struct Strace {
    child: Child,
    traced: u32,
    log: PathBuf,
    stops: Arc<AtomicUsize>,
}

impl Strace {
    fn attach(pid: u32, dir: &Path, random: &mut Random, stops: &Arc<AtomicUsize>) -> Self {
        let inject = format!("inject={STEPS}:signal=STOP:when={}+{ONE_IN}", random.next() % ONE_IN + 1);
        let mut strace = Command::new("strace");
        let log = dir.join(format!("strace-{pid}.txt"));
        strace.args(["-f", "-qq", "-e", &format!("trace={STEPS}"), "-e", &inject, "-p", &pid.to_string()]);
        strace.arg("-o").arg(&log).stderr(Stdio::null());
        let child = strace.spawn().expect("strace is installed");
        let strace = Self { child, traced: pid, log, stops: Arc::clone(stops) };
        crate::eventually(slow::limit(20), "strace to trace the daemon", || traced(pid).then_some(()));
        strace
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // It lets go of all threads before it ends.
        if let Ok(pid) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
        let _ = self.child.wait();
        go_on(self.traced);
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        self.stops.fetch_add(log.matches("--- stopped by SIGSTOP ---").count(), Ordering::Relaxed);
    }
}

fn go_on(pid: u32) {
    let _ = kill(Pid::from_raw(pid.cast_signed()), Signal::SIGCONT);
}

fn traced(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
}
