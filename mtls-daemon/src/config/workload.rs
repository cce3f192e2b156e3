//! Workloads as they are configured: how they are found, who they are, and what their connections must be.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::identity::pkcs11::{TokenIdentity, TokenKeySettings};
use crate::identity::{SpiffeId, SpireSelector, Subject};

use super::direct::DirectChoice;
use super::kubernetes::PodSelector;
use super::types::{DatapathChoice, Exclusions};
use super::unit::UnitName;

/// A workload of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// Unique; `[a-z0-9]([-a-z0-9.]*[a-z0-9])?`, at most 63 bytes.
    pub name: String,
    /// How it is found.
    pub select: Selector,
    /// Who it is. In [`Config::trust_domain`](super::Config::trust_domain) unless the workload has its own [`Workload::identity`].
    pub spiffe_id: SpiffeId,
    /// DNS SANs of its certificate. Default: its name.
    pub dns_names: Vec<String>,
    /// Subject of its certificate. Default: the trust domain as O. Empty where the certificate comes from files.
    pub subject: Subject,
    /// What else it is known by; for `modes` and rules.
    pub labels: BTreeMap<String, String>,
    /// What an inbound connection must be. Default: what `modes` says, else strict.
    pub mode: Mode,
    /// Exceptions to `mode`, by own port. Read through [`Workload::mode_of_port`].
    pub ports: BTreeMap<u16, Mode>,
    /// Own ports of a workload that shares its namespace; empty there: no inbound capture.
    pub listen_ports: BTreeSet<u16>,
    /// Own ports that [`Config::probers`](super::Config::probers) reach without TLS, past the daemon.
    pub probe_ports: BTreeSet<u16>,
    /// What is never captured, in addition to [`Config::exclude`](super::Config::exclude).
    pub exclude: Exclusions,
    /// What happens to an inbound connection that no rule matches.
    pub policy_default: PolicyDefault,
    /// What happens to an outbound connection that no rule of [`Config::outbound_policy`](super::Config::outbound_policy) matches.
    pub outbound_default: OutboundDefault,
    /// What happens to a connection to a destination outside the directory.
    pub unknown_destinations: UnknownDestinations,
    /// When the application's connect() completes.
    pub connect_hold: ConnectHold,
    /// How its bytes travel. Default [`Config::datapath`](super::Config::datapath).
    pub datapath: DatapathChoice,
    /// Whether its connections are direct. Default: the field `default` of [`Direct`](super::Direct).
    pub direct: DirectChoice,
    /// Exceptions to `direct` for inbound connections, by own port. Read through [`Workload::direct_of_port`].
    pub direct_ports: BTreeMap<u16, DirectChoice>,
    /// Where its identity comes from. Default: [`Config::issuers`](super::Config::issuers)' default, else the embedded CA.
    pub identity: WorkloadIdentity,
    /// Its own addresses; each becomes a directory entry for every port.
    pub addresses: Vec<IpAddr>,
    /// Live connections. Default [`Limits::connections_per_workload`](super::Limits::connections_per_workload).
    pub max_connections: u32,
    /// What becomes of live connections that would not be allowed any more.
    pub lease: LeaseSettings,
}

impl Workload {
    /// Nothing of it is looked after: neither the workload nor one of its ports.
    #[must_use]
    pub fn is_left_alone(&self) -> bool {
        self.mode == Mode::Disabled && self.ports.values().all(|mode| *mode == Mode::Disabled)
    }

    /// What an inbound connection to this port must be.
    #[must_use]
    pub fn mode_of_port(&self, port: u16) -> Mode {
        self.ports.get(&port).copied().unwrap_or(self.mode)
    }

    /// Whether inbound connections to this port are direct.
    #[must_use]
    pub fn direct_of_port(&self, port: u16) -> DirectChoice {
        self.direct_ports.get(&port).copied().unwrap_or(self.direct)
    }

    /// Whether any connection of it may be direct.
    #[must_use]
    pub fn may_be_direct(&self) -> bool {
        let mut choices = std::iter::once(&self.direct).chain(self.direct_ports.values());
        choices.any(|choice| *choice != DirectChoice::Never)
    }

    /// Whether an inbound connection to this port may be that no rule matches.
    #[must_use]
    pub fn allows_by_default(&self, port: u16) -> bool {
        match self.policy_default {
            PolicyDefault::Mode => self.mode_of_port(port) != Mode::Strict,
            PolicyDefault::Allow => true,
            PolicyDefault::Deny => false,
        }
    }

    /// How the log calls what [`Self::allows_by_default`] goes by.
    #[must_use]
    pub fn default_name(&self, port: u16) -> Cow<'static, str> {
        match self.policy_default {
            PolicyDefault::Mode => format!("default of {}", self.mode_of_port(port)).into(),
            PolicyDefault::Allow => "policy_default: allow".into(),
            PolicyDefault::Deny => "policy_default: deny".into(),
        }
    }

    /// Whether an outbound connection may be that no rule matches.
    #[must_use]
    pub fn allows_outbound_by_default(&self) -> bool {
        self.outbound_default == OutboundDefault::Allow
    }

    /// How the log calls what [`Self::allows_outbound_by_default`] goes by.
    #[must_use]
    pub fn outbound_default_name(&self) -> &'static str {
        match self.outbound_default {
            OutboundDefault::Allow => "outbound_default: allow",
            OutboundDefault::Deny => "outbound_default: deny",
        }
    }
}

