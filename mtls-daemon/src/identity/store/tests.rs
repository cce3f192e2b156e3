//! The store renews in time, keeps the last good identity, and says what is wrong.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::*;
use crate::identity::testing::{HOUR, LeafSpec, TestCa, TestLeaf};
use crate::identity::{
    EmbeddedCa, EmbeddedCaSettings, FilesError, IdentityFiles, Subject, TrustBundles, source::EmbeddedSource,
};

/// A source that does as it is told.
#[derive(Debug, Default)]
struct Told {
    life: Duration,
    fail: AtomicBool,
    panic: AtomicBool,
    withdraw: AtomicBool,
    fetches: AtomicUsize,
    version: AtomicU64,
    wake: Mutex<Wake>,
    remote: bool,
    name: String,
}

impl IdentitySource for Told {
    fn fetch(&self, now: SystemTime) -> Result<Identity, IdentityError> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        assert!(!self.panic.load(Ordering::SeqCst), "told to");
        if self.withdraw.load(Ordering::SeqCst) {
            return Err(IdentityError::Withdrawn("told to".into()));
        }
        if self.fail.load(Ordering::SeqCst) {
            return Err(FilesError::NoKey("told.key".into()).into());
        }
        let spec = LeafSpec {
            not_before: now - Duration::from_secs(60),
            not_after: now + self.life,
            ..LeafSpec::default()
        };
        let leaf = TestCa::root_valid("root", now - HOUR, now + 24 * HOUR).leaf(&spec);
        let svid = crate::identity::X509Svid::from_der(leaf.chain.clone(), &leaf.private_key(), now).unwrap();
        Ok(Identity { svid: Arc::new(svid), bundles: TrustBundles::new() })
    }

    fn version(&self) -> u64 {
        self.version.load(Ordering::SeqCst)
    }

    fn connect(&self, wake: &Wake) {
        *lock(&self.wake) = wake.clone();
    }

    fn is_local(&self) -> bool {
        !self.remote
    }

    fn renews(&self) -> bool {
        true
    }

    fn kind(&self) -> &'static str {
        "told"
    }

    fn describe(&self) -> String {
        self.name.clone()
    }
}

fn told(life: Duration) -> Arc<Told> {
    Arc::new(Told { life, ..Told::default() })
}

fn wanted(source: Arc<dyn IdentitySource>) -> BTreeMap<String, Arc<dyn IdentitySource>> {
    [("web".to_owned(), source)].into()
}

fn serial(store: &IdentityStore) -> String {
    store.get("web").unwrap().svid.serial.clone()
}

fn svid(now: SystemTime, before: Duration, after: Duration) -> crate::identity::X509Svid {
    let spec = LeafSpec { not_before: now - before, not_after: now + after, ..LeafSpec::default() };
    let leaf: TestLeaf = TestCa::root("root").leaf(&spec);
    crate::identity::X509Svid::from_der(leaf.chain.clone(), &leaf.private_key(), now).unwrap()
}

fn later(clock: Clock, monotonic: Duration, system: Duration) -> Clock {
    Clock { monotonic: clock.monotonic + monotonic, system: clock.system + system }
}

#[test]
fn renewal_is_due_at_half_of_the_life_by_either_clock() {
    let now = Clock::now();
    let mut schedule = Schedule::default();
    schedule.succeeded(now, &svid(now.system, Duration::ZERO, 2 * HOUR), true);
    // Seen from notBefore in whole seconds, and a tenth earlier or later.
    let (most, bit) = (HOUR * 9 / 10 - Duration::from_secs(2), HOUR / 5 + Duration::from_secs(4));
    assert!(!schedule.is_due(later(now, most, most)));
    assert!(schedule.is_due(later(now, most + bit, most + bit)));
    assert!(
        schedule.is_due(later(now, most + bit, Duration::ZERO)),
        "the wall clock was stopped or set back"
    );
    assert!(schedule.is_due(later(now, Duration::ZERO, most + bit)), "the machine slept");
    let back = Clock { system: now.system - HOUR, ..now };
    assert!(schedule.is_due(back), "the wall clock was set back before notBefore");
    let bit = Clock { system: now.system - Duration::from_secs(30), ..now };
    assert!(!schedule.is_due(bit), "another one would be as early");
}

