//! The copy of one resource: what was heard last, and how far that can be believed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::error::KubeError;
use super::list::Listed;
use super::names::{Key, Uid};
use super::objects::{BadObject, Identity, Kind};

/// Most objects of one resource that are kept.
pub const MAX_OBJECTS: usize = 100_000;
/// Most refused objects that are named.
pub const MAX_REFUSED: usize = 1_000;

/// How far the copy can be believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Standing {
    /// Nothing was heard yet; there may be what an earlier daemon heard.
    Starting,
    /// It follows the API server.
    Current,
    /// It is what was heard last; for this reason nothing newer is.
    Behind(Arc<KubeError>),
    /// A list is so much shorter that it is asked for once more before it is believed.
    Doubted {
        /// How many there are in the copy.
        kept: usize,
        /// How many there were in the list.
        listed: usize,
    },
}

/// An object that cannot be read. Its last good version, if there was one, stays in the copy; one of an earlier object of its name
/// does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Which one.
    pub key: Key,
    /// What is wrong with it.
    pub why: BadObject,
    /// Is there an earlier version of it in the copy?
    pub has_earlier: bool,
}

/// When the API server last said what is.
#[derive(Debug, Clone, Copy)]
struct Heard {
    at: Instant,
    /// How old it was then: of what an earlier daemon heard.
    age: Duration,
}

/// The copy.
#[derive(Debug)]
pub(super) struct Store<K> {
    pub objects: BTreeMap<Key, Arc<K>>,
    refused: BTreeMap<Key, (Uid, BadObject)>,
    pub standing: Standing,
    heard: Option<Heard>,
    /// Is there a whole list, of now or of an earlier daemon?
    pub complete: bool,
    /// The length of a list that was not believed.
    doubt: Option<usize>,
}

impl<K: Kind> Store<K> {
    /// Empty, or with what an earlier daemon heard so long ago.
    pub fn new(remembered: Option<(Vec<Arc<K>>, Duration)>) -> Self {
        let complete = remembered.is_some();
        let heard = remembered.as_ref().map(|(_, age)| Heard { at: Instant::now(), age: *age });
        let objects = remembered.into_iter().flat_map(|(objects, _)| objects);
        Self {
            objects: objects.map(|object| (object.key().clone(), object)).collect(),
            refused: BTreeMap::new(),
            standing: Standing::Starting,
            heard,
            complete,
            doubt: None,
        }
    }

    /// The API server says that it is as we know it.
    pub fn hear(&mut self) {
        self.heard = Some(Heard { at: Instant::now(), age: Duration::ZERO });
    }

    /// How long ago the API server last said what is.
    pub fn age(&self) -> Option<Duration> {
        self.heard.map(|heard| heard.age.saturating_add(heard.at.elapsed()))
    }

    /// Takes a list over; not if it is less than half of what there is, unless the one before was so, too.
    pub fn take(&mut self, listed: Listed<K>) -> Took {
        let kept = self.objects.len();
        let count = listed.objects.len().saturating_add(listed.refused.len());
        if count.saturating_mul(2) < kept && self.doubt.is_none() {
            self.doubt = Some(count);
            self.standing = Standing::Doubted { kept, listed: count };
            return Took::Doubted;
        }
        self.doubt = None;
        let mut before = std::mem::take(&mut self.objects);
        let mut changed = !self.complete || listed.refused != self.refused;
        for (key, object) in listed.objects {
            let known = before.remove(&key).filter(|known| **known == object);
            changed |= known.is_none();
            self.objects.insert(key, known.unwrap_or_else(|| Arc::new(object)));
        }
        self.refused.clear();
        for (key, (uid, why)) in listed.refused {
            if let Some(earlier) = before.remove(&key) {
                self.objects.insert(key.clone(), earlier);
            }
            self.refuse(Identity { key, uid }, why);
        }
        changed |= !before.is_empty();
        self.complete = true;
        self.standing = Standing::Current;
        self.hear();
        if changed { Took::Changed } else { Took::Same }
    }

    /// A new object, or a new version of one; is the copy another one now?
    pub fn put(&mut self, object: K) -> bool {
        let key = object.key().clone();
        let was_refused = self.refused.remove(&key).is_some();
        if self.objects.get(&key).is_some_and(|known| **known == object) {
            return was_refused;
        }
        self.objects.insert(key, Arc::new(object));
        true
    }

