//! A copy of one resource that follows the cluster: one list, then watches that go on from one another; another list only when
//! the server has forgotten where they were.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::backoff::Backoff;
use super::changes::Changes;
use super::client::Client;
use super::error::KubeError;
use super::list::list;
use super::names::Key;
use super::objects::{BadObject, Identity, Kind, Read};
use super::scope::Scope;
use super::state::Kept;
use super::store::{MAX_OBJECTS, Refused, Standing, Store, Took};
use super::watch::{Said, Watch};

/// How often a watch may fail on what it is sent, from one and the same version, before all is listed instead.
const MAX_STUCK: u32 = 3;

/// A copy of a resource. It is followed until this is dropped.
#[derive(Debug)]
pub struct Reflector<K: Kind> {
    shared: Arc<Shared<K>>,
    task: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared<K> {
    store: Mutex<Store<K>>,
    /// Grows with each change.
    version: watch::Sender<u64>,
}

impl<K: Kind> Reflector<K> {
    /// Begins to follow, with what an earlier daemon heard until it hears something itself.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn start(client: Arc<Client>, scope: Scope, remembered: Option<Kept<K>>) -> Self {
        let store = Store::new(remembered.map(Kept::into_parts));
        let shared = Arc::new(Shared { store: Mutex::new(store), version: watch::channel(0).0 });
        let follow =
            Follow { backoff: Backoff::new(client.timing()), client, scope, shared: Arc::clone(&shared) };
        Self { shared, task: tokio::spawn(follow.run()) }
    }

    /// Looks at the objects. Nothing is taken over while this looks: be brief.
    pub fn with<T>(&self, look: impl FnOnce(&BTreeMap<Key, Arc<K>>) -> T) -> T {
        look(&self.shared.lock().objects)
    }

    /// Has all been listed once, by this daemon or an earlier one? Before that what is not there means nothing.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.shared.lock().complete
    }

    /// How far the copy can be believed.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.shared.lock().standing.clone()
    }

    /// How long ago the API server last said what is; `None`: never. While all is well this stays below a minute or two.
    #[must_use]
    pub fn age(&self) -> Option<Duration> {
        self.shared.lock().age()
    }

    /// The objects that cannot be read, with the reason.
    #[must_use]
    pub fn refused(&self) -> Vec<Refused> {
        self.shared.lock().refused()
    }

    /// Hears of changes from now on.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes::new(self.shared.version.subscribe())
    }

    /// What is to be kept on disk; `None`: nothing is known yet.
    #[must_use]
    pub fn kept(&self) -> Option<Kept<K>> {
        let store = self.shared.lock();
        let age = store.age()?;
        store.complete.then(|| Kept::new(store.objects.values().cloned().collect(), age))
    }
}

impl<K: Kind> Drop for Reflector<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K: Kind> Shared<K> {
    fn lock(&self) -> MutexGuard<'_, Store<K>> {
        // What is guarded is valid at every step.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        self.version.send_modify(|version| *version = version.wrapping_add(1));
    }

    /// The copy stays as it is.
    fn stands(&self, standing: Standing) {
        let changed = {
            let mut store = self.lock();
            let changed = store.standing != standing;
            store.standing = standing;
            changed
        };
        if changed {
            self.tell();
        }
    }
}

/// How a watch ended.
enum End {
    /// In its time.
    Clean,
    /// All must be listed.
    Relist(KubeError),
    Failed(KubeError),
}

struct Follow<K: Kind> {
    client: Arc<Client>,
    scope: Scope,
    shared: Arc<Shared<K>>,
    backoff: Backoff,
}

impl<K: Kind> Follow<K> {
    async fn run(mut self) {
        loop {
            match list::<K>(&self.client, &self.scope).await {
                Ok(listed) => {
                    if let Some(bad) = &listed.nameless {
                        nameless::<K>(bad);
                    }
                    let version = listed.version.clone();
                    let took = self.shared.lock().take(listed);
                    if took != Took::Same {
                        self.shared.tell();
                    }
                    if took == Took::Doubted {
                        self.doubted();
                        tokio::time::sleep(self.client.timing().second_look).await;
                        continue;
                    }
                    self.backoff.reset();
                    let why = self.watch_from(version).await;
                    tracing::info!(resource = %K::RESOURCE, %why, "all of it is listed anew");
                    self.shared.stands(Standing::Behind(Arc::new(why)));
                    // Who lists for all nodes at once is the API server that has just come back.
                    self.pause(None).await;
                }
                Err(error) => self.failed(error).await,
            }
        }
    }

