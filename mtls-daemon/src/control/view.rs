//! What the daemon answers on its admin socket. The daemon implements [`DaemonView`]; the types are the JSON.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::drill::{DrillError, DrillReport};
use super::enroll::{Changed, EnrolError, EnrolReport, EnrolRequest, Enrolled};
use super::revoke::{RevokeReport, RevokeRequest, UnrevokeReport, UnrevokeRequest};
use super::rollout::RolloutError;
use crate::diagnose::{LiveError, LiveReport, LiveRequest, PathReport, UnknownParty};
use crate::flows::Record;
use crate::flows::rollout::RolloutReport;
use crate::identity::CaStatus;
use crate::identity::alarm::Level;
use crate::identity::revocation::{Entry, RevocationError};
use crate::observe::connection::{CertificateInfo, ConnectionRecord};
use crate::observe::explain::near::NearMisses;
use crate::observe::recorder::Recorder;

/// What the admin API may ask of the daemon.
pub trait DaemonView: Send + Sync + 'static {
    /// The daemon as a whole.
    fn status(&self) -> Status;

    /// Every configured workload, by name.
    fn workloads(&self) -> Vec<WorkloadStatus>;

    /// Looks at the node now and brings the tables to what is found.
    fn look(&self);

    /// The flight recorder; `connections` and `explain` are answered from it.
    fn recorder(&self) -> &Recorder;

    /// The rules that nearly decided otherwise on a connection; `allowed_too`: also on one that was let in.
    fn near_misses(&self, record: &ConnectionRecord, allowed_too: bool) -> Option<NearMisses>;

    /// What would become of a connection.
    ///
    /// # Errors
    /// One of the two is nobody, or neither is on this node.
    fn path(&self, from: &str, to: &str) -> Result<PathReport, UnknownParty>;

    /// Tries a connection and says at which question it fails. `by`: who asks.
    ///
    /// # Errors
    /// It cannot be asked like this, or too many are being asked.
    fn diagnose(
        &self,
        request: LiveRequest,
        by: String,
    ) -> impl Future<Output = Result<LiveReport, LiveError>> + Send;

    /// Checks now whether everything that should be captured is.
    fn verify(&self) -> impl Future<Output = VerifyReport> + Send;

    /// What is on the deny list.
    fn revocations(&self) -> Vec<Arc<Entry>>;

    /// Puts something on the deny list and cuts the live connections that it names. May wait for the disk.
    ///
    /// # Errors
    /// Nothing was changed.
    fn revoke(&self, request: RevokeRequest, by: String) -> Result<RevokeReport, RevocationError>;

    /// Takes something off the deny list. May wait for the disk.
    ///
    /// # Errors
    /// Nothing was changed.
    fn unrevoke(&self, request: UnrevokeRequest, by: String) -> Result<UnrevokeReport, RevocationError>;

    /// Enrols a unit, or says what would become of it. May wait for the disk and a reload; so do the others.
    ///
    /// # Errors
    /// Nothing was changed.
    fn enroll(&self, request: &EnrolRequest, by: &str) -> Result<EnrolReport, EnrolError>;

    /// Takes back what was enrolled so.
    ///
    /// # Errors
    /// Nothing was changed.
    fn unenroll(&self, name: &str, by: &str) -> Result<Changed, EnrolError>;

    /// Has the last change stay.
    ///
    /// # Errors
    /// Nothing waits.
    fn confirm(&self, by: &str) -> Result<Changed, EnrolError>;

    /// What was enrolled so.
    ///
    /// # Errors
    /// It cannot be found out.
    fn enrolled(&self) -> Result<Vec<Enrolled>, EnrolError>;

    /// Tries on an identity made for it whether revocation works.
    ///
    /// # Errors
    /// When nobody can issue that identity.
    fn drill_revoke(&self) -> impl Future<Output = Result<DrillReport, DrillError>> + Send;

    /// Who would be refused if a workload, or every one, became strict now; only by what was seen since then.
    ///
    /// # Errors
    /// Nothing is recorded, or there is no such workload.
    fn rollout(&self, workload: Option<&str>, since: Duration) -> Result<RolloutReport, RolloutError>;

    /// What connections there were in that time.
    ///
    /// # Errors
    /// Nothing is recorded.
    fn flows(&self, since: Duration) -> Result<Record, RolloutError>;

    /// Loads the configuration anew: all of it, or none.
    fn reload(&self) -> impl Future<Output = ReloadReport> + Send;
}

