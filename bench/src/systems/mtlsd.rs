//! mtlsd itself: a daemon on each node, one CA.

use anyhow::{Result, bail};
use mtls_tests::Daemon;
use mtls_tests::lab::NODE;

use super::{Between, Kind, World};

const WEB: &str = "web";
const DB: &str = "db";
/// The directory of the site, and what one node serves itself.
const CONFIGURATION: &str = r#"
workloads: [ { name: OWN, select: { netns: $OWN.netns }, addresses: ["$OWN.v4", "$OWN.v6"] } ]
directory: [ { name: OTHER, addresses: ["$OTHER.v4", "$OTHER.v6"], spiffe_ids: ["spiffe://example.org/OTHER"] } ]
policy: [ { name: everyone-here, action: allow, from: { trust_domains: [example.org] } } ]
access_log: off
limits: { connections: 200000, connections_per_workload: 200000 }
"#;

pub fn start(world: &World, kind: Kind) -> Result<Between> {
    let yaml = |own: &str, other: &str| {
        let yaml = CONFIGURATION.replace("OWN", own).replace("OTHER", other);
        format!("{yaml}datapath: {}\n", kind.name())
    };
    let mut here = world.lab.prepare(NODE, &yaml(WEB, DB));
    let mut there = world.lab.prepare("n2", &yaml(DB, WEB));
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
