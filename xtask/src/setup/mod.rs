//! What the integration tests and the demonstration need of the machine, put there if it is missing.

mod bpffs;
mod kubectl;
mod openbao;
mod packages;
mod schemas;
mod wheel;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::run::{Cmd, heading};

/// Checks for root, installs missing packages, mounts bpffs. Says what it does; idempotent.
pub fn prepare(command: &str) -> Result<()> {
    heading("the machine");
    require_root(command)?;
    println!("running as root");
    packages::install_missing(Some("the tests use"), &packages::TESTS)?;
    bpffs::mount_if_missing()?;
    Ok(())
}

/// As [`prepare`], and a Vault, a kubectl and schemas for their tests, which may be missing.
pub fn prepare_tests(command: &str, root: &Path) -> Result<()> {
    prepare(command)?;
    openbao::install_if_missing(root);
    kubectl::install_if_missing(root);
    schemas::install_if_missing(root);
    Ok(())
}

/// Checks for root and installs what a virtual machine needs. Silent when everything is there.
pub fn prepare_vm(command: &str) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!(
            "virtual machines are made of Debian's amd64 kernels; this machine is {}",
            std::env::consts::ARCH
        );
    }
    require_root(command)?;
    packages::install_missing(None, &packages::VM)
}

/// As [`prepare`], and what the benchmark measures besides.
pub fn prepare_bench(command: &str) -> Result<()> {
    prepare(command)?;
    packages::install_missing(Some("the benchmark uses"), &packages::BENCH)
}

/// Installs what counts instructions, which takes root only if it is missing. Silent when everything is there.
pub fn prepare_micro() -> Result<()> {
    packages::install_missing(None, &packages::MICRO)
}

/// Installs what makes a Debian package. Silent when everything is there.
pub fn prepare_package() -> Result<()> {
    packages::install_missing(None, &packages::PACKAGE)
}

/// helm, installed if it is missing.
pub fn helm(root: &Path) -> Result<PathBuf> {
    kubectl::install_if_missing(root);
    kubectl::helm(root)
}

/// Installs what makes a container image. Silent when everything is there.
pub fn prepare_image() -> Result<()> {
    packages::install_missing(None, &packages::IMAGE)
}

/// Whether a program needs no library.
pub fn is_static(program: &Path) -> bool {
    packages::is_static(program)
}

/// The programs that the tests start, by name.
pub fn test_programs() -> Vec<&'static str> {
    packages::TESTS.iter().map(|(probe, ..)| probe.name()).collect()
}

fn require_root(command: &str) -> Result<()> {
    // /proc/self belongs to the effective user: no system call by hand.
    let uid = std::fs::metadata("/proc/self").context("/proc is not mounted")?.uid();
    if uid != 0 {
        bail!(
            "this needs root (network namespaces, eBPF, bpffs) and runs as user {uid}; \
             run `sudo -E env \"PATH=$PATH\" {command}`"
        );
    }
    Ok(())
}

/// The kernel's release, as `uname -r` prints it.
pub fn kernel_release() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease")
        .map_or("unknown".to_owned(), |s| s.trim().to_owned())
}

/// Whether this kernel has kTLS, in words. Loads the module where it is one, as the first user would.
pub fn ktls() -> String {
    const ULPS: &str = "/proc/sys/net/ipv4/tcp_available_ulp";
    let offered = || std::fs::read_to_string(ULPS).unwrap_or_default();
    let has_tls = |ulps: &str| ulps.split_whitespace().any(|ulp| ulp == "tls");
    if !has_tls(&offered())
        && Path::new("/proc/modules").exists()
        && crate::run::find_program("modprobe").is_some()
    {
        // Failure is an answer here: the list is read again.
        let _ = Cmd::new("modprobe").args(["--quiet", "tls"]).read();
    }
    let ulps = offered();
    if has_tls(&ulps) {
        "available".to_owned()
    } else {
        format!(
            "not available (the kernel offers: {})",
            if ulps.trim().is_empty() { "nothing" } else { ulps.trim() }
        )
    }
}
