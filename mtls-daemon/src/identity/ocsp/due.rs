//! Which questions are asked now: bounded in number, in all and for each responder, and with pauses after failures.

use std::collections::{BTreeSet, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use super::Question;
use super::book::{Book, Ocsp};
use crate::identity::TrustDomain;
use crate::identity::revocation::Sha256;

/// Most questions that are asked at one time.
pub const MAX_ASKING: usize = 8;
/// Most of them at one responder: one that hangs leaves room for others.
pub const MAX_ASKING_ONE: usize = 4;
/// Most responders that failures are remembered of, and that are asked.
pub const MAX_RESPONDERS: usize = 64;
/// No answer is asked for again sooner.
pub(super) const SOONEST: Duration = Duration::from_secs(1);
/// After a failure, doubling.
const RETRY: Duration = Duration::from_secs(1);
/// Longest pause after a failure.
const MAX_RETRY: Duration = Duration::from_secs(300);
/// For how long a question is put off whose responder has enough to do.
const PUT_OFF: Duration = Duration::from_millis(100);
/// Most questions that are looked at in one go.
const MAX_LOOKED_AT: usize = 256;

/// A question to be asked now.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The question.
    pub question: Arc<Question>,
    /// Where.
    pub url: String,
    /// PEM file with the roots for HTTPS; `None`: the system's.
    pub ca_file: Option<PathBuf>,
    domain: TrustDomain,
}

/// Why there is no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failed {
    /// The responder cannot be asked just now, whatever the question.
    Responder(String),
    /// This question was not answered.
    Question(String),
}

#[derive(Debug, Default)]
struct Asked {
    asking: usize,
    failures: u32,
    not_before: Option<Instant>,
    said: Option<String>,
}

/// The questions in the order in which they are due, and how the responders do.
#[derive(Debug, Default)]
pub(super) struct Queue {
    due: BTreeSet<(Instant, Sha256)>,
    responders: HashMap<String, Asked>,
}

impl Queue {
    pub(super) fn put(&mut self, due: Instant, key: Sha256) {
        self.due.insert((due, key));
    }

    pub(super) fn remove(&mut self, due: Instant, key: &Sha256) {
        self.due.remove(&(due, *key));
    }

    /// Other rules: what failed before does not count.
    pub(super) fn restart(&mut self, due: BTreeSet<(Instant, Sha256)>) {
        self.due = due;
        self.responders.retain(|_, asked| asked.asking > 0);
        for asked in self.responders.values_mut() {
            *asked = Asked { asking: asked.asking, ..Asked::default() };
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.due.len()
    }

    fn asking(&self) -> usize {
        self.responders.values().map(|asked| asked.asking).sum()
    }

    /// Takes a place at this responder, or says until when to wait for one.
    fn take(&mut self, url: &str, now: Instant) -> Result<(), Instant> {
        if !self.responders.contains_key(url) && self.responders.len() >= MAX_RESPONDERS {
            self.responders
                .retain(|_, asked| asked.asking > 0 || asked.not_before.is_some_and(|at| at > now));
            if self.responders.len() >= MAX_RESPONDERS {
                return Err(now + PUT_OFF);
            }
        }
        let asked = self.responders.entry(url.to_owned()).or_default();
        match asked.not_before {
            Some(at) if at > now => Err(at),
            _ if asked.asking >= MAX_ASKING_ONE => Err(now + PUT_OFF),
            _ => {
                asked.asking += 1;
                Ok(())
            }
        }
    }

    /// Gives it back. True: the log was not told of this failure yet.
    fn give_back(&mut self, url: &str, failure: Option<&str>, now: Instant) -> bool {
        let Some(asked) = self.responders.get_mut(url) else { return false };
        asked.asking = asked.asking.saturating_sub(1);
        let Some(failure) = failure else {
            *asked = Asked { asking: asked.asking, ..Asked::default() };
            return false;
        };
        // Those that were asked at the same time failed for the same reason: that is one failure.
        if asked.not_before.is_none_or(|at| at <= now) {
            asked.not_before = Some(now + pause(asked.failures));
            asked.failures = asked.failures.saturating_add(1);
        }
        asked.said.replace(failure.to_owned()).as_deref() != Some(failure)
    }
}

/// 1 s, 2 s, 4 s, … 5 min.
fn pause(failures: u32) -> Duration {
    RETRY.saturating_mul(1 << failures.min(16)).min(MAX_RETRY)
}

impl Ocsp {
    /// The questions that are due and may be asked; each is to be given back by [`Ocsp::answered`].
    #[must_use]
    pub fn due(&self, now: Instant) -> Vec<Ask> {
        let rules = self.rules.load();
        let book = &mut *self.lock();
        let mut asks = Vec::new();
        for _ in 0..MAX_LOOKED_AT {
            if book.queue.asking() >= MAX_ASKING {
                break;
            }
            let Some((due, key)) = book.queue.due.first().copied().filter(|(due, _)| *due <= now) else {
                break;
            };
            book.queue.remove(due, &key);
            let Some(leaf) = book.leaves.get_mut(&key) else { continue };
            let Some(responder) = rules.responders.get(&leaf.domain) else { continue };
            let Some(url) = responder.url_for(&leaf.question) else {
                // Only another configuration would help.
                if leaf.failures == 0 {
                    let (serial, trust_domain) = (leaf.question.serial(), &leaf.domain);
                    tracing::warn!(%serial, %trust_domain, "the certificate names no OCSP responder; write its URL in trust.ocsp");
                    leaf.failures = 1;
                }
                leaf.due = Some(now + MAX_RETRY);
                book.queue.put(now + MAX_RETRY, key);
                continue;
            };
            match book.queue.take(url, now) {
                Ok(()) => {
                    leaf.due = None;
                    asks.push(Ask {
                        question: Arc::clone(&leaf.question),
                        url: url.to_owned(),
                        ca_file: responder.ca_file.clone(),
                        domain: leaf.domain.clone(),
                    });
                }
                Err(later) => {
                    leaf.due = Some(later);
                    book.queue.put(later, key);
                }
            }
        }
        asks
    }

