//! What is in force of a CA: who issues, and which roots are believed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::CaError;
use super::authority::{Authority, INTERMEDIATE_WARNING, trust_domain_of};
use super::directory::Directory;
use super::log::{IssuanceLog, whole};
use crate::identity::store::watch::Stamp;
use crate::identity::{Bundle, TrustDomain, when};

/// How long before its end a root is spoken of.
pub const ROOT_WARNING: Duration = Duration::from_secs(365 * 86_400);

/// How far a change of roots is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// There is one root.
    Steady,
    /// Both roots are in the bundle, and the old one issues.
    Begun,
    /// Both roots are in the bundle, and the new one issues.
    Switched,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Steady => "steady",
            Self::Begun => "begun",
            Self::Switched => "switched",
        })
    }
}

/// A CA as status pages show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaStatus {
    /// Its directory.
    pub directory: PathBuf,
    /// How far a change of roots is.
    pub phase: Phase,
    /// CN of every root in the bundle.
    pub roots: Vec<String>,
    /// `notAfter` of the root that issues.
    #[serde(with = "time::serde::rfc3339")]
    pub root_not_after: OffsetDateTime,
    /// Is the key of that root kept elsewhere?
    pub root_offline: bool,
    /// CN of the intermediate that issues.
    pub intermediate: String,
    /// Its `notAfter`.
    #[serde(with = "time::serde::rfc3339")]
    pub intermediate_not_after: OffsetDateTime,
    /// What must be done, one sentence each, with the command.
    pub alarms: Vec<String>,
}

pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) bundle: Bundle,
    pub(super) issuing: Authority,
    stamp: Stamp,
}

impl State {
    /// Reads everything. The caller holds the lock.
    pub(super) fn load(
        directory: &Directory,
        domain: &TrustDomain,
        log: &IssuanceLog,
        now: SystemTime,
    ) -> Result<Self, CaError> {
        // Taken before reading: a change in between is seen at the next use.
        let stamp = Stamp::of(&directory.watched());
        let phase = directory.phase()?;
        let (first, second) = (Directory::at(directory.root()), directory.next());
        let (issuing, other) = match phase {
            Phase::Steady => (first, None),
            Phase::Begun => (first, Some(second)),
            Phase::Switched => (second, Some(first)),
        };
        let issuing = Authority::load(&issuing, domain, log, now)?;
        let mut roots = vec![issuing.root.clone()];
        if let Some(other) = other {
            let found = trust_domain_of(&other)?;
            if found != *domain {
                let directory = other.root().to_owned();
                return Err(CaError::OtherTrustDomain { directory, found, wanted: domain.clone() });
            }
            roots.push(other.root_certificate()?);
        }
        Ok(Self { phase, bundle: Bundle::from_der(roots)?, issuing, stamp })
    }

    /// Is the intermediate to be renewed, by a root that is here?
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        !self.issuing.offline && now >= self.issuing.intermediate.renew_at()
    }

    pub(super) fn changed(&self, path: &Path) -> bool {
        Stamp::of(&Directory::at(path).watched()) != self.stamp
    }

    /// What must be done soon, with the command.
    pub(super) fn alarms(&self, path: &Path, now: SystemTime) -> Vec<String> {
        let mut alarms = Vec::new();
        let directory = path.display();
        let ends = |not_after: SystemTime| match now > not_after {
            true => when::expired(not_after, now),
            false => {
                format!(
                    "expires in {} ({})",
                    when::span(when::between(now, not_after)),
                    when::rfc3339(not_after)
                )
            }
        };
        let intermediate = self.issuing.intermediate.not_after;
        if self.issuing.offline && when::between(now, intermediate) < INTERMEDIATE_WARNING {
            alarms.push(format!(
                "the intermediate of the CA in {directory} {}, and the root's key is elsewhere; run \
                 `mtlsd ca renew-intermediate --directory {directory} --root DIRECTORY_OF_THE_ROOT`",
                ends(intermediate)
            ));
        }
        let root = self.issuing.root_not_after;
        if when::between(now, root) < ROOT_WARNING && self.phase != Phase::Begun {
            alarms.push(format!(
                "the root of the CA in {directory} {}; run `mtlsd ca rotate --begin --directory {directory}`",
                ends(root)
            ));
        }
        alarms
    }

    pub(super) fn status(&self, path: &Path, problem: Option<String>, now: SystemTime) -> CaStatus {
        let mut alarms = self.alarms(path, now);
        alarms.extend(problem.map(|problem| format!("the directory cannot be read again: {problem}")));
        CaStatus {
            directory: path.to_owned(),
            phase: self.phase,
            roots: self.bundle.roots().iter().map(|root| root.subject().to_owned()).collect(),
            root_not_after: whole(self.issuing.root_not_after),
            root_offline: self.issuing.offline,
            intermediate: self.issuing.intermediate.name.clone(),
            intermediate_not_after: whole(self.issuing.intermediate.not_after),
            alarms,
        }
    }
}
