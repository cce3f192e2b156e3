//! The current identity of every workload, renewed in time.

mod schedule;
pub(crate) mod watch;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwapOption;
use serde::{Serialize, Serializer};
use tokio::sync::watch as channel;
use tokio::task::JoinSet;

use super::{Identity, IdentityError, IdentitySource, Wake, when};
use crate::observe::{Reason, Refusal};
use schedule::{Clock, Schedule};
use watch::{Directories, Stamp};

/// How often the store looks whether something is due.
const TICK: Duration = Duration::from_secs(1);
/// How often files are looked at even if nothing announced a change: a symlink far away may have been swapped.
const POLL: Duration = Duration::from_secs(5);
/// Quiet time between the last file event and the look at the files, so that a writer can finish.
const SETTLE: Duration = Duration::from_millis(100);
/// The look is put off no longer than this by events that do not end.
const MOST_SETTLE: Duration = Duration::from_secs(1);

/// What `mtlsd workloads` and the metrics show about one workload's identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IdentityStatus {
    /// The workload's name.
    pub workload: String,
    /// [`IdentitySource::kind`] of its source.
    pub source: &'static str,
    /// The SPIFFE ID, once there is a certificate.
    pub spiffe_id: Option<String>,
    /// The certificate's serial in hex.
    pub serial: Option<String>,
    /// The certificate's `notBefore`.
    #[serde(serialize_with = "instant")]
    pub not_before: Option<SystemTime>,
    /// The certificate's `notAfter`.
    #[serde(serialize_with = "instant")]
    pub not_after: Option<SystemTime>,
    /// The earliest `notAfter` of the certificate and its intermediates: from then on peers refuse it.
    #[serde(serialize_with = "instant")]
    pub chain_not_after: Option<SystemTime>,
    /// The intermediate whose that is; `None`: the certificate's own.
    pub ends_first: Option<String>,
    /// From when its life counts for an alarm: its `notBefore`, or when it was fetched if each fetch makes a new one, whose
    /// `notBefore` lies in the past for the sake of other nodes' clocks.
    #[serde(serialize_with = "instant")]
    pub life_from: Option<SystemTime>,
    /// Is there a certificate that is valid now?
    pub valid: bool,
    /// When the next certificate is fetched; `None` for files, which others renew.
    #[serde(serialize_with = "instant")]
    pub next_renewal: Option<SystemTime>,
    /// Certificates fetched so far.
    pub fetched: u64,
    /// Attempts that failed since the last one that did not.
    pub failures: u32,
    /// Why the last attempt failed, if it did.
    pub last_error: Option<String>,
    /// When it failed.
    #[serde(serialize_with = "instant")]
    pub last_error_at: Option<SystemTime>,
}

fn instant<S: Serializer>(time: &Option<SystemTime>, serializer: S) -> Result<S::Ok, S::Error> {
    time.map(when::rfc3339).serialize(serializer)
}

/// One identity, whatever the number of workloads that have it.
struct Entry {
    source: Arc<dyn IdentitySource>,
    /// Whose it is, as logs say it.
    whose: Mutex<String>,
    current: ArcSwapOption<Identity>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    schedule: Schedule,
    stamp: Stamp,
    version: u64,
    busy: bool,
    fetched: u64,
    fetched_at: Option<SystemTime>,
    last_error: Option<(String, SystemTime)>,
}

/// What was begun with an entry.
enum Begun {
    /// Something is due.
    Refresh,
    /// One of these files may have changed.
    Look(Vec<PathBuf>),
}

/// The identities of all workloads. `apply` sets what is wanted, `run` keeps it fresh.
pub struct IdentityStore {
    entries: Mutex<BTreeMap<String, Arc<Entry>>>,
    generation: channel::Sender<u64>,
    wake: Wake,
}

impl IdentityStore {
    /// An empty store.
    #[must_use]
    pub fn new() -> Self {
        let (generation, _) = channel::channel(0);
        Self { entries: Mutex::default(), generation, wake: Wake::default() }
    }

