//! What the kernel says about the machine and its processes.

use std::fs;

use anyhow::{Context, Result};

/// Ticks of /proc/stat in a second (USER_HZ, the same on every Linux of our platforms).
const TICKS: f64 = 100.0;

/// Seconds that all processors were busy since the machine started: everything but idle and iowait.
///
/// # Errors
/// Without /proc.
pub fn cpu_seconds() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let line = stat.lines().next().unwrap_or_default();
    // user, nice, system, idle, iowait, irq, softirq, steal; guest is part of user.
    let ticks = line.split_whitespace().skip(1).take(7).filter_map(|tick| tick.parse::<f64>().ok());
    Ok(ticks.enumerate().filter(|(at, _)| !matches!(at, 3 | 4)).map(|(_, tick)| tick).sum::<f64>() / TICKS)
}

/// Memory in use, bytes: of programs, and of the kernel where it cannot be freed. What is free or a cache is not in it;
/// `MemAvailable` would be a guess about the caches, which move more than what is measured.
///
/// # Errors
/// Without /proc.
pub fn used() -> Result<f64> {
    let field = |name| field("/proc/meminfo", name);
    let idle = ["MemFree:", "Buffers:", "Cached:", "SReclaimable:"].into_iter().map(field);
    Ok(total()? - idle.sum::<Result<f64>>()?)
}

/// Memory of the machine, bytes.
///
/// # Errors
/// Without /proc.
pub fn total() -> Result<f64> {
    field("/proc/meminfo", "MemTotal:")
}

/// Resident memory of a process, bytes (`VmRSS`).
///
/// # Errors
/// When it is gone.
pub fn resident(pid: u32) -> Result<f64> {
    field(&format!("/proc/{pid}/status"), "VmRSS:")
}

/// The threads that a process has now.
///
/// # Errors
/// When it is gone.
pub fn threads(pid: u32) -> Result<Vec<u32>> {
    let path = format!("/proc/{pid}/task");
    let entries = fs::read_dir(&path).with_context(|| path.clone())?;
    let number = |entry: std::io::Result<fs::DirEntry>| entry.ok()?.file_name().to_str()?.parse().ok();
    Ok(entries.filter_map(number).collect())
}

/// Context switches of the threads that a process has now, wanted and unwanted.
///
/// # Errors
/// When it is gone.
pub fn switches(pid: u32) -> Result<u64> {
    let mut sum = 0;
    for thread in threads(pid)? {
        // One that has ended meanwhile has none.
        let status = fs::read_to_string(format!("/proc/{pid}/task/{thread}/status")).unwrap_or_default();
        let counts = status.lines().filter_map(|line| line.split_once("ctxt_switches:"));
        sum += counts.filter_map(|(_, count)| count.trim().parse::<u64>().ok()).sum::<u64>();
    }
    Ok(sum)
}

/// A field in KiB of such a file.
fn field(path: &str, name: &str) -> Result<f64> {
    let text = fs::read_to_string(path).with_context(|| path.to_owned())?;
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    Ok(kib.with_context(|| format!("{path} has no {name}"))? * 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells() {
        assert!(cpu_seconds().unwrap() > 0.0);
        assert!(used().unwrap() > 0.0 && used().unwrap() <= total().unwrap());
        assert!(resident(std::process::id()).unwrap() > 100_000.0);
        assert!(resident(u32::MAX).is_err());
        assert!(!threads(std::process::id()).unwrap().is_empty());
        assert!(switches(std::process::id()).unwrap() > 0);
        assert!(switches(u32::MAX).is_err());
    }
}
