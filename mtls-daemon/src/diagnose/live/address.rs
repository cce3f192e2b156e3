//! From host and port to addresses: the directory's names first, then the resolver.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::super::parties::{self, UnknownParty};
use super::Live;
use super::report::{Evidence, Stopped, Walk};
use super::request::LiveError;
use super::step::Question;
use crate::directory::Destination;
use crate::snapshot::{Snapshot, WorkloadState};

/// Most addresses of a name that are looked at.
pub const MAX_ADDRESSES: usize = 8;
/// Longest name that the resolver is asked for (RFC 1035, section 2.3.4).
const MAX_NAME: usize = 253;

/// What was asked for.
pub(super) enum Host<'a> {
    /// An address.
    Address(SocketAddr, Option<Arc<WorkloadState>>),
    /// The directory knows the name.
    Directory(&'a Destination, u16),
    /// A workload of this node that says no address.
    Nowhere(Arc<WorkloadState>),
    /// A name for the resolver.
    Name(String, u16),
}

impl<'a> Host<'a> {
    /// # Errors
    /// It is no host and port.
    pub fn parse(snapshot: &'a Snapshot, text: &str) -> Result<Self, LiveError> {
        let bad = || LiveError::NoTarget(text.chars().take(MAX_NAME).collect());
        match parties::to(snapshot, text) {
            Ok(to) => match (to.named, to.address, to.workload) {
                (Some(destination), ..) => Ok(Self::Directory(destination, to.port)),
                (None, Some(address), workload) => {
                    Ok(Self::Address(SocketAddr::new(address, to.port), workload))
                }
                (None, None, Some(workload)) => Ok(Self::Nowhere(workload)),
                (None, None, None) => Err(bad()),
            },
            Err(UnknownParty::To(_)) => {
                let (name, port) = text.rsplit_once(':').ok_or_else(bad)?;
                let port = port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad)?;
                let plausible = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
                let fits = !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(plausible);
                if fits { Ok(Self::Name(name.to_owned(), port)) } else { Err(bad()) }
            }
            Err(_) => Err(bad()),
        }
    }
}

impl Live<'_> {
    /// The addresses to be tried, at least one.
    pub(super) async fn addresses(
        &self,
        walk: &mut Walk,
        host: &Host<'_>,
    ) -> Result<Vec<SocketAddr>, Stopped> {
        let step = Question::Address;
        match host {
            Host::Address(address, _) => {
                walk.not_asked(step, "it was given as an address");
                Ok(vec![*address])
            }
            Host::Nowhere(workload) => {
                let detail = format!(
                    "workload {} has no `addresses`, so that the directory does not know where it is",
                    workload.settings.name
                );
                let mend = "Add `addresses` to the workload, or ask by address.";
                Err(walk.failed(step, detail, Evidence::default(), None, mend))
            }
            Host::Directory(destination, port) => {
                let networks = &destination.addresses;
                let single =
                    networks.iter().filter(|network| network.prefix_len() == network.max_prefix_len());
                let found: Vec<_> = single.map(|one| SocketAddr::new(one.addr(), *port)).collect();
                let name = &destination.name;
                if found.is_empty() {
                    let evidence = networks.iter().take(MAX_ADDRESSES).map(ToString::to_string).collect();
                    let detail = format!("the directory's entry {name} has only networks, no single address");
                    let mend = "Ask by one of the addresses in the network.";
                    return Err(walk.failed(step, detail, Evidence::of(evidence), None, mend));
                }
                let from = format!("the directory's entry {name}");
                Ok(listed(walk, &from, found, Evidence::default()))
            }
            Host::Name(name, port) => self.resolved(walk, name, *port).await,
        }
    }

    async fn resolved(&self, walk: &mut Walk, name: &str, port: u16) -> Result<Vec<SocketAddr>, Stopped> {
        let (step, started) = (Question::Address, Instant::now());
        // In a thread of its own.
        let answer = tokio::time::timeout(self.limit, tokio::net::lookup_host((name, port))).await;
        let evidence = Evidence::after(started.elapsed());
        let mend = "Check the name, and the resolver of this node (/etc/resolv.conf, /etc/hosts); or ask by address.";
        let why = match answer {
            Ok(Ok(found)) => {
                let found: Vec<_> = found.collect();
                if !found.is_empty() {
                    return Ok(listed(walk, "this node's resolver", found, evidence));
                }
                "it knows no address".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {:?}", self.limit),
        };
        let detail =
            format!("the directory does not have {name}, and this node's resolver does not help: {why}");
        Err(walk.failed(step, detail, evidence, None, mend))
    }
}

fn listed(walk: &mut Walk, by: &str, mut found: Vec<SocketAddr>, mut evidence: Evidence) -> Vec<SocketAddr> {
    let left_out = found.len().saturating_sub(MAX_ADDRESSES);
    found.truncate(MAX_ADDRESSES);
    let shown: Vec<_> = found.iter().map(|one| one.ip().to_string()).collect();
    if left_out > 0 {
        evidence.lines.push(format!("{left_out} more are not looked at"));
    }
    walk.passed(Question::Address, format!("{by} says {}", shown.join(", ")), evidence);
    found
}
