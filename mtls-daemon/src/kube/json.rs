//! What of an answer is read: only the fields that are used.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A field that is missing or null has its default: Go writes `null` for an empty list.
pub(crate) fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

/// A page of a list.
#[derive(Debug, Deserialize)]
pub(super) struct List<'a> {
    #[serde(default, deserialize_with = "or_default")]
    pub metadata: ListMeta,
    /// Each is read on its own.
    #[serde(borrow, default, deserialize_with = "or_default")]
    pub items: Vec<&'a RawValue>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct ListMeta {
    #[serde(rename = "resourceVersion", default, deserialize_with = "or_default")]
    pub version: String,
    #[serde(rename = "continue", default, deserialize_with = "or_default")]
    pub next: String,
}

/// A line of a watch.
#[derive(Debug, Deserialize)]
pub(super) struct Event<'a> {
    #[serde(rename = "type")]
    pub kind: EventKind,
    #[serde(borrow)]
    pub object: &'a RawValue,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum EventKind {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

/// What a server says when it refuses.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Status {
    #[serde(default, deserialize_with = "or_default")]
    pub message: String,
    #[serde(default, deserialize_with = "or_default")]
    pub code: u16,
}

/// Which object, before anything else of it is read.
#[derive(Debug, Deserialize)]
pub(super) struct Head {
    pub metadata: Ident,
}

#[derive(Debug, Deserialize)]
pub(super) struct Ident {
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    #[serde(default, deserialize_with = "or_default")]
    pub namespace: String,
    #[serde(default, deserialize_with = "or_default")]
    pub uid: String,
    #[serde(rename = "resourceVersion", default, deserialize_with = "or_default")]
    pub version: String,
}
