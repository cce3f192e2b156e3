//! How near the end of an identity is, and when that is worth an alarm.
//!
//! A certificate that is renewed in time never gets near its end, so nearness is a failure of whoever issues it.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use super::bundle::Root;
use super::ca::{CaCertificate, CertificateKind};
use super::store::IdentityStatus;
use super::verified::Validity;
use super::{Bundle, TrustBundles, TrustDomain, when};

const DAY: Duration = Duration::from_secs(86_400);

/// How near the end is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Far, or the first certificate is still being fetched.
    #[default]
    Ok,
    /// Within [`Thresholds::warning`].
    Warning,
    /// Within [`Thresholds::critical`].
    Critical,
    /// Not valid: expired, not valid yet, or there is none.
    Expired,
}

impl Level {
    /// Every level, the best first; the metric's number is the place in it.
    pub const ALL: [Self; 4] = [Self::Ok, Self::Warning, Self::Critical, Self::Expired];

    /// The text shown to people.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Critical => "critical",
            Self::Expired => "expired",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How much may be left before there is an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threshold {
    /// Percent of the whole life, 1 to 99.
    Share(u8),
    /// A time.
    Left(Duration),
}

impl Threshold {
    fn is_reached(self, life: Duration, left: Duration) -> bool {
        match self {
            Self::Share(percent) => left.saturating_mul(100) <= life.saturating_mul(percent.into()),
            Self::Left(time) => left <= time,
        }
    }
}

/// When there is an alarm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Thresholds {
    /// Somebody should look. Default 25 %: renewal is at half of the life.
    pub warning: Threshold,
    /// Somebody must act. Default 10 %.
    pub critical: Threshold,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { warning: Threshold::Share(25), critical: Threshold::Share(10) }
    }
}

impl Thresholds {
    /// For roots in addition: a quarter of ten years is too early to be of use.
    const OF_ROOTS: Self = Self {
        warning: Threshold::Left(DAY.saturating_mul(30)),
        critical: Threshold::Left(DAY.saturating_mul(7)),
    };

    fn level(self, life: Validity, now: SystemTime) -> Level {
        if !life.holds_at(now) {
            return Level::Expired;
        }
        let (whole, left) = (when::between(life.from, life.until), when::between(now, life.until));
        match () {
            () if self.critical.is_reached(whole, left) => Level::Critical,
            () if self.warning.is_reached(whole, left) => Level::Warning,
            () => Level::Ok,
        }
    }

    fn level_of_root(self, life: Validity, now: SystemTime) -> Level {
        self.level(life, now).min(Self::OF_ROOTS.level(life, now))
    }
}

/// What an alarm is about.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The identity of the workload of that name.
    Workload(String),
    /// The roots of a trust domain.
    TrustDomain(TrustDomain),
    /// A certificate of the embedded CA, with its name.
    CaCertificate(CertificateKind, String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Workload(name) => write!(f, "workload {name}"),
            Self::TrustDomain(domain) => write!(f, "trust domain {domain}"),
            Self::CaCertificate(kind, name) => write!(f, "embedded CA: {} {name}", kind.as_str()),
        }
    }
}

/// How one identity, or one trust domain's roots, stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// How near the end is.
    pub level: Level,
    /// `notAfter`; `None` when there is nothing.
    pub until: Option<SystemTime>,
    /// A sentence: when it ends and what the last failure was.
    pub detail: String,
}

/// How a workload's identity stands.
#[must_use]
pub fn of_workload(status: &IdentityStatus, thresholds: Thresholds, now: SystemTime) -> Standing {
    let Some((until, from)) = status.chain_not_after.zip(status.life_from) else {
        // Somebody who was only just asked for the first time has not failed.
        let level = if status.failures > 0 { Level::Expired } else { Level::Ok };
        return Standing { level, until: None, detail: with_error("there is no certificate", status) };
    };
    // A part of the validity counts as the life; all of it decides whether the certificate is valid.
    let level = match status.valid {
        true => thresholds.level(Validity { from, until }, now.max(from)),
        false => Level::Expired,
    };
    let subject = match &status.ends_first {
        Some(intermediate) => format!("the intermediate {intermediate} of its chain"),
        None => "the certificate".to_owned(),
    };
    let what = match status.not_before {
        Some(not_before) if now < not_before && !status.valid => {
            format!("the certificate is {}; check this node's clock", when::not_yet(not_before, now))
        }
        _ if now > until => format!("{subject} {}", when::expired(until, now)),
        _ => format!(
            "{subject} expires in {} ({})",
            when::span(when::between(now, until)),
            when::rfc3339(until)
        ),
    };
    Standing { level, until: Some(until), detail: with_error(&what, status) }
}

