//! Running other programs, saying what is run.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};

use anyhow::{Context, Result, bail};

/// What cargo and rustup tell the programs they start, and what must not reach a cargo of another toolchain.
const INHERITED: [&str; 7] = [
    "CARGO",
    "RUSTC",
    "RUSTDOC",
    "RUSTUP_TOOLCHAIN_SOURCE",
    "LD_LIBRARY_PATH",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
];

/// A command line with errors that name it. Standard input is always empty: nothing here may ask.
#[derive(Debug)]
pub struct Cmd {
    inner: Command,
}

impl Cmd {
    /// `program`, found on PATH or in the system directories that a plain user's PATH leaves out.
    pub fn new(program: &str) -> Self {
        let path = find_program(program).unwrap_or_else(|| PathBuf::from(program));
        let mut inner = Command::new(path);
        inner.stdin(Stdio::null());
        Self { inner }
    }

    /// Cargo, in `dir`, free of the environment of the cargo that runs xtask.
    pub fn cargo(dir: &Path) -> Self {
        Self::new("cargo").dir(dir).clean()
    }

    /// Takes away what the outer cargo set for xtask alone.
    pub fn clean(mut self) -> Self {
        for name in INHERITED {
            self.inner.env_remove(name);
        }
        self
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.inner.arg(arg);
        self
    }

    /// More arguments.
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.inner.args(args);
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(name, value);
        self
    }

    /// Removes an environment variable.
    pub fn env_remove(mut self, name: &str) -> Self {
        self.inner.env_remove(name);
        self
    }

    /// The working directory.
    pub fn dir(mut self, dir: &Path) -> Self {
        self.inner.current_dir(dir);
        self
    }

    /// The command as a person would type it (the program by its file name).
    pub fn line(&self) -> String {
        let program = Path::new(self.inner.get_program());
        let mut words =
            vec![program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned()];
        words.extend(self.inner.get_args().map(|arg| quote(&arg.to_string_lossy())));
        words.join(" ")
    }

    /// Runs with output on the console; the exit status is the caller's to judge.
    pub fn status(mut self) -> Result<ExitStatus> {
        let line = self.line();
        self.inner.status().with_context(|| format!("`{line}` could not be started"))
    }

    /// Runs with output on the console; anything but success is an error.
    pub fn run(self) -> Result<()> {
        let line = self.line();
        let status = self.status()?;
        if !status.success() {
            bail!("`{line}` failed ({status})");
        }
        Ok(())
    }

    /// Runs and returns standard output; an error carries standard error.
    pub fn read(mut self) -> Result<String> {
        let line = self.line();
        let output = self.inner.output().with_context(|| format!("`{line}` could not be started"))?;
        if !output.status.success() {
            let why = String::from_utf8_lossy(&output.stderr);
            bail!("`{line}` failed ({}): {}", output.status, why.trim());
        }
        String::from_utf8(output.stdout)
            .with_context(|| format!("`{line}` printed something that is not text"))
    }

    /// The standard library's command, for what this type does not offer.
    pub fn into_inner(self) -> Command {
        self.inner
    }
}

/// A word as a shell reads it.
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// Where `program` is: PATH, then the administrator's directories, then cargo's.
pub fn find_program(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let cargo_bin = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cargo")))
        .map(|home| home.join("bin"));
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .chain(cargo_bin)
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

/// A heading on the console.
pub fn heading(text: &str) {
    println!("\n==> {text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn line_quotes_only_what_needs_it() {
        let cmd = Cmd::new("sh").args(["-c", "echo it's", "a=b", ""]);
        assert_eq!(cmd.line(), r"sh -c 'echo it'\''s' a=b ''");
    }

    #[test]
    fn a_failing_command_is_named_with_its_error_output() {
        let error = Cmd::new("sh").args(["-c", "echo broken >&2; exit 3"]).read().unwrap_err().to_string();
        assert!(error.contains("exit 3") && error.contains("broken"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Cmd::new("no-such-program-here").run().unwrap_err();
        assert!(format!("{error:#}").contains("`no-such-program-here` could not be started"), "{error:#}");
        assert_eq!(find_program("no-such-program-here"), None);
    }
}
