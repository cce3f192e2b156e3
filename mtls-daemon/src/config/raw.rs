//! The document as it is written; the published JSON schema is made of these types, and their docs
//! are its descriptions. What a value means is checked in the `check` modules.

use schemars::JsonSchema;
use serde::Deserialize;

use super::at::{At, AutoOr, Entries, Given, Number};
use super::direct::DirectChoice;
use super::types::{
    AtEnd, ConnectHold, DatapathChoice, EbpfLog, LogLevel, Mode, OutboundDefault, PolicyDefault,
    UnclassifiedNamespaces, UnknownDestinations,
};

mod direct;
mod external;
pub(super) mod istio;
mod kubernetes;
mod policy;
pub(super) mod tests;
mod vault;

pub(super) use direct::{Direct, Unfit};
pub(super) use external::{Asked, ExternalPolicy};
pub(super) use kubernetes::{CertManager, Kubernetes, MutualTlsPolicy, Whom};
pub(super) use policy::{Extension, Labels, LocalMatch, ModeEntry, OutboundRule, PeerMatch, Peers, Rule};
pub(super) use vault::{Vault, VaultAppRole, VaultAuth, VaultKubernetes};

type Texts = Vec<At<String>>;
type Numbers = Vec<At<Number>>;

/// The configuration of mtlsd on one node.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(title = "mtlsd configuration", extend("required" = ["trust_domain"]))]
pub(super) struct Document {
    /// The trust domain of this node's own identities, such as example.org. Required.
    pub trust_domain: Given<String>,
    /// Directories of drop-ins, absolute, instead of `<this file>.d`. Their `*.yaml` files are read in
    /// the order of their names and may hold workloads, directory, modes, policy and outbound_policy.
    pub include: Texts,
    /// Directories that the daemon uses.
    pub paths: Paths,
    /// The cgroup v2 mount. Default: the one found in /proc/mounts.
    pub cgroup_root: Given<String>,
    /// Where identities come from.
    pub identity: Identity,
    /// Whom the node believes besides its own CA.
    pub trust: Trust,
    /// What is never captured. Link-local, loopback and multicast never are.
    pub exclude: Exclude,
    /// Where every process must belong to a workload: what is not enrolled (yet) may not send.
    pub unclassified: Unclassified,
    /// Whose processes on this node, such as kubelet's, reach the `probe_ports` of workloads without TLS. Default: nobody's;
    /// with `kubernetes`, those of kubelet.service, and a pod's ports are those that its own spec has probed.
    pub probers: Vec<At<Prober>>,
    /// TLS parameters.
    pub tls: Tls,
    /// How bytes travel. Default auto.
    pub datapath: Given<DatapathChoice>,
    /// The datapath `direct`.
    pub direct: Direct,
    /// Bounds on memory and work.
    pub limits: Limits,
    /// Bounds on time: 300ms, 10s, 5m, 1h, 1h30m.
    pub timeouts: Timeouts,
    /// Where the access log goes: stdout (default), off, or { file: PATH }.
    pub access_log: Given<AccessLog>,
    /// Metrics, health and readiness: { listen: ADDRESS:PORT } (default 127.0.0.1:9465) or off.
    pub metrics: Given<Metrics>,
    /// The daemon's own log.
    pub log: Log,
    /// The flight recorder.
    pub recorder: Recorder,
    /// What connections there were, for `mtlsd rollout status` and `mtlsd policy replay`.
    pub flows: Flows,
    /// The Kubernetes cluster that the node is part of. Default: none.
    pub kubernetes: Given<Kubernetes>,
    /// Workloads of this node.
    pub workloads: Vec<At<Workload>>,
    /// Destinations that are other nodes' workloads.
    pub directory: Vec<At<DirectoryEntry>>,
    /// What inbound connections of several workloads must be; a workload's own `mode` and `ports` go before.
    pub modes: Vec<At<ModeEntry>>,
    /// Who may connect to local workloads: deny wins, then allow, then the workload's `policy_default`.
    pub policy: Vec<At<Rule>>,
    /// To whom local workloads may connect: deny wins, then allow, then the workload's `outbound_default`.
    pub outbound_policy: Vec<At<OutboundRule>>,
    /// A policy engine (OPA) that is asked about connections that the rules allow. Default: none.
    pub policy_external: Given<ExternalPolicy>,
}