fn with_error(what: &str, status: &IdentityStatus) -> String {
    match (&status.last_error, status.failures) {
        (Some(error), failures) => {
            format!("{what}; {failures} attempts to renew it failed, the last one with: {error}")
        }
        (None, _) => what.to_owned(),
    }
}

/// The root of a bundle that lasts longest; a better one is less.
type Longest = (Level, Reverse<SystemTime>, String);

/// How the roots of each trust domain stand. The longest of a bundle counts, since roots are replaced by adding the new one
/// first; of several workloads with bundles of their own, the one that stands worst.
pub fn of_roots<'a>(
    configured: &'a TrustBundles,
    of_workloads: impl Iterator<Item = &'a TrustBundles>,
    thresholds: Thresholds,
    now: SystemTime,
) -> BTreeMap<TrustDomain, Standing> {
    let longest = |bundle: &Bundle| {
        let of = |root: &Root| {
            (
                thresholds.level_of_root(root.validity(), now),
                Reverse(root.not_after()),
                root.subject().to_owned(),
            )
        };
        bundle.roots().iter().map(of).min()
    };
    let each = configured.iter().filter_map(|(domain, bundle)| Some((domain, longest(bundle)?)));
    let mut all: BTreeMap<&TrustDomain, Longest> = each.collect();
    let mut brought: BTreeMap<&TrustDomain, Longest> = BTreeMap::new();
    for (domain, bundle) in of_workloads.flat_map(TrustBundles::iter) {
        let Some(own) = longest(bundle) else { continue };
        // A workload believes what is configured besides.
        let believed = match all.get(domain) {
            Some(configured) => own.min(configured.clone()),
            None => own,
        };
        match brought.get(domain) {
            Some(worst) if *worst >= believed => {}
            _ => drop(brought.insert(domain, believed)),
        }
    }
    all.extend(brought);
    all.into_iter().map(|(domain, root)| (domain.clone(), of_longest(root, now))).collect()
}

fn of_longest((level, Reverse(until), subject): Longest, now: SystemTime) -> Standing {
    let detail = match level {
        Level::Expired => {
            format!("none of its roots is valid now; {subject} ends at {}", when::rfc3339(until))
        }
        _ => format!(
            "{subject}, the root that lasts longest, expires in {} ({})",
            when::span(when::between(now, until)),
            when::rfc3339(until)
        ),
    };
    Standing { level, until: Some(until), detail }
}

/// How the roots and intermediates of the embedded CA stand. One that is renewed in time gives no alarm; a root has the
/// times of roots.
#[must_use]
pub fn of_ca(
    certificates: &[CaCertificate],
    thresholds: Thresholds,
    now: SystemTime,
) -> BTreeMap<Subject, Standing> {
    let of = |certificate: &CaCertificate| {
        let until = SystemTime::from(certificate.not_after);
        let life = Validity { from: certificate.not_before.into(), until };
        let level = match certificate.kind {
            CertificateKind::Root => thresholds.level_of_root(life, now),
            CertificateKind::Intermediate => thresholds.level(life, now),
        };
        let detail = match now > until {
            true => format!("it {}", when::expired(until, now)),
            false => {
                let left = when::span(when::between(now, until));
                format!("it expires in {left} ({})", when::rfc3339(until))
            }
        };
        let subject = Subject::CaCertificate(certificate.kind, certificate.name.clone());
        (subject, Standing { level, until: Some(until), detail })
    };
    certificates.iter().map(of).collect()
}

/// The levels that were last spoken of, so that each change is told once.
#[derive(Debug, Default)]
pub struct Told(BTreeMap<Subject, Level>);

impl Told {
    /// Takes how everything stands now; gives what is at another level than before, with that one.
    pub fn changes<'a>(
        &mut self,
        now: &'a BTreeMap<Subject, Standing>,
    ) -> Vec<(&'a Subject, &'a Standing, Level)> {
        let before = std::mem::take(&mut self.0);
        self.0 = now.iter().map(|(subject, standing)| (subject.clone(), standing.level)).collect();
        let change = |(subject, standing): (&'a Subject, &'a Standing)| {
            let level = before.get(subject).copied().unwrap_or_default();
            (level != standing.level).then_some((subject, standing, level))
        };
        now.iter().filter_map(change).collect()
    }
}

#[cfg(test)]
mod tests;
