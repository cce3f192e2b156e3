//! The word of a policy engine (OPA) on connections that the rules allow.
//!
//! It can only take away: what the rules deny is never asked about, so that an engine that is wrong, broken or in other hands
//! opens nothing that the configuration closes. An answer counts for a while (`cache`), connections with the same question
//! wait for the same call, and an engine that fails is asked ever more rarely (`circuit`).

mod answer;
mod cache;
mod circuit;
mod client;
mod flight;
mod question;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Semaphore;

use crate::config::{ExternalPolicy, OnFailure};
use crate::observe::metrics::ExternalMetrics;

pub use answer::Answer;
use cache::{Cache, Key};
use circuit::{Circuit, May};
use client::Client;
use flight::{Flights, Landed};
pub use question::{End, Question};

/// Calls at one time, whatever the number of questions: each blocks a thread.
pub const MAX_CALLS: usize = 16;
/// Different questions that wait at one time.
pub const MAX_QUESTIONS: usize = 1_024;

/// What outlives a configuration: the bound on calls, and the counts.
#[derive(Debug)]
pub struct Calls {
    permits: Arc<Semaphore>,
    /// The counts.
    pub metrics: Arc<ExternalMetrics>,
}

impl Calls {
    /// None under way.
    #[must_use]
    pub fn new(metrics: Arc<ExternalMetrics>) -> Self {
        Self { permits: Arc::new(Semaphore::new(MAX_CALLS)), metrics }
    }
}

/// What comes of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ruling {
    /// The engine's answer.
    Answered {
        /// What it says.
        answer: Answer,
        /// It said so before, to an equal question.
        cached: bool,
    },
    /// There is no answer; why.
    Unavailable(Arc<str>),
}

/// One configuration's policy engine, and what it has answered since that came into force.
#[derive(Debug)]
pub struct External {
    settings: ExternalPolicy,
    client: Client,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    cache: Cache,
    flights: Flights,
    circuit: Circuit,
}

/// What is to be done for a question.
enum Begun {
    Known(Ruling),
    Waits(flight::Passenger),
}

impl External {
    /// Nothing is asked, read or opened yet.
    #[must_use]
    pub fn new(settings: ExternalPolicy) -> Self {
        let state = State {
            cache: Cache::new(settings.cache),
            flights: Flights::default(),
            circuit: Circuit::default(),
        };
        Self { client: Client::new(&settings), settings, state: Mutex::new(state) }
    }

    /// How it is configured.
    #[must_use]
    pub fn settings(&self) -> &ExternalPolicy {
        &self.settings
    }

    /// Whether a connection may be that it gave no answer about.
    #[must_use]
    pub fn allows_without_answer(&self) -> bool {
        self.settings.on_failure == OnFailure::Allow
    }

    /// The last call failed, or there is none yet that did not.
    #[must_use]
    pub fn is_failing(&self) -> bool {
        self.state().circuit.is_failing()
    }

    /// What it answered to an equal question, if that still counts. Asks nobody.
    #[must_use]
    pub fn known(&self, question: &Question<'_>) -> Option<Answer> {
        let (_, key) = question.document().ok()?;
        self.state().cache.get(&key, Instant::now())
    }

    /// Asks, unless it is known already. Waits no longer than the configured timeout.
    pub async fn decide(self: &Arc<Self>, calls: &Arc<Calls>, question: &Question<'_>) -> Ruling {
        let (document, key) = match question.document() {
            Ok(document) => document,
            Err(error) => {
                return Ruling::Unavailable(format!("the question cannot be written: {error}").into());
            }
        };
        let passenger = match self.begin(calls, key, document) {
            Begun::Known(ruling) => return ruling,
            Begun::Waits(passenger) => passenger,
        };
        match tokio::time::timeout(self.settings.timeout, passenger.landed()).await {
            Ok(Landed::Answer(answer)) => Ruling::Answered { answer, cached: false },
            Ok(Landed::Failed(why) | Landed::NotAsked(why)) => Ruling::Unavailable(why),
            Err(_) => {
                let (url, limit) = (&self.settings.url, self.settings.timeout);
                Ruling::Unavailable(format!("{url} had not answered after {limit:?}").into())
            }
        }
    }

    fn begin(self: &Arc<Self>, calls: &Arc<Calls>, key: Key, document: Vec<u8>) -> Begun {
        let now = Instant::now();
        let mut state = self.state();
        if let Some(answer) = state.cache.get(&key, now) {
            return Begun::Known(Ruling::Answered { answer, cached: true });
        }
        if let Some(passenger) = state.flights.join(&key) {
            return Begun::Waits(passenger);
        }
        if state.flights.len() >= MAX_QUESTIONS {
            let why = format!("{MAX_QUESTIONS} other questions wait for {} already", self.settings.url);
            return Begun::Known(Ruling::Unavailable(why.into()));
        }
        if let May::Not(why) = state.circuit.may_ask(now) {
            return Begun::Known(Ruling::Unavailable(why));
        }
        let (landing, passenger) = state.flights.start(Arc::clone(self), key);
        drop(state);
        tokio::spawn(flight::fly(Arc::clone(calls), landing, document));
        Begun::Waits(passenger)
    }

    /// Takes what came of a call.
    fn landed(&self, key: &Key, landed: &Landed) {
        let now = Instant::now();
        let mut state = self.state();
        state.flights.forget(key);
        match landed {
            Landed::Answer(answer) => {
                state.cache.put(*key, answer.clone(), now);
                if state.circuit.answered() {
                    tracing::info!(url = self.settings.url, "the policy engine answers again");
                }
            }
            Landed::Failed(why) => {
                let told = state.circuit.failed(now, why);
                drop(state);
                let (url, becomes) = (&self.settings.url, self.settings.on_failure);
                match told {
                    circuit::Told::Nothing => {}
                    circuit::Told::First => {
                        tracing::warn!(url, on_failure = ?becomes, "the policy engine gave no answer: {why}");
                    }
                    circuit::Told::Paused(pause) => tracing::error!(
                        url,
                        on_failure = ?becomes,
                        "the policy engine fails and is left alone for {pause:?}: {why}"
                    ),
                }
            }
            Landed::NotAsked(_) => state.circuit.not_asked(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No code that can panic runs while it is held, except for allocation.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
