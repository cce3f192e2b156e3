//! The Debian packages that bring the real programs the tests talk to.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use object::Endianness;
use object::elf::{FileHeader64, PT_INTERP};
use object::read::elf::{FileHeader as _, ProgramHeader as _};

use crate::run::{Cmd, find_program};

/// How a package's presence is seen.
#[derive(Debug, Clone, Copy)]
pub enum Probe {
    /// A program on PATH (or in an sbin directory).
    Program(&'static str),
    /// A program of PostgreSQL's versioned directory, which is on nobody's PATH.
    Postgres(&'static str),
    /// A program that needs no library: in an initramfs there is none.
    Static(&'static str),
}

/// (what shows that it is there, the package that brings it, the service it would start).
type Row = (Probe, &'static str, Option<&'static str>);

/// The programs that the tests talk to.
pub const TESTS: [Row; 29] = [
    (Probe::Program("ip"), "iproute2", None),
    (Probe::Program("nginx"), "nginx-light", Some("nginx")),
    (Probe::Program("curl"), "curl", None),
    (Probe::Program("openssl"), "openssl", None),
    (Probe::Program("jq"), "jq", None),
    (Probe::Postgres("initdb"), "postgresql", Some("postgresql")),
    (Probe::Postgres("pgbench"), "postgresql-contrib", None),
    (Probe::Program("redis-server"), "redis-server", Some("redis-server")),
    (Probe::Program("redis-cli"), "redis-tools", None),
    (Probe::Program("sshd"), "openssh-server", Some("ssh")),
    (Probe::Program("iperf3"), "iperf3", Some("iperf3")),
    (Probe::Program("tcpdump"), "tcpdump", None),
    (Probe::Program("strace"), "strace", None),
    (Probe::Program("socat"), "socat", None),
    (Probe::Program("ps"), "procps", None),
    (Probe::Program("mount"), "mount", None),
    (Probe::Program("bpftool"), "bpftool", None),
    (Probe::Program("runc"), "runc", None),
    (Probe::Program("dpkg-deb"), "dpkg", None),
    (Probe::Program("systemd-analyze"), "systemd", None),
    (Probe::Program("vagrant"), "vagrant", None),
    (Probe::Program("logrotate"), "logrotate", None),
    (Probe::Program("softhsm2-util"), "softhsm2", None),
    (Probe::Program("pkcs11-tool"), "opensc", None),
    (Probe::Program("haproxy"), "haproxy", Some("haproxy")),
    // A small program in Go.
    (Probe::Program("caddy"), "caddy", Some("caddy")),
    // The large one: 116 MB to download. The runtime alone cannot run a source file.
    (Probe::Program("javac"), "openjdk-17-jdk-headless", None),
    (Probe::Program("node"), "nodejs", None),
    (Probe::Program("python3"), "python3", None),
];

/// What boots a Debian kernel in a virtual machine.
pub const VM: [Row; 9] = [
    (Probe::Program("qemu-system-x86_64"), "qemu-system-x86", None),
    (Probe::Static("busybox"), "busybox-static", None),
    (Probe::Program("modprobe"), "kmod", None),
    (Probe::Program("mke2fs"), "e2fsprogs", None),
    (Probe::Program("systemd-notify"), "systemd", None),
    (Probe::Program("dbus-daemon"), "dbus", None),
    (Probe::Program("ip"), "iproute2", None),
    (Probe::Program("mount"), "mount", None),
    (Probe::Program("setpriv"), "util-linux", None),
];

/// What the benchmark starts besides what the tests do.
pub const BENCH: [Row; 7] = [
    (Probe::Program("stunnel"), "stunnel4", Some("stunnel4")),
    (Probe::Program("haproxy"), "haproxy", Some("haproxy")),
    (Probe::Program("iptables"), "iptables", None),
    (Probe::Program("wrk"), "wrk", None),
    (Probe::Program("setpriv"), "util-linux", None),
    (Probe::Program("unzip"), "unzip", None),
    (Probe::Program("git"), "git", None),
];

/// What cargo-deb asks for the libraries that a program needs.
pub const PACKAGE: [Row; 1] = [(Probe::Program("dpkg-shlibdeps"), "dpkg-dev", None)];

/// What makes a container image.
pub const IMAGE: [Row; 1] = [(Probe::Program("podman"), "podman", None)];

/// What counts the instructions of the micro-benchmarks.
pub const MICRO: [Row; 1] = [(Probe::Program("valgrind"), "valgrind", None)];

/// Installs packages with service starts forbidden; see the script for how.
const SCRIPT: &str = include_str!("apt-install.sh");

/// Installs what is missing; says that all is there where a purpose is given. Without apt it says which programs to
/// bring.
pub fn install_missing(purpose: Option<&str>, table: &[Row]) -> Result<()> {
    let missing: Vec<_> = table.iter().filter(|(probe, ..)| !probe.is_present()).collect();
    if missing.is_empty() {
        if let Some(purpose) = purpose {
            println!("the {} Debian packages that {purpose} are installed", table.len());
        }
        return Ok(());
    }
    for (probe, package, _) in &missing {
        println!("missing: {} (Debian package {package})", probe.name());
    }
    if find_program("apt-get").is_none() {
        let names: Vec<_> = missing.iter().map(|(probe, ..)| probe.name()).collect();
        bail!("there is no apt-get here; install these programs and try again: {}", names.join(", "));
    }
    let packages: Vec<_> = missing.iter().map(|(_, package, _)| *package).collect();
    let services: Vec<_> = missing.iter().filter_map(|(.., service)| *service).collect();
    println!("installing with apt-get: {}", packages.join(" "));
    Cmd::new("sh")
        .args(["-c", SCRIPT, "apt-install"])
        .args(&packages)
        .env("MTLSD_SERVICES", services.join(" "))
        .run()
        .with_context(|| {
            format!("packages could not be installed; try `apt-get install {}`", packages.join(" "))
        })?;
    let absent: Vec<_> = missing.iter().filter(|(probe, ..)| !probe.is_present()).collect();
    if !absent.is_empty() {
        let names: Vec<_> =
            absent.iter().map(|(probe, package, _)| format!("{} ({package})", probe.name())).collect();
        bail!("installed, and still missing: {}", names.join(", "));
    }
    Ok(())
}

impl Probe {
    /// The program's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Program(name) | Self::Postgres(name) | Self::Static(name) => name,
        }
    }

    fn is_present(self) -> bool {
        match self {
            Self::Program(name) => find_program(name).is_some(),
            Self::Static(name) => find_program(name).is_some_and(|path| is_static(&path)),
            Self::Postgres(name) => {
                find_program(name).is_some()
                    || postgres_dirs(Path::new("/usr/lib/postgresql")).any(|d| d.join(name).is_file())
            }
        }
    }
}

/// Whether it is a program that no loader has to complete. One without segments is none.
pub fn is_static(program: &Path) -> bool {
    let Ok(bytes) = std::fs::read(program) else { return false };
    let Ok(elf) = FileHeader64::<Endianness>::parse(bytes.as_slice()) else { return false };
    let Ok(endian) = elf.endian() else { return false };
    let headers = elf.program_headers(endian, bytes.as_slice()).unwrap_or_default();
    !headers.is_empty() && headers.iter().all(|header| header.p_type(endian) != PT_INTERP)
}

fn postgres_dirs(base: &Path) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(base).into_iter().flatten().flatten().map(|version| version.path().join("bin"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_see_what_is_there_and_what_is_not() {
        assert!(Probe::Program("sh").is_present());
        assert!(!Probe::Program("no-such-program-here").is_present());
        assert!(!Probe::Postgres("no-such-program-here").is_present());
    }

    #[test]
    fn postgres_is_found_below_its_version() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("15/bin")).unwrap();
        let found: Vec<_> = postgres_dirs(dir.path()).collect();
        assert_eq!(found, [dir.path().join("15/bin")]);
        assert_eq!(postgres_dirs(&dir.path().join("absent")).count(), 0);
    }

