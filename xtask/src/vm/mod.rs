//! `cargo xtask vm`: a command on another kernel, in a virtual machine on this machine's own files.

mod accel;
mod archive;
mod args;
mod cpio;
mod disk;
mod hot;
mod index;
mod initramfs;
mod kernel;
mod qemu;
mod sources;
mod watch;

use std::ffi::OsString;
use std::fmt;
use std::io::{Write, stderr, stdout};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::{repo, setup};
pub use args::{Args, KernelName};
pub use initramfs::Job;
use kernel::Kernel;
use qemu::{Machine, Processor};
use watch::{Done, Limits};

/// A boot takes 10 to 20 s; a machine with other work, several times that.
const BOOT: Duration = Duration::from_secs(180);

/// In the lab large programs go into the guest's memory first, and nobody waits for a single test.
const BOOT_LAB: Duration = Duration::from_secs(600);

/// From the verdict to the end of QEMU: for the power switch.
const GRACE: Duration = Duration::from_secs(10);

/// Boots, runs the command, and returns its exit code.
pub fn run(args: &Args) -> Result<ExitCode> {
    let program = args.command.first().and_then(|word| word.to_str()).unwrap_or_default();
    run_often(args, vec![program])
}

/// As [`run`]; these programs, by name or path, are in the guest's memory before the command begins.
pub fn run_often(args: &Args, programs: Vec<&str>) -> Result<ExitCode> {
    let root = repo::root()?;
    setup::prepare_vm("cargo xtask vm")?;
    let cache = cache(&root)?;
    let kernel = kernel::get(&args.kernel, &cache, args.refresh)?;
    let processor = match args.lab {
        true => Processor::Lab,
        false => accel::choose(args.accel, &kernel, &cache)?,
    };
    let cpus = if args.lab { 1 } else { args.cpus };
    let guest = Guest { kernel, processor, cpus, memory: args.memory, timeout: args.timeout, cache };
    let dir = std::env::current_dir().context("the current directory cannot be read")?;
    let out = args.out.as_deref().map(shared).transpose()?;
    eprintln!("vm: {guest}, {} MiB", args.memory);
    let (disk, systemd) = (args.disk.as_deref(), args.systemd);
    let job = Job {
        command: &args.command,
        dir: &dir,
        out: out.as_deref(),
        env: environment(),
        programs,
        disk,
        systemd,
    };
    let done = guest.run(&job, stdout(), stderr())?;
    eprintln!("vm: booted in {:.1} s, exit code {}", done.boot.as_secs_f64(), done.code);
    Ok(ExitCode::from(done.code))
}

/// What a command in a guest keeps of this process's environment.
pub fn environment() -> Vec<(OsString, OsString)> {
    initramfs::environment(std::env::vars_os(), std::env::var_os("HOME").map(PathBuf::from))
}

/// A virtual machine that can be booted, any number of times.
#[derive(Debug)]
pub struct Guest {
    kernel: Kernel,
    processor: Processor,
    cpus: u32,
    memory: u32,
    timeout: Duration,
    cache: PathBuf,
}

impl Guest {
    /// A guest for tests. Its kernel is downloaded, and an accelerator chosen, if that was not done before.
    pub fn new(root: &Path, kernel: &KernelName, cpus: u32, timeout: Duration) -> Result<Self> {
        let cache = cache(root)?;
        let kernel = kernel::get(kernel, &cache, false)?;
        let processor = accel::choose(None, &kernel, &cache)?;
        Ok(Self { kernel, processor, cpus, memory: 4096, timeout, cache })
    }

    /// Whether every instruction is translated.
    pub fn is_slow(&self) -> bool {
        self.processor != Processor::Kvm
    }

    /// Boots, does the job, and ends.
    pub fn run(
        &self,
        job: &Job<'_>,
        out: impl Write + Send + 'static,
        err: impl Write + Send + 'static,
    ) -> Result<Done> {
        let run_dir = RunDir::new(&self.cache)?;
        let file = run_dir.path().join("initramfs");
        std::fs::write(&file, initramfs::build(&self.kernel, job)?)
            .with_context(|| format!("{} cannot be written", file.display()))?;
        let disk = job.disk.map(disk::made).transpose()?;
        let machine = Machine {
            kernel: &self.kernel,
            processor: self.processor,
            cpus: self.cpus,
            memory: self.memory,
            out: job.out,
            disk: disk.as_deref(),
            dir: run_dir.path(),
        };
        let boot = if self.processor == Processor::Lab { BOOT_LAB } else { BOOT };
        let limits = Limits { boot: boot.min(self.timeout), total: self.timeout, grace: GRACE };
        watch::run(machine.command(), run_dir.path(), limits, out, err)
    }
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "kernel {}, {}, {} CPU", self.kernel.release, self.processor.name(), self.cpus)
    }
}

/// Where kernels are kept: below the target directory, which git ignores and `cargo clean` empties.
fn cache(root: &Path) -> Result<PathBuf> {
    let cache = repo::target_dir(root)?.join("vm");
    std::fs::create_dir_all(&cache).with_context(|| format!("{} cannot be made", cache.display()))?;
    Ok(cache)
}

fn shared(dir: &Path) -> Result<PathBuf> {
    let path = dir.canonicalize().with_context(|| format!("--out {} is not there", dir.display()))?;
    if !path.is_dir() || path == Path::new("/") {
        bail!("--out {} is not a directory that can be shared for writing", dir.display());
    }
    Ok(path)
}

/// Removes what killed processes left.
fn sweep(cache: &Path, proc: &Path) {
    for entry in std::fs::read_dir(cache).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| {
            let rest = name.strip_prefix(RUN).or_else(|| name.strip_prefix(SHARED))?;
            rest.split('-').next()
        });
        if pid.is_some_and(|pid| !proc.join(pid).exists()) {
            // Two processes may sweep at once.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

/// How the names of these directories begin; the process's number follows.
const RUN: &str = "run-";

/// The same for directories that a guest may write, whose maker removes them.
pub const SHARED: &str = "shared-";

/// A directory for one guest, removed at the end.
#[derive(Debug)]
struct RunDir(PathBuf);

impl RunDir {
    fn new(cache: &Path) -> Result<Self> {
        sweep(cache, Path::new("/proc"));
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = cache.join(format!("{RUN}{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        // A leftover in the target directory harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_dead_processes_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["run-5-0", "shared-5-6-12", "run-7-1", "kernels", "proc/7"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        sweep(dir.path(), &dir.path().join("proc"));
        assert!(!dir.path().join("run-5-0").exists() && !dir.path().join("shared-5-6-12").exists());
        assert!(dir.path().join("run-7-1").exists() && dir.path().join("kernels").exists());
        let own = RunDir::new(dir.path()).unwrap();
        let path = own.path().to_owned();
        assert!(path.is_dir());
        drop(own);
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_that_cannot_be_shared_for_writing_is_refused() {
        assert!(shared(Path::new("/")).is_err());
        assert!(shared(Path::new("/proc/version")).is_err());
        assert!(
            format!("{:#}", shared(Path::new("/absent")).unwrap_err()).contains("--out /absent is not there")
        );
    }
}