    /// When the next question is due.
    #[must_use]
    pub fn next_due(&self) -> Option<Instant> {
        let book = self.lock();
        (book.queue.asking() < MAX_ASKING).then(|| book.queue.due.first().map(|(due, _)| *due)).flatten()
    }

    /// What came of a question.
    pub fn answered(&self, ask: &Ask, outcome: Result<Vec<u8>, Failed>, now: SystemTime) {
        let read = outcome.and_then(|der| match ask.question.read(&der, now) {
            Ok(answer) => Ok((answer, der)),
            Err(error) if error.is_of_responder() => Err(Failed::Responder(error.to_string())),
            Err(error) => Err(Failed::Question(error.to_string())),
        });
        let rules = self.rules.load();
        let at = Instant::now();
        let book = &mut *self.lock();
        let key = ask.question.key();
        let accepted = read.and_then(|(answer, der)| {
            // Nobody wants it any more, or another configuration asks elsewhere.
            let Some(leaf) = book.leaves.get_mut(key) else { return Ok(None) };
            leaf.accept(answer, ask.url.as_str().into())
                .map_err(|error| Failed::Question(error.to_string()))?;
            leaf.keep(der);
            Ok(rules
                .responders
                .get(&leaf.domain)
                .map(|responder| (leaf.refresh_at(responder, now), answer.status)))
        });
        let counts = book.asked.entry(ask.domain.clone()).or_default();
        match accepted {
            Ok(taken) => {
                counts.0 += 1;
                book.queue.give_back(&ask.url, None, at);
                let Some((due, status)) = taken else { return };
                let serial = ask.question.serial();
                tracing::debug!(responder = ask.url, %serial, ?status, "an OCSP answer is in force");
                book.reopen(key, at);
                book.accepted(&ask.question, due);
                self.wake_if_revoked(book);
            }
            Err(failed) => {
                counts.1 += 1;
                book.failed(ask, failed, at);
            }
        }
    }
}

impl Book {
    /// Its question is asked no longer.
    fn reopen(&mut self, key: &Sha256, due: Instant) {
        if let Some(leaf) = self.leaves.get_mut(key)
            && leaf.due.is_none()
        {
            leaf.due = Some(due);
            self.queue.put(due, *key);
        }
    }

    fn failed(&mut self, ask: &Ask, failed: Failed, now: Instant) {
        let key = ask.question.key();
        let (new, error) = match &failed {
            Failed::Responder(error) => (self.queue.give_back(&ask.url, Some(error), now), error),
            Failed::Question(error) => {
                self.queue.give_back(&ask.url, None, now);
                let said = self.leaves.get(key).and_then(|leaf| leaf.failure.as_deref());
                (said.is_none_or(|said| !said.contains(error.as_str())), error)
            }
        };
        let serial = ask.question.serial();
        if let Some(leaf) = self.leaves.get_mut(key) {
            let stays = if leaf.known.is_some() { "the last good one stays" } else { "there is none" };
            if new {
                tracing::error!(responder = ask.url, %serial, error, "no OCSP answer was taken; {stays}");
            }
            leaf.failure = Some(format!("{}: {error}", ask.url));
            let due = now + pause(leaf.failures);
            leaf.failures = leaf.failures.saturating_add(1);
            self.reopen(key, due);
        }
    }
}
