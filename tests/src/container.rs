//! mtlsd in a container that runc starts with exactly the rights of the Kubernetes chart's pod: what kubelet and containerd would make of
//! it, written down for runc. The rest of the lab sees it as any daemon.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::Lab;
use crate::lab::cgroup::{destroy, mount as cgroup_mount};
use crate::lab::{Daemon, NODE};
use crate::manifests::root;
use crate::volume::Mounted;

/// Why there can be no containers here, if so.
#[must_use]
pub fn why_none() -> Option<&'static str> {
    if std::env::var_os("MTLSD_TEST_SLOW").is_some() {
        return Some(
            "containers are tried on the host only: in a virtual machine runc was never seen to work",
        );
    }
    let there = ["/usr/sbin/runc", "/usr/bin/runc"].iter().any(|path| Path::new(path).exists());
    (!there).then_some("there is no runc; apt-get install runc")
}

/// What containerd hides in a container that is not privileged, and what it makes read-only.
const MASKED: [&str; 8] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The directory of the ConfigMap, in the node's.
const CONFIG_MAP: &str = "configmap";

/// The pod of the chart, and what a test changes of it.
#[derive(Debug)]
pub struct Pod {
    spec: Value,
    without: BTreeSet<String>,
    own_cgroup: bool,
}

/// A daemon in a container. Dropping it removes the container.
#[derive(Debug)]
pub struct Contained {
    /// As the lab knows daemons; it is not started.
    pub daemon: Daemon,
    runc: PathBuf,
    id: String,
    config_map: Mounted,
    /// The lab's cgroup, below the mount.
    group: PathBuf,
}

impl Pod {
    /// Of a DaemonSet.
    #[must_use]
    pub fn of(daemons: &Value) -> Self {
        let spec = daemons["spec"]["template"]["spec"].clone();
        Self { spec, without: BTreeSet::new(), own_cgroup: false }
    }

    /// Its capabilities, as Kubernetes calls them.
    #[must_use]
    pub fn capabilities(&self) -> Vec<String> {
        let added = self.context()["capabilities"]["add"].as_array().into_iter().flatten();
        let added = added.filter_map(|name| name.as_str().map(str::to_owned));
        added.filter(|name| !self.without.contains(name)).collect()
    }

    /// Without this capability.
    #[must_use]
    pub fn without(mut self, capability: &str) -> Self {
        self.without.insert(capability.to_owned());
        self
    }

    /// With these in the place of one.
    #[must_use]
    pub fn instead(mut self, capability: &str, others: &[&str]) -> Self {
        let added = self.spec["containers"][0]["securityContext"]["capabilities"]["add"].as_array_mut();
        added.expect("there are some").extend(others.iter().map(|name| json!(name)));
        self.without(capability)
    }

    /// With the container's own cgroup in the place of the host's.
    #[must_use]
    pub fn with_own_cgroup(mut self) -> Self {
        self.own_cgroup = true;
        self
    }

    fn container(&self) -> &Value {
        &self.spec["containers"][0]
    }

    fn context(&self) -> &Value {
        &self.container()["securityContext"]
    }