/// A drop-in.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct DropIn {
    pub workloads: Vec<At<Workload>>,
    pub directory: Vec<At<DirectoryEntry>>,
    pub modes: Vec<At<ModeEntry>>,
    pub policy: Vec<At<Rule>>,
    pub outbound_policy: Vec<At<OutboundRule>>,
}

/// Directories that the daemon uses, absolute.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Paths {
    /// Sockets and the lock. Default /run/mtlsd.
    pub runtime: Given<String>,
    /// What outlives a reboot. Default /var/lib/mtlsd.
    pub state: Given<String>,
    /// Pinned eBPF programs, links and maps. Default /sys/fs/bpf/mtlsd.
    pub bpffs: Given<String>,
}

/// Where identities come from.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Identity {
    /// Issues for every workload that has no `identity` of its own, unless there is an `issuer`.
    pub embedded_ca: EmbeddedCa,
    /// Who issues for every workload that has no `identity` of its own, one of `issuers`. Default: the embedded CA.
    pub issuer: Given<String>,
    /// Issuers besides the embedded CA, by name.
    pub issuers: Vec<At<Issuer>>,
    /// When an identity or a root that nears its end is an alarm: percent of its life that is left (25%), or a time (6h).
    pub alarms: Alarms,
    /// PKCS #11 tokens (HSMs) that hold keys, by name.
    pub pkcs11: Vec<At<Pkcs11>>,
}

/// When an identity that nears its end is an alarm.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Alarms {
    /// Somebody should look. Default 25%.
    pub warning: Given<String>,
    /// Somebody must act. Default 10%.
    pub critical: Given<String>,
}

/// A PKCS #11 token that holds keys.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Pkcs11 {
    /// Unique: a-z, 0-9, '-' and '.', at most 63 characters.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$"))]
    pub name: At<String>,
    /// The module: the shared library of the HSM's maker, an absolute path that only root can change. It runs inside mtlsd.
    pub module: At<String>,
    /// The token's label, at most 32 bytes.
    pub token: At<String>,
    /// Holds the user's PIN, absolute, mode 0600.
    pub pin_file: At<String>,
}

/// A key in a token.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TokenKey {
    /// One of `identity.pkcs11`.
    pub token: At<String>,
    /// The label of the private key (CKA_LABEL), at most 64 bytes.
    pub label: At<String>,
}

/// Somebody who issues certificates: exactly one kind.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Issuer {
    /// Unique: a-z, 0-9, '-' and '.', at most 63 characters.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$"))]
    pub name: At<String>,
    /// A command that turns a CSR on its input into a chain on its output.
    #[serde(default)]
    pub exec: Given<Exec>,
    /// The PKI engine of HashiCorp Vault or OpenBao.
    #[serde(default)]
    pub vault: Given<Vault>,
    /// cert-manager, by CertificateRequests in the cluster that mtlsd runs in.
    #[serde(default)]
    pub cert_manager: Given<CertManager>,
    /// The SPIFFE Workload API, which gives mtlsd the SVIDs that it is entitled to; a workload has the one with its `spiffe_id`.
    #[serde(default)]
    pub workload_api: Given<AgentSocket>,
    /// SPIRE's Delegated Identity API on the agent's admin socket, which gives the SVIDs of workloads by their `selectors`.
    #[serde(default)]
    pub delegated_identity: Given<AgentSocket>,
    /// Roots of its trust domain, an absolute path to a PEM file; without it, those under `trust.bundles` are all. Not for
    /// `workload_api` and `delegated_identity`, which bring them.
    #[serde(default)]
    pub bundle: Given<String>,
    /// The life that is asked for. Default: what the issuer likes. Not for `workload_api` and `delegated_identity`, whose
    /// agents decide.
    #[serde(default)]
    pub lifetime: Given<String>,
}

