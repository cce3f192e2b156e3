//! Identities and roots that near their end: told to the log, the metrics and whoever asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::daemon::{Daemon, lock};
use crate::identity::alarm::{self, Level, Standing, Subject};
use crate::identity::ca::CertificateKind;
use crate::observe::metrics::{CaSample, RootsSample};

/// How often.
pub(super) const LOOK: Duration = Duration::from_secs(1);

impl Daemon {
    /// How every identity and every trust domain's roots stand.
    pub(super) fn standings(&self, now: SystemTime) -> BTreeMap<Subject, Standing> {
        let (config, configured, ca) = {
            let changing = lock(&self.changing);
            let prepared = &changing.prepared;
            (Arc::clone(&prepared.config), Arc::clone(&prepared.bundles), prepared.ca.clone())
        };
        let identities = self.store.status(now);
        let of_workloads = identities.iter().map(|status| {
            let standing = alarm::of_workload(status, config.alarms, now);
            (Subject::Workload(status.workload.clone()), standing)
        });
        let brought: Vec<_> = config.workloads.iter().filter_map(|w| self.store.get(&w.name)).collect();
        let brought = brought.iter().map(|identity| &identity.bundles);
        let of_roots = alarm::of_roots(&configured, brought, config.alarms, now);
        let certificates = ca.map(|ca| ca.status(now).certificates).unwrap_or_default();
        of_roots
            .into_iter()
            .map(|(domain, roots)| (Subject::TrustDomain(domain), roots))
            .chain(of_workloads)
            .chain(alarm::of_ca(&certificates, config.alarms, now))
            .collect()
    }

    /// Tells the log what changed, and the metrics how everything stands.
    pub(super) fn look_at_alarms(&self) {
        let now = SystemTime::now();
        let standings = self.standings(now);
        for (subject, standing, before) in lock(&self.told).changes(&standings) {
            tell(subject, standing, before);
        }
        let metrics = self.relay.observer.metrics();
        for status in self.store.status(now) {
            let level =
                standings.get(&Subject::Workload(status.workload.clone())).map(|standing| standing.level);
            metrics.workload(&status.workload).set_identity(level.unwrap_or_default(), status.failures);
        }
        let roots = standings.iter().filter_map(|(subject, standing)| match subject {
            Subject::TrustDomain(domain) => Some(RootsSample {
                trust_domain: domain.to_string(),
                level: standing.level,
                not_after: standing.until.and_then(crate::identity::when::to_unix),
            }),
            _ => None,
        });
        metrics.set_roots(roots.collect());
        let of_ca = standings.iter().filter_map(|(subject, standing)| match subject {
            Subject::CaCertificate(kind, name) => Some(CaSample {
                certificate: kind.as_str(),
                name: name.clone(),
                level: standing.level,
                not_after: standing.until.and_then(crate::identity::when::to_unix),
            }),
            _ => None,
        });
        metrics.set_ca(of_ca.collect());
    }
}

fn tell(subject: &Subject, standing: &Standing, before: Level) {
    let (level, detail) = (standing.level, &standing.detail);
    match level {
        Level::Ok => tracing::info!(%subject, %before, "the alarm is over: {detail}"),
        Level::Warning => tracing::warn!(%subject, %level, %before, "{detail}; {}", mend(subject)),
        Level::Critical => tracing::error!(%subject, %level, %before, "{detail}; {}", mend(subject)),
        Level::Expired => {
            tracing::error!(%subject, %level, %before, "{detail}; {} {}", closed(subject), mend(subject))
        }
    }
}

fn closed(subject: &Subject) -> &'static str {
    match subject {
        Subject::Workload(_) => "its connections are refused:",
        Subject::TrustDomain(_) => "whoever is of it is refused:",
        Subject::CaCertificate(..) => "what it vouches for is refused:",
    }
}

fn mend(subject: &Subject) -> &'static str {
    match subject {
        Subject::Workload(_) => "mend its issuer (docs/runbooks/issuer-down.md)",
        Subject::TrustDomain(_) => "add the new root to its bundle (docs/runbooks/bundle-rotation.md)",
        Subject::CaCertificate(CertificateKind::Root, _) => "change it (docs/runbooks/root-rotation.md)",
        Subject::CaCertificate(CertificateKind::Intermediate, _) => {
            "renew it (docs/runbooks/intermediate-rotation.md)"
        }
    }
}
