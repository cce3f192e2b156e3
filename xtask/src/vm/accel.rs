//! Whether KVM really works here: /dev/kvm may be there and no ordinary kernel boot with it (nested machines).

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::args::Accel;
use super::initramfs;
use super::kernel::Kernel;
use super::qemu::{Machine, Processor};
use super::watch;

/// A kernel that boots takes about 2 s with KVM.
const PATIENCE: Duration = Duration::from_secs(20);

/// The processor for this machine and this kernel. The trial's answer is kept until the host boots again.
pub fn choose(wanted: Option<Accel>, kernel: &Kernel, cache: &Path) -> Result<Processor> {
    match wanted {
        Some(Accel::Kvm) => return Ok(Processor::Kvm),
        Some(Accel::Tcg) => return Ok(Processor::Tcg),
        None => {}
    }
    if std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_err() {
        return Ok(Processor::Tcg);
    }
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let kept = cache.join(format!("kvm-{}", kernel.release));
    let answer = |works: bool| format!("{} {}\n", boot.trim(), if works { "boots" } else { "does not boot" });
    let processor = |works| if works { Processor::Kvm } else { Processor::Tcg };
    match std::fs::read_to_string(&kept) {
        Ok(text) if text == answer(true) => return Ok(processor(true)),
        Ok(text) if text == answer(false) => return Ok(processor(false)),
        _ => {}
    }
    let works = trial(kernel, cache)?;
    eprintln!("a trial boot with KVM {}", if works { "succeeded" } else { "failed: TCG is used" });
    std::fs::write(&kept, answer(works)).with_context(|| format!("{} cannot be written", kept.display()))?;
    Ok(processor(works))
}

fn trial(kernel: &Kernel, cache: &Path) -> Result<bool> {
    let dir = super::RunDir::new(cache)?;
    let initramfs = initramfs::build_trial(kernel)?;
    std::fs::write(dir.path().join("initramfs"), initramfs).context("the initramfs cannot be written")?;
    let machine = Machine {
        kernel,
        processor: Processor::Kvm,
        cpus: 1,
        memory: 512,
        out: None,
        disk: None,
        dir: dir.path(),
    };
    let limits = watch::Limits { boot: PATIENCE, total: PATIENCE, grace: Duration::ZERO };
    // It has no verdict to give: the console tells.
    let _ = watch::run(machine.command(), dir.path(), limits, std::io::sink(), std::io::sink());
    let console = std::fs::read(dir.path().join("console.log")).unwrap_or_default();
    Ok(String::from_utf8_lossy(&console).contains("mtlsd-trial-ran"))
}
