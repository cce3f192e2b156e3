//! One flow, as the file and the admin API have it. What is read is checked: a value of these types can be judged.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::moment::Moment;
use crate::identity::attributes::{MAX_ATTRIBUTES, MAX_VALUE};
use crate::identity::{CertificateAttributes, PeerName};
use crate::observe::connection::{Direction, MAX_PEER_TEXT};
use crate::observe::{Datapath, Reason};

/// Longest name of a workload or a rule that is kept, in bytes.
pub(super) const MAX_NAME: usize = 1024;

/// What a connection was, as far as its peer showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Channel {
    /// Mutual TLS: the peer proved who it is.
    MutualTls,
    /// Plain bytes.
    Plaintext,
    /// The application's own TLS, carried unchanged.
    OwnTls,
    /// TLS with mtlsd in which the peer did not prove who it is.
    Failed,
    /// Refused at connect(), before there was a connection.
    Connect,
    /// Refused at the SYN, for the address that it came from.
    Syn,
}

impl Channel {
    /// What people read.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::MutualTls => "mutual TLS",
            Self::Plaintext => "plaintext",
            Self::OwnTls => "its own TLS",
            Self::Failed => "TLS, not proven",
            Self::Connect => "at connect()",
            Self::Syn => "at the SYN",
        }
    }

    /// Of a client whose bytes are carried unchanged.
    #[must_use]
    pub const fn of_unproven(datapath: Datapath) -> Self {
        match datapath {
            Datapath::Passthrough => Self::OwnTls,
            _ => Self::Plaintext,
        }
    }
}

impl fmt::Display for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Who the peer proved to be, and what else of it rules can ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowPeer {
    /// Its name.
    pub name: PeerName,
    /// What its certificate says besides.
    pub attributes: Arc<CertificateAttributes>,
}

impl FlowPeer {
    /// A peer that can be written and read again.
    ///
    /// # Errors
    /// Its name or an attribute is longer than what is kept.
    pub fn new(name: PeerName, attributes: CertificateAttributes) -> Result<Self, FlowError> {
        check(&attributes)?;
        match &name {
            PeerName::Dns(text) | PeerName::CommonName(text)
                if text.is_empty() || text.len() > MAX_PEER_TEXT =>
            {
                Err(FlowError::Name(text.chars().take(80).collect()))
            }
            _ => Ok(Self { name, attributes: Arc::new(attributes) }),
        }
    }
}

/// What was decided the last time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decision {
    /// It was let through.
    pub allow: bool,
    /// The rule or the default that decided; empty where policy was not asked.
    pub rule: Arc<str>,
    /// Why it was refused.
    pub reason: Option<Reason>,
}

/// Connections that are alike in everything that rules can ask.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "RawFlow", into = "RawFlow")]
pub struct Flow {
    /// Who opened them.
    pub direction: Direction,
    /// The local workload.
    pub workload: Arc<str>,
    /// The workload's port; outbound the destination's.
    pub port: u16,
    /// The peer's address; an IPv4 address inside IPv6 counts as IPv4.
    pub address: IpAddr,
    /// What they were.
    pub channel: Channel,
    /// Who the peer proved to be.
    pub peer: Option<FlowPeer>,
    /// What was decided the last time.
    pub decision: Decision,
    /// Connections that were let through, since `first_seen`.
    pub allowed: u64,
    /// Connections that were refused, since `first_seen`.
    pub refused: u64,
    /// The first one.
    pub first_seen: Moment,
    /// The last one.
    pub last_seen: Moment,
    /// The longest time between one and the next.
    pub longest_pause: Duration,
}

impl Flow {
    /// Connections, since `first_seen`.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.allowed.saturating_add(self.refused)
    }
}

/// Why a flow that was read cannot be one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlowError {
    /// A name that nobody can have.
    #[error("the peer's name {0:?} is none")]
    Name(String),
    /// A text that is longer than any that is written.
    #[error("its {0} is too long")]
    TooLong(&'static str),
    /// More than a certificate may have.
    #[error("it has more than {MAX_ATTRIBUTES} {0}")]
    TooMany(&'static str),
    /// Mutual TLS is with somebody, and everything else with nobody.
    #[error("a peer is proven by mutual TLS, and by nothing else")]
    Proof,
    /// The end before the beginning.
    #[error("it was seen last before it was seen first")]
    Times,
    /// A reason that this version does not know.
    #[error("the reason {0:?} is not known")]
    Reason(String),
}

/// As it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFlow {
    direction: Direction,
    workload: Arc<str>,
    port: u16,
    address: IpAddr,
    channel: Channel,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    peer: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    organizations: Vec<Box<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    organizational_units: Vec<Box<str>>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    extensions: Vec<(Box<str>, Box<str>)>,
    allow: bool,
    rule: Arc<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    allowed: u64,
    refused: u64,
    first_seen: Moment,
    last_seen: Moment,
    longest_pause_ms: u64,
}

