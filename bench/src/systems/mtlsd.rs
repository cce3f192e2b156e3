//! mtlsd itself: a daemon on each node, one CA.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use mtls_tests::Daemon;
use mtls_tests::lab::NODE;

use super::{Between, Kind, Size, World};

const WEB: &str = "web";
const DB: &str = "db";
/// What one node serves itself, and where the other's workload is.
const CONFIGURATION: &str = r#"
directory: [ { name: OTHER, addresses: ["$OTHER.v4", "$OTHER.v6"], spiffe_ids: ["spiffe://example.org/OTHER"] } ]
access_log: off
limits: { connections: 200000, connections_per_workload: 200000 }
workloads:
  - { name: OWN, select: { netns: $OWN.netns }, addresses: ["$OWN.v4", "$OWN.v6"] }
"#;
/// The rule that matches.
const LAST_RULE: &str =
    "  - { name: everyone-here, action: allow, from: { trust_domains: [example.org] } }\n";

/// As the configuration has it.
fn datapath(kind: Kind) -> &'static str {
    if kind == Kind::Base { Kind::RelayUserspace.name() } else { kind.name() }
}

/// The configuration of one node.
fn yaml(world: &World, own: &str, other: &str, kind: Kind, size: Size) -> Result<String> {
    let mut yaml = CONFIGURATION.replace("OWN", own).replace("OTHER", other);
    if own == WEB {
        for number in 1..size.workloads {
            // A real cgroup, without a process.
            let cgroup = world.lab.node(NODE).cgroup_root.join(format!("more-{number}"));
            fs::create_dir_all(&cgroup).with_context(|| cgroup.display().to_string())?;
            yaml.push_str(&format!(
                "  - {{ name: more-{number}, select: {{ cgroup: {} }} }}\n",
                cgroup.display()
            ));
        }
    }
    yaml.push_str("policy:\n");
    for number in 1..size.rules {
        yaml.push_str(&format!(
            "  - {{ name: more-{number}, action: allow, from: {{ spiffe_ids: [\"spiffe://example.org/more-{number}\"] }} }}\n"
        ));
    }
    Ok(format!("{yaml}{LAST_RULE}datapath: {}\n", datapath(kind)))
}

/// Starts both daemons.
///
/// # Errors
/// When this kernel has nothing for this datapath.
pub fn start(world: &World, kind: Kind, size: Size) -> Result<Between> {
    let mut here = world.lab.prepare(NODE, &yaml(world, WEB, DB, kind, size)?);
    let mut there = world.lab.prepare("n2", &yaml(world, DB, WEB, kind, size)?);
    if kind == Kind::Base {
        let base = std::env::var_os("MTLSD_BENCH_BASE").map(PathBuf::from).filter(|path| path.is_file());
        let base = base.context(
            "MTLSD_BENCH_BASE names no mtlsd to compare with; `cargo xtask bench --against REVISION` builds one",
        )?;
        here.use_binary(&base);
        there.use_binary(&base);
    }
    here.ca_init();
    there.share_ca(&here);
    here.start();
    there.start();
    if kind == Kind::RelayKtls && here.best_relay() != kind.name() {
        bail!("this kernel has no kTLS that can be used; `mtlsd status` says why");
    }
    if kind == Kind::Auto && here.auto_relay() != Kind::RelayKtls.name() {
        bail!(
            "on this kernel it is the same as relay-userspace: only one that can change keys (6.14) takes over"
        );
    }
    let commands = [&here, &there].map(|daemon| format!("mtlsd run --config {}", daemon.config().display()));
    Ok(Between {
        daemons: vec![here, there],
        title: format!("mtlsd, {kind}"),
        setting:
            "a daemon on each node, workers as it comes; X25519MLKEM768, its first suite; access log off"
                .into(),
        commands: commands.into(),
        ..Between::default()
    })
}

/// Checks that the last connection went the way that is to be measured.
///
/// # Errors
/// Which way it went, if it did not.
pub fn serves(daemon: &Daemon, kind: Kind) -> Result<()> {
    let last = daemon.ask(&["connections", "--limit", "1"]);
    let datapath = last.pointer("/0/datapath").and_then(serde_json::Value::as_str).unwrap_or_default();
    let expected = if kind == Kind::RelayKtls { kind.name() } else { Kind::RelayUserspace.name() };
    if datapath != expected {
        bail!("the connection was {datapath}, not {expected}: {last}");
    }
    Ok(())
}
