//! A thread of another process, stopped for a moment and let go (ptrace(2), PTRACE_SEIZE).
//!
//! ptrace belongs to one OS thread: all calls for one [`Stopped`] come from the thread that made it. When that thread ends, the
//! kernel lets go of whatever it still holds; so a caller that must never leave a thread stopped uses a thread of its own.

use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// Between two looks whether a thread has stopped, at first and at most.
const PAUSES: [Duration; 2] = [Duration::from_micros(20), Duration::from_millis(2)];

/// How a thread was found when it stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// In user space, or in a system call that is over or will be made again by Linux.
    Left,
    /// It had been stopped by a signal before (SIGSTOP), and will stay so: the stop took it out of its call.
    Halted,
    /// On its way to a signal, which it gets.
    Signalled,
}

/// Why a thread was not stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    /// It ended: nothing is inside.
    #[error("thread {0} is over")]
    Gone(i32),
    /// Another process traces it, or a security module forbids it (EPERM).
    #[error("thread {0} may not be traced (EPERM): a debugger has it, or mtlsd has no CAP_SYS_PTRACE")]
    Refused(i32),
    /// It did not stop in time: it sleeps where no signal wakes it.
    #[error("thread {0} did not leave its system call in time")]
    Late(i32),
    /// Something else.
    #[error("thread {tid} cannot be stopped: {errno}")]
    Failed {
        /// The thread.
        tid: i32,
        /// What the kernel said.
        errno: Errno,
    },
}

impl StopError {
    fn of(tid: i32, errno: Errno) -> Self {
        match errno {
            Errno::ESRCH | Errno::ECHILD => Self::Gone(tid),
            Errno::EPERM => Self::Refused(tid),
            errno => Self::Failed { tid, errno },
        }
    }
}

/// A thread that is stopped for as long as this lives.
#[derive(Debug)]
pub struct Stopped {
    thread: Pid,
    found: Found,
    /// What it is to get when it is let go.
    signal: Option<Signal>,
}

impl Stopped {
    /// Makes a thread leave its system call. A thread that is not out by `deadline` is left to the end of the calling thread,
    /// at which the kernel lets go of it.
    ///
    /// # Errors
    /// See [`StopError`].
    pub fn stop(tid: i32, deadline: Instant) -> Result<Self, StopError> {
        let failed = |errno| StopError::of(tid, errno);
        let thread = Pid::from_raw(tid);
        ptrace::seize(thread, ptrace::Options::empty()).map_err(failed)?;
        ptrace::interrupt(thread).map_err(failed)?;
        let [mut pause, longest] = PAUSES;
        let flags = WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD | WaitPidFlag::WNOHANG;
        let (found, signal) = loop {
            match waitpid(thread, Some(flags)) {
                Ok(WaitStatus::StillAlive) | Err(Errno::EINTR) => {}
                Ok(WaitStatus::PtraceEvent(_, Signal::SIGTRAP, libc::PTRACE_EVENT_STOP)) => {
                    break (Found::Left, None);
                }
                Ok(WaitStatus::PtraceEvent(_, _, libc::PTRACE_EVENT_STOP)) => break (Found::Halted, None),
                Ok(WaitStatus::Stopped(_, signal)) => break (Found::Signalled, Some(signal)),
                Ok(_) => return Err(StopError::Gone(tid)),
                Err(errno) => return Err(failed(errno)),
            }
            if Instant::now() >= deadline {
                return Err(StopError::Late(tid));
            }
            std::thread::sleep(pause);
            pause = longest.min(pause * 2);
        };
        Ok(Self { thread, found, signal })
    }

    /// How it was found.
    #[must_use]
    pub fn found(&self) -> Found {
        self.found
    }

    /// Hides the stop: a call that was cut off with EINTR is made again. `true`: it was needed.
    ///
    /// Not where a signal waits that the thread catches: EINTR is that signal's.
    ///
    /// # Errors
    /// When the thread was killed meanwhile, or its registers cannot be had.
    pub fn mend(&mut self) -> Result<bool, StopError> {
        if self.found != Found::Left || !supported() {
            return Ok(false);
        }
        mend(self.thread).map_err(|errno| StopError::of(self.thread.as_raw(), errno))
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        // ESRCH only: it was killed.
        let _ = ptrace::detach(self.thread, self.signal);
    }
}

/// Whether a stop can be hidden from threads of this architecture.
#[must_use]
pub const fn supported() -> bool {
    cfg!(target_arch = "x86_64")
}

#[cfg(target_arch = "x86_64")]
fn mend(thread: Pid) -> Result<bool, Errno> {
    /// The length of the instruction `syscall`, bytes.
    const SYSCALL_LENGTH: u64 = 2;
    /// `__USER_CS`: 64-bit code (arch/x86/include/asm/segment.h).
    const CODE: u64 = 0x33;
    let mut registers = ptrace::getregs(thread)?;
    let in_call = registers.cs == CODE && registers.orig_rax.cast_signed() >= 0;
    let interrupted = registers.rax.cast_signed() == -i64::from(libc::EINTR);
    if !in_call || !interrupted || signal_waits(thread) {
        return Ok(false);
    }
    registers.rax = registers.orig_rax;
    registers.rip = registers.rip.wrapping_sub(SYSCALL_LENGTH);
    // The kernel is not to restart it a second time.
    registers.orig_rax = u64::MAX;
    ptrace::setregs(thread, registers)?;
    Ok(true)
}

#[cfg(not(target_arch = "x86_64"))]
fn mend(_: Pid) -> Result<bool, Errno> {
    Err(Errno::ENOSYS)
}

/// Whether a signal waits for which the thread has a handler. One that is ignored would not have interrupted
/// anything, and is in the queue only because the thread is traced.
#[cfg(target_arch = "x86_64")]
fn signal_waits(thread: Pid) -> bool {
    // /proc/TID is there for every thread, though not listed.
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).unwrap_or_default();
    waits(&status)
}

#[cfg(target_arch = "x86_64")]
fn waits(status: &str) -> bool {
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
    };
    match (set("SigPnd"), set("ShdPnd"), set("SigBlk"), set("SigCgt")) {
        (Some(own), Some(shared), Some(blocked), Some(caught)) => (own | shared) & !blocked & caught != 0,
        // What cannot be read is left as it is.
        _ => true,
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
mod tests;
