//! The Debian package, in a copy of this machine's files without systemd: what it brings, upgrade, downgrade, removal, purge. What
//! systemd does with it is tested in a virtual machine (suite `systemd`).

use std::path::{Path, PathBuf};
use std::process::Command;

use mtls_tests::copy::{Copy, Running};
use mtls_tests::{eventually, slow};

const UNIT: &str = "/usr/lib/systemd/system/mtlsd.service";

/// The package that `cargo xtask test` has made.
fn package() -> PathBuf {
    let path = std::env::var_os("MTLSD_DEB").map(PathBuf::from);
    path.expect("MTLSD_DEB names the package: `cargo xtask test` or `cargo xtask package` makes one")
}

/// The same as another version.
fn as_version(version: &str, dir: &Path) -> PathBuf {
    let script = r#"
set -e
dpkg-deb -R "$1" "$3/tree"
sed -i "s/^Version: .*/Version: $2/" "$3/tree/DEBIAN/control"
dpkg-deb -Znone --root-owner-group -b "$3/tree" "$3/mtlsd.deb" >/dev/null
rm -r "$3/tree"
"#;
    let status = Command::new("sh").args(["-c", script, "sh"]).arg(package()).arg(version).arg(dir).status();
    assert!(status.is_ok_and(|status| status.success()));
    dir.join("mtlsd.deb")
}

#[track_caller]
fn install(copy: &Copy, package: &Path) -> String {
    copy.put(package, "/tmp/mtlsd.deb");
    let said = copy.run(&["dpkg", "-i", "/tmp/mtlsd.deb"]).ok();
    copy.run(&["rm", "/tmp/mtlsd.deb"]).ok();
    said
}

/// A daemon in the copy, without a workload.
#[track_caller]
fn daemon(copy: &Copy) -> Running {
    let cgroup = copy.cgroup.display();
    let config = format!("trust_domain: example.org\ncgroup_root: {cgroup}\nmetrics: off\n");
    copy.write("/etc/mtlsd/mtlsd.yaml", &config);
    copy.run(&["mtlsd", "config", "check"]).ok();
    let running = copy.spawn(&["mtlsd", "run"]);
    eventually(slow::limit(30), "the daemon to answer", || {
        copy.run(&["mtlsd", "workloads"]).good.then_some(())
    });
    running
}

fn pinned(copy: &Copy) -> bool {
    copy.run(&["test", "-d", "/sys/fs/bpf/mtlsd"]).good
}

#[test]
fn it_brings_the_program_a_unit_pages_completions_and_the_rotation_of_its_log() {
    let copy = Copy::new();
    let said = install(&copy, &package());
    assert!(said.contains("trust_domain: example.org") && said.contains("mtlsd enroll unit:"), "{said}");
    assert!(copy.run(&["mtlsd", "--version"]).ok().starts_with("mtlsd "));
    for page in ["mtlsd", "mtlsd-enroll", "mtlsd-rollout-status"] {
        let text = copy.run(&["zcat", &format!("/usr/share/man/man1/{page}.1.gz")]).ok();
        assert!(text.contains(".SH NAME"), "{page}: {text}");
    }
    let completes =
        copy.run(&["bash", "-c", ". /usr/share/bash-completion/completions/mtlsd; complete -p mtlsd"]).ok();
    assert!(completes.contains("_mtlsd"), "{completes}");
    for file in
        ["/usr/share/zsh/vendor-completions/_mtlsd", "/usr/share/fish/vendor_completions.d/mtlsd.fish"]
    {
        assert!(copy.run(&["cat", file]).ok().contains("enroll"), "{file}");
    }
    let docs = copy.run(&["cat", "/usr/share/doc/mtlsd/docs/hosts.md", UNIT]).ok();
    assert!(docs.contains("mtlsd enroll") && docs.contains("Type=notify"), "{docs}");
    // Enabled, and there is nothing to start yet.
    copy.run(&["test", "-L", "/etc/systemd/system/multi-user.target.wants/mtlsd.service"]).ok();
    copy.run(&["test", "-e", "/etc/mtlsd/mtlsd.yaml"]).fails();
    let rotation = copy.run(&["logrotate", "--debug", "/etc/logrotate.d/mtlsd"]).ok();
    assert!(rotation.contains("/var/log/mtlsd/*.jsonl") && !rotation.contains("error"), "{rotation}");
}

#[test]
fn an_upgrade_and_a_downgrade_keep_what_was_configured_and_what_was_learned() {
    let copy = Copy::new();
    install(&copy, &package());
    let kept = [
        ("/etc/mtlsd/mtlsd.yaml", "trust_domain: example.org\n"),
        ("/etc/mtlsd/mtlsd.yaml.d/enrolled-web.yaml", "workloads: []\n"),
        ("/var/lib/mtlsd/ca/key", "a key"),
        ("/etc/logrotate.d/mtlsd", "# mine\n"),
    ];
    for (path, text) in kept {
        copy.write(path, text);
    }
    copy.run(&["rm", "/etc/systemd/system/multi-user.target.wants/mtlsd.service"]).ok();
    let dir = std::env::temp_dir().join(format!("mtlsd-package-{}", std::process::id()));
    for version in ["9.0.0-1", "0.0.1-1"] {
        std::fs::create_dir_all(&dir).expect("a directory of its own");
        install(&copy, &as_version(version, &dir));
        std::fs::remove_dir_all(&dir).expect("it is ours");
        let now = copy.run(&["dpkg-query", "-W", "-f", "${Version} ${db:Status-Abbrev}", "mtlsd"]).ok();
        assert_eq!(now.trim(), format!("{version} ii"));
        for (path, text) in kept {
            assert_eq!(copy.run(&["cat", path]).ok(), text, "{path} at {version}");
        }
        // Who has disabled it finds it disabled.
        let link = "/etc/systemd/system/multi-user.target.wants/mtlsd.service";
        copy.run(&["test", "-L", link]).fails();
    }
}

#[test]
fn a_removal_takes_the_enforcement_away_and_a_purge_leaves_nothing() {
    let copy = Copy::new();
    install(&copy, &package());
    let mut daemon = daemon(&copy);
    copy.write("/var/log/mtlsd/access.jsonl", "{}\n");
    // A daemon that systemd does not know of: nothing is pulled from under it.
    let said = copy.run(&["dpkg", "-r", "mtlsd"]).fails();
    assert!(said.contains("another mtlsd"), "{said}");
    assert!(pinned(&copy) && copy.run(&["mtlsd", "workloads"]).good);
    daemon.kill();
    assert!(pinned(&copy), "it fails closed");
    copy.run(&["dpkg", "-r", "mtlsd"]).ok();
    assert!(!pinned(&copy));
    for kept in ["/etc/mtlsd/mtlsd.yaml", "/var/lib/mtlsd", "/etc/logrotate.d/mtlsd"] {
        copy.run(&["test", "-e", kept]).ok();
    }
    copy.run(&["dpkg", "-P", "mtlsd"]).ok();
    assert_eq!(copy.changed(), Vec::<String>::new());
}

#[test]
fn a_removal_needs_no_configuration_that_can_be_read() {
    let copy = Copy::new();
    install(&copy, &package());
    let mut daemon = daemon(&copy);
    daemon.kill();
    copy.write("/etc/mtlsd/mtlsd.yaml", "trust_domain: [nonsense\n");
    let said = copy.run(&["dpkg", "-r", "mtlsd"]).ok();
    assert!(said.contains("cannot be used; removing /sys/fs/bpf/mtlsd"), "{said}");
    assert!(!pinned(&copy));
}
