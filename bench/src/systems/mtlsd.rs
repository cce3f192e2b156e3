//! mtlsd itself: a daemon on each node, one CA.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use mtls_tests::Daemon;
use mtls_tests::lab::NODE;

use super::direct::{self, NodeAddress};
use super::{Between, Kind, Size, World};

const WEB: &str = "web";
const DB: &str = "db";
/// What one node serves itself, and where the other's workload is.
const CONFIGURATION: &str = r#"
directory: [ { name: OTHER, addresses: ["$OTHER.v4", "$OTHER.v6"], spiffe_ids: ["spiffe://example.org/OTHER"]THERE } ]
access_log: off
limits: { connections: 200000, connections_per_workload: 200000 }
workloads:
  - { name: OWN, select: { netns: $OWN.netns }, addresses: ["$OWN.v4", "$OWN.v6"]DIRECT }
"#;
/// The rule that matches.
const LAST_RULE: &str =
    "  - { name: everyone-here, action: allow, from: { trust_domains: [example.org] } }\n";

/// As the configuration has it. Of `direct` it carries the first connection only.
fn datapath(kind: Kind) -> &'static str {
    if matches!(kind, Kind::Base | Kind::Direct) { Kind::RelayUserspace.name() } else { kind.name() }
}

/// The configuration of one node. `nodes`: this node's and the other's, where connections are to be direct.
fn yaml(
    world: &World,
    (own, other): (&str, &str),
    nodes: Option<[&NodeAddress; 2]>,
    kind: Kind,
    size: Size,
) -> Result<String> {
    let (there, direct, listen) = match nodes {
        Some([here, there]) => {
            (format!(", node: \"{there}\""), ", direct: auto", format!("direct: {{ listen: \"{here}\" }}\n"))
        }
        None => Default::default(),
    };
    let mut yaml = CONFIGURATION.replace("THERE", &there).replace("DIRECT", direct);
    yaml = yaml.replace("OWN", own).replace("OTHER", other);
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
    Ok(format!("{yaml}{LAST_RULE}{listen}datapath: {}\n", datapath(kind)))
}

/// Starts both daemons.
///
/// # Errors
/// When this kernel has nothing for this datapath.
pub fn start(world: &World, kind: Kind, size: Size) -> Result<Between> {
    let nodes = if kind == Kind::Direct { Some([NodeAddress::add()?, NodeAddress::add()?]) } else { None };
    let known = nodes.as_ref();
    let of_here = yaml(world, (WEB, DB), known.map(|[here, there]| [here, there]), kind, size)?;
    let of_there = yaml(world, (DB, WEB), known.map(|[here, there]| [there, here]), kind, size)?;
    let mut here = world.lab.prepare(NODE, &of_here);
    let mut there = world.lab.prepare("n2", &of_there);
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
    if kind == Kind::Direct {
        direct::wait_for_session(world, &here)?;
    }
    let commands = [&here, &there].map(|daemon| format!("mtlsd run --config {}", daemon.config().display()));
    Ok(Between {
        daemons: vec![here, there],
        _addresses: nodes.map(Vec::from).unwrap_or_default(),
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
    let expected = match kind {
        Kind::RelayKtls | Kind::Direct => kind.name(),
        _ => Kind::RelayUserspace.name(),
    };
    if datapath != expected {
        bail!("the connection was {datapath}, not {expected}: {last}");
    }
    Ok(())
}
