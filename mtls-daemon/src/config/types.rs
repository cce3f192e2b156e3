//! The validated configuration: what the rest of the daemon reads.
//!
//! A value of these types holds what its doc says; nothing downstream checks again.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

use crate::datapath::ktls::Suite;
use crate::identity::alarm::Thresholds;
use crate::identity::issuer::cert_manager::CertManagerSettings;
use crate::identity::issuer::exec::Program;
use crate::identity::issuer::vault::VaultSettings;
use crate::identity::pkcs11::{TokenKeySettings, TokenSettings};
use crate::identity::{SpiffeId, TrustDomain};

use super::direct::{Direct, NodeAddress};
use super::error::Problem;
use super::external::ExternalPolicy;
use super::inside::Inside;
use super::kubernetes::{Kubernetes, ResolvedService, Verdict};
use super::rule::Rule;
use super::unit::UnitName;
pub use super::workload::*;

/// One node's whole configuration. Two equal values mean that a reload has nothing to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// The trust domain of this node's own identities.
    pub trust_domain: TrustDomain,
    /// Directories that the daemon uses.
    pub paths: Paths,
    /// The cgroup v2 mount; `None`: find it in `/proc/mounts`.
    pub cgroup_root: Option<PathBuf>,
    /// The embedded CA, which issues for every workload whose [`Workload::identity`] is [`WorkloadIdentity::EmbeddedCa`].
    pub embedded_ca: EmbeddedCa,
    /// Other issuers; names are unique.
    pub issuers: Vec<Issuer>,
    /// When an identity or a root that nears its end is an alarm.
    pub alarms: Thresholds,
    /// Tokens that hold keys; names are unique.
    pub pkcs11: Vec<Pkcs11Token>,
    /// Whom the node believes besides its own CA.
    pub trust: Trust,
    /// What is never captured, for every workload.
    pub exclude: Exclusions,
    /// Where every process must belong to a workload.
    pub unclassified: Unclassified,
    /// Whose processes reach the [`Workload::probe_ports`] of this node's workloads; none twice.
    pub probers: Vec<Prober>,
    /// TLS parameters.
    pub tls: Tls,
    /// How bytes travel, for workloads that do not say so themselves.
    pub datapath: DatapathChoice,
    /// The datapath `direct`.
    pub direct: Direct,
    /// Bounds on memory and work.
    pub limits: Limits,
    /// Bounds on time.
    pub timeouts: Timeouts,
    /// Where the access log goes.
    pub access_log: AccessLog,
    /// Address of metrics, health and readiness; `None`: off.
    pub metrics: Option<SocketAddr>,
    /// The daemon's own log.
    pub log: Log,
    /// The flight recorder.
    pub recorder: Recorder,
    /// The memory of what connections there were.
    pub flows: Flows,
    /// The cluster that the node is part of; `None`: none.
    pub kubernetes: Option<Kubernetes>,
    /// Workloads of this node, in the order of the files, and then its pods; names are unique.
    pub workloads: Vec<Workload>,
    /// What belongs to no workload and is left alone where [`Config::unclassified`] holds.
    pub bystanders: Vec<Selector>,
    /// Services of the cluster of which an endpoint is chosen at connect().
    pub services: Vec<ResolvedService>,
    /// The networks of the cluster.
    pub inside: Inside,
    /// Destinations that are other nodes' workloads; names are unique.
    pub directory: Vec<DirectoryEntry>,
    /// Who may connect to local workloads; names are unique, also among [`Config::outbound_policy`].
    pub policy: Vec<Rule>,
    /// To whom local workloads may connect.
    pub outbound_policy: Vec<Rule>,
    /// What became of the cluster's policy objects.
    pub verdicts: Vec<Verdict>,
    /// Who else is asked about connections that the rules allow; `None`: nobody.
    pub policy_external: Option<ExternalPolicy>,
    /// Every file that was read: the main file first, then the drop-ins in order.
    pub files: Vec<PathBuf>,
    /// Directories whose `*.yaml` files are read; watch these (the default one may not exist).
    pub drop_in_directories: Vec<PathBuf>,
    /// What is accepted but probably not meant; `mtlsd config check` prints it.
    pub warnings: Vec<Problem>,
}

