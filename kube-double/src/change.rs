//! Creating, replacing, patching and deleting, as the real server does them.

use std::sync::Arc;

use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::answer::Failure;
use crate::object::{Key, metadata, text};
use crate::patch::merge;
use crate::resource::Resource;
use crate::store::{Kind, Store};

impl Store {
    /// POST. What has a `/status` begins without one.
    pub fn create(
        &mut self,
        resource: &'static Resource,
        namespace: &str,
        mut object: Value,
    ) -> Result<Arc<Value>, Failure> {
        if resource.status {
            remove(&mut object, "status");
        }
        let prefix = text(&object, "generateName").to_owned();
        if text(&object, "name").is_empty() && !prefix.is_empty() {
            let name = format!("{prefix}{:05x}", self.version);
            metadata(&mut object).insert("name".to_owned(), name.into());
        }
        let name = text(&object, "name").to_owned();
        if name.is_empty() {
            return Err(Failure::new(422, "Invalid", "metadata.name: Required value".to_owned()));
        }
        let key = Key::new(resource, namespace, &name);
        if self.objects.contains_key(&key) {
            return Err(Failure::exists(&key));
        }
        Ok(self.put(resource, key, object))
    }

    /// Puts a whole object, status and all, whether or not there is one. Also for tests.
    pub fn put(&mut self, resource: &'static Resource, key: Key, mut object: Value) -> Arc<Value> {
        let before = self.objects.get(&key).cloned();
        self.version += 1;
        object["apiVersion"] = resource.api_version().into();
        object["kind"] = resource.kind.into();
        let generation = match &before {
            Some(before) => {
                let known = before["metadata"]["generation"].as_u64().unwrap_or(1);
                known + u64::from(before["spec"] != object["spec"])
            }
            None => 1,
        };
        let (version, fields) = (self.version, metadata(&mut object));
        fields.insert("name".to_owned(), key.name.clone().into());
        if resource.namespaced {
            fields.insert("namespace".to_owned(), key.namespace.clone().into());
        }
        let kept = |field: &str| before.as_ref().map(|before| before["metadata"][field].clone());
        let uid = kept("uid").unwrap_or_else(|| format!("00000000-0000-4000-8000-{version:012x}").into());
        let created = kept("creationTimestamp").unwrap_or_else(|| now().into());
        fields.entry("uid").or_insert(uid);
        fields.entry("creationTimestamp").or_insert(created);
        fields.insert("resourceVersion".to_owned(), version.to_string().into());
        fields.insert("generation".to_owned(), generation.into());
        let object = Arc::new(object);
        let kind = if before.is_some() { Kind::Modified } else { Kind::Added };
        self.record(key, kind, Arc::clone(&object));
        object
    }

    /// PUT.
    pub fn replace(
        &mut self,
        resource: &'static Resource,
        key: Key,
        object: &Value,
        status: bool,
    ) -> Result<Arc<Value>, Failure> {
        let before = self.find(&key)?;
        self.same_version(&key, object)?;
        Ok(self.update(resource, key, &before, object.clone(), status))
    }

    /// PATCH, as a merge.
    pub fn patch(
        &mut self,
        resource: &'static Resource,
        key: Key,
        patch: &Value,
        status: bool,
    ) -> Result<Arc<Value>, Failure> {
        let before = self.find(&key)?;
        self.same_version(&key, patch)?;
        let mut after = (*before).clone();
        merge(&mut after, patch);
        Ok(self.update(resource, key, &before, after, status))
    }

    /// DELETE, with the preconditions of its options.
    pub fn delete(&mut self, key: &Key, options: &Value) -> Result<Arc<Value>, Failure> {
        let before = self.find(key)?;
        for (field, name) in [("uid", "uid"), ("resourceVersion", "resourceVersion")] {
            let wanted = options["preconditions"][name].as_str();
            if wanted.is_some_and(|wanted| wanted != text(&before, field)) {
                return Err(Failure::conflict(key));
            }
        }
        self.version += 1;
        let mut last = (*before).clone();
        metadata(&mut last).insert("resourceVersion".to_owned(), self.version.to_string().into());
        let last = Arc::new(last);
        self.record(key.clone(), Kind::Deleted, Arc::clone(&last));
        Ok(last)
    }

    pub fn find(&self, key: &Key) -> Result<Arc<Value>, Failure> {
        self.objects.get(key).cloned().ok_or_else(|| Failure::not_found(key))
    }

