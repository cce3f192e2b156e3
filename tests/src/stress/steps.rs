//! Whoever stops a daemon between two of its steps: strace puts a SIGSTOP behind every few of the system calls that a connection
//! costs it, and the whole process goes on some time later.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::adversary::send;
use super::background::Background;
use crate::bytes::Random;
use crate::slow;

/// What a daemon calls between a connect() or an accept() and the release: each is the end of a step.
const STEPS: &str = "pidfd_open,pidfd_getfd,getsockopt,setsockopt,bpf,ptrace,openat,getdents64,close,sendto,sendmsg,write,writev,\
                     read,recvfrom,recvmsg,epoll_wait";

/// A SIGSTOP behind one in so many calls of a kind, for each thread. Which one changes with each round.
const ONE_IN: u64 = 7;
const ROUND: Duration = Duration::from_secs(3);

/// Begins with these daemons; strace writes into `dir`. Once it is ended nobody is stopped or traced any more. Each thread gives how
/// often strace saw a thread of its daemon stopped: a SIGSTOP stops all of its process.
pub fn begin(daemons: &[u32], dir: &Path, seed: u64) -> Background<usize> {
    Background::start(daemons.iter().map(|pid| {
        let (pid, log) = (*pid, dir.join(format!("strace-{pid}.txt")));
        move |over: &AtomicBool| {
            let mut random = Random(seed ^ (u64::from(pid) << 32));
            let mut stops = 0;
            while !over.load(Ordering::Relaxed) {
                let strace = Strace::attach(pid, &log, &mut random);
                let begun = Instant::now();
                while !over.load(Ordering::Relaxed) && begun.elapsed() < slow::stretched(ROUND) {
                    // Now and then longer than an early release (100 ms) takes.
                    let most = if random.once_in(16) { 150_000 } else { 2_000 };
                    sleep(Duration::from_micros(random.next() % most));
                    send(pid, Signal::SIGCONT);
                }
                drop(strace);
                let seen = fs::read_to_string(&log).expect("strace has made it");
                stops += seen.matches("--- stopped by SIGSTOP ---").count();
            }
            stops
        }
    }))
}

struct Strace {
    child: Child,
    traced: u32,
}

impl Strace {
    /// # Panics
    /// If strace is not installed, or may not trace.
    fn attach(pid: u32, log: &Path, random: &mut Random) -> Self {
        let inject = format!("inject={STEPS}:signal=STOP:when={}+{ONE_IN}", random.next() % ONE_IN + 1);
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-e", &format!("trace={STEPS}"), "-e", &inject, "-p", &pid.to_string()]);
        strace.arg("-o").arg(log).stderr(Stdio::null());
        let child = strace.spawn().expect("strace is installed");
        let strace = Self { child, traced: pid };
        crate::eventually(slow::limit(20), "strace to trace the daemon", || traced(pid).then_some(()));
        strace
    }
}

impl Drop for Strace {
    fn drop(&mut self) {
        // It lets go of all threads before it ends.
        send(self.child.id(), Signal::SIGTERM);
        let _ = self.child.wait();
        send(self.traced, Signal::SIGCONT);
    }
}

fn traced(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.strip_prefix("TracerPid:").is_some_and(|tracer| tracer.trim() != "0"))
}
