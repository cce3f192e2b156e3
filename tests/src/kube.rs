//! A cluster of one or more nodes: the API double, and pods whose processes are where kubelet and the container runtime put them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use mtls_kube_double::{Double, TOKEN, json};
use serde_json::Value;

use crate::lab::{Cmd, Daemon, Lab, NODE, Pod, Process, cgroup, program_beside_the_test};
use crate::{eventually, programs, slow};

/// The label that says how a pod is enrolled.
pub const MODE: &str = "mtlsd.io/mode";

/// A lab whose pods are known by an API server. Fields drop in this order.
pub struct Cluster {
    /// The sandboxes of the pods.
    sandboxes: Mutex<Vec<(String, Process)>>,
    /// The lab.
    pub lab: Lab,
    /// The API server.
    pub double: Double,
}

/// How a pod is put into the cluster.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Its name, also in the lab.
    pub name: String,
    /// Its namespace.
    pub namespace: &'static str,
    /// What tells it from an earlier one of its name.
    pub uid: String,
    /// Labels.
    pub labels: Value,
    /// The QoS class, which decides where its cgroup is.
    pub qos: &'static str,
    /// kubelet's cgroup driver.
    pub systemd: bool,
    /// What is different from that in the object.
    pub more: Value,
}

impl Spec {
    /// A burstable pod by the systemd driver.
    pub fn new(namespace: &'static str, name: &str) -> Self {
        let (name, uid) = (name.to_owned(), format!("uid-of-{name}"));
        Self { name, namespace, uid, labels: json!({}), qos: "Burstable", systemd: true, more: json!({}) }
    }

    /// The same, with a label.
    pub fn labelled(mut self, key: &str, value: &str) -> Self {
        self.labels[key] = value.into();
        self
    }

    /// The pod's cgroup, below the node's root.
    pub fn cgroup(&self) -> PathBuf {
        let class = self.qos.to_lowercase();
        match (self.systemd, class.as_str()) {
            (true, "guaranteed") => {
                format!("kubepods.slice/kubepods-pod{}.slice", self.uid.replace('-', "_")).into()
            }
            (true, class) => format!(
                "kubepods.slice/kubepods-{class}.slice/kubepods-{class}-pod{}.slice",
                self.uid.replace('-', "_")
            )
            .into(),
            (false, "guaranteed") => format!("kubepods/pod{}", self.uid).into(),
            (false, class) => format!("kubepods/{class}/pod{}", self.uid).into(),
        }
    }
}

impl Cluster {
    /// An API server that knows one node, and a lab without pods.
    pub fn new() -> Self {
        Self { sandboxes: Mutex::default(), lab: Lab::new(&[]), double: Double::start() }
    }

    /// A namespace with these labels; it may be there already.
    pub fn namespace(&self, name: &str, labels: Value) {
        self.double.put(
            "namespaces",
            json!({ "metadata": { "name": name, "uid": format!("uid-of-{name}"), "labels": labels } }),
        );
    }

    /// The pod as the API server has it: on the node, with its address.
    pub fn object(&self, node: &str, spec: &Spec) -> Value {
        let pod = self.lab.pod(&spec.name);
        let mut object = json!({
            "metadata": {
                "name": spec.name, "namespace": spec.namespace, "uid": spec.uid, "labels": spec.labels,
                "creationTimestamp": "2026-11-29T10:00:00Z",
            },
            "spec": { "nodeName": node, "serviceAccountName": spec.name },
            "status": {
                "phase": "Running", "qosClass": spec.qos,
                "podIP": pod.v4.to_string(),
                "podIPs": [{ "ip": pod.v4.to_string() }, { "ip": pod.v6.to_string() }],
            },
        });
        merge(&mut object, &spec.more);
        object
    }

    /// Makes a pod on a node, with its sandbox, and tells the API server.
    pub fn pod(&mut self, node: &str, spec: &Spec) {
        self.sandbox(node, spec);
        self.announce(node, spec);
    }

    /// Tells the API server of a pod as it is now.
    pub fn announce(&self, node: &str, spec: &Spec) {
        self.double.put("pods", self.object(node, spec));
    }

    /// Makes a pod's namespace and cgroup with one process in it, as kubelet does before any container, and tells nobody.
    pub fn sandbox(&mut self, node: &str, spec: &Spec) {
        self.lab.add_pod(node, &spec.name);
        self.start(node, spec);
    }

    /// Starts the one process of a sandbox whose namespace is there.
    pub fn start(&self, node: &str, spec: &Spec) {
        let sandbox = self.cmd(node, spec, "sleep").arg("3600").spawn();
        self.sandboxes().push((spec.name.clone(), sandbox));
    }

    fn sandboxes(&self) -> MutexGuard<'_, Vec<(String, Process)>> {
        self.sandboxes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Kills everything of a pod and removes its namespace and cgroup, and tells nobody.
    pub fn kill(&self, node: &str, spec: &Spec) {
        self.sandboxes().retain(|(name, _)| *name != spec.name);
        cgroup::destroy(&self.lab.node(node).cgroup_root.join(spec.cgroup()));
        self.lab.remove_pod(&spec.name);
    }

    /// A program in a container of a pod.
    pub fn cmd(&self, node: &str, spec: &Spec, program: impl AsRef<std::ffi::OsStr>) -> Cmd {
        let scope = "cri-containerd-0123456789abcdef.scope";
        let container = if spec.systemd { scope } else { "0123456789abcdef" };
        let cgroup = self.lab.node(node).cgroup_root.join(spec.cgroup()).join(container);
        fs::create_dir_all(&cgroup).expect("cgroup v2 is writable");
        self.lab.pod(&spec.name).cmd_in_cgroup(cgroup, program)
    }

