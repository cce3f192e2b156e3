//! What the daemon says about itself on the admin socket.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::daemon::{Daemon, lock};
use super::secrets::Secrets;
use super::{drill, verify};
use crate::config::{Selector, Workload};
use crate::control::drill::{DrillError, DrillReport};
use crate::control::enroll::{Changed, EnrolError, EnrolReport, EnrolRequest, Enrolled};
use crate::control::revoke::{RevokeReport, RevokeRequest, UnrevokeReport, UnrevokeRequest};
use crate::control::rollout::RolloutError;
use crate::control::view::{
    Ability, Alarm, ConfigStatus, ConnectionSums, DaemonView, KtlsDefect, KtlsStatus, ReloadReport, Status,
    VerifyReport, WorkloadState, WorkloadStatus,
};
use crate::datapath::ktls::Suite;
use crate::datapath::relay::KernelTls;
use crate::diagnose::{self, LiveError, LiveReport, LiveRequest, PathReport, UnknownParty};
use crate::flows::rollout::{self, RolloutReport};
use crate::flows::{Moment, Record, judge};
use crate::identity::SpiffeId;
use crate::identity::alarm::{self, Level};
use crate::identity::revocation::{Entry, RevocationError, Target};
use crate::observe::connection::{CertificateInfo, ConnectionRecord, Datapath};
use crate::observe::explain::near::NearMisses;
use crate::observe::metrics::WorkloadMetrics;
use crate::observe::recorder::Recorder;
use crate::snapshot::Snapshot;
use crate::workload::Presence;

