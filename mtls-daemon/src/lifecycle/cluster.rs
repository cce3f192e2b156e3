//! The cluster that the node is part of: what it offers is brought into force, and kept on disk for the next daemon.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::daemon::{Daemon, lock};
use crate::capture::Capture;
use crate::cluster::{Cluster, ClusterError, Earlier, Left, Notes, Reports, ResourceStanding, offer};
use crate::config::{Config, Instead, Offer, Outcome, Verdict};
use crate::control::view::{Alarm, ClusterStatus, LeftService, PolicyStatus, ResourceStatus, ServicesStatus};
use crate::identity::alarm::Level;
use crate::observe::metrics::{ClusterHealth, SourceHealth};

/// The shortest time between two changes of what is in force: a rolling update comes as at most five a second.
const GAP: Duration = Duration::from_millis(200);
/// The pause after a change is so many times as long as it took, [`MOST_GAP`] at the most: a large cluster has a fifth of one
/// processor, small ones notice nothing, and a node that is busy with other things still hears of its own pods in time.
const REST: u32 = 4;
const MOST_GAP: Duration = Duration::from_secs(2);
/// The shortest and the longest pause between two writings of what is known: some 10 MB in a cluster with 10,000 pods.
const WRITE: RangeInclusive<Duration> = Duration::from_secs(2)..=Duration::from_secs(60);
/// A pause is so many times as long as the last writing took.
const WRITE_REST: u32 = 100;
/// How long a daemon that takes an earlier one's place waits for the API server before it goes by what that one had written down.
const PATIENCE: Duration = Duration::from_secs(5);
/// After a change that could not be brought into force.
const AGAIN: Duration = Duration::from_secs(5);
/// How often it is looked at how old what is known is.
const LOOK: Duration = Duration::from_secs(1);
/// What keeps the daemon from being ready until the cluster has been heard.
pub(super) const CAUSE: &str = "kubernetes";
pub(super) const NOT_HEARD: &str = "the API server has not said yet which pods there are";

/// Begins to follow the cluster that the configuration names, if it names any.
///
/// # Errors
/// If this is not in a pod, or on no node.
pub(super) fn start(config: &Config) -> Result<Option<Cluster>, ClusterError> {
    let settings = config.kubernetes.as_ref();
    settings.map(|settings| Cluster::start(settings, &config.paths.state)).transpose()
}

/// Waits for the API server where an earlier daemon left its tables in force: they are newer than what it wrote down, and a pod that
/// is only in them must not be forgotten.
pub(super) async fn hear(cluster: &Cluster, capture: &Capture) {
    if capture.enrolled_namespaces().is_empty() {
        return;
    }
    if !cluster.heard_within(PATIENCE).await {
        let seconds = PATIENCE.as_secs();
        tracing::warn!(
            "the API server said nothing within {seconds} s; going by what an earlier daemon heard"
        );
    }
}

/// The cluster, and what became of what it said.
#[derive(Default)]
pub struct Following {
    cluster: Option<Arc<Cluster>>,
    earlier: Earlier,
    notes: Notes,
    /// Resources of which it was said that they are stale.
    stale: BTreeSet<String>,
    reports: Reports,
}

impl Following {
    /// Follows this one.
    #[must_use]
    pub fn of(cluster: Option<Cluster>) -> Self {
        Self { cluster: cluster.map(Arc::new), ..Self::default() }
    }

    /// Is there any?
    pub(super) fn is_of_a_cluster(&self) -> bool {
        self.cluster.is_some()
    }

    /// What it offers now; `None`: it was not heard yet, or there is none.
    pub(super) fn offer(&mut self, config: &Config) -> Option<Offer> {
        let (cluster, settings) = (self.cluster.as_ref()?, config.kubernetes.as_ref()?);
        let view = cluster.view()?;
        let (offer, notes) = offer(&view, settings, cluster.node(), &config.trust_domain, &self.earlier);
        for service in notes.mixed.iter().filter(|service| !self.notes.mixed.contains(service)) {
            tracing::warn!(
                service,
                "some pods behind this service are not enrolled: connections to its address are not mTLS; enrol them all"
            );
        }
        let is_new = |left: &&(String, Left)| left.1.is_for_its_size() && !self.notes.left.contains(left);
        for (service, why) in notes.left.iter().filter(is_new) {
            tracing::warn!(
                service,
                "the endpoint of this service is not chosen at connect(), and is left to kube-proxy: {why}"
            );
        }
        self.notes = notes;
        Some(offer)
    }

