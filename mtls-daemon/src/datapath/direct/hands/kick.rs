//! Nobody stays inside a plain send or receive: every thread that may be in one is made to leave its call, and makes it again,
//! now through TLS. docs/design/direct.md, "Who is inside the socket".
//!
//! A thread counts as done once it was seen outside, or was stopped, after the keys were set: what it calls from then on is TLS.

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, RawFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use self::turn::Turn;
use super::holders::{Link, is_gone, is_over, others, threads};
use super::inside::Doing;
use super::taken::Taken;
use crate::sys::thread::{StopError, Stopped, supported};

/// A listing of /proc can miss a thread while others end, so one is not enough.
const LEAST_ROUNDS: u32 = 2;

/// What was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Emptied {
    /// How often the threads were listed.
    pub rounds: u32,
    /// Threads that were looked at.
    pub threads: usize,
    /// Of those, the ones that were stopped for a moment.
    pub stopped: usize,
    /// Of those, the ones whose call would have returned EINTR to the application.
    pub mended: usize,
}

/// Why somebody may still be inside.
#[derive(Debug, thiserror::Error)]
pub enum KickError {
    /// We cannot hide the stop from the application there.
    #[error(
        "threads cannot be moved out of their calls on this architecture ({}): use relay there",
        std::env::consts::ARCH
    )]
    Architecture,
    /// Its system calls have other numbers.
    #[error("process {0} is no 64-bit program: its system calls are not known; use relay for it")]
    NotSixtyFour(u32),
    /// Another process traces the thread.
    #[error(
        "thread {tid} of process {pid} may not be traced: a debugger has it, or mtlsd has no CAP_SYS_PTRACE"
    )]
    Refused {
        /// The process.
        pid: u32,
        /// Its thread.
        tid: i32,
    },
    /// It sleeps where no signal wakes it, or new threads come faster than they can be looked at.
    #[error("threads of process {pid} were still inside the socket after {patience:?}")]
    Late {
        /// The process.
        pid: u32,
        /// How long was waited.
        patience: Duration,
    },
    /// Who else has the socket is not known.
    #[error("the processes beside {pid} in its cgroup cannot be listed: {source}")]
    Unlisted {
        /// The process that the socket was taken from.
        pid: u32,
        /// Why.
        source: io::Error,
    },
    /// Something else that ptrace said.
    #[error(transparent)]
    Stop(StopError),
    /// /proc cannot be read.
    #[error("/proc cannot be read: {0}")]
    Proc(io::Error),
    /// There is no thread to do it on.
    #[error("no thread could be started: {0}")]
    NoThread(io::Error),
}

/// Moves every thread out of the calls it was in when the keys were set: of the process that the socket was taken from, and of
/// every other of its cgroup that has it under the same number. `patience`: for all of it.
///
/// Runs on a thread of its own, which ends with it: the kernel then lets go of whatever it still traces. Dropping the
/// future leaves that thread to its work.
///
/// # Errors
/// When somebody may still be inside. Nothing stays stopped.
pub async fn empty(taken: &Taken, patience: Duration) -> Result<Emptied, KickError> {
    let kick = Kick::of(taken, patience)?;
    let (said, heard) = tokio::sync::oneshot::channel();
    let work = move || {
        // Whoever asked may be gone.
        let _ = said.send(kick.run());
    };
    std::thread::Builder::new().name("kick".into()).spawn(work).map_err(KickError::NoThread)?;
    heard.await.unwrap_or_else(|_| Err(KickError::NoThread(io::Error::other("it panicked"))))
}

/// As [`empty`], for callers without a runtime.
///
/// # Errors
/// As [`empty`].
pub fn empty_blocking(taken: &Taken, patience: Duration) -> Result<Emptied, KickError> {
    let kick = Kick::of(taken, patience)?;
    let thread = std::thread::Builder::new().name("kick".into()).spawn(|| kick.run());
    let result = thread.map_err(KickError::NoThread)?.join();
    result.unwrap_or_else(|_| Err(KickError::NoThread(io::Error::other("it panicked"))))
}

#[derive(Debug)]
struct Kick {
    link: Link,
    pid: u32,
    number: RawFd,
    cgroup: Option<PathBuf>,
    patience: Duration,
    deadline: Instant,
    cleared: HashSet<i32>,
    known: HashSet<u32>,
    done: Emptied,
}

