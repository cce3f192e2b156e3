//! The guest's first root: busybox, a few modules, and the scripts that go on to the host's files.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};

use super::cpio::Cpio;
use super::kernel::Kernel;
use crate::run::{Cmd, find_program};

/// What is needed to reach the host's files. virtio_pci is a module in 6.1.
const MODULES: [&str; 6] = ["virtio_pci", "virtio_console", "virtio_rng", "9pnet_virtio", "9p", "overlay"];
/// Runs in the initramfs.
const INIT: &str = include_str!("init.sh");
/// Runs on the host's files.
const GUEST: &str = include_str!("guest.sh");
/// Runs there where systemd is to.
const SYSTEMD: &str = include_str!("systemd.sh");
/// What is needed besides to have changes go to a disk.
const DISK_MODULES: [&str; 2] = ["virtio_blk", "ext4"];

/// What the guest does.
#[derive(Debug)]
pub struct Job<'a> {
    /// The command and its arguments.
    pub command: &'a [OsString],
    /// Its working directory.
    pub dir: &'a Path,
    /// A directory whose changes stay.
    pub out: Option<&'a Path>,
    /// Its environment.
    pub env: Vec<(OsString, OsString)>,
    /// Programs that it starts often.
    pub programs: Vec<&'a str>,
    /// A file that is the disk on which changes stay, made where it is missing. Without it they go to memory.
    pub disk: Option<&'a Path>,
    /// systemd is the first program, and runs the command when it has started all else.
    pub systemd: bool,
}

/// The archive.
pub fn build(kernel: &Kernel, job: &Job<'_>) -> Result<Vec<u8>> {
    let disk = if job.disk.is_some() { &DISK_MODULES[..] } else { &[] };
    let mut cpio = base(kernel, disk)?;
    cpio.file("init", INIT.as_bytes())?;
    cpio.file("guest.sh", GUEST.as_bytes())?;
    cpio.file("systemd.sh", SYSTEMD.as_bytes())?;
    cpio.file("settings.sh", &settings(kernel, job))?;
    cpio.file("command.sh", &command(job))?;
    let hot: Vec<_> =
        super::hot::files(&job.programs).iter().map(|file| file.display().to_string()).collect();
    cpio.file("hot", (hot.join("\n") + "\n").as_bytes())?;
    cpio.finish()
}

/// An archive whose /init only says that it ran and powers off: for a trial of an accelerator.
pub fn build_trial(kernel: &Kernel) -> Result<Vec<u8>> {
    let mut cpio = base(kernel, &[])?;
    cpio.file("init", b"#!/bin/busybox sh\n/bin/busybox echo mtlsd-trial-ran\n/bin/busybox poweroff -f\n")?;
    cpio.finish()
}

fn base(kernel: &Kernel, more: &[&str]) -> Result<Cpio> {
    let mut cpio = Cpio::default();
    for dir in ["bin", "dev", "lower", "modules", "new", "proc", "sys", "upper"] {
        cpio.directory(dir)?;
    }
    let busybox =
        find_program("busybox").context("busybox is not installed (Debian package busybox-static)")?;
    cpio.file("bin/busybox", &read(&busybox)?)?;
    let modules = kernel.modules(&[&MODULES, more].concat())?;
    for (number, file) in modules.iter().enumerate() {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        let plain = name.split(".ko").next().unwrap_or_default();
        cpio.file(&format!("modules/{number:02}-{plain}.ko"), &module(file)?)?;
    }
    Ok(cpio)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()))
}

/// A module's content, decompressed: busybox hands the kernel what is in the file.
fn module(file: &Path) -> Result<Vec<u8>> {
    let (program, argument) = match file.extension().and_then(OsStr::to_str) {
        Some("ko") => return read(file),
        Some("xz") => ("busybox", "xzcat"),
        Some("gz") => ("busybox", "zcat"),
        Some("zst") => ("zstd", "-dc"),
        _ => bail!("{} is compressed in a way that is not known here", file.display()),
    };
    let mut command = Cmd::new(program).arg(argument).arg(file).into_inner();
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("{program} is needed for {}", file.display()))?;
    if !output.status.success() {
        bail!("{} cannot be decompressed by {program} ({})", file.display(), output.status);
    }
    Ok(output.stdout)
}

fn settings(kernel: &Kernel, job: &Job<'_>) -> Vec<u8> {
    let mut text = b"modules=".to_vec();
    text.extend(quote(kernel.base.join("lib/modules").as_os_str()));
    text.extend(b"\nout=");
    text.extend(quote(job.out.map(Path::as_os_str).unwrap_or_default()));
    text.extend(b"\ntmp=");
    text.extend(quote(OsStr::new(&kept_in_tmp(job).into_iter().collect::<Vec<_>>().join(" "))));
    let (disk, next) = (job.disk.is_some(), if job.systemd { "systemd.sh" } else { "guest.sh" });
    text.extend(format!("\ndisk={}\nnext={next}\n", if disk { "yes" } else { "no" }).bytes());
    text
}

