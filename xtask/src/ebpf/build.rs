//! Compiling mtls-ebpf so that the same source and tools give the same bytes in every directory.

use std::path::Path;

use anyhow::{Context, Result};

use super::{strip, toolchain::Toolchain, wrapper};
use crate::repo;
use crate::run::Cmd;

const TARGET: &str = "bpfel-unknown-none";

/// Compiles and returns the object's bytes, without DWARF. Leaves the committed object alone.
pub fn compile(root: &Path, tools: &Toolchain) -> Result<Vec<u8>> {
    let target_dir = repo::target_dir(root)?.join("ebpf");
    let source = root.join("mtls-ebpf");
    let me = std::env::current_exe().context("xtask cannot find its own program file")?;
    // Written once by hand or by the first build; from then on a change of the lock is a change of the source.
    let locked = source.join("Cargo.lock").exists().then_some("--locked");
    Cmd::new("rustup")
        .args(["run", &tools.name, "cargo", "build", "--release", "--target", TARGET, "-Z", "build-std=core"])
        .args(locked)
        .dir(&source)
        .clean()
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .env_remove("CARGO_BUILD_RUSTFLAGS")
        .env("CARGO_TARGET_DIR", &target_dir)
        // BTF is made from debug information; the wrapper takes paths out of it.
        .env("RUSTFLAGS", "-C debuginfo=2 -C link-arg=--btf")
        .env("RUSTC_WRAPPER", me)
        .env(wrapper::VARIABLE, TARGET)
        .run()
        .context("the eBPF programs do not compile")?;
    let object = target_dir.join(TARGET).join("release/mtlsd");
    let bytes = std::fs::read(&object).with_context(|| {
        format!(
            "cargo built, and {} is not there: mtls-ebpf must have a binary named `mtlsd`",
            object.display()
        )
    })?;
    strip::debug_sections(&bytes).context("the compiled object cannot be stripped")
}