#[test]
fn a_life_that_is_half_over_at_once_is_not_asked_for_again_at_every_tick() {
    let now = Clock::now();
    let mut schedule = Schedule::default();
    schedule.succeeded(now, &svid(now.system, HOUR, Duration::from_secs(20)), true);
    assert!(!schedule.is_due(later(now, Duration::from_secs(8), Duration::from_secs(8))));
    assert!(schedule.is_due(later(now, Duration::from_secs(12), Duration::from_secs(12))));
}

#[test]
fn renewals_are_spread_by_a_tenth_of_the_wait_and_a_seed_repeats_them() {
    let now = Clock::now();
    let svid = svid(now.system, Duration::ZERO, 2 * HOUR);
    let wait = |seed| {
        let mut schedule = Schedule::default();
        schedule.random.seed(seed);
        schedule.succeeded(now, &svid, true);
        when::between(now.system, schedule.next_renewal().unwrap())
    };
    let waits: Vec<_> = (0..200).map(wait).collect();
    let bit = Duration::from_secs(2);
    assert!(waits.iter().all(|wait| (HOUR * 9 / 10 - bit..=HOUR * 11 / 10).contains(wait)), "{waits:?}");
    assert!(
        waits.iter().any(|wait| *wait < HOUR * 92 / 100) && waits.iter().any(|wait| *wait > HOUR * 108 / 100)
    );
    assert_eq!(wait(7), wait(7));
    assert_ne!(wait(7), wait(8));
}

#[test]
fn the_life_that_alarms_go_by_begins_with_the_fetch_where_each_makes_a_new_one() {
    let store = IdentityStore::new();
    // 60 s behind and 10 s ahead: by notBefore it would be nearly over from the start.
    store.apply(wanted(told(Duration::from_secs(10))));
    let now = SystemTime::now();
    let status = &store.status(now)[0];
    let thresholds = crate::identity::alarm::Thresholds::default();
    let level = |at| crate::identity::alarm::of_workload(status, thresholds, at).level;
    assert_eq!(level(now), crate::identity::alarm::Level::Ok);
    assert_eq!(level(now + Duration::from_secs(8)), crate::identity::alarm::Level::Warning);
    let disk = OnDisk::new();
    let status = &disk.store.status(now)[0];
    assert_eq!(status.life_from, status.not_before, "a file may be old when it is read");
}

#[test]
fn what_others_renew_is_never_due_by_time() {
    let now = Clock::now();
    let mut schedule = Schedule::default();
    schedule.succeeded(now, &svid(now.system, Duration::ZERO, HOUR), false);
    assert!(!schedule.is_due(later(now, 10 * HOUR, 10 * HOUR)));
    assert_eq!(schedule.next_renewal(), None);
}

#[test]
fn failures_back_off_from_one_second_to_one_minute() {
    let now = Clock::now();
    let mut schedule = Schedule::default();
    for pause in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
        schedule.failed(now);
        let bit = Duration::from_millis(1);
        let pause = Duration::from_secs(pause);
        assert!(!schedule.is_due(later(now, pause - bit, Duration::ZERO)), "{pause:?}");
        assert!(schedule.is_due(later(now, pause, Duration::ZERO)), "{pause:?}");
    }
    schedule.succeeded(now, &svid(now.system, Duration::ZERO, HOUR), true);
    assert_eq!(schedule.failures(), 0);
}

#[test]
fn apply_fetches_what_is_new_keeps_what_is_not_and_forgets_what_is_gone() {
    let store = IdentityStore::new();
    let mut changes = store.subscribe();
    let source = told(HOUR);
    assert!(store.apply(wanted(Arc::clone(&source) as _)).is_empty());
    assert!(changes.has_changed().unwrap());
    changes.mark_unchanged();
    let first = serial(&store);
    // Equal settings in a new object, as after a reload.
    assert!(store.apply(wanted(told(HOUR))).is_empty());
    assert_eq!(serial(&store), first);
    let other = Arc::new(Told { life: HOUR, name: "other".into(), ..Told::default() });
    assert!(store.apply(wanted(other)).is_empty());
    assert_ne!(serial(&store), first);
    store.apply(BTreeMap::new());
    assert!(store.get("web").is_none());
    let refusal = store.usable("web", SystemTime::now()).unwrap_err();
    assert_eq!(refusal.reason, Reason::NoIdentity);
    assert!(changes.has_changed().unwrap());
}

