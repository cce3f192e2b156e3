//! Tests: identity files as the usual programs write them. A workload is never without an identity meanwhile, never has a
//! certificate with another's key, and has the new one within seconds.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::handshake::verify::{PeerNameSettings, PeerRole, Trust, verify_peer};
use crate::identity::testing::{LeafSpec, TestCa, TestLeaf};
use crate::identity::{IdentityFiles, TrustBundles};

/// Within seconds, on a machine that is busy with other things too.
const LIMIT: Duration = Duration::from_secs(20);
/// Between two files of one writer: long enough for looks and retries in between.
const APART: Duration = Duration::from_millis(1_500);

/// What one renewal writes.
struct Generation {
    certificate: String,
    key: String,
    bundle: String,
    serial: String,
}

impl Generation {
    /// A leaf of `issuer` below an intermediate, and a bundle of `roots`.
    fn new(issuer: &TestCa, roots: &[&TestCa]) -> Self {
        let leaf: TestLeaf = issuer.intermediate("intermediate").leaf(&LeafSpec::default());
        let root = |ca: &&TestCa| pem::encode(&pem::Pem::new("CERTIFICATE", ca.der.as_ref()));
        Self {
            certificate: leaf.chain_pem(),
            key: leaf.key.serialize_pem(),
            bundle: roots.iter().map(root).collect(),
            serial: leaf.svid().serial,
        }
    }

    /// Which file has what, in the order of [`World::serve`].
    fn of<'n>(&self, names: [&'n str; 3]) -> impl Iterator<Item = (&'n str, &String)> {
        names.into_iter().zip([&self.certificate, &self.key, &self.bundle])
    }
}

struct World {
    directory: tempfile::TempDir,
    store: Arc<IdentityStore>,
    ca: TestCa,
}

impl World {
    fn new() -> Self {
        let (directory, ca) = (tempfile::tempdir().unwrap(), TestCa::root("root"));
        Self { directory, store: Arc::new(IdentityStore::new()), ca }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn generation(&self) -> Generation {
        Generation::new(&self.ca, &[&self.ca])
    }

    /// Writes all files, in place.
    fn write(&self, names: [&str; 3], generation: &Generation) {
        for (file, text) in generation.of(names) {
            fs::write(self.path(file), text).unwrap();
        }
    }

    /// The workload `web` with these files, which are there already.
    fn serve(&self, [certificate, key, bundle]: [&str; 3]) {
        let files = IdentityFiles {
            certificate: self.path(certificate),
            key: self.path(key),
            bundle: Some(self.path(bundle)),
        };
        let source: Arc<dyn IdentitySource> = Arc::new(files);
        assert!(self.store.apply([("web".to_owned(), source)].into()).is_empty());
    }

    /// Is what the store has now good, for us and for a peer with the same roots?
    fn check(store: &IdentityStore) {
        let now = SystemTime::now();
        let identity = store.usable("web", now).expect("never without an identity");
        assert!(identity.svid.certified_key().keys_match().is_ok(), "never another's key");
        let trust = Trust {
            bundles: Arc::new(identity.trusted_with(&TrustBundles::new())),
            trust_domain: identity.svid.id.trust_domain().clone(),
            names: PeerNameSettings::default(),
            max_certificates: 10,
            max_bytes: 65_536,
            clock_skew: Duration::ZERO,
            revocations: Arc::default(),
        };
        let verified = verify_peer(&identity.svid.chain, PeerRole::Client, &trust, None, now);
        assert!(verified.is_ok(), "its own roots vouch for it: {verified:?}");
    }

    /// Lets `write` work while the store runs and is looked at all the time; then the store has `wanted`.
    fn follows(&self, wanted: &Generation, write: impl FnOnce() + Send) {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let running = runtime.spawn(Arc::clone(&self.store).run());
        // Until the directory is watched.
        std::thread::sleep(2 * SETTLE);
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let looks = scope.spawn(|| {
                let mut looks = 0_u32;
                while !done.load(Ordering::SeqCst) {
                    Self::check(&self.store);
                    looks += 1;
                    std::thread::sleep(Duration::from_millis(2));
                }
                looks
            });
            write();
            let since = Instant::now();
            let has = || {
                let status = &self.store.status(SystemTime::now())[0];
                status.serial.as_ref() == Some(&wanted.serial) && status.last_error.is_none()
            };
            while !has() && since.elapsed() < LIMIT {
                std::thread::sleep(Duration::from_millis(10));
            }
            done.store(true, Ordering::SeqCst);
            assert!(looks.join().unwrap() > 10);
            assert!(has(), "{:?}", self.store.status(SystemTime::now()));
            println!("the new identity after {:?}", since.elapsed());
        });
        running.abort();
        Self::check(&self.store);
    }
}