/// A command that signs: either `command` or `shell`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Exec {
    /// The program, an absolute path, and its arguments, without a shell.
    pub command: Given<Texts>,
    /// A line for /bin/sh.
    pub shell: Given<String>,
    /// The most that it may take. Default 30s.
    pub timeout: Given<String>,
}

/// An agent of this node that hands out SVIDs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AgentSocket {
    /// Its Unix socket, an absolute path.
    pub socket: At<String>,
}

/// The CA inside the daemon.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct EmbeddedCa {
    /// Holds its keys and certificates. Default `<paths.state>/ca`.
    pub directory: Given<String>,
    /// Lifetime of an issued certificate. Default 1h.
    pub lifetime: Given<String>,
    /// The key that signs them (the intermediate's), in a token; made there when the CA is made. Default: a file.
    pub key: Given<TokenKey>,
}

/// Whom the node believes besides its own CA.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Trust {
    /// Additional roots, per trust domain.
    pub bundles: Vec<At<Bundle>>,
    /// Certificate revocation lists.
    pub crls: Vec<At<CrlSource>>,
    /// What happens to a peer for whom there is no fresh list. Default prefer.
    pub crl_policy: Given<CrlPolicy>,
    /// OCSP responders, one for each trust domain.
    pub ocsp: Vec<At<OcspSource>>,
    /// What happens to a peer of whom no responder says that it is good. Default prefer.
    pub ocsp_policy: Given<OcspPolicy>,
    /// Legacy peers without a URI SAN.
    pub peer_names: PeerNames,
    /// How much too early a peer's certificate may be, for issuers whose clock is ahead (0s to 5m). Default 60s. There is no
    /// such tolerance for its end.
    pub clock_skew: Given<String>,
}

/// Roots of one trust domain.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Bundle {
    /// The trust domain that these roots vouch for.
    pub trust_domain: At<String>,
    /// PEM file, absolute.
    pub file: At<String>,
}

/// Where CRLs of one issuer come from: `file` or `url`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CrlSource {
    /// The trust domain whose certificates it is about; its roots vouch for the list.
    pub trust_domain: At<String>,
    /// PEM or DER file, absolute; read again when it changes.
    #[serde(default)]
    pub file: Given<String>,
    /// http:// or https://, asked in the background.
    #[serde(default)]
    pub url: Given<String>,
    /// PEM file with the roots for HTTPS, absolute. Default: the system's.
    #[serde(default)]
    pub ca_file: Given<String>,
    /// PEM file with the intermediates that sign lists, absolute. Default: only the roots do.
    #[serde(default)]
    pub issuer_file: Given<String>,
    /// How often it is asked for a newer one. Default 1h.
    #[serde(default)]
    pub refresh: Given<String>,
}

/// What happens without a fresh list.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum CrlPolicy {
    /// The peer is accepted; log and metrics say that the list is stale.
    Prefer,
    /// The peer is refused.
    Require,
}

/// Who is asked about the leaves of one trust domain.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OcspSource {
    /// The trust domain whose leaves are asked about.
    pub trust_domain: At<String>,
    /// http:// or https://, or `certificate`: the one that each leaf names (authorityInfoAccess).
    pub responder: At<String>,
    /// PEM file with the roots for HTTPS, absolute. Default: the system's.
    #[serde(default)]
    pub ca_file: Given<String>,
    /// After which an answer is asked for again at the latest (1s to 365d). Default 1h.
    #[serde(default)]
    pub refresh: Given<String>,
}

