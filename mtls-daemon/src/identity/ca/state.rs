//! What is in force of a CA: who issues, and which roots are believed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::CaError;
use super::authority::{self, Authority, INTERMEDIATE_WARNING, trust_domain_of};
use super::directory::{Directory, INTERMEDIATE_CRT, ROOT_CRT};
use super::log::{IssuanceLog, whole};
use crate::identity::leaf::Leaf;
use crate::identity::pkcs11::TokenKeySettings;
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

/// What a certificate of a CA is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CertificateKind {
    /// Peers believe it.
    Root,
    /// It signs leaves, or stands between one that does and the root.
    Intermediate,
}

impl CertificateKind {
    /// The text shown to people, and the label of metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Intermediate => "intermediate",
        }
    }
}

/// A certificate of a CA, with its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CaCertificate {
    /// What it is.
    pub kind: CertificateKind,
    /// CN of its subject.
    pub name: String,
    /// Its `notBefore`.
    #[serde(with = "time::serde::rfc3339")]
    pub not_before: OffsetDateTime,
    /// Its `notAfter`.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
}

impl CaCertificate {
    fn of(kind: CertificateKind, claims: Leaf) -> Self {
        Self {
            kind,
            name: claims.common_name.unwrap_or(claims.serial),
            not_before: whole(claims.not_before),
            not_after: whole(claims.not_after),
        }
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
    /// Has a PKI elsewhere signed it (`mtlsd ca import`)?
    pub signed_elsewhere: bool,
    /// The label of its key and that of its token; `None`: it is in a file.
    pub key_in_token: Option<String>,
    /// Every root and intermediate, those of a rotation's other CA as well.
    pub certificates: Vec<CaCertificate>,
    /// What must be done, one sentence each, with the command.
    pub alarms: Vec<String>,
}

pub(super) struct State {
    pub(super) phase: Phase,
    pub(super) bundle: Bundle,
    pub(super) issuing: Authority,
    certificates: Vec<CaCertificate>,
    stamp: Mutex<Stamp>,
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
        let home = directory.issuing(phase);
        let other = match phase {
            Phase::Steady => None,
            Phase::Begun => Some(directory.next()),
            Phase::Switched => Some(Directory::at(directory.root())),
        };
        let issuing = Authority::load(&home, domain, log, now)?;
        let mut roots = vec![issuing.root.clone()];
        let mut certificates = certificates(&home)?;
        if let Some(other) = other {
            let found = trust_domain_of(&other)?;
            if found != *domain {
                let directory = other.root().to_owned();
                return Err(CaError::OtherTrustDomain { directory, found, wanted: domain.clone() });
            }
            let root = other.root_certificate()?;
            // One PKI elsewhere may have signed both intermediates under one root.
            if !roots.contains(&root) {
                roots.push(root);
            }
            // One that is not whole is refused when it is to issue.
            for certificate in self::certificates(&other).unwrap_or_default() {
                if !certificates.contains(&certificate) {
                    certificates.push(certificate);
                }
            }
        }
        Ok(Self { phase, bundle: Bundle::from_der(roots)?, issuing, certificates, stamp: Mutex::new(stamp) })
    }

    /// Is the intermediate to be renewed, by a root that is here?
    pub(super) fn is_due(&self, now: SystemTime) -> bool {
        let issuing = &self.issuing;
        !issuing.offline && issuing.intermediate.is_due(issuing.root_not_after, now)
    }

    pub(super) fn changed(&self, path: &Path) -> bool {
        let mut stamp = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        let now = stamp.again(&Directory::at(path).watched());
        let changed = now != *stamp;
        if !changed {
            // What has settled meanwhile is not read again.
            *stamp = now;
        }
        changed
    }

    /// What must be done soon, with the command. `wanted`: where the configuration says that the key is.
    pub(super) fn alarms(
        &self,
        path: &Path,
        wanted: Option<&TokenKeySettings>,
        now: SystemTime,
    ) -> Vec<String> {
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
        let issuing = &self.issuing;
        let intermediate = &issuing.intermediate;
        let quarter = when::between(intermediate.not_before, intermediate.not_after) / 4;
        let is_near = when::between(now, intermediate.not_after) < INTERMEDIATE_WARNING.min(quarter);
        let of_intermediate = ends(intermediate.not_after);
        if is_near && issuing.of_site {
            alarms.push(format!(
                "the intermediate of the CA in {directory} {of_intermediate}, and your PKI has signed it; run \
                 `mtlsd ca csr --renew --directory {directory}`, have it signed, and `mtlsd ca import` the answer"
            ));
        } else if is_near && issuing.offline {
            alarms.push(format!(
                "the intermediate of the CA in {directory} {of_intermediate}, and the root's key is elsewhere; run \
                 `mtlsd ca renew-intermediate --directory {directory} --root DIRECTORY_OF_THE_ROOT`"
            ));
        }
        let quarter = when::between(issuing.root_not_before, issuing.root_not_after) / 4;
        if when::between(now, issuing.root_not_after) < ROOT_WARNING.min(quarter)
            && self.phase != Phase::Begun
        {
            let command = if issuing.of_site { "csr" } else { "rotate --begin" };
            alarms.push(format!(
                "the root of the CA in {directory} {}; run `mtlsd ca {command} --directory {directory}`",
                ends(issuing.root_not_after)
            ));
        }
        if let Some(wanted) = wanted
            && issuing.token.as_ref() != Some(wanted)
        {
            let found =
                issuing.token.as_ref().map_or_else(|| "a file".to_owned(), |key| format!("key {key}"));
            alarms.push(format!(
                "the configuration wants the key of the CA in {directory} to be key {wanted}, and it is {found}; change \
                 `identity.embedded_ca.key`, or move the key with `mtlsd ca rotate --begin --pkcs11-module …`"
            ));
        }
        alarms
    }

    pub(super) fn status(
        &self,
        path: &Path,
        wanted: Option<&TokenKeySettings>,
        problem: Option<String>,
        now: SystemTime,
    ) -> CaStatus {
        let mut alarms = self.alarms(path, wanted, now);
        alarms.extend(problem.map(|problem| format!("the directory cannot be read again: {problem}")));
        CaStatus {
            directory: path.to_owned(),
            phase: self.phase,
            roots: self.bundle.roots().iter().map(|root| root.subject().to_owned()).collect(),
            root_not_after: whole(self.issuing.root_not_after),
            root_offline: self.issuing.offline,
            intermediate: self.issuing.intermediate.name.clone(),
            intermediate_not_after: whole(self.issuing.intermediate.not_after),
            signed_elsewhere: self.issuing.of_site,
            key_in_token: self.issuing.token.as_ref().map(ToString::to_string),
            certificates: self.certificates.clone(),
            alarms,
        }
    }
}

/// The root of this CA, its intermediate, and those in between.
fn certificates(directory: &Directory) -> Result<Vec<CaCertificate>, CaError> {
    let root = authority::read(directory, ROOT_CRT, &directory.root_certificate()?)?;
    let mut all = vec![CaCertificate::of(CertificateKind::Root, root)];
    let (intermediate, above) = directory.intermediate()?;
    for der in std::iter::once(&intermediate).chain(&above) {
        let claims = authority::read(directory, INTERMEDIATE_CRT, der)?;
        all.push(CaCertificate::of(CertificateKind::Intermediate, claims));
    }
    Ok(all)
}