#[test]
fn workloads_with_equal_sources_have_one_certificate_and_each_its_status() {
    let store = IdentityStore::new();
    let source = told(HOUR);
    let of = |names: &[&str]| -> BTreeMap<String, Arc<dyn IdentitySource>> {
        names.iter().map(|name| ((*name).to_owned(), Arc::clone(&source) as _)).collect()
    };
    store.apply(of(&["web-1"]));
    store.apply(of(&["web-2", "web-3", "web-4"]));
    assert_eq!(
        source.fetches.load(Ordering::SeqCst),
        1,
        "the one that came first is gone, its certificate is not"
    );
    let serials = |names: &[&str]| -> BTreeSet<String> {
        names.iter().map(|name| store.get(name).unwrap().svid.serial.clone()).collect()
    };
    assert_eq!(serials(&["web-2", "web-3", "web-4"]).len(), 1);
    let now = SystemTime::now();
    let status: Vec<_> = store.status(now).into_iter().map(|of| (of.workload, of.fetched)).collect();
    assert_eq!(status, [("web-2".into(), 1), ("web-3".into(), 1), ("web-4".into(), 1)]);
    assert_eq!(store.distinct().len(), 1, "it is renewed once");
    assert_eq!(*lock(&store.distinct()[0].whose), "web-2 and 2 more");
    let mut mixed = of(&["web-2"]);
    mixed.insert("db".into(), Arc::new(Told { life: HOUR, name: "other".into(), ..Told::default() }));
    store.apply(mixed);
    assert_eq!(serials(&["web-2", "db"]).len(), 2);
    assert!(store.get("web-3").is_none());
}

#[test]
fn a_first_fetch_that_fails_is_returned_and_shown() {
    let store = IdentityStore::new();
    let source = told(HOUR);
    source.fail.store(true, Ordering::SeqCst);
    let failures = store.apply(wanted(source));
    assert!(matches!(failures.as_slice(), [(name, IdentityError::Files(_))] if name == "web"));
    let refusal = store.usable("web", SystemTime::now()).unwrap_err();
    assert_eq!(refusal.reason, Reason::NoIdentity);
    assert!(refusal.detail.contains("told.key"), "{}", refusal.detail);
    let status = &store.status(SystemTime::now())[0];
    assert!(!status.valid && status.failures == 1 && status.spiffe_id.is_none());
    assert!(status.last_error.as_ref().unwrap().contains("told.key"));
}

#[test]
fn a_source_that_panics_is_a_failure_of_that_workload_alone() {
    let store = IdentityStore::new();
    let source = told(HOUR);
    source.panic.store(true, Ordering::SeqCst);
    let failures = store.apply(wanted(source));
    assert!(matches!(failures.as_slice(), [(_, IdentityError::Panicked("told"))]));
}

#[test]
fn an_identity_that_could_not_be_renewed_serves_until_it_expires() {
    let store = IdentityStore::new();
    let source = told(HOUR);
    store.apply(wanted(Arc::clone(&source) as _));
    let first = serial(&store);
    source.fail.store(true, Ordering::SeqCst);
    let entry = lock(&store.entries).get("web").cloned().unwrap();
    let now = Clock::now();
    // Half of the life, and a tenth of the wait later at the most.
    let half = later(now, HOUR * 3 / 5, HOUR * 3 / 5);
    assert!(!entry.refresh(half, false), "it failed");
    assert_eq!(serial(&store), first);
    assert!(store.usable("web", half.system).is_ok());
    let refusal = store.usable("web", now.system + 2 * HOUR).unwrap_err();
    assert!(refusal.detail.contains("expired"), "{}", refusal.detail);
    let status = &store.status(now.system)[0];
    assert!(status.valid && status.failures == 1 && status.last_error.is_some());
    source.fail.store(false, Ordering::SeqCst);
    assert!(entry.refresh(later(half, 2 * TICK, Duration::ZERO), false));
    assert_ne!(serial(&store), first);
    assert!(store.status(now.system)[0].last_error.is_none());
}

