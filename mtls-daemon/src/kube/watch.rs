//! One watch, from a version until it ends.

use serde_json::value::RawValue;
use tokio::time::timeout;

use super::answer::of_status;
use super::body::Body;
use super::client::Client;
use super::error::{KubeError, Subject, Verb};
use super::json::{Event, EventKind, Status};
use super::lines::{MAX_LINE, Splitter};
use super::objects::{BadObject, Identity, Kind, Read, head, identity, read};
use super::scope::Scope;
use crate::identity::leaf::show;

/// What a line says.
#[derive(Debug)]
pub(super) enum Said<K> {
    /// An object as it is now, or what is wrong with it.
    Is(Read<K>),
    /// An object is gone.
    Gone(Identity),
    /// An object is gone whose name cannot be read.
    NamelessGone(BadObject),
    /// All is as it was.
    Bookmark,
}

/// A watch that is open.
#[derive(Debug)]
pub(super) struct Watch {
    body: Body,
    splitter: Splitter,
    idle: std::time::Duration,
    /// What was told up to: the next watch goes on from here.
    pub version: String,
}

impl Watch {
    /// Begins one. [`KubeError::Gone`]: the version is too old, and all must be listed.
    pub async fn open<K: Kind>(client: &Client, scope: &Scope, version: &str) -> Result<Self, KubeError> {
        let timing = client.timing();
        let seconds = timing.watch.as_secs().max(1).to_string();
        let path = scope.path(
            &K::RESOURCE,
            &[
                ("watch", "1"),
                ("allowWatchBookmarks", "true"),
                ("timeoutSeconds", &seconds),
                ("resourceVersion", version),
            ],
        );
        let body = client.watch(K::RESOURCE, path).await?;
        Ok(Self { body, splitter: Splitter::default(), idle: timing.idle, version: version.to_owned() })
    }

    /// What is said next; `None`: the server ended it, as it was asked to after its time.
    pub async fn next<K: Kind>(&mut self) -> Result<Option<Said<K>>, KubeError> {
        let subject = Subject { verb: Verb::Watch, resource: K::RESOURCE };
        loop {
            match self.splitter.next_line() {
                Err(_) => return Err(KubeError::TooLarge { subject, limit: MAX_LINE }),
                Ok(Some(line)) => {
                    let (said, version) = say(subject, line)?;
                    if !version.is_empty() {
                        self.version = version;
                    }
                    return Ok(Some(said));
                }
                Ok(None) => {}
            }
            let piece = timeout(self.idle, self.body.piece()).await;
            let Ok(piece) = piece else { return Err(KubeError::Silent { subject, limit: self.idle }) };
            match piece? {
                Some(bytes) => self.splitter.push(&bytes),
                None if self.splitter.is_within_line() => {
                    let reason = "it ends in the middle of a line".to_owned();
                    return Err(KubeError::Malformed { subject, reason });
                }
                None => return Ok(None),
            }
        }
    }
}

/// The object that a line of a watch brings; `None`: none that can be read.
///
/// # Errors
/// It is no line of a watch, or tells of a failure.
pub fn object_in_line<K: Kind>(line: &[u8]) -> Result<Option<K>, KubeError> {
    let subject = Subject { verb: Verb::Watch, resource: K::RESOURCE };
    match say(subject, line)?.0 {
        Said::Is(Read::Good(object)) => Ok(Some(object)),
        _ => Ok(None),
    }
}

/// Reads a line: what it says, and its version.
fn say<K: Kind>(subject: Subject, line: &[u8]) -> Result<(Said<K>, String), KubeError> {
    let malformed = |reason: &str| KubeError::Malformed { subject, reason: show(reason) };
    let Event { kind, object } =
        serde_json::from_slice(line).map_err(|error| malformed(&error.to_string()))?;
    let json = object.get();
    if kind == EventKind::Error {
        return Err(failure(subject, object));
    }
    let ident = match head(json) {
        Ok(ident) => ident,
        Err(bad) if kind == EventKind::Bookmark => return Err(malformed(&bad.to_string())),
        Err(bad) if kind == EventKind::Deleted => return Ok((Said::NamelessGone(bad), String::new())),
        Err(bad) => return Ok((Said::Is(Read::Nameless(bad)), String::new())),
    };
    let said = match kind {
        EventKind::Bookmark => Said::Bookmark,
        EventKind::Deleted => identity(&ident).map_or_else(Said::NamelessGone, Said::Gone),
        EventKind::Added | EventKind::Modified | EventKind::Error => Said::Is(read(json)),
    };
    Ok((said, ident.version))
}

/// What an ERROR event says.
fn failure(subject: Subject, object: &RawValue) -> KubeError {
    let status: Status = serde_json::from_str(object.get()).unwrap_or_default();
    of_status(subject, status.code, show(&status.message), None)
}
