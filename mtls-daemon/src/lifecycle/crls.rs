//! Revocation lists, kept up to date in the background: from files, and over HTTP with a copy on disk. What cannot be
//! used is told and changes nothing; the last good one stays.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use super::daemon::{Daemon, lock};
use super::lock::make_directory;
use crate::config::{Config, CrlOrigin, CrlPolicy, CrlSource};
use crate::fetch::{Fetch, FetchError, FetchSettings};
use crate::identity::revocation::crl::{Crl, CrlError, MAX_CRL_BYTES, issuers};
use crate::identity::revocation::{Crls, RevocationError, Sha256};
use crate::identity::store::watch::Stamp;
use crate::identity::{Revocations, TrustBundles, TrustDomain, when};
use crate::lease::{Leases, Mark};
use crate::observe::Reason;
use crate::observe::metrics::CrlHealth;
use crate::replace::replace_file;

/// Between two looks at what is due.
const TICK: Duration = Duration::from_secs(1);
/// For one request.
const TIMEOUT: Duration = Duration::from_secs(10);
/// A source that failed is tried again after it, if `refresh` is not shorter.
const RETRY: Duration = Duration::from_secs(30);
/// Largest file of intermediates, in bytes.
const MAX_ISSUER_FILE: u64 = 1 << 20;

/// Why a source gave no list.
#[derive(Debug, thiserror::Error)]
enum SourceError {
    #[error("cannot be read: {0}")]
    Read(io::Error),
    #[error("`issuer_file` {path} cannot be used: {why}", path = .0.display(), why = .1)]
    Issuers(PathBuf, String),
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("it answered with HTTP status {0}; check the URL")]
    Status(u16),
    #[error("no roots are known for trust domain {0}, so nobody can have signed it")]
    NoBundle(TrustDomain),
    #[error(transparent)]
    Crl(#[from] CrlError),
    #[error("thisUpdate: it is older ({new}) than the one in force ({old}); whoever serves it went back")]
    Older { new: String, old: String },
}

#[derive(Debug)]
struct State {
    settings: CrlSource,
    crl: Option<Arc<Crl>>,
    due: Instant,
    stamp: Stamp,
    failure: Option<String>,
    was_stale: bool,
}

/// What is known of every source.
#[derive(Debug)]
pub(super) struct CrlStore {
    /// Where copies of what was fetched are.
    directory: PathBuf,
    states: Mutex<Vec<State>>,
}

impl CrlStore {
    /// `state`: the daemon's state directory.
    pub(super) fn new(state: &Path) -> Self {
        Self { directory: state.join("crls"), states: Mutex::default() }
    }

    /// Looks at what is due; true if the lists are others than before. Blocks. `local`: only at what needs no network.
    pub(super) fn look(
        &self,
        settings: &[CrlSource],
        bundles: &TrustBundles,
        now: SystemTime,
        local: bool,
    ) -> bool {
        let mut states = lock(&self.states);
        let before = states.len();
        states.retain(|state| settings.contains(&state.settings));
        let mut changed = states.len() != before;
        for settings in settings {
            if !states.iter().any(|state| state.settings == *settings) {
                let mut state = State::new(settings.clone());
                state.crl = self.restore(settings, bundles, now);
                changed |= state.crl.is_some();
                states.push(state);
            }
        }
        // Files first: a server that does not answer holds up no file.
        states.sort_by_key(|state| matches!(state.settings.origin, CrlOrigin::Url { .. }));
        for state in states.iter_mut() {
            let remote = matches!(state.settings.origin, CrlOrigin::Url { .. });
            if !(local && remote) && state.is_due() {
                changed |= self.refresh(state, bundles, now);
            }
            state.tell_if_stale(now);
        }
        changed
    }

    /// The lists as they are asked.
    pub(super) fn lists(&self, policy: CrlPolicy) -> Crls {
        let states = lock(&self.states);
        let required: BTreeSet<_> = match policy {
            CrlPolicy::Prefer => BTreeSet::new(),
            CrlPolicy::Require => states.iter().map(|state| state.settings.trust_domain.clone()).collect(),
        };
        Crls::new(states.iter().filter_map(|state| state.crl.clone()), required)
    }

