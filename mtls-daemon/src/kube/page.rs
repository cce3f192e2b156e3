//! One page of a list, read object by object.

use super::client::Client;
use super::error::{KubeError, Subject, Verb};
use super::json::List;
use super::objects::{Kind, Read, read};
use super::scope::Scope;
use crate::identity::leaf::show;

/// Largest page that is read, in bytes; 500 pods have about 5 MB. What is larger is asked for in smaller pages.
pub const MAX_PAGE_BYTES: usize = 32 << 20;

/// A page.
#[derive(Debug)]
pub(super) struct Page<K> {
    /// The version that the whole list shows.
    pub version: String,
    /// Where the next page begins; empty: this is the last.
    pub next: String,
    pub objects: Vec<Read<K>>,
}

/// Asks for a page of at most `limit` objects, from where another one ended or from the beginning.
pub(super) async fn page<K: Kind>(
    client: &Client,
    scope: &Scope,
    limit: usize,
    token: &str,
) -> Result<Page<K>, KubeError> {
    let limit = limit.to_string();
    let mut parameters = vec![("limit", limit.as_str())];
    if !token.is_empty() {
        parameters.push(("continue", token));
    }
    let path = scope.path(&K::RESOURCE, &parameters);
    let bytes = client.page(K::RESOURCE, path, MAX_PAGE_BYTES).await?;
    let subject = Subject { verb: Verb::List, resource: K::RESOURCE };
    let malformed = |reason: String| KubeError::Malformed { subject, reason };
    let list: List<'_> =
        serde_json::from_slice(&bytes).map_err(|error| malformed(show(&error.to_string())))?;
    if list.metadata.version.is_empty() {
        return Err(malformed("it has no metadata.resourceVersion".to_owned()));
    }
    let objects = list.items.iter().map(|item| read(item.get())).collect();
    Ok(Page { version: list.metadata.version, next: list.metadata.next, objects })
}