/// What happens without a fresh answer.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum OcspPolicy {
    /// The peer is accepted; log and metrics tell.
    Prefer,
    /// The peer is refused.
    Require,
}

/// Names that stand for an identity when a certificate has no URI SAN.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct PeerNames {
    /// Take the DNS SAN. Default false.
    pub dns: Given<bool>,
    /// Then take the common name. Default false.
    pub common_name: Given<bool>,
}

/// What is never captured.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Exclude {
    /// Destination ports, and own ports for inbound connections.
    pub ports: Numbers,
    /// Destination networks or addresses.
    pub cidrs: Texts,
}

/// Where every process must belong to a workload.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Unclassified {
    /// cgroups below which a process that belongs to no workload may not send, such as /kubepods.slice.
    pub cgroups: Texts,
    /// Whether processes may send in a network namespace, other than the daemon's own, that belongs to no workload:
    /// allow (default) or refuse.
    pub namespaces: Given<UnclassifiedNamespaces>,
}

/// Who probes workloads of this node: the processes of a unit, or in a cgroup; not those in cgroups below it. One of the two.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
pub(super) struct Prober {
    /// systemd unit: the whole name of a service or scope, such as kubelet.service.
    pub unit: Given<String>,
    /// cgroup: a path below the cgroup v2 mount, or an absolute path under it.
    pub cgroup: Given<String>,
}

/// TLS parameters.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Tls {
    /// The oldest version that is spoken. Default "1.3".
    pub min_version: Given<MinVersion>,
    /// Suites of TLS 1.3 in order of preference, or auto (default): what suits the kernel.
    pub cipher_suites: Given<AutoOr<Vec<At<CipherSuite>>>>,
    /// How many records one AES-GCM key may protect in the kernel (1024 to 16777216, the default). Then the key is
    /// updated or, where the kernel cannot, the connection ended.
    #[schemars(range(min = 1024, max = 16_777_216))]
    pub records_per_key: Given<Number>,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub(super) enum MinVersion {
    /// RFC 5246.
    #[serde(rename = "1.2")]
    V1_2,
    /// RFC 8446.
    #[serde(rename = "1.3")]
    V1_3,
}

/// A cipher suite of TLS 1.3.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema)]
pub(super) enum CipherSuite {
    /// AES-128-GCM.
    #[serde(rename = "TLS_AES_128_GCM_SHA256")]
    Aes128Gcm,
    /// AES-256-GCM.
    #[serde(rename = "TLS_AES_256_GCM_SHA384")]
    Aes256Gcm,
    /// ChaCha20-Poly1305, whose keys have no limit that matters.
    #[serde(rename = "TLS_CHACHA20_POLY1305_SHA256")]
    ChaCha20Poly1305,
}

/// Bounds on memory and work.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Limits {
    /// Live connections of the node. Default 100000.
    pub connections: Given<Number>,
    /// Live connections of one workload. Default 20000.
    pub connections_per_workload: Given<Number>,
    /// Handshakes under way at once. Default 1024.
    pub handshakes: Given<Number>,
    /// Certificates in a peer's chain. Default 10.
    pub chain_certificates: Given<Number>,
    /// Bytes of a peer's chain. Default 65536.
    pub chain_bytes: Given<Number>,
}

/// Bounds on time.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Timeouts {
    /// For a whole handshake. Default 10s.
    pub handshake: Given<String>,
    /// How long a permissive port waits for the first byte before the client counts as plaintext. Default 300ms.
    pub detect: Given<String>,
    /// A connection without a byte for so long is ended. Default off.
    pub idle: Given<String>,
    /// How long live connections may finish at shutdown. Default 10s.
    pub drain: Given<String>,
}

/// Where the access log goes.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum AccessLog {
    /// Standard output.
    Stdout,
    /// Nowhere.
    Off,
    /// Appended to this file, absolute.
    File(At<String>),
}