    /// Runs the script on a root directory of its own, with a stand-in for apt-get that shows the policy it meets.
    fn install(existing_policy: Option<&str>, apt_get: &str) -> (tempfile::TempDir, bool, String) {
        install_in(tempfile::tempdir().unwrap(), existing_policy, apt_get)
    }

    fn install_in(
        dir: tempfile::TempDir,
        existing_policy: Option<&str>,
        apt_get: &str,
    ) -> (tempfile::TempDir, bool, String) {
        let sbin = dir.path().join("usr/sbin");
        let bin = dir.path().join("bin");
        for made in [&sbin, &bin] {
            std::fs::create_dir_all(made).unwrap();
        }
        let program = |path: &Path, text: &str| {
            std::fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
            Cmd::new("chmod").args(["755", &path.to_string_lossy()]).run().unwrap();
        };
        if let Some(text) = existing_policy {
            program(&sbin.join("policy-rc.d"), text);
        }
        program(&bin.join("apt-get"), &format!("tail -n 1 $MTLSD_ROOT/usr/sbin/policy-rc.d; {apt_get}"));
        // A shell cannot trap what was ignored when it began, as SIGINT is in a script's background job.
        let output = Cmd::new("env")
            .args(["--default-signal=INT,TERM", "sh", "-c", SCRIPT, "apt-install", "socat"])
            .env("MTLSD_ROOT", dir.path())
            .env("PATH", format!("{}:/usr/bin:/bin", bin.display()))
            .into_inner()
            .output()
            .unwrap();
        (dir, output.status.success(), String::from_utf8(output.stdout).unwrap())
    }