    /// Watches, again and again, until all must be listed.
    async fn watch_from(&mut self, mut version: String) -> KubeError {
        let mut stuck = 0;
        loop {
            let (from, began) = (version.clone(), Instant::now());
            let end = self.watch(&mut version).await;
            let lasted = began.elapsed();
            if version != from {
                stuck = 0;
            }
            if version != from || lasted >= self.client.timing().max_pause {
                self.backoff.reset();
            }
            let error = match end {
                End::Relist(why) => return why,
                End::Failed(error) => error,
                End::Clean => {
                    // A server that ends each watch at once is not asked without a pause.
                    if lasted < self.client.timing().min_pause {
                        self.pause(None).await;
                    }
                    continue;
                }
            };
            if error.is_of_content() {
                stuck += 1;
                if stuck >= MAX_STUCK {
                    return error;
                }
            }
            self.failed(error).await;
        }
    }

    /// One watch; `version` goes on with it.
    async fn watch(&self, version: &mut String) -> End {
        let ended = |error: KubeError| if error.is_gone() { End::Relist(error) } else { End::Failed(error) };
        let mut watch = match Watch::open::<K>(&self.client, &self.scope, version).await {
            Ok(watch) => watch,
            Err(error) => return ended(error),
        };
        self.shared.lock().hear();
        self.shared.stands(Standing::Current);
        loop {
            let said = match watch.next::<K>().await {
                Ok(Some(said)) => said,
                Ok(None) => return End::Clean,
                Err(error) => return ended(error),
            };
            let changed = self.apply(said);
            version.clone_from(&watch.version);
            if changed {
                self.shared.tell();
            }
        }
    }

    /// Is the copy another one now?
    fn apply(&self, said: Said<K>) -> bool {
        let mut store = self.shared.lock();
        store.hear();
        match said {
            Said::Bookmark => false,
            Said::Is(Read::Good(object)) if store.has_room(object.key()) => store.put(object),
            Said::Is(Read::Good(object)) => {
                let why = BadObject::TooMany { field: "the resource", count: MAX_OBJECTS, max: MAX_OBJECTS };
                refused::<K>(object.key(), &why);
                store.refuse(Identity { key: object.key().clone(), uid: object.uid().clone() }, why);
                true
            }
            Said::Is(Read::Bad(which, why)) => {
                refused::<K>(&which.key, &why);
                store.refuse(which, why);
                true
            }
            Said::Gone(gone) => store.remove(&gone.key, &gone.uid),
            Said::Is(Read::Nameless(bad)) | Said::NamelessGone(bad) => {
                nameless::<K>(&bad);
                false
            }
        }
    }

    async fn failed(&mut self, error: KubeError) {
        let asked = error.retry_after();
        let error = Arc::new(error);
        // Once for each outage, not for each try.
        if !matches!(self.shared.lock().standing, Standing::Behind(_)) {
            tracing::warn!(resource = %K::RESOURCE, %error, "what is known stays in force, and grows old");
        }
        self.shared.stands(Standing::Behind(error));
        self.pause(asked).await;
    }

    fn doubted(&self) {
        if let Standing::Doubted { kept, listed } = self.shared.lock().standing {
            tracing::warn!(
                resource = %K::RESOURCE, kept, listed,
                "the list is less than half of what is known; it is believed when a second one says the same"
            );
        }
    }

    async fn pause(&mut self, asked: Option<Duration>) {
        tokio::time::sleep(self.backoff.next(asked)).await;
    }
}

fn refused<K: Kind>(key: &Key, why: &BadObject) {
    tracing::warn!(resource = %K::RESOURCE, object = %key, %why, "an object is refused; what was known of it stays in force");
}

fn nameless<K: Kind>(why: &BadObject) {
    tracing::warn!(resource = %K::RESOURCE, %why, "an object without a usable name is left out");
}