/// Metrics, health and readiness.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(super) enum Metrics {
    /// Not served.
    Off,
    /// Served over HTTP on this address and port.
    Listen(At<String>),
}

/// The daemon's own log.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Log {
    /// Least severe level that is written. Default info.
    pub level: Given<LogLevel>,
    /// What the eBPF programs log. Default off.
    pub ebpf: Given<EbpfLog>,
}

/// The flight recorder.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Recorder {
    /// How many events it keeps. Default 4096.
    pub entries: Given<Number>,
}

/// What connections there were.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Flows {
    /// How many distinct flows are kept, 1 to 262144. Default 65536.
    pub entries: Given<Number>,
    /// How long after it was seen last, 1h to 90d, or off: nothing is kept. Default 7d.
    pub keep: Given<String>,
}

/// A workload of this node.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Workload {
    /// Unique: a-z, 0-9, '-' and '.', at most 63 characters.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$"))]
    pub name: At<String>,
    /// How it is found: by network namespace, cgroup, or both.
    pub select: At<Select>,
    /// Who it is. Default spiffe://<trust_domain>/<name>.
    #[serde(default)]
    pub spiffe_id: Given<String>,
    /// DNS SANs of its certificate. Default: its name.
    #[serde(default)]
    pub dns_names: Given<Texts>,
    /// What else its certificate says, from the embedded CA or in the CSR for an issuer.
    #[serde(default)]
    pub certificate: Given<WorkloadCertificate>,
    /// What else it is known by, for `modes` and rules.
    #[serde(default)]
    pub labels: Labels,
    /// What an inbound connection must be. Default: what `modes` says, else strict.
    #[serde(default)]
    pub mode: Given<Mode>,
    /// Exceptions to `mode`, by own port.
    #[serde(default)]
    pub ports: Entries<Mode>,
    /// Own ports of a workload that shares its network namespace; needed there for inbound capture.
    #[serde(default)]
    pub listen_ports: Given<Numbers>,
    /// Own ports that the node's `probers` reach without TLS, past the daemon. Default: none.
    #[serde(default)]
    pub probe_ports: Numbers,
    /// What is never captured, in addition to the global `exclude`.
    #[serde(default)]
    pub exclude: Exclude,
    /// What happens to an inbound connection that no rule matches. Default mode: strict refuses it, permissive takes it.
    #[serde(default)]
    pub policy_default: Given<PolicyDefault>,
    /// What happens to an outbound connection that no rule of `outbound_policy` matches. Default allow.
    #[serde(default)]
    pub outbound_default: Given<OutboundDefault>,
    /// What happens to a connection to a destination outside the directory. Default passthrough.
    #[serde(default)]
    pub unknown_destinations: Given<UnknownDestinations>,
    /// When the application's connect() completes. Default ready.
    #[serde(default)]
    pub connect_hold: Given<ConnectHold>,
    /// How its bytes travel. Default: the top-level `datapath`.
    #[serde(default)]
    pub datapath: Given<DatapathChoice>,
    /// Whether its connections are direct: never, auto or require. Default: the top-level `direct.default`.
    #[serde(default)]
    pub direct: Given<DirectChoice>,
    /// Exceptions to `direct` for inbound connections, by own port.
    #[serde(default)]
    pub direct_ports: Entries<DirectChoice>,
    /// Certificate files, reloaded when they change, or an issuer; instead of the node's.
    #[serde(default)]
    pub identity: Given<WorkloadIdentity>,
    /// Its own addresses; they become directory entries.
    #[serde(default)]
    pub addresses: Texts,
    /// Its share of the limits.
    #[serde(default)]
    pub limits: WorkloadLimits,
    /// What becomes of live connections that would not be allowed any more.
    #[serde(default)]
    pub lease: WorkloadLease,
}