    /// For the metrics.
    pub(super) fn health(&self, now: SystemTime) -> Vec<CrlHealth> {
        let health = |state: &State| CrlHealth {
            trust_domain: state.settings.trust_domain.to_string(),
            source: state.settings.origin.to_string(),
            age: state.crl.as_ref().map(|crl| when::between(crl.this_update, now)),
            stale: state.crl.as_ref().is_none_or(|crl| crl.is_stale(now)),
        };
        lock(&self.states).iter().map(health).collect()
    }

    fn refresh(&self, state: &mut State, bundles: &TrustBundles, now: SystemTime) -> bool {
        let origin = state.settings.origin.to_string();
        let settings = &state.settings;
        let outcome = bytes_of(&settings.origin).and_then(|bytes| {
            let crl = read(settings, &bytes, bundles, now)?;
            match &state.crl {
                Some(old) if old.this_update > crl.this_update => Err(SourceError::Older {
                    new: when::rfc3339(crl.this_update),
                    old: when::rfc3339(old.this_update),
                }),
                _ => Ok((crl, bytes)),
            }
        });
        match outcome {
            Ok((crl, bytes)) => {
                state.due = Instant::now() + settings.refresh;
                state.failure = None;
                let same = state.crl.as_ref().is_some_and(|old| {
                    old.this_update == crl.this_update
                        && old.signer == crl.signer
                        && old.entries() == crl.entries()
                });
                if !same {
                    let entries = crl.entries();
                    tracing::info!(source = origin, issuer = crl.issuer.name, entries, "a CRL is in force");
                    self.keep(settings, &bytes);
                }
                state.crl = Some(Arc::new(crl));
                !same
            }
            Err(error) => {
                state.due = Instant::now() + settings.refresh.min(RETRY);
                let error = error.to_string();
                if state.failure.as_ref() != Some(&error) {
                    let stays = if state.crl.is_some() { "the last good one stays" } else { "there is none" };
                    tracing::error!(source = origin, error, "the CRL was refused; {stays}");
                    state.failure = Some(error);
                }
                false
            }
        }
    }

    /// The copy of what was fetched before the daemon was started.
    fn restore(&self, settings: &CrlSource, bundles: &TrustBundles, now: SystemTime) -> Option<Arc<Crl>> {
        let bytes = read_file(&self.directory.join(copy_of(&settings.origin)?)).ok()?;
        match read(settings, &bytes, bundles, now) {
            Ok(crl) => Some(Arc::new(crl)),
            Err(error) => {
                let source = settings.origin.to_string();
                tracing::warn!(source, %error, "the kept copy of the CRL cannot be used");
                None
            }
        }
    }

    fn keep(&self, settings: &CrlSource, bytes: &[u8]) {
        let Some(name) = copy_of(&settings.origin) else { return };
        let kept = make_directory(&self.directory).map_err(|error| error.to_string()).and_then(|()| {
            replace_file(&self.directory, &name, |output| output.write_all(bytes))
                .map_err(|error| RevocationError::from(error).to_string())
        });
        if let Err(error) = kept {
            tracing::warn!(error, "the CRL is in force, but no copy of it could be kept for the next start");
        }
    }
}

impl State {
    fn new(settings: CrlSource) -> Self {
        let due = Instant::now();
        Self { settings, crl: None, due, stamp: Stamp::default(), failure: None, was_stale: false }
    }

    /// By its time, or because the file is another.
    fn is_due(&mut self) -> bool {
        if let CrlOrigin::File(path) = &self.settings.origin {
            let stamp = self.stamp.again(std::slice::from_ref(path));
            let changed = stamp != self.stamp;
            self.stamp = stamp;
            if changed {
                return true;
            }
        }
        Instant::now() >= self.due
    }

    fn tell_if_stale(&mut self, now: SystemTime) {
        let Some(crl) = &self.crl else { return };
        let stale = crl.is_stale(now);
        if stale && !self.was_stale {
            let (source, since) = (&crl.source, when::rfc3339(crl.next_update));
            tracing::error!(
                source,
                issuer = crl.issuer.name,
                since,
                "the CRL is stale: a newer one is overdue"
            );
        }
        self.was_stale = stale;
    }
}

