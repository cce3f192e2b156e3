//! The sessions that this node's workloads have as clients, each made when a connection first asks for it and made anew before
//! it gets old. Nobody waits for one here: a connection that finds none goes by relay.

use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;

use super::link::{Incoming, Link, LinkEnd, WeakLink};
use crate::observe::Refusal;

/// Whose session with whom.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Pair {
    /// Name of the own workload.
    pub own: Arc<str>,
    /// Where its application's connections go.
    pub destination: SocketAddr,
}

/// How a pool behaves.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Most pairs; a further one has no session.
    pub pairs: usize,
    /// After a failure nothing is tried for so long; after each further one for twice as long.
    pub back_off: Duration,
    /// And never for longer than this.
    pub longest_back_off: Duration,
}

impl Default for Terms {
    fn default() -> Self {
        Self { pairs: 4_096, back_off: Duration::from_secs(1), longest_back_off: Duration::from_secs(60) }
    }
}

/// A session under way; it must have its own limit of time ([`super::connect`] has one; dialling needs one too).
pub type Connecting = Pin<Box<dyn Future<Output = Result<(Link, Incoming), Refusal>> + Send>>;
/// Dials the node of a pair's destination and opens a session with the own workload's present identity.
pub type Connector = dyn Fn(Pair) -> Connecting + Send + Sync;

/// What the driver hears from the pool.
#[derive(Debug)]
pub enum Event {
    /// A new session, which takes the pair's new connections from now on.
    Opened {
        /// Whose.
        pair: Pair,
        /// Not kept alive by this, so that it ends with its last connection once it was replaced.
        link: WeakLink,
        /// What the peer says.
        incoming: Incoming,
    },
    /// None was to be had.
    Failed {
        /// Whose.
        pair: Pair,
        /// Why not.
        refusal: Refusal,
        /// How long nothing is tried.
        pause: Duration,
    },
}

/// The sessions.
#[derive(Clone)]
pub struct Pool(Arc<Inner>);

struct Inner {
    connector: Box<Connector>,
    events: mpsc::Sender<Event>,
    terms: Terms,
    entries: Mutex<HashMap<Pair, Entry>>,
    attempts: AtomicU64,
}

#[derive(Default)]
struct Entry {
    live: Option<Live>,
    /// The number of the attempt under way: what another one brings comes too late.
    making: Option<u64>,
    /// The identity changed while a session was being made: that one is old already.
    again: bool,
    failures: u32,
    not_before: Option<Instant>,
}

struct Live {
    link: Link,
    /// From then on a new one is made.
    renew_at: SystemTime,
}

impl Live {
    /// Two thirds of what is left of the peer's certificate: by then it has a new one.
    fn new(link: Link, now: SystemTime, at_least: Duration) -> Self {
        let left = link.peer().not_after.duration_since(now).unwrap_or_default();
        let renew_at = now.checked_add((left / 3 * 2).max(at_least)).unwrap_or(now);
        Self { link, renew_at }
    }

    fn is_usable(&self, now: SystemTime) -> bool {
        self.link.over().is_none() && now <= self.link.peer().not_after
    }
}

impl Entry {
    fn may_start(&self, now: Instant) -> bool {
        self.making.is_none() && self.not_before.is_none_or(|not_before| now >= not_before)
    }

    fn is_idle(&self, now: Instant) -> bool {
        self.live.as_ref().is_none_or(|live| live.link.over().is_some()) && self.may_start(now)
    }
}

impl Pool {
    /// An empty one. While `events` is full no session is taken into use.
    #[must_use]
    pub fn new(connector: Box<Connector>, events: mpsc::Sender<Event>, terms: Terms) -> Self {
        Self(Arc::new(Inner {
            connector,
            events,
            terms,
            entries: Mutex::default(),
            attempts: AtomicU64::new(0),
        }))
    }

    /// The pair's session for one more connection, which keeps it. `None`: there is none now; one is being made unless that failed a moment ago.
    ///
    /// Must be called within a tokio runtime.
    #[must_use]
    pub fn get(&self, pair: &Pair) -> Option<Link> {
        let (now, wall) = (Instant::now(), SystemTime::now());
        let mut entries = self.0.lock();
        if !entries.contains_key(pair) && entries.len() >= self.0.terms.pairs {
            entries.retain(|_, entry| !entry.is_idle(now));
            if entries.len() >= self.0.terms.pairs {
                return None;
            }
        }
        let entry = entries.entry(pair.clone()).or_default();
        entry.live.take_if(|live| !live.is_usable(wall));
        if entry.live.as_ref().is_none_or(|live| wall >= live.renew_at) && entry.may_start(now) {
            Inner::start(&self.0, pair, entry);
        }
        entry.live.as_ref().map(|live| live.link.clone())
    }