impl DaemonView for Daemon {
    fn status(&self) -> Status {
        self.count_overdue();
        let standings = self.standings(SystemTime::now());
        let alarms = standings.into_iter().filter(|(_, standing)| standing.level != Level::Ok);
        let coverage = lock(&self.coverage);
        let uncovered = coverage.alarms().map(|(check, detail)| Alarm {
            about: format!("verify: {check}"),
            level: Level::Critical,
            detail,
        });
        let snapshot = self.relay.snapshot.load_full();
        let (of_cluster, kubernetes) = {
            let following = lock(&self.following);
            (following.alarms(), following.status(&snapshot.config))
        };
        let changing = lock(&self.changing);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            trust_domain: snapshot.config.trust_domain.to_string(),
            started: self.started,
            not_ready: self.readiness.reasons(),
            alarms: alarms
                .map(|(subject, standing)| Alarm {
                    about: subject.to_string(),
                    level: standing.level,
                    detail: standing.detail,
                })
                .chain(uncovered)
                .chain(of_cluster)
                .collect(),
            config: ConfigStatus {
                file: self.config_file.clone(),
                generation: changing.generation,
                loaded: changing.loaded,
                last_refusal: lock(&self.last_refusal).clone(),
            },
            connections: total(&snapshot),
            abilities: self.abilities(),
            embedded_ca: changing.prepared.ca.as_ref().map(|ca| ca.status(SystemTime::now())),
            kubernetes,
        }
    }

    fn workloads(&self) -> Vec<WorkloadStatus> {
        self.count_overdue();
        let snapshot = self.relay.snapshot.load_full();
        let now = SystemTime::now();
        let identities = self.store.status(now);
        let thresholds = snapshot.config.alarms;
        let node = lock(&self.node);
        let mut workloads: Vec<_> = snapshot
            .workloads
            .values()
            .map(|workload| {
                let settings = &workload.settings;
                let identity = identities.iter().find(|status| status.workload == settings.name);
                let (state, mut detail) = presence(settings, node.presence(&settings.name));
                if let Err(refusal) = workload.usable_identity(SystemTime::now()) {
                    detail = format!("{detail} {refusal}").trim().to_owned();
                }
                WorkloadStatus {
                    name: settings.name.clone(),
                    spiffe_id: settings.spiffe_id.to_string(),
                    mode: settings.mode.to_string(),
                    selector: selector(&settings.select),
                    state,
                    detail,
                    identity_source: identity.map_or("none", |status| status.source).to_owned(),
                    certificate: identity.and_then(|status| {
                        let serial = status.serial.clone()?;
                        Some(CertificateInfo { serial, not_after: status.not_after?.into() })
                    }),
                    identity_error: identity.and_then(|status| status.last_error.clone()),
                    identity_alarm: identity
                        .map(|status| alarm::of_workload(status, thresholds, now).level)
                        .unwrap_or_default(),
                    connections: sums(&workload.metrics),
                }
            })
            .collect();
        workloads.sort_by(|a, b| a.name.cmp(&b.name));
        workloads
    }

    fn look(&self) {
        self.reconcile();
    }

    fn recorder(&self) -> &Recorder {
        self.relay.observer.recorder()
    }

    fn near_misses(&self, record: &ConnectionRecord, allowed_too: bool) -> Option<NearMisses> {
        let mut near = diagnose::near_misses(&self.relay.snapshot.load_full(), record, allowed_too)?;
        let began = record.time - Duration::from_micros(record.duration_us);
        let changing = lock(&self.changing);
        near.changed_since = (changing.loaded > began).then_some(changing.generation);
        Some(near)
    }

    fn path(&self, from: &str, to: &str) -> Result<PathReport, UnknownParty> {
        let snapshot = self.relay.snapshot.load_full();
        let now = SystemTime::now();
        let ground = diagnose::Ground {
            snapshot: &snapshot,
            now,
            presence: &|workload| lock(&self.node).presence(workload).cloned(),
            revoked: &|id| self.denied(id, now),
            datapath: &|workload| self.expected_datapath(&snapshot, workload, None),
        };
        diagnose::path(&ground, from, to)
    }

    async fn diagnose(&self, request: LiveRequest, by: String) -> Result<LiveReport, LiveError> {
        self.diagnose_live(request, by).await
    }

    fn revocations(&self) -> Vec<Arc<Entry>> {
        self.revocations.entries(SystemTime::now())
    }

    fn revoke(&self, request: RevokeRequest, by: String) -> Result<RevokeReport, RevocationError> {
        self.put_on_deny_list(request, by)
    }

    fn unrevoke(&self, request: UnrevokeRequest, by: String) -> Result<UnrevokeReport, RevocationError> {
        self.take_off_deny_list(&request, &by)
    }

    fn enroll(&self, request: &EnrolRequest, by: &str) -> Result<EnrolReport, EnrolError> {
        self.enroll_unit(request, by)
    }

    fn unenroll(&self, name: &str, by: &str) -> Result<Changed, EnrolError> {
        self.unenroll_unit(name, by)
    }

    fn confirm(&self, by: &str) -> Result<Changed, EnrolError> {
        self.confirm_change(by)
    }

    fn enrolled(&self) -> Result<Vec<Enrolled>, EnrolError> {
        Ok(self.enrolled_units())
    }

    async fn drill_revoke(&self) -> Result<DrillReport, DrillError> {
        let ca = lock(&self.changing).prepared.ca.clone().ok_or(DrillError::NoCa)?;
        let ground = drill::Ground {
            ca,
            revocations: Arc::clone(&self.revocations),
            leases: Arc::clone(&self.relay.leases),
            observer: Arc::clone(&self.relay.observer),
        };
        Ok(drill::run(&ground).await)
    }

    fn rollout(&self, workload: Option<&str>, since: Duration) -> Result<RolloutReport, RolloutError> {
        let snapshot = self.relay.snapshot.load_full();
        if let Some(name) = workload
            && snapshot.config.workload(name).is_none()
        {
            return Err(RolloutError::NoWorkload(name.to_owned()));
        }
        let (record, since) = self.seen(since)?;
        let ground = judge::Ground {
            config: &snapshot.config,
            policy: &snapshot.policy,
            directory: &snapshot.directory,
        };
        Ok(rollout::status(&ground, &record, since, workload))
    }

    fn flows(&self, since: Duration) -> Result<Record, RolloutError> {
        self.seen(since).map(|(record, _)| record)
    }

    async fn verify(&self) -> VerifyReport {
        // It asks the kernel much, and waits for connections of its own.
        tokio::task::block_in_place(|| verify::verify(self))
    }

    async fn reload(&self) -> ReloadReport {
        let (applied, messages) = Self::reload(self);
        ReloadReport { applied, generation: lock(&self.changing).generation, messages }
    }
}

