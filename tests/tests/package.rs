//! The Debian package, in a copy of this machine's files without systemd: what it brings, upgrade, downgrade, removal, purge. What
//! systemd does with it is tested in a virtual machine (suite `systemd`).

use std::path::Path;
use std::process::Command;

use mtls_tests::booted::{as_version, package};
use mtls_tests::copy::{Copy, Running};
use mtls_tests::{eventually, slow};

const UNIT: &str = "/usr/lib/systemd/system/mtlsd.service";

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
fn the_units_sandbox_is_as_tight_as_is_said() {
    let unit = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/systemd/mtlsd.service");
    let run = |words: &[&str]| {
        let output =
            Command::new("systemd-analyze").args(words).arg(unit).output().expect("systemd-analyze is there");
        let text = [output.stdout, output.stderr].concat();
        (String::from_utf8_lossy(&text).into_owned(), output.status.success())
    };
    // Its program is not there, and nothing else is wrong.
    let (said, _) = run(&["verify", "--man=no"]);
    let wrong: Vec<_> =
        said.lines().filter(|line| line.contains("mtlsd") && !line.contains("is not executable")).collect();
    assert!(wrong.is_empty(), "{wrong:?}");
    // In tenths.
    let (said, good) = run(&["security", "--offline=yes", "--threshold=42"]);
    assert!(good, "{said}");
}

#[test]
fn the_example_for_vagrant_is_valid_and_its_script_is_shell() {
    let example = concat!(env!("CARGO_MANIFEST_DIR"), "/../vagrant");
    let home = std::env::temp_dir().join(format!("mtlsd-vagrant-{}", std::process::id()));
    let output = Command::new("vagrant")
        .args(["validate", "--ignore-provider"])
        .env("VAGRANT_CWD", example)
        .env("VAGRANT_HOME", &home)
        .env("VAGRANT_DOTFILE_PATH", home.join("machines"))
        .output()
        .expect("vagrant is there");
    let _ = std::fs::remove_dir_all(&home);
    assert!(output.status.success(), "{output:?}");
    let script = format!("{example}/provision.sh");
    assert!(Command::new("sh").args(["-n", &script]).status().is_ok_and(|status| status.success()));
    let output = Command::new("sh").args([&script, "nobody"]).output().expect("there is a shell");
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8_lossy(&output.stderr).contains("none of server, client, stranger"),
        "{output:?}"
    );
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
