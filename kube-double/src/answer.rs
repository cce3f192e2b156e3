//! What the server says when it does not do what it is asked: a `Status` object, with its HTTP code.

use serde_json::{Value, json};

use crate::object::Key;
use crate::resource::Resource;

/// A refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub code: u16,
    pub reason: &'static str,
    pub message: String,
    /// For 429 and 503, in seconds.
    pub retry_after: Option<u32>,
}

impl Failure {
    pub fn new(code: u16, reason: &'static str, message: String) -> Self {
        Self { code, reason, message, retry_after: None }
    }

    pub fn bad(message: &str) -> Self {
        Self::new(400, "BadRequest", message.to_owned())
    }

    pub fn not_found(key: &Key) -> Self {
        Self::new(404, "NotFound", format!("{} {:?} not found", key.plural, key.name))
    }

    pub fn no_such_path() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource".to_owned())
    }

    pub fn conflict(key: &Key) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} {:?}: the object has been modified; please apply your changes to the latest version",
            key.plural, key.name
        );
        Self::new(409, "Conflict", message)
    }

    pub fn exists(key: &Key) -> Self {
        Self::new(409, "AlreadyExists", format!("{} {:?} already exists", key.plural, key.name))
    }

    /// A resource version, or a page, that is compacted away.
    pub fn gone(asked: u64, oldest: u64) -> Self {
        Self::new(410, "Expired", format!("too old resource version: {asked} ({oldest})"))
    }

    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized".to_owned())
    }

    pub fn forbidden(user: &str, verb: &str, resource: &Resource, namespace: &str) -> Self {
        let place = match namespace {
            "" => "at the cluster scope".to_owned(),
            namespace => format!("in the namespace {namespace:?}"),
        };
        let (plural, group) = (resource.plural, resource.group);
        let message = format!(
            "{plural} is forbidden: User {user:?} cannot {verb} resource {plural:?} in API group {group:?} {place}"
        );
        Self::new(403, "Forbidden", message)
    }

    /// The object that says so.
    pub fn status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        })
    }
}
