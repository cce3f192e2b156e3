//! A copy of this machine's files: what is changed in it goes to memory, and is gone with it. A package is installed there.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::lab::{cgroup, eventually};
use crate::slow;

/// See the module. Its mounts are in a mount namespace that ends with it, whatever becomes of the test.
#[derive(Debug)]
pub struct Copy {
    holder: Child,
    dir: PathBuf,
    /// A cgroup for a daemon that is to have nobody in it.
    pub cgroup: PathBuf,
}

/// What a program said and how it ended.
#[derive(Debug)]
pub struct Said {
    /// Both streams.
    pub text: String,
    /// Exit code 0.
    pub good: bool,
}

impl Said {
    /// What it said.
    ///
    /// # Panics
    /// If it failed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert!(self.good, "{}", self.text);
        self.text
    }

    /// What it said.
    ///
    /// # Panics
    /// If it did not fail.
    #[track_caller]
    pub fn fails(self) -> String {
        assert!(!self.good, "{}", self.text);
        self.text
    }
}

/// The BPF file system is the copy's own; the kernel's other ones are the machine's.
const MOUNTS: &str = r#"
set -e
mount --make-rprivate /
mount -t tmpfs tmpfs "$1"
mkdir "$1/upper" "$1/work" "$1/root"
mount -t overlay -o "lowerdir=/,upperdir=$1/upper,workdir=$1/work" overlay "$1/root"
for dir in proc sys dev; do mount --rbind "/$dir" "$1/root/$dir"; done
mount -t bpf bpf "$1/root/sys/fs/bpf"
echo ready >"$1/ready"
exec sleep 3600
"#;

impl Copy {
    /// A new one.
    ///
    /// # Panics
    /// If it cannot be made.
    #[track_caller]
    #[expect(clippy::new_without_default, reason = "it changes the machine")]
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mtlsd-copy-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&dir).expect("a directory of its own");
        let holder = Command::new("unshare")
            .args(["--mount", "--kill-child", "sh", "-c", MOUNTS, "sh"])
            .arg(&dir)
            .stdin(Stdio::null())
            .spawn()
            .expect("unshare is there");
        let cgroup = cgroup::mount().join(name);
        std::fs::create_dir_all(&cgroup).expect("cgroup v2 is writable");
        let copy = Self { holder, dir, cgroup };
        eventually(slow::limit(20), "the copy", || copy.inside(&["test", "-e", "/usr"]).good.then_some(()));
        copy
    }

    /// A program beside the copy, which sees its mounts.
    fn beside(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.holder.id())).arg(program);
        command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null());
        command
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.beside("chroot");
        command.arg(self.dir.join("root")).args(words);
        command
    }

    fn inside(&self, words: &[&str]) -> Said {
        let output = self.command(words).output().expect("nsenter is there");
        let text = [output.stdout, output.stderr].concat();
        Said { text: String::from_utf8_lossy(&text).into_owned(), good: output.status.success() }
    }

    /// Runs a program in it.
    pub fn run(&self, words: &[&str]) -> Said {
        self.inside(words)
    }

    /// Starts a program in it that goes on.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn spawn(&self, words: &[&str]) -> Running {
        let child = self.command(words).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Running(child.expect("nsenter is there"))
    }

    /// Writes a file in it, whose directory is made.
    #[track_caller]
    pub fn write(&self, path: &str, text: &str) {
        self.run(&["sh", "-c", r#"mkdir -p "$(dirname "$1")" && printf %s "$2" >"$1""#, "sh", path, text])
            .ok();
    }

    /// Puts a file of the machine there, as it is now: what was changed below a copy since it was made may be seen in it or not.
    #[track_caller]
    pub fn put(&self, from: &Path, to: &str) {
        let to = self.dir.join("root").join(to.trim_start_matches('/'));
        let status = self.beside("cp").arg(from).arg(to).status();
        assert!(status.is_ok_and(|status| status.success()), "{} cannot be copied", from.display());
    }

    /// The files and directories that are not as they are on the machine, and not dpkg's books.
    #[track_caller]
    pub fn changed(&self) -> Vec<String> {
        let upper = self.dir.join("upper");
        let output = self.beside("find").arg(&upper).args(["!", "-type", "d", "-printf", "/%P\n"]).output();
        let output = output.expect("find is there");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let books = ["/var/lib/dpkg/", "/var/log/", "/var/cache/", "/tmp/"];
        text.lines()
            .filter(|line| !books.iter().any(|book| line.starts_with(book)))
            .map(str::to_owned)
            .collect()
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
        let _ = std::fs::remove_dir(&self.cgroup);
        let _ = std::fs::remove_dir(&self.dir);
    }
}

/// A program in a copy, killed when dropped.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// Kills it as nobody can prevent.
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
