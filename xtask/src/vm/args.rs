//! The command line of `cargo xtask vm`.

use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::ValueEnum;

/// Runs a command as root on another kernel: Debian's, in QEMU, on this machine's own files (read-only).
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A series that Debian has (`6.1`, `6.12`, `7.2`), or a directory or image file of a kernel of yours
    /// (boot/vmlinuz-VERSION and lib/modules/VERSION below one directory)
    #[arg(long, value_name = "SERIES|PATH")]
    pub kernel: KernelName,
    /// The deterministic clock: one processor, one instruction is one nanosecond
    #[arg(long, conflicts_with_all = ["accel", "cpus"])]
    pub lab: bool,
    /// How the guest's processor is made; without it, KVM where a trial boot succeeds, else TCG
    #[arg(long)]
    pub accel: Option<Accel>,
    /// Memory, MiB
    #[arg(long, default_value_t = 4096, value_name = "MIB", value_parser = clap::value_parser!(u32).range(512..))]
    pub memory: u32,
    /// Processors
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub cpus: u32,
    /// End the guest after this long (`90`, `90s`, `20m`, `2h`)
    #[arg(long, default_value = "30m", value_name = "TIME", value_parser = duration)]
    pub timeout: Duration,
    /// What the command writes below this directory of the host stays; everything else it writes is gone afterwards
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
    /// What is written goes to this disk instead (a file; made if it is missing) and is there at the next boot from it
    #[arg(long, value_name = "FILE")]
    pub disk: Option<PathBuf>,
    /// Boot systemd, and run the command as a service when everything else has started
    #[arg(long)]
    pub systemd: bool,
    /// Ask the archive for a newer kernel of the series although one is here
    #[arg(long)]
    pub refresh: bool,
    /// The command and its arguments, run in the current directory
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Ways to make a processor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Accel {
    /// The host's processor.
    Kvm,
    /// Translated code: 5 to 15 times slower, and works everywhere.
    Tcg,
}

/// Which kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KernelName {
    /// Two numbers: the newest kernel of that series in Debian's archive.
    Series(String),
    /// A kernel that somebody built or unpacked.
    Path(PathBuf),
}

impl FromStr for KernelName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        match text.split_once('.') {
            Some((major, minor)) if number(major) && number(minor) => Ok(Self::Series(text.to_owned())),
            _ if text.contains('/') => Ok(Self::Path(PathBuf::from(text))),
            _ => Err("neither a series such as 6.12 nor a path (write ./NAME for one in this directory)"
                .to_owned()),
        }
    }
}

impl fmt::Display for KernelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Series(series) => f.write_str(series),
            Self::Path(path) => write!(f, "{}", path.display()),
        }
    }
}

/// Seconds, or a number with s, m or h.
pub fn duration(text: &str) -> Result<Duration, String> {
    let (digits, unit) = match text.strip_suffix(['s', 'm', 'h']) {
        Some(digits) if text.ends_with('m') => (digits, 60),
        Some(digits) if text.ends_with('h') => (digits, 3600),
        Some(digits) => (digits, 1),
        None => (text, 1),
    };
    match digits.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)) {
        Some(seconds @ 1..) => Ok(Duration::from_secs(seconds)),
        _ => Err("not a time: write 90, 90s, 20m or 2h".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_a_series_or_a_path() {
        assert_eq!("6.12".parse(), Ok(KernelName::Series("6.12".into())));
        assert_eq!("/boot/vmlinuz-6.1".parse(), Ok(KernelName::Path("/boot/vmlinuz-6.1".into())));
        assert_eq!("./linux".parse(), Ok(KernelName::Path("./linux".into())));
        for wrong in ["", "6", "6.", ".1", "6.12.95", "six.one", "linux"] {
            assert!(wrong.parse::<KernelName>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn times_have_units() {
        assert_eq!(duration("90"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(duration("20m"), Ok(Duration::from_secs(1200)));
        assert_eq!(duration("2h"), Ok(Duration::from_secs(7200)));
        for wrong in ["", "0", "m", "1d", "-1", "1.5h", "18446744073709551615h"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
