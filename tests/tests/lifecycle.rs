//! Start, stop, reload, come, go, leave nothing behind; and clear words when something is missing.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mtls_tests::certs::{Authority, Leaf};
use mtls_tests::scenario::HTTP;
use mtls_tests::{Lab, Pair, STRICT_PAIR, eventually, programs, slow};
use serde_json::Value;

/// The kernel's own list of what is attached to a cgroup, and of links to a network namespace.
fn attached(pair: &Pair, pod: &str) -> (usize, usize) {
    let list = |args: &[&str]| {
        let output = pair.lab.tool("bpftool").arg("-j").args(args).run().ok();
        // For an empty list it prints nothing at all.
        let answer = if output.text().is_empty() { Value::Array(Vec::new()) } else { output.json() };
        answer.as_array().unwrap_or_else(|| panic!("bpftool {args:?}: {output}")).clone()
    };
    let cgroup = list(&["cgroup", "show", &pair.daemon.cgroup_root().to_string_lossy()]).len();
    let inode = fs::metadata(Path::new("/run/netns").join(&pair.lab.pod(pod).netns))
        .expect("the namespace is there")
        .ino();
    let netns =
        list(&["link", "show"]).iter().filter(|link| link["netns_ino"].as_u64() == Some(inode)).count();
    (cgroup, netns)
}

#[test]
fn uninstall_removes_everything_and_traffic_is_plain_again() {
    let mut pair = Pair::strict();
    let (cgroup, netns) = attached(&pair, "db");
    assert!(cgroup > 0 && netns > 0, "this test would notice what it looks for: {cgroup} {netns}");
    pair.daemon.stop();
    assert_ne!(attached(&pair, "db"), (0, 0), "a stopped daemon stays in force");
    pair.daemon.uninstall();
    assert_eq!(attached(&pair, "db"), (0, 0));
    let left: Vec<_> =
        fs::read_dir(pair.daemon.bpffs()).into_iter().flatten().flatten().map(|e| e.path()).collect();
    assert!(left.is_empty(), "{left:?}");
    let capture = pair.lab.capture();
    pair.works();
    assert!(capture.stop().find(b"hello from db").is_some());
    // Twice is as good as once, and starting again enrols again.
    pair.daemon.uninstall();
    pair.daemon.start();
    let capture = pair.lab.capture();
    pair.works();
    capture.stop().assert_only_tls(80);
}

/// What an mtlsd with tables of another layout leaves behind.
fn with_another_layout(pair: &mut Pair) -> PathBuf {
    pair.daemon.kill9();
    let maps = pair.daemon.tables();
    let other = maps.with_file_name("maps-1");
    fs::rename(&maps, &other).expect("a directory of bpffs can be renamed");
    other
}