    /// A daemon in a container on the lab's node. Of the configuration the paths are the container's own; the rest is as with
    /// [`Lab::prepare`].
    ///
    /// # Panics
    /// If the bundle cannot be written.
    #[must_use]
    pub fn prepare(&self, lab: &Lab, yaml: &str) -> Contained {
        let node = lab.node(NODE);
        let files = node.files.clone();
        let paths = format!(
            "paths: {{ bpffs: {} }}\naccess_log: {{ file: /run/mtlsd/access.jsonl }}\n{yaml}",
            node.bpffs.display()
        );
        let mut daemon = lab.prepare(NODE, &paths);
        let _ = fs::remove_file(files.join("access.jsonl"));
        symlink("runtime/access.jsonl", files.join("access.jsonl")).expect("lab directory is writable");

        let bundle = lab.dir().join("bundle");
        let program = daemon.binary().to_owned();
        make_root(&bundle.join("rootfs"), &[(program.clone(), PathBuf::from("/usr/bin/mtlsd"))]);
        let below = node.cgroup_root.strip_prefix(cgroup_mount()).expect("it is a cgroup");
        let group = below.parent().expect("a node is in its lab").to_owned();
        let cgroup = Path::new("/").join(below).join("pod-of-mtlsd/container");
        let spec = self.bundle(&files, &cgroup);
        fs::write(bundle.join("config.json"), spec.to_string()).expect("lab directory is writable");

        let (runc, id) = (lab.dir().join("runc"), lab.wire());
        let script = lab.dir().join("mtlsd-in-container");
        let text = format!(
            "#!/bin/sh\ncase $1 in run) exec runc --root {} run --bundle {} {id} ;; esac\nexec {} \"$@\"\n",
            runc.display(),
            bundle.display(),
            program.display(),
        );
        fs::write(&script, text).expect("lab directory is writable");
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("it is ours");
        daemon.use_binary(&script);
        let contained =
            Contained { daemon, runc, id, config_map: Mounted::new(files.join(CONFIG_MAP)), group };
        contained.publish();
        contained
    }

    /// What containerd makes of a pod (CRI), for runc (the OCI's runtime specification).
    fn bundle(&self, files: &Path, cgroup: &Path) -> Value {
        let (container, context) = (self.container(), self.context());
        let capabilities: Vec<_> = self.capabilities().iter().map(|name| format!("CAP_{name}")).collect();
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]), "others would have to be added here");
        let read_only = context["readOnlyRootFilesystem"] == true;
        let mut args = vec![json!("/usr/bin/mtlsd")];
        args.extend(container["args"].as_array().cloned().unwrap_or_default());
        let mut namespaces = vec!["mount", "ipc", "uts", "cgroup"];
        let host = |key: &str| self.spec[key] == true;
        namespaces.extend(
            [("hostPID", "pid"), ("hostNetwork", "network")]
                .iter()
                .filter(|(key, _)| !host(key))
                .map(|(_, n)| n),
        );
        let profile = root().join("deploy/kubernetes/chart/files/seccomp.json");
        let profile =
            fs::read_to_string(&profile).unwrap_or_else(|error| panic!("{}: {error}", profile.display()));
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": { "uid": context["runAsUser"], "gid": context["runAsGroup"] },
                "args": args,
                "env": ["PATH=/usr/bin", "NODE_NAME=n1"],
                "cwd": "/",
                "capabilities": { "bounding": capabilities, "effective": capabilities, "permitted": capabilities },
                "noNewPrivileges": context["allowPrivilegeEscalation"] == false,
            },
            "root": { "path": "rootfs", "readonly": read_only },
            "mounts": self.mounts(files),
            "linux": {
                "cgroupsPath": cgroup,
                "namespaces": namespaces.iter().map(|kind| json!({ "type": kind })).collect::<Vec<_>>(),
                "maskedPaths": MASKED,
                "readonlyPaths": READ_ONLY,
                "seccomp": serde_json::from_str::<Value>(&profile).expect("it is JSON"),
            },
        })
    }

    /// What every container has, and the pod's own. The lab's directories stand for those of the node that are the daemon's alone.
    fn mounts(&self, files: &Path) -> Vec<Value> {
        let mount = |to: &str, kind: &str, from: &str, options: &[&str]| json!({ "destination": to, "type": kind, "source": from, "options": options });
        let mut mounts = vec![
            mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup2", "cgroup", &["nosuid", "noexec", "nodev", "ro"]),
        ];
        if !self.own_cgroup {
            mounts.pop();
        }
        let volumes = self.spec["volumes"].as_array().into_iter().flatten();
        let path_of = |name: &Value| {
            let volume = volumes.clone().find(|volume| volume["name"] == *name).expect("the volume is there");
            match (&volume["configMap"], volume["hostPath"]["path"].as_str()) {
                (Value::Object(_), _) => files.join(CONFIG_MAP),
                (_, Some("/run/mtlsd")) => files.join("runtime"),
                (_, Some("/var/lib/mtlsd")) => files.join("state"),
                (_, Some(path)) => path.into(),
                _ => panic!("what is {volume}?"),
            }
        };
        for volume in self.container()["volumeMounts"].as_array().into_iter().flatten() {
            let to = volume["mountPath"].as_str().expect("it is a path");
            if to == "/sys/fs/cgroup" && self.own_cgroup {
                continue;
            }
            let write = if volume["readOnly"] == true { "ro" } else { "rw" };
            let spread = if volume["mountPropagation"] == "HostToContainer" { "rslave" } else { "rprivate" };
            mounts.push(mount(
                to,
                "bind",
                &path_of(&volume["name"]).to_string_lossy(),
                &["rbind", write, spread],
            ));
        }
        mounts
    }
}