impl Daemon {
    /// What was seen, and since when that is.
    fn seen(&self, since: Duration) -> Result<(Record, Moment), RolloutError> {
        let flows = &self.relay.flows;
        if !flows.is_on() {
            return Err(RolloutError::Off);
        }
        let since = Moment::now().before(since);
        Ok((flows.record(since), since))
    }

    /// The entry of the deny list that names this ID.
    pub(super) fn denied(&self, id: &SpiffeId, now: SystemTime) -> Option<String> {
        let target = Target::SpiffeId { id: id.clone() };
        self.revocations.entries(now).iter().find(|entry| entry.target == target).map(ToString::to_string)
    }

    /// Where a connection ends up with this suite, or if both ends agree on the first that is offered.
    pub(super) fn expected_datapath(
        &self,
        snapshot: &Snapshot,
        workload: &crate::snapshot::WorkloadState,
        agreed: Option<Suite>,
    ) -> (Datapath, Option<String>) {
        let tls = &snapshot.config.tls;
        let first = tls.cipher_suites.as_ref().and_then(|suites| suites.first().copied());
        let suite = agreed.or(first).unwrap_or(Suite::Aes128Gcm);
        match self.relay.offload(&workload.settings, tls, Some(suite)) {
            Ok(offload) if offload.at_once => (Datapath::RelayKtls, None),
            Ok(_) => (
                Datapath::RelayUserspace,
                Some("it moves to relay-ktls only when it carries much".to_owned()),
            ),
            Err(why) => (Datapath::RelayUserspace, Some(why.into_owned())),
        }
    }

    fn abilities(&self) -> Vec<Ability> {
        let features = self.relay.capture.features();
        let guard = if features.guards_unseen_sockets() {
            "packets of connections made before enrolment are dropped".to_owned()
        } else {
            "this kernel cannot attribute packets of sockets made before enrolment (Linux 6.15)".to_owned()
        };
        let ability =
            |name: &str, available, detail| Ability { name: name.to_owned(), available, detail, ktls: None };
        let root = self.relay.capture.cgroup_root().display();
        vec![
            ability("relay-userspace", true, format!("programs are attached to {root}")),
            relay_ktls(&self.relay.ktls.load()),
            ability("direct", self.is_direct(), self.direct_detail()),
            ability("guard", features.guards_unseen_sockets(), guard),
            ability("locked-memory", self.secrets.swapped.is_none(), locked_memory(&self.secrets)),
        ]
    }
}

fn locked_memory(secrets: &Secrets) -> String {
    let swapped = match &secrets.swapped {
        Some(why) => why.to_string(),
        None => "keys are not swapped".to_owned(),
    };
    let dumped = match &secrets.dumped {
        Some(errno) => format!("a crash may write them into a core dump ({errno})"),
        None => "there are no core dumps".to_owned(),
    };
    format!("{swapped}; {dumped}")
}

fn relay_ktls(ktls: &KernelTls) -> Ability {
    let (detail, status) = match ktls {
        Ok(abilities) => (
            abilities.to_string(),
            KtlsStatus {
                available: true,
                suites: abilities.suites.iter().map(|suite| suite.name().to_owned()).collect(),
                missing: abilities.missing.iter().map(ToString::to_string).collect(),
                rekey: abilities.rekey,
                why_no_rekey: abilities.why_no_rekey.clone(),
                defects: abilities
                    .defects
                    .iter()
                    .map(|defect| KtlsDefect {
                        what: defect.sentence().to_owned(),
                        remedy: defect.remedy().to_owned(),
                    })
                    .collect(),
                why_not: None,
            },
        ),
        Err(why) => (
            why.to_string(),
            KtlsStatus {
                available: false,
                suites: Vec::new(),
                missing: Vec::new(),
                rekey: false,
                why_no_rekey: None,
                defects: Vec::new(),
                why_not: Some(why.to_string()),
            },
        ),
    };
    Ability { name: "relay-ktls".to_owned(), available: status.available, detail, ktls: Some(status) }
}

