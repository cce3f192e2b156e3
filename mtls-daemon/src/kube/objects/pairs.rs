//! Labels, and the few annotations that are used.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::at_most;
use super::bad::BadObject;
use crate::identity::leaf::show;
use crate::kube::names::NameError;

/// Most labels of an object, and most annotations of it that are kept.
pub const MAX_PAIRS: usize = 128;
/// Longest key, in bytes: a prefix of 253, a slash, a name of 63.
const MAX_KEY: usize = 317;
/// Longest value of a label.
const MAX_LABEL_VALUE: usize = 63;
/// Longest value of an annotation that is kept.
const MAX_ANNOTATION_VALUE: usize = 1_024;
/// Annotations with this in front are ours.
const OURS: &str = "mtlsd.io/";
/// What kubelet says of a static pod: the UID that it goes by on the node.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// Keys and values, sorted by key. All in one text, since each small piece of memory would cost as much again as a label has, and shared by who keeps a copy.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "BTreeMap<String, String>", into = "BTreeMap<String, String>")]
pub struct Pairs(Arc<str>);

/// Ends each key and each value.
const END: char = '\0';

impl Pairs {
    /// All labels.
    pub(super) fn labels(raw: &BTreeMap<String, String>) -> Result<Self, BadObject> {
        Self::checked("metadata.labels", raw.iter(), MAX_LABEL_VALUE)
    }

    /// The annotations that mean something to mtlsd; others are often long, and change often.
    pub(super) fn annotations(raw: &BTreeMap<String, String>) -> Result<Self, BadObject> {
        let used = raw.iter().filter(|(key, _)| key.starts_with(OURS) || key.as_str() == MIRROR);
        Self::checked("metadata.annotations", used, MAX_ANNOTATION_VALUE)
    }

    fn checked<'a>(
        field: &'static str,
        pairs: impl Iterator<Item = (&'a String, &'a String)>,
        max: usize,
    ) -> Result<Self, BadObject> {
        let mut all = String::new();
        let mut count = 0_usize;
        for (key, value) in pairs {
            for (text, max) in [(key, MAX_KEY), (value, max)] {
                if text.len() > max {
                    return Err(BadObject::TooLong { field, bytes: text.len(), max });
                }
                if text.contains(END) {
                    let reason = NameError::Character(END);
                    return Err(BadObject::Name { field, text: show(text), reason });
                }
                all.push_str(text);
                all.push(END);
            }
            count = count.saturating_add(1);
        }
        at_most(field, count, MAX_PAIRS)?;
        Ok(Self(all.into()))
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.iter().find(|(known, _)| *known == key).map(|(_, value)| value)
    }

    /// All of them, in the order of their keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let mut texts = self.0.split_terminator(END);
        std::iter::from_fn(move || Some((texts.next()?, texts.next()?)))
    }

    /// The UID of a static pod on its node, which is not that of its mirror.
    #[must_use]
    pub fn mirror(&self) -> Option<&str> {
        self.get(MIRROR)
    }

    /// How many bytes they take.
    #[cfg(test)]
    pub fn bytes(&self) -> usize {
        self.0.len()
    }
}

/// As they stand on disk.
impl TryFrom<BTreeMap<String, String>> for Pairs {
    type Error = BadObject;

    fn try_from(all: BTreeMap<String, String>) -> Result<Self, BadObject> {
        Self::checked("pairs", all.iter(), MAX_ANNOTATION_VALUE)
    }
}

impl From<Pairs> for BTreeMap<String, String> {
    fn from(pairs: Pairs) -> Self {
        pairs.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
    }
}