    fn policy(dir: &tempfile::TempDir) -> Option<String> {
        let left = std::fs::read_dir(dir.path().join("usr/sbin")).unwrap().count();
        let text = std::fs::read_to_string(dir.path().join("usr/sbin/policy-rc.d")).ok();
        assert_eq!(left, usize::from(text.is_some()), "a saved copy was left behind");
        text
    }

    #[test]
    fn services_are_forbidden_during_the_installation_and_the_policy_is_put_back() {
        let (dir, ok, out) = install(Some("exit 104"), "true");
        assert!(ok && out.contains("exit 101") && !out.contains("exit 104"), "{out}");
        assert_eq!(policy(&dir).unwrap(), "#!/bin/sh\nexit 104\n");
        let (dir, ok, out) = install(None, "true");
        assert!(ok && out.contains("exit 101"), "{out}");
        assert_eq!(policy(&dir), None);
    }

    #[test]
    fn a_policy_that_forbids_already_is_left_alone() {
        let (dir, ok, out) = install(Some("exit 101"), "true");
        assert!(ok && !out.contains("are forbidden"), "{out}");
        assert_eq!(policy(&dir).unwrap(), "#!/bin/sh\nexit 101\n");
    }

    #[test]
    fn the_policy_is_put_back_when_the_installation_fails_or_is_interrupted() {
        for apt_get in ["exit 100", "kill -INT $PPID; sleep 0.2", "kill -TERM $PPID; sleep 0.2"] {
            let (dir, ok, _) = install(Some("exit 104"), apt_get);
            assert!(!ok, "{apt_get}");
            assert_eq!(policy(&dir).unwrap(), "#!/bin/sh\nexit 104\n", "{apt_get}");
        }
    }

    const REFUSING: &str = r#"echo "called: $1"; [ "$1" = update ]"#;

    fn calls(out: &str) -> Vec<&str> {
        out.lines().filter_map(|line| line.strip_prefix("called: ")).collect()
    }

    #[test]
    fn without_package_lists_the_update_comes_first() {
        let (_dir, ok, out) = install(None, REFUSING);
        assert!(!ok);
        assert_eq!(calls(&out), ["update", "install"]);
    }

    #[test]
    fn old_package_lists_are_updated_and_the_installation_tried_again() {
        let dir = tempfile::tempdir().unwrap();
        let lists = dir.path().join("var/lib/apt/lists");
        std::fs::create_dir_all(&lists).unwrap();
        std::fs::write(lists.join("debian_main_Packages.lz4"), "").unwrap();
        let (_dir, ok, out) = install_in(dir, None, REFUSING);
        assert!(!ok);
        assert_eq!(calls(&out), ["install", "update", "install"]);
    }

    #[test]
    fn what_a_killed_run_left_behind_is_put_back() {
        let mark = "# placed by cargo xtask while it installs packages\nexit 101";
        let (dir, ok, out) = install(Some(mark), "true");
        assert!(ok && out.contains("are forbidden"), "{out}");
        assert_eq!(policy(&dir), None);
    }
}