fn read(
    settings: &CrlSource,
    bytes: &[u8],
    bundles: &TrustBundles,
    now: SystemTime,
) -> Result<Crl, SourceError> {
    let domain = &settings.trust_domain;
    let bundle = bundles.get(domain).ok_or_else(|| SourceError::NoBundle(domain.clone()))?;
    let intermediates = settings.issuer_file.as_deref().map(certificates).transpose()?.unwrap_or_default();
    let issuers = issuers(bundle, &intermediates, now);
    Ok(Crl::read(bytes, &issuers, &settings.origin.to_string(), now)?)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, SourceError> {
    let unusable = |why: String| SourceError::Issuers(path.to_owned(), why);
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(MAX_ISSUER_FILE).read_to_end(&mut bytes))
        .map_err(|error| unusable(error.to_string()))?;
    let all: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|error| unusable(error.to_string()))?;
    if all.is_empty() { Err(unusable("there is no certificate in it".to_owned())) } else { Ok(all) }
}

fn bytes_of(origin: &CrlOrigin) -> Result<Vec<u8>, SourceError> {
    match origin {
        CrlOrigin::File(path) => read_file(path).map_err(SourceError::Read),
        CrlOrigin::Url { url, ca_file } => {
            let max_bytes = u64::try_from(MAX_CRL_BYTES).unwrap_or(u64::MAX);
            let settings = FetchSettings { ca_file: ca_file.clone(), timeout: TIMEOUT, max_bytes };
            let answer = Fetch::new(settings).get(url, &[])?;
            if answer.status == 200 { Ok(answer.body) } else { Err(SourceError::Status(answer.status)) }
        }
    }
}

/// One byte more than is taken, so that a file that is too large is told as such.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let limit = u64::try_from(MAX_CRL_BYTES).unwrap_or(u64::MAX);
    fs::File::open(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What is read from a file needs no copy.
fn copy_of(origin: &CrlOrigin) -> Option<String> {
    match origin {
        CrlOrigin::File(_) => None,
        CrlOrigin::Url { url, .. } => Some(format!("{}.crl", Sha256::of(url.as_bytes()))),
    }
}

/// Puts the lists in force, and cuts the live connections that they name.
fn publish(lists: Crls, revocations: &Revocations, leases: &Leases, now: SystemTime) -> usize {
    let issuers: Vec<_> = lists.issuers().copied().collect();
    revocations.set_crls(lists);
    let revoked = |reason| reason == Reason::Revoked;
    let end = |issuer: &Sha256| {
        leases.end(Mark::Issuer(issuer), |parties| {
            // What is not known any more refuses new connections only.
            parties.revoked(revocations, now).filter(|refusal| revoked(refusal.reason))
        })
    };
    issuers.iter().map(|issuer| end(issuer).connections).sum()
}

impl Daemon {
    /// Blocks. `local`: only at what needs no network.
    pub(super) fn look_at_crls(&self, local: bool) {
        let now = SystemTime::now();
        let (config, mut bundles) = {
            let changing = lock(&self.changing);
            let prepared = &changing.prepared;
            (Arc::clone(&prepared.config), TrustBundles::clone(&prepared.bundles))
        };
        for workload in &config.workloads {
            if let Ok(identity) = self.store.usable(&workload.name, now) {
                bundles = identity.trusted_with(&bundles);
            }
        }
        let changed = self.crls.look(&config.trust.crls, &bundles, now, local);
        if changed || self.crl_policy_is_other(&config) {
            let lists = self.crls.lists(config.trust.crl_policy);
            let cut = publish(lists, &self.revocations, &self.relay.leases, now);
            if cut > 0 {
                tracing::warn!(connections_cut = cut, "live connections were cut by a CRL");
            }
        }
        self.relay.observer.metrics().set_crls(self.crls.health(now));
    }

    fn crl_policy_is_other(&self, config: &Config) -> bool {
        let mut known = lock(&self.crl_policy);
        let other = known.as_ref() != Some(&config.trust.crl_policy);
        *known = Some(config.trust.crl_policy);
        other
    }
}

/// Keeps the lists up to date until the daemon ends.
pub(super) async fn keep(daemon: Arc<Daemon>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let looking = Arc::clone(&daemon);
        if let Err(error) = tokio::task::spawn_blocking(move || looking.look_at_crls(false)).await {
            tracing::error!(%error, "looking at CRLs failed inside mtlsd; please report it with the log");
        }
    }
}

#[cfg(test)]
mod tests;