#[test]
fn the_status_is_plain_json() {
    let store = IdentityStore::new();
    store.apply(wanted(told(HOUR)));
    let json = serde_json::to_value(store.status(SystemTime::now())).unwrap();
    assert_eq!(json[0]["workload"], "web");
    assert_eq!(json[0]["spiffe_id"], "spiffe://example.org/web");
    assert_eq!(json[0]["last_error"], serde_json::Value::Null);
    for time in ["not_before", "not_after", "next_renewal"] {
        assert!(json[0][time].as_str().unwrap().ends_with('Z'), "{json}");
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// Runs the store until the identity of `web` is another one.
fn changed_within(store: &Arc<IdentityStore>, limit: Duration, act: impl FnOnce()) -> bool {
    let before = serial(store);
    runtime().block_on(async {
        let running = tokio::spawn(Arc::clone(store).run());
        let mut changes = store.subscribe();
        tokio::time::sleep(2 * SETTLE).await;
        act();
        let changed = tokio::time::timeout(limit, async {
            while serial(store) == before {
                changes.changed().await.unwrap();
            }
        });
        let changed = changed.await.is_ok();
        running.abort();
        changed
    })
}

/// A store with the workload `web`, which has its identity from an embedded CA in this directory.
fn store_of_ca(directory: PathBuf, lifetime: Duration) -> Arc<IdentityStore> {
    let trust_domain = "example.org".parse().unwrap();
    let settings = EmbeddedCaSettings { directory, lifetime, trust_domain, key: None };
    let ca = Arc::new(EmbeddedCa::open(settings, SystemTime::now()).unwrap());
    let id = "spiffe://example.org/web".parse().unwrap();
    let store = Arc::new(IdentityStore::new());
    let (subject, workload) = (Subject::default(), "web".to_owned());
    let source = EmbeddedSource { ca, id, dns_names: vec![], subject, workload };
    assert!(store.apply(wanted(Arc::new(source))).is_empty());
    store
}

#[test]
fn a_short_lived_certificate_is_renewed_while_it_is_still_valid() {
    let directory = tempfile::tempdir().unwrap();
    let store = store_of_ca(directory.path().join("ca"), Duration::from_secs(6));
    let old = store.get("web").unwrap();
    assert!(changed_within(&store, Duration::from_secs(10), || ()));
    assert!(SystemTime::now() < old.svid.not_after, "before the old one expired");
    assert!(store.usable("web", SystemTime::now()).is_ok());
}

#[test]
fn those_that_watch_the_same_files_share_one_look_at_them() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca");
    let settings = EmbeddedCaSettings {
        directory: path.clone(),
        lifetime: HOUR,
        trust_domain: "example.org".parse().unwrap(),
        key: None,
    };
    let ca = Arc::new(EmbeddedCa::open(settings, SystemTime::now()).unwrap());
    let names = ["a", "b", "c"];
    let source = |name: &str| -> Arc<dyn IdentitySource> {
        let id = format!("spiffe://example.org/{name}").parse().unwrap();
        let (ca, workload) = (Arc::clone(&ca), name.to_owned());
        Arc::new(EmbeddedSource { ca, id, dns_names: vec![], subject: Subject::default(), workload })
    };
    let store = Arc::new(IdentityStore::new());
    store.apply(names.iter().map(|name| ((*name).to_owned(), source(name))).collect());
    let serials = || names.map(|name| store.get(name).unwrap().svid.serial.clone());
    let before = serials();
    runtime().block_on(async {
        let mut tasks = JoinSet::new();
        store.step(Clock::now(), true, &mut tasks);
        assert_eq!(tasks.len(), 1);
        while tasks.join_next().await.is_some() {}
        assert_eq!(serials(), before);
        let admin = crate::identity::ca::admin::CaDirectory::open(&path).unwrap();
        admin.begin(None, &crate::identity::ca::NewKey::AsBefore, SystemTime::now()).unwrap();
        store.step(Clock::now(), true, &mut tasks);
        assert_eq!(tasks.len(), 1, "and none is left busy");
        let changed = async {
            while serials().iter().zip(&before).any(|(now, before)| now == before) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), changed).await.unwrap();
    });
}