impl Config {
    /// The workload of that name.
    #[must_use]
    pub fn workload(&self, name: &str) -> Option<&Workload> {
        self.workloads.iter().find(|workload| workload.name == name)
    }
}

/// Directories that the daemon uses; all absolute.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    /// Sockets and the lock; lost at reboot. Default `/run/mtlsd`.
    pub runtime: PathBuf,
    /// What outlives a reboot. Default `/var/lib/mtlsd`.
    pub state: PathBuf,
    /// Pinned programs, links and maps. Default `/sys/fs/bpf/mtlsd`.
    pub bpffs: PathBuf,
}

/// The CA inside the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddedCa {
    /// Holds its keys and certificates. Default `<state>/ca`.
    pub directory: PathBuf,
    /// Lifetime of an issued certificate. Default 1 h.
    pub lifetime: Duration,
    /// The intermediate's key in a token; `None`: in a file.
    pub key: Option<TokenKeySettings>,
}

/// Somebody who issues certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// Unique.
    pub name: String,
    /// How it is asked.
    pub kind: IssuerKind,
    /// Roots of its trust domain, a PEM file, absolute; `None`: only those under [`Trust::bundles`].
    pub bundle: Option<PathBuf>,
    /// The life that is asked for; `None`: what the issuer likes.
    pub lifetime: Option<Duration>,
}

/// How an issuer is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IssuerKind {
    /// By a command.
    Exec {
        /// What is run.
        program: Program,
        /// The most that it may take. Default 30 s.
        timeout: Duration,
    },
    /// Over Vault's API.
    Vault(VaultSettings),
    /// By a CertificateRequest in the cluster.
    CertManager(CertManagerSettings),
    /// By the SPIFFE Workload API.
    WorkloadApi {
        /// The agent's Unix socket, absolute.
        socket: PathBuf,
    },
    /// By SPIRE's Delegated Identity API; workloads say [`WorkloadIdentity::Delegated`].
    DelegatedIdentity {
        /// The agent's admin socket, absolute.
        socket: PathBuf,
    },
}

/// A token that holds keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pkcs11Token {
    /// Unique.
    pub name: String,
    /// Which it is, and how to get in.
    pub settings: TokenSettings,
}

/// Whom the node believes besides its own CA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trust {
    /// Additional roots. A trust domain may have several files.
    pub bundles: Vec<TrustBundleFile>,
    /// Certificate revocation lists.
    pub crls: Vec<CrlSource>,
    /// What happens to a peer of a trust domain with `crls` for whom there is no fresh one.
    pub crl_policy: CrlPolicy,
    /// OCSP responders, one for each trust domain.
    pub ocsp: Vec<OcspSource>,
    /// What happens to a peer of a trust domain with `ocsp` of whom nobody says that it is good.
    pub ocsp_policy: OcspPolicy,
    /// Names that stand for an identity when a certificate has no URI SAN.
    pub peer_names: PeerNames,
    /// How much too early a peer's certificate may be. Default 60 s, at most 5 min.
    pub clock_skew: Duration,
}

/// Roots of one trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustBundleFile {
    /// IDs of this trust domain are believed under these roots, and no other.
    pub trust_domain: TrustDomain,
    /// PEM file, absolute.
    pub file: PathBuf,
}

/// Where CRLs of one issuer come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlSource {
    /// The trust domain whose certificates it is about; its roots vouch for the list.
    pub trust_domain: TrustDomain,
    /// Where it is.
    pub origin: CrlOrigin,
    /// PEM file with the intermediates that sign lists, absolute.
    pub issuer_file: Option<PathBuf>,
    /// How often it is asked for a newer one. Default 1 h.
    pub refresh: Duration,
}

/// Where a CRL is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CrlOrigin {
    /// PEM or DER file, absolute.
    File(PathBuf),
    /// HTTP or HTTPS.
    Url {
        /// With its scheme.
        url: String,
        /// PEM file with the roots for HTTPS, absolute; `None`: the system's.
        ca_file: Option<PathBuf>,
    },
}

impl fmt::Display for CrlOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Url { url, .. } => f.write_str(url),
        }
    }
}