    /// An object that cannot be read.
    pub fn refuse(&mut self, which: Identity, why: BadObject) {
        let Identity { key, uid } = which;
        if self.objects.get(&key).is_some_and(|known| *known.uid() != uid) {
            self.objects.remove(&key);
        }
        if self.refused.len() < MAX_REFUSED || self.refused.contains_key(&key) {
            self.refused.insert(key, (uid, why));
        }
    }

    /// An object is gone; a later one of its name stays.
    pub fn remove(&mut self, key: &Key, uid: &Uid) -> bool {
        let was_refused = self.refused.get(key).is_some_and(|(refused, _)| refused == uid);
        if was_refused {
            self.refused.remove(key);
        }
        let is_known = self.objects.get(key).is_some_and(|known| known.uid() == uid);
        if is_known {
            self.objects.remove(key);
        }
        was_refused || is_known
    }

    /// Is there room for one more?
    pub fn has_room(&self, key: &Key) -> bool {
        self.objects.len() < MAX_OBJECTS || self.objects.contains_key(key)
    }

    pub fn refused(&self) -> Vec<Refused> {
        let of = |(key, (_, why)): (&Key, &(Uid, BadObject))| Refused {
            key: key.clone(),
            why: why.clone(),
            has_earlier: self.objects.contains_key(key),
        };
        self.refused.iter().map(of).collect()
    }
}

/// What became of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Took {
    /// The copy is another one now.
    Changed,
    /// It says what is known.
    Same,
    /// It is so short that it is asked for again.
    Doubted,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kube::objects::{Namespace, Read, read};
    use serde_json::json;

    fn namespace(n: usize, uid: &str) -> Namespace {
        let object = json!({ "metadata": { "name": format!("n{n}"), "uid": uid } });
        match read(&object.to_string()) {
            Read::Good(namespace) => namespace,
            other => panic!("{other:?}"),
        }
    }

    fn identity(of: &Namespace) -> Identity {
        Identity { key: of.key.clone(), uid: of.uid.clone() }
    }

    #[test]
    fn what_is_kept_and_named_is_bounded() {
        let mut store = Store::new(None);
        for n in 0..MAX_OBJECTS {
            store.put(namespace(n, "u"));
        }
        assert!(
            store.has_room(namespace(0, "u").key()) && !store.has_room(namespace(MAX_OBJECTS, "u").key())
        );
        for n in 0..=MAX_REFUSED {
            store.refuse(identity(&namespace(n, "u")), BadObject::Json(String::new()));
        }
        assert_eq!(store.refused().len(), MAX_REFUSED);
    }

    #[test]
    fn a_late_word_of_an_earlier_object_does_not_remove_the_one_that_has_its_name_now() {
        let mut store = Store::new(None);
        store.put(namespace(1, "new"));
        let old = identity(&namespace(1, "old"));
        assert!(!store.remove(&old.key, &old.uid));
        assert_eq!(store.objects.len(), 1);
        let new = identity(&namespace(1, "new"));
        assert!(store.remove(&new.key, &new.uid) && store.objects.is_empty());
    }

    #[test]
    fn what_did_not_change_stays_the_same_object() {
        let mut store = Store::new(None);
        let listed = |uids: &[&str]| Listed {
            version: "1".to_owned(),
            objects: uids
                .iter()
                .enumerate()
                .map(|(n, uid)| namespace(n, uid))
                .map(|one| (one.key.clone(), one))
                .collect(),
            refused: BTreeMap::new(),
            nameless: None,
        };
        assert_eq!(store.take(listed(&["a", "b"])), Took::Changed);
        let before: Vec<_> = store.objects.values().cloned().collect();
        assert_eq!(store.take(listed(&["a", "b"])), Took::Same);
        assert_eq!(store.take(listed(&["a", "c"])), Took::Changed);
        let after: Vec<_> = store.objects.values().cloned().collect();
        assert!(Arc::ptr_eq(&before[0], &after[0]) && !Arc::ptr_eq(&before[1], &after[1]));
    }
}
