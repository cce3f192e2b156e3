//! What `direct` needs besides two daemons: addresses for their sessions, a session, and proof that nothing was relayed.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Error, Result, bail};
use mtls_tests::direct::Address;
use mtls_tests::lab::within;
use mtls_tests::{Daemon, slow};

use super::{HTTP, Kind, World, server};

/// Where a daemon takes sessions; both daemons live in the machine's own namespace.
const PORT: u16 = 15080;
/// How long the session may take, seconds.
const SOON: u64 = 20;

/// An address of a node, as long as this lives.
pub struct NodeAddress(Address);

impl NodeAddress {
    /// Adds one to this machine.
    ///
    /// # Errors
    /// When `ip` cannot.
    pub fn add() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let address = format!("198.18.8.{}", NEXT.fetch_add(1, Ordering::Relaxed));
        Address::add(address).map(Self).map_err(Error::msg)
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{PORT}", self.0.0)
    }
}

/// Sends one request, which a relay carries, and waits for the session that it has made.
///
/// # Errors
/// When nobody answers or there is no session in time.
pub fn wait_for_session(world: &World, client: &Daemon) -> Result<()> {
    let url = format!("http://{}{}", world.db().at(HTTP), server::path(64)?);
    let answer = world.web().run(&["curl", "-sS", "--max-time", "20", "-o", "/dev/null", &url]);
    if answer.code != Some(0) {
        bail!("nginx cannot be asked by the relay that comes first: {answer}");
    }
    let made = || client.printed().contains("a session for direct connections is there").then_some(());
    within(slow::limit(SOON), made)
        .with_context(|| format!("no session for direct connections: {}", client.printed()))
}

/// Connections that were established, and those of them that were direct, of all these daemons.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Opened {
    all: f64,
    direct: f64,
}

impl Opened {
    /// As the daemons' metrics say.
    #[must_use]
    pub fn by(daemons: &[Daemon]) -> Self {
        let of = |labels: &[(&str, &str)]| {
            daemons.iter().map(|daemon| daemon.metric("mtlsd_connections_opened_total", labels)).sum()
        };
        Self { all: of(&[]), direct: of(&[("datapath", Kind::Direct.name())]) }
    }

    /// Checks that every connection since `before` was direct.
    ///
    /// # Errors
    /// How many were not, and if there was none at all.
    pub fn check_since(self, before: Self) -> Result<()> {
        let (all, direct) = (self.all - before.all, self.direct - before.direct);
        if all == 0.0 || direct < all {
            bail!("{direct} of {all} connections were direct: it is not `direct` that was measured");
        }
        Ok(())
    }
}

/// Why the latest connections of these daemons that failed did, each reason once.
#[must_use]
pub fn failures(daemons: &[Daemon]) -> String {
    let records = daemons.iter().flat_map(|daemon| {
        daemon.ask(&["connections", "--limit", "1000"]).as_array().cloned().unwrap_or_default()
    });
    let said = |record: &serde_json::Value, at: &str| {
        record.pointer(at).and_then(|text| Some(text.as_str()?.to_owned()))
    };
    let whys: BTreeSet<String> = records
        .filter_map(|record| {
            let (workload, code) = (said(&record, "/workload")?, said(&record, "/reason/code")?);
            Some(format!("{workload}: {code}: {}", said(&record, "/reason/detail").unwrap_or_default()))
        })
        .collect();
    if whys.is_empty() {
        "no connection failed".into()
    } else {
        whys.into_iter().collect::<Vec<_>>().join("; ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_relayed_connection_or_none_at_all_spoils_the_measurement() {
        let before = Opened { all: 3.0, direct: 1.0 };
        let after = |all, direct| Opened { all, direct }.check_since(before);
        after(5.0, 3.0).unwrap();
        assert!(after(5.0, 2.0).unwrap_err().to_string().contains("1 of 2 connections"));
        assert!(after(3.0, 1.0).unwrap_err().to_string().contains("0 of 0"));
    }

    #[test]
    fn an_address_names_the_port_of_sessions() {
        assert_eq!(NodeAddress(Address("198.18.8.0".into())).to_string(), "198.18.8.0:15080");
    }
}