    /// Whether a session of the pair is being made.
    #[must_use]
    pub fn is_making(&self, pair: &Pair) -> bool {
        self.0.lock().get(pair).is_some_and(|entry| entry.making.is_some())
    }

    /// The own workload's identity or trust changed: its sessions are made anew at once. Until a new one is there the old one takes
    /// new connections; after that it lives as long as those that it has.
    ///
    /// Must be called within a tokio runtime.
    pub fn renew(&self, own: &str) {
        let mut entries = self.0.lock();
        for (pair, entry) in entries.iter_mut().filter(|(pair, _)| &*pair.own == own) {
            (entry.failures, entry.not_before) = (0, None);
            if let Some(live) = &mut entry.live {
                live.renew_at = SystemTime::UNIX_EPOCH;
            }
            if entry.making.is_some() {
                entry.again = true;
            } else if entry.live.is_some() {
                Inner::start(&self.0, pair, entry);
            }
        }
    }

    /// Ends the sessions of these pairs, also those that are being made. Sessions that were replaced before are their holders'.
    pub fn end(&self, which: impl Fn(&Pair) -> bool, why: &LinkEnd) {
        self.0.lock().retain(|pair, entry| {
            let ends = which(pair);
            if let Some(live) = entry.live.as_ref().filter(|_| ends) {
                live.link.end(why.clone());
            }
            !ends
        });
    }
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, HashMap<Pair, Entry>> {
        // Nothing in here panics half way.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn start(inner: &Arc<Self>, pair: &Pair, entry: &mut Entry) {
        let attempt = inner.attempts.fetch_add(1, Ordering::Relaxed);
        (entry.making, entry.again) = (Some(attempt), false);
        let connecting = (inner.connector)(pair.clone());
        let (inner, pair) = (Arc::clone(inner), pair.clone());
        tokio::spawn(async move {
            let outcome = connecting.await;
            // A driver that is gone needs no session.
            if let Ok(place) = inner.events.reserve().await {
                place.send(match outcome {
                    Ok((link, incoming)) => match Self::take(&inner, &pair, attempt, link) {
                        Some(link) => Event::Opened { pair, link, incoming },
                        None => return,
                    },
                    Err(refusal) => {
                        let pause = inner.failed(&pair, attempt);
                        Event::Failed { pair, refusal, pause }
                    }
                });
            }
        });
    }

    /// `None`: it was ended before it was there.
    fn take(inner: &Arc<Self>, pair: &Pair, attempt: u64, link: Link) -> Option<WeakLink> {
        let mut entries = inner.lock();
        let Some(entry) = entries.get_mut(pair).filter(|entry| entry.making == Some(attempt)) else {
            link.end(LinkEnd::LeaseEnded);
            return None;
        };
        let weak = link.downgrade();
        entry.live = Some(Live::new(link, SystemTime::now(), inner.terms.back_off));
        (entry.making, entry.failures, entry.not_before) = (None, 0, None);
        if entry.again {
            Self::start(inner, pair, entry);
        }
        Some(weak)
    }

    fn failed(&self, pair: &Pair, attempt: u64) -> Duration {
        let mut entries = self.lock();
        let own = entries.get_mut(pair).filter(|entry| entry.making == Some(attempt));
        let Some(entry) = own else { return Duration::ZERO };
        let Terms { back_off, longest_back_off, .. } = self.terms;
        let factor = 2_u32.checked_pow(entry.failures).unwrap_or(u32::MAX);
        let pause = back_off.saturating_mul(factor).min(longest_back_off);
        entry.failures = entry.failures.saturating_add(1);
        // What failed with the old identity says nothing of the new one.
        entry.not_before = if entry.again { None } else { Instant::now().checked_add(pause) };
        (entry.making, entry.again) = (None, false);
        pause
    }
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("pairs", &self.0.lock().len()).finish_non_exhaustive()
    }
}
