//! A pair of Istio's ztunnels without Istio: each serves one pod ("dedicated"), reads who is there from a file, and
//! makes its certificates itself from a root that is built in.
//!
//! Made from ztunnel's published documentation and sources (Development.md, src/config.rs); no binary could be had
//! where this was written, so it has **not been run** with a real one. The binary must be built with
//! `cargo build --release --features testing`: without that feature there is no built-in CA.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use mtls_tests::{Pod, Process};
use serde_json::{Value, json};

use super::sidecar::{self, INBOUND, OUTBOUND};
use super::{Between, World};

/// Names the binary.
const VARIABLE: &str = "MTLSD_BENCH_ZTUNNEL";
/// Where it takes tunnels.
const HBONE: u16 = 15008;
/// Threads, its default.
const THREADS: &str = "2";
/// A pod and the node that it says it is on: on one node, versions of ztunnel differ in what they do.
const PODS: [(&str, &str); 2] = [("web", "n1"), ("db", "n2")];

pub fn start(world: &World) -> Result<Between> {
    let binary = binary(std::env::var_os(VARIABLE))?;
    let workloads = world.lab.dir().join("ztunnel.yaml");
    let addresses = PODS.map(|(pod, _)| world.lab.pod(pod).v4.to_string());
    // JSON is YAML.
    fs::write(&workloads, serde_json::to_vec_pretty(&configuration(&addresses))?)
        .with_context(|| workloads.display().to_string())?;
    let client = tunnel(world.web(), &binary, &environment(PODS[0], &workloads), OUTBOUND)?;
    let server = tunnel(world.db(), &binary, &environment(PODS[1], &workloads), HBONE)?;
    sidecar::redirect_application(world.web());
    let tunnels = HBONE.to_string();
    sidecar::redirect(world.db(), &["PREROUTING", "!", "--dport", &tunnels], INBOUND);
    let version = version(&binary).unwrap_or_else(|| "of unknown version".into());
    Ok(Between {
        title: format!("ztunnel {version} pair"),
        setting: format!(
            "dedicated mode, HBONE, iptables REDIRECT, {THREADS} threads each, built-in CA, original source off, log at \
             warnings"
        ),
        commands: [&client, &server].map(|(_, command)| command.clone()).into(),
        processes: vec![client.0, server.0],
        ..Between::default()
    })
}

/// The binary, if there is one.
fn binary(named: Option<OsString>) -> Result<PathBuf> {
    let path = named.filter(|name| !name.is_empty()).map(PathBuf::from).with_context(|| {
        format!(
            "set {VARIABLE} to a ztunnel binary: in a checkout of github.com/istio/ztunnel, `cargo build --release \
             --features testing` makes out/rust/release/ztunnel"
        )
    })?;
    if !path.is_file() {
        bail!("{VARIABLE} names {}, which is no file", path.display());
    }
    Ok(path)
}

/// Who is there, for both: each pod takes tunnels.
fn configuration(addresses: &[String; 2]) -> Value {
    let workload = |((name, node), address): (&(&str, &str), &String)| {
        json!({
            "uid": format!("bench//v1/Pod/default/{name}"), "name": name, "namespace": "default",
            "serviceAccount": name, "trustDomain": "cluster.local", "workloadIps": [address], "protocol": "HBONE",
            "node": node, "network": "", "services": {},
        })
    };
    json!({ "workloads": PODS.iter().zip(addresses).map(workload).collect::<Vec<_>>(), "policies": [], "services": [] })
}

/// The environment of a pod's ztunnel.
fn environment((pod, node): (&str, &str), workloads: &Path) -> Vec<(&'static str, String)> {
    vec![
        ("PROXY_MODE", "dedicated".to_owned()),
        ("PROXY_WORKLOAD_INFO", format!("default/{pod}/{pod}")),
        ("NODE_NAME", node.to_owned()),
        ("LOCAL_XDS_PATH", workloads.to_string_lossy().into_owned()),
        ("XDS_ADDRESS", String::new()),
        ("FAKE_CA", "true".to_owned()),
        ("ZTUNNEL_WORKER_THREADS", THREADS.to_owned()),
        // The server sees its own ztunnel's address, as it does Envoy's and mtlsd's: no routing by marks.
        ("ENABLE_ORIG_SRC", "false".to_owned()),
        ("ISTIO_META_DNS_CAPTURE", "false".to_owned()),
        // A line for each connection is at `info`.
        ("RUST_LOG", "warn".to_owned()),
    ]
}