    /// Makes exactly these workloads known, by name. Workloads whose sources are equal share one identity: fifty pods of an
    /// account have one certificate. What there is of a source that is wanted again is kept; of a new one it is fetched: now,
    /// which may block, if the source is local, else by `run`. A failure is returned and tried again by `run`.
    pub fn apply(&self, wanted: BTreeMap<String, Arc<dyn IdentitySource>>) -> Vec<(String, IdentityError)> {
        let mut known: HashMap<_, _> =
            self.distinct().into_iter().map(|entry| (Key::of(&*entry.source), entry)).collect();
        let mut failures = Vec::new();
        let mut entries = BTreeMap::new();
        for (name, source) in wanted {
            let entry = known.entry(Key::of(&*source)).or_insert_with(|| {
                let entry = Arc::new(Entry::new(name.clone(), source));
                entry.source.connect(&self.wake);
                if entry.source.is_told() {
                    // Nothing to ask yet, and no failure to report.
                } else if !entry.source.is_local() {
                    lock(&entry.state).schedule.at_once(Clock::now());
                } else if let Err(error) = entry.fetch(Clock::now()) {
                    failures.push((name.clone(), error));
                }
                entry
            });
            entries.insert(name, Arc::clone(entry));
        }
        let mut whose: HashMap<*const Entry, Vec<&str>> = HashMap::new();
        for (name, entry) in &entries {
            whose.entry(Arc::as_ptr(entry)).or_default().push(name);
        }
        for entry in entries.values() {
            if let Some(names) = whose.remove(&Arc::as_ptr(entry)) {
                *lock(&entry.whose) = told(&names);
            }
        }
        *lock(&self.entries) = entries;
        self.announce();
        self.wake.wake();
        failures
    }

    /// Each identity once.
    fn distinct(&self) -> Vec<Arc<Entry>> {
        let entries = lock(&self.entries);
        let mut seen = HashSet::new();
        entries.values().filter(|entry| seen.insert(Arc::as_ptr(entry))).cloned().collect()
    }

    /// The identity of a workload, valid or not.
    #[must_use]
    pub fn get(&self, workload: &str) -> Option<Arc<Identity>> {
        lock(&self.entries).get(workload)?.current.load_full()
    }

    /// The identity of a workload if it is valid at `now`, else why there is none.
    pub fn usable(&self, workload: &str, now: SystemTime) -> Result<Arc<Identity>, Refusal> {
        let entry = lock(&self.entries).get(workload).cloned();
        let entry = entry.ok_or_else(|| {
            Refusal::new(Reason::NoIdentity, format!("workload {workload} has no identity source"))
        })?;
        let refuse = |why: String| Refusal::new(Reason::NoIdentity, format!("workload {workload}: {why}"));
        let Some(identity) = entry.current.load_full() else {
            let why = lock(&entry.state).last_error.as_ref().map(|(error, _)| error.clone());
            return Err(refuse(why.unwrap_or_else(|| "nothing was fetched yet".to_owned())));
        };
        identity.svid.check_validity(now).map_err(|error| refuse(error.to_string()))?;
        Ok(identity)
    }

    /// Wakes whenever an identity changed or a workload came or went; the number only counts changes.
    #[must_use]
    pub fn subscribe(&self) -> channel::Receiver<u64> {
        self.generation.subscribe()
    }

    /// The status of every workload's identity, by name.
    #[must_use]
    pub fn status(&self, now: SystemTime) -> Vec<IdentityStatus> {
        let entries = lock(&self.entries).clone();
        entries.into_iter().map(|(name, entry)| entry.status(name, now)).collect()
    }

    /// Renews and re-reads until dropped. Needs a tokio runtime with time enabled.
    pub async fn run(self: Arc<Self>) {
        let mut directories = Directories::new(self.wake.clone());
        let mut tasks = JoinSet::new();
        let mut last_look = Instant::now();
        loop {
            directories.watch(&self.watched_directories());
            let announced = tokio::select! {
                () = tokio::time::sleep(TICK) => false,
                () = self.wake.woken() => true,
            };
            if announced {
                let since = Instant::now();
                while tokio::time::timeout(SETTLE, self.wake.woken()).await.is_ok()
                    && since.elapsed() < MOST_SETTLE
                {}
            }
            let look = announced || last_look.elapsed() >= POLL;
            if look {
                last_look = Instant::now();
            }
            self.step(Clock::now(), look, &mut tasks);
            while tasks.try_join_next().is_some() {}
        }
    }

