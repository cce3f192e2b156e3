//! A watch: a stream of lines, each with one event.

use std::sync::Arc;
use std::time::Duration;

use hyper::body::Bytes;
use serde_json::{Value, json};
use tokio::sync::{broadcast, mpsc};
use tokio::time::{Instant, interval_at, sleep_until};

use crate::answer::Failure;
use crate::faults::InWatch;
use crate::http::Piece;
use crate::route::Query;
use crate::serve::Server;
use crate::store::{Gone, Scope};

/// What a watch is to do, read from its request.
pub(crate) struct Watch {
    scope: Scope,
    /// Changes after this one are told.
    seen: u64,
    /// What is there is told first, as ADDED events.
    first: Vec<Arc<Value>>,
    bookmarks: bool,
    until: Duration,
    /// It begins well and says then that its version is gone.
    gone: Option<Failure>,
}

impl Watch {
    /// Without a version, or with 0, it begins with what is there.
    pub fn new(server: &Server, scope: Scope, query: &Query) -> Result<Self, Failure> {
        let state = server.state();
        let asked = query.number("resourceVersion")?;
        let bookmarks = query.is_true("allowWatchBookmarks");
        let until = match query.number("timeoutSeconds")? {
            0 => Duration::from_secs(1_800),
            seconds => Duration::from_secs(seconds),
        };
        let first = if asked == 0 { state.store.select(&scope) } else { Vec::new() };
        let seen = if asked == 0 { state.store.version } else { asked };
        let gone = match state.store.since(seen) {
            Err(failure) if state.gone == Gone::Status => return Err(failure),
            other => other.err(),
        };
        Ok(Self { scope, seen, first, bookmarks, until, gone })
    }

    /// Tells until somebody has enough.
    pub async fn run(mut self, server: Arc<Server>, out: mpsc::Sender<Piece>) {
        let mut commands = server.in_watch.subscribe();
        let mut versions = server.versions.subscribe();
        let pause = server.state().bookmark_pause;
        let mut bookmarks = interval_at(Instant::now() + pause, pause);
        let end = Instant::now() + self.until;
        for object in std::mem::take(&mut self.first) {
            if out.send(line("ADDED", &object)).await.is_err() {
                return;
            }
        }
        if let Some(gone) = &self.gone {
            let _ = out.send(line("ERROR", &gone.status())).await;
            return;
        }
        loop {
            versions.mark_unchanged();
            let changes = server.state().store.since(self.seen);
            let changes = match changes {
                Ok(changes) => changes,
                Err(gone) => {
                    let _ = out.send(line("ERROR", &gone.status())).await;
                    return;
                }
            };
            for change in changes {
                self.seen = change.version;
                if let Some(kind) = self.scope.shows(&change)
                    && out.send(line(kind, &change.object)).await.is_err()
                {
                    return;
                }
            }
            tokio::select! {
                changed = versions.changed() => if changed.is_err() { return },
                _ = bookmarks.tick(), if self.bookmarks => {
                    if out.send(self.bookmark()).await.is_err() {
                        return;
                    }
                }
                command = commands.recv() => match command {
                    Ok(command) => if !self.obey(&command, &out).await { return },
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return,
                },
                () = sleep_until(end) => return,
                () = out.closed() => return,
            }
        }
    }

    /// Does it go on?
    async fn obey(&self, command: &InWatch, out: &mpsc::Sender<Piece>) -> bool {
        let (piece, goes_on) = match command {
            InWatch::Gone => (line("ERROR", &Failure::gone(self.seen, self.seen + 1).status()), false),
            InWatch::Error(code) => {
                let failure = Failure::new(*code, "InternalError", "an error of the double".to_owned());
                (line("ERROR", &failure.status()), false)
            }
            InWatch::Line(text) => (Ok(Bytes::from(format!("{text}\n"))), true),
            InWatch::HalfLine => {
                let _ = out.send(Ok(Bytes::from_static(br#"{"type":"ADDED","object":{"meta"#))).await;
                (Err(crate::http::Broken), false)
            }
            InWatch::Flood(bytes) => (Ok(Bytes::from(vec![b'x'; *bytes])), true),
            InWatch::Bookmark => (self.bookmark(), true),
            InWatch::End => return false,
        };
        out.send(piece).await.is_ok() && goes_on
    }

    fn bookmark(&self) -> Piece {
        let resource = self.scope.resource;
        let version = self.seen.to_string();
        let object = json!({
            "kind": resource.kind, "apiVersion": resource.api_version(),
            "metadata": { "resourceVersion": version, "creationTimestamp": null },
        });
        line("BOOKMARK", &object)
    }
}

fn line(kind: &str, object: &Value) -> Piece {
    Ok(Bytes::from(format!("{}\n", json!({ "type": kind, "object": object }))))
}