/// How a workload is found. At least one; all that are given must match.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(extend("minProperties" = 1))]
pub(super) struct Select {
    /// Network namespace: a name below /run/netns, or an absolute path.
    pub netns: Given<String>,
    /// cgroup: a path below the cgroup v2 mount, or an absolute path under it.
    pub cgroup: Given<String>,
    /// systemd unit instead of a cgroup: the whole name of a service, scope or slice, such as nginx.service.
    pub unit: Given<String>,
    /// User ID: processes of this user in the network namespace `netns`, or without it in the daemon's own. Not 0.
    pub uid: Given<Number>,
}

impl Select {
    /// As [`super::Selector::is_by_cgroup`].
    pub fn is_by_cgroup(&self) -> bool {
        self.cgroup.0.is_some() || self.unit.0.is_some()
    }

    /// As [`super::Selector::shares_its_namespace`].
    pub fn shares_its_namespace(&self) -> bool {
        self.is_by_cgroup() || self.uid.0.is_some()
    }
}

/// Either an issuer, or files: a certificate, its key and its roots, absolute paths to PEM files. The key may be in a token.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WorkloadIdentity {
    /// One of `identity.issuers`.
    pub issuer: Given<String>,
    /// What SPIRE would attest the workload as, TYPE:VALUE as in its registration entry; for an issuer of the kind
    /// `delegated_identity`, which needs them.
    pub selectors: Given<Texts>,
    /// Leaf first, then intermediates.
    pub certificate: Given<String>,
    /// The leaf's private key.
    pub key: Given<String>,
    /// The leaf's private key, in a token. With an issuer it is made there if it is absent.
    pub pkcs11: Given<TokenKey>,
    /// Roots of its trust domain; without it, those under `trust.bundles` are all.
    pub bundle: Given<String>,
}

/// What a workload's certificate says besides its names.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WorkloadCertificate {
    /// Its subject; the identity is the URI SAN.
    pub subject: CertificateSubject,
}

/// The subject of a certificate; each value has at most 64 characters (X.520).
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct CertificateSubject {
    /// O. Default: the trust domain.
    #[schemars(length(min = 1, max = 64))]
    pub organization: Given<String>,
    /// OU. Default: none.
    #[schemars(length(min = 1, max = 64))]
    pub organizational_unit: Given<String>,
    /// CN. Default: none.
    #[schemars(length(min = 1, max = 64))]
    pub common_name: Given<String>,
}

/// A workload's share of the limits.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WorkloadLimits {
    /// Live connections. Default `limits.connections_per_workload`.
    pub connections: Given<Number>,
}

/// What becomes of live connections that would not be allowed any more: `cut` (reset at once on both sides), `drain` (reset
/// after some time), or `keep` (they go on, with an alarm).
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WorkloadLease {
    /// A certificate has run out and no newer one of the same identity is known. Default keep.
    pub expired: Given<AtEnd>,
    /// A certificate was revoked, or the root above the peer's left the bundle. Default cut.
    pub revoked: Given<AtEnd>,
    /// A rule, a default or a mode is another one. Default cut.
    pub policy: Given<AtEnd>,
    /// How long connections have that are to drain, 1s to 1d. Default 30s.
    pub drain: Given<String>,
}

/// A destination that is another node's workload.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DirectoryEntry {
    /// Unique: a-z, 0-9, '-' and '.', at most 63 characters.
    #[schemars(regex(pattern = r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$"))]
    pub name: At<String>,
    /// Addresses and networks.
    #[schemars(length(min = 1))]
    pub addresses: At<Texts>,
    /// Its ports. Default: every port.
    #[serde(default)]
    pub ports: Given<Numbers>,
    /// The server must be one of these.
    #[schemars(length(min = 1))]
    pub spiffe_ids: At<Texts>,
    /// Or one of these, if `trust.peer_names.dns`.
    #[serde(default)]
    pub dns_names: Given<Texts>,
    /// Where the daemon of its node takes sessions for `direct`, ADDRESS:PORT. Default: it is never direct.
    #[serde(default)]
    pub node: Given<String>,
}