    /// Starts what is due, each in a thread of its own: one hanging file system holds up nobody else. Those that watch the same
    /// files share one look at them: as many threads as there are workloads would each keep memory.
    fn step(self: &Arc<Self>, now: Clock, look: bool, tasks: &mut JoinSet<()>) {
        let mut looks: BTreeMap<Vec<PathBuf>, Vec<Arc<Entry>>> = BTreeMap::new();
        for entry in self.distinct() {
            match entry.begin(now, look) {
                None => {}
                Some(Begun::Look(paths)) => looks.entry(paths).or_default().push(entry),
                Some(Begun::Refresh) => {
                    let store = Arc::clone(self);
                    tasks.spawn_blocking(move || store.refresh(&entry, now, look));
                }
            }
        }
        for entries in looks.into_values() {
            let store = Arc::clone(self);
            tasks.spawn_blocking(move || store.look(entries, now));
        }
    }

    fn refresh(&self, entry: &Entry, now: Clock, look: bool) {
        if entry.refresh(now, look) {
            self.announce();
        }
        lock(&entry.state).busy = false;
    }

    /// Begins to refresh those of which a file has changed. On a thread of the runtime.
    fn look(self: &Arc<Self>, entries: Vec<Arc<Entry>>, now: Clock) {
        for entry in entries {
            if entry.has_changed() {
                let store = Arc::clone(self);
                tokio::task::spawn_blocking(move || store.refresh(&entry, now, true));
            } else {
                lock(&entry.state).busy = false;
            }
        }
    }

    fn announce(&self) {
        self.generation.send_modify(|generation| *generation = generation.wrapping_add(1));
    }

    fn watched_directories(&self) -> BTreeSet<PathBuf> {
        let entries = self.distinct();
        let paths = entries.iter().flat_map(|entry| entry.source.watch_paths());
        paths.filter_map(|path| path.parent().map(PathBuf::from)).collect()
    }
}

impl Default for IdentityStore {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for IdentityStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(lock(&self.entries).keys()).finish()
    }
}

/// What makes two sources give the same.
#[derive(PartialEq, Eq, Hash)]
struct Key {
    kind: &'static str,
    settings: String,
}

impl Key {
    fn of(source: &dyn IdentitySource) -> Self {
        Self { kind: source.kind(), settings: source.describe() }
    }
}

/// Names as logs say them.
fn told(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [first, others @ ..] => format!("{first} and {} more", others.len()),
    }
}

impl Entry {
    fn new(whose: String, source: Arc<dyn IdentitySource>) -> Self {
        Self { source, whose: Mutex::new(whose), current: ArcSwapOption::empty(), state: Mutex::default() }
    }

    /// Is there possibly something to do, and nobody doing it?
    fn begin(&self, now: Clock, look: bool) -> Option<Begun> {
        let mut state = lock(&self.state);
        if state.busy {
            return None;
        }
        let told = state.version != self.source.version();
        let begun = if told || state.schedule.is_due(now) || self.source.needs_upkeep(now.monotonic) {
            Some(Begun::Refresh)
        } else {
            let paths = if look { self.source.watch_paths() } else { Vec::new() };
            (!paths.is_empty()).then_some(Begun::Look(paths))
        };
        state.busy = begun.is_some();
        begun
    }

    /// Fetches if it is due, a file changed or the source was told something; true if the identity is another one now, or
    /// none.
    fn refresh(&self, now: Clock, look: bool) -> bool {
        if self.source.needs_upkeep(now.monotonic) {
            let upkeep = catch_unwind(AssertUnwindSafe(|| self.source.upkeep(now.monotonic)));
            if upkeep.is_err() {
                let error = IdentityError::Panicked(self.source.kind());
                tracing::error!(workload = %lock(&self.whose), %error, "upkeep failed");
            }
        }
        let (due, version) = {
            let state = lock(&self.state);
            (state.schedule.is_due(now), state.version)
        };
        let changed = look && self.has_changed();
        if !due && !changed && self.source.version() == version {
            return false;
        }
        matches!(self.fetch(now), Ok(true) | Err(IdentityError::Withdrawn(_)))
    }