    /// One way in for the status, another one for all else; what changes nothing makes no version.
    fn update(
        &mut self,
        resource: &'static Resource,
        key: Key,
        before: &Arc<Value>,
        mut after: Value,
        status: bool,
    ) -> Arc<Value> {
        if status {
            let told = after["status"].take();
            after = (**before).clone();
            after["status"] = told;
        } else if resource.status {
            match before.get("status") {
                Some(status) => after["status"] = status.clone(),
                None => remove(&mut after, "status"),
            }
        }
        for field in ["uid", "creationTimestamp", "generation", "resourceVersion"] {
            metadata(&mut after).insert(field.to_owned(), before["metadata"][field].clone());
        }
        if after == **before { Arc::clone(before) } else { self.put(resource, key, after) }
    }

    /// Who names a version means that one.
    fn same_version(&self, key: &Key, told: &Value) -> Result<(), Failure> {
        let (told, now) = (text(told, "resourceVersion"), self.find(key)?);
        if told.is_empty() || told == text(&now, "resourceVersion") {
            return Ok(());
        }
        Err(Failure::conflict(key))
    }
}

fn remove(object: &mut Value, field: &str) {
    if let Some(fields) = object.as_object_mut() {
        fields.remove(field);
    }
}

fn now() -> String {
    let now = OffsetDateTime::now_utc().replace_nanosecond(0).expect("0 is a nanosecond");
    now.format(&Rfc3339).expect("a time of now can be written")
}

/// As a list on the wire.
pub(crate) fn list(resource: &Resource, version: u64, objects: &[Arc<Value>]) -> Value {
    let items: Vec<&Value> = objects.iter().map(Arc::as_ref).collect();
    let mut meta = Map::new();
    meta.insert("resourceVersion".to_owned(), version.to_string().into());
    json!({
        "kind": format!("{}List", resource.kind), "apiVersion": resource.api_version(),
        "metadata": meta, "items": items,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policies() -> &'static Resource {
        Resource::named("mutualtlspolicies")
    }

    fn key() -> Key {
        Key::new(policies(), "shop", "p")
    }

    fn created(store: &mut Store) -> Arc<Value> {
        let object =
            json!({ "metadata": { "name": "p" }, "spec": { "mode": "STRICT" }, "status": { "x": 1 } });
        store.create(policies(), "shop", object).unwrap()
    }

    #[test]
    fn each_change_has_a_version_of_its_own_and_only_the_spec_a_generation() {
        let mut store = Store::new();
        let first = created(&mut store);
        assert_eq!(text(&first, "resourceVersion"), "1001");
        assert_eq!(first["metadata"]["generation"], 1);
        let status = store.patch(policies(), key(), &json!({ "status": { "y": 2 } }), true).unwrap();
        assert_eq!(
            (text(&status, "resourceVersion"), &status["metadata"]["generation"]),
            ("1002", &json!(1))
        );
        let spec = store.patch(policies(), key(), &json!({ "spec": { "mode": null } }), false).unwrap();
        assert_eq!((text(&spec, "resourceVersion"), &spec["metadata"]["generation"]), ("1003", &json!(2)));
        assert_eq!(text(&spec, "uid"), text(&first, "uid"));
        let same = store.patch(policies(), key(), &json!({ "metadata": {} }), false).unwrap();
        assert_eq!(text(&same, "resourceVersion"), "1003", "what changes nothing makes no version");
    }

    #[test]
    fn the_status_has_a_way_of_its_own() {
        let mut store = Store::new();
        assert!(created(&mut store).get("status").is_none());
        let both = json!({ "spec": { "mode": "OFF" }, "status": { "seen": true } });
        let status = store.patch(policies(), key(), &both, true).unwrap();
        assert_eq!((&status["spec"]["mode"], &status["status"]["seen"]), (&json!("STRICT"), &json!(true)));
        let spec = store
            .patch(policies(), key(), &json!({ "spec": { "mode": "OFF" }, "status": 7 }), false)
            .unwrap();
        assert_eq!((&spec["spec"]["mode"], &spec["status"]["seen"]), (&json!("OFF"), &json!(true)));
    }

    #[test]
    fn a_version_that_is_not_of_now_is_a_conflict() {
        let mut store = Store::new();
        created(&mut store);
        let stale = json!({ "metadata": { "resourceVersion": "7" }, "spec": {} });
        assert_eq!(store.patch(policies(), key(), &stale, false).unwrap_err().code, 409);
        assert_eq!(store.patch(policies(), key(), &stale, true).unwrap_err().code, 409);
        assert_eq!(store.replace(policies(), key(), &stale, false).unwrap_err().code, 409);
        let other = json!({ "preconditions": { "uid": "another" } });
        assert_eq!(store.delete(&key(), &other).unwrap_err().reason, "Conflict");
        let again = store.create(policies(), "shop", json!({ "metadata": { "name": "p" } }));
        assert_eq!(again.unwrap_err().reason, "AlreadyExists");
        let last = store.delete(&key(), &json!({})).unwrap();
        assert_eq!(text(&last, "resourceVersion"), "1002");
        assert_eq!(store.find(&key()).unwrap_err().code, 404);
    }
}