/// A new file under a name of its own, renamed over the old one.
fn replace(path: &Path, text: &str) {
    let new = path.with_extension("tmp-4711");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

/// As kubelet and CSI drivers write a volume: a new directory, a link to it, and the link renamed over `..data`.
fn swap_data(world: &World, name: &str, generation: &Generation) {
    let old = fs::read_link(world.path("..data")).ok();
    fs::create_dir(world.path(name)).unwrap();
    for (file, text) in generation.of(SECRET) {
        fs::write(world.path(name).join(file), text).unwrap();
    }
    symlink(name, world.path("..data_tmp")).unwrap();
    fs::rename(world.path("..data_tmp"), world.path("..data")).unwrap();
    if let Some(old) = old {
        fs::remove_dir_all(world.path(old.to_str().unwrap())).unwrap();
    }
}

const SECRET: [&str; 3] = ["tls.crt", "tls.key", "ca.crt"];

fn secret() -> World {
    let world = World::new();
    swap_data(&world, "..2026_11_27_18_00_00.1", &world.generation());
    for file in SECRET {
        symlink(format!("..data/{file}"), world.path(file)).unwrap();
    }
    world.serve(SECRET);
    world
}

#[test]
fn a_cert_manager_secret_or_csi_volume_that_is_swapped_whole_is_followed() {
    let world = secret();
    let new = world.generation();
    world.follows(&new, || swap_data(&world, "..2026_11_27_18_30_00.2", &new));
}

#[test]
fn a_volume_that_is_swapped_again_and_again_ends_with_the_last() {
    let world = secret();
    let all: Vec<_> = (0..30).map(|_| world.generation()).collect();
    world.follows(&all[29], || {
        for (number, generation) in all.iter().enumerate() {
            swap_data(&world, &format!("..swap.{number}"), generation);
            std::thread::sleep(Duration::from_millis(30));
        }
    });
}

#[test]
fn roots_that_are_added_before_the_leaf_changes_and_removed_after_it_are_followed() {
    let world = secret();
    let next = TestCa::root("next root");
    let both = Generation::new(&world.ca, &[&world.ca, &next]);
    world.follows(&both, || swap_data(&world, "..both", &both));
    let new = Generation::new(&next, &[&world.ca, &next]);
    world.follows(&new, || swap_data(&world, "..new", &new));
    let alone = Generation::new(&next, &[&next]);
    world.follows(&alone, || swap_data(&world, "..alone", &alone));
    assert_eq!(world.store.get("web").unwrap().bundles.iter().next().unwrap().1.roots().len(), 1);
}

/// `vault agent`: each template is a file of its own, written under another name and renamed, when it is its turn.
fn vault_agent(first: &'static str) {
    let world = World::new();
    let (old, new) = (world.generation(), world.generation());
    world.write(SECRET, &old);
    world.serve(SECRET);
    world.follows(&new, || {
        let mut templates = [("tls.crt", &new.certificate), ("tls.key", &new.key)];
        templates.sort_by_key(|(file, _)| *file != first);
        for (file, text) in templates {
            replace(&world.path(file), text);
            std::thread::sleep(APART);
        }
    });
}

#[test]
fn vault_agent_templates_that_arrive_one_after_the_other_are_taken_when_they_fit_certificate_first() {
    vault_agent("tls.crt");
}

#[test]
fn vault_agent_templates_that_arrive_one_after_the_other_are_taken_when_they_fit_key_first() {
    vault_agent("tls.key");
}

#[test]
fn spiffe_helper_files_that_are_written_in_place_are_taken_when_they_fit() {
    let world = World::new();
    let names = ["svid.pem", "svid_key.pem", "svid_bundle.pem"];
    let (old, new) = (world.generation(), world.generation());
    world.write(names, &old);
    world.serve(names);
    world.follows(&new, || {
        for (file, text) in new.of(names) {
            // Truncated first, as os.WriteFile does.
            fs::write(world.path(file), text).unwrap();
            std::thread::sleep(APART);
        }
    });
}

#[test]
fn files_that_stay_half_written_for_seconds_are_not_taken() {
    let world = World::new();
    let (old, new) = (world.generation(), world.generation());
    world.write(SECRET, &old);
    world.serve(SECRET);
    world.follows(&new, || {
        for (file, text) in new.of(SECRET) {
            for part in [0, text.len() / 3, text.len() * 2 / 3] {
                fs::write(world.path(file), &text.as_bytes()[..part]).unwrap();
                std::thread::sleep(APART / 2);
            }
            fs::write(world.path(file), text).unwrap();
        }
    });
}

#[test]
fn a_file_that_is_removed_and_written_again_is_no_outage() {
    let world = World::new();
    let (old, new) = (world.generation(), world.generation());
    world.write(SECRET, &old);
    world.serve(SECRET);
    world.follows(&new, || {
        for file in SECRET {
            fs::remove_file(world.path(file)).unwrap();
        }
        std::thread::sleep(APART);
        for (file, text) in new.of(SECRET) {
            fs::write(world.path(file), text).unwrap();
        }
    });
}

/// What a source gives while its files are being written.
#[derive(Debug)]
struct Overtaken(IdentityFiles, Mutex<Option<String>>);

impl IdentitySource for Overtaken {
    fn fetch(&self, now: SystemTime) -> Result<Identity, IdentityError> {
        let read = self.0.fetch(now);
        if let Some(text) = lock(&self.1).take() {
            replace(self.0.bundle.as_deref().unwrap(), &text);
        }
        read
    }

    fn watch_paths(&self) -> Vec<PathBuf> {
        self.0.watch_paths()
    }

    fn is_local(&self) -> bool {
        true
    }

    fn renews(&self) -> bool {
        false
    }

    fn kind(&self) -> &'static str {
        "files"
    }

    fn describe(&self) -> String {
        self.0.describe()
    }
}

#[test]
fn what_was_read_while_it_was_written_is_not_taken_but_read_again() {
    let world = World::new();
    let old = world.generation();
    world.write(SECRET, &old);
    let [certificate, key, bundle] = SECRET.map(|file| world.path(file));
    let files = IdentityFiles { certificate, key, bundle: Some(bundle) };
    let both = Generation::new(&world.ca, &[&world.ca, &TestCa::root("next root")]);
    let source: Arc<dyn IdentitySource> = Arc::new(Overtaken(files, Mutex::new(Some(both.bundle))));
    let failures = world.store.apply([("web".to_owned(), source)].into());
    assert!(matches!(failures.as_slice(), [(_, IdentityError::Changing)]), "{failures:?}");
    let entry = lock(&world.store.entries).get("web").cloned().unwrap();
    assert!(entry.refresh(Clock::now(), true), "the files are other ones than those that were read");
    let identity = world.store.get("web").unwrap();
    assert_eq!(identity.bundles.iter().next().unwrap().1.roots().len(), 2);
}