/// How a workload is found; at least one part is set, and every part that is set must match.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Selector {
    /// Network namespace file, absolute (`web` in the file is `/run/netns/web` here).
    pub netns: Option<PathBuf>,
    /// cgroup as written: below the cgroup v2 mount, or an absolute path under that mount.
    pub cgroup: Option<PathBuf>,
    /// systemd unit, whose cgroup is meant; never together with `cgroup`.
    pub unit: Option<UnitName>,
    /// User ID of its processes in one network namespace: [`Selector::netns`], or the daemon's own. Never 0.
    pub uid: Option<u32>,
    /// A pod of a cluster; never together with another part.
    pub pod: Option<PodSelector>,
}

impl Selector {
    /// Whether it is told apart from others of its namespace by its cgroup.
    #[must_use]
    pub fn is_by_cgroup(&self) -> bool {
        self.cgroup.is_some() || self.unit.is_some() || self.pod.as_ref().is_some_and(|pod| pod.host_network)
    }

    /// This pod.
    #[must_use]
    pub fn of_pod(pod: PodSelector) -> Self {
        Self { netns: None, cgroup: None, unit: None, uid: None, pod: Some(pod) }
    }

    /// Whether others may be in its namespace.
    #[must_use]
    pub fn shares_its_namespace(&self) -> bool {
        self.is_by_cgroup() || self.uid.is_some()
    }
}

/// What an inbound connection must be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Mutually authenticated TLS, or it is refused (default).
    #[default]
    Strict,
    /// Mutually authenticated TLS, or plaintext that is passed on.
    Permissive,
    /// Not captured.
    Disabled,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Strict => "strict",
            Self::Permissive => "permissive",
            Self::Disabled => "disabled",
        })
    }
}

/// What happens to an inbound connection that no rule matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum PolicyDefault {
    /// A strict port refuses it, a permissive one takes it (default).
    #[default]
    Mode,
    /// It may be; on a strict port that is every verified peer.
    Allow,
    /// It may not be.
    Deny,
}

/// What happens to an outbound connection that no rule matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OutboundDefault {
    /// It may be (default).
    #[default]
    Allow,
    /// It may not be.
    Deny,
}

/// What happens to a connection to a destination outside the directory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownDestinations {
    /// It goes on untouched (default).
    #[default]
    Passthrough,
    /// connect() fails.
    Deny,
}

/// What becomes of live connections that would not be allowed any more, by why they would not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseSettings {
    /// A certificate of either end has run out, and none of the same identity is known that is newer.
    pub expired: AtEnd,
    /// A certificate of either end was revoked, or the root above the peer's is trusted no longer.
    pub revoked: AtEnd,
    /// A rule, a default or a mode is another one.
    pub policy: AtEnd,
    /// How long they have with [`AtEnd::Drain`], 1 s to 1 d.
    pub drain: Duration,
}

impl LeaseSettings {
    /// What holds where nothing is configured.
    pub const DEFAULT: Self = Self {
        expired: AtEnd::Keep,
        revoked: AtEnd::Cut,
        policy: AtEnd::Cut,
        drain: Duration::from_secs(30),
    };
}

/// What becomes of a live connection that would not be allowed any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum AtEnd {
    /// It is reset at once, on both sides.
    Cut,
    /// It is reset after [`LeaseSettings::drain`], unless it has ended by then or is allowed again.
    Drain,
    /// It goes on, with an alarm.
    Keep,
}

/// When the application's connect() completes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ConnectHold {
    /// When the peer has said that it is ready: it accepts us and its application is there (default). A server
    /// that is not mtlsd cannot say so; then as [`ConnectHold::Handshake`].
    #[default]
    Ready,
    /// When our handshake with the peer is done.
    Handshake,
    /// At once.
    Off,
}

/// Where a workload's identity comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkloadIdentity {
    /// The embedded CA.
    EmbeddedCa,
    /// Files that others write.
    Files(IdentityFiles),
    /// One of [`Config::issuers`](super::Config::issuers), by name; not of [`IssuerKind::DelegatedIdentity`](super::IssuerKind::DelegatedIdentity).
    Issuer(String),
    /// An issuer of [`IssuerKind::DelegatedIdentity`](super::IssuerKind::DelegatedIdentity).
    Delegated {
        /// Its name.
        issuer: String,
        /// What SPIRE would attest the workload as; at least one.
        selectors: BTreeSet<SpireSelector>,
    },
    /// A certificate in a file that others write, and its key in a token.
    Token(TokenIdentity),
    /// One of [`Config::issuers`](super::Config::issuers), for a key in a token.
    IssuerWithToken {
        /// The issuer's name.
        issuer: String,
        /// The key, which is made if it is absent.
        key: TokenKeySettings,
    },
}

/// A certificate, its key and its roots, each an absolute path to a PEM file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    /// Leaf first, then intermediates.
    pub certificate: PathBuf,
    /// The leaf's private key.
    pub key: PathBuf,
    /// Roots of its trust domain; `None`: only those under [`Trust::bundles`](super::Trust::bundles).
    pub bundle: Option<PathBuf>,
}
