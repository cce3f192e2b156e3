//! What is wrong with a configuration: where, what, and how to mend it.

use std::fmt;
use std::path::PathBuf;

use crate::identity::agent::SelectorError;
use crate::identity::{SpiffeIdError, SubjectError};

use super::direct::NodeAddressError;
use super::rule::{OidError, TextPatternError};
use super::scalar::{
    CgroupError, CidrError, DnsNameError, DurationError, ExternalUrlError, LabelError, NameError, NetnsError,
    PathError, ServiceAccountError, ThresholdError, VaultAddressError, VaultPathError, WorkloadLabelError,
};
use super::types::SpiffeIdPrefixError;
use super::unit::UnitError;

/// A place in a configuration file. Line and column count from 1, in characters.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; 0: the whole file.
    pub line: u64,
    /// The column, from 1; 0: the whole file.
    pub column: u64,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.file.display()),
            line => write!(f, "{}:{line}:{}", self.file.display(), self.column),
        }
    }
}

/// One thing that is wrong; renders as `file:line:column: what; mend`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {fault}")]
pub struct Problem {
    /// Where.
    pub place: Place,
    /// What, and the mend.
    #[source]
    pub fault: Fault,
}

/// Everything that is wrong with a configuration, in the order of the files; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The problems; at least one and at most [`ConfigError::MAX_PROBLEMS`].
    pub problems: Vec<Problem>,
    /// How many more there are.
    pub more: usize,
}

impl ConfigError {
    /// How many problems are listed; a hostile file must not make an endless message.
    pub const MAX_PROBLEMS: usize = 100;
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{problem}")?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, "\nand {more} more"),
        }
    }
}

/// Offending text as it appears in a message: quoted, escaped and of bounded length.
#[derive(Clone, PartialEq, Eq)]
pub struct Quoted(String);

impl Quoted {
    const MAX_CHARS: usize = 80;

