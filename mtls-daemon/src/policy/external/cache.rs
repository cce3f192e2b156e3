//! Answers, each for a while; a bounded number of them.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::answer::Answer;
use crate::config::ExternalCache;

/// The SHA-256 of a question: what is kept does not grow with what a certificate says.
pub(super) type Key = [u8; 32];

/// What was answered.
#[derive(Debug)]
pub(super) struct Cache {
    allow: Duration,
    deny: Duration,
    entries: usize,
    known: HashMap<Key, Known>,
    /// In the order of arrival; an entry that was replaced stands here again.
    order: VecDeque<(Key, u64)>,
    arrived: u64,
}

#[derive(Debug)]
struct Known {
    answer: Answer,
    until: Instant,
    arrived: u64,
}

impl Cache {
    pub fn new(settings: ExternalCache) -> Self {
        Self {
            allow: settings.allow,
            deny: settings.deny,
            entries: usize::try_from(settings.entries).unwrap_or(usize::MAX),
            known: HashMap::new(),
            order: VecDeque::new(),
            arrived: 0,
        }
    }

    /// The answer, while it counts.
    pub fn get(&self, key: &Key, now: Instant) -> Option<Answer> {
        self.known.get(key).filter(|known| now < known.until).map(|known| known.answer.clone())
    }

    /// Keeps an answer; the oldest one goes when there are too many.
    pub fn put(&mut self, key: Key, answer: Answer, now: Instant) {
        let counts = if answer.allow { self.allow } else { self.deny };
        if counts.is_zero() {
            self.known.remove(&key);
            return;
        }
        self.arrived += 1;
        self.order.push_back((key, self.arrived));
        self.known.insert(key, Known { answer, until: now + counts, arrived: self.arrived });
        while self.order.len() > self.entries {
            let Some((oldest, arrived)) = self.order.pop_front() else { break };
            if self.known.get(&oldest).is_some_and(|known| known.arrived == arrived) {
                self.known.remove(&oldest);
            }
        }
    }

    #[cfg(test)]
    fn sizes(&self) -> (usize, usize) {
        (self.known.len(), self.order.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn cache(allow: u32, deny: u32, entries: u32) -> Cache {
        Cache::new(ExternalCache { allow: SECOND * allow, deny: SECOND * deny, entries })
    }

    fn answer(allow: bool) -> Answer {
        Answer { allow, rule: None, reason: None }
    }

    fn key(number: u32) -> Key {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_be_bytes());
        key
    }

    #[test]
    fn an_answer_counts_for_its_time_and_not_longer() {
        let mut cache = cache(30, 5, 10);
        let now = Instant::now();
        cache.put(key(1), answer(true), now);
        cache.put(key(2), answer(false), now);
        assert_eq!(cache.get(&key(1), now + SECOND * 29), Some(answer(true)));
        assert_eq!(cache.get(&key(1), now + SECOND * 30), None);
        assert_eq!(cache.get(&key(2), now + SECOND * 4), Some(answer(false)));
        assert_eq!(cache.get(&key(2), now + SECOND * 5), None);
        assert_eq!(cache.get(&key(3), now), None);
    }

    #[test]
    fn a_new_answer_replaces_the_old_one_also_when_it_is_not_to_be_kept() {
        let mut cache = cache(30, 0, 10);
        let now = Instant::now();
        cache.put(key(1), answer(true), now);
        cache.put(key(1), answer(true), now + SECOND * 20);
        assert_eq!(cache.get(&key(1), now + SECOND * 40), Some(answer(true)));
        cache.put(key(1), answer(false), now + SECOND * 41);
        assert_eq!(cache.get(&key(1), now + SECOND * 41), None);
    }

    #[test]
    fn the_number_of_answers_is_bounded_and_the_oldest_go_first() {
        let mut cache = cache(3_600, 3_600, 100);
        let now = Instant::now();
        for number in 0..10_000 {
            cache.put(key(number), answer(number % 2 == 0), now);
            // The same one again and again takes no room from the others for long.
            cache.put(key(3), answer(true), now);
            let (known, order) = cache.sizes();
            assert!(known <= 100 && order <= 100, "{known} {order}");
        }
        assert_eq!(cache.get(&key(9_999), now), Some(answer(false)));
        assert_eq!(cache.get(&key(3), now), Some(answer(true)));
        assert_eq!(cache.get(&key(100), now), None);
    }
}
