//! Measuring in the virtual machine whose clock counts instructions.
//!
//! That clock jumps ahead whenever the guest waits for this machine, so everything that runs there is in the guest's
//! memory before, and what it writes goes to memory; the figures come out at the end.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::vm::{self, KernelName};

/// A system is measured for minutes.
const TIMEOUT: Duration = Duration::from_secs(4 * 3600);
/// Memory of the virtual machine, MiB.
const MEMORY: u32 = 6144;
/// Limits are for a clock that does not jump.
const SLOW: &str = "8";

/// Programs that the measured systems are made of.
const PROGRAMS: [&str; 13] = [
    "nginx",
    "curl",
    "tcpdump",
    "wrk",
    "iperf3",
    "nsenter",
    "iptables",
    "ip6tables",
    "stunnel",
    "haproxy",
    "setpriv",
    "cp",
    "uname",
];

/// What iptables asks for; a kernel that has it built in, or not at all, is no error here.
const PREPARE: &str = r#"
for module in nf_tables nft_compat nft_chain_nat nf_nat x_tables xt_tcpudp xt_owner xt_REDIRECT xt_mark xt_connmark \
    ip_tables iptable_nat iptable_mangle; do
    modprobe -q "$module" || :
done
exec "$@""#;

/// The directory that the guest may write. Nothing that runs is in it: it is not kept in the guest's memory.
pub fn out(directory: &Path) -> Result<PathBuf> {
    let out = directory.join("lab");
    std::fs::create_dir_all(&out).with_context(|| format!("{} cannot be made", out.display()))?;
    // An old file would pass for this run's if the guest fails.
    match std::fs::remove_file(out.join("run.json")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("the last figures in {} cannot be removed", out.display()))
        }
        _ => Ok(out),
    }
}

/// Runs the benchmark's own command line there, with this environment.
pub fn run(
    kernel: &KernelName,
    root: &Path,
    figures: &Path,
    words: Vec<String>,
    environment: Vec<(&str, OsString)>,
) -> Result<ExitCode> {
    std::env::set_current_dir(root).with_context(|| format!("{} cannot be entered", root.display()))?;
    let often = often(&words, &environment);
    vm::run_often(
        &vm::Args {
            kernel: kernel.clone(),
            lab: true,
            accel: None,
            memory: MEMORY,
            cpus: 1,
            timeout: TIMEOUT,
            out: figures.parent().map(Path::to_owned),
            disk: None,
            systemd: false,
            refresh: false,
            command: command(words, &environment),
        },
        often.iter().map(String::as_str).collect(),
    )
}

fn command(words: Vec<String>, environment: &[(&str, OsString)]) -> Vec<OsString> {
    let mut command: Vec<OsString> = ["sh", "-c", PREPARE, "bench", "env"].map(OsString::from).into();
    command.push(format!("MTLSD_TEST_SLOW={SLOW}").into());
    for (name, value) in environment {
        let mut pair = OsString::from(format!("{name}="));
        pair.push(value);
        command.push(pair);
    }
    command.extend(words.into_iter().map(OsString::from));
    command
}

/// Our own program, and the binaries that the environment names.
fn often(words: &[String], environment: &[(&str, OsString)]) -> Vec<String> {
    let own = words.first().cloned();
    let named =
        environment.iter().filter_map(|(_, value)| value.to_str()).filter(|value| value.starts_with('/'));
    let ztunnel = std::env::var("MTLSD_BENCH_ZTUNNEL").ok();
    let all = own.into_iter().chain(named.map(str::to_owned)).chain(ztunnel);
    all.chain(PROGRAMS.map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_in_the_guest_is_in_its_memory() {
        let environment = [("MTLSD_BIN", "/t/mtlsd".into()), ("MTLSD_BENCH_COMMAND", "cargo xtask".into())];
        let words = ["/t/mtls-bench".to_owned(), "run".to_owned()];
        let often = often(&words, &environment);
        assert!(
            ["/t/mtls-bench", "/t/mtlsd", "nginx", "curl"].iter().all(|name| often.iter().any(|o| o == name))
        );
        assert!(!often.iter().any(|name| name == "cargo xtask" || name == "run"), "{often:?}");
    }

    #[test]
    fn the_command_runs_with_its_environment_after_the_modules() {
        let words = ["sh", "-c", "echo $MTLSD_TEST_SLOW $A", "x y"].map(str::to_owned);
        let command = command(words.into(), &[("A", "b c".into())]);
        let output = crate::run::Cmd::new("sh").args(command.iter().skip(1)).read().unwrap();
        assert_eq!(output, "8 b c\n");
    }

    #[test]
    fn the_figures_of_an_older_run_are_gone() {
        let dir = tempfile::tempdir().unwrap();
        let place = out(dir.path()).unwrap();
        std::fs::write(place.join("run.json"), "{}").unwrap();
        assert_eq!(out(dir.path()).unwrap(), place);
        assert!(!place.join("run.json").exists());
    }
}