    /// A server in a pod that answers each connection with `greeting`.
    pub fn serve(&self, node: &str, spec: &Spec, port: u16, greeting: &str) -> Process {
        let binary = program_beside_the_test("probe");
        let server = self
            .cmd(node, spec, binary)
            .args(["serve", &format!("[::]:{port}"), "--greet", greeting])
            .spawn();
        self.lab.pod(&spec.name).wait_port(port);
        server
    }

    /// What a client in a pod says of a connection.
    pub fn ask(&self, node: &str, spec: &Spec, to: std::net::SocketAddr) -> String {
        let binary = program_beside_the_test("probe");
        self.cmd(node, spec, binary).args(["connect", &to.to_string()]).run().ok().text()
    }

    /// What somebody outside of the cluster gets in plaintext.
    pub fn plaintext(&self, from: &Pod, to: std::net::SocketAddr) -> Option<Vec<u8>> {
        programs::raw(from, to, b"hello", true).ok().filter(|answer| !answer.is_empty())
    }

    /// A service of this namespace and its endpoints.
    pub fn service(&self, namespace: &str, name: &str, address: &str, port: u16, pods: &[&Spec]) {
        self.double.put(
            "services",
            json!({
                "metadata": { "name": name, "namespace": namespace, "uid": format!("uid-of-{name}") },
                "spec": { "type": "ClusterIP", "clusterIP": address, "clusterIPs": [address],
                          "ports": [{ "name": "", "port": port, "protocol": "TCP" }] },
            }),
        );
        let endpoints: Vec<_> = pods
            .iter()
            .map(|spec| {
                json!({
                    "addresses": [self.lab.pod(&spec.name).v4.to_string()],
                    "conditions": { "ready": true, "serving": true },
                    "targetRef": { "kind": "Pod", "namespace": spec.namespace, "name": spec.name, "uid": spec.uid },
                })
            })
            .collect();
        self.double.put(
            "endpointslices",
            json!({
                "metadata": { "name": format!("{name}-1"), "namespace": namespace, "uid": format!("uid-of-slice-{name}"),
                              "labels": { "kubernetes.io/service-name": name } },
                "addressType": "IPv4", "endpoints": endpoints,
                "ports": [{ "name": "", "port": port, "protocol": "TCP" }],
            }),
        );
    }

    /// Does what kube-proxy does to a pod's connections: the service's address is turned to an endpoint.
    pub fn translate(&self, from: &Spec, service: &str, port: u16, to: &Spec) {
        self.turn(from, service, port, to, port);
    }

    /// The same, to another port than the service's.
    pub fn turn(&self, from: &Spec, service: &str, port: u16, to: &Spec, target: u16) {
        let (port, to) = (port.to_string(), self.lab.pod(&to.name).at(target).to_string());
        let netns = &self.lab.pod(&from.name).netns;
        let rule = ["-t", "nat", "-A", "OUTPUT", "-d", service, "-p", "tcp", "--dport", &port, "-j", "DNAT"];
        let command = self.lab.tool("ip").args(["netns", "exec", netns, "iptables"]);
        command.args(rule).args(["--to-destination", &to]).run().ok();
    }

    /// The daemon of a node, not started yet. `yaml`: what stands below `kubernetes:`, and after it.
    #[track_caller]
    pub fn prepare(&self, node: &str, kubernetes: &str, yaml: &str) -> Daemon {
        let account = account(&self.double, self.lab.dir());
        let yaml = format!(
            "kubernetes: {{ node: {node}, service_account: {}, {kubernetes} }}\n{yaml}\n",
            account.display()
        );
        let mut daemon = self.lab.prepare(node, &yaml);
        show(&self.double, &mut daemon);
        daemon
    }

    /// The daemon of the first node, ready.
    #[track_caller]
    pub fn daemon(&self, kubernetes: &str, yaml: &str) -> Daemon {
        let mut daemon = self.prepare(NODE, kubernetes, yaml);
        daemon.start();
        daemon
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

/// Writes a pod's service account below this directory, and says where it is.
///
/// # Panics
/// If it cannot be written.
pub fn account(double: &Double, directory: &Path) -> PathBuf {
    let files = directory.join("service-account");
    fs::create_dir_all(&files).expect("the lab's directory is writable");
    fs::write(files.join("token"), TOKEN).expect("the lab's directory is writable");
    fs::write(files.join("ca.crt"), double.ca_pem()).expect("the lab's directory is writable");
    files
}

/// Shows a daemon that is not started yet where the API server is.
pub fn show(double: &Double, daemon: &mut Daemon) {
    let api = double.address();
    daemon.set_env("KUBERNETES_SERVICE_HOST", &api.ip().to_string());
    daemon.set_env("KUBERNETES_SERVICE_PORT", &api.port().to_string());
}

/// Waits until a workload is in this state, as `mtlsd workloads` says it.
#[track_caller]
pub fn wait_for_state(daemon: &Daemon, workload: &str, state: &str) {
    eventually(slow::limit(20), &format!("{workload} to be {state}"), || {
        let all = daemon.ask(&["workloads"]);
        let mut all = all.as_array().into_iter().flatten();
        all.any(|one| one["name"] == workload && one["state"] == state).then_some(())
    });
}

/// JSON merge patch, as far as objects go (RFC 7396).
fn merge(into: &mut Value, patch: &Value) {
    match (into, patch) {
        (Value::Object(into), Value::Object(patch)) => {
            for (key, value) in patch {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, patch) => *into = patch.clone(),
    }
}