impl From<Flow> for RawFlow {
    fn from(flow: Flow) -> Self {
        let attributes =
            flow.peer.as_ref().map_or(CertificateAttributes::NONE, |peer| &peer.attributes).clone();
        Self {
            direction: flow.direction,
            workload: flow.workload,
            port: flow.port,
            address: flow.address,
            channel: flow.channel,
            peer: flow.peer.map(|peer| peer.name.to_string()),
            organizations: attributes.organizations,
            organizational_units: attributes.organizational_units,
            extensions: attributes.extensions,
            allow: flow.decision.allow,
            rule: flow.decision.rule,
            reason: flow.decision.reason.map(|reason| reason.code().to_owned()),
            allowed: flow.allowed,
            refused: flow.refused,
            first_seen: flow.first_seen,
            last_seen: flow.last_seen,
            longest_pause_ms: u64::try_from(flow.longest_pause.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

impl TryFrom<RawFlow> for Flow {
    type Error = FlowError;

    fn try_from(raw: RawFlow) -> Result<Self, FlowError> {
        if raw.workload.len() > MAX_NAME || raw.rule.len() > MAX_NAME {
            return Err(FlowError::TooLong("workload or rule"));
        }
        if raw.first_seen > raw.last_seen {
            return Err(FlowError::Times);
        }
        let attributes = CertificateAttributes {
            organizations: raw.organizations,
            organizational_units: raw.organizational_units,
            extensions: raw.extensions,
        };
        let peer = match (raw.peer, raw.channel) {
            (Some(name), Channel::MutualTls) => Some(FlowPeer::new(peer_name(&name)?, attributes)?),
            (None, channel)
                if channel != Channel::MutualTls && attributes == *CertificateAttributes::NONE =>
            {
                None
            }
            _ => return Err(FlowError::Proof),
        };
        let reason = match raw.reason {
            Some(code) => Some(Reason::from_code(&code).ok_or(FlowError::Reason(code))?),
            None => None,
        };
        Ok(Self {
            direction: raw.direction,
            workload: raw.workload,
            port: raw.port,
            address: raw.address.to_canonical(),
            channel: raw.channel,
            peer,
            decision: Decision { allow: raw.allow, rule: raw.rule, reason },
            allowed: raw.allowed,
            refused: raw.refused,
            first_seen: raw.first_seen,
            last_seen: raw.last_seen,
            longest_pause: Duration::from_millis(raw.longest_pause_ms),
        })
    }
}

/// The bounds that `identity::attributes` keeps; a value is `hex:` or a hash where it would be longer.
fn check(attributes: &CertificateAttributes) -> Result<(), FlowError> {
    let longest = "hex:".len() + 2 * MAX_VALUE;
    let lists = [
        ("organizations", &attributes.organizations),
        ("organizational units", &attributes.organizational_units),
    ];
    for (what, list) in lists {
        if list.len() > MAX_ATTRIBUTES {
            return Err(FlowError::TooMany(what));
        }
        if list.iter().any(|text| text.len() > longest) {
            return Err(FlowError::TooLong(what));
        }
    }
    if attributes.extensions.len() > MAX_ATTRIBUTES {
        return Err(FlowError::TooMany("extensions"));
    }
    let long = |(oid, text): &(Box<str>, Box<str>)| oid.len() > MAX_PEER_TEXT || text.len() > longest;
    if attributes.extensions.iter().any(long) { Err(FlowError::TooLong("extensions")) } else { Ok(()) }
}

fn peer_name(text: &str) -> Result<PeerName, FlowError> {
    let name = match (text.strip_prefix("dns:"), text.strip_prefix("cn:")) {
        (Some(dns), _) => Some(PeerName::Dns(dns.to_owned())),
        (_, Some(name)) => Some(PeerName::CommonName(name.to_owned())),
        _ => text.parse().ok().map(PeerName::Spiffe),
    };
    name.ok_or_else(|| FlowError::Name(text.chars().take(80).collect()))
}