#[test]
fn an_upgrade_to_tables_of_another_layout_opens_nothing_in_between() {
    let mut pair = Pair::with(
        "directory: [ { name: outside, addresses: [\"$out.v4\"], spiffe_ids: ['spiffe://example.org/outside'] } ]\n",
    );
    // It does not speak TLS, though who asks it by mtlsd demands that.
    let _plain = programs::nginx(pair.out(), HTTP);
    let other = with_another_layout(&mut pair);
    let over = AtomicBool::new(false);
    let Pair { daemon, lab, .. } = &mut pair;
    let lab = &*lab;
    let asks = |from: &str, to: &str| {
        let url = format!("http://{}/", lab.pod(to).at(HTTP));
        let mut asked = 0;
        while !over.load(Ordering::Relaxed) {
            let said = lab.pod(from).run(&["curl", "-sS", "--max-time", "5", &url]);
            assert!(!said.text().contains("hello from"), "{from} got an answer of {to}: {said}");
            asked += 1;
        }
        asked
    };
    std::thread::scope(|scope| {
        // A strict client, and a stranger to a strict server.
        let asks = &asks;
        let asking = [("web", "out"), ("out", "db")].map(|(from, to)| scope.spawn(move || asks(from, to)));
        daemon.start();
        std::thread::sleep(slow::limit(1));
        over.store(true, Ordering::Relaxed);
        for asked in asking {
            assert!(asked.join().expect("nobody was answered") > 3);
        }
    });
    assert!(!other.exists(), "the old tables are forgotten");
    let capture = pair.lab.capture();
    pair.works();
    capture.stop().assert_only_tls(HTTP);
    let (code, said) = pair.daemon.cli(&["verify"]);
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn a_second_daemon_on_the_same_directory_is_refused_and_the_first_goes_on() {
    let mut pair = Pair::strict();
    let output = pair.daemon.run_to_end().fails();
    let said = format!("{}{}", output.text(), output.stderr);
    let runtime = pair.lab.dir().join("n1").join("runtime");
    assert!(said.contains(&*runtime.to_string_lossy()), "it names the directory: {said}");
    assert!(said.contains("already") || said.contains("another"), "{said}");
    assert!(pair.daemon.ended().is_none() && pair.daemon.ready());
    pair.works();
    assert_eq!(pair.daemon.cli(&["verify"]).0, Some(0));
}

#[test]
fn a_restart_adopts_what_is_pinned() {
    let mut pair = Pair::strict();
    pair.works();
    let before = attached(&pair, "db");
    assert!(before.0 > 0 && before.1 > 0, "{before:?}");
    for _ in 0..2 {
        pair.daemon.kill9();
        assert_eq!(attached(&pair, "db"), before, "what is pinned outlives the daemon");
        pair.daemon.start();
        assert_eq!(attached(&pair, "db"), before, "nothing is attached twice");
        pair.works();
    }
    let (code, verified) = pair.daemon.cli(&["verify"]);
    assert_eq!(code, Some(0), "{verified}");
}

#[test]
fn the_embedded_ca_outlives_the_daemon() {
    let mut pair = Pair::strict();
    let before = fs::read(pair.root()).expect("the root is written");
    let mode = |path: &Path| fs::metadata(path).expect("it is there").mode() & 0o777;
    let keys: Vec<_> =
        fs::read_dir(pair.daemon.ca()).expect("the CA is there").flatten().map(|e| e.path()).collect();
    let keys: Vec<_> =
        keys.iter().filter(|p| fs::read_to_string(p).is_ok_and(|t| t.contains("PRIVATE KEY"))).collect();
    assert!(!keys.is_empty());
    for key in keys {
        assert_eq!(mode(key), 0o600, "{}", key.display());
    }
    pair.daemon.restart();
    assert_eq!(fs::read(pair.root()).expect("the root is there"), before);
    pair.works();
}

/// The state of a workload as `mtlsd workloads` shows it.
fn state(pair: &Pair, workload: &str) -> Option<String> {
    let answer = pair.daemon.ask(&["workloads"]);
    let list = answer.as_array().or_else(|| answer["workloads"].as_array())?;
    let found = list.iter().find(|w| w["name"] == workload)?;
    found["state"].as_str().map(str::to_owned)
}

#[test]
fn a_namespace_that_disappears_is_cleaned_up_and_enrolled_again_when_it_comes_back() {
    let mut pair = Pair::strict();
    pair.works();
    let becomes = |pair: &Pair, wanted: &str| {
        let what = format!("db to be {wanted}");
        eventually(slow::limit(20), &what, || (state(pair, "db").as_deref() == Some(wanted)).then_some(()));
    };
    becomes(&pair, "enrolled");
    pair.nginx.kill();
    pair.lab.remove_pod("db");
    becomes(&pair, "absent");
    assert!(pair.daemon.ready(), "an absent workload is no reason not to be ready");
    pair.lab.restore_pod("db");
    becomes(&pair, "enrolled");
    pair.nginx = mtls_tests::programs::nginx(pair.lab.pod("db"), 80);
    let capture = pair.lab.capture();
    eventually(slow::limit(10), "traffic to flow again", || {
        (pair.curl(pair.http()[0]).code == Some(0)).then_some(())
    });
    pair.works();
    capture.stop().assert_only_tls(80);
}

#[test]
fn a_workload_may_come_after_the_daemon() {
    let mut lab = Lab::new(&["web", "out"]);
    let late = r#"
  - { name: late, select: { netns: LATE }, addresses: [10.77.0.12, "fd00:77::c"] }
policy: [ { name: all, action: allow } ]
"#;
    let netns = lab.pod("web").netns.replace("-web", "-late");
    let yaml = format!(
        "workloads:\n  - {{ name: web, select: {{ netns: $web.netns }} }}{}",
        late.replace("LATE", &netns)
    );
    let daemon = lab.daemon(&yaml);
    lab.add_pod(mtls_tests::lab::NODE, "late");
    assert_eq!(lab.pod("late").v4.to_string(), "10.77.0.12");
    eventually(slow::limit(20), "the late workload to be enrolled", || {
        let workloads = daemon.ask(&["workloads"]).to_string();
        (workloads.matches("\"enrolled\"").count() == 2).then_some(())
    });
    let _nginx = mtls_tests::programs::nginx(lab.pod("late"), 80);
    let capture = lab.capture();
    lab.pod("web").run(&["curl", "-sS", &format!("http://{}/", lab.pod("late").at6(80))]).ok();
    capture.stop().assert_only_tls(80);
}

#[test]
fn a_reload_is_all_or_nothing() {
    let mut pair = Pair::strict();
    let reloads =
        |pair: &Pair, result: &str| pair.daemon.metric("mtlsd_config_reloads_total", &[("result", result)]);
    let deny = "  - { name: shut, action: deny, to: { workloads: [db], ports: [80] } }\n";

    // A valid change and a mistake together: neither is taken.
    let (applied, refused) = (reloads(&pair, "applied"), reloads(&pair, "refused"));
    pair.daemon.configure(&pair.lab.expand(&format!("{STRICT_PAIR}{deny}no_such_key: 1\n")));
    pair.daemon.sighup();
    pair.daemon.wait_metric("mtlsd_config_reloads_total", &[("result", "refused")], refused + 1.0);
    assert!((reloads(&pair, "applied") - applied).abs() < 0.1);
    pair.works();
    let refusal =
        pair.daemon.ask(&["status"])["config"]["last_refusal"].as_str().unwrap_or_default().to_owned();
    let line = fs::read_to_string(pair.daemon.config()).expect("the configuration is there");
    let line = line.lines().position(|l| l.starts_with("no_such_key")).expect("just written") + 1;
    assert!(refusal.contains("no_such_key") && refusal.contains(&format!(":{line}")), "{refusal}");

    // The same without the mistake is taken, without a restart.
    pair.daemon.configure(&pair.lab.expand(&format!("{STRICT_PAIR}{deny}")));
    pair.daemon.sighup();
    pair.daemon.wait_metric("mtlsd_config_reloads_total", &[("result", "applied")], applied + 1.0);
    eventually(slow::limit(10), "the new rule to be in force", || {
        (pair.curl(pair.http()[0]).code != Some(0)).then_some(())
    });
    assert!(pair.daemon.ask(&["status"])["config"]["last_refusal"].is_null());
    assert!(pair.daemon.ended().is_none());
}

#[test]
fn a_changed_file_is_noticed_without_a_signal() {
    let pair = Pair::strict();
    let applied = pair.daemon.metric("mtlsd_config_reloads_total", &[("result", "applied")]);
    let deny = "  - { name: shut, action: deny, to: { workloads: [db] } }\n";
    pair.daemon.configure(&pair.lab.expand(&format!("{STRICT_PAIR}{deny}")));
    pair.daemon.wait_metric("mtlsd_config_reloads_total", &[("result", "applied")], applied + 1.0);
    eventually(slow::limit(10), "the new rule to be in force", || {
        (pair.curl(pair.http()[1]).code != Some(0)).then_some(())
    });
}

#[test]
fn a_stop_lets_connections_finish_for_the_drain_time_and_no_longer() {
    // What the kernel has taken in already (up to 20 MiB on this way) arrives also after the daemon's end.
    for (drain, megabytes, rate, finishes) in [("30s", 16, "8M", true), ("1s", 128, "4M", false)] {
        let mut pair = Pair::with(&format!("timeouts: {{ drain: {drain} }}\n"));
        let file = mtls_tests::programs::nginx_files(pair.db()).join("some");
        mtls_tests::programs::random_file(pair.db(), &file, megabytes);
        let url = format!("http://{}/files/some", pair.http()[0]);
        let curl = pair.web().cmd("curl").args(["-sSf", "--limit-rate", rate, "-o", "/dev/null", "-w"]);
        let mut curl = curl.arg("size=%{size_download}").arg(&url).spawn();
        pair.daemon.wait_metric("mtlsd_connections_live", &[("workload", "web")], 1.0);
        pair.daemon.stop();
        let status = eventually(slow::limit(20), "curl to end", || curl.poll());
        assert_eq!(status.success(), finishes, "drain {drain}: {status}");
        let said = String::from_utf8_lossy(&curl.stdout()).into_owned();
        assert_eq!(said.contains("size=16777216"), finishes, "drain {drain}: {said}");
        if !finishes {
            pair.daemon.wait_for_log("the cut connection", |r| r.reason() == "shutting_down");
        }
    }
}

#[test]
fn a_stop_during_the_start_is_obeyed_and_not_lost() {
    let mut pair = Pair::with("");
    pair.daemon.stop();
    for (restart, said) in
        ["identity ready", "enrolled", "mtlsd is ready"].into_iter().cycle().take(12).enumerate()
    {
        pair.daemon.launch();
        pair.daemon.wait_for_output(said);
        let output = pair.daemon.process().terminate().ok();
        assert!(output.stderr.contains("stopped; what is pinned"), "start {restart}: {output}");
    }
    pair.daemon.start();
    pair.works();
}

#[test]
fn a_changed_trust_bundle_is_noticed_without_a_signal() {
    let (pair, site) = Pair::with_authority("");
    let other = Authority::new(pair.lab.dir(), "next");
    let guest = mtls_tests::programs::Identity::from(
        &other.issue("guest", &Leaf::good("spiffe://example.org/guest")),
    );
    let ask = || {
        let to = pair.http()[0];
        mtls_tests::programs::s_client(pair.out(), to, &pair.root(), Some(&guest)).run().text()
    };
    assert!(!ask().contains("hello from db"), "nobody believes the new CA yet");
    let both = [&site.root, &other.root].map(|root| fs::read(root).expect("a root")).concat();
    fs::write(&site.root, both).expect("lab directory is writable");
    eventually(slow::limit(10), "the new CA to be believed", || {
        ask().contains("hello from db").then_some(())
    });
    pair.works();
}

#[test]
fn drop_ins_add_workloads_and_policy() {
    let lab = Pair::lab();
    let policy = STRICT_PAIR.split_once("policy:").expect("it has a policy").1;
    let daemon = lab.prepare(mtls_tests::lab::NODE, &STRICT_PAIR.replace(policy, " []\n"));
    let dir = daemon.config().with_extension("yaml.d");
    fs::create_dir(&dir).expect("lab directory is writable");
    fs::write(dir.join("50-policy.yaml"), format!("policy:{policy}")).expect("lab directory is writable");
    let nginx = mtls_tests::programs::nginx(lab.pod("db"), 80);
    let mut daemon = daemon;
    daemon.start();
    let pair = Pair { daemon, nginx, lab };
    let capture = pair.lab.capture();
    pair.works();
    capture.stop().assert_only_tls(80);
    pair.daemon.wait_for_log("the rule of the drop-in", |r| r.policy() == "everyone-here");
}

#[test]
fn a_full_disk_for_the_log_stops_no_connection_and_is_counted() {
    let pair = Pair::with("access_log: { file: /dev/full }\n");
    for _ in 0..3 {
        pair.works();
    }
    pair.daemon.wait_metric("mtlsd_access_log_lost_total", &[], 1.0);
    assert!(pair.daemon.printed().contains("/dev/full"), "{}", pair.daemon.printed());
}

/// Starts a daemon that must refuse to start, and checks that it says each of `words`.
#[track_caller]
fn refuses_to_start(yaml: &str, words: &[&str]) {
    let lab = Lab::new(&["web"]);
    let output = lab.prepare(mtls_tests::lab::NODE, yaml).run_to_end().fails();
    let said = format!("{}{}", output.text(), output.stderr);
    for word in words {
        assert!(said.contains(word), "no word of {word}: {said}");
    }
    assert!(!said.contains("panicked"), "{said}");
}

const ONE: &str = "workloads: [ { name: web, select: { netns: $web.netns } } ]\n";

#[test]
fn a_directory_that_is_not_bpffs_is_named_with_the_mend() {
    let paths = "paths: { runtime: $dir/r, state: $dir/s, bpffs: $dir/not-bpffs }\n";
    refuses_to_start(&format!("{ONE}{paths}"), &["not-bpffs", "mount -t bpf"]);
}

#[test]
fn a_directory_that_is_not_cgroup_v2_is_named() {
    refuses_to_start(&format!("{ONE}cgroup_root: $dir\n"), &["cgroup", "mtlsd-test"]);
}

#[test]
fn a_mistake_in_the_configuration_is_named_with_file_and_line() {
    refuses_to_start(&format!("{ONE}wrong: 1\n"), &["mtlsd.yaml:", "wrong"]);
    refuses_to_start(
        "workloads: [ { name: web, select: { netns: a } }, { name: web, select: { netns: b } } ]\n",
        &["mtlsd.yaml:", "web"],
    );
}

#[test]
fn without_rights_it_says_which_are_missing() {
    let lab = Lab::new(&["web"]);
    let daemon = lab.prepare(mtls_tests::lab::NODE, ONE);
    let binary = std::env::var_os("MTLSD_BIN")
        .map_or_else(|| mtls_tests::lab::program_beside_the_test("mtlsd"), Into::into);
    // Root without a single capability: its files are its own, but the kernel grants it nothing.
    let bare = lab.tool("setpriv").args(["--bounding-set=-all", "--inh-caps=-all", "--"]).arg(&binary);
    let output = bare.args(["run", "--config"]).arg(daemon.config()).limit(slow::limit(20)).run().fails();
    let said = format!("{}{}", output.text(), output.stderr);
    assert!(said.contains("CAP_BPF") || said.contains("CAP_SYS_ADMIN"), "{said}");
    assert!(!said.contains("panicked"), "{said}");
}

#[test]
fn a_namespace_that_does_not_exist_is_shown_and_stops_nobody() {
    let yaml =
        STRICT_PAIR.replace("policy:", "  - { name: ghost, select: { netns: no-such-namespace } }\npolicy:");
    let pair = Pair::configured(Pair::lab(), &yaml);
    assert_eq!(state(&pair, "ghost").as_deref(), Some("absent"));
    pair.works();
}

/// Runs `web` with certificate files of its own, spoilt so that they cannot be used; gives what the daemon says.
fn with_bad_files(spoil: impl FnOnce(&Path, &Path)) -> String {
    let lab = Pair::lab();
    let authority = Authority::new(lab.dir(), "files");
    let files = authority.issue("web", &Leaf::good("spiffe://example.org/web"));
    spoil(&files.chain, &files.key);
    let identity = format!(
        "identity: {{ certificate: {}, key: {}, bundle: {} }},",
        files.chain.display(),
        files.key.display(),
        authority.root.display()
    );
    let yaml = STRICT_PAIR.replacen("{ name: web,", &format!("{{ name: web, {identity}"), 1);
    let mut daemon = lab.prepare(mtls_tests::lab::NODE, &yaml);
    daemon.launch();
    let _nginx = mtls_tests::programs::nginx(lab.pod("db"), 80);
    let said = eventually(slow::limit(20), "the identity's error", || {
        let (_, text) = daemon.cli(&["workloads"]);
        let answer: Value = serde_json::from_str(&text).ok()?;
        let list = answer.as_array().or_else(|| answer["workloads"].as_array())?;
        // The error is there first: what connects before the enrolment is not captured.
        let web = list.iter().find(|w| w["name"] == "web" && w["state"] == "enrolled")?;
        web["identity_error"].as_str().map(str::to_owned)
    });
    assert!(!daemon.ready(), "a workload without an identity is not ready");
    let url = format!("http://{}/", lab.pod("db").at(80));
    lab.pod("web").run(&["curl", "-sS", "--max-time", "10", &url]).fails();
    daemon.wait_for_log("the refusal", |r| r.workload() == "web" && r.reason() == "no_identity");
    said
}

#[test]
fn a_key_that_does_not_belong_to_the_certificate_is_named() {
    let said = with_bad_files(|_, key| {
        let other = rcgen::KeyPair::generate().expect("a key").serialize_pem();
        fs::write(key, other).expect("lab directory is writable");
    });
    assert!(said.contains("web.key") && said.contains("does not belong"), "{said}");
}

#[test]
fn a_certificate_file_that_is_none_is_named() {
    let said =
        with_bad_files(|chain, _| fs::write(chain, "not a certificate").expect("lab directory is writable"));
    assert!(said.contains("web.chain.crt"), "{said}");
}

#[test]
fn changed_certificate_files_are_loaded_and_broken_ones_are_not() {
    let lab = Pair::lab();
    let authority = Authority::new(lab.dir(), "files");
    let web = Leaf::good("spiffe://example.org/web");
    let files = authority.issue("web", &web);
    let trust = format!(
        "trust: {{ bundles: [ {{ trust_domain: example.org, file: {} }} ] }}\n",
        authority.root.display()
    );
    let identity =
        format!("identity: {{ certificate: {}, key: {} }},", files.chain.display(), files.key.display());
    let yaml = STRICT_PAIR.replacen("{ name: web,", &format!("{{ name: web, {identity}"), 1);
    let pair = Pair::configured(lab, &format!("{yaml}{trust}"));
    pair.works();
    let serial = |pair: &Pair| {
        let last = pair.daemon.access_log().into_iter().rfind(|r| r.inbound() && r.peer().ends_with("/web"));
        last.map(|r| r.peer_serial().to_owned()).unwrap_or_default()
    };
    let first =
        eventually(slow::limit(10), "the first serial", || Some(serial(&pair)).filter(|s| !s.is_empty()));
    // The same names with another key and serial, as a renewal writes them.
    authority.issue("web", &web);
    let second = eventually(slow::limit(20), "the renewed certificate to be used", || {
        pair.works();
        Some(serial(&pair)).filter(|s| *s != first)
    });
    fs::write(&files.chain, "torn").expect("lab directory is writable");
    std::thread::sleep(Duration::from_secs(2));
    pair.works();
    assert_eq!(serial(&pair), second, "the last good one stays in force");
}

/// Of the daemon's 20 MiB, 15 are its own program and what the kernel shares with it (SPECIFICATION.md).
#[test]
fn a_daemon_at_rest_with_ten_workloads_keeps_a_few_mebibytes_of_its_own() {
    let lab = Lab::new(&["web"]);
    let workloads: String = (0..10)
        .map(|n| {
            format!(
                "  - {{ name: w{n}, select: {{ netns: $web.netns, cgroup: /w{n} }}, listen_ports: [80] }}\n"
            )
        })
        .collect();
    let mut daemon = lab.daemon(&format!("workloads:\n{workloads}"));
    let pid = daemon.process().pid();
    let own = || {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux 4.5 has it");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    };
    let limit = 8 << 20;
    assert!(own() < limit, "{} bytes after the start", own());
    let (code, said) = daemon.cli(&["reload"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(own() < limit, "{} bytes after a reload", own());
}