/// Programs with their places, and the libraries that they need: none, if it is the one of the image.
pub(crate) fn make_root(place: &Path, programs: &[(PathBuf, PathBuf)]) {
    let mut files: BTreeSet<_> = programs.iter().cloned().collect();
    for (program, _) in programs {
        let listed = Command::new("ldd").arg(program).output().expect("ldd starts");
        let listed = String::from_utf8_lossy(&listed.stdout).into_owned();
        let libraries = listed.split_whitespace().filter(|word| word.starts_with('/')).map(PathBuf::from);
        files.extend(libraries.map(|path| (path.clone(), path)));
    }
    for (from, to) in files {
        let to = place.join(to.strip_prefix("/").expect("it is absolute"));
        fs::create_dir_all(to.parent().expect("a file has a directory")).expect("lab directory is writable");
        fs::copy(&from, &to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
    }
}

impl Contained {
    /// Brings the configuration into the container, as kubelet does with a ConfigMap.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn publish(&self) {
        self.config_map.swap(&[("mtlsd.yaml", &self.daemon.config())]);
    }

    /// Runs the container once more with other arguments, to its end: whether it succeeded, and what it said.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn run_with(&self, args: &[&str]) -> (bool, String) {
        let bundle = self.runc.with_file_name("bundle");
        let file = bundle.join("config.json");
        let mut spec: Value =
            serde_json::from_slice(&fs::read(&file).expect("just written")).expect("it is JSON");
        spec["process"]["args"] = [&["/usr/bin/mtlsd"], args].concat().into();
        fs::write(&file, spec.to_string()).expect("lab directory is writable");
        let mut runc = Command::new("runc");
        runc.arg("--root")
            .arg(&self.runc)
            .arg("run")
            .arg("--bundle")
            .arg(&bundle)
            .arg(format!("{}-once", self.id));
        let said = runc.output().expect("runc starts");
        (said.status.success(), String::from_utf8_lossy(&[said.stdout, said.stderr].concat()).into_owned())
    }

    /// The process number of the daemon, on the host.
    ///
    /// # Panics
    /// If the container does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        let said = Command::new("runc")
            .arg("--root")
            .arg(&self.runc)
            .args(["state", &self.id])
            .output()
            .expect("runc starts");
        let state: Value = serde_json::from_slice(&said.stdout).unwrap_or_default();
        let pid = state["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
        pid.unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&said.stderr)))
    }
}

impl Drop for Contained {
    fn drop(&mut self) {
        let delete =
            Command::new("runc").arg("--root").arg(&self.runc).args(["delete", "--force", &self.id]).output();
        if let Ok(said) = delete {
            let text = String::from_utf8_lossy(&said.stderr).into_owned();
            if !said.status.success() && !text.contains("does not exist") {
                eprintln!("lab: the container {} is not removed: {text}", self.id);
            }
        }
        forget_version_1(&self.group);
    }
}

/// Where version 1 is mounted beside version 2, runc has made the same directories there, and leaves those above the container's.
pub(crate) fn forget_version_1(group: &Path) {
    let group = group.strip_prefix("/").unwrap_or(group);
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        if hierarchy.path() != cgroup_mount() && !hierarchy.path().is_symlink() {
            destroy(&hierarchy.path().join(group));
        }
    }
}
