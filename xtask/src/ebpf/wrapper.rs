//! xtask as cargo's compiler wrapper: makes the eBPF object independent of where things are checked out.
//!
//! Cargo derives a crate's identity (`-C metadata`) from absolute paths (the checkout's, the toolchain's), and with it
//! symbol names and the order of functions; debug information holds paths. For crates of the eBPF target both are
//! replaced by the package's name and version.

use std::ffi::{OsStr, OsString};
use std::process::{Command, ExitCode};

/// Set by `cargo xtask ebpf build` to the target whose crates are rewritten.
pub const VARIABLE: &str = "MTLSD_RUSTC_WRAPPER_TARGET";

/// Whether cargo runs this program in the compiler's stead.
pub fn is_wrapper() -> bool {
    std::env::var_os(VARIABLE).is_some()
}

/// Runs the compiler that the arguments name.
pub fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let Some(rustc) = args.next() else {
        eprintln!("error: {VARIABLE} is set, and no compiler is named; unset it");
        return ExitCode::FAILURE;
    };
    let args: Vec<OsString> = args.collect();
    let target = std::env::var_os(VARIABLE).unwrap_or_default();
    let args = match Package::from_env() {
        Some(package) if names_target(&args, &target) => rewrite(args, &package),
        _ => args,
    };
    match Command::new(&rustc).args(args).status() {
        Ok(status) => ExitCode::from(status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)),
        Err(error) => {
            eprintln!("error: {} could not be started: {error}", rustc.display());
            ExitCode::FAILURE
        }
    }
}

/// The package that is being compiled, as cargo describes it to the compiler.
#[derive(Debug)]
struct Package {
    name: String,
    version: String,
    /// Directories that may appear in the output, and what to write instead.
    remap: Vec<(OsString, String)>,
}

impl Package {
    fn from_env() -> Option<Self> {
        let name = std::env::var("CARGO_PKG_NAME").ok()?;
        let version = std::env::var("CARGO_PKG_VERSION").ok()?;
        let mut remap = Vec::new();
        // The last match wins in rustc: the most special directory comes last.
        if let Ok(dir) = std::env::current_dir() {
            remap.push((dir.into_os_string(), "/mtls-ebpf".to_owned()));
        }
        if let Some(dir) = std::env::var_os("CARGO_MANIFEST_DIR") {
            remap.push((dir, format!("/{name}-{version}")));
        }
        if let Some(dir) = std::env::var_os("OUT_DIR") {
            remap.push((dir, format!("/{name}-{version}/out")));
        }
        Some(Self { name, version, remap })
    }
}

fn names_target(args: &[OsString], target: &OsStr) -> bool {
    args.windows(2).any(|pair| matches!(pair, [flag, value] if flag == "--target" && value == target))
}

fn rewrite(args: Vec<OsString>, package: &Package) -> Vec<OsString> {
    let is_metadata = |arg: &OsString| arg.to_str().is_some_and(|arg| arg.starts_with("metadata="));
    let mut out: Vec<OsString> = args
        .into_iter()
        .map(|arg| {
            if is_metadata(&arg) {
                format!("metadata={}-{}", package.name, package.version).into()
            } else {
                arg
            }
        })
        .collect();
    for (from, to) in &package.remap {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(from);
        flag.push("=");
        flag.push(to);
        out.push(flag);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn os(words: &[&str]) -> Vec<OsString> {
        words.iter().map(OsString::from).collect()
    }

    #[test]
    fn metadata_and_paths_become_name_and_version() {
        let package = Package {
            name: "core".into(),
            version: "0.0.0".into(),
            remap: vec![("/home/me".into(), "/mtls-ebpf".into()), ("/x".into(), "/core-0.0.0".into())],
        };
        let out =
            rewrite(os(&["--crate-name", "core", "-C", "metadata=1f", "-C", "extra-filename=-1f"]), &package);
        assert_eq!(
            out,
            os(&[
                "--crate-name",
                "core",
                "-C",
                "metadata=core-0.0.0",
                "-C",
                "extra-filename=-1f",
                "--remap-path-prefix=/home/me=/mtls-ebpf",
                "--remap-path-prefix=/x=/core-0.0.0",
            ])
        );
    }

    #[test]
    fn only_crates_of_the_target_are_rewritten() {
        let target = OsStr::new("bpfel-unknown-none");
        assert!(names_target(&os(&["--target", "bpfel-unknown-none", "src/lib.rs"]), target));
        assert!(!names_target(&os(&["--target", "x86_64-unknown-linux-gnu"]), target));
        assert!(!names_target(&os(&["build.rs"]), target));
    }
}
