//! System calls of processes, counted by the kernel itself (a histogram of the tracepoint raw_syscalls:sys_enter).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::machine;

const TRACEFS: &str = "/sys/kernel/tracing";
const TRIGGER: &str = "events/raw_syscalls/sys_enter/trigger";
const HISTOGRAM: &str = "events/raw_syscalls/sys_enter/hist";
const KEY: &str = "hist:keys=common_pid:size=8192";

/// Counts while it lives. Every system call of the machine is dearer meanwhile.
pub struct Syscalls(PathBuf);

impl Syscalls {
    /// Begins.
    ///
    /// # Errors
    /// When this kernel has no tracefs or no histograms (CONFIG_FTRACE_SYSCALLS, CONFIG_HIST_TRIGGERS).
    pub fn count() -> Result<Self> {
        let tracefs = Path::new(TRACEFS);
        if !tracefs.join(TRIGGER).exists() {
            let mounted = Command::new("mount").args(["-t", "tracefs", "tracefs", TRACEFS]).status();
            if !mounted.context("mount")?.success() {
                bail!("tracefs cannot be mounted on {TRACEFS}");
            }
        }
        let counter = Self(tracefs.into());
        fs::write(counter.0.join(TRIGGER), KEY).with_context(|| format!("{TRACEFS}/{TRIGGER}: {KEY}"))?;
        Ok(counter)
    }

    /// So many have all threads of these processes begun since the count began.
    ///
    /// # Errors
    /// When the histogram cannot be read, or has lost some.
    pub fn of(&self, processes: &[u32]) -> Result<u64> {
        let text = fs::read_to_string(self.0.join(HISTOGRAM)).context(HISTOGRAM)?;
        let counted = parse(&text)?;
        let mut threads = BTreeSet::new();
        for &process in processes {
            threads.extend(machine::threads(process)?);
        }
        Ok(threads.iter().filter_map(|thread| counted.get(thread)).sum())
    }
}

impl Drop for Syscalls {
    fn drop(&mut self) {
        // As the kernel wants it: the same words behind an exclamation mark.
        let _ = fs::write(self.0.join(TRIGGER), format!("!{KEY}"));
    }
}

/// Thread to its count.
fn parse(text: &str) -> Result<BTreeMap<u32, u64>> {
    let mut counted = BTreeMap::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        if let Some(dropped) = line.trim().strip_prefix("Dropped:")
            && dropped.trim() != "0"
        {
            bail!("the kernel's histogram was too small: {line}");
        }
        let Some((key, hits)) = line.split_once("hitcount:") else { continue };
        let thread =
            key.split_once("common_pid:").and_then(|(_, key)| key.trim_matches([' ', '}']).parse().ok());
        let (thread, hits) =
            thread.zip(hits.trim().parse().ok()).with_context(|| format!("histogram: {line}"))?;
        counted.insert(thread, hits);
    }
    Ok(counted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_histogram_is_read_thread_by_thread() {
        let text = "# event histogram\n#\n# trigger info: hist:keys=common_pid:vals=hitcount:size=8192 [active]\n#\n\n{ common_pid:         12 } hitcount:          3\n{ common_pid: 1300 } hitcount: 40000\n\n\
                    Totals:\n    Hits: 40003\n    Entries: 2\n    Dropped: 0\n";
        assert_eq!(parse(text).unwrap(), BTreeMap::from([(12, 3), (1300, 40_000)]));
    }

    #[test]
    fn one_that_has_lost_calls_or_says_something_else_is_an_error() {
        assert!(parse("    Dropped: 7\n").unwrap_err().to_string().contains("too small"));
        assert!(parse("{ comm: x } hitcount: 1\n").is_err());
    }
}
