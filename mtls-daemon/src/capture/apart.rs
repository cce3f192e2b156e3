//! One thread for what takes much memory for a moment.
//!
//! The loader reads all of the kernel's type information, some 20 MB, for each namespace. glibc keeps what is freed with the arena of
//! the thread that asked for it, and locked memory cannot be given back: each thread of the daemon that ever entered a namespace
//! would come to hold as much. A new thread for each is no help, since any other new thread may get its arena.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::OnceLock;
use std::sync::mpsc::{self, Sender};

type Job = Box<dyn FnOnce() + Send>;

/// `None`: there can be no such thread.
static THREAD: OnceLock<Option<Sender<Job>>> = OnceLock::new();

/// Runs it on that thread, and waits. Where there can be no thread it runs on this one.
///
/// # Panics
/// If it does.
pub(super) fn apart<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let Some(thread) = THREAD.get_or_init(start) else { return run() };
    let (answer, answered) = mpsc::channel();
    let job = move || {
        let _ = answer.send(catch_unwind(AssertUnwindSafe(run)));
    };
    if let Err(mpsc::SendError(job)) = thread.send(Box::new(job)) {
        job();
    }
    match answered.recv() {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(panic)) => resume_unwind(panic),
        Err(mpsc::RecvError) => resume_unwind(Box::new("a job was dropped before it ran")),
    }
}

fn start() -> Option<Sender<Job>> {
    let (sender, jobs) = mpsc::channel::<Job>();
    let work = move || jobs.into_iter().for_each(|job| job());
    let started = std::thread::Builder::new().name("loader".to_owned()).spawn(work);
    match started {
        Ok(_) => Some(sender),
        Err(error) => {
            tracing::warn!(%error, "no thread for loading programs; the daemon takes more memory");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_runs_on_one_and_the_same_thread_which_outlives_a_panic() {
        let name = || std::thread::current().name().map(str::to_owned);
        let own = std::thread::current().id();
        let first = apart(|| std::thread::current().id());
        assert_ne!(first, own);
        let panicked = catch_unwind(|| apart(|| panic!("on purpose")));
        assert!(panicked.is_err());
        let second = std::thread::scope(|scope| {
            let other = scope.spawn(|| apart(|| std::thread::current().id()));
            other.join().unwrap()
        });
        assert_eq!(first, second);
        assert_eq!(apart(name).as_deref(), Some("loader"));
    }
}