#[test]
fn a_change_of_roots_reaches_the_workloads_of_a_running_store() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca");
    let store = store_of_ca(path.clone(), Duration::from_secs(3600));
    let admin = crate::identity::ca::admin::CaDirectory::open(&path).unwrap();
    let roots = || {
        let identity = store.get("web").unwrap();
        identity.bundles.iter().map(|(_, bundle)| bundle.roots().len()).sum::<usize>()
    };
    let limit = Duration::from_secs(20);
    let old = store.get("web").unwrap();
    assert!(changed_within(&store, limit, || admin
        .begin(None, &crate::identity::ca::NewKey::AsBefore, SystemTime::now())
        .unwrap()));
    assert_eq!(roots(), 2);
    assert!(changed_within(&store, limit, || admin.switch(SystemTime::now()).unwrap()));
    assert_ne!(store.get("web").unwrap().svid.chain[1], old.svid.chain[1]);
    assert_eq!(roots(), 2, "added before removed");
    assert!(changed_within(&store, limit, || admin.finish(true, SystemTime::now()).unwrap()));
    assert_eq!(roots(), 1);

    // A revoked certificate is replaced, and a CRL by itself replaces nothing.
    let revoked = store.get("web").unwrap().svid.serial.clone();
    let which = crate::identity::ca::admin::Which::Serial(revoked.clone());
    let reason = crate::identity::ca::revoke::RevocationReason::KeyCompromise;
    let now = SystemTime::now();
    assert!(changed_within(&store, limit, || drop(admin.revoke(&which, reason, now).unwrap())));
    assert_ne!(store.get("web").unwrap().svid.serial, revoked);
    let watched = store.entries.lock().unwrap()["web"].source.watch_paths();
    let before = watch::Stamp::of(&watched);
    admin.crl(None, limit, now).unwrap();
    assert_eq!(before.again(&watched), before);
}

struct OnDisk {
    directory: tempfile::TempDir,
    store: Arc<IdentityStore>,
}

impl OnDisk {
    /// As Kubernetes mounts a secret: files are links into `..data`, itself a link to a directory.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let this = Self { directory, store: Arc::new(IdentityStore::new()) };
        this.generation("one");
        std::os::unix::fs::symlink("one", this.path("..data")).unwrap();
        for file in ["tls.crt", "tls.key"] {
            std::os::unix::fs::symlink(format!("..data/{file}"), this.path(file)).unwrap();
        }
        let files =
            IdentityFiles { certificate: this.path("tls.crt"), key: this.path("tls.key"), bundle: None };
        assert!(this.store.apply(wanted(Arc::new(files))).is_empty());
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn generation(&self, name: &str) {
        std::fs::create_dir(self.path(name)).unwrap();
        let leaf = TestCa::root("root").leaf(&LeafSpec::default());
        std::fs::write(self.path(name).join("tls.crt"), leaf.chain_pem()).unwrap();
        std::fs::write(self.path(name).join("tls.key"), leaf.key.serialize_pem()).unwrap();
    }
}

#[test]
fn a_secret_that_is_swapped_by_a_link_is_read_again() {
    let disk = OnDisk::new();
    let swap = || {
        disk.generation("two");
        std::os::unix::fs::symlink("two", disk.path("..tmp")).unwrap();
        std::fs::rename(disk.path("..tmp"), disk.path("..data")).unwrap();
    };
    assert!(changed_within(&disk.store, Duration::from_secs(3), swap), "sooner than the 5 s poll");
}

#[test]
fn a_change_that_no_event_announces_is_found_by_the_poll() {
    let disk = OnDisk::new();
    // The directory `one` is not watched: only its parent is.
    let rewrite = || {
        let leaf = TestCa::root("root").leaf(&LeafSpec::default());
        std::fs::write(disk.path("one/tls.crt"), leaf.chain_pem()).unwrap();
        std::fs::write(disk.path("one/tls.key"), leaf.key.serialize_pem()).unwrap();
    };
    assert!(changed_within(&disk.store, Duration::from_secs(9), rewrite));
}