fn total(snapshot: &Snapshot) -> ConnectionSums {
    let mut total = ConnectionSums::default();
    for workload in snapshot.workloads.values() {
        let one = sums(&workload.metrics);
        total.live += one.live;
        total.opened += one.opened;
        total.refused += one.refused;
        total.plaintext += one.plaintext;
        total.overdue += one.overdue;
    }
    total
}

fn sums(metrics: &Arc<WorkloadMetrics>) -> ConnectionSums {
    ConnectionSums {
        live: metrics.live(),
        opened: metrics.opened_total(),
        refused: metrics.refused_total(),
        plaintext: metrics.plaintext_total(),
        overdue: metrics.overdue(),
    }
}

pub(super) fn presence(settings: &Workload, presence: Option<&Presence>) -> (WorkloadState, String) {
    if settings.is_left_alone() {
        return (WorkloadState::Disabled, String::new());
    }
    match presence {
        Some(Presence::Enrolled) => (WorkloadState::Enrolled, String::new()),
        Some(Presence::Absent(why)) => (WorkloadState::Absent, why.clone()),
        Some(Presence::Failed(why)) => (WorkloadState::Failed, why.clone()),
        None => (WorkloadState::Absent, "not looked for yet".to_owned()),
    }
}

pub(super) fn selector(select: &Selector) -> String {
    let part = |what: &str, path: &Option<std::path::PathBuf>| {
        path.as_ref().map(|path| format!("{what} {}", path.display()))
    };
    let unit = select.unit.as_ref().map(|unit| format!("unit {unit}"));
    if let Some(pod) = &select.pod {
        let network = if pod.host_network { " on the node's network" } else { "" };
        return format!("pod{network}");
    }
    let uid = select.uid.map(|uid| format!("uid {uid}"));
    let parts = [part("netns", &select.netns), part("cgroup", &select.cgroup), unit, uid];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::ktls::{Abilities, Defect, Missing, Unavailable};

    #[test]
    fn what_the_kernels_tls_can_do_is_told_with_its_defects_and_their_remedy() {
        let abilities = Abilities {
            suites: vec![Suite::Aes128Gcm],
            missing: vec![Missing { suite: Suite::Aes256Gcm, why: "no such cipher".to_owned() }],
            rekey: false,
            why_no_rekey: Some("EBUSY".to_owned()),
            defects: vec![Defect::SpliceIntoFilledPipe],
        };
        let told = relay_ktls(&Ok(Arc::new(abilities)));
        assert!(told.available && told.name == "relay-ktls");
        assert_eq!(
            told.detail,
            "TLS_AES_128_GCM_SHA256; keys cannot be changed; splice into a pipe that is not empty loses bytes: \
             mtlsd fills a pipe only when it is empty"
        );
        let json = serde_json::to_value(&told).unwrap();
        assert_eq!(json["ktls"]["suites"], serde_json::json!(["TLS_AES_128_GCM_SHA256"]));
        assert_eq!(json["ktls"]["missing"][0], "TLS_AES_256_GCM_SHA384: no such cipher");
        assert_eq!(json["ktls"]["rekey"], false);
        assert_eq!(json["ktls"]["why_no_rekey"], "EBUSY");
        assert_eq!(json["ktls"]["defects"][0]["remedy"], "mtlsd fills a pipe only when it is empty");
        assert!(json["ktls"]["why_not"].is_null());
    }

    #[test]
    fn kernel_tls_that_cannot_be_had_is_told_with_why_not() {
        let told = relay_ktls(&Err(Unavailable::NoModule { may_load: false }));
        assert!(!told.available && told.detail.contains("modprobe tls"));
        let json = serde_json::to_value(&told).unwrap();
        assert_eq!((&json["ktls"]["available"], &json["ktls"]["rekey"]), (&false.into(), &false.into()));
        assert_eq!(json["ktls"]["why_not"], told.detail);
    }
}