    pub(super) fn new(text: &str) -> Self {
        let mut quoted = String::from("`");
        for c in text.chars().take(Self::MAX_CHARS) {
            // Control characters, also the invisible and direction-changing ones, would let a file write
            // to the terminal of whoever reads the message.
            match c {
                '\'' | '"' => quoted.push(c),
                c => quoted.extend(c.escape_debug()),
            }
        }
        if text.chars().nth(Self::MAX_CHARS).is_some() {
            quoted.push('…');
        }
        quoted.push('`');
        Self(quoted)
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What is wrong at a place. The message says the mend, too.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    // Files
    /// The file or directory cannot be read.
    #[error("cannot be read: {0}; check that it exists and that mtlsd may read it")]
    Unreadable(String),
    /// The files together are too large.
    #[error(
        "the configuration is larger than {} MiB with this file; split it over nodes",
        super::read::MAX_BYTES >> 20
    )]
    FilesTooLarge,
    /// Too many drop-ins.
    #[error("there are more than {} drop-ins; merge some", super::read::MAX_DROP_INS)]
    TooManyDropIns,
    /// Warning: a file in a drop-in directory that is not `*.yaml`.
    #[error("this file is not read, its name does not end with .yaml; rename it, or move it elsewhere")]
    NotReadBySuffix,
    /// Not UTF-8.
    #[error("the file is not UTF-8 text; save it as UTF-8")]
    NotUtf8,

    // YAML
    /// Not YAML at all.
    #[error(
        "this is not YAML: {0}; mend it here or just before, and put text with ': ', '#' or brackets in quotes"
    )]
    Syntax(String),
    /// A second document in the file.
    #[error("a second document (`---`) starts here; put it in a file of its own")]
    SecondDocument,
    /// `&anchor` or `*alias`.
    #[error("anchors (`&`) and aliases (`*`) are not taken; write the value out, or quote the text")]
    AnchorOrAlias,
    /// `<<`.
    #[error("the merge key `<<` is not taken; write the keys out")]
    MergeKey,
    /// `!tag`.
    #[error("the tag on {0} is not taken; remove the `!…` before it")]
    Tag(Quoted),
    /// Nested too deeply, or too many values.
    #[error("the document goes beyond a limit of the parser ({0}); make it smaller or flatter")]
    DocumentTooLarge(String),
    /// A key that is not known here.
    #[error("the key {key} is not known here{}; known are: {}", near(nearest), known.join(", "))]
    UnknownKey {
        /// The key.
        key: Quoted,
        /// The known key that looks most like it.
        nearest: Option<&'static str>,
        /// Every known key.
        known: Vec<&'static str>,
    },
    /// A word other than the ones that may stand here.
    #[error("{word} may not stand here{}; write one of: {}", near(nearest), known.join(", "))]
    UnknownWord {
        /// The word.
        word: Quoted,
        /// The known word that looks most like it.
        nearest: Option<&'static str>,
        /// Every known word.
        known: Vec<&'static str>,
    },
    /// A required key is not there.
    #[error("the key `{0}` is missing; add it")]
    MissingKey(&'static str),
    /// A key stands twice in one mapping.
    #[error("the key {0} stands twice in this mapping; remove one")]
    DuplicateKey(Quoted),
    /// A value of another type.
    #[error("found {found} where {expected} is expected; change the value to {expected}")]
    WrongType {
        /// The value.
        found: Quoted,
        /// What may stand here.
        expected: String,
    },
    /// Nothing, where there must be a value.
    #[error("there is no value here; write {0}, or remove the key")]
    NoValue(String),

    // Single values
    /// A name that is not well-formed.
    #[error("the name {0} cannot be: {1}")]
    Name(Quoted, NameError),
    /// A label that no token or key can have.
    #[error("the label {0} cannot be: {1}")]
    Label(Quoted, LabelError),
    /// A DNS name that is not well-formed.
    #[error("the DNS name {0} cannot be: {1}")]
    DnsName(Quoted, DnsNameError),
    /// A value that cannot be in a certificate's subject.
    #[error("the subject's {0} cannot be: {1}")]
    Subject(Quoted, SubjectError),
    /// A trust domain that is not well-formed.
    #[error("the trust domain {0} cannot be: {1}")]
    TrustDomain(Quoted, SpiffeIdError),
    /// A SPIFFE ID that is not well-formed.
    #[error("the SPIFFE ID {0} cannot be: {1}")]
    SpiffeId(Quoted, SpiffeIdError),
    /// A SPIFFE ID prefix that is not well-formed.
    #[error("the prefix {0} cannot be: {1}")]
    SpiffeIdPrefix(Quoted, SpiffeIdPrefixError),
    /// A duration that is not well-formed or out of range.
    #[error("the duration {0} cannot be: {1}")]
    Duration(Quoted, DurationError),
    /// Neither a percentage nor a duration.
    #[error("the threshold {0} cannot be: {1}")]
    Threshold(Quoted, ThresholdError),
    /// A path that is not absolute and plain.
    #[error("the path {0} cannot be: {1}")]
    Path(Quoted, PathError),
    /// An address of Vault that is not well-formed.
    #[error("the address {0} cannot be: {1}")]
    VaultAddress(Quoted, VaultAddressError),
    /// The URL of a policy engine that is not well-formed, or not safe to believe.
    #[error("the URL {0} cannot be: {1}")]
    ExternalUrl(Quoted, ExternalUrlError),
    /// A mount, role or namespace of Vault that is not well-formed.
    #[error("{0} cannot be: {1}")]
    VaultPath(Quoted, VaultPathError),
    /// Neither a network nor an address.
    #[error("the network {0} cannot be: {1}")]
    Cidr(Quoted, CidrError),
    /// Not an IP address.
    #[error("{0} is not an IP address; write one such as 10.0.0.2 or \"fd00::2\"")]
    Address(Quoted),
    /// Not an address and port.
    #[error("{0} is not an address with a port; write one such as 127.0.0.1:9465 or \"[::1]:9465\"")]
    SocketAddress(Quoted),
    /// Not where a daemon could take sessions.
    #[error("the node's address {0} cannot be: {1}")]
    NodeAddress(Quoted, NodeAddressError),
    /// A port out of range.
    #[error("the port {0} does not exist; write a number from 1 to 65535")]
    Port(i128),
    /// A number out of range.
    #[error("{value} is out of range; write a number from {min} to {max}")]
    Range {
        /// The number.
        value: i128,
        /// The least.
        min: u32,
        /// The greatest.
        max: u32,
    },
    /// A network namespace that cannot be named so.
    #[error("the network namespace {0} cannot be: {1}")]
    Netns(Quoted, NetnsError),
    /// More cgroups in `unclassified` than the kernel's table is given.
    #[error(
        "these are {0} cgroups; at most {max} are taken: name the cgroup above them",
        max = super::check::MAX_ENCLOSED
    )]
    TooManyEnclosures(usize),
    /// More than the kernel's table is given.
    #[error("these are {0} probers; at most {max} are taken", max = super::check::MAX_PROBERS)]
    TooManyProbers(usize),
    /// More than the kernel's table is given.
    #[error("these are {0} networks; at most {max} are taken: name larger ones", max = super::Inside::MAX_NETWORKS)]
    TooManyNetworks(usize),
    /// `probers: [ {} ]`, or both.
    #[error("a prober is one cgroup; give either `unit` or `cgroup`")]
    ProberForm,
    /// A slice has no process of its own.
    #[error(
        "the slice {0} has processes only in the cgroups below it, which are no probers; name the service"
    )]
    ProberSlice(Quoted),
    /// A cgroup that cannot be selected.
    #[error("the cgroup {0} cannot be: {1}")]
    Cgroup(Quoted, CgroupError),
    /// A list with nothing in it where that would mean "nothing" or "everything", depending on the reader.
    #[error("this list is empty; {0}")]
    EmptyList(&'static str),

    /// A text with nothing in it.
    #[error("this text is empty; {0}")]
    EmptyText(&'static str),

    // Values that do not go together
    /// The second alarm would come before the first.
    #[error(
        "`critical` is not less than `warning`, so that there would be no warning; write a smaller `critical`"
    )]
    AlarmOrder,
    /// The peer would give up before the policy engine has answered.
    #[error(
        "the timeout is not less than `timeouts.handshake`, after which the peer gives up; write a shorter one here, or a \
         longer one there"
    )]
    ExternalTimeout,
    /// A token that is not there.
    #[error(
        "there is no token {text} under `identity.pkcs11` (known: {known}); check the name, or add it there"
    )]
    UnknownToken {
        /// The name.
        text: Quoted,
        /// Those that there are.
        known: String,
    },
    /// An issuer that is not there.
    #[error(
        "there is no issuer {text} under `identity.issuers` (known: {known}); check the name, or add it there"
    )]
    UnknownIssuer {
        /// The name.
        text: Quoted,
        /// Those that there are.
        known: String,
    },
    /// An issuer of no kind, or of two.
    #[error("an issuer has exactly one kind; write one of {0}")]
    IssuerKind(&'static str),
    /// A command issuer without a command, or with two.
    #[error(
        "either `command` (a program and its arguments) or `shell` (a line for /bin/sh) is needed; write one"
    )]
    ExecProgram,
    /// A login to Vault of no method, or of two.
    #[error("exactly one way to log in is needed; write one of `token`, `kubernetes`, `app_role`")]
    VaultAuth,
    /// A key of an issuer that signs, at an agent.
    #[error("`{0}` is for issuers that sign, and the agent brings its own; remove it")]
    NotForAgents(&'static str),
    /// A selector that is not well-formed.
    #[error("the selector {0} cannot be: {1}")]
    SpireSelector(Quoted, SelectorError),
    /// The Delegated Identity API without selectors.
    #[error(
        "the issuer {0} gives the SVIDs of workloads by their selectors, and there are none here; write \
         `identity: {{ issuer, selectors }}` in each workload"
    )]
    NoSelectors(Quoted),
    /// Selectors for another kind of issuer.
    #[error(
        "`selectors` are for issuers of the kind `delegated_identity`, and {0} is of another; remove them"
    )]
    SelectorsUnused(Quoted),
    /// A workload's identity that is neither.
    #[error(
        "an identity is either `issuer` with or without `selectors`, or `certificate` and `key` with or without `bundle`; write one of the two, with `pkcs11` \
         for a key in a token (instead of `key`)"
    )]
    WorkloadIdentity,
    /// A subject for a certificate that others make.
    #[error(
        "this workload's certificate comes from files, which have the subject that they have; remove `certificate`, or \
         the files from `identity`"
    )]
    SubjectWithFiles,
    /// A CRL from nowhere, or from two places.
    #[error(
        "a CRL is either a `file`, or a `url` with or without `ca_file` (the roots for HTTPS); write one of the two"
    )]
    CrlOrigin,
    /// Not a URL of HTTP.
    #[error("{0} cannot be asked for a CRL; write a URL that begins with http:// or https://")]
    CrlUrl(Quoted),
    /// `crl_policy: require` without lists.
    #[error(
        "`crl_policy: require` is for the trust domains under `crls`, and there are none; list them, or remove it"
    )]
    CrlPolicyWithoutCrls,
    /// Not a responder.
    #[error(
        "{0} is not an OCSP responder; write a URL that begins with http:// or https://, or `certificate` for the one that \
         each certificate names"
    )]
    OcspResponder(Quoted),
    /// `ocsp_policy: require` without responders.
    #[error(
        "`ocsp_policy: require` is for the trust domains under `ocsp`, and there are none; list them, or remove it"
    )]
    OcspPolicyWithoutOcsp,
    /// The same thing twice.
    #[error("the {what} {text} is taken already, at {first}; {mend}")]
    Duplicate {
        /// What kind of thing.
        what: &'static str,
        /// The thing.
        text: Quoted,
        /// Where it stands first.
        first: Place,
        /// What to do.
        mend: &'static str,
    },
    /// Two cgroup selectors, one inside the other.
    #[error(
        "the cgroup {text} and the cgroup {other} at {first} lie one inside the other, so that a process would be \
         two workloads; select cgroups that do not contain each other"
    )]
    NestedCgroup {
        /// The cgroup.
        text: Quoted,
        /// The other one.
        other: Quoted,
        /// Where the other one stands.
        first: Place,
    },
    /// `select: {}`.
    #[error("the selector selects nothing; give `netns`, `cgroup`, `unit` or `uid`")]
    EmptySelector,
    /// A unit that cannot be selected.
    #[error("the unit {0} cannot be: {1}")]
    Unit(Quoted, UnitError),
    /// `select: { cgroup, unit }`.
    #[error("a unit is a cgroup, and `cgroup` names another one; remove one of the two")]
    UnitAndCgroup,
    /// `select: { cgroup, uid }`.
    #[error("`uid` goes with `netns` only; remove it, or `cgroup` and `unit`")]
    UidAndCgroup,
    /// root, or no user at all.
    #[error(
        "{0} is no user that can be selected; write its number from 1 to 4294967294 (`id -u NAME` tells it). root manages \
         the node, the daemon included: select what it runs by `unit`"
    )]
    Uid(Quoted),
    /// `listen_ports` of a workload that has a namespace to itself.
    #[error(
        "`listen_ports` is for a workload that shares its namespace (selected by cgroup), and this one has its \
         netns to itself; remove `listen_ports`: every port of the namespace is captured"
    )]
    ListenPortsWithNetns,
    /// The embedded CA cannot issue for another trust domain.
    #[error(
        "the embedded CA issues for the trust domain {own} only, and {id} is in another; change the ID, or give the \
         workload `identity` files"
    )]
    ForeignTrustDomain {
        /// The ID.
        id: Quoted,
        /// The trust domain of the node.
        own: Quoted,
    },
    /// Peers of whom none is named.
    #[error("this names nobody; list who is meant, or remove the key for anyone")]
    EmptyFrom,
    /// Several kinds of identity in one mapping, which once were alternatives.
    #[error(
        "several kinds of identity in one peer: write a list, [{{ … }}, {{ … }}], if any one of them is enough, or a list of one, \
         [{{ …, … }}], if all must match"
    )]
    AmbiguousPeers,
    /// `not` within `not`.
    #[error("`not` within `not`; write the rule the other way round")]
    NotNot,
    /// `dry_run` of a rule that decides nothing.
    #[error("an audit rule decides nothing anyway; remove `dry_run`")]
    AuditDryRun,
    /// A pattern that is not well-formed.
    #[error("the pattern {0} cannot be: {1}")]
    Pattern(Quoted, TextPatternError),
    /// An OID that is not well-formed.
    #[error("the OID {0} cannot be: {1}")]
    Oid(Quoted, OidError),
    /// No service account.
    #[error("the service account {0} cannot be: {1}")]
    ServiceAccount(Quoted, ServiceAccountError),
    /// A file of resources that are not Istio's.
    #[error(
        "the apiVersion {0} is not Istio's security.istio.io; only PeerAuthentication and AuthorizationPolicy are read"
    )]
    NotIstio(Quoted),
    /// Another kind of Istio's.
    #[error(
        "the kind {0} is not read; only PeerAuthentication and AuthorizationPolicy are, each as a document of its own"
    )]
    IstioKind(Quoted),
    /// Not what objects of Kubernetes are called.
    #[error("{0} is not a name in Kubernetes: {1}")]
    KubernetesName(Quoted, crate::kube::NameError),
    /// Who is enabled cannot be disabled.
    #[error("pods that are `enabled` cannot be disabled; write strict or permissive")]
    KubernetesDefaultDisabled,
    /// Not what kubelet takes as its root.
    #[error("{0} is not a cgroup root; write it as kubelet's --cgroup-root, such as /kubelet")]
    KubernetesCgroupRoot(Quoted),
    /// Nobody says where this node's daemon is to listen.
    #[error(
        "NODE_IP does not say the node's address, so that no pod's connection is direct; set it from status.hostIP in the DaemonSet"
    )]
    KubernetesNoNodeIp,
    /// What is said of the node's address is none.
    #[error("NODE_IP is {0}: {1}; set it from status.hostIP in the DaemonSet")]
    KubernetesNodeIp(Quoted, NodeAddressError),
    /// A rule of a policy object that names whom the object is for.
    #[error("`to` may only name ports here; whom the object is for says its `selector`")]
    PolicyObjectTo,
    /// What is decided on requests.
    #[error(
        "`{0}` is about requests, or needs a proxy that reads them, and mtlsd decides on connections; remove it, or enforce this policy elsewhere"
    )]
    IstioNotL4(&'static str),
    /// An external authorizer.
    #[error(
        "the action CUSTOM asks an external authorizer for requests, which mtlsd does not read; use ALLOW, DENY or AUDIT"
    )]
    IstioCustom,
    /// A condition that is not about the connection.
    #[error(
        "the condition {0} is not about what mtlsd decides on; it knows source.principal, source.namespace, source.serviceAccount, source.ip and destination.port"
    )]
    IstioCondition(Quoted),
    /// The same property in two places.
    #[error(
        "the same property stands in `from` and in `when`, and both would have to match; write it in one place"
    )]
    IstioTwice,
    /// Istio ignores these; a reader would not expect it.
    #[error("`portLevelMtls` counts only with a `selector`; add one")]
    IstioPortsWithoutSelector,
    /// Ports of Istio are text.
    #[error("the port {0} cannot be: write a number from 1 to 65535 in quotes")]
    IstioPort(Quoted),
    /// A port of the end that connects.
    #[error("the port belongs to `to`")]
    TestPort,
    /// Nobody of this configuration.
    #[error("neither end is a workload of this configuration; write `workload: NAME` for one of them")]
    TestWithoutWorkload,
    /// Contradictory, or attributes of nobody.
    #[error(
        "write either `workload`, or `spiffe_id` with what its certificate says, or only `address` for somebody who proves nothing"
    )]
    TestEnd,
    /// No label.
    #[error("the label {0} cannot be: {1}")]
    WorkloadLabel(Quoted, WorkloadLabelError),
    /// More labels than are read.
    #[error("more than {0} labels; leave some out")]
    TooManyLabels(usize),
    /// An entry of `modes` that says nothing.
    #[error("this entry says no mode; give it `mode` or `ports`")]
    EmptyMode,
    /// Two entries of `modes` that describe a workload equally closely.
    #[error(
        "for workload {workload} this says another mode than {first}, and neither describes it more closely; make them agree, or give the workload a mode of its own"
    )]
    ModesDisagree {
        /// The workload.
        workload: Quoted,
        /// The other entry.
        first: Place,
    },
    /// An address that is never captured.
    #[error(
        "{0} is loopback, link-local, multicast, broadcast or unspecified and is never captured; write the address that \
         clients use"
    )]
    NeverCaptured(Quoted),

    /// The daemon's address is also a workload's.
    #[error(
        "the node's address {address} is one of the workload {workload}, to which every port there belongs; give the \
         daemon an address that no workload has"
    )]
    NodeIsWorkload {
        /// The address and port.
        address: Quoted,
        /// The workload.
        workload: Quoted,
    },
    /// The daemon's address and port are also the destination's.
    #[error(
        "the node's address {0} is also the destination of this entry; write where that node's daemon listens \
         (its `direct.listen`), or list the destination's `ports` without this one"
    )]
    NodeIsDestination(Quoted),
    /// The limit of what doubles is less than what it starts with.
    #[error("`retry_limit` is less than `retry`; write a longer `retry_limit`, or a shorter `retry`")]
    UnfitOrder,

    /// Addresses × ports, with what nested networks inherit, are too many.
    #[error(
        "with this entry the directory expands to more than {} pairs of address and port; write networks \
         instead of single addresses, or leave out `ports`",
        super::check::MAX_PAIRS
    )]
    DirectoryTooLarge,
    /// The rules name too many values.
    #[error(
        "with this rule the policy names more than {} workloads, ports and peers; use prefixes, namespaces or trust domains, \
         or leave out `ports`",
        super::check::MAX_COMBINATIONS
    )]
    PolicyTooLarge,
    /// The rules of an object of the cluster name too many values, with all others.
    #[error(
        "with this object the policy of this node names more than {} workloads, ports and peers, counted once for each combination of \
         `from`, `to` and `when`; use prefixes, namespaces or service accounts, leave out ports, or remove rules or other objects",
        super::check::MAX_COMBINATIONS
    )]
    PolicyObjectTooLarge,

    // Warnings
    /// Warning: a rule for a workload that this node does not have.
    #[error("this node has no workload {0}, so that the rule does not apply to it; check the name")]
    UnknownWorkload(Quoted),
    /// Warning: a rule for workloads of which there is none.
    #[error(
        "no workload of this node is meant by this rule, so that it has no effect here; check namespaces and labels"
    )]
    RuleForNobody,
    /// Warning: DNS names that are not looked at.
    #[error(
        "`dns_names` is not looked at while `trust.peer_names.dns` is false; set that, or remove the names"
    )]
    DnsNamesUnused,
    /// Warning: no roots for a trust domain.
    #[error(
        "no roots are configured for the trust domain of {0}, so that no such server can be verified; add them to \
         `trust.bundles`"
    )]
    NoRoots(Quoted),
}

fn near(nearest: &Option<&'static str>) -> String {
    nearest.map(|word| format!(", did you mean `{word}`?")).unwrap_or_default()
}
