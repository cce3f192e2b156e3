//! Threads that go on until the test has seen enough.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

/// They go on until they are ended or dropped.
#[derive(Debug)]
pub struct Background<T> {
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<T>>,
}

impl<T: Send + 'static> Background<T> {
    /// Starts a thread for each body, which ends when it finds the flag set.
    pub(super) fn start<F>(bodies: impl IntoIterator<Item = F>) -> Self
    where
        F: FnOnce(&AtomicBool) -> T + Send + 'static,
    {
        let over = Arc::new(AtomicBool::new(false));
        let start = |body: F| {
            let over = Arc::clone(&over);
            std::thread::spawn(move || body(&over))
        };
        let threads = bodies.into_iter().map(start).collect();
        Self { over, threads }
    }

    /// Ends them, and gives what each has done.
    ///
    /// # Panics
    /// If one of them has.
    #[track_caller]
    pub fn end(mut self) -> Vec<T> {
        self.over.store(true, Ordering::Relaxed);
        let threads = std::mem::take(&mut self.threads);
        threads.into_iter().map(|thread| thread.join().expect("it does not panic")).collect()
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}
