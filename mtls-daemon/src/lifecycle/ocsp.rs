//! OCSP responders, asked in the background; no handshake waits for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinSet;

use super::daemon::Daemon;
use crate::config::{Config, OcspPolicy, OcspResponder};
use crate::fetch::{Fetch, FetchSettings};
use crate::identity::Revocations;
use crate::identity::ocsp::{Ask, Failed, MAX_RESPONSE, Question, Responder, Rules};
use crate::lease::{Leases, Mark, Parties};
use crate::observe::Reason;

/// Between two looks at what is used.
const TICK: Duration = Duration::from_secs(1);
/// Between two looks at what is used no longer.
const SWEEP: Duration = Duration::from_secs(60);
/// For one question.
const TIMEOUT: Duration = Duration::from_secs(10);

/// As the configuration has them.
fn rules(config: &Config) -> Rules {
    let responders: BTreeMap<_, _> = config
        .trust
        .ocsp
        .iter()
        .map(|source| {
            let url = match &source.responder {
                OcspResponder::Certificate => None,
                OcspResponder::Url(url) => Some(url.clone()),
            };
            let (ca_file, refresh) = (source.ca_file.clone(), source.refresh);
            (source.trust_domain.clone(), Responder { url, ca_file, refresh })
        })
        .collect();
    let required = config.trust.ocsp_policy == OcspPolicy::Require;
    Rules { responders, own: Some(config.trust_domain.clone()), required }
}

/// Asks one responder. Blocks.
fn ask(ask: &Ask) -> Result<Vec<u8>, Failed> {
    let request = ask.question.request().map_err(|error| Failed::Question(error.to_string()))?;
    let max_bytes = u64::try_from(MAX_RESPONSE).unwrap_or(u64::MAX);
    let fetch = Fetch::new(FetchSettings { ca_file: ask.ca_file.clone(), timeout: TIMEOUT, max_bytes });
    let headers = [("Content-Type", "application/ocsp-request"), ("Accept", "application/ocsp-response")];
    let answer =
        fetch.post(&ask.url, &headers, &request).map_err(|error| Failed::Responder(error.to_string()))?;
    match answer.status {
        200 => Ok(answer.body),
        status => Err(Failed::Responder(format!("it answered with HTTP status {status}; check the URL"))),
    }
}

/// Cuts the live connections whose certificates were found revoked; how many.
fn cut(revocations: &Revocations, leases: &Leases, now: SystemTime) -> usize {
    let mut cut = 0;
    for question in revocations.ocsp().take_revoked() {
        let revoked = |parties: &Parties| {
            parties.revoked(revocations, now).filter(|refusal| refusal.reason == Reason::Revoked)
        };
        let connections_cut = leases.end(Mark::Serial(question.serial()), revoked).connections;
        if connections_cut > 0 {
            let serial = question.serial();
            tracing::warn!(%serial, connections_cut, "live connections were cut by an OCSP answer");
        }
        cut += connections_cut;
    }
    cut
}

/// Has a live connection this leaf?
fn lives(leases: &Leases, question: &Question) -> bool {
    leases.any(Mark::Serial(question.serial()), |parties| {
        parties
            .chains()
            .any(|chain| chain.question.as_ref().is_some_and(|known| known.key() == question.key()))
    })
}

impl Daemon {
    /// Takes the configured responders into use, and begins to ask about the connections that there are.
    fn follow_ocsp_rules(&self) {
        let snapshot = self.relay.snapshot.load();
        let config = &snapshot.config;
        if !self.revocations.ocsp().set_rules(rules(config)) {
            return;
        }
        let now = SystemTime::now();
        for workload in &config.workloads {
            let revoked = |parties: &Parties| {
                parties.revoked(&self.revocations, now).filter(|refusal| refusal.reason == Reason::Revoked)
            };
            self.relay.leases.end(Mark::Workload(&workload.name), revoked);
        }
    }

    /// What needs no network.
    pub(super) fn look_at_ocsp(&self) {
        self.follow_ocsp_rules();
        let ocsp = self.revocations.ocsp();
        let snapshot = self.relay.snapshot.load();
        let identities = snapshot.workloads.values().filter_map(|workload| workload.identity.as_ref().ok());
        ocsp.keep_own(&identities.map(|identity| Arc::clone(&identity.marks)).collect::<Vec<_>>());
        self.relay.observer.metrics().set_ocsp(ocsp.health(SystemTime::now()));
    }
}

/// Asks what is to be asked until the daemon ends.
pub(super) async fn keep(daemon: Arc<Daemon>) {
    let mut asking = JoinSet::new();
    let (mut looked, mut swept) = (Instant::now(), Instant::now());
    loop {
        let ocsp = daemon.revocations.ocsp();
        let now = Instant::now();
        if now >= looked {
            looked = now + TICK;
            daemon.look_at_ocsp();
        }
        if now.saturating_duration_since(swept) >= SWEEP {
            swept = now;
            ocsp.sweep(now, |question| lives(&daemon.relay.leases, question));
        }
        cut(&daemon.revocations, &daemon.relay.leases, SystemTime::now());
        for due in ocsp.due(now) {
            let daemon = Arc::clone(&daemon);
            asking.spawn_blocking(move || {
                // Given back whatever happens: a question that stays out is never asked again.
                let outcome = std::panic::catch_unwind(|| ask(&due)).unwrap_or_else(|_| {
                    Err(Failed::Question("asking failed inside mtlsd; please report it".to_owned()))
                });
                daemon.revocations.ocsp().answered(&due, outcome, SystemTime::now());
            });
        }
        let until = ocsp.next_due().map_or(looked, |due| due.min(looked));
        tokio::select! {
            () = ocsp.woken() => {}
            () = tokio::time::sleep_until(until.into()) => {}
            Some(_) = asking.join_next() => {}
        }
    }
}

#[cfg(test)]
mod tests;