impl Kick {
    fn of(taken: &Taken, patience: Duration) -> Result<Self, KickError> {
        if !supported() {
            return Err(KickError::Architecture);
        }
        Ok(Self {
            link: Link::of(taken.as_fd()).map_err(KickError::Proc)?,
            pid: taken.pid(),
            number: taken.number(),
            cgroup: taken.cgroup().map(Into::into),
            patience,
            deadline: Instant::now() + patience,
            cleared: HashSet::new(),
            known: HashSet::new(),
            done: Emptied::default(),
        })
    }

    fn run(mut self) -> Result<Emptied, KickError> {
        loop {
            let before = self.done.stopped;
            for pid in self.processes()? {
                self.process(pid)?;
            }
            self.done.rounds += 1;
            if self.done.rounds >= LEAST_ROUNDS && self.done.stopped == before {
                return Ok(self.done);
            }
            if Instant::now() >= self.deadline {
                return Err(KickError::Late { pid: self.pid, patience: self.patience });
            }
        }
    }

    fn processes(&self) -> Result<Vec<u32>, KickError> {
        let unlisted = |source| KickError::Unlisted { pid: self.pid, source };
        let cgroup = self.cgroup.as_deref();
        let cgroup = cgroup.ok_or_else(|| unlisted(io::Error::other("its cgroup v2 is not known")))?;
        let mut all = others(&self.link, self.pid, self.number, cgroup).map_err(unlisted)?;
        all.push(self.pid);
        Ok(all)
    }

    fn process(&mut self, pid: u32) -> Result<(), KickError> {
        if self.known.insert(pid) && !sixty_four(pid).map_err(KickError::Proc)? {
            return Err(KickError::NotSixtyFour(pid));
        }
        for tid in threads(pid).map_err(KickError::Proc)? {
            if self.cleared.insert(tid) {
                self.done.threads += 1;
                if self.may_be_inside(pid, tid)? {
                    self.stop(pid, tid)?;
                }
            }
        }
        Ok(())
    }

    fn may_be_inside(&self, pid: u32, tid: i32) -> Result<bool, KickError> {
        let doing = match fs::read_to_string(format!("/proc/{pid}/task/{tid}/syscall")) {
            Ok(text) => Doing::of(&text),
            Err(error) if is_over(&error) => return Ok(false),
            Err(error) => return Err(KickError::Proc(error)),
        };
        Ok(match doing {
            Doing::Anything => true,
            Doing::Other => false,
            // Another thread may have closed the number, or reused ours, under the call.
            Doing::Moving(by) => by.into_iter().flatten().any(|number| {
                RawFd::try_from(number) == Ok(self.number) || self.link.is_in(pid, number) != Some(false)
            }),
        })
    }

    fn stop(&mut self, pid: u32, tid: i32) -> Result<(), KickError> {
        // Of one process many connections are armed at a time; without turns their kicks refuse each other.
        let late = KickError::Late { pid, patience: self.patience };
        let _turn = Turn::of(tid, self.deadline).ok_or(late)?;
        let stopped = Stopped::stop(tid, self.deadline).and_then(|mut thread| thread.mend());
        match stopped {
            Ok(mended) => {
                self.done.stopped += 1;
                self.done.mended += usize::from(mended);
                Ok(())
            }
            Err(StopError::Gone(_)) => Ok(()),
            // Of one that exits, ptrace says EPERM, and that a first thread is over only with the last one.
            Err(StopError::Refused(_) | StopError::Late(_)) if is_gone(tid.cast_unsigned()) => Ok(()),
            Err(StopError::Refused(tid)) => Err(KickError::Refused { pid, tid }),
            Err(StopError::Late(_)) => Err(KickError::Late { pid, patience: self.patience }),
            Err(other) => Err(KickError::Stop(other)),
        }
    }
}

/// Whether the program is a 64-bit one (`EI_CLASS` of elf(5)); one that is over counts.
fn sixty_four(pid: u32) -> io::Result<bool> {
    let mut head = [0; 5];
    let read = File::open(format!("/proc/{pid}/exe")).and_then(|mut file| file.read_exact(&mut head));
    match read {
        Ok(()) => Ok(head == *b"\x7fELF\x02"),
        Err(error) if is_over(&error) => Ok(true),
        Err(error) => Err(error),
    }
}

mod turn;

#[cfg(test)]
mod tests;