fn words(binary: &Path) -> Vec<String> {
    let mut words = sidecar::in_group(binary);
    words.extend(["proxy", "ztunnel"].map(str::to_owned));
    words
}

/// As it would be typed.
fn line(environment: &[(&str, String)], words: &[String]) -> String {
    let set = environment.iter().map(|(name, value)| format!("{name}={value}"));
    std::iter::once("env".to_owned()).chain(set).chain(words.iter().cloned()).collect::<Vec<_>>().join(" ")
}

fn tunnel(
    pod: &Pod,
    binary: &Path,
    environment: &[(&'static str, String)],
    port: u16,
) -> Result<(Process, String)> {
    let words = words(binary);
    let (program, rest) = words.split_first().context("there is a program")?;
    let command = pod.cmd(program).args(rest);
    let command = environment.iter().fold(command, |command, (name, value)| command.env(name, value));
    let process = sidecar::start(pod, command, port).with_context(|| binary.display().to_string())?;
    Ok((process, line(environment, &words)))
}

fn version(binary: &Path) -> Option<String> {
    let output = Command::new(binary).arg("version").output().ok()?;
    tag(&String::from_utf8(output.stdout).ok()?).map(str::to_owned)
}

/// `version.BuildInfo{RustVersion:"1.85.0", …, GitTag:"1.26.2", …}`
fn tag(text: &str) -> Option<&str> {
    text.split_once("GitTag:\"")?.1.split('"').next()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_binary_it_is_said_how_to_get_one() {
        for missing in [None, Some("".into())] {
            let error = binary(missing).unwrap_err().to_string();
            assert!(error.contains("set MTLSD_BENCH_ZTUNNEL to a ztunnel binary"), "{error}");
            assert!(error.contains("--features testing"), "{error}");
        }
        let error = binary(Some("/no/ztunnel".into())).unwrap_err().to_string();
        assert!(error.contains("/no/ztunnel, which is no file"), "{error}");
        assert_eq!(binary(Some("/proc/version".into())).unwrap(), Path::new("/proc/version"));
    }

    #[test]
    fn both_pods_take_tunnels_on_nodes_of_their_own() {
        let configuration = configuration(&["10.0.0.1".to_owned(), "10.0.0.2".to_owned()]);
        let all = |field: &str| {
            let workloads = configuration["workloads"].as_array().unwrap();
            workloads.iter().map(|workload| workload[field].clone()).collect::<Vec<_>>()
        };
        assert_eq!(all("name"), ["web", "db"]);
        assert_eq!(all("node"), ["n1", "n2"]);
        assert_eq!(all("protocol"), ["HBONE", "HBONE"]);
        assert_eq!(all("workloadIps"), [json!(["10.0.0.1"]), json!(["10.0.0.2"])]);
    }

    #[test]
    fn each_serves_its_pod_alone_and_asks_nobody() {
        let environment = environment(PODS[1], Path::new("/x/ztunnel.yaml"));
        let line = line(&environment, &words(Path::new("/opt/ztunnel")));
        for part in [
            "PROXY_MODE=dedicated PROXY_WORKLOAD_INFO=default/db/db NODE_NAME=n2",
            "LOCAL_XDS_PATH=/x/ztunnel.yaml XDS_ADDRESS= FAKE_CA=true ZTUNNEL_WORKER_THREADS=2",
            " setpriv --regid 1337 --clear-groups /opt/ztunnel proxy ztunnel",
        ] {
            assert!(line.contains(part), "{part} is not in {line}");
        }
    }

    #[test]
    fn the_version_is_the_tag() {
        assert_eq!(tag("version.BuildInfo{RustVersion:\"1.85.0\", GitTag:\"1.26.2\", x}"), Some("1.26.2"));
        assert_eq!(tag("ztunnel"), None);
    }
}
