//! Pods of real containers: a sandbox that holds the namespaces, and containers beside it in the same ones, made by runc as containerd
//! makes them for kubelet, in cgroups with kubelet's names.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::container::{forget_version_1, make_root};
use crate::kube::{Cluster, Spec};
use crate::lab::cgroup::mount as cgroup_mount;
use crate::lab::{Process, program_beside_the_test};

/// What kubelet calls the container that only holds the namespaces.
const SANDBOX: &str = "sandbox";

/// A pod whose sandbox runs. Dropping it removes its containers.
#[derive(Debug)]
pub struct RealPod {
    spec: Spec,
    netns: PathBuf,
    /// runc's state, the bundles, and the pod's cgroup below the mount.
    directory: PathBuf,
    cgroup: PathBuf,
    /// Of runc's containers.
    ids: Mutex<Vec<String>>,
    lab: String,
    _sandbox: Option<Process>,
}

impl RealPod {
    /// Starts the sandbox of a pod of the lab whose namespace is there. Nobody is told.
    ///
    /// # Panics
    /// If runc does not start it.
    #[must_use]
    pub fn start(cluster: &Cluster, node: &str, spec: &Spec) -> Self {
        let root = cluster.lab.node(node).cgroup_root;
        let below = root.strip_prefix(cgroup_mount()).expect("it is a cgroup");
        let mut pod = Self {
            spec: spec.clone(),
            netns: Path::new("/run/netns").join(&cluster.lab.pod(&spec.name).netns),
            directory: cluster.lab.dir().join("pods").join(&spec.uid),
            cgroup: Path::new("/").join(below).join(spec.cgroup()),
            ids: Mutex::default(),
            lab: cluster.lab.wire(),
            _sandbox: None,
        };
        pod._sandbox = Some(pod.run(cluster, SANDBOX, &["/usr/bin/sleep", "3600"]));
        crate::eventually(crate::slow::limit(20), "the sandbox to run", || pod.pid(SANDBOX));
        pod
    }

    /// Runs a container of the pod: an init container, an application, a sidecar or one that is added later. It may use `probe` and
    /// `sleep`.
    ///
    /// # Panics
    /// If it cannot be started.
    #[must_use]
    pub fn run(&self, cluster: &Cluster, name: &str, args: &[&str]) -> Process {
        let id = self.id(name);
        let bundle = self.directory.join(name);
        let programs = [
            (program_beside_the_test("probe"), PathBuf::from("/usr/bin/probe")),
            (PathBuf::from("/bin/sleep"), PathBuf::from("/usr/bin/sleep")),
        ];
        make_root(&bundle.join("rootfs"), &programs);
        fs::write(bundle.join("config.json"), self.config(&id, args).to_string())
            .expect("the lab's directory is writable");
        self.ids.lock().expect("no panic").push(id.clone());
        let runc = cluster.lab.tool("runc").arg("--root").arg(self.directory.join("runc"));
        runc.args(["run", "--bundle"]).arg(bundle).arg(id).spawn()
    }

    fn id(&self, name: &str) -> String {
        format!("{}-{}-{name}", self.lab, self.spec.name)
    }

    /// What containerd writes for runc (the OCI's runtime specification): nothing privileged, and the sandbox's namespaces.
    fn config(&self, id: &str, args: &[&str]) -> Value {
        let of_sandbox = |kind: &str| self.pid(SANDBOX).map(|pid| format!("/proc/{pid}/ns/{kind}"));
        let namespaces: Vec<_> = ["ipc", "uts"]
            .iter()
            .map(|kind| match of_sandbox(kind) {
                Some(path) => json!({ "type": kind, "path": path }),
                None => json!({ "type": kind }),
            })
            .chain(["pid", "mount", "cgroup"].iter().map(|kind| json!({ "type": kind })))
            .chain([json!({ "type": "network", "path": self.netns })])
            .collect();
        let scope = match self.spec.systemd {
            true => format!("cri-containerd-{id}.scope"),
            false => id.to_owned(),
        };
        json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": { "uid": 65534, "gid": 65534 }, "args": args, "env": ["PATH=/usr/bin"], "cwd": "/", "noNewPrivileges": true,
            },
            "root": { "path": "rootfs", "readonly": true },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755", "size=65536k"] },
            ],
            "linux": { "cgroupsPath": self.cgroup.join(scope), "namespaces": namespaces },
        })
    }

    /// The process number of a container on the host; `None`: it does not run.
    fn pid(&self, name: &str) -> Option<u64> {
        let state = self.runc(&["state", &self.id(name)]);
        let state: Value = serde_json::from_slice(&state.stdout).ok()?;
        (state["status"] == "running").then(|| state["pid"].as_u64()).flatten()
    }

    fn runc(&self, args: &[&str]) -> std::process::Output {
        Command::new("runc")
            .arg("--root")
            .arg(self.directory.join("runc"))
            .args(args)
            .output()
            .expect("runc starts")
    }
}

impl Drop for RealPod {
    fn drop(&mut self) {
        for id in self.ids.lock().map(|ids| ids.clone()).unwrap_or_default() {
            let said = self.runc(&["delete", "--force", &id]);
            let text = String::from_utf8_lossy(&said.stderr).into_owned();
            if !said.status.success() && !text.contains("does not exist") {
                eprintln!("lab: the container {id} is not removed: {text}");
            }
        }
        forget_version_1(&self.cgroup);
    }
}