    fn has_changed(&self) -> bool {
        let before = lock(&self.state).stamp.clone();
        let now = before.again(&self.source.watch_paths());
        let mut state = lock(&self.state);
        let changed = now != state.stamp;
        if !changed {
            // What has settled meanwhile is not read again.
            state.stamp = now;
        }
        changed
    }

    /// True if the identity is another one now.
    fn fetch(&self, now: Clock) -> Result<bool, IdentityError> {
        // Taken before reading: a change during the read is seen at the next look.
        let (stamp, version) = (Stamp::of(&self.source.watch_paths()), self.source.version());
        let kind = self.source.kind();
        let result = catch_unwind(AssertUnwindSafe(|| self.source.fetch(now.system)))
            .unwrap_or(Err(IdentityError::Panicked(kind)));
        // Written meanwhile, they may be of two generations that fit together by chance: a chain without its end, old roots.
        let result = match stamp == stamp.again(&self.source.watch_paths()) {
            true => result,
            false => result.and(Err(IdentityError::Changing)),
        };
        let mut state = lock(&self.state);
        (state.stamp, state.version) = (stamp, version);
        match result {
            Ok(identity) => {
                let svid = &identity.svid;
                state.schedule.succeeded(now, svid, self.source.renews());
                state.fetched_at = Some(now.system);
                state.last_error = None;
                // An agent that is heard again says what it said before.
                if self.current.load().as_ref().is_some_and(|current| current.is_same(&identity)) {
                    return Ok(false);
                }
                state.fetched += 1;
                tracing::info!(
                    workload = %lock(&self.whose), source = kind, id = %svid.id, serial = %svid.serial,
                    not_after = %when::rfc3339(svid.not_after), "identity ready"
                );
                self.current.store(Some(Arc::new(identity)));
                Ok(true)
            }
            Err(error) => {
                state.schedule.failed(now);
                state.last_error = Some((error.to_string(), now.system));
                if matches!(error, IdentityError::Withdrawn(_)) {
                    self.current.store(None);
                    tracing::warn!(workload = %lock(&self.whose), source = kind, %error, "the identity is given up");
                } else {
                    tracing::warn!(workload = %lock(&self.whose), source = kind, %error, "no new identity; the last one stays in force");
                }
                Err(error)
            }
        }
    }

    fn status(&self, workload: String, now: SystemTime) -> IdentityStatus {
        let identity = self.current.load_full();
        let svid = identity.as_ref().map(|identity| &identity.svid);
        let state = lock(&self.state);
        IdentityStatus {
            workload,
            source: self.source.kind(),
            spiffe_id: svid.map(|svid| svid.id.to_string()),
            serial: svid.map(|svid| svid.serial.clone()),
            not_before: svid.map(|svid| svid.not_before),
            not_after: svid.map(|svid| svid.not_after),
            chain_not_after: svid.map(|svid| svid.first_end.not_after),
            ends_first: svid.and_then(|svid| svid.first_end.intermediate.clone()),
            life_from: svid.map(|svid| match (self.source.renews(), state.fetched_at) {
                (true, Some(at)) => svid.not_before.max(at),
                _ => svid.not_before,
            }),
            valid: svid.is_some_and(|svid| svid.check_validity(now).is_ok()),
            next_renewal: state.schedule.next_renewal(),
            fetched: state.fetched,
            failures: state.schedule.failures(),
            last_error: state.last_error.as_ref().map(|(error, _)| error.clone()),
            last_error_at: state.last_error.as_ref().map(|(_, at)| *at),
        }
    }
}

/// No code panics while it holds one of these locks, and what they guard is valid at every step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
#[cfg(test)]
mod writers;