/// The guest has a /tmp of its own: what lies there on the host belongs to others, or was left behind. These names in
/// it are kept, because the job speaks of them.
fn kept_in_tmp(job: &Job<'_>) -> BTreeSet<String> {
    let values = job
        .env
        .iter()
        .flat_map(|(_, value)| value.as_bytes().split(|byte| *byte == b':').map(OsStr::from_bytes));
    let words = job.command.iter().map(OsString::as_os_str);
    let paths = [Some(job.dir), job.out].into_iter().flatten().map(Path::as_os_str);
    let name = |path: &OsStr| {
        let mut parts = Path::new(path).strip_prefix("/tmp").ok()?.components();
        let name = parts.next()?.as_os_str().to_str()?;
        // The names go through a shell's list.
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+@".contains(&b))
            && !name.starts_with('.');
        plain.then(|| name.to_owned())
    };
    values.chain(words).chain(paths).filter_map(name).collect()
}

/// A script that becomes the command.
fn command(job: &Job<'_>) -> Vec<u8> {
    let mut text = b"#!/bin/sh\n".to_vec();
    for (name, value) in &job.env {
        text.extend(b"export ");
        text.extend(name.as_bytes());
        text.push(b'=');
        text.extend(quote(value));
        text.push(b'\n');
    }
    text.extend(b"cd ");
    text.extend(quote(job.dir.as_os_str()));
    text.extend(b" || exit 125\nexec");
    for word in job.command {
        text.push(b' ');
        text.extend(quote(word));
    }
    text.push(b'\n');
    text
}

fn quote(word: &OsStr) -> Vec<u8> {
    let mut quoted = vec![b'\''];
    for &byte in word.as_bytes() {
        match byte {
            b'\'' => quoted.extend(br"'\''"),
            byte => quoted.push(byte),
        }
    }
    quoted.push(b'\'');
    quoted
}

/// What the command keeps of this process's environment.
pub fn environment(
    vars: impl Iterator<Item = (OsString, OsString)>,
    home: Option<PathBuf>,
) -> Vec<(OsString, OsString)> {
    const NAMES: [&str; 8] = ["PATH", "LANG", "LC_ALL", "TZ", "USER", "LOGNAME", "SHELL", "CARGO"];
    const PREFIXES: [&str; 5] = ["CARGO_", "MTLSD_", "RUST_", "RUSTUP_", "RUSTC_"];
    // What the outer cargo says of xtask itself would mislead the command.
    const NOT: [&str; 1] = ["CARGO"];
    let keep = |name: &str| {
        let own =
            name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_") || NOT.contains(&name);
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        plain && !own && (NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix)))
    };
    let mut kept: Vec<_> = vars.filter(|(name, _)| name.to_str().is_some_and(keep)).collect();
    kept.push(("HOME".into(), home.unwrap_or_else(|| PathBuf::from("/root")).into()));
    kept.push(("TERM".into(), "dumb".into()));
    kept.push(("MTLSD_VM".into(), "1".into()));
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_keeps_its_words_directory_and_environment() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("it's here");
        std::fs::create_dir(&place).unwrap();
        let words: Vec<OsString> =
            ["sh", "-c", "pwd; echo \"$MTLSD_X\"; printf '[%s]' \"$@\"", "sh", "a b", "", "$HOME"]
                .map(Into::into)
                .into();
        let env = vec![("MTLSD_X".into(), "two\nlines 'quoted'".into())];
        let job = Job {
            command: &words,
            dir: &place,
            out: None,
            env,
            programs: Vec::new(),
            disk: None,
            systemd: false,
        };
        let script = dir.path().join("command.sh");
        std::fs::write(&script, command(&job)).unwrap();
        let output = Cmd::new("sh").arg(&script).read().unwrap();
        assert_eq!(output, format!("{}\ntwo\nlines 'quoted'\n[a b][][$HOME]", place.display()));
    }

    #[test]
    fn of_the_hosts_tmp_only_what_the_job_speaks_of_is_kept() {
        let words: Vec<OsString> =
            ["/tmp/a/b", "x", "/tmp", "/tmpfile", "/tmp/odd name/x", "/tmp/../etc"].map(Into::into).into();
        let env = vec![("PATH".into(), "/bin:/tmp/tools/bin".into())];
        let job = Job {
            command: &words,
            dir: Path::new("/tmp/wt/vm"),
            out: Some(Path::new("/tmp/out")),
            env,
            programs: Vec::new(),
            disk: None,
            systemd: false,
        };
        assert_eq!(kept_in_tmp(&job).into_iter().collect::<Vec<_>>(), ["a", "out", "tools", "wt"]);
    }

    #[test]
    fn the_environment_is_a_chosen_few() {
        let vars =
            ["PATH", "CARGO", "CARGO_HOME", "CARGO_PKG_NAME", "MTLSD_BIN", "RUST_LOG", "SECRET", "HOME"];
        let kept = environment(vars.iter().map(|&name| (name.into(), "v".into())), Some("/h".into()));
        let names: Vec<_> = kept.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(names, ["PATH", "CARGO_HOME", "MTLSD_BIN", "RUST_LOG", "HOME", "TERM", "MTLSD_VM"]);
    }
}
