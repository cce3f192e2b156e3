//! Rules that nearly decided otherwise.

use crate::config::{Action, Rule};
use crate::identity::{PeerName, SpiffeId};
use crate::observe::connection::{ConnectionRecord, Direction, Event};
use crate::observe::explain::near::{Closeness, NearMiss, NearMisses, Says};
use crate::observe::reason::Reason;
use crate::policy::Peer;
use crate::snapshot::Snapshot;

use super::judge::{Match, bounded, judge};

/// Most rules that one answer names.
pub const MAX_NAMED: usize = 5;

/// The rules that nearly decided otherwise on a connection, by the rules of now. Computed when somebody asks, so that a
/// refusal costs nothing; the record does not hold the attributes of the peer's certificate, so that rules that ask for them
/// are told as unknown. `None`: policy did not decide, or the rules are another node's. `allowed_too`: also for a
/// connection that policy let in.
#[must_use]
pub fn near_misses(snapshot: &Snapshot, record: &ConnectionRecord, allowed_too: bool) -> Option<NearMisses> {
    let says = match record.reason.as_ref().and_then(|reason| reason.reason()) {
        // The other node said so: its rules are not here.
        _ if record.remote_reason.is_some() => return None,
        Some(Reason::PolicyDefault) => Says::Allow,
        Some(Reason::PolicyDenied) => Says::Deny,
        _ if allowed_too && record.policy.is_some() && record.event != Event::Refused => Says::Deny,
        _ => return None,
    };
    let subject = Subject::of(snapshot, record)?;
    Some(find(
        subject.rules,
        &subject.peer(),
        &subject.workload,
        subject.port,
        says,
        record.policy.as_deref(),
    ))
}

/// The rules that came near. `decided`: the one that decided, which is no news.
pub(super) fn find(
    rules: &[Rule],
    peer: &Peer<'_>,
    workload: &str,
    port: u16,
    says: Says,
    decided: Option<&str>,
) -> NearMisses {
    let action = match says {
        Says::Allow => Action::Allow,
        Says::Deny => Action::Deny,
    };
    let seen = bounded(rules);
    let others = seen
        .iter()
        .filter(|rule| rule.action == action && !rule.dry_run && Some(rule.name.as_str()) != decided);
    let named = others.filter_map(|rule| {
        let (closeness, why) = match judge(rule, peer, workload, port) {
            Match::Yes => (Closeness::Matches, String::new()),
            Match::Perhaps(what) => (Closeness::Perhaps, what),
            Match::No { misses, all: true } => match misses.as_slice() {
                [only] => (Closeness::Nearly, only.to_string()),
                _ => return None,
            },
            Match::No { all: false, .. } => return None,
        };
        Some(NearMiss { rule: rule.name.clone(), closeness, why })
    });
    NearMisses {
        says,
        rules: named.take(MAX_NAMED).collect(),
        looked_at: seen.len(),
        of: rules.len(),
        changed_since: None,
    }
}

/// Whom the rules were asked about.
struct Subject<'a> {
    rules: &'a [Rule],
    name: Option<PeerName>,
    address: Option<std::net::IpAddr>,
    workload: String,
    port: u16,
}

impl<'a> Subject<'a> {
    fn of(snapshot: &'a Snapshot, record: &ConnectionRecord) -> Option<Self> {
        let config = &snapshot.config;
        let port = record.destination.port();
        let peer = record.peer_identity.as_deref().and_then(peer_name);
        if record.direction == Direction::Inbound {
            return Some(Self {
                rules: &config.policy,
                name: peer.filter(|_| record.peer_proven),
                address: Some(record.source.ip()),
                workload: record.workload.to_string(),
                port,
            });
        }
        let decider = record.policy.as_deref().unwrap_or_default();
        let outbound = decider.starts_with("outbound_default")
            || config.outbound_policy.iter().any(|rule| rule.name == decider);
        if outbound {
            return Some(Self {
                rules: &config.outbound_policy,
                name: Some(peer.or_else(|| expected(snapshot, record))?),
                address: Some(record.destination.ip()),
                workload: record.workload.to_string(),
                port,
            });
        }
        // Denied at connect() by what the server of this node will say.
        let destination = snapshot.directory.lookup(record.destination.ip(), port)?;
        let own = record.local_identity.as_deref()?.parse::<SpiffeId>().ok()?;
        Some(Self {
            rules: &config.policy,
            name: Some(PeerName::Spiffe(own)),
            address: None,
            workload: destination.local_workload.clone()?,
            port,
        })
    }

    fn peer(&self) -> Peer<'_> {
        match &self.name {
            Some(name) => Peer::expected(name, self.address),
            None => Peer { address: self.address, ..Peer::unproven(std::net::Ipv4Addr::UNSPECIFIED.into()) },
        }
    }
}

/// Whom the directory names, where it is one.
fn expected(snapshot: &Snapshot, record: &ConnectionRecord) -> Option<PeerName> {
    let to = record.destination;
    match snapshot.directory.lookup(to.ip(), to.port())?.expected.as_slice() {
        [one] => Some(PeerName::Spiffe(one.clone())),
        _ => None,
    }
}

/// The name as a record shows it.
fn peer_name(shown: &str) -> Option<PeerName> {
    if let Some(name) = shown.strip_prefix("dns:") {
        return Some(PeerName::Dns(name.to_owned()));
    }
    if let Some(name) = shown.strip_prefix("cn:") {
        return Some(PeerName::CommonName(name.to_owned()));
    }
    shown.parse().ok().map(PeerName::Spiffe)
}