/// What happens without a fresh list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CrlPolicy {
    /// The peer is accepted; log and metrics say that the list is stale.
    #[default]
    Prefer,
    /// The peer is refused.
    Require,
}

/// Who is asked about the leaves of one trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OcspSource {
    /// The trust domain.
    pub trust_domain: TrustDomain,
    /// Who is asked.
    pub responder: OcspResponder,
    /// PEM file with the roots for HTTPS, absolute; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    /// After which an answer is asked for again at the latest. Default 1 h.
    pub refresh: Duration,
}

/// An OCSP responder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OcspResponder {
    /// The one that each verified leaf names (authorityInfoAccess).
    Certificate,
    /// HTTP or HTTPS, with its scheme.
    Url(String),
}

/// What happens without a fresh answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OcspPolicy {
    /// The peer is accepted; log and metrics tell.
    #[default]
    Prefer,
    /// The peer is refused.
    Require,
}

/// Legacy peers: which names stand for an identity when there is no URI SAN. Both default to false.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerNames {
    /// The DNS SAN.
    pub dns: bool,
    /// Then the common name of the subject.
    pub common_name: bool,
}

/// What is never captured. Link-local, loopback and multicast never are and are not listed here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclusions {
    /// Destination ports (outbound) and own ports (inbound).
    pub ports: BTreeSet<u16>,
    /// Destination networks (outbound), in canonical form.
    pub cidrs: Vec<IpNet>,
}

/// Where every process must belong to a workload, so that nothing leaves between the birth of a container and its
/// enrolment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Unclassified {
    /// cgroups below which a process that belongs to no workload may not send; none twice.
    pub cgroups: Vec<PathBuf>,
    /// The same for network namespaces.
    pub namespaces: UnclassifiedNamespaces,
}

/// Whether processes may send in a network namespace that belongs to no workload, the daemon's own apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnclassifiedNamespaces {
    /// They may.
    #[default]
    Allow,
    /// They may not.
    Refuse,
}

/// Who probes workloads of this node: the processes in one cgroup, not those in cgroups below it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Prober {
    /// As [`Selector::cgroup`].
    Cgroup(PathBuf),
    /// As [`Selector::unit`], but no slice: none has a process of its own.
    Unit(UnitName),
}

impl fmt::Display for Prober {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cgroup(path) => write!(f, "cgroup {}", path.display()),
            Self::Unit(unit) => write!(f, "unit {unit}"),
        }
    }
}

/// TLS parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The oldest version that is spoken. Default 1.3.
    pub min_version: TlsVersion,
    /// Suites of TLS 1.3 in order of preference, at least one and none twice; `None` (default): what suits the
    /// kernel.
    pub cipher_suites: Option<Vec<Suite>>,
    /// How many records one AES-GCM key may protect in the kernel; from [`Tls::MIN_RECORDS_PER_KEY`] to the
    /// default, [`Tls::MAX_RECORDS_PER_KEY`].
    pub records_per_key: u32,
}

impl Tls {
    /// The least that may be set: a handful of messages must get through between two updates.
    pub const MIN_RECORDS_PER_KEY: u32 = 1024;
    /// 2^24, as RFC 8446 (section 5.5) allows for AES-GCM, rounded down as rustls does.
    pub const MAX_RECORDS_PER_KEY: u32 = 1 << 24;

    /// How many records one key of this suite may protect; `None`: as many as there can be.
    #[must_use]
    pub fn records_per_key(&self, suite: Suite) -> Option<u64> {
        suite.records_per_key().map(|most| most.min(self.records_per_key.into()))
    }
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    /// RFC 5246.
    V1_2,
    /// RFC 8446.
    V1_3,
}

impl fmt::Display for TlsVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1_2 => "1.2",
            Self::V1_3 => "1.3",
        })
    }
}

/// How bytes travel once a connection is authenticated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum DatapathChoice {
    /// The daemon, until the connection carries much and the kernel can take over (default).
    #[default]
    Auto,
    /// The daemon seals and opens the records.
    RelayUserspace,
    /// The kernel seals and opens the records; where it cannot, as relay-userspace.
    RelayKtls,
}