#[test]
fn half_written_files_keep_the_last_good_identity_and_are_tried_again() {
    let disk = OnDisk::new();
    let before = serial(&disk.store);
    let entry = lock(&disk.store.entries).get("web").cloned().unwrap();
    let leaf = TestCa::root("root").leaf(&LeafSpec::default());
    std::fs::write(disk.path("one/tls.crt"), leaf.chain_pem()).unwrap();
    let now = Clock::now();
    assert!(!entry.refresh(now, true), "the key is still the old one");
    assert_eq!(serial(&disk.store), before);
    let status = &disk.store.status(now.system)[0];
    assert!(status.valid && status.last_error.as_ref().unwrap().contains("does not belong"));
    assert!(!entry.refresh(now, true), "unchanged files are not read at every look");
    assert_eq!(disk.store.status(now.system)[0].failures, 1);
    std::fs::write(disk.path("one/tls.key"), leaf.key.serialize_pem()).unwrap();
    assert!(entry.refresh(now, true));
    assert_ne!(serial(&disk.store), before);
    assert!(disk.store.status(now.system)[0].last_error.is_none());
}

#[tokio::test]
async fn a_source_that_is_told_something_is_asked_at_once_and_what_it_withdraws_is_given_up() {
    let store = Arc::new(IdentityStore::new());
    let source = Arc::new(Told { life: HOUR, remote: true, ..Told::default() });
    assert!(store.apply(wanted(Arc::clone(&source) as _)).is_empty());
    assert!(store.get("web").is_none(), "a remote source is not waited for");
    let run = tokio::spawn(Arc::clone(&store).run());
    let mut changes = store.subscribe();
    let soon = |changed: bool| assert!(changed, "nothing happened");
    let mut next = async || {
        soon(tokio::time::timeout(Duration::from_secs(20), changes.changed()).await.is_ok());
        changes.mark_unchanged();
    };
    while store.get("web").is_none() {
        next().await;
    }
    let tell = || {
        source.version.fetch_add(1, Ordering::SeqCst);
        lock(&source.wake).wake();
    };
    let first = serial(&store);
    tell();
    next().await;
    assert_ne!(serial(&store), first);
    source.withdraw.store(true, Ordering::SeqCst);
    tell();
    next().await;
    assert!(store.get("web").is_none());
    let refusal = store.usable("web", SystemTime::now()).unwrap_err();
    assert!(refusal.detail.contains("withdrawn: told to"), "{}", refusal.detail);
    source.withdraw.store(false, Ordering::SeqCst);
    tell();
    next().await;
    assert!(store.get("web").is_some());
    run.abort();
}

/// A source with something to do between fetches.
#[derive(Debug, Default)]
struct Busy {
    told: Told,
    due: AtomicBool,
    done: AtomicUsize,
}

impl IdentitySource for Busy {
    fn fetch(&self, now: SystemTime) -> Result<Identity, IdentityError> {
        self.told.fetch(now)
    }

    fn needs_upkeep(&self, _now: Instant) -> bool {
        self.due.load(Ordering::SeqCst)
    }

    fn upkeep(&self, _now: Instant) {
        self.due.store(false, Ordering::SeqCst);
        self.done.fetch_add(1, Ordering::SeqCst);
        assert!(!self.told.panic.load(Ordering::SeqCst), "told to");
    }

    fn is_local(&self) -> bool {
        true
    }

    fn renews(&self) -> bool {
        true
    }

    fn kind(&self) -> &'static str {
        "busy"
    }

    fn describe(&self) -> String {
        String::new()
    }
}

#[test]
fn what_a_source_must_do_between_fetches_is_done_without_one_and_may_fail() {
    let source = Arc::new(Busy { told: Told { life: HOUR, ..Told::default() }, ..Busy::default() });
    let store = Arc::new(IdentityStore::new());
    assert!(store.apply(wanted(source.clone())).is_empty());
    let first = serial(&store);
    runtime().block_on(async {
        let mut tasks = JoinSet::new();
        for (panics, done) in [(false, 1), (true, 2), (false, 3)] {
            store.step(Clock::now(), false, &mut tasks);
            assert!(tasks.is_empty(), "nothing is due");
            source.told.panic.store(panics, Ordering::SeqCst);
            source.due.store(true, Ordering::SeqCst);
            store.step(Clock::now(), false, &mut tasks);
            while tasks.join_next().await.is_some() {}
            assert_eq!(source.done.load(Ordering::SeqCst), done);
        }
    });
    assert_eq!((source.told.fetches.load(Ordering::SeqCst), serial(&store)), (1, first));
}