/// The daemon as a whole (`GET /v1/status`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Version of the daemon.
    pub version: String,
    /// Its process id.
    pub pid: u32,
    /// Its trust domain.
    pub trust_domain: String,
    /// When it started.
    #[serde(with = "time::serde::rfc3339")]
    pub started: OffsetDateTime,
    /// Why it is not ready, one sentence each; empty when it is ready.
    pub not_ready: Vec<String>,
    /// Identities and roots that near their end or have passed it; empty when there is none.
    #[serde(default)]
    pub alarms: Vec<Alarm>,
    /// The configuration in force.
    pub config: ConfigStatus,
    /// Sums over all workloads.
    pub connections: ConnectionSums,
    /// What this kernel and this configuration make possible, or not.
    pub abilities: Vec<Ability>,
    /// The embedded CA; null when no workload needs it.
    #[serde(default)]
    pub embedded_ca: Option<CaStatus>,
    /// The cluster that the node is part of; null when none is configured.
    #[serde(default)]
    pub kubernetes: Option<ClusterStatus>,
}

/// What is known of the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    /// The node that this is.
    pub node: String,
    /// Each resource that is followed.
    pub resources: Vec<ResourceStatus>,
    /// Services whose address is no destination, since some pods behind them are not enrolled: connections to it are not mTLS.
    pub mixed_services: Vec<String>,
    /// What becomes of connections to Services' addresses; null where kube-proxy chooses all endpoints.
    #[serde(default)]
    pub services: Option<ServicesStatus>,
    /// Objects that say modes and rules.
    pub policies: Vec<PolicyStatus>,
}

/// Services whose endpoint is chosen at connect(), and those that are left to kube-proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServicesStatus {
    /// How many have an address that is turned.
    pub resolved: usize,
    /// Those of which something is left to kube-proxy.
    pub left: Vec<LeftService>,
}

/// A Service that is left to kube-proxy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftService {
    /// Namespace and name.
    pub service: String,
    /// The reason.
    pub why: String,
}

/// A resource of the cluster that is followed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResourceStatus {
    /// As RBAC writes it: `pods`.
    pub resource: String,
    /// How many objects are known.
    pub objects: usize,
    /// Seconds since the API server last said what is; null: never.
    pub age_seconds: Option<u64>,
    /// Why it is not current; null when it is.
    pub trouble: Option<String>,
    /// Objects that cannot be read, each with the reason.
    pub refused: Vec<String>,
}

/// An object that says modes and rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyStatus {
    /// Kind, namespace and name.
    pub policy: String,
    /// Whether this version of it is in force.
    pub accepted: bool,
    /// What is wrong with it, and what holds instead; empty when it is accepted.
    pub detail: String,
}

impl Status {
    /// Whether the daemon does everything it was configured to do.
    #[must_use]
    pub fn ready(&self) -> bool {
        self.not_ready.is_empty()
    }
}

/// An identity, or the roots of a trust domain, that nears its end or has passed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alarm {
    /// Such as `workload web` or `trust domain example.org`.
    pub about: String,
    /// How near.
    pub level: Level,
    /// When it ends, and what the last failure was.
    pub detail: String,
}

/// The configuration in force.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConfigStatus {
    /// The main file.
    pub file: PathBuf,
    /// Counts up with each configuration that was put in force.
    pub generation: u64,
    /// When it was put in force.
    #[serde(with = "time::serde::rfc3339")]
    pub loaded: OffsetDateTime,
    /// Why the last attempt to replace it was refused; null if it was not.
    pub last_refusal: Option<String>,
}