    /// Remembers what was good, and tells of what was not.
    pub(super) fn judged(&mut self, config: &Config, offer: &Offer) {
        for (verdict, policy) in config.verdicts.iter().zip(&offer.policies) {
            match &verdict.outcome {
                Outcome::Accepted => drop(self.earlier.insert(policy.name.clone(), policy.spec.clone())),
                Outcome::Refused { why, instead } => tell_refused(verdict, why, *instead),
            }
        }
        self.reports.note(&config.verdicts, Instant::now());
        self.earlier.retain(|name, _| offer.policies.iter().any(|policy| policy.name == *name));
    }

    fn standings(&self) -> Vec<ResourceStanding> {
        self.cluster.as_ref().map(|cluster| cluster.standings()).unwrap_or_default()
    }

    /// For whoever asks.
    pub(super) fn status(&self, config: &Config) -> Option<ClusterStatus> {
        let cluster = self.cluster.as_ref()?;
        let resource = |standing: ResourceStanding| ResourceStatus {
            objects: standing.objects,
            age_seconds: standing.age.map(|age| age.as_secs()),
            trouble: standing.trouble,
            refused: standing
                .refused
                .iter()
                .map(|refused| format!("{}: {}", refused.key, refused.why))
                .collect(),
            resource: standing.resource,
        };
        Some(ClusterStatus {
            node: cluster.node().to_owned(),
            resources: cluster.standings().into_iter().map(resource).collect(),
            mixed_services: self.notes.mixed.clone(),
            services: self.services(config),
            policies: config.verdicts.iter().map(policy_status).collect(),
        })
    }

    /// What becomes of Services at connect(); `None`: nothing.
    fn services(&self, config: &Config) -> Option<ServicesStatus> {
        config.kubernetes.as_ref().filter(|settings| settings.resolve_services)?;
        let resolved: BTreeSet<&str> = config.services.iter().map(|service| service.name.as_str()).collect();
        let left = self.notes.left.iter();
        Some(ServicesStatus {
            resolved: resolved.len(),
            left: left
                .map(|(service, why)| LeftService { service: service.clone(), why: why.to_string() })
                .collect(),
        })
    }

    /// What is stale.
    pub(super) fn alarms(&self) -> Vec<Alarm> {
        let alarm = |standing: ResourceStanding| Alarm {
            about: format!("kubernetes {}", standing.resource),
            level: Level::Critical,
            detail: format!(
                "last heard {}; what was heard then stays in force: {}",
                heard(standing.age),
                standing.trouble.unwrap_or_default()
            ),
        };
        self.standings().into_iter().filter(ResourceStanding::is_stale).map(alarm).collect()
    }

    /// For the metrics.
    pub(super) fn health(&self, config: &Config) -> ClusterHealth {
        let source = |standing: ResourceStanding| SourceHealth {
            stale: standing.is_stale(),
            age: standing.age,
            objects: standing.objects,
            refused: standing.refused.len(),
            source: standing.resource,
        };
        let refused = |verdict: &&Verdict| verdict.outcome != Outcome::Accepted;
        ClusterHealth {
            sources: self.standings().into_iter().map(source).collect(),
            mixed_services: self.notes.mixed.len(),
            policies_refused: config.verdicts.iter().filter(refused).count(),
        }
    }

    fn tell_stale(&mut self) {
        for standing in self.standings() {
            let age = heard(standing.age);
            let ResourceStanding { resource, trouble, .. } = &standing;
            match (standing.is_stale(), self.stale.contains(resource)) {
                (true, false) => {
                    let why = trouble.as_deref().unwrap_or_default();
                    tracing::error!(%resource, heard = age, "what the cluster says is stale; what was heard last stays in force: {why}");
                    self.stale.insert(resource.clone());
                }
                (false, true) => {
                    tracing::info!(%resource, "the cluster is heard again");
                    self.stale.remove(resource);
                }
                _ => {}
            }
        }
    }
}

fn heard(age: Option<Duration>) -> String {
    age.map_or_else(|| "never".to_owned(), |age| format!("{} s ago", age.as_secs()))
}

fn policy_status(verdict: &Verdict) -> PolicyStatus {
    let detail = match &verdict.outcome {
        Outcome::Accepted => String::new(),
        Outcome::Refused { why, instead } => format!("{why}; {instead}"),
    };
    PolicyStatus { policy: verdict.name.to_string(), accepted: detail.is_empty(), detail }
}

fn tell_refused(verdict: &Verdict, why: &str, instead: Instead) {
    let policy = &verdict.name;
    match instead {
        Instead::Earlier => tracing::warn!(%policy, why, "refused; {instead}"),
        Instead::Closed => {
            tracing::error!(%policy, why, "refused; {instead}")
        }
    }
}

