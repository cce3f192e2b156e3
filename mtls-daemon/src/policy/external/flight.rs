//! Questions that are out: connections with the same one wait for the same call.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use super::answer::Answer;
use super::cache::Key;
use super::{Calls, External};

/// What came of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Landed {
    Answer(Answer),
    /// It was asked and did not answer.
    Failed(Arc<str>),
    /// There was no place to ask it.
    NotAsked(Arc<str>),
}

/// The questions that are out.
#[derive(Debug, Default)]
pub(super) struct Flights(HashMap<Key, watch::Receiver<Option<Landed>>>);

impl Flights {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Waits along, if the question is out.
    pub fn join(&self, key: &Key) -> Option<Passenger> {
        self.0.get(key).cloned().map(Passenger)
    }

    /// A question goes out; whoever holds the landing must bring it back, or drop it.
    pub fn start(&mut self, external: Arc<External>, key: Key) -> (Landing, Passenger) {
        let (told, tells) = watch::channel(None);
        self.0.insert(key, tells.clone());
        (Landing { external, key, told, landed: None }, Passenger(tells))
    }

    pub fn forget(&mut self, key: &Key) {
        self.0.remove(key);
    }
}

/// A connection that waits for an answer.
pub(super) struct Passenger(watch::Receiver<Option<Landed>>);

impl Passenger {
    pub async fn landed(mut self) -> Landed {
        match self.0.wait_for(Option::is_some).await {
            Ok(landed) => landed.clone().unwrap_or_else(lost),
            Err(_) => lost(),
        }
    }
}

fn lost() -> Landed {
    Landed::NotAsked("asking failed inside mtlsd; please report it".into())
}

/// Tells everybody what came of a call, also when the task that makes it is stopped or panics: a question that stayed out
/// would never be asked again.
pub(super) struct Landing {
    external: Arc<External>,
    key: Key,
    told: watch::Sender<Option<Landed>>,
    landed: Option<Landed>,
}

impl Drop for Landing {
    fn drop(&mut self) {
        let landed = self.landed.take().unwrap_or_else(lost);
        self.external.landed(&self.key, &landed);
        self.told.send_replace(Some(landed));
    }
}

/// Makes the call, in a thread that may block.
pub(super) async fn fly(calls: Arc<Calls>, mut landing: Landing, document: Vec<u8>) {
    let external = Arc::clone(&landing.external);
    let limit = external.settings.timeout;
    let waited = tokio::time::timeout(limit, Arc::clone(&calls.permits).acquire_owned()).await;
    let Ok(Ok(permit)) = waited else {
        let why = format!("{} other calls were under way for {limit:?}", super::MAX_CALLS);
        landing.landed = Some(Landed::NotAsked(why.into()));
        return;
    };
    let asked = tokio::task::spawn_blocking(move || {
        // Given back when the thread is, not when nobody waits for it any more.
        let _permit = permit;
        let started = Instant::now();
        let answer = external.client.ask(&document);
        calls.metrics.called(answer.is_ok(), started.elapsed());
        answer
    });
    landing.landed = asked.await.ok().map(|answer| match answer {
        Ok(answer) => Landed::Answer(answer),
        Err(error) => Landed::Failed(error.to_string().into()),
    });
}
