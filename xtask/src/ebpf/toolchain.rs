//! Finding the nightly toolchain, its library source, and bpf-linker.

use std::path::Path;

use anyhow::{Context, Result, bail};

use super::record::{self, Tools};
use crate::run::{Cmd, find_program};

/// bpf-linker's release line whose LLVM is rustc's own LLVM 22.
const BPF_LINKER: &str = "0.10.4";

/// A usable set of tools.
#[derive(Debug)]
pub struct Toolchain {
    /// rustup's name for the toolchain.
    pub name: String,
    /// What identifies it in the record.
    pub identity: Tools,
}

/// Whether the recorded tools are on this machine.
#[derive(Debug)]
pub enum Found {
    /// They are.
    Exact(Toolchain),
    /// They are not, and why.
    No(String),
}

/// The tools to build with: `wanted`, else the recorded ones, else (with no record) `nightly`.
pub fn choose(wanted: Option<&str>, recorded: Option<&Tools>) -> Result<Toolchain> {
    if find_program("rustup").is_none() {
        bail!("rustup is missing: the eBPF object needs a nightly toolchain; see https://rustup.rs");
    }
    match (wanted, recorded) {
        (Some(name), _) => inspect(name),
        (None, None) => inspect("nightly"),
        (None, Some(tools)) => match find_recorded(tools)? {
            Found::Exact(found) => Ok(found),
            Found::No(why) => bail!(
                "{why}; install the recorded tools ({}, {}), \
                 or choose another with `cargo xtask ebpf build --toolchain nightly`, which changes the record",
                tools.rustc,
                tools.bpf_linker
            ),
        },
    }
}

/// Looks for the toolchain whose compiler, library source and linker are exactly the recorded ones.
pub fn find_recorded(tools: &Tools) -> Result<Found> {
    if find_program("rustup").is_none() {
        return Ok(Found::No("rustup is not installed".to_owned()));
    }
    let list = Cmd::new("rustup").args(["toolchain", "list"]).clean().read()?;
    let names = list.lines().filter_map(|line| line.split_whitespace().next());
    let mut why = format!("no installed toolchain is {}", tools.rustc);
    for name in names {
        let Ok(version) = rustc(name, "--version") else { continue };
        if version.trim() != tools.rustc {
            continue;
        }
        match inspect(name) {
            Ok(found) if found.identity == *tools => return Ok(Found::Exact(found)),
            Ok(found) => why = difference(tools, &found.identity),
            Err(error) => why = format!("{error:#}"),
        }
    }
    Ok(Found::No(why))
}

/// Names the part that differs: a person must know what to install.
fn difference(recorded: &Tools, here: &Tools) -> String {
    let parts = [
        ("bpf-linker", &recorded.bpf_linker, &here.bpf_linker),
        ("the host", &recorded.host, &here.host),
        ("LLVM", &recorded.llvm, &here.llvm),
        ("the library source (rust-src)", &recorded.rust_src_sha256, &here.rust_src_sha256),
    ];
    parts
        .iter()
        .filter(|(_, recorded, here)| recorded != here)
        .map(|(what, recorded, here)| format!("{what} is {here}, recorded {recorded}"))
        .collect::<Vec<_>>()
        .join("; ")
}

/// Checks that one toolchain has all it takes; an error says what to install.
fn inspect(name: &str) -> Result<Toolchain> {
    let verbose = rustc(name, "-vV").with_context(|| {
        format!(
            "the toolchain `{name}` is missing: run `rustup toolchain install {name} --component rust-src`"
        )
    })?;
    let sysroot = rustc(name, "--print=sysroot")?;
    let library = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library");
    if !library.join("core/src/lib.rs").is_file() {
        bail!(
            "the toolchain `{name}` has no library source: run `rustup component add rust-src --toolchain {name}`, \
             or, where rustup's server is out of reach, `../shared/toolchain/install-ebpf-toolchain`"
        );
    }
    let linker = Cmd::new("bpf-linker").arg("--version").read().with_context(|| {
        format!(
            "bpf-linker is missing: run `cargo +{name} install bpf-linker --version {BPF_LINKER} --locked`, \
             or `../shared/toolchain/install-ebpf-toolchain`"
        )
    })?;
    let mut files = Vec::new();
    for part in ["core/src", "compiler-builtins"] {
        let dir = library.join(part);
        if dir.is_dir() {
            record::walk(&dir, &mut files)?;
        }
    }
    files.retain(|file| file.extension().is_some_and(|ext| ext == "rs"));
    Ok(Toolchain {
        name: name.to_owned(),
        identity: Tools {
            rustc: verbose.lines().next().unwrap_or_default().trim().to_owned(),
            host: field(&verbose, "host: ")?,
            llvm: field(&verbose, "LLVM version: ")?,
            rust_src_sha256: record::hash_files(&library, &files)?,
            bpf_linker: linker.trim().to_owned(),
        },
    })
}

fn rustc(toolchain: &str, arg: &str) -> Result<String> {
    Cmd::new("rustup").args(["run", toolchain, "rustc", arg]).clean().env_remove("RUSTUP_TOOLCHAIN").read()
}

fn field(verbose: &str, name: &str) -> Result<String> {
    let value = verbose.lines().find_map(|line| line.strip_prefix(name));
    Ok(value.with_context(|| format!("`rustc -vV` does not say `{name}`"))?.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tools() -> Tools {
        Tools {
            rustc: "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)".into(),
            host: "x86_64-unknown-linux-gnu".into(),
            llvm: "22.1.4".into(),
            rust_src_sha256: "aa".into(),
            bpf_linker: "bpf-linker 0.10.4".into(),
        }
    }

    #[test]
    fn difference_names_only_what_differs() {
        let here = Tools { bpf_linker: "bpf-linker 0.10.3".into(), ..tools() };
        assert_eq!(
            difference(&tools(), &here),
            "bpf-linker is bpf-linker 0.10.3, recorded bpf-linker 0.10.4"
        );
    }

    #[test]
    fn field_reads_rustc_verbose_output() {
        let text = "rustc 1.97.0-nightly (e50aa6fba 2026-05-19)\nhost: x86_64-unknown-linux-gnu\nLLVM version: 22.1.4\n";
        assert_eq!(field(text, "LLVM version: ").unwrap(), "22.1.4");
        assert!(field(text, "release: ").is_err());
    }

    #[test]
    fn a_compiler_that_nobody_has_is_reported_as_such() {
        let recorded = Tools { rustc: "rustc 0.0.1-nightly (none)".into(), ..tools() };
        match find_recorded(&recorded).unwrap() {
            Found::No(why) => assert!(why.contains("0.0.1-nightly") || why.contains("rustup"), "{why}"),
            Found::Exact(found) => panic!("found {found:?}"),
        }
    }

    #[test]
    fn a_toolchain_that_is_not_installed_says_what_to_type() {
        let error = format!("{:#}", inspect("nightly-1999-01-01").unwrap_err());
        assert!(
            error.contains("rustup toolchain install nightly-1999-01-01 --component rust-src"),
            "{error}"
        );
    }
}
