//! The daemon in a container with the rights of the Kubernetes chart's pod, and not one more: capabilities, mounts, read-only root and
//! system calls (`files/seccomp.json`, the narrower of the two profiles), in a cgroup namespace of its own.

use std::fs;

use mtls_kube_double::Double;
use mtls_tests::container::{Contained, Pod, why_none};
use mtls_tests::lab::metrics;
use mtls_tests::manifests::{Chart, objects, only};
use mtls_tests::programs::kubectl::{self, Kubectl};
use mtls_tests::{Lab, could_not_run, eventually, programs, slow};

/// `web` is found by its processes, as pods are; `db` by its namespace.
const TWO: &str = "workloads:\n\
    - { name: web, select: { cgroup: $web.cgroup }, addresses: [$web.v4] }\n\
    - { name: db, select: { netns: $db.netns }, addresses: [$db.v4] }\n\
    policy:\n\
    - { name: web-to-db, action: allow, to: { workloads: [db] }, from: { spiffe_ids: [\"spiffe://example.org/web\"] } }\n";
const PORT: u16 = 7000;

/// The pod as the chart has it by default. `None`, and that is said: there is no helm, kubectl or runc.
fn pod<T: Fn()>(test: T) -> Option<Pod> {
    pod_with(test, &[])
}

/// The pod as the chart has it with these values.
fn pod_with<T: Fn()>(test: T, values: &[&str]) -> Option<Pod> {
    if let Some(why) = why_none() {
        could_not_run(test, why);
        return None;
    }
    let found = Chart::find().and_then(|chart| Ok((chart, kubectl::program()?)));
    match found {
        Ok((chart, program)) => {
            let double = Double::start();
            let objects = objects(&Kubectl::of(&program, &double), &chart.render(values));
            Some(Pod::of(only(&objects, "DaemonSet")))
        }
        Err(reason) => {
            could_not_run(test, &reason);
            None
        }
    }
}

struct World {
    contained: Contained,
    _server: mtls_tests::Process,
    _member: mtls_tests::Process,
    lab: Lab,
}

impl World {
    fn new(pod: &Pod) -> Self {
        Self::configured(pod, TWO)
    }

    fn configured(pod: &Pod, yaml: &str) -> Self {
        let lab = Lab::new(&["web", "db"]);
        let server = programs::probe(lab.pod("db"), PORT, &[]);
        // By its processes a pod is found; this one is not root, as most are.
        let member = lab.pod("web").spawn(&[
            "setpriv",
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "sleep",
            "600",
        ]);
        let contained = pod.prepare(&lab, yaml);
        Self { contained, _server: server, _member: member, lab }
    }

    /// What `web` gets of `db`, or why it does not.
    fn ask(&self) -> String {
        let to = self.lab.pod("db").at(PORT).to_string();
        self.lab.pod("web").own("probe").args(["connect", &to, "--send", "hello"]).run().text()
    }
}

/// A line of /proc/PID/status.
fn status(pid: u32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("the kernel says it");
    line.trim_start_matches(':').trim().to_owned()
}

#[test]
fn with_the_charts_rights_it_enrols_relays_and_holds() {
    let Some(pod) = pod(with_the_charts_rights_it_enrols_relays_and_holds) else { return };
    let mut world = World::new(&pod);
    world.contained.daemon.start();
    let pid = world.contained.pid();
    let effective = u64::from_str_radix(&status(pid, "CapEff"), 16).expect("hexadecimal digits");
    assert_eq!(
        effective.count_ones() as usize,
        pod.capabilities().len(),
        "no capability more than the chart has"
    );
    assert_eq!((status(pid, "Seccomp").as_str(), status(pid, "CapBnd")), ("2", status(pid, "CapEff")));

    assert!(world.ask().contains("hello"), "{}", world.ask());
    let record = world.contained.daemon.wait_for_log("the connection", |record| record.bytes() > 0);
    assert_eq!(record.0["tls"]["version"], "TLSv1.3", "{}", record.0);
    let daemon = &world.contained.daemon;
    let verified = daemon.shown(&["verify"]);
    assert_eq!(verified.code, Some(0), "{verified}");
    // It knows its own cgroup, which /proc does not tell in a namespace: nothing is attached at the root of the hierarchy.
    assert!(!verified.text().contains("runs after"), "{verified}");
    assert!(daemon.ability("locked-memory").is_ok(), "keys are not swapped out");

    // A change of the ConfigMap is seen.
    let denied = world.lab.expand(&TWO.replace("action: allow", "action: deny"));
    let bpffs = format!(
        "paths: {{ bpffs: {} }}\naccess_log: {{ file: /run/mtlsd/access.jsonl }}\n",
        daemon.bpffs().display()
    );
    daemon.configure(&(bpffs + &denied));
    world.contained.publish();
    eventually(slow::limit(15), "the rule that denies", || (!world.ask().contains("hello")).then_some(()));

    world.contained.daemon.stop();
    assert!(!world.ask().contains("hello"), "strict holds without the daemon: what is pinned is the node's");

    let (ok, said) = world.contained.run_with(&["uninstall"]);
    assert!(ok && said.contains("pinned objects"), "{said}");
    assert!(world.ask().contains("hello"), "nothing is in force any more: {}", world.ask());
}

