//! The objects, one counter of versions for all of them, and the changes that are not compacted away yet.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::Value;

use crate::answer::Failure;
use crate::object::Key;
use crate::resource::Resource;
use crate::select::Selector;

/// How a watch hears that its version is compacted away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// As the answer's HTTP status.
    Status,
    /// As an ERROR event in a stream that begins well.
    Event,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Added,
    Modified,
    Deleted,
}

/// One change of one object.
#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub version: u64,
    pub plural: &'static str,
    pub kind: Kind,
    pub object: Arc<Value>,
    pub before: Option<Arc<Value>>,
}

/// Which objects a list or a watch is about.
#[derive(Debug, Clone)]
pub(crate) struct Scope {
    pub resource: &'static Resource,
    /// Empty: all.
    pub namespace: String,
    pub selector: Selector,
}

impl Scope {
    pub fn takes(&self, object: &Value) -> bool {
        let namespace = &self.namespace;
        (namespace.is_empty() || object["metadata"]["namespace"] == namespace.as_str())
            && self.selector.takes(object)
    }

    /// What a change is for who sees only these objects.
    pub fn shows(&self, change: &Change) -> Option<&'static str> {
        if change.plural != self.resource.plural {
            return None;
        }
        let before = change.before.as_deref().is_some_and(|object| self.takes(object));
        let after = change.kind != Kind::Deleted && self.takes(&change.object);
        match (before, after) {
            (false, false) => None,
            (false, true) => Some("ADDED"),
            (true, true) => Some("MODIFIED"),
            (true, false) => Some("DELETED"),
        }
    }
}

/// What is left of a list of which a page was given.
struct Rest {
    version: u64,
    objects: Vec<Arc<Value>>,
}

/// A page of a list.
#[derive(Debug)]
pub(crate) struct Page {
    /// Of all pages of the list the same: they show one moment.
    pub version: u64,
    pub objects: Vec<Arc<Value>>,
    /// The token for the next page, and how many objects are left.
    pub next: Option<(String, usize)>,
}

pub(crate) struct Store {
    /// Of the last change.
    pub version: u64,
    pub objects: BTreeMap<Key, Arc<Value>>,
    changes: Vec<Change>,
    /// Changes up to this version are gone.
    compacted: u64,
    rests: HashMap<String, Rest>,
    tokens: u64,
}

impl Store {
    /// The first version is that of a server which has lived for a while.
    pub fn new() -> Self {
        Self {
            version: 1_000,
            objects: BTreeMap::new(),
            changes: Vec::new(),
            compacted: 1_000,
            rests: HashMap::new(),
            tokens: 0,
        }
    }

    /// Puts an object, which has its version already, or takes it away.
    pub fn record(&mut self, key: Key, kind: Kind, object: Arc<Value>) {
        let before = match kind {
            Kind::Deleted => self.objects.remove(&key),
            _ => self.objects.insert(key.clone(), Arc::clone(&object)),
        };
        self.changes.push(Change { version: self.version, plural: key.plural, kind, object, before });
    }

    /// Forgets what changed until now, and every list of which pages are left.
    pub fn compact(&mut self) {
        self.compacted = self.version;
        self.changes.clear();
        self.rests.clear();
    }

    /// The objects of a scope now.
    pub fn select(&self, scope: &Scope) -> Vec<Arc<Value>> {
        let of = |(key, object): (&Key, &Arc<Value>)| {
            (key.plural == scope.resource.plural && scope.takes(object)).then(|| Arc::clone(object))
        };
        self.objects.iter().filter_map(of).collect()
    }

    /// A page of at most `limit` objects (0: all), from the beginning or from where another one ended.
    pub fn page(&mut self, scope: &Scope, limit: usize, token: &str) -> Result<Page, Failure> {
        let mut rest = match token {
            "" => Rest { version: self.version, objects: self.select(scope) },
            token => self.rests.remove(token).ok_or_else(|| Failure::gone(0, self.compacted))?,
        };
        let size = if limit == 0 { rest.objects.len() } else { limit.min(rest.objects.len()) };
        let left = rest.objects.split_off(size);
        let (version, objects) = (rest.version, rest.objects);
        let next = (!left.is_empty()).then(|| {
            self.tokens += 1;
            let token = format!("page-{}", self.tokens);
            let count = left.len();
            self.rests.insert(token.clone(), Rest { version, objects: left });
            (token, count)
        });
        Ok(Page { version, objects, next })
    }

    /// What changed after a version.
    pub fn since(&self, version: u64) -> Result<Vec<Change>, Failure> {
        if version < self.compacted {
            return Err(Failure::gone(version, self.compacted));
        }
        let first = self.changes.partition_point(|change| change.version <= version);
        Ok(self.changes[first..].to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn scope(fields: &str) -> Scope {
        let selector = Selector::parse(fields, "").unwrap();
        Scope { resource: Resource::named("pods"), namespace: String::new(), selector }
    }

    fn record(store: &mut Store, name: &str, kind: Kind, node: &str) {
        store.version += 1;
        let object = json!({ "metadata": { "name": name }, "spec": { "nodeName": node } });
        store.record(Key::new(Resource::named("pods"), "a", name), kind, Arc::new(object));
    }

    #[test]
    fn the_pages_of_a_list_show_one_moment() {
        let mut store = Store::new();
        for name in ["p1", "p2", "p3"] {
            record(&mut store, name, Kind::Added, "n");
        }
        let first = store.page(&scope(""), 2, "").unwrap();
        let (token, left) = first.next.unwrap();
        assert_eq!((first.objects.len(), left), (2, 1));
        record(&mut store, "p4", Kind::Added, "n");
        record(&mut store, "p3", Kind::Deleted, "n");
        let second = store.page(&scope(""), 2, &token).unwrap();
        assert_eq!(second.version, first.version);
        assert_eq!(second.objects[0]["metadata"]["name"], "p3");
        assert!(second.next.is_none());
    }

    #[test]
    fn what_is_compacted_is_gone_for_watches_and_pages() {
        let mut store = Store::new();
        for name in ["p1", "p2"] {
            record(&mut store, name, Kind::Added, "n");
        }
        let (token, _) = store.page(&scope(""), 1, "").unwrap().next.unwrap();
        assert_eq!(store.since(1_001).unwrap().len(), 1);
        store.compact();
        assert_eq!(store.since(1_001).unwrap_err().code, 410);
        assert!(store.since(1_002).unwrap().is_empty());
        assert_eq!(store.page(&scope(""), 1, &token).unwrap_err().code, 410);
    }

    #[test]
    fn an_object_that_leaves_the_selection_is_deleted_for_who_selects() {
        let mut store = Store::new();
        record(&mut store, "p", Kind::Added, "n1");
        record(&mut store, "p", Kind::Modified, "n2");
        record(&mut store, "p", Kind::Deleted, "n2");
        let changes = store.since(1_000).unwrap();
        let seen = |fields: &str| -> Vec<_> {
            let scope = scope(fields);
            changes.iter().map(|change| scope.shows(change)).collect()
        };
        assert_eq!(seen("spec.nodeName=n1"), [Some("ADDED"), Some("DELETED"), None]);
        assert_eq!(seen("spec.nodeName=n2"), [None, Some("ADDED"), Some("DELETED")]);
        assert_eq!(seen(""), [Some("ADDED"), Some("MODIFIED"), Some("DELETED")]);
    }
}
