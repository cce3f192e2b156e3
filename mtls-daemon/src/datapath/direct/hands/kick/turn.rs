//! One kick at a time for a thread: the kernel allows one tracer, and refuses our own second one as it refuses a debugger.

use std::collections::HashSet;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Instant;

/// Threads that are being stopped by this daemon.
static BUSY: Mutex<Option<HashSet<i32>>> = Mutex::new(None);
static FREE: Condvar = Condvar::new();

/// The right to trace a thread, until it is dropped.
#[derive(Debug)]
pub(super) struct Turn(i32);

impl Turn {
    /// Waits for it; `None`: another connection's kick still had the thread at the deadline.
    pub(super) fn of(tid: i32, deadline: Instant) -> Option<Self> {
        let busy = BUSY.lock().unwrap_or_else(PoisonError::into_inner);
        let patience = deadline.saturating_duration_since(Instant::now());
        let taken = |busy: &mut Option<HashSet<i32>>| busy.as_ref().is_some_and(|busy| busy.contains(&tid));
        let (mut busy, late) =
            FREE.wait_timeout_while(busy, patience, taken).unwrap_or_else(PoisonError::into_inner);
        if late.timed_out() {
            return None;
        }
        busy.get_or_insert_default().insert(tid);
        Some(Self(tid))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if let Some(busy) = BUSY.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            busy.remove(&self.0);
        }
        FREE.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// No thread has such a number.
    const NOBODY: i32 = -7;

    #[test]
    fn a_thread_is_had_by_one_at_a_time_and_others_do_not_wait() {
        let long = Instant::now() + Duration::from_secs(20);
        let first = Turn::of(NOBODY, long).unwrap();
        assert!(Turn::of(NOBODY - 1, long).is_some());
        assert!(Turn::of(NOBODY, Instant::now()).is_none());
        let second = std::thread::spawn(move || Turn::of(NOBODY, long).is_some());
        drop(first);
        assert!(second.join().unwrap());
    }
}