/// Bounds on memory and work; none is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Live connections of the node. Default 100,000.
    pub connections: u32,
    /// Live connections of one workload, unless it has its own limit. Default 20,000.
    pub connections_per_workload: u32,
    /// Handshakes under way at once. Default 1,024.
    pub handshakes: u32,
    /// Certificates in a peer's chain. Default 10.
    pub chain_certificates: u32,
    /// Bytes of a peer's chain. Default 65,536.
    pub chain_bytes: u32,
}

/// Bounds on time; none is zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From accept (or connect) to the end of the handshake. Default 10 s.
    pub handshake: Duration,
    /// How long a permissive port waits for the first byte before the client counts as plaintext. Default 300 ms.
    pub detect: Duration,
    /// A connection without a byte for so long is ended; `None` (default): never.
    pub idle: Option<Duration>,
    /// How long live connections may finish at shutdown. Default 10 s.
    pub drain: Duration,
}

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// Standard output (default).
    #[default]
    Stdout,
    /// Nowhere.
    Off,
    /// Appended to this file, absolute.
    File(PathBuf),
}

/// The daemon's own log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Least severe level that is written. Default info.
    pub level: LogLevel,
    /// What the eBPF programs log. Default off.
    pub ebpf: EbpfLog,
}

/// Severity of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is wrong, and the daemon carries on.
    Warn,
    /// What an operator wants to know.
    #[default]
    Info,
    /// What a developer wants to know.
    Debug,
    /// Everything.
    Trace,
}

/// What the eBPF programs log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum EbpfLog {
    /// Nothing (default).
    #[default]
    Off,
    /// Decisions out of the ordinary.
    Info,
    /// Every decision; costly.
    Debug,
}

/// The flight recorder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recorder {
    /// How many events it keeps. Default 4,096.
    pub entries: u32,
}

/// The memory of what connections there were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flows {
    /// How many distinct flows it keeps. Default 65,536, at most [`crate::flows::MAX_FLOWS`].
    pub entries: u32,
    /// How long a flow is kept after it was seen last, 1 h to 90 d; `None`: nothing is. Default 7 d.
    pub keep: Option<Duration>,
}

/// A destination that is another node's workload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectoryEntry {
    /// Unique within the directory.
    pub name: String,
    /// Where it is; canonical networks, at least one.
    pub addresses: Vec<IpNet>,
    /// Its ports; `None`: every port.
    pub ports: Option<BTreeSet<u16>>,
    /// The server must be one of these; at least one.
    pub spiffe_ids: Vec<SpiffeId>,
    /// Or one of these, if [`PeerNames::dns`].
    pub dns_names: Vec<String>,
    /// The daemon of its node, for `direct`; `None`: it is never direct.
    pub node: Option<NodeAddress>,
    /// Those of its ports that speak no TLS, and are left alone.
    pub left_alone: BTreeSet<u16>,
}

/// A prefix of SPIFFE IDs in whole path segments: it ends with `/`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeIdPrefix {
    text: String,
    parent: SpiffeId,
}

/// Why a text is not a [`SpiffeIdPrefix`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdPrefixError {
    /// Without the end it would also match names that merely start alike.
    #[error("it does not end with '/'; write {0}/ for every ID below it, or list the ID in spiffe_ids")]
    NoSlash(String),
    /// What stands before the `/` is not a SPIFFE ID.
    #[error(transparent)]
    SpiffeId(#[from] crate::identity::SpiffeIdError),
}

impl SpiffeIdPrefix {
    /// The prefix as written, with its final `/`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The ID without the final `/`; this one itself does not match.
    #[must_use]
    pub fn parent(&self) -> &SpiffeId {
        &self.parent
    }

    /// Whether the ID lies below this path.
    #[must_use]
    pub fn matches(&self, id: &SpiffeId) -> bool {
        id.as_str().starts_with(&self.text)
    }
}

impl std::str::FromStr for SpiffeIdPrefix {
    type Err = SpiffeIdPrefixError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parent = text.strip_suffix('/').ok_or_else(|| SpiffeIdPrefixError::NoSlash(text.to_owned()))?;
        Ok(Self { text: text.to_owned(), parent: parent.parse()? })
    }
}

impl fmt::Display for SpiffeIdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeIdPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeIdPrefix({})", self.text)
    }
}