/// Brings every change of the cluster into force.
pub(super) async fn keep(daemon: Arc<Daemon>) {
    let Some(cluster) = lock(&daemon.following).cluster.clone() else { return };
    let mut changes = cluster.changes();
    let mut write_at = Instant::now();
    let mut is_new = true;
    loop {
        let relevant = Arc::clone(&daemon);
        let began = Instant::now();
        let taken = tokio::task::spawn_blocking(move || relevant.take_over_from_cluster()).await;
        let gap = gap_after(began.elapsed());
        let again = (!taken.unwrap_or(false)).then(|| Instant::now() + AGAIN);
        sleep(gap).await;
        loop {
            if again.is_some_and(|again| again <= Instant::now()) {
                break;
            }
            if is_new && write_at <= Instant::now() {
                let (known, began) = (Arc::clone(&cluster), Instant::now());
                let outcome = tokio::task::spawn_blocking(move || known.remember()).await;
                if let Ok(Err(error)) = outcome {
                    tracing::warn!(%error, "what the cluster says is not kept for the next daemon; trying again");
                }
                is_new = false;
                write_at = Instant::now() + pause_after(began.elapsed());
            }
            lock(&daemon.following).tell_stale();
            daemon.report_verdicts(&cluster).await;
            tokio::select! {
                () = changes.next() => {
                    is_new = true;
                    break;
                }
                () = sleep(LOOK) => {}
            }
        }
    }
}

/// How long nothing else is brought into force after a change that took so long.
fn gap_after(change: Duration) -> Duration {
    change.saturating_mul(REST).clamp(GAP, MOST_GAP)
}

/// How long nothing is written after a writing that took so long.
fn pause_after(writing: Duration) -> Duration {
    writing.saturating_mul(WRITE_REST).clamp(*WRITE.start(), *WRITE.end())
}

impl Daemon {
    /// Writes what became of policy objects into their status.
    async fn report_verdicts(&self, cluster: &Cluster) {
        loop {
            let Some(verdict) = lock(&self.following).reports.next(Instant::now()) else { return };
            match cluster.report(&verdict).await {
                Ok(()) => lock(&self.following).reports.written(verdict),
                Err(error) => {
                    tracing::warn!(%error, policy = %verdict.name, "its status could not be written; trying again");
                    lock(&self.following).reports.failed(verdict, Instant::now());
                }
            }
        }
    }

    /// Brings what the cluster offers now into force, if it is something else. `false`: that failed.
    fn take_over_from_cluster(&self) -> bool {
        let config = Arc::clone(&lock(&self.changing).prepared.config);
        let Some(offer) = lock(&self.following).offer(&config) else {
            self.readiness.block(CAUSE, NOT_HEARD.to_owned());
            return true;
        };
        match self.apply_offer(offer) {
            Ok(true) => self.reconcile(),
            Ok(false) => {}
            Err(error) => {
                tracing::error!(
                    error,
                    "what the cluster says could not be brought into force; what was heard before stays"
                );
                self.readiness.block(CAUSE, error);
                return false;
            }
        }
        self.readiness.clear(CAUSE);
        true
    }

    /// `false`: it changes nothing.
    fn apply_offer(&self, offer: Offer) -> Result<bool, String> {
        let mut changing = lock(&self.changing);
        if *changing.offer == offer {
            return Ok(false);
        }
        let config = changing.sources.with(&offer).map_err(|error| error.to_string())?;
        lock(&self.following).judged(&config, &offer);
        let same = *changing.prepared.config == config;
        if !same {
            let prepared = changing.prepared.again(config).map_err(|error| error.to_string())?;
            self.bring_into_force(&mut changing, prepared)?;
            tracing::debug!(generation = changing.generation, "what the cluster says now is in force");
        }
        changing.offer = Arc::new(offer);
        Ok(!same)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn after_a_change_there_is_a_pause_by_how_long_it_took() {
        assert_eq!(gap_after(Duration::from_millis(1)), GAP);
        assert_eq!(gap_after(Duration::from_millis(100)), Duration::from_millis(400));
        assert_eq!(gap_after(Duration::from_secs(3)), MOST_GAP);
    }

    #[test]
    fn what_takes_long_to_write_is_written_seldom() {
        assert_eq!(pause_after(Duration::from_millis(1)), Duration::from_secs(2));
        assert_eq!(pause_after(Duration::from_millis(100)), Duration::from_secs(10));
        assert_eq!(pause_after(Duration::from_secs(3)), Duration::from_secs(60));
    }
}
