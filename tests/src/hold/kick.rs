//! The kick: every thread of a process leaves the system call that it is in, and makes it again.

use std::fs;
use std::io;

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// The length of the instruction `syscall` on x86-64, bytes.
const SYSCALL_LENGTH: u64 = 2;

/// What became of one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kick {
    /// The thread.
    pub tid: i32,
    /// How it was found.
    pub outcome: Outcome,
}

/// How a thread was found when it was made to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// In no system call.
    User,
    /// A system call was over, with this value; below -511 the kernel makes it again by itself.
    Returned(i64),
    /// The system call was to return EINTR, and is made again instead.
    Mended,
    /// It had been stopped by a signal before.
    Stopped,
    /// It was on its way to a signal, which it gets.
    Signalled,
    /// It is traced by another process, or may not be traced (EPERM).
    Refused,
    /// It ended meanwhile.
    Gone,
}

/// Kicks every thread of a process. With `mend`, no call returns EINTR because of it.
///
/// # Errors
/// When the process is not there, or ptrace fails otherwise than an [`Outcome`] says.
pub fn kick(pid: u32, mend: bool) -> io::Result<Vec<Kick>> {
    let mut kicked = Vec::new();
    for tid in threads(pid)? {
        let outcome = match one(pid, tid, mend) {
            Ok(outcome) => outcome,
            Err(Errno::EPERM) => Outcome::Refused,
            Err(Errno::ESRCH | Errno::ECHILD) => Outcome::Gone,
            Err(other) => return Err(other.into()),
        };
        kicked.push(Kick { tid, outcome });
    }
    Ok(kicked)
}

fn threads(pid: u32) -> io::Result<Vec<i32>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task"))?;
    let name = |entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    Ok(entries.filter_map(name).collect())
}

fn one(pid: u32, tid: i32, mend: bool) -> Result<Outcome, Errno> {
    let thread = Pid::from_raw(tid);
    ptrace::seize(thread, ptrace::Options::empty())?;
    ptrace::interrupt(thread)?;
    match waitpid(thread, Some(WaitPidFlag::__WALL))? {
        WaitStatus::PtraceEvent(_, Signal::SIGTRAP, libc::PTRACE_EVENT_STOP) => {}
        WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_STOP) => {
            ptrace::detach(thread, None)?;
            return Ok(Outcome::Stopped);
        }
        WaitStatus::Stopped(_, signal) => {
            ptrace::detach(thread, signal)?;
            return Ok(Outcome::Signalled);
        }
        _ => return Ok(Outcome::Gone),
    }
    let outcome = stopped(pid, thread, mend);
    ptrace::detach(thread, None)?;
    outcome
}

/// What a thread that has just been stopped was doing.
fn stopped(pid: u32, thread: Pid, mend: bool) -> Result<Outcome, Errno> {
    let mut registers = ptrace::getregs(thread)?;
    let (call, value) = (registers.orig_rax.cast_signed(), registers.rax.cast_signed());
    if call < 0 {
        return Ok(Outcome::User);
    }
    if !mend || value != -i64::from(libc::EINTR) || signal_waits(pid, thread) {
        return Ok(Outcome::Returned(value));
    }
    registers.rax = registers.orig_rax;
    registers.rip = registers.rip.wrapping_sub(SYSCALL_LENGTH);
    // The kernel is not to restart it a second time.
    registers.orig_rax = u64::MAX;
    ptrace::setregs(thread, registers)?;
    Ok(Outcome::Mended)
}

/// Whether a signal waits for which the thread has a handler: then EINTR is the signal's. One that is ignored would
/// not have interrupted anything, and is in the queue only because the thread is traced.
fn signal_waits(pid: u32, thread: Pid) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap_or_default();
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|mask| u64::from_str_radix(mask.trim_start_matches(':').trim(), 16).ok())
    };
    match (set("SigPnd"), set("ShdPnd"), set("SigBlk"), set("SigCgt")) {
        (Some(own), Some(shared), Some(blocked), Some(caught)) => (own | shared) & !blocked & caught != 0,
        // What cannot be read is left as it is.
        _ => true,
    }
}