/// Sums of connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConnectionSums {
    /// Open now.
    pub live: u64,
    /// Established since the daemon started.
    pub opened: u64,
    /// Refused since the daemon started.
    pub refused: u64,
    /// Accepted in plaintext by permissive ports since the daemon started.
    pub plaintext: u64,
    /// Open now, though they would not be let in any more.
    #[serde(default)]
    pub overdue: u64,
}

/// Something that the daemon can do on this node, or why it cannot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ability {
    /// Such as `relay-ktls` or `capture`.
    pub name: String,
    /// Whether it is in use.
    pub available: bool,
    /// Since when, on what, or why not.
    pub detail: String,
    /// Of `relay-ktls` only: what the kernel was found to do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ktls: Option<KtlsStatus>,
}

/// What the kernel's TLS can do: all of it was tried on this kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KtlsStatus {
    /// Whether connections can be `relay-ktls`.
    pub available: bool,
    /// IANA names of the suites that work.
    pub suites: Vec<String>,
    /// Suites that do not, each with its reason.
    pub missing: Vec<String>,
    /// Whether keys can be changed on a live connection.
    pub rekey: bool,
    /// Why not; null when they can, or nothing is available.
    pub why_no_rekey: Option<String>,
    /// What the kernel does wrongly, and what mtlsd does about it.
    pub defects: Vec<KtlsDefect>,
    /// Why it is not available, with the mend; null when it is.
    pub why_not: Option<String>,
}

/// Something that the kernel does wrongly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KtlsDefect {
    /// What is wrong.
    pub what: String,
    /// What mtlsd does about it.
    pub remedy: String,
}

/// Whether a workload is being looked after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkloadState {
    /// Captured, with a valid identity.
    Enrolled,
    /// Its namespace or cgroup does not exist now.
    Absent,
    /// It exists, but something stands in the way; see `detail`.
    Failed,
    /// Mode `disabled`: left alone.
    Disabled,
}

impl WorkloadState {
    /// The text shown to people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::Absent => "absent",
            Self::Failed => "failed",
            Self::Disabled => "disabled",
        }
    }
}

/// One workload (`GET /v1/workloads`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadStatus {
    /// Its name.
    pub name: String,
    /// Its SPIFFE ID.
    pub spiffe_id: String,
    /// `strict`, `permissive` or `disabled`.
    pub mode: String,
    /// How it is found, such as `netns web`.
    pub selector: String,
    /// Whether it is being looked after.
    pub state: WorkloadState,
    /// What stands in the way, with the mend; empty when nothing does.
    pub detail: String,
    /// Where its identity comes from, such as `embedded CA`.
    pub identity_source: String,
    /// The certificate in use; null when there is none.
    pub certificate: Option<CertificateInfo>,
    /// What the identity source last failed with; null when it works.
    pub identity_error: Option<String>,
    /// How near its end the identity is.
    #[serde(default)]
    pub identity_alarm: Level,
    /// Its connections.
    pub connections: ConnectionSums,
}

/// Whether everything that should be captured is (`GET /v1/verify`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyReport {
    /// Every check that was made.
    pub checks: Vec<Check>,
}

impl VerifyReport {
    /// Whether every check holds. Having checked nothing is not success.
    #[must_use]
    pub fn holds(&self) -> bool {
        !self.checks.is_empty() && self.checks.iter().all(|check| check.ok)
    }
}

/// One thing that was checked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// What was checked, such as `connect4 attached`.
    pub name: String,
    /// For which workload; null for the node.
    pub workload: Option<String>,
    /// Whether it holds.
    pub ok: bool,
    /// What was found.
    pub detail: String,
    /// What to do; empty when it holds.
    pub mend: String,
}

/// What an attempt to load the configuration anew came to (`POST /v1/reload`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReloadReport {
    /// Whether the new configuration is in force; if not, the last good one still is.
    pub applied: bool,
    /// The generation in force.
    pub generation: u64,
    /// What changed, or why it was refused, with file and line.
    pub messages: Vec<String>,
}