#[test]
fn without_any_one_capability_something_fails_and_says_which() {
    let test = without_any_one_capability_something_fails_and_says_which;
    let Some(all) = pod(test) else { return };
    for capability in all.capabilities() {
        let Some(pod) = pod(test) else { return };
        // The part of it that is for eBPF alone is not enough.
        let pod = match capability.as_str() {
            "SYS_ADMIN" => pod.instead("SYS_ADMIN", &["BPF", "PERFMON"]),
            other => pod.without(other),
        };
        let mut world = World::new(&pod);
        let daemon = &mut world.contained.daemon;
        let failure = match capability.as_str() {
            "SYS_ADMIN" | "NET_RAW" => {
                daemon.launch();
                let wanted =
                    if capability == "NET_RAW" { "cannot open a raw socket" } else { "SO_NETNS_COOKIE" };
                let address = daemon.metrics_address();
                eventually(slow::limit(15), &format!("{wanted} of a daemon without {capability}"), || {
                    let (code, why) = metrics::get(address, "/readyz").ok()?;
                    (code == 503 && why.contains(wanted) && why.contains("Operation not permitted"))
                        .then_some(())
                });
                continue;
            }
            "SYS_PTRACE" => {
                daemon.start();
                // Its processes are not seen, so that it is not enrolled; and being strict it is closed.
                let said = world.ask();
                assert!(said.contains("ECONNREFUSED"), "{said}");
                continue;
            }
            "NET_ADMIN" => ("relay-ktls", "CAP_NET_ADMIN"),
            "IPC_LOCK" => ("locked-memory", "CAP_IPC_LOCK"),
            other => panic!("{other} has no test: what fails without it?"),
        };
        daemon.start();
        match daemon.ability(failure.0) {
            Err(why) => assert!(why.contains(failure.1), "{capability}: {why}"),
            // The module is there already: then only kernels before 6.9 ask for it.
            Ok(()) => assert_eq!(capability, "NET_ADMIN"),
        }
    }
}

#[test]
fn direct_has_its_sysctl_only_with_the_charts_value_and_says_so_without() {
    let test = direct_has_its_sysctl_only_with_the_charts_value_and_says_so_without;
    const SYSCTL: &str = "ipv4/tcp_notsent_lowat";
    let yaml = TWO.replace("netns: $db.netns }", "netns: $db.netns }, direct: auto");
    for (values, place) in
        [(&[][..], "/proc/sys/net"), (&["--set=direct.enabled=true"], "/host/proc/sys/net")]
    {
        let Some(pod) = pod_with(test, values) else { return };
        let mut world = World::configured(&pod, &yaml);
        world.contained.daemon.start();
        // As the daemon does: through the container's mounts, from the workload's namespace.
        let of_container = format!("/proc/{}/root{place}/{SYSCTL}", world.contained.pid());
        let db = world.lab.pod("db");
        let written = db.run(&["sh", "-c", &format!("echo 0 > {of_container}")]);
        let why = world.contained.daemon.ability("direct").err().unwrap_or_default();
        let value = db.run(&["cat", &format!("/proc/sys/net/{SYSCTL}")]).ok().text();
        if values.is_empty() {
            assert!(written.stderr.contains("Read-only file system"), "{written}");
            assert!(
                why.contains("/proc/sys is read-only here") && why.contains("`direct.enabled: true`"),
                "{why}"
            );
            assert_eq!(value.trim(), "4294967295");
        } else {
            written.ok();
            assert_eq!(value.trim(), "0");
            // What is left is the kernel's.
            assert!(why.is_empty() || why.contains("kernel TLS is needed"), "{why}");
        }
        let own = fs::read_to_string(format!("/proc/sys/net/{SYSCTL}")).expect("/proc is mounted");
        assert_eq!(own.trim(), "4294967295", "the node's own is another");
    }
}

#[test]
fn in_its_own_cgroup_it_refuses_to_start_and_says_what_to_mount() {
    let Some(pod) = pod(in_its_own_cgroup_it_refuses_to_start_and_says_what_to_mount) else { return };
    let world = World::new(&pod.with_own_cgroup());
    // Without a root that is named: one could not be named there.
    let daemon = &world.contained.daemon;
    let text = fs::read_to_string(daemon.config()).expect("just written");
    let text: String = text
        .lines()
        .filter(|line| !line.starts_with("cgroup_root:"))
        .map(|line| format!("{line}\n"))
        .collect();
    fs::write(daemon.config(), text).expect("lab directory is writable");
    world.contained.publish();
    let said = world.contained.daemon.run_to_end();
    assert!(
        said.code != Some(0) && said.stderr.contains("/sys/fs/cgroup: only this container's own cgroup"),
        "{said}"
    );
    assert!(said.stderr.contains("hostPath"), "{said}");
}
