//! A whole list, page by page, all of one moment.

use std::collections::BTreeMap;

use super::client::Client;
use super::error::{KubeError, Subject, Verb};
use super::names::{Key, Uid};
use super::objects::{BadObject, Identity, Kind, Read};
use super::page::page;
use super::scope::Scope;
use super::store::MAX_OBJECTS;

/// Objects of a page.
pub const PAGE: usize = 500;

/// What there is.
#[derive(Debug)]
pub(super) struct Listed<K> {
    /// From here on it is watched.
    pub version: String,
    pub objects: BTreeMap<Key, K>,
    /// What cannot be read, by its name.
    pub refused: BTreeMap<Key, (Uid, BadObject)>,
    /// What has not even a name.
    pub nameless: Option<BadObject>,
}

/// Lists all of a scope.
///
/// A page that expires ends it with [`KubeError::Gone`]: what comes behind it would be of another moment.
pub(super) async fn list<K: Kind>(client: &Client, scope: &Scope) -> Result<Listed<K>, KubeError> {
    let (mut objects, mut refused, mut nameless) = (BTreeMap::new(), BTreeMap::new(), None);
    let (mut limit, mut token) = (PAGE, String::new());
    let mut pages = 0_usize;
    loop {
        let page = match page::<K>(client, scope, limit, &token).await {
            Err(KubeError::TooLarge { .. }) if limit > 1 => {
                limit /= 4;
                limit = limit.max(1);
                continue;
            }
            other => other?,
        };
        for object in page.objects {
            match object {
                Read::Good(object) => drop(objects.insert(object.key().clone(), object)),
                Read::Bad(Identity { key, uid }, bad) => drop(refused.insert(key, (uid, bad))),
                Read::Nameless(bad) => nameless = Some(bad),
            }
        }
        if objects.len().saturating_add(refused.len()) > MAX_OBJECTS {
            return Err(KubeError::TooMany { resource: K::RESOURCE, limit: MAX_OBJECTS });
        }
        if page.next.is_empty() {
            return Ok(Listed { version: page.version, objects, refused, nameless });
        }
        // Pages may be empty, where a selector takes nothing; those of a broken server would never end.
        pages += 1;
        if pages > MAX_OBJECTS {
            let subject = Subject { verb: Verb::List, resource: K::RESOURCE };
            return Err(KubeError::Malformed { subject, reason: format!("it has more than {pages} pages") });
        }
        token = page.next;
    }
}
