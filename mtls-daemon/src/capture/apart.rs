//! One thread that loads the program of each namespace, with a loader that it keeps.
//!
//! A new loader reads all of the kernel's type information: some 20 MB for a moment, which glibc would keep, and which locked memory
//! cannot give back, and as much time as the verifier takes. No program of a namespace needs it.

use std::cell::OnceCell;
use std::sync::OnceLock;
use std::sync::mpsc::{self, Receiver, Sender};

use aya::{Ebpf, VerifierLogLevel};

use super::error::CaptureError;
use super::pins::Pins;
use super::programs::{self, Constants};

/// So many objects a loader makes: it borrows the constants of each until it is dropped.
const MOST: usize = if cfg!(test) { 2 } else { 4096 };

struct Job {
    pins: Pins,
    constants: Constants,
    answer: Sender<Result<Ebpf, CaptureError>>,
}

/// `None`: there can be no such thread.
static THREAD: OnceLock<Option<Sender<Job>>> = OnceLock::new();

/// Begins to read what is read once, so that it is over before memory is locked.
pub(super) fn prepare() {
    THREAD.get_or_init(start);
}

/// Loads the object with these constants on that thread, and waits. Where there is no such thread it is done on this one.
///
/// # Errors
/// The kernel's refusal.
pub(super) fn load(pins: &Pins, constants: Constants) -> Result<Ebpf, CaptureError> {
    let on_this = || programs::load(pins, constants, VerifierLogLevel::default());
    let Some(thread) = THREAD.get_or_init(start) else { return on_this() };
    let (answer, answered) = mpsc::channel();
    if thread.send(Job { pins: pins.clone(), constants, answer }).is_err() {
        return on_this();
    }
    // It has panicked.
    answered.recv().unwrap_or_else(|mpsc::RecvError| on_this())
}

fn start() -> Option<Sender<Job>> {
    let (sender, jobs) = mpsc::channel::<Job>();
    let (ready, is_ready) = mpsc::channel();
    let work = move || while serve(&jobs, &ready).is_some() {};
    match std::thread::Builder::new().name("loader".to_owned()).spawn(work) {
        Ok(_) => {
            let _ = is_ready.recv();
            Some(sender)
        }
        Err(error) => {
            tracing::warn!(%error, "no thread for loading programs; the daemon takes more memory");
            None
        }
    }
}

/// With one loader; `None`: nobody asks any more.
fn serve(jobs: &Receiver<Job>, ready: &Sender<()>) -> Option<()> {
    let constants: Vec<_> = (0..MOST).map(|_| OnceCell::new()).collect();
    let mut loader = programs::loader();
    loader.btf(None);
    let _ = ready.send(());
    for cell in &constants {
        let Job { pins, constants, answer } = jobs.recv().ok()?;
        let constants = cell.get_or_init(|| constants);
        let _ = answer.send(programs::load_with(&mut loader, &pins, constants, VerifierLogLevel::default()));
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::super::programs::{EbpfLog, NETNS_PROGRAM, load_cgroup_programs};
    use super::*;

    #[test]
    fn one_loader_serves_many_namespaces_and_the_next_one_follows() {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test loads real programs: run it as root, as `cargo xtask test` does"
        );
        let directory = PathBuf::from(format!("/sys/fs/bpf/mtlsd-test-apart-{}", std::process::id()));
        let pins = Pins::create(&directory).expect("bpffs at /sys/fs/bpf (mount -t bpf bpf /sys/fs/bpf)");
        let (_, features) = load_cgroup_programs(&pins, EbpfLog::Off).unwrap();
        let cookies = 1..=2 * u64::try_from(MOST).unwrap() + 1;
        let loaded: Vec<_> = cookies
            .map(|cookie| {
                let mut object = load(&pins, Constants::new(features, EbpfLog::Off, cookie))?;
                programs::load_program(&mut object, NETNS_PROGRAM)
            })
            .collect();
        Pins::remove_all(&directory).unwrap();
        assert!(loaded.iter().all(Result::is_ok), "{loaded:?}");
    }
}
