//! SIGINT, SIGTERM and SIGHUP: everything that runs in the lab ends at once, and the steps see that they are to stop.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

/// Whether the demonstration was interrupted, and what must die when it is.
#[derive(Debug, Clone, Default)]
pub struct Interrupt {
    happened: Arc<AtomicBool>,
    group: Arc<Mutex<Option<PathBuf>>>,
}

impl Interrupt {
    /// Listens for the signals from now on, on a thread of its own.
    ///
    /// A signal mask with sigwait would be simpler, but children inherit it: tcpdump and mtlsd would hear nothing.
    ///
    /// # Errors
    /// If the handlers cannot be set.
    pub fn install() -> io::Result<Self> {
        let interrupt = Self::default();
        let (ready, installed) = mpsc::channel();
        let watched = interrupt.clone();
        std::thread::Builder::new().name("signals".into()).spawn(move || {
            if let Err(error) = watch(&watched, &ready) {
                let _ = ready.send(Err(error));
            }
        })?;
        installed.recv().unwrap_or_else(|gone| Err(io::Error::other(gone)))?;
        Ok(interrupt)
    }

    /// The cgroup whose processes are killed on a signal, so that no step waits for them.
    pub fn kills(&self, group: PathBuf) {
        *self.group.lock().unwrap_or_else(PoisonError::into_inner) = Some(group);
    }

    /// The cgroup given to [`Interrupt::kills`].
    pub fn group(&self) -> Option<PathBuf> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether it was interrupted.
    pub fn happened(&self) -> bool {
        self.happened.load(Ordering::Acquire)
    }

    /// The same, a moment later: Ctrl-C reaches the lab's programs too, and a step may see them die first.
    pub fn happened_just_now(&self) -> bool {
        crate::lab::within(Duration::from_millis(200), || self.happened().then_some(())).is_some()
    }

    pub(super) fn set(&self) {
        self.happened.store(true, Ordering::Release);
    }

    fn kill(&self) {
        if let Some(group) = self.group() {
            // Gone already, or Linux before 5.14: the lab's own removal does it then.
            let _ = fs::write(group.join("cgroup.kill"), "1");
        }
    }
}

fn watch(interrupt: &Interrupt, ready: &mpsc::Sender<io::Result<()>>) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut int = signal(SignalKind::interrupt())?;
        let mut term = signal(SignalKind::terminate())?;
        let mut hup = signal(SignalKind::hangup())?;
        let _ = ready.send(Ok(()));
        tokio::select! {
            _ = int.recv() => {}
            _ = term.recv() => {}
            _ = hup.recv() => {}
        }
        interrupt.set();
        // A step may be about to start one more program. A second signal changes nothing: it is cleaned up already.
        loop {
            interrupt.kill();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
}
